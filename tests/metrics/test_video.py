"""Sets of clips against sets of clips: by hand, by scipy, by torchmetrics, by the closed form."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from kinetext.metrics.video import frechet_distance, memorisation, nearest, spread
from kinetext.runtime import rng


def features(seed: int, rows: int = 300, width: int = 24) -> torch.Tensor:
    """Correlated features with a mean of their own."""
    random = rng(seed)
    mix = torch.randn(width, width, generator=random, dtype=torch.float64)
    shift = torch.randn(width, generator=random, dtype=torch.float64)
    return torch.randn(rows, width, generator=random, dtype=torch.float64) @ mix + shift


def test_frechet_distance_agrees_with_scipy_and_torchmetrics() -> None:
    one, other = features(0), features(1, rows=200)
    found = frechet_distance(one, other)
    moments = [(x.mean(0), torch.cov(x.T)) for x in (one, other)]
    (m1, s1), (m2, s2) = moments
    root = scipy.linalg.sqrtm(s1.numpy() @ s2.numpy()).real
    by_scipy = float((m1 - m2).square().sum()) + np.trace(s1.numpy() + s2.numpy() - 2 * root)
    assert math.isclose(found, by_scipy, rel_tol=1e-9)
    assert math.isclose(found, float(_compute_fid(m1, s1, m2, s2)), rel_tol=1e-9)
    assert math.isclose(found, frechet_distance(other, one), rel_tol=1e-9)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    """Of independent coordinates it is the sum of (m_1 - m_2)^2 + (s_1 - s_2)^2."""
    corners = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])  # uncorrelated, variance 4/3
    one, other = corners * torch.tensor([1.0, 2.0]), corners * torch.tensor([3.0, 5.0]) + torch.tensor([0.0, 7.0])
    assert math.isclose(frechet_distance(one, other), 49 + 4 / 3 * (2**2 + 3**2), rel_tol=1e-12)


def test_frechet_distance_of_a_set_to_itself_is_nothing_also_with_fewer_rows_than_features() -> None:
    few = features(2, rows=10, width=40)
    assert frechet_distance(few, few) < 1e-6
    assert frechet_distance(few.float(), few.float() + 2) == pytest.approx(40 * 4, abs=1e-3)


def test_frechet_distance_refuses_what_it_cannot_compare() -> None:
    x = features(0, rows=5, width=3)
    with pytest.raises(ValueError, match=r"one: \(1, 3\), expected \(N, D\) with N >= 2"):
        frechet_distance(x[:1], x)
    with pytest.raises(ValueError, match=r"other: \(5, 2\), expected a width of 3"):
        frechet_distance(x, x[:, :2])
    with pytest.raises(ValueError, match="other: features that are not finite"):
        frechet_distance(x, x.log())


def test_spread_is_the_mean_distance_within_groups() -> None:
    # in "a" the three pairs are 3, 4 and 5 apart, over the root of two values; in "b" the only pair is 2 / sqrt(2)
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [1.0, 1.0], [1.0, 3.0], [9.0, 9.0]])
    groups = ["a", "a", "a", "b", "b", "alone"]
    assert math.isclose(spread(x, groups), ((3 + 4 + 5) / 3 + 2) / 2 / math.sqrt(2), rel_tol=1e-12)
    assert spread(torch.ones(3, 2, 2), ["same"] * 3) == 0
    with pytest.raises(ValueError, match="groups: 0, expected at least one group of two or more"):
        spread(x, range(6))
    with pytest.raises(ValueError, match="groups: 5, expected as many as there are clips, 6"):
        spread(x, groups[1:])


def test_nearest_is_the_same_in_pieces_and_as_measured_one_by_one() -> None:
    random = rng(0)
    x, pool = torch.randn(7, 2, 5, generator=random), torch.randn(101, 2, 5, generator=random)
    distance, place = nearest(x, pool.split(10))
    one_by_one = (x[:, None] - pool[None]).double().square().flatten(2).mean(2).sqrt()
    assert torch.allclose(distance, one_by_one.min(1).values, atol=1e-7)
    assert torch.equal(place, one_by_one.argmin(1))
    whole = nearest(x, [pool])
    assert torch.allclose(whole[0], distance) and torch.equal(whole[1], place)


def test_nearest_takes_the_pool_one_piece_after_the_other() -> None:
    alive: list[int] = []

    def pieces() -> Iterator[torch.Tensor]:
        for number in range(3):
            alive.append(number)
            yield torch.full((2, 4), float(number))

    distance, place = nearest(torch.full((1, 4), 1.1), pieces())
    assert alive == [0, 1, 2] and place.tolist() == [2]
    assert math.isclose(float(distance[0]), 0.1, abs_tol=1e-6)
    with pytest.raises(ValueError, match="pool: 0, expected at least one clip"):
        nearest(torch.zeros(1, 4), [])
    with pytest.raises(ValueError, match=r"pool: \(2, 3\), expected rows of 4 values"):
        nearest(torch.zeros(1, 4), [torch.zeros(2, 3)])


def test_copies_are_told_from_new_clips() -> None:
    random = rng(1)
    train, fresh, held_out = (torch.randn(400, 6, generator=random) for _ in range(3))
    copied = memorisation(train[:50], held_out, train.split(64))
    assert copied.made < 1e-6 and copied.ratio < 1e-6 and copied.copies == 1
    new = memorisation(fresh, held_out, train.split(64))
    assert 0.9 < new.ratio < 1.1 and new.copies < 0.04
    assert math.isclose(new.ratio, new.made / new.held_out)
