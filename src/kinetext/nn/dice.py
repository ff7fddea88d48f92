"""Random numbers for worlds that are made, each a pure function of a seed, a name and an index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinetext.runtime import seed_of


class Dice:
    """Uniform numbers that are a pure function of (seed, name, index): splitmix64 (Steele et al. 2014).

    Args:
        seed: of the world.
        indices: ``(N,)`` uint64; what is thrown for one of them does not depend on the others.
    """

    def __init__(self, seed: str, indices: NDArray[np.uint64]) -> None:
        self.seed, self.indices = seed, indices
        self._thrown: dict[str, NDArray[np.float64]] = {}

    def uniform(self, name: str) -> NDArray[np.float64]:
        """One number in [0, 1) for every index, ``(N,)``."""
        if name not in self._thrown:
            z = self.indices + np.uint64(seed_of(self.seed, name))
            for _ in range(2):
                z = z + np.uint64(0x9E3779B97F4A7C15)
                z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                z = z ^ (z >> np.uint64(31))
            self._thrown[name] = (z >> np.uint64(11)).astype(np.float64) / 2.0**53
        return self._thrown[name]

    def below(self, name: str, n: int) -> NDArray[np.intp]:
        """One integer in [0, n) for every index, ``(N,)``."""
        return (self.uniform(name) * n).astype(np.intp)

    def between(self, name: str, low: float, high: float) -> NDArray[np.float64]:
        """One number in [low, high) for every index, ``(N,)``."""
        return low + (high - low) * self.uniform(name)

    def several(self, name: str, n: int) -> NDArray[np.float64]:
        """``n`` numbers in [0, 1) for every index, ``(N, n)``."""
        return np.stack([self.uniform(f"{name}/{place}") for place in range(n)], 1)
