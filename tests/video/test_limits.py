"""Nothing larger than allowed is read, and nothing that is no file."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame

from kinetext import video
from kinetext.types import DataError
from kinetext.video import Limits, VideoError, VideoReader
from kinetext.video.shaping import Shape, Shaper
from kinetext.video.timeline import Header, Timeline

FRAMES = 40
PIXELS = torch.randint(0, 256, (FRAMES, 48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def clip(folder: Path) -> Path:
    """40 frames of 64x48, 1.6 s."""
    video.write(folder / "clip.mp4", PIXELS, fps=25)
    return folder / "clip.mp4"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(pixels=3071), r"3,072 pixels, expected at most 3,071 \(limits\.pixels\)"),
        (Limits(frames=39), r"40 frames, expected at most 39"),
        (Limits(seconds=1.5), r"1\.6 seconds, expected at most 1\.5"),
        (Limits(bytes=100), r"bytes, expected at most 100"),
    ],
)
def test_what_is_larger_than_allowed_is_not_decoded(tmp_path: Path, limits: Limits, message: str) -> None:
    path = clip(tmp_path)
    for read in (
        lambda: VideoReader(path, limits=limits),
        lambda: video.probe(path, limits=limits),
        lambda: video.read_clip(path, num_frames=1, size=8, limits=limits),
    ):
        with pytest.raises(VideoError, match=message):
            read()
    with VideoReader(path) as reader:
        assert len(reader) == FRAMES  # what was refused is not remembered as refused


def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w", format="matroska") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for stream in streams:
            container.mux(stream.encode(VideoFrame.from_ndarray(PIXELS[0].numpy(), format="rgb24")))
            container.mux(stream.encode())
    assert [track.kind for track in video.probe(path).tracks] == ["video", "video"]
    with pytest.raises(VideoError, match="2 streams, expected at most 1"):
        video.probe(path, limits=Limits(streams=1))


@pytest.mark.parametrize("name", ["pixels", "frames", "seconds", "streams", "bytes"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), 0.5])
def test_limits_say_what_is_legal(name: str, value: float) -> None:
    if (name, value) == ("seconds", 0.5):
        return
    legal = "a finite number more than 0" if name == "seconds" else "a whole number, 1 or more"
    with pytest.raises(DataError, match=rf"limits\.{name}: {value}, expected {legal}"):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_what_looser_limits_allowed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "long.mkv"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for pts in (0, 25 * 200_000):
            frame = VideoFrame.from_ndarray(PIXELS[0].numpy(), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert video.probe(path, limits=Limits(seconds=1e9)).duration > 172_800
    with pytest.raises(VideoError, match=r"seconds, expected at most 172,800"):
        video.probe(path)


def test_pixels_as_wide_as_a_house_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        container.mux(stream.encode(VideoFrame.from_ndarray(PIXELS[0].numpy(), format="rgb24")))
        container.mux(stream.encode())
    data = path.read_bytes()
    at = data.index(b"pasp") + 4
    path.write_bytes(data[:at] + (200).to_bytes(4) + (1).to_bytes(4) + data[at + 8 :])
    assert video.probe(path).pixel_aspect == 200
    with pytest.raises(VideoError, match=r"614,400 pixels, expected at most 100,000 \(limits\.pixels\)"):
        video.probe(path, limits=Limits(pixels=10**5))


def test_a_frame_larger_than_the_header_says_is_refused(tmp_path: Path) -> None:
    """As wide as the header says pixels are, which is checked against the header's own width and height only."""
    stored = VideoFrame.from_ndarray(np.zeros((240, 320, 3), np.uint8), format="rgb24")
    header = Header("x", (), 1, Fraction(25), Fraction(20))
    line = Timeline(np.zeros(1), np.zeros(1, np.int64), np.zeros(1, np.int64), Fraction(25), 0.04, header)
    limits = Limits(pixels=100_000)
    with pytest.raises(VideoError, match=r"a\.mp4: 1,536,000 pixels, expected at most 100,000 \(limits\.pixels\)"):
        Shaper(tmp_path / "a.mp4", line, Shape(), limits=limits)(stored)
    assert Shaper(tmp_path / "a.mp4", line, Shape(size=8), limits=limits)(stored).shape == (8, 8, 3)


def test_the_bound_of_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video.write_png(tmp_path / "a.png", PIXELS[:1])
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(VideoError, match=r"takes pictures of up to 2,000 pixels, twice PIL\.Image\.MAX_IMAGE_PIXELS"):
        video.read_clip(tmp_path / "a.png", num_frames=1, size=8)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="neither a file nor a folder"):
        video.probe(tmp_path / "pipe.mp4")


def test_no_file_has_a_nul_in_its_name() -> None:
    for read in (video.probe, video.read_provenance, video.read_all, video.count_frames):
        with pytest.raises(VideoError, match=r"NUL|null"):
            read("a\0b.mp4")
