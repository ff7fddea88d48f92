"""Joins modalities by projecting each and concatenating."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kinetext.interfaces import Fusion
from kinetext.types import Features, RecipeError

TOY_DIMS: Mapping[str, int] = {"text": 32, "video": 32}


class Concat(Fusion):
    """``W [tanh(W_t h_t); tanh(W_v h_v)]`` on the pooled features, with a learned vector in the place of
    ``tanh(W_m h_m)`` where modality m is absent.

    The projected concatenation of the classic two-stream readers (Kiela & Bottou 2014, section 3;
    Arevalo et al. 2017, "Gated Multimodal Units", section 3, without the gate).

    Args:
        dims: modality -> width of its features (decided by the assembly).
        dim: width of the result and of each projection, >= 1.
        dropout: on the joined projections, in [0, 1).

    Raises:
        RecipeError: when ``dim`` or ``dropout`` is outside its range.
    """

    def __init__(self, *, dims: Mapping[str, int] = TOY_DIMS, dim: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if dim < 1:
            raise RecipeError(f"fusion.dim: {dim}, expected >= 1")
        if not 0 <= dropout < 1:
            raise RecipeError(f"fusion.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim = dim
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(dim)) for name in dims})
        self.dropout = nn.Dropout(dropout)
        self.join = nn.Linear(dim * len(dims), dim)

    def forward(self, features: Mapping[str, Features]) -> Features:
        """Features of every modality of ``dims`` -> Features ``(B, 1, dim)``; masked where all are absent."""
        parts: list[Tensor] = []
        present = torch.stack([features[name].mask.any(1) for name in self.project], dim=1)
        for place, (name, project) in enumerate(self.project.items()):
            one = features[name]
            # what stands at masked positions may be anything, NaN too
            pooled = Features(one.x.masked_fill(~one.mask.unsqueeze(-1), 0.0), one.mask).pooled()
            h = torch.tanh(project(pooled))
            parts.append(torch.where(present[:, place, None], h, self.absent[name].to(h.dtype)))
        mask = present.any(1, keepdim=True)
        joined = self.join(self.dropout(torch.cat(parts, dim=1)))
        return Features(joined.unsqueeze(1).masked_fill(~mask.unsqueeze(-1), 0.0), mask)
