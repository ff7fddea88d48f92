"""Joins modalities at the very end: each has a say of its own, and the say is weighted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from kinetext.interfaces import Fusion
from kinetext.types import Features, RecipeError

TOY_DIMS: Mapping[str, int] = {"text": 32, "video": 32}


class Late(Fusion):
    """``sum_m a_m (P_m h_m + c_m)`` on the pooled features: a_m is the softmax of one learned number a modality, over
    the modalities that the sample has.

    Late fusion gives every modality a classifier of its own and weighs their decisions (Baltrušaitis, Ahuja & Morency
    2019, "Multimodal Machine Learning: A Survey and Taxonomy", section 5.1). A fusion gives features, and the head
    after it is linear, ``W x + b``. The weights sum to one, so the logits are::

        W sum_m a_m (P_m h_m + c_m) + b  =  sum_m a_m ((W P_m) h_m + (W c_m + b))

    the weighted logits of one linear classifier a modality, V_m = W P_m with bias b_m = W c_m + b. Every set of such
    classifiers over K classes can be had so if ``dim >= K``: W = [I 0], P_m = V_m over zeros, c_m = b_m over zeros,
    b = 0. With less, they share a space of ``dim`` directions. K counts the classes of all label columns together.
    For this to hold nothing stands between projection and head that is not linear, and nothing of one modality
    changes what is made of another. The weights say how much each counts next to the others; alone, one counts whole.

    Args:
        dims: modality -> width of its features, at least two (decided by the assembly).
        dim: width of the result, >= 1; at least the number of classes, or the classifiers aren't free (see above).
        dropout: on the pooled features, before each modality's own classifier, in [0, 1).

    Raises:
        RecipeError: when an option is outside its range.
    """

    def __init__(self, *, dims: Mapping[str, int] = TOY_DIMS, dim: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        if len(dims) < 2:
            raise RecipeError(f"fusion: late fusion of {list(dims)}, expected at least two modalities")
        if dim < 1:
            raise RecipeError(f"fusion.dim: {dim}, expected >= 1")
        if not 0 <= dropout < 1:
            raise RecipeError(f"fusion.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim = dim
        self.dropout = nn.Dropout(dropout)
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        self.weights = nn.ParameterDict({name: nn.Parameter(torch.zeros(1)) for name in dims})

    def forward(self, features: Mapping[str, Features]) -> Features:
        """Features of every modality of ``dims`` -> Features ``(B, 1, dim)``; masked where all are absent."""
        present = torch.stack([features[name].mask.any(1) for name in self.project], dim=1)
        mask = present.any(1, keepdim=True)
        says = [project(self.dropout(features[name].pooled())) for name, project in self.project.items()]
        scores = torch.cat([self.weights[name] for name in self.project]).expand(len(present), -1)
        # softmax over nothing is NaN: rows without any modality weigh all, and are zeroed
        share = scores.masked_fill(~(present | ~mask), float("-inf")).softmax(dim=1)
        joined = (torch.stack(says, dim=1) * share.unsqueeze(-1)).sum(1, keepdim=True)
        return Features(joined.masked_fill(~mask.unsqueeze(-1), 0.0), mask)
