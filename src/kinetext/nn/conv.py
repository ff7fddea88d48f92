"""2-D convolution blocks that run frame by frame, in channels-last memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fold_frames(video: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(B*T, C, H, W)`` in channels-last memory."""
    frames = video.transpose(1, 2).flatten(0, 1)
    return frames.contiguous(memory_format=torch.channels_last)


def unfold_frames(frames: Tensor, batch: int) -> Tensor:
    """``(B*T, C, H, W)`` -> ``(B, C, T, H, W)``."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


class ResidualConv(nn.Module):
    """Two 3x3 convolutions with group norm and SiLU, pre-activated (He et al. 2016, "Identity Mappings")."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
