"""Joins two modalities by a gate that says, number by number, which of them to believe."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from kinetext.interfaces import Fusion
from kinetext.types import Features, RecipeError

TOY_DIMS: Mapping[str, int] = {"text": 32, "video": 32}


class Gated(Fusion):
    """The Gated Multimodal Unit for two modalities, on the pooled features::

        h_v = tanh(W_v x_v)    h_t = tanh(W_t x_t)    z = sigmoid(W_z [x_v, x_t])    h = z * h_v + (1 - z) * h_t

    Arevalo et al. 2017, "Gated Multimodal Units for Information Fusion", section 3.1, the bimodal unit, without biases
    as there. v is the last of the two names in the order of the alphabet, so video next to text. Where one modality is
    absent the gate does not ask: h is that of the other.

    Args:
        dims: modality -> width of its features, exactly two (decided by the assembly).
        dim: width of the result, >= 1.
        dropout: on the pooled features, in [0, 1).

    Raises:
        RecipeError: when an option is outside its range.
    """

    def __init__(self, *, dims: Mapping[str, int] = TOY_DIMS, dim: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if len(dims) != 2:
            raise RecipeError(f"fusion: a gate between {list(dims)}, expected two modalities")
        if dim < 1:
            raise RecipeError(f"fusion.dim: {dim}, expected >= 1")
        if not 0 <= dropout < 1:
            raise RecipeError(f"fusion.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        # sorted, so that saved weights mean the same in whatever order a recipe names the encoders
        self.project = nn.ModuleDict({name: nn.Linear(dims[name], dim, bias=False) for name in sorted(dims)})
        self.gate = nn.Linear(sum(dims.values()), dim, bias=False)

    def forward(self, features: Mapping[str, Features]) -> Features:
        """Features of both modalities of ``dims`` -> Features ``(B, 1, dim)``; masked where both are absent."""
        (t, to_t), (v, to_v) = self.project.items()
        x_t, x_v = (self.dropout(features[name].pooled()) for name in (t, v))
        has_t, has_v = (features[name].mask.any(1, keepdim=True) for name in (t, v))
        z = torch.sigmoid(self.gate(torch.cat([x_v, x_t], dim=1)))
        z = torch.where(has_t & has_v, z, has_v.to(z.dtype))
        h = z * torch.tanh(to_v(x_v)) + (1 - z) * torch.tanh(to_t(x_t))
        mask = has_t | has_v
        return Features(h.masked_fill(~mask, 0.0).unsqueeze(1), mask)
