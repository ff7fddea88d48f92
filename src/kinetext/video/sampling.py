"""Which frames stand for a stretch of a file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from kinetext.types import DataError, joined
from kinetext.video.containers import VideoError
from kinetext.video.limits import LIMITS
from kinetext.video.timeline import Timeline

Sampling = Literal["uniform", "random"]
SLACK = 1e-3  # seconds; tables often round times to milliseconds
_BEYOND = 0.1  # seconds; durations in tables are told up to the end of the last frame, or with one frame too many
_ROUNDING = 1e-9  # seconds; sums of floats


@dataclass(frozen=True)
class Choice:
    """Which frames of a file make a clip, as ``read_clip`` says.

    Args:
        num_frames, start, end, sampling, clip_seconds, fps: as of ``read_clip``.

    Raises:
        DataError: one of them is outside its range.
    """

    num_frames: int
    start: float | None = None
    end: float | None = None
    sampling: Sampling = "uniform"
    clip_seconds: float | None = None
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise DataError(f"num_frames: {self.num_frames}, expected 1 or more")
        if self.sampling not in get_args(Sampling):
            raise DataError(f"sampling: {self.sampling!r}, expected one of {joined(get_args(Sampling))}")
        for name, value in (("clip_seconds", self.clip_seconds), ("fps", self.fps)):
            if value is not None and not 0 < value < math.inf:
                raise DataError(f"{name}: {value}, expected a finite number more than 0")
        if self.clip_seconds is not None and self.fps is not None:
            raise DataError("clip_seconds and fps: both are given, expected one of them")

    @property
    def seconds(self) -> float | None:
        """How long the window is, None for all of the range."""
        return self.num_frames / self.fps if self.fps is not None else self.clip_seconds

    def check(self, rng: torch.Generator | None) -> None:
        """Refuses, by a DataError, chance without a window or a generator."""
        if self.sampling == "random" and (self.seconds is None or rng is None):
            raise DataError("sampling: 'random' needs clip_seconds or fps, and rng")

    def numbers(self, path: Path, line: Timeline, rng: torch.Generator | None) -> list[int]:
        """The frames of a file, in ascending order.

        Raises:
            DataError: "random" has no window or no ``rng``.
            VideoError: the file does not reach ``start`` or ``end``.
        """
        self.check(rng)
        low, high = frame_range(path, line, self.start, self.end)
        if self.seconds is not None:
            length, chance = _length(line, low, high), rng if self.sampling == "random" else None
            first, last = window(high - low, length, self.seconds, chance)
            low, high = low + first, low + last
        return spread(low, high, self.num_frames)


def spread(low: int, high: int, num_frames: int) -> list[int]:
    """The middle ones of ``num_frames`` equal segments of the frames ``low`` to ``high`` - 1: number
    ``low`` + floor((i + 0.5) N / num_frames).
    """
    return [low + (2 * i + 1) * (high - low) // (2 * num_frames) for i in range(num_frames)]


def window(total: int, length: float, seconds: float, rng: torch.Generator | None) -> tuple[int, int]:
    """``seconds`` of ``total`` frames that are on screen for ``length`` seconds, in their middle or, with ``rng``, anywhere:
    the first frame, and one past the last."""
    count = min(total, max(1, round(seconds * total / length))) if length > 0 else total
    spare = total - count
    first = spare // 2 if rng is None else int(torch.randint(spare + 1, (), generator=rng))
    return first, first + count


def middles(seconds: float, fps: float) -> NDArray[np.float64]:
    """The middles of the stretches of 1 / fps seconds that lie within ``seconds``, at least one.

    Raises:
        DataError: ``fps`` is not more than 0, or gives more than 10 million.
    """
    if not 0 < fps < math.inf:
        raise DataError(f"fps: {fps}, expected a finite number more than 0")
    if seconds * fps > LIMITS.frames:
        raise DataError(
            f"fps: {fps:g}, expected at most {LIMITS.frames / seconds:g}, {LIMITS.frames:,} frames of the file"
        )
    # times in files are rounded, and a middle at the very end is on screen no more
    count = max(1, math.ceil((seconds - min(SLACK, 0.25 / fps)) * fps - 0.5))
    return np.arange(0.5, count) / fps


def on_screen(line: Timeline, times: NDArray[np.float64], slack: float = _ROUNDING) -> NDArray[np.int64]:
    """The frames on screen at ``times``, and those that begin up to ``slack`` seconds after."""
    return np.searchsorted(line.times, times + slack, side="right") - 1


def slack(line: Timeline) -> float:
    """How long before a frame a time that someone wrote down already means it, in seconds."""
    return min(SLACK, 0.25 / line.fps) if line.fps else 0.0


def frame_range(path: Path, line: Timeline, start: float | None, end: float | None) -> tuple[int, int]:
    """The numbers of the frames on screen in [start, end): first, and one past the last. Tables round times: up to a millisecond
    before a frame is that frame's time, and an end may lie one frame, but no more than 0.1 s, after the last.

    Raises:
        VideoError: the file does not reach them.
    """
    whole, frame = line.duration, 1 / line.fps if line.fps else 0.0
    if start is not None and not (start == 0 or 0 < start < whole):
        legal = f"0 or more, less than its duration of {whole:.9g} s" if whole else "0 in an image"
        raise VideoError(f"{path}: start {start:.9g} s, expected {legal}")
    if end is not None and not (start or 0) < end <= whole + min(frame, _BEYOND) + SLACK:
        raise VideoError(
            f"{path}: end {end:.9g} s, expected more than {start or 0:.9g}, up to its duration of {whole:.9g} s"
        )
    near = slack(line)
    low = 0 if start is None else int(on_screen(line, np.array(start), near))
    high = len(line) if end is None else int(np.searchsorted(line.times, end - near, side="left"))
    return low, max(high, low + 1)


def reach(path: Path, line: Timeline, start: float | None, end: float | None) -> tuple[int, float]:
    """How many frames [start, end) has, and how many seconds they are on screen; 0 for an image.

    Raises:
        VideoError: the file does not reach them.
    """
    low, high = frame_range(path, line, start, end)
    return high - low, _length(line, low, high)


def _length(line: Timeline, low: int, high: int) -> float:
    """For how many seconds the frames ``low`` to ``high`` - 1 are on screen."""
    until = line.times[high] if high < len(line) else line.duration
    return float(until - line.times[low])
