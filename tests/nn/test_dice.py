"""Numbers by seed, name and index: even, independent, and the same whoever asks."""

from __future__ import annotations

import numpy as np
from scipy import stats

from kinetext.nn.dice import Dice

INDICES = np.arange(20_000, dtype=np.uint64)


def test_numbers_are_even_and_independent() -> None:
    dice = Dice("seed", INDICES)
    first, second = dice.uniform("a"), dice.uniform("b")
    for thrown in (first, second, Dice("other seed", INDICES).uniform("a")):
        assert thrown.min() >= 0
        assert thrown.max() < 1
        assert stats.kstest(thrown, "uniform").pvalue > 1e-3
    pairs = [(first, second), (first[1:], first[:-1]), (first, Dice("other seed", INDICES).uniform("a"))]
    assert all(abs(stats.pearsonr(*pair).statistic) < 0.03 for pair in pairs)  # four deviations of 1 / sqrt(N)


def test_a_number_hangs_on_its_own_index_alone() -> None:
    whole = Dice("seed", INDICES).uniform("a")
    some = np.array([5, 19_999, 5], dtype=np.uint64)
    assert np.array_equal(Dice("seed", some).uniform("a"), whole[[5, 19_999, 5]])


def test_whole_numbers_ranges_and_several() -> None:
    dice = Dice("seed", INDICES)
    counts = np.bincount(dice.below("n", 7))
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-3
    between = dice.between("r", -2, 3)
    assert -2 <= between.min() < -1.99
    assert 2.99 < between.max() < 3
    several = dice.several("s", 3)
    assert several.shape == (20_000, 3)
    assert np.array_equal(several[:, 2], dice.uniform("s/2"))
