"""Decoded clips kept in memory, for this process and those that are forked from it."""

from __future__ import annotations

import mmap
from math import prod
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor

from kinetext.video.reading import to_float
from kinetext.video.writing import to_bytes


class Kept:
    """Clips of one shape by number, as bytes. What one process keeps, all others find that were forked after this was
    made: the workers of a loader, each of which sees another part of the clips in every epoch.

    Args:
        count: numbers are 0 to ``count`` - 1.
        shape: (C, T, H, W) of every clip.
        most: bytes to keep; clips with numbers beyond them are not kept.
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

    def get(self, number: int) -> Tensor | None:
        """The clip of ``number``, float in [-1, 1], or None where it is not kept."""
        if number >= self._slots:
            return None
        with self._lock:  # what was written before the mark is seen after it, on any processor
            there = self._there[number]
        return to_float(torch.from_numpy(self._clips[number])) if there else None

    def put(self, number: int, clip: Tensor) -> None:
        """Keeps the clip of ``number``, float in [-1, 1], where there is room for it."""
        if number < self._slots:
            self._clips[number] = to_bytes(clip).numpy()
            with self._lock:
                self._there[number] = 1
