"""Video files -> frames, one after another, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kinetext.types import DataError
from kinetext.video.frames import timeline
from kinetext.video.reader import VideoReader, to_float
from kinetext.video.sampling import middles
from kinetext.video.shaping import WHOLE, Fit, Region
from kinetext.video.timeline import Timeline


def is_steady(path: str | Path) -> bool:
    """Whether every frame of a file is shown for as long as the others, but for the rounding of its times.

    Raises:
        VideoError: the file is missing or broken.
    """
    return timeline(Path(path)).is_steady


def count_frames(path: str | Path, fps: float | None = None) -> int:
    """How many frames ``stream`` gives of a file, >= 1.

    Raises:
        DataError: ``fps`` is not more than 0.
        VideoError: the file is missing or broken.
    """
    return len(_numbers(timeline(Path(path)), fps))


def stream(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int = 3,
    fps: float | None = None,
    fit: Fit = "crop",
    region: Region = WHOLE,
) -> Iterator[Tensor]:
    """The frames of a file from its beginning, each ``(C, H, W)`` float32 in [-1, 1], shaped as ``read_clip`` does.

    Args:
        size: pixels, the side of square frames, >= 1; None is the size as displayed.
        channels: 3 (RGB) or 1 (luma).
        fps: frames a second, > 0: frame i is the one on screen in the middle of the i-th stretch of 1 / fps seconds;
            None is every frame of the file.
        fit, region: as of ``read_clip``; only with ``size``.

    Raises:
        DataError: an argument is outside its range.
        VideoError: the file is missing or broken; a frame that can't be decoded is an error when its turn comes.
    """
    reader = VideoReader(path, size=size, fit=fit, region=region, channels=channels)
    try:
        numbers = _numbers(reader.line, fps)
    except DataError:
        reader.close()
        raise
    return _streamed(reader, numbers)


def _numbers(line: Timeline, fps: float | None) -> Sequence[int]:
    if fps is None:
        return range(len(line))
    return [int(at) for at in np.searchsorted(line.times, middles(line.duration, fps), side="right") - 1]


def _streamed(reader: VideoReader, numbers: Sequence[int]) -> Iterator[Tensor]:
    with reader:
        for _, pixels in reader.each(numbers):
            yield to_float(torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous())
