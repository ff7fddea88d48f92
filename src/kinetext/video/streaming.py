"""Video files -> frames, one after another, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kinetext.types import DataError
from kinetext.video.frames import timeline
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.reader import VideoReader, to_float
from kinetext.video.sampling import middles, on_screen
from kinetext.video.shaping import WHOLE, Fit, Region
from kinetext.video.timeline import Timeline


def is_steady(path: str | Path, *, limits: Limits = LIMITS) -> bool:
    """Whether every frame of a file is shown for as long as the others, but for the rounding of its times.

    Raises:
        VideoError: the file is missing, broken, or larger than ``limits`` allow.
    """
    return timeline(Path(path), limits).is_steady


def count_frames(path: str | Path, fps: float | None = None, *, limits: Limits = LIMITS) -> int:
    """How many frames ``stream`` gives of a file, >= 1.

    Raises:
        DataError: ``fps`` is not more than 0, or gives more than 10 million frames.
        VideoError: the file is missing, broken, or larger than ``limits`` allow.
    """
    return len(_numbers(timeline(Path(path), limits), fps))


def stream(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int = 3,
    fps: float | None = None,
    fit: Fit = "crop",
    region: Region = WHOLE,
    limits: Limits = LIMITS,
) -> Iterator[Tensor]:
    """The frames of a file from its beginning, each ``(C, H, W)`` float32 in [-1, 1], shaped as ``read_clip`` does.

    Args:
        size: pixels, the side of square frames, >= 1; None is the size as displayed.
        channels: 3 (RGB) or 1 (luma).
        fps: frames a second, > 0: frame i is the one on screen in the middle of the i-th stretch of 1 / fps seconds;
            None is every frame of the file.
        fit, region: as of ``read_clip``; only with ``size``.
        limits: as of ``read_clip``.

    Raises:
        DataError: an argument is outside its range.
        VideoError: the file is missing, broken or larger than ``limits`` allow; a frame that can't be decoded is an error when its turn comes.
    """
    reader = VideoReader(path, size=size, fit=fit, region=region, channels=channels, limits=limits)
    try:
        numbers = _numbers(reader.line, fps)
    except DataError:
        reader.close()
        raise
    return _streamed(reader, numbers)


def _numbers(line: Timeline, fps: float | None) -> Sequence[int]:
    if fps is None:
        return range(len(line))
    numbers: list[int] = on_screen(line, middles(line.duration, fps)).tolist()
    return numbers


def _streamed(reader: VideoReader, numbers: Sequence[int]) -> Iterator[Tensor]:
    with reader:
        for _, pixels in reader.each(numbers):
            yield to_float(torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous())
