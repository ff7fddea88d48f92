"""torchcodec, where it would show other frames than PyAV: it is refused, and it reads the file that is meant."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinetext import video
from kinetext.video import VideoError, VideoReader

pytest.importorskip("torchcodec", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
ONE = 1 << 16
QUARTER = (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)


def turned(path: Path, aspect: Fraction) -> Path:
    """Five frames stored as 64x32, shown upright after a quarter turn."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        stream.set_display_matrix(QUARTER)
        for level in range(5):
            image = np.full((32, 64, 3), 40 * level, np.uint8)
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_turn_of_pixels_that_are_not_square_is_refused(tmp_path: Path) -> None:
    """It gives the turned frame, whose stored width is now its height: stretching it would take the wrong side."""
    square, wide = turned(tmp_path / "square.mp4", Fraction(1)), turned(tmp_path / "wide.mp4", Fraction(2))
    shapes = []
    for decoder in ("pyav", "torchcodec"):
        with VideoReader(square, decoder=decoder) as reader:
            shapes.append(reader.frames_at([0, 3]).pixels.shape)
    assert shapes == [(2, 64, 32, 3)] * 2
    with VideoReader(wide) as reader:
        assert reader.frames_at([0]).pixels.shape == (1, 128, 32, 3)
    with (
        VideoReader(wide, decoder="torchcodec") as reader,
        pytest.raises(VideoError, match=r"wide\.mp4: .* pixels are not square.*use decoder='pyav'"),
    ):
        reader.frames_at([0])


@pytest.mark.parametrize("name", ["3:1.mp4", "x%03d.mp4"])
def test_a_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    turned(tmp_path / "plain.mp4", Fraction(1)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    here, there = (video.read_clip(name, num_frames=5, size=8, decoder=decoder) for decoder in ("pyav", "torchcodec"))
    assert torch.allclose(here, there, atol=0.02)
