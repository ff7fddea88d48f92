"""Classification: text, video or both into the classes of one or several label columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder, Fusion, Task
from kinetext.reading import check_parts, check_share, chosen, drop_modality, freeze, joint, mean, still, width
from kinetext.types import Batch, Losses, Modality, Prediction, RecipeError, Target, joined


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
        multi_label: what the classes of a multi-label column make together: "mean" of their entropies; or "sum", the negative
            log-likelihood of the whole set of labels, as cross-entropy is that of a class. Beside other columns a
            column of many classes learns very slowly with "mean", since each of its classes counts that much less.
        dropout: on the pooled features, in [0, 1).
        frozen: modalities whose encoders stay as they begin; what they make of a clip that is the same in every
            epoch is kept on disk, so that they run once a clip.

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
        multi_label: Literal["mean", "sum"] = "mean",
        dropout: float = 0.0,
        frozen: tuple[Modality, ...] = (),
    ) -> None:
        super().__init__()
        check_parts(encoders, fusion, modality_dropout)
        check_share("modality_dropout", modality_dropout)
        check_share("label_smoothing", label_smoothing)
        check_share("dropout", dropout)
        freeze(encoders, frozen)
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.frozen = frozen
        self.targets = chosen(columns, targets, numeric=False)
        self.modality_dropout, self.label_smoothing = modality_dropout, label_smoothing
        self.multi_label = multi_label
        self.dropout = nn.Dropout(dropout)
        dim = width(encoders, fusion)
        # a list, since a column may have a name that a ModuleDict can't hold ("type", "a.b")
        self.heads = nn.ModuleList(nn.Linear(dim, len(target.classes)) for target in self.targets)
        balanced = class_weights == "balanced"
        for place, target in enumerate(self.targets):
            weight = _balanced(target, counts) if balanced else torch.ones(len(target.classes))
            # balanced weights come from the training data, which is not at hand when a run is reopened
            self.register_buffer(f"class_weight_{place}", weight, persistent=balanced)

    def train(self, mode: bool = True) -> Classification:
        """Frozen encoders stay in evaluation mode."""
        super().train(mode)
        still(self.encoders, self.frozen)
        return self

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        if self.training and self.modality_dropout > 0:
            batch = drop_modality(batch, self.modality_dropout, rng)
        parts = {}
        for place, (target, logits) in enumerate(zip(self.targets, self._logits(batch), strict=True)):
            if target.name not in batch.labels:
                raise RecipeError(f"task.targets: no column {target.name!r} in {joined(sorted(batch.labels))}")
            labels, weight = batch.labels[target.name], self.get_buffer(f"class_weight_{place}")
            one = _multi_label if target.multi else _single_label
            times = len(target.classes) if target.multi and self.multi_label == "sum" else 1
            parts[f"{target.name}/loss"] = times * one(logits, labels, batch.weight, weight, self.label_smoothing)
        total = torch.stack(list(parts.values())).mean()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        logits = zip(self.targets, self._logits(batch), strict=True)
        return Prediction({t.name: row.sigmoid() if t.multi else row.softmax(-1) for t, row in logits})

    def _logits(self, batch: Batch) -> list[Tensor]:
        """``(B, K)`` float32 for every column."""
        pooled = self.dropout(joint(self.encoders, self.fusion, batch).pooled())
        return [head(pooled).float() for head in self.heads]


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
    return mean(entropy * weight, class_weight[index] * weight, real)


def _multi_label(logits: Tensor, label: Tensor, weight: Tensor, class_weight: Tensor, smoothing: float) -> Tensor:
    """Binary cross-entropy of ``(B, K)`` logits; labels ``(B, K)`` in {0, 1}, NaN rows unlabelled."""
    real = ~label.isnan().any(1)
    soft = label.nan_to_num() * (1 - smoothing) + smoothing / 2
    entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
    return mean((entropy * class_weight).mean(1) * weight, weight, real)
