"""How the windows of a long clip lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kinetext.making.given import Grid
from kinetext.making.requests import Plan
from kinetext.types import DataError, check_between


@dataclass(frozen=True)
class Layout:
    """Windows one after another, each overlapping the one before; all in frames of the video.

    Args:
        window: frames of a window.
        reach: how many of them, from the first, belong to the clip; the rest is thrown away.
        overlap: how many of them, from the first, the window before has made.
    """

    window: int
    reach: int
    overlap: int

    @property
    def stride(self) -> int:
        """From the start of a window to that of the next."""
        return self.reach - self.overlap

    def windows(self, total: int) -> int:
        """How many it takes for ``total`` frames."""
        return 1 + max(0, math.ceil((total - self.reach) / self.stride))


def layout(plan: Plan, grid: Grid) -> Layout:
    """The windows of a plan."""
    if plan.factor is None:
        return Layout(grid.window, grid.window, grid.first(plan.history or 0))
    return Layout(grid.window, _reach(plan.factor, grid.window), plan.history or 1)


def history_of(asked: int | None, total: int, grid: Grid) -> int | None:
    """The history of a clip of ``total`` frames: half a window, unless ``asked``; None where one window is enough.

    Raises:
        DataError: too short or too long for this model, or of no use.
    """
    window, cells = grid.window, grid.target[1]
    if total <= window:
        if asked is not None:
            raise DataError(f"history: {asked}, but {total} frames fit in one window of {window}; leave it out")
        return None
    if cells < 2:
        raise DataError(f"seconds: expected at most one window of {window} frames, of which this model makes one piece")
    if asked is not None:
        check_between("history", asked, 1, cells - 1)
    return asked or cells // 2


def history_between(factor: int, window: int) -> int:
    """The history of an interpolation: about half a window, so that given frames lie alike in every window.

    Raises:
        DataError: no two given frames fit in a window.
    """
    check_between("factor", factor, 2, window - 1)
    return _reach(factor, window) - factor * max(1, window // 2 // factor)


def _reach(factor: int, window: int) -> int:
    """Up to the last given frame: what comes after it has nothing to lead to."""
    return factor * ((window - 1) // factor) + 1
