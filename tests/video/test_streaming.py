"""Frames in and out one after another: the same as all at once, in memory that does not grow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinetext import video
from kinetext.runtime import rng
from kinetext.types import DataError
from kinetext.video import Limits, VideoError


def counted(num_frames: int) -> Tensor:
    """Frame i is all 4 i + 8, uint8 (T, H, W, 3)."""
    grey = (torch.arange(num_frames) * 4 + 8).to(torch.uint8)
    return grey[:, None, None, None].expand(num_frames, 32, 48, 3).contiguous()


def levels(frames: list[Tensor]) -> list[int]:
    """Which frame of ``counted`` each of these is."""
    return [round((float(video.to_bytes(frame).float().mean()) - 8) / 4) for frame in frames]


def test_a_stream_has_the_frames_of_read_clip_and_read_all(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (12, 32, 48, 3), generator=rng("stream")).to(torch.uint8)
    video.write(tmp_path / "a.mp4", noise, fps=8)
    for channels in (1, 3):
        for fit in ("crop", "pad", "squash"):
            whole = video.read_clip(tmp_path / "a.mp4", num_frames=12, size=24, channels=channels, fit=fit)  # type: ignore[arg-type]
            found = list(video.stream(tmp_path / "a.mp4", size=24, channels=channels, fit=fit))  # type: ignore[arg-type]
            assert torch.equal(torch.stack(found, 1), whole)
    part = (0.25, 0.0, 1.0, 0.5)
    whole = video.read_clip(tmp_path / "a.mp4", num_frames=12, size=24, region=part)
    assert torch.equal(torch.stack(list(video.stream(tmp_path / "a.mp4", size=24, region=part)), 1), whole)
    pixels, _ = video.read_all(tmp_path / "a.mp4")
    displayed = torch.stack(list(video.stream(tmp_path / "a.mp4")))
    assert torch.equal(video.to_bytes(displayed).permute(0, 2, 3, 1), pixels)


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (None, list(range(12))),
        (8.0, list(range(12))),
        (4.0, [1, 3, 5, 7, 9, 11]),  # the frames on screen at 1/8 s, 3/8 s, ...
        (16.0, [i // 2 for i in range(24)]),
        (1.0, [4]),  # of one and a half seconds; the middle of the second is on screen no more
        (0.1, [11]),
    ],
)
def test_a_stream_at_a_rate(tmp_path: Path, fps: float | None, expected: list[int]) -> None:
    video.write(tmp_path / "a.mp4", counted(12), fps=8)
    assert video.count_frames(tmp_path / "a.mp4", fps) == len(expected)
    assert levels(list(video.stream(tmp_path / "a.mp4", fps=fps))) == expected


@pytest.mark.parametrize(("of", "fps", "expected"), [(1000, 1000, 20), (1000, 500, 10), (480, 480, 20), (480, 960, 40)])
def test_the_last_frame_counts_at_high_rates(tmp_path: Path, of: int, fps: int, expected: int) -> None:
    video.write(tmp_path / "a.mp4", counted(20), fps=of)
    assert video.count_frames(tmp_path / "a.mp4", fps) == expected
    with video.VideoReader(tmp_path / "a.mp4") as reader:
        found = reader.clip(fps=fps).numbers
    assert found == tuple((2 * i + 1) * of // (2 * fps) for i in range(expected))
    assert levels(list(video.stream(tmp_path / "a.mp4", fps=fps))) == list(found)


def test_more_frames_than_anyone_wants_are_refused(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", counted(20), fps=8)
    with pytest.raises(DataError, match=r"fps: 1e\+12, expected at most 4e\+06, 10,000,000 frames of the file"):
        video.count_frames(tmp_path / "a.mp4", fps=1e12)
    with pytest.raises(DataError, match=r"fps: inf, expected a finite number"):
        video.stream(tmp_path / "a.mp4", fps=float("inf"))


def test_limits_hold_for_streams(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", counted(20), fps=8)
    for read in (video.stream, video.count_frames, video.is_steady, video.read_all):
        with pytest.raises(VideoError, match=r"limits\.frames"):
            read(tmp_path / "a.mp4", limits=Limits(frames=19))
        read(tmp_path / "a.mp4", limits=Limits(frames=20))


def test_a_picture_is_one_frame(tmp_path: Path) -> None:
    video.write_png(tmp_path / "a.png", counted(1))
    assert video.count_frames(tmp_path / "a.png") == video.count_frames(tmp_path / "a.png", 8) == 1
    assert levels(list(video.stream(tmp_path / "a.png", fps=8))) == [0]


def test_what_cannot_be_streamed_is_said_at_once(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", counted(4), fps=8)
    for options, message in (
        ({"fps": 0.0}, r"fps: 0\.0, expected a finite number more than 0"),
        ({"size": 0}, "size: 0, expected 1 or more"),
        ({"channels": 2}, "channels: 2"),
        ({"fit": "pad"}, "fit and region: only with a size"),
    ):
        with pytest.raises(DataError, match=message):
            video.stream(tmp_path / "a.mp4", **options)  # type: ignore[arg-type]
    for read in (video.stream, video.count_frames):
        with pytest.raises(VideoError, match=r"gone\.mp4"):
            read(tmp_path / "gone.mp4")


def test_a_writer_gives_the_bytes_of_write(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (40, 32, 48, 3), generator=rng("writer")).to(torch.uint8)
    said = {"prompt": "数字3", "seed": 7}
    video.write(tmp_path / "whole.mp4", noise, fps=29.97, provenance=said, crf=20)
    with video.Writer(tmp_path / "parts.mp4", fps=29.97, provenance=said, crf=20) as file:
        for part in noise.split(7):
            file.write(part)
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "parts.mp4").read_bytes()


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError, match="mine"), video.Writer(path, fps=8) as file:
        file.write(counted(2))
        raise RuntimeError("mine")
    with pytest.raises(OSError, match="not the writer's"), video.Writer(path, fps=8):
        raise OSError("not the writer's")
    with pytest.raises(VideoError, match=r"a\.mp4: no frames"), video.Writer(path, fps=8):
        pass
    with (
        pytest.raises(VideoError, match="frames of 32x32, expected 48x32 as those before"),
        video.Writer(path, fps=8) as file,
    ):
        file.write(counted(2))
        file.write(counted(2)[:, :, :32])
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    """200 and 2,000 frames of 64x96 written and read: the second would be 37 MB of bytes, 147 MB of floats."""
    code = f"""
import resource, torch
from kinetext import video
def peak(frames):
    with video.Writer({str(tmp_path / "a.mp4")!r}, fps=30) as file:
        for i in range(frames // 10):
            file.write(torch.full((10, 64, 96, 3), i % 256, dtype=torch.uint8))
    assert sum(1 for _ in video.stream({str(tmp_path / "a.mp4")!r})) == frames
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, after = peak(200), peak(2000)
assert after - before < 8 * 1024, (before, after)  # KiB
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)
