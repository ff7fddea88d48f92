"""How well label columns are predicted, by the arithmetic of torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from kinetext.interfaces import Metric
from kinetext.types import Batch, Prediction, Target, joined


class ClassificationMetric(Metric):
    """Numbers called "column/number" for every label column; unlabelled rows are left out.

    Single-label: ``accuracy``, ``balanced_accuracy`` (the mean recall of the classes that occur),
    ``macro_f1``, and ``majority_accuracy``, what always saying the commonest class would reach.
    Multi-label, at a threshold of 0.5: ``exact_match``, ``micro_f1``, ``macro_f1``, and ``exact_n``, the exact match
    among the samples with n true labels. A column without labelled rows gives no number.

    Args:
        columns: the label columns that are predicted.
    """

    def __init__(self, columns: Sequence[Target]) -> None:
        self._columns: dict[str, _SingleLabel | _MultiLabel] = {
            column.name: (_MultiLabel if column.multi else _SingleLabel)(len(column.classes)) for column in columns
        }

    def update(self, prediction: Prediction, batch: Batch) -> None:
        for name, column in self._columns.items():
            if name not in prediction.probabilities or name not in batch.labels:
                raise ValueError(
                    f"{name}: expected in the predictions ({joined(list(prediction.probabilities))}) "
                    f"and the labels ({joined(list(batch.labels))})"
                )
            column.update(prediction.probabilities[name].cpu(), batch.labels[name].cpu())

    def compute(self) -> dict[str, float]:
        return {
            f"{name}/{number}": value
            for name, column in self._columns.items()
            for number, value in column.compute().items()
        }

    def confusion(self, column: str) -> Tensor:
        """Of a single-label column: ``(K, K)`` int64, how often class ``row`` was called class ``column``."""
        found = self._columns.get(column)
        if not isinstance(found, _SingleLabel):
            single = [name for name, kept in self._columns.items() if isinstance(kept, _SingleLabel)]
            raise ValueError(f"column: {column!r}, expected a single-label one: {joined(single)}")
        return found.confusion()


class _SingleLabel:
    def __init__(self, classes: int) -> None:
        self._classes = classes
        # the caller brings every row here, so nothing is gathered over processes
        self._confusion = MulticlassConfusionMatrix(classes, sync_on_compute=False)
        self._f1 = MulticlassF1Score(classes, average="macro", sync_on_compute=False)

    def update(self, probabilities: Tensor, label: Tensor) -> None:
        real = label >= 0
        if real.any():
            said = probabilities[real].argmax(1)
            self._confusion.update(said, label[real])
            self._f1.update(said, label[real])

    def confusion(self) -> Tensor:
        if not self._confusion.update_called:
            return torch.zeros(self._classes, self._classes, dtype=torch.int64)
        counted: Tensor = self._confusion.compute()
        return counted

    def compute(self) -> dict[str, float]:
        counts = self.confusion().double()
        rows = counts.sum(1)
        if rows.sum() == 0:
            return {}
        occurs = rows > 0
        return {
            "accuracy": float(counts.diagonal().sum() / counts.sum()),
            "balanced_accuracy": float((counts.diagonal()[occurs] / rows[occurs]).mean()),
            "macro_f1": float(self._f1.compute()),
            "majority_accuracy": float(rows.max() / rows.sum()),
        }


class _MultiLabel:
    def __init__(self, classes: int) -> None:
        self._exact = MultilabelExactMatch(classes, sync_on_compute=False)
        self._micro = MultilabelF1Score(classes, average="micro", sync_on_compute=False)
        self._macro = MultilabelF1Score(classes, average="macro", sync_on_compute=False)
        self._by_count: dict[int, MeanMetric] = {}

    def update(self, probabilities: Tensor, label: Tensor) -> None:
        real = ~label.isnan().any(1)
        if not real.any():
            return
        said, true = (probabilities[real] >= 0.5).long(), label[real].long()
        for metric in (self._exact, self._micro, self._macro):
            metric.update(said, true)
        exact, counts = (said == true).all(1).float(), true.sum(1)
        for count in set(counts.tolist()):
            mean = self._by_count.setdefault(count, MeanMetric(sync_on_compute=False))
            mean.update(exact[counts == count])

    def compute(self) -> dict[str, float]:
        if not self._exact.update_called:
            return {}
        numbers = {
            "exact_match": float(self._exact.compute()),
            "micro_f1": float(self._micro.compute()),
            "macro_f1": float(self._macro.compute()),
        }
        return numbers | {f"exact_{n}": float(self._by_count[n].compute()) for n in sorted(self._by_count)}
