"""How well what belongs together is found."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from kinetext.interfaces import Metric
from kinetext.resampling import Interval, intervals
from kinetext.types import Batch, Prediction

DEPTHS = (1, 5, 10)


class RetrievalMetric(Metric):
    """Every clip is looked for by its text ("text_to_video/...") and every text by its clip ("video_to_text/...").

    ``r1``, ``r5``, ``r10``: the share of queries whose match is among the first 1, 5, 10; ``median_rank`` (1 is
    first), and ``chance_r1``, what guessing would reach. Ties count against us: whatever is as near as the match stands
    before it (an untrained model that gives every clip the same vector finds nothing). Where several samples have the
    same text, any of them is a match, and the best placed counts. Samples that lack a modality take no part.
    """

    errors: ClassVar[frozenset[str]] = frozenset({"median_rank"})

    def __init__(self) -> None:
        self._text: list[Tensor] = []
        self._video: list[Tensor] = []
        self._texts: list[str] = []
        self._groups: list[str] = []

    def update(self, prediction: Prediction, batch: Batch) -> None:
        text, video = prediction.embeddings["text"].cpu(), prediction.embeddings["video"].cpu()
        whole = (text.any(1) & video.any(1)).tolist()
        rows = [row for row, kept in enumerate(whole) if kept]
        self._text.append(text[rows].double())
        self._video.append(video[rows].double())
        self._texts += [batch.text[row] for row in rows]
        self._groups += [batch.groups[row] for row in rows]

    def take(self, other: RetrievalMetric) -> None:
        self._text += other._text
        self._video += other._video
        self._texts += other._texts
        self._groups += other._groups

    def compute(self) -> dict[str, float]:
        if not self._texts:
            return {}
        numbers: dict[str, float] = {}
        for way, rank in self._ranks().items():
            numbers |= {f"{way}/{name}": value for name, value in _weighted(rank, torch.ones_like(rank)).items()}
            numbers[f"{way}/median_rank"] = float(rank.quantile(0.5))
        chance = float(self._same().double().mean(1).mean())
        return {**numbers, "chance_r1": chance, "candidates": float(len(self._texts))}

    def intervals(self) -> dict[str, Interval]:
        """Of the recalls, under the bootstrap by group over the queries; the candidates stay."""
        if not self._texts:
            return {}
        return {
            f"{way}/{name}": interval
            for way, rank in self._ranks().items()
            for name, interval in intervals(self._groups, partial(_weighted, rank)).items()
        }

    def _same(self) -> Tensor:
        """``(N, N)`` bool: whether two samples have the same text."""
        texts = [text or f"\0{place}" for place, text in enumerate(self._texts)]  # one without is only its own match
        known = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        index = torch.tensor([known[text] for text in texts])
        return index == index[:, None]

    def _ranks(self) -> dict[str, Tensor]:
        """Way -> ``(N,)`` float64, the rank of the best placed match of each query."""
        near = torch.cat(self._text) @ torch.cat(self._video).T
        same = self._same()
        return {"text_to_video": _rank(near, same), "video_to_text": _rank(near.T, same)}


def _rank(near: Tensor, same: Tensor) -> Tensor:
    """The rank of the nearest match among all candidates that are no match, ties against us."""
    best = near.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
    return 1 + ((near >= best) & ~same).sum(1).double()


def _weighted(rank: Tensor, weight: Tensor) -> dict[str, float]:
    weight = weight.to(rank.dtype)
    return {f"r{depth}": float(weight @ (rank <= depth).to(rank.dtype) / weight.sum()) for depth in DEPTHS}
