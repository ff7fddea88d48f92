"""Random numbers for a batch whose rows may each have a random generator of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator as Rng
from torch import Tensor


def normal(shape: tuple[int, ...], rng: Rng | Sequence[Rng], on: torch.device) -> Tensor:
    """Standard normal numbers of ``shape`` (B, ...) on device ``on``; ``rng`` is one, or one for every row."""
    if isinstance(rng, Rng):
        return torch.randn(shape, generator=rng, device=rng.device).to(on)
    return torch.stack([torch.randn(shape[1:], generator=one, device=one.device) for one in rng]).to(on)


def uniform(shape: tuple[int, ...], rng: Rng | Sequence[Rng], on: torch.device) -> Tensor:
    """Uniform numbers in [0, 1), as ``normal``."""
    if isinstance(rng, Rng):
        return torch.rand(shape, generator=rng, device=rng.device).to(on)
    return torch.stack([torch.rand(shape[1:], generator=one, device=one.device) for one in rng]).to(on)
