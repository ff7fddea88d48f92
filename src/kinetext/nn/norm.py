"""Root mean square normalisation that keeps the precision of its input."""

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
