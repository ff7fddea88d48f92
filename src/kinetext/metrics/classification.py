"""How well label columns are predicted, by the arithmetic of torchmetrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

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
        # here, since importing torchmetrics takes seconds, and generating and predicting never need it
        from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassF1Score

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
        from torchmetrics.classification import BinaryF1Score, MultilabelF1Score

        self._micro = BinaryF1Score(sync_on_compute=False)
        # torchmetrics has no multi-label score of one label: there, micro and macro are the same
        several = classes > 1
        self._macro = MultilabelF1Score(classes, average="macro", sync_on_compute=False) if several else self._micro
        # by the number of true labels: samples seen, and samples with every label right
        self._seen: Counter[int] = Counter()
        self._right: Counter[int] = Counter()

    def update(self, probabilities: Tensor, label: Tensor) -> None:
        real = ~label.isnan().any(1)
        if not real.any():
            return
        said, true = (probabilities[real] >= 0.5).long(), label[real].long()
        self._micro.update(said.flatten(), true.flatten())
        if self._macro is not self._micro:
            self._macro.update(said, true)
        counts = true.sum(1)
        self._seen.update(counts.tolist())
        self._right.update(counts[(said == true).all(1)].tolist())

    def compute(self) -> dict[str, float]:
        if not self._seen:
            return {}
        numbers = {
            "exact_match": self._right.total() / self._seen.total(),
            "micro_f1": float(self._micro.compute()),
            "macro_f1": float(self._macro.compute()),
        }
        return numbers | {f"exact_{n}": self._right[n] / self._seen[n] for n in sorted(self._seen)}
