"""A permutation that is computed place by place: every number once, and as unordered as a drawn one."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from kinetext.nn.shuffling import Permutation


def whole(size: int, *key: int | str) -> NDArray[np.int64]:
    return Permutation(size, *key).at(np.arange(size))


@pytest.mark.parametrize("size", [*range(1, 66), 127, 128, 129, 1000, 4097, 100_003])
def test_every_number_is_there_once(size: int) -> None:
    assert np.array_equal(np.sort(whole(size, 5, "epoch", 0)), np.arange(size))


def test_every_number_is_as_likely_at_every_place() -> None:
    """Pearson's test over a thousand keys: rows and columns of the table are fixed, so (n - 1)^2 are free."""
    for size in (2, 3, 5, 8, 17, 40):
        found = np.zeros((size, size))
        for epoch in range(1000):
            found[np.arange(size), whole(size, 0, "epoch", epoch)] += 1
        expected = 1000 / size
        statistic = ((found - expected) ** 2 / expected).sum() * (size - 1) / size
        assert stats.chi2.sf(statistic, (size - 1) ** 2) > 1e-3, size


def test_all_orders_of_few_numbers_come() -> None:
    assert len({tuple(whole(4, 1, "epoch", epoch)) for epoch in range(400)}) == 24


def test_neighbours_and_keys_know_nothing_of_each_other() -> None:
    size = 20_000
    one, two = whole(size, 3, "epoch", 0), whole(size, 3, "epoch", 1)
    # of two orders drawn by chance, 1 place in size is alike on average; of 20, as good as never
    assert (one == two).sum() < 20 and (one == np.arange(size)).sum() < 20
    for lag in (1, 2, 3, 64, 4096):
        # a correlation of n independent numbers has a deviation of 1 / sqrt(n)
        assert abs(np.corrcoef(one[:-lag], one[lag:])[0, 1]) < 4 / np.sqrt(size), lag
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / np.sqrt(size)
    # steps to the next one, in 50 classes
    steps = np.bincount(np.diff(one) % size * 50 // size, minlength=50)
    assert stats.chisquare(steps).pvalue > 1e-3
    # runs up and down: (2 n - 1) / 3 of them, with a variance of (16 n - 29) / 90 (Knuth, TAOCP 2, 3.3.2)
    turns = 1 + (np.diff(np.sign(np.diff(one))) != 0).sum()
    assert abs(turns - (2 * size - 1) / 3) < 4 * np.sqrt((16 * size - 29) / 90)


def test_a_place_of_many_costs_as_little_as_one_of_few() -> None:
    tracemalloc.start()
    found = Permutation(2**62, 0).at(np.array([0, 2**61, 2**62 - 1]))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000 and len(set(found.tolist())) == 3 and found.min() >= 0 and found.max() < 2**62


def test_sizes_that_are_none_are_refused() -> None:
    for size in (0, 2**62 + 1):
        with pytest.raises(ValueError, match="expected 1 to"):
            Permutation(size)
