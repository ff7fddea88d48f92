"""How far a measured number could be from the true one: the bootstrap, by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from kinetext.runtime import rng

Interval = tuple[float, float]
RESAMPLES = 1000
LEVEL = 0.95


def intervals(
    groups: Sequence[str],
    numbers_of: Callable[[Tensor], Mapping[str, float]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Percentile intervals of numbers under the cluster bootstrap: whole groups are drawn with replacement, since the
    rows of a group (a speaker, a scene) are not independent (Efron & Tibshirani 1993, sections 8.5 and 13.3; Cameron
    et al. 2008, section 2). With fewer than two groups nothing can be said.

    Args:
        groups: of every row; "" is a group of its own.
        numbers_of: ``weight (N,)`` float64, how often each row was drawn -> name -> number; NaN where it has none.
        level: share of resamples inside the interval.

    Returns:
        Name -> (low, high).
    """
    names = [group or f"\0{row}" for row, group in enumerate(groups)]
    known = {name: place for place, name in enumerate(dict.fromkeys(names))}
    if len(known) < 2:
        return {}
    index = torch.tensor([known[name] for name in names])
    dice = rng(0, "bootstrap")
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        counts = torch.randint(len(known), (len(known),), generator=dice).bincount(minlength=len(known))
        for name, value in numbers_of(counts[index].double()).items():
            drawn.setdefault(name, []).append(value)
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    found: dict[str, Interval] = {}
    for name, values in drawn.items():
        low, high = torch.tensor(values, dtype=torch.float64).nanquantile(ends).tolist()
        found[name] = (low, high)
    return found
