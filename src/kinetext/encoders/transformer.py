"""A text transformer trained from scratch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.embedding import sinusoidal
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import Block
from kinetext.types import Features, Modality


class Transformer(Encoder):
    """Token embeddings plus sinusoidal positions through pre-norm transformer blocks.

    Vaswani et al. 2017, section 3, with RMSNorm, QK-norm and SwiGLU.

    Args:
        vocab: number of token ids (decided by the assembly).
        dim: width, an even multiple of ``heads``.
        depth: number of blocks, >= 0.
        heads: attention heads.
        dropout: in [0, 1).
    """

    modality: Modality = "text"

    def __init__(self, *, vocab: int = 32, dim: int = 64, depth: int = 2, heads: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(vocab, dim)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout=dropout) for _ in range(depth))
        self.norm = RMSNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Tokens ``(B, L)`` int64 and mask ``(B, L)`` -> Features ``(B, L, dim)``."""
        position = sinusoidal(torch.arange(x.shape[1], device=x.device), self.dim)
        h = self.dropout(self.embedding(x.masked_fill(~mask, 0)) + position)
        for block in self.blocks:
            h = block(h, mask)
        return Features(self.norm(h).masked_fill(~mask.unsqueeze(-1), 0.0), mask)
