"""Transformer blocks: pre-normalised attention and SwiGLU, plain or modulated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.nn.attention import Attention
from kinetext.nn.norm import RMSNorm


class SwiGLU(nn.Module):
    """Gated feed-forward (Shazeer 2020, "GLU Variants Improve Transformer", eq. 6)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


def hidden_of(dim: int) -> int:
    """The usual SwiGLU width: 8/3 of ``dim``, rounded up to a multiple of 32."""
    return -(-dim * 8 // (3 * 32)) * 32


class Block(nn.Module):
    """RMSNorm, self-attention, RMSNorm, SwiGLU, each with a residual connection."""

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = RMSNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = RMSNorm(dim)
        self.mlp = SwiGLU(dim, hidden_of(dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        x_BLD = x_BLD + self.dropout(self.attention(self.norm1(x_BLD), mask_BL))
        return x_BLD + self.dropout(self.mlp(self.norm2(x_BLD)))


class ModulatedBlock(nn.Module):
    """A block over video tokens whose norms are shifted, scaled and gated frame by frame (adaLN-zero,
    Peebles & Xie 2023, section 3.2) and whose attention also sees text tokens.

    The modulation MLP is shared by all blocks; each adds its own offset (adaLN-single, Chen et al.
    2023, PixArt-alpha, section 2.3).
    """

    def __init__(self, dim: int, heads: int, *, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(dim, heads, context_dim=context_dim)
        self.norm2 = nn.RMSNorm(dim, eps=1e-6, elementwise_affine=False)
        self.mlp = SwiGLU(dim, hidden_of(dim))
        self.offset = nn.Parameter(torch.zeros(6, dim))

    def forward(
        self, x_BTSD: Tensor, modulation_BT6D: Tensor, context_BMD: Tensor, rope: tuple[Tensor, Tensor]
    ) -> Tensor:
        """``x (B, T, S, D)`` with S tokens a frame; the modulation is one vector a frame."""
        frames, tokens = x_BTSD.shape[1:3]
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation_BT6D + self.offset).unsqueeze(3).unbind(2)
        h = self.norm1(x_BTSD) * (1 + scale1) + shift1
        h = self.attention(h.flatten(1, 2), None, context_BMD, None, rope)
        x_BTSD = x_BTSD + gate1 * h.unflatten(1, (frames, tokens))
        h = self.norm2(x_BTSD) * (1 + scale2) + shift2
        return x_BTSD + gate2 * self.mlp(h)
