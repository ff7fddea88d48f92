"""Classification: text, video or both into the classes of one or several label columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder, Fusion, Task
from kinetext.types import MODALITIES, Batch, Losses, Prediction, RecipeError, Target, joined


class Classification(Task):
    """One linear head a label column on the pooled features of one encoder, or of two and their fusion.

    Single-label columns learn by weighted cross-entropy, multi-label ones by binary cross-entropy;
    the loss is the mean over the columns. Unlabelled rows count for nothing.

    Args:
        encoders: modality -> encoder, one or two.
        fusion: joins two encoders; None with one.
        columns: the label columns of the data.
        counts: column -> how often each class occurs in the training data, () where unknown. A column
            may be left out when saved weights are loaded afterwards: they bring their class weights.
        targets: names of the columns to learn; () learns all of them.
        class_weights: "balanced" weighs class k by (sum of counts) / (K * count of k), so that rare
            classes count as much as common ones (King & Zeng 2001, section 4; scikit-learn's formula).
        modality_dropout: probability in [0, 1) that a training sample with both modalities loses one
            of them, either with equal chance (Neverova et al. 2016, "ModDrop", section 4.2).
        label_smoothing: share in [0, 1) of the target that is spread over all classes (Szegedy et al.
            2016, section 7); a multi-label target goes from {0, 1} to {s / 2, 1 - s / 2}.
        dropout: on the pooled features, in [0, 1).

    Raises:
        RecipeError: when the parts or options can't work together.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        fusion: Fusion | None,
        columns: Sequence[Target],
        counts: Mapping[str, tuple[int, ...]],
        *,
        targets: tuple[str, ...] = (),
        class_weights: Literal["none", "balanced"] = "none",
        modality_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_parts(encoders, fusion, modality_dropout)
        for name, value in (
            ("modality_dropout", modality_dropout), ("label_smoothing", label_smoothing), ("dropout", dropout),
        ):  # fmt: skip
            if not 0 <= value < 1:
                raise RecipeError(f"task.{name}: {value}, expected 0 <= {name} < 1")
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.targets = chosen(columns, targets)
        self.modality_dropout, self.label_smoothing = modality_dropout, label_smoothing
        self.dropout = nn.Dropout(dropout)
        dim = next(iter(encoders.values())).dim if fusion is None else fusion.dim
        # a list, since a column may have a name that a ModuleDict can't hold ("type", "a.b")
        self.heads = nn.ModuleList(nn.Linear(dim, len(target.classes)) for target in self.targets)
        balanced = class_weights == "balanced"
        for place, target in enumerate(self.targets):
            weight = _balanced(target, counts) if balanced else torch.ones(len(target.classes))
            # balanced weights come from the training data, which is not at hand when a run is reopened
            self.register_buffer(f"class_weight_{place}", weight, persistent=balanced)

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        if self.training and self.modality_dropout > 0:
            batch = drop_modality(batch, self.modality_dropout, rng)
        parts = {}
        for place, (target, logits) in enumerate(zip(self.targets, self._logits(batch), strict=True)):
            if target.name not in batch.labels:
                raise RecipeError(f"task.targets: no column {target.name!r} in {joined(sorted(batch.labels))}")
            labels, weight = batch.labels[target.name], self.get_buffer(f"class_weight_{place}")
            one = _multi_label if target.multi else _single_label
            parts[f"{target.name}/loss"] = one(logits, labels, batch.weight, weight, self.label_smoothing)
        total = torch.stack(list(parts.values())).mean()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        logits = zip(self.targets, self._logits(batch), strict=True)
        return Prediction({t.name: row.sigmoid() if t.multi else row.softmax(-1) for t, row in logits})

    def _logits(self, batch: Batch) -> list[Tensor]:
        """``(B, K)`` float32 for every column."""
        inputs = {"text": (batch.tokens, batch.token_mask), "video": (batch.video, batch.video_mask)}
        features = {name: encoder(*inputs[name]) for name, encoder in self.encoders.items()}
        joint = next(iter(features.values())) if self.fusion is None else self.fusion(features)
        pooled = self.dropout(joint.pooled())
        return [head(pooled).float() for head in self.heads]


def chosen(columns: Sequence[Target], names: Sequence[str]) -> tuple[Target, ...]:
    """The columns called ``names``, in that order; all of them for ().

    Raises:
        RecipeError: for a name that is not a column, twice the same, no column at all, or a column
            with too few classes to tell apart.
    """
    known = {column.name: column for column in columns}
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        what = f"{unknown[0]!r} is not a label column" if unknown else f"{list(names)} names a column twice"
        raise RecipeError(f"task.targets: {what}, expected names from: {joined(list(known))}")
    picked = tuple(known[name] for name in names or known)
    if not picked:
        raise RecipeError("task.targets: the data has no label column, expected at least one")
    for column in picked:
        least = 1 if column.multi else 2
        if len(column.classes) < least:
            raise RecipeError(f"task.targets: {column.name!r} has {len(column.classes)} classes, expected >= {least}")
    return picked


def drop_modality(batch: Batch, probability: float, rng: torch.Generator) -> Batch:
    """Takes one modality from a random share of the samples that have both."""
    dice = torch.rand(2, len(batch), generator=rng, device=rng.device).to(batch.weight.device)
    both = batch.token_mask.any(1) & batch.video_mask.any(1)
    drop = both & (dice[0] < probability)
    text = drop & (dice[1] < 0.5)
    return replace(
        batch,
        token_mask=batch.token_mask & ~text[:, None],
        video_mask=batch.video_mask & ~(drop & ~text)[:, None],
    )


def _check_parts(encoders: Mapping[str, Encoder], fusion: Fusion | None, modality_dropout: float) -> None:
    if not encoders or not set(encoders) <= set(MODALITIES):
        raise RecipeError(f"encoders: {joined(list(encoders))}, expected one or both of {joined(MODALITIES)}")
    for name, encoder in encoders.items():
        if encoder.modality != name:
            raise RecipeError(f"encoders.{name}: {type(encoder).__name__} reads {encoder.modality}, expected {name}")
    if len(encoders) > 1 and fusion is None:
        raise RecipeError(f"fusion: none, expected one to join {' and '.join(encoders)}")
    if len(encoders) == 1 and fusion is not None:
        raise RecipeError(
            f"fusion: {joined(list(encoders))} alone has nothing to join, expected two encoders or no fusion"
        )
    if len(encoders) == 1 and modality_dropout > 0:
        raise RecipeError(f"task.modality_dropout: {modality_dropout}, expected 0 with {joined(list(encoders))} alone")


def _balanced(target: Target, counts: Mapping[str, tuple[int, ...]]) -> Tensor:
    """``(K,)`` class weights; 0 for a class that never occurs, NaN until loaded for a column without counts."""
    if target.name not in counts:
        return torch.full((len(target.classes),), float("nan"))
    count = torch.tensor(counts[target.name], dtype=torch.float32)
    if len(count) != len(target.classes) or count.sum() == 0:
        raise RecipeError(
            f"task.class_weights: balanced needs the class counts of {target.name!r}, and this data doesn't give them; "
            "expected none"
        )
    present = count > 0
    return torch.where(present, count.sum() / (present.sum() * count.clamp(min=1)), 0.0)


def _single_label(logits: Tensor, label: Tensor, weight: Tensor, class_weight: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of ``(B, K)`` logits; labels ``(B,)`` int64, -1 unlabelled. The mean is weighted."""
    real = label >= 0
    index = label.clamp(min=0)
    entropy = F.cross_entropy(logits, index, class_weight, reduction="none", label_smoothing=smoothing)
    return _mean(entropy * weight, class_weight[index] * weight, real)


def _multi_label(logits: Tensor, label: Tensor, weight: Tensor, class_weight: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy of ``(B, K)`` logits; labels ``(B, K)`` in {0, 1}, NaN rows unlabelled."""
    real = ~label.isnan().any(1)
    soft = label.nan_to_num() * (1 - smoothing) + smoothing / 2
    entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    return _mean((entropy * class_weight).mean(1) * weight, weight, real)


def _mean(values: Tensor, weights: Tensor, real: Tensor) -> Tensor:
    """The sum of ``values`` over that of ``weights``, real rows only; 0, with gradients, if there are none."""
    total = (weights * real).sum()
    return (values * real).sum() / torch.where(total > 0, total, 1.0)
