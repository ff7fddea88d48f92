"""Positions and times as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal(positions: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """``(...)`` -> ``(..., dim)`` sines and cosines (Vaswani et al. 2017, section 3.5); ``dim`` is even."""
    if dim % 2:
        raise ValueError(f"dim: {dim}, expected an even number")
    half = dim // 2
    rates = torch.exp(-math.log(max_period) * torch.arange(half, device=positions.device) / half)
    angles = positions.unsqueeze(-1).float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Flow time in [0, 1] -> a vector of width ``dim`` through a small MLP."""

    def __init__(self, dim: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoidal(t * 1000.0, self.frequencies))


def rope_3d(frames_T: Tensor, grid: tuple[int, int], head_dim: int) -> tuple[Tensor, Tensor]:
    """Rotary angles for the cells of an (H, W) ``grid`` in the frames at positions ``frames_T``, in row-major
    order: cos and sin, each ``(T*H*W, head_dim / 2)``.

    The frequencies are shared out over the axes, time first (as in Wang et al. 2024, Qwen2-VL,
    section 2.1, M-RoPE); base 100 because grids here are tens of positions long.
    """
    pairs = head_dim // 2
    share = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    space = (torch.arange(n, device=frames_T.device, dtype=frames_T.dtype) for n in grid)
    axes = torch.meshgrid(frames_T, *space, indexing="ij")
    angles = []
    for axis, count in zip(axes, share, strict=True):
        rates = 100.0 ** (-torch.arange(count, device=frames_T.device) / max(count, 1))
        angles.append(axis.reshape(-1, 1).float() * rates)
    joined = torch.cat(angles, dim=1)
    return joined.cos(), joined.sin()
