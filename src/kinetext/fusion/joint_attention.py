"""Joins modalities in one transformer over all their tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from kinetext.interfaces import Fusion
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import Block
from kinetext.types import Features, RecipeError

TOY_DIMS: Mapping[str, int] = {"text": 32, "video": 32}


class JointAttention(Fusion):
    """One transformer over a class token and the projected tokens of every modality, each with the learned vector of
    its modality added; the class token, normalised, is the result.

    The single-stream fusion of Kim et al. 2021 (ViLT, section 3.1) and Chen et al. 2020 (UNITER, section 3.1). Theirs
    read the class token of the text; here it is of no modality, so that it is there without a text too. The tokens of
    an absent modality are masked. Positions are those that the encoders' features already carry.

    Args:
        dims: modality -> width of its features, at least two (decided by the assembly).
        dim: width inside and of the result, a multiple of ``heads``.
        depth: transformer blocks, >= 1.
        heads: attention heads, >= 1.
        dropout: on the projected tokens and inside the blocks, in [0, 1).

    Raises:
        RecipeError: when an option is outside its range.
    """

    def __init__(
        self,
        *,
        dims: Mapping[str, int] = TOY_DIMS,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(dims) < 2:
            raise RecipeError(f"fusion: joint attention over {list(dims)}, expected at least two modalities")
        if heads < 1:
            raise RecipeError(f"fusion.heads: {heads}, expected >= 1")
        if dim < 1 or dim % heads:
            raise RecipeError(f"fusion.dim: {dim}, expected a multiple of heads = {heads}")
        if depth < 1:
            raise RecipeError(f"fusion.depth: {depth}, expected >= 1")
        if not 0 <= dropout < 1:
            raise RecipeError(f"fusion.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim = dim
        # no bias: it would be the vector of the modality once more
        self.project = nn.ModuleDict({name: nn.Linear(width, dim, bias=False) for name, width in dims.items()})
        # learned tokens start small (Devlin et al. 2019, BERT), so that what is seen is heard from the first step on
        self.modality = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in dims})
        self.class_token = nn.Parameter(0.02 * torch.randn(dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout=dropout) for _ in range(depth))
        self.norm = RMSNorm(dim)

    def forward(self, features: Mapping[str, Features]) -> Features:
        """Features of every modality of ``dims`` -> Features ``(B, 1, dim)``; masked where all are absent."""
        masks = [features[name].mask for name in self.project]
        tokens = [self.class_token.expand(len(masks[0]), 1, -1)]
        for name, project in self.project.items():
            one = features[name]
            # what stands at masked positions may be anything, NaN too
            clean = one.x.masked_fill(~one.mask.unsqueeze(-1), 0.0)
            tokens.append(self.dropout(project(clean) + self.modality[name]))
        some = torch.cat(masks, dim=1).any(1, keepdim=True)
        x, mask = torch.cat(tokens, dim=1), torch.cat([torch.ones_like(some), *masks], dim=1)
        for block in self.blocks:
            x = block(x, mask)
        return Features(self.norm(x[:, :1]).masked_fill(~some.unsqueeze(-1), 0.0), some)
