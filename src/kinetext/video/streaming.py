"""Video files -> frames, one after another, in constant memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from kinetext.types import DataError
from kinetext.video.frames import Timeline, frames, timeline
from kinetext.video.reading import WHOLE, Fit, Region, check_options, check_region, shaped, to_float


def is_steady(path: str | Path) -> bool:
    """Whether every frame of a file is shown for as long as the others, but for the rounding of its times.

    Raises:
        VideoError: the file is missing or broken.
    """
    gaps = np.diff(timeline(Path(path)).times)
    return len(gaps) == 0 or float(np.ptp(gaps)) <= max(2e-3, 0.05 * float(gaps.mean()))


def count_frames(path: str | Path, fps: float | None = None) -> int:
    """How many frames ``stream`` gives of a file, >= 1.

    Raises:
        DataError: ``fps`` is not more than 0.
        VideoError: the file is missing or broken.
    """
    line = timeline(Path(path))
    if fps is None:
        return len(line)
    if not 0 < fps < math.inf:
        raise DataError(f"fps: {fps}, expected more than 0")
    # the middle of the last stretch is still on screen; times in files are rounded
    return max(1, math.ceil((line.duration - 1e-3) * fps - 0.5))


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
    path = Path(path)
    check_options(1, 1 if size is None else size, channels, "uniform", fit)
    check_region(region)
    if size is None and (fit != "crop" or region != WHOLE):
        raise DataError("fit and region: only with a size")
    line = timeline(path)
    return _streamed(path, line, _numbers(line, count_frames(path, fps), fps), size, fit, region, channels)


def _numbers(line: Timeline, count: int, fps: float | None) -> list[int]:
    if fps is None:
        return list(range(count))
    middles = (np.arange(count) + 0.5) / fps
    return [int(at) for at in np.searchsorted(line.times, middles, side="right") - 1]


def _streamed(
    path: Path, line: Timeline, numbers: list[int], size: int | None, fit: Fit, region: Region, channels: int
) -> Iterator[Tensor]:
    scale = VideoReformatter()
    repeats = [(number, len(list(same))) for number, same in groupby(numbers)]
    found = frames(path, line, [number for number, _ in repeats])
    for (_, frame), (_, times) in zip(found, repeats, strict=True):
        pixels = shaped(path, line, frame, scale, size, fit, region, channels)
        ready = to_float(torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous())
        for _ in range(times):
            yield ready
