"""Classifier-free guidance: a network asked with a text and without, and what lies beyond the difference."""

from __future__ import annotations

import torch
from torch import Tensor

from kinetext.types import Features, check_legal


def check_interval(start: float, end: float) -> None:
    """Refuses times between which a text is to guide that are no interval of [0, 1] (Kynkäänniemi et al. 2024)."""
    check_legal("guidance_to", end, 0 <= end <= 1, "in [0, 1]")
    check_legal("guidance_from", start, 0 <= start <= end, f"in [0, 1] and not after guidance_to = {end}")


def sides(cond: Features, negative: Features | None) -> Features:
    """The condition of B rows, and below it, for as many rows, the one to lead away from: ``negative``, or no text."""
    other = negative or Features(cond.x, torch.zeros_like(cond.mask))
    return Features(torch.cat([cond.x, other.x]), torch.cat([cond.mask, other.mask]))


def mixed(both: Tensor, scale: float) -> Tensor:
    """What a network says of both ``sides``, ``(2B, ...)`` -> ``(B, ...)``: without + scale (with - without) (Ho &
    Salimans 2022, eq. 6, with scale = 1 + w).
    """
    with_text, without = both.chunk(2)
    return without + scale * (with_text - without)
