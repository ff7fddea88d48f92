"""Joins modalities by letting each look at the other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kinetext.interfaces import Fusion
from kinetext.nn.attention import Attention as MultiHeadAttention
from kinetext.nn.norm import RMSNorm
from kinetext.types import Features, RecipeError

TOY_DIMS: Mapping[str, int] = {"text": 32, "video": 32}


class Attention(Fusion):
    """Each modality queries the others by multi-head attention, keeps what it was (residual), and is
    normalised, pooled and joined with the rest by a linear map.

    The cross-modal attention of Tan & Bansal 2019 (LXMERT, section 2.2) and Tsai et al. 2019 (MulT,
    section 3.1), one layer. Where the others are absent a modality stays what it was; in the place of
    an absent modality stands a learned vector.

    Args:
        dims: modality -> width of its features, at least two (decided by the assembly).
        dim: width inside and of the result, a multiple of ``heads``.
        heads: attention heads, >= 1.
        dropout: on what attention adds and on the joined vectors, in [0, 1).

    Raises:
        RecipeError: when an option is outside its range.
    """

    def __init__(
        self, *, dims: Mapping[str, int] = TOY_DIMS, dim: int = 64, heads: int = 4, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if len(dims) < 2:
            raise RecipeError(f"fusion: attention between {list(dims)}, expected at least two modalities")
        if heads < 1 or dim < 1 or dim % heads:
            raise RecipeError(f"fusion.dim: {dim}, expected a multiple of heads = {heads}")
        if not 0 <= dropout < 1:
            raise RecipeError(f"fusion.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim = dim
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.before = nn.ModuleDict({name: RMSNorm(dim) for name in dims})
        self.attend = nn.ModuleDict(
            {name: MultiHeadAttention(dim, heads, context_dim=dim, attend_self=False) for name in dims}
        )
        self.after = nn.ModuleDict({name: RMSNorm(dim) for name in dims})
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in dims})
        self.dropout = nn.Dropout(dropout)
        self.join = nn.Linear(dim * len(dims), dim)

    def forward(self, features: Mapping[str, Features]) -> Features:
        """Features of every modality of ``dims`` -> Features ``(B, 1, dim)``; masked where all are absent."""
        masks = {name: features[name].mask for name in self.project}
        # what stands at masked positions may be anything, NaN too
        clean = {name: features[name].x.masked_fill(~mask.unsqueeze(-1), 0.0) for name, mask in masks.items()}
        h = {name: project(clean[name]) for name, project in self.project.items()}
        normed = {name: norm(h[name]) for name, norm in self.before.items()}
        parts: list[Tensor] = []
        for name, attend in self.attend.items():
            others = [other for other in h if other != name]
            context = torch.cat([normed[other] for other in others], dim=1)
            context_mask = torch.cat([masks[other] for other in others], dim=1)
            seen = h[name] + self.dropout(attend(normed[name], None, context, context_mask))
            pooled = Features(self.after[name](seen), masks[name]).pooled()
            present = masks[name].any(1, keepdim=True)
            parts.append(torch.where(present, pooled, self.absent[name].to(pooled.dtype)))
        mask = torch.stack([m.any(1) for m in masks.values()], dim=1).any(1, keepdim=True)
        joined = self.join(self.dropout(torch.cat(parts, dim=1)))
        return Features(joined.unsqueeze(1).masked_fill(~mask.unsqueeze(-1), 0.0), mask)
