"""Retrieval: text and video into one space, where what belongs together is near."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder, Task
from kinetext.reading import check_share, encode, freeze, still
from kinetext.types import Batch, Losses, Modality, Prediction, RecipeError, joined


class Retrieval(Task):
    """Two encoders and a linear map each into a shared space of unit vectors, learned by contrast within a batch.

    "infonce": a softmax over the batch, both ways (Radford et al. 2021, CLIP, figure 3). "sigmoid": every pair of
    the batch by itself is right or wrong (Zhai et al. 2023, SigLIP, algorithm 1). Samples that lack a modality take no
    part. Samples of the same text are all right for one another, so that none is pushed from what fits it: under
    "infonce" the target is spread evenly over them.

    Args:
        encoders: "text" and "video".
        dim: width of the shared space, >= 1.
        loss: which contrast.
        temperature: that it begins with, >= 0.01; it is learned, and stays at 0.01 or more. 0 takes the paper's: 0.07
            for "infonce", 0.1 for "sigmoid".
        dropout: on the pooled features, in [0, 1).
        frozen: modalities whose encoders stay as they begin; what they make of a clip that is the same in every
            epoch is kept on disk, so that they run once a clip.

    Raises:
        RecipeError: when the parts or options can't work together.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        *,
        dim: int = 64,
        loss: Literal["infonce", "sigmoid"] = "infonce",
        temperature: float = 0.0,
        dropout: float = 0.0,
        frozen: tuple[Modality, ...] = (),
    ) -> None:
        super().__init__()
        if set(encoders) != {"text", "video"}:
            raise RecipeError(f"encoders: {joined(sorted(encoders))}, expected text and video")
        if dim < 1:
            raise RecipeError(f"task.dim: {dim}, expected >= 1")
        if temperature != 0 and not temperature >= 0.01:
            raise RecipeError(f"task.temperature: {temperature}, expected >= 0.01, or 0 for the paper's")
        check_share("dropout", dropout)
        freeze(encoders, frozen)
        self.encoders = nn.ModuleDict(encoders)
        self.frozen = frozen
        self.dropout = nn.Dropout(dropout)
        self.project = nn.ModuleDict({name: nn.Linear(one.dim, dim) for name, one in encoders.items()})
        start = temperature or (0.07 if loss == "infonce" else 0.1)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)))
        # SigLIP, section 3.2: most pairs of a batch are wrong ones, and the bias says so from the start
        self.bias = nn.Parameter(torch.tensor(-10.0)) if loss == "sigmoid" else None

    def train(self, mode: bool = True) -> Retrieval:
        """Frozen encoders stay in evaluation mode."""
        super().train(mode)
        still(self.encoders, self.frozen)
        return self

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        whole = batch.has("text") & batch.has("video")
        embedded = self._embedded(batch)
        text, video = embedded["text"], embedded["video"]
        with torch.no_grad():  # the weight itself, since what is clamped on the way has no gradient back
            self.log_scale.clamp_(max=math.log(100.0))
        scale = self.log_scale.exp()
        similarity = scale * (text @ video.T)
        same = _same_text(batch.text).to(similarity.device) & whole & whole[:, None]
        contrast = _infonce if self.bias is None else _sigmoid
        total = contrast(similarity if self.bias is None else similarity + self.bias, same, whole, batch.weight)
        return Losses(total, {"temperature": 1 / scale.detach()})

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        embedded = self._embedded(batch)
        return Prediction(
            embeddings={name: x.masked_fill(~batch.has(name)[:, None], 0.0) for name, x in embedded.items()}
        )

    def _embedded(self, batch: Batch) -> dict[Modality, Tensor]:
        """Modality -> ``(B, dim)`` float32 of length 1."""
        return {
            name: F.normalize(self.project[name](self.dropout(features.pooled())).float(), dim=-1)
            for name, features in encode(self.encoders, batch).items()
        }


def _same_text(texts: Sequence[str]) -> Tensor:
    """``(B, B)`` bool; every sample is its own match."""
    first = {text: place for place, text in reversed(list(enumerate(texts)))}
    index = torch.tensor([first[text] if text else -1 - place for place, text in enumerate(texts)])
    return index == index[:, None]


def _infonce(similarity: Tensor, same: Tensor, whole: Tensor, weight: Tensor) -> Tensor:
    """The mean cross-entropy of texts among clips and of clips among texts, ``similarity (text, video)``."""
    legal = similarity.masked_fill(~(whole & whole[:, None]), -torch.inf)
    target = same / same.sum(1, keepdim=True).clamp(min=1)
    weight = weight * whole
    sides = []
    for logits in (legal, legal.T):
        log_p = logits.masked_fill(~whole[:, None], 0.0).log_softmax(1).masked_fill(~same, 0.0)
        sides.append(-(weight * (target * log_p).sum(1)).sum() / weight.sum().clamp(min=1e-12))
    return (sides[0] + sides[1]) / 2


def _sigmoid(logits: Tensor, same: Tensor, whole: Tensor, weight: Tensor) -> Tensor:
    """The sum over a text's pairs, averaged over the texts."""
    pairs = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype), reduction="none")
    weight = weight * whole
    return (weight * (pairs * whole).sum(1)).sum() / weight.sum().clamp(min=1e-12)
