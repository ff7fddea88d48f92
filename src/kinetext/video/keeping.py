"""Decoded clips kept in memory, for this process and those that are forked from it."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from math import prod
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from kinetext.video.looking import Look
from kinetext.video.reader import to_float
from kinetext.video.writing import to_bytes

_PATIENCE = 1.0  # seconds
MOST = 2**30  # bytes of decoded clips that a process and its workers keep


class Kept:
    """Clips of one shape by number, as bytes. What one process keeps, all others find that were forked after this was
    made: the workers of a loader, each of which sees another part of the clips in every epoch.

    Args:
        count: numbers are 0 to ``count`` - 1.
        shape: (C, T, H, W) of every clip.
        most: bytes to keep, 0 keeps none; clips with numbers beyond them are not kept.
    """

    def __init__(self, count: int, shape: tuple[int, ...], most: int) -> None:
        self.shape = shape
        self._slots = min(count, most // prod(shape))
        size = self._slots * prod(shape)
        # memory without a file behind it; a page of it is taken when something is first written there
        memory = np.frombuffer(mmap.mmap(-1, max(1, size + self._slots)), np.uint8)
        self._clips = memory[:size].reshape(self._slots, *shape)
        self._there = memory[size : size + self._slots]
        self._lock = get_context("fork").Lock()

    def clip(self, number: int, read: Callable[[], Tensor]) -> Tensor:
        """The clip of ``number``, kept or read."""
        kept = self.get(number)
        if kept is not None:
            return kept
        clip = read()
        self.put(number, clip)
        return clip

    def get(self, number: int) -> Tensor | None:
        """The clip of ``number``, float in [-1, 1], or None where it is not kept."""
        if number >= self._slots:
            return None
        # what was written before the mark is seen after it, on any processor; who held the lock may have been killed
        if not self._lock.acquire(timeout=_PATIENCE):
            return None
        there = self._there[number]
        self._lock.release()
        return to_float(torch.from_numpy(self._clips[number])) if there else None

    def put(self, number: int, clip: Tensor) -> None:
        """Keeps the clip of ``number``, float in [-1, 1], where there is room for it and it has the shape of all."""
        if number < self._slots and clip.shape == self.shape:
            self._clips[number] = to_bytes(clip).numpy()
            if self._lock.acquire(timeout=_PATIENCE):
                self._there[number] = 1
                self._lock.release()


def kept(count: int, look: Look, wanted: bool, *, side: int = 0) -> Kept:
    """Room for ``count`` clips of a look, up to 1 GiB; for none where they are not wanted, or others in every epoch.

    Args:
        side: pixels of a frame that is kept; 0 is what the look reads.
    """
    side = side or look.read_size
    shape = (look.channels, look.num_frames, side, side)
    return Kept(count, shape, MOST if wanted and not look.random_window else 0)
