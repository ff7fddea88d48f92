"""How well label columns are predicted, by the arithmetic of torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetext.interfaces import Metric
from kinetext.resampling import Interval, intervals
from kinetext.types import Batch, Prediction, Target, joined

BINS = 15  # of the calibration error


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the rest; ``support`` is how many rows have it."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class ClassificationMetric(Metric):
    """Numbers called "column/number" for every label column; unlabelled rows are left out.

    Single-label: ``accuracy``, ``balanced_accuracy`` (the mean recall of the classes that occur), ``macro_f1`` (the mean
    over the classes that occur or are said), ``weighted_f1`` (by how often they occur), ``auroc`` and
    ``average_precision`` (one class against the rest, the mean over the classes that occur), ``calibration_error``
    (Guo et al. 2017, eq. 3, 15 bins), and ``majority_accuracy``, what always saying the commonest class would reach.
    Multi-label, at a threshold of 0.5: ``exact_match``, ``micro_f1``, ``macro_f1``, ``auroc`` and ``average_precision``
    (the mean over the classes that some rows have and some lack), ``calibration_error`` (how far the
    probabilities of all classes are from how often they hold), and ``exact_n``,
    the exact match among the samples with n true labels. A column without labelled rows gives no number.

    Args:
        columns: the label columns that are predicted.
    """

    def __init__(self, columns: Sequence[Target]) -> None:
        self._columns: dict[str, _SingleLabel | _MultiLabel] = {
            column.name: (_MultiLabel if column.multi else _SingleLabel)(column.classes) for column in columns
        }

    def update(self, prediction: Prediction, batch: Batch) -> None:
        for name, column in self._columns.items():
            if name not in prediction.probabilities or name not in batch.labels:
                raise ValueError(
                    f"{name}: expected in the predictions ({joined(list(prediction.probabilities))}) "
                    f"and the labels ({joined(list(batch.labels))})"
                )
            column.rows.add(prediction.probabilities[name].cpu(), batch.labels[name].cpu(), batch.groups)

    def compute(self) -> dict[str, float]:
        return {
            f"{name}/{number}": value
            for name, column in self._columns.items()
            if len(column.rows)
            for number, value in column.compute().items()
        }

    def intervals(self) -> dict[str, Interval]:
        """Of the numbers that count right answers, under the bootstrap by group."""
        return {
            f"{name}/{number}": interval
            for name, column in self._columns.items()
            if len(column.rows)
            for number, interval in intervals(column.rows.groups, column.weighted).items()
        }

    def confusion(self, column: str) -> Tensor:
        """Of a single-label column: ``(K, K)`` int64, how often class ``row`` was called class ``column``."""
        found = self._columns.get(column)
        if not isinstance(found, _SingleLabel):
            single = [name for name, kept in self._columns.items() if isinstance(kept, _SingleLabel)]
            raise ValueError(f"column: {column!r}, expected a single-label one: {joined(single)}")
        return found.confusion().long()

    def classes(self, column: str) -> tuple[ClassScore, ...]:
        """Every class of a column by itself, in class order."""
        hit, said, true = self._columns[column].hits()
        precision, recall, f1 = _share(hit, said), _share(hit, true), _share(2 * hit, said + true)
        scores = zip(self._columns[column].classes, precision.tolist(), recall.tolist(), f1.tolist(), true.tolist())  # noqa: B905
        return tuple(ClassScore(name, p, r, f, int(n)) for name, p, r, f, n in scores)


class _Rows:
    """The labelled rows that were seen."""

    def __init__(self) -> None:
        self._probabilities: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.groups: list[str] = []

    def add(self, probabilities: Tensor, label: Tensor, groups: Sequence[str]) -> None:
        real = ~label.isnan().any(1) if label.ndim == 2 else label >= 0
        self._probabilities.append(probabilities[real].float())
        self._labels.append(label[real].long())
        self.groups += [group for group, kept in zip(groups, real.tolist(), strict=True) if kept]

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def probabilities(self) -> Tensor:
        return torch.cat(self._probabilities)

    @property
    def labels(self) -> Tensor:
        return torch.cat(self._labels)


class _SingleLabel:
    def __init__(self, classes: Sequence[str]) -> None:
        self.classes, self.rows = tuple(classes), _Rows()

    def confusion(self, weight: Tensor | None = None) -> Tensor:
        """``(K, K)`` float64, true class by said class."""
        many = len(self.classes)
        if not len(self.rows):
            return torch.zeros(many, many, dtype=torch.float64)
        cell = self.rows.labels * many + self.rows.probabilities.argmax(1)
        ones = torch.ones(len(cell), dtype=torch.float64) if weight is None else weight
        return cell.bincount(ones, minlength=many * many).reshape(many, many)

    def hits(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(K,)`` each: said rightly, said, true."""
        counts = self.confusion()
        return counts.diagonal(), counts.sum(0), counts.sum(1)

    def weighted(self, weight: Tensor) -> dict[str, float]:
        """The numbers that follow from the confusion matrix, rows counted ``weight (N,)`` times."""
        counts = self.confusion(weight)
        hit, said, true = counts.diagonal(), counts.sum(0), counts.sum(1)
        f1, occurs = _share(2 * hit, said + true), true > 0
        return {
            "accuracy": float(hit.sum() / counts.sum()),
            "balanced_accuracy": float((hit[occurs] / true[occurs]).mean()),
            "macro_f1": float(f1[occurs | (said > 0)].mean()),
            "weighted_f1": float((f1 * true).sum() / true.sum()),
        }

    def compute(self) -> dict[str, float]:
        # here, since importing torchmetrics takes seconds, and generating and predicting never need it
        from torchmetrics.functional.classification import multiclass_calibration_error

        p, label = self.rows.probabilities, self.rows.labels
        true = self.confusion().sum(1)
        one_hot = torch.nn.functional.one_hot(label, len(self.classes))
        return {
            **self.weighted(torch.ones(len(label), dtype=torch.float64)),
            **_ranking(p, one_hot),
            "calibration_error": float(multiclass_calibration_error(p, label, len(self.classes), n_bins=BINS)),
            "majority_accuracy": float(true.max() / true.sum()),
        }


class _MultiLabel:
    def __init__(self, classes: Sequence[str]) -> None:
        self.classes, self.rows = tuple(classes), _Rows()

    def hits(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(K,)`` each: said rightly, said, true."""
        said, true = self.rows.probabilities >= 0.5, self.rows.labels == 1
        return (said & true).sum(0).double(), said.sum(0).double(), true.sum(0).double()

    def weighted(self, weight: Tensor) -> dict[str, float]:
        """The numbers that count answers at the threshold, rows counted ``weight (N,)`` times."""
        said, true = (self.rows.probabilities >= 0.5).double(), (self.rows.labels == 1).double()
        hit, told, asked = (weight @ (said * true)), weight @ said, weight @ true
        right = (said == true).all(1).double()
        return {
            "exact_match": float(weight @ right / weight.sum()),
            "micro_f1": float(_share(2 * hit.sum(), told.sum() + asked.sum())),
            "macro_f1": float(_share(2 * hit, told + asked).mean()),
        }

    def compute(self) -> dict[str, float]:
        from torchmetrics.functional.classification import binary_calibration_error

        p, true = self.rows.probabilities, self.rows.labels
        right, counts = ((p >= 0.5).long() == true).all(1), true.sum(1)
        return {
            **self.weighted(torch.ones(len(true), dtype=torch.float64)),
            **_ranking(p, true),
            "calibration_error": float(binary_calibration_error(p.flatten(), true.flatten(), n_bins=BINS)),
            **{f"exact_{n}": float(right[counts == n].double().mean()) for n in sorted(set(counts.tolist()))},
        }


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, 0 where there is nothing."""
    return torch.where(whole > 0, part / whole.clamp(min=1e-300), 0.0)


def _ranking(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Area under the ROC curve and average precision of every class that some rows have and some lack, their mean."""
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    some = [k for k in range(labels.shape[1]) if 0 < int(labels[:, k].sum()) < len(labels)]
    if not some:
        return {}
    pairs = [(probabilities[:, k], labels[:, k]) for k in some]
    return {
        "auroc": sum(float(binary_auroc(*pair)) for pair in pairs) / len(pairs),
        "average_precision": sum(float(binary_average_precision(*pair)) for pair in pairs) / len(pairs),
    }
