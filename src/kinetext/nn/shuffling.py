"""A shuffled order of any length, of which every place can be looked up without the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinetext.runtime import seed_of

_ROUNDS = 8  # of two numbers of a few bits, four are too few to mix them well


class Permutation:
    """A pseudorandom permutation of 0 to ``size`` - 1 in constant memory.

    A Feistel network permutes the smallest power of two that holds ``size``, and what falls outside is permuted again
    until it falls inside (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", sections 4 and 5: cycle
    walking). Less than two walks are needed on average, since less than half of the domain is outside.

    Args:
        size: how many numbers, 1 to 2**62.
        key: what the order is a pure function of, besides ``size``.

    Example:
        >>> sorted(Permutation(5, 0).at(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, *key: int | str) -> None:
        if not 1 <= size <= 2**62:
            raise ValueError(f"size: {size}, expected 1 to 2**62")
        self.size = size
        bits = max(2, (size - 1).bit_length())
        self._low, self._high = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        self._keys = [np.uint64(seed_of(*key, turn)) for turn in range(_ROUNDS)]

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at ``places``, each in [0, size)."""
        found = self._mixed(places.astype(np.uint64))
        outside = np.flatnonzero(found >= self.size)
        while len(outside):
            found[outside] = self._mixed(found[outside])
            outside = outside[found[outside] >= self.size]
        return found.astype(np.int64)

    def _mixed(self, x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """One pass through the network, a permutation of all numbers of so many bits."""
        low, high = self._low, self._high
        for key in self._keys:
            # the left half, changed by a hash of the right one, goes to the right; where bits are odd, halves swap lengths
            left, right = x >> low, x & ((np.uint64(1) << low) - np.uint64(1))
            mixed = (left ^ _hash(right + key)) & ((np.uint64(1) << high) - np.uint64(1))
            x = (right << high) | mixed
            low, high = high, low
        return x


def _hash(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every number mixed to 64 bits: the finaliser of splitmix64 (Steele et al. 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
