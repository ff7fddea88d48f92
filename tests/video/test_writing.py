"""Writing: near lossless, repeatable, with fps and provenance kept; a full disk leaves what was there."""

from __future__ import annotations

import json
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kinetext import video
from kinetext.runtime import rng
from kinetext.video import VideoError


def counted(num_frames: int, height: int = 32, width: int = 32) -> Tensor:
    """Frame i is all 4 i + 8, uint8 (T, H, W, 3)."""
    grey = (torch.arange(num_frames) * 4 + 8).to(torch.uint8)
    return grey[:, None, None, None].expand(num_frames, height, width, 3).contiguous()


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow over ``size`` bytes inside: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fps", [0.5, 1, 8, 12.5, 23.976, 29.97, 30000 / 1001, 10 / 3, 60])
def test_fps_is_kept_exactly(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "clip.mp4"
    video.write(path, counted(5), fps=fps)
    assert video.probe(path).fps == pytest.approx(fps, rel=1e-12)
    assert video.probe(path).duration == pytest.approx(5 / fps, rel=1e-9)


def test_writing_is_near_lossless_repeatable_and_streamable(tmp_path: Path) -> None:
    from kinetext.datasets.digits import Digits

    clip = Digits(clips=4)[0].video
    assert clip is not None
    first, second = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for path in (first, second):
        video.write(path, clip, fps=8, provenance={"prompt": "数字3上下移动", "seed": "7"})
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().index(b"moov") < first.read_bytes().index(b"mdat")
    back = video.read_clip(first, num_frames=16, size=64, channels=1)
    error = (back - clip).square().mean()
    assert 10 * math.log10(4 / float(error)) > 34  # PSNR in dB
    with av.open(str(first)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 8


def test_colours_survive(tmp_path: Path) -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [90, 160, 30]])
    clip = colours.to(torch.uint8).repeat_interleave(16, 0)[None, None].expand(4, 32, 96, 3)
    video.write(tmp_path / "c.mp4", clip, fps=5)
    back, _ = video.read_all(tmp_path / "c.mp4")
    assert (back[:, 16, 8::16].int() - colours).abs().max() <= 4


@pytest.mark.parametrize("suffix", video.WRITTEN)
def test_provenance_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    said = {"prompt": "a '3' = \"three\"; \\ \n数字3", "seed": 7, "settings": {"steps": 50}}
    video.write(path, counted(3), fps=5, provenance=said)
    assert video.read_provenance(path) == said
    video.write(path, counted(3), fps=5, provenance='{"seed": 8}')
    assert video.read_provenance(path) == {"seed": 8}
    video.write(path, counted(3), fps=5)
    assert video.read_provenance(path) is None
    with pytest.raises(VideoError, match="provenance 'a note'"):
        video.write(path, counted(3), fps=5, provenance="a note")


def test_floats_and_bytes_are_the_same_picture() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(video.to_bytes(video.to_float(levels)), levels)
    assert video.to_float(levels).min() == -1 and video.to_float(levels).max() == 1


def test_a_png_is_exact(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (1, 7, 5, 3), generator=rng("png")).to(torch.uint8)
    video.write_png(tmp_path / "a.png", noise)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), noise[0].numpy())
    video.write_png(tmp_path / "b.png", video.to_float(noise).permute(3, 0, 1, 2))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("a.mp4", (4, 33, 32), {}, "frames of 32x33, expected an even"),
        ("a.avi", (4, 32, 32), {}, r"a name that ends in \.mp4, \.webm, \.apng, \.gif"),
        ("a.mp4", (4, 32, 32), {"fps": 0.0}, r"fps: 0\.0"),
        ("a.mp4", (4, 32, 32), {"fps": math.pi}, "can't be kept exactly"),
        ("a.mp4", (4, 32, 32), {"crf": 52}, "crf 52"),
        ("a.webm", (4, 32, 31), {}, "frames of 31x32, expected an even"),
        ("a.apng", (4, 32, 32), {"crf": 3}, "crf 3, expected none: .apng has no such setting"),
        ("a.gif", (4, 32, 32), {"fps": 51.0}, "fps 51.0, expected more than 0, at most 50 in a GIF"),
        ("missing/a.mp4", (4, 32, 32), {}, "can't be written"),
    ],
)
def test_what_cannot_be_written_is_said(
    tmp_path: Path, name: str, shape: tuple[int, int, int], options: dict[str, float], message: str
) -> None:
    with pytest.raises(VideoError, match=message):
        video.write(tmp_path / name, torch.zeros(3, *shape), **{"fps": 8.0} | options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (torch.full((3, 2, 8, 8), 1.5), "values from 1.5 to 1.5"),
        (torch.full((3, 2, 8, 8), math.nan), "nan"),
        (torch.zeros(2, 8, 8), "rank 3"),
        (torch.zeros(2, 2, 8, 8), "1 or 3 channels"),
        (torch.zeros(3, 0, 8, 8), "no size of 0"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.int64), "dtype torch.int64"),
    ],
)
def test_tensors_that_are_no_video_are_refused(tmp_path: Path, clip: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video.write(tmp_path / "a.mp4", clip, fps=8)


@pytest.mark.parametrize("size", [0, 100, 2000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, size: int) -> None:
    noise = torch.randint(0, 256, (8, 32, 32, 3), generator=rng("disk")).to(torch.uint8)
    names = [f"a{suffix}" for suffix in video.WRITTEN]
    for name in names:
        path = tmp_path / name
        path.write_bytes(b"before")
        with disk_of(size), pytest.raises(VideoError, match=r"can't be written.*nothing was left behind"):
            video.write(path, noise, fps=8, provenance={"seed": 1})
        assert path.read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_gif_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    video.write_gif(path, counted(12), fps=8)
    everything, fps = video.read_all(path)
    assert fps == pytest.approx(8, rel=0.01)
    assert (everything.int() - counted(12).int()).abs().max() <= 2
    with Image.open(path) as other:
        assert (other.n_frames, other.info["loop"]) == (12, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", video.WRITTEN)
def test_every_kind_is_repeatable_and_keeps_its_frames_and_times(tmp_path: Path, suffix: str) -> None:
    """Of any sizes that it takes, written in pieces."""
    side = 32 if suffix in (".mp4", ".webm") else 33
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    video.write(first, counted(9, side, 64), fps=12.5)
    with video.Writer(second, fps=12.5) as file:
        file.write(counted(9, side, 64)[:2])
        file.write(counted(9, side, 64)[2:])
    assert first.read_bytes() == second.read_bytes()
    info = video.probe(first)
    assert (info.num_frames, info.fps, info.duration, info.width, info.height) == (9, 12.5, 0.72, 64, side)
    back, _ = video.read_all(first)
    assert (back.int() - counted(9, side, 64).int()).abs().max() <= (0 if suffix == ".apng" else 2)


def test_a_webm_keeps_colours_and_says_which_they_are(tmp_path: Path) -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [90, 160, 30]])
    clip = colours.to(torch.uint8).repeat_interleave(16, 0)[None, None].expand(4, 32, 96, 3)
    video.write(tmp_path / "c.webm", clip, fps=5)
    back, _ = video.read_all(tmp_path / "c.webm")
    assert (back[:, 16, 8::16].int() - colours).abs().max() <= 4
    with av.open(str(tmp_path / "c.webm")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("vp9", "yuv420p")


@pytest.mark.parametrize("suffix", [".gif", ".apng"])
def test_an_animation_is_what_pillow_sees(tmp_path: Path, suffix: str) -> None:
    """The last frame's time among them, and a comment longer than a block of a GIF."""
    said = {"prompt": "数字3 " * 200}
    video.write(tmp_path / f"a{suffix}", counted(5), fps=8, provenance=said)
    with Image.open(tmp_path / f"a{suffix}") as other:
        shown, pixels = [], []
        for number in range(other.n_frames):  # type: ignore[attr-defined]
            other.seek(number)
            shown.append(other.info["duration"])
            pixels.append(np.asarray(other.convert("RGB")))
        text = other.info["comment"].decode() if suffix == ".gif" else other.text["Comment"]  # type: ignore[attr-defined]
    # starts are rounded: 0 12 25 38 50 62 hundredths
    assert shown == ([120, 130, 130, 120, 120] if suffix == ".gif" else [125.0] * 5)
    assert np.abs(np.stack(pixels).astype(int) - counted(5).numpy()).max() <= 2
    assert json.loads(text) == said


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("3:1.mp4", "a:b.gif", "100%03d.apng"):
        video.write(name, counted(3), fps=8)
        assert video.probe(tmp_path / name).num_frames == 3
    with pytest.raises(VideoError, match="expected a name without NUL"):
        video.write("a\0b.mp4", counted(3), fps=8)


def test_a_writer_writes_within_its_block_and_anew_in_another(tmp_path: Path) -> None:
    file = video.Writer(tmp_path / "a.gif", fps=8)
    with pytest.raises(VideoError, match=r"a\.gif: not open, expected to be written to within its `with` block"):
        file.write(counted(3))
    for count in (3, 5):
        with file:
            file.write(counted(count))
        with pytest.raises(VideoError, match="not open"):
            file.write(counted(3))
        assert video.probe(tmp_path / "a.gif").num_frames == count
