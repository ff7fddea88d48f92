"""How made clips stand to real ones as sets: as alike as they should be, as different as they should be, and no copies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetext.types import check_legal


def frechet_distance(one: Tensor, other: Tensor) -> float:
    r"""The squared Frechet distance of two sets of features, each taken for a Gaussian.

    With means m and covariances S (Dowson & Landau 1982; Heusel et al. 2017, eq. 6: FID, where features are those of
    a network),

        d^2 = |m_1 - m_2|^2 + tr(S_1) + tr(S_2) - 2 tr((S_1 S_2)^{1/2}).

    S_1 S_2 and the symmetric S_1^{1/2} S_2 S_1^{1/2} have the same eigenvalues; the last trace is the sum of their roots. All in
    double precision. The distance of finite samples is too large, the more so the fewer they are: compare only
    distances of equally many samples, and give the distance of two sets of real clips beside them.

    Args:
        one: ``(N, D)`` floating point, N >= 2.
        other: ``(M, D)`` floating point, M >= 2.

    Raises:
        ValueError: sets that are too small, of another width, or with features that are not finite.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> round(frechet_distance(x, x + 3), 6)
        9.0
    """
    _check("one", one, 2)
    _check("other", other, 2)
    check_legal("other", tuple(other.shape), other.shape[1] == one.shape[1], f"a width of {one.shape[1]}")
    (mean, covariance), (other_mean, other_covariance) = _gaussian(one), _gaussian(other)
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0).sqrt().sum()
    apart = (mean - other_mean).square().sum()
    return max(0.0, float(apart + covariance.trace() + other_covariance.trace() - 2 * shared))


def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)`` and unbiased covariance ``(D, D)`` in double precision."""
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def spread(x: Tensor, groups: Sequence[object]) -> float:
    """How different clips of one group are: the mean distance of two of them, root mean square over their values, and the
    mean of that over the groups of at least two.

    Made clips in groups of one prompt, over real clips in groups of the same labels: 1 is as diverse as the world, 0 is always
    the same clip.

    Args:
        x: ``(N, ...)`` floating point.
        groups: N names.

    Raises:
        ValueError: other than N names, or no group of at least two.

    Example:
        >>> spread(torch.tensor([[0.0], [2.0], [9.0]]), ["a", "a", "b"])
        2.0
    """
    check_legal("groups", len(groups), len(groups) == len(x), f"as many as there are clips, {len(x)}")
    members: dict[object, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    whole = [places for places in members.values() if len(places) > 1]
    check_legal("groups", len(whole), bool(whole), "at least one group of two or more")
    flat = x.flatten(1)
    means = []
    for places in whole:
        # differences and not products: a pair of copies is exactly 0 apart
        apart = torch.nn.functional.pdist(flat[places].double()) / flat.shape[1] ** 0.5
        means.append(float(apart.mean()))
    return sum(means) / len(means)


def nearest(x: Tensor, pool: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """The nearest neighbour of every row in a pool that need not fit into memory.

    Args:
        x: ``(N, ...)`` floating point.
        pool: pieces ``(M, ...)`` of it, one after the other; memory holds one piece, and N x M distances.

    Returns:
        Distances ``(N,)`` float64, root mean square over the values of a row, and places in the pool ``(N,)`` int64.

    Raises:
        ValueError: rows of another size, or an empty pool.
    """
    rows = x.flatten(1).double()
    size, on = rows.square().sum(1, keepdim=True), rows.device
    best, place = torch.full_like(size[:, 0], torch.inf), torch.zeros(len(rows), dtype=torch.int64, device=on)
    seen = 0
    for piece in pool:
        others = piece.flatten(1).double()
        check_legal("pool", tuple(others.shape), others.shape[1] == rows.shape[1], f"rows of {rows.shape[1]} values")
        squared = (size + others.square().sum(1) - 2 * rows @ others.T).clamp(min=0)
        found, at = squared.min(1)
        nearer = found < best
        best, place = torch.where(nearer, found, best), torch.where(nearer, at + seen, place)
        seen += len(others)
    check_legal("pool", seen, seen > 0, "at least one clip")
    return (best / rows.shape[1]).sqrt(), place


@dataclass(frozen=True)
class Memory:
    """How near made clips are to the training clips, measured by real clips that were never trained on.

    Args:
        made: mean distance of made clips to their nearest training clip.
        held_out: that of held-out real clips.
        copies: share of made clips that are nearer to one than all but 1 % of the held-out real clips are.
    """

    made: float
    held_out: float
    copies: float

    @property
    def ratio(self) -> float:
        """1: no nearer than new clips of the world; towards 0: copies. In plain pixels clips that are dark are near to all
        others: give clips of one length.
        """
        return self.made / self.held_out


def memorisation(made: Tensor, held_out: Tensor, pool: Iterable[Tensor]) -> Memory:
    """Whether made clips repeat training clips (as Meehan et al. 2020, "A Non-Parametric Test to Detect Data-Copying in Generative
    Models", ask it: are they nearer to the training set than fresh samples are?).

    Args:
        made: ``(N, ...)`` made clips.
        held_out: ``(M, ...)`` real clips of the same world, not trained on.
        pool: pieces of the training clips, see ``nearest``.
    """
    distance, _ = nearest(torch.cat([made, held_out]), pool)
    mine, theirs = distance[: len(made)], distance[len(made) :]
    copies = float((mine < theirs.quantile(0.01)).double().mean())
    return Memory(float(mine.mean()), float(theirs.mean()), copies)


def _check(name: str, x: Tensor, least: int) -> None:
    check_legal(name, tuple(x.shape), x.ndim == 2 and len(x) >= least, f"(N, D) with N >= {least}")
    check_legal(name, "features that are not finite", bool(x.isfinite().all()), "finite ones")
