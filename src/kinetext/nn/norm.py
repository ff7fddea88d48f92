"""Root mean square normalisations that keep the precision of their input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """``x / rms(x) * weight`` over the last axis (Zhang & Sennrich 2019, eq. 4).

    ``torch.nn.RMSNorm`` leaves its fused path, with a warning, when the input is bfloat16 and the
    weight float32, which is the usual case under autocast; here the weight follows the input.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), 1e-6)


class PixelNorm(nn.Module):
    """``RMSNorm`` over the channels of every pixel of ``(N, C, H, W)``: what stands elsewhere in the frame does not matter,
    so that a part of a frame can be computed by itself.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = self.norm(x.permute(0, 2, 3, 1))  # no copy in channels-last memory
        return normal.permute(0, 3, 1, 2)
