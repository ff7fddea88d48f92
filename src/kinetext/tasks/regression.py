"""Regression: text, video or both into the numbers of one or several columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder, Fusion, Task
from kinetext.reading import check_parts, check_share, chosen, drop_modality, freeze, joint, mean, still, width
from kinetext.types import Batch, Losses, Modality, Prediction, RecipeError, Target, joined


class Regression(Task):
    """One linear head a column of numbers on the pooled features of one encoder, or of two and their fusion.

    Columns are learned in units of their own standard deviation around their mean, so that each counts the same;
    predictions are in the column's unit. Unlabelled rows count for nothing.

    Args:
        encoders: modality -> encoder, one or two.
        fusion: joins two encoders; None with one.
        columns: the columns of the data.
        numbers: column -> its numbers in the training data. A column may be left out when saved weights are loaded
            afterwards: they bring its mean and standard deviation.
        targets: names of the columns to learn; () learns all columns of numbers.
        loss: "mse", or "huber" (Huber 1964), which is quadratic up to one standard deviation and linear beyond.
        modality_dropout: probability in [0, 1) that a training sample with both modalities loses one of them, either
            with equal chance (Neverova et al. 2016, "ModDrop", section 4.2).
        dropout: on the pooled features, in [0, 1).
        frozen: modalities whose encoders stay as they begin; what they make of a clip that is the same in every
            epoch is kept on disk, so that they run once a clip.

    Raises:
        RecipeError: when the parts or options can't work together.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        fusion: Fusion | None,
        columns: Sequence[Target],
        numbers: Mapping[str, Sequence[float]],
        *,
        targets: tuple[str, ...] = (),
        loss: Literal["mse", "huber"] = "mse",
        modality_dropout: float = 0.0,
        dropout: float = 0.0,
        frozen: tuple[Modality, ...] = (),
    ) -> None:
        super().__init__()
        check_parts(encoders, fusion, modality_dropout)
        check_share("modality_dropout", modality_dropout)
        check_share("dropout", dropout)
        freeze(encoders, frozen)
        self.encoders = nn.ModuleDict(encoders)
        self.fusion, self.frozen = fusion, frozen
        self.targets = chosen(columns, targets, numeric=True)
        self.loss_kind, self.modality_dropout = loss, modality_dropout
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width(encoders, fusion), len(self.targets))
        moments = torch.stack([_moments(target, numbers) for target in self.targets], dim=1)
        self.register_buffer("mean", moments[0])
        self.register_buffer("std", moments[1])

    def train(self, mode: bool = True) -> Regression:
        """Frozen encoders stay in evaluation mode."""
        super().train(mode)
        still(self.encoders, self.frozen)
        return self

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        if self.training and self.modality_dropout > 0:
            batch = drop_modality(batch, self.modality_dropout, rng)
        said, parts = self._standardised(batch), {}
        for place, target in enumerate(self.targets):
            if target.name not in batch.labels:
                raise RecipeError(f"task.targets: no column {target.name!r} in {joined(sorted(batch.labels))}")
            number = batch.labels[target.name]
            real = ~number.isnan()
            true = (number.nan_to_num() - self.mean[place]) / self.std[place]
            measure = F.mse_loss if self.loss_kind == "mse" else F.huber_loss
            off = measure(said[:, place], true, reduction="none")
            parts[f"{target.name}/loss"] = mean(off * batch.weight, batch.weight, real)
        total = torch.stack(list(parts.values())).mean()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        numbers = self._standardised(batch) * self.std + self.mean
        return Prediction(numbers={target.name: numbers[:, place] for place, target in enumerate(self.targets)})

    def _standardised(self, batch: Batch) -> Tensor:
        """``(B, columns)`` float32, in standard deviations from the mean."""
        said: Tensor = self.head(self.dropout(joint(self.encoders, self.fusion, batch).pooled()))
        return said.float()


def _moments(target: Target, numbers: Mapping[str, Sequence[float]]) -> Tensor:
    """Mean and standard deviation; NaN until loaded for a column without numbers."""
    if target.name not in numbers:
        return torch.full((2,), float("nan"))
    values = torch.tensor(list(numbers[target.name]), dtype=torch.float64)
    if len(values) < 2 or values.std(correction=0) == 0:
        raise RecipeError(
            f"task.targets: {target.name!r} has {len(values)} numbers in the training data, expected at least two that differ"
        )
    return torch.stack([values.mean(), values.std(correction=0)]).float()
