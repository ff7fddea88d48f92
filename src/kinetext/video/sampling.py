"""Which frames stand for a stretch of a file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinetext.types import DataError
from kinetext.video.containers import VideoError
from kinetext.video.timeline import Timeline

SLACK = 1e-3  # seconds; tables often round times to milliseconds


def spread(low: int, high: int, num_frames: int) -> list[int]:
    """The middle ones of ``num_frames`` equal segments of the frames ``low`` to ``high`` - 1: number
    ``low`` + floor((i + 0.5) N / num_frames).
    """
    return [low + (2 * i + 1) * (high - low) // (2 * num_frames) for i in range(num_frames)]


def middles(seconds: float, fps: float) -> NDArray[np.float64]:
    """The middles of the stretches of 1 / fps seconds that begin within ``seconds``, at least one.

    Raises:
        DataError: ``fps`` is not more than 0.
    """
    if not 0 < fps < math.inf:
        raise DataError(f"fps: {fps}, expected more than 0")
    # the middle of the last stretch is still on screen; times in files are rounded
    count = max(1, math.ceil((seconds - 1e-3) * fps - 0.5))
    return np.arange(0.5, count) / fps


def frame_range(path: Path, line: Timeline, start: float | None, end: float | None) -> tuple[int, int]:
    """The numbers of the frames on screen in [start, end): first, and one past the last.

    Raises:
        VideoError: the file does not reach them.
    """
    frame = 1 / line.fps if line.fps else 0.0
    slack = min(SLACK, frame / 2)
    if start is not None and not 0 <= start <= max(line.duration - SLACK, 0):
        raise VideoError(f"{path}: start {start} s, expected 0 up to its duration of {line.duration:.3f} s")
    if end is not None and not (start or 0) < end <= line.duration + frame + SLACK:
        raise VideoError(f"{path}: end {end} s, expected after start, up to its duration of {line.duration:.3f} s")
    low = 0 if start is None else int(np.searchsorted(line.times, start + slack, side="right")) - 1
    high = len(line) if end is None else int(np.searchsorted(line.times, end - slack, side="left"))
    return low, max(high, low + 1)
