"""How well label columns are predicted, by the arithmetic of torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

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
    probabilities of all classes are from how often they hold), ``majority_exact_match``, what always giving the commonest
    set of labels would reach, and ``exact_n``,
    the exact match among the samples with n true labels. A column without labelled rows gives no number.

    Of several columns also ``all/exact_match``, how many of the samples that are labelled in all of them have every one of
    them right: the likeliest class of a single-label column, the exact labels of a multi-label one. A column that is
    itself called "all" has that name for its own numbers, and there is no such number then.

    Args:
        columns: the label columns that are predicted.
    """

    errors: ClassVar[frozenset[str]] = frozenset({"calibration_error"})

    def __init__(self, columns: Sequence[Target]) -> None:
        self._columns: dict[str, _SingleLabel | _MultiLabel] = {
            column.name: (_MultiLabel if column.multi else _SingleLabel)(column.classes) for column in columns
        }
        self._together = _Together() if len(columns) > 1 and "all" not in self._columns else None

    def update(self, prediction: Prediction, batch: Batch) -> None:
        for name, column in self._columns.items():
            if name not in prediction.probabilities or name not in batch.labels:
                raise ValueError(
                    f"{name}: expected in the predictions ({joined(list(prediction.probabilities))}) "
                    f"and the labels ({joined(list(batch.labels))})"
                )
            column.rows.add(prediction.probabilities[name].cpu(), batch.labels[name].cpu(), batch.groups)
        if self._together:
            pairs = [(prediction.probabilities[name].cpu(), batch.labels[name].cpu()) for name in self._columns]
            self._together.add(pairs, batch.groups)

    def take(self, other: ClassificationMetric) -> None:
        for name, column in self._columns.items():
            column.rows.take(other._columns[name].rows)
        if self._together and other._together:
            self._together.rows.take(other._together.rows)

    def compute(self) -> dict[str, float]:
        return {
            f"{name}/{number}": value for name, column in self._counted() for number, value in column.compute().items()
        }

    def intervals(self) -> dict[str, Interval]:
        """Of the numbers that count right answers, under the bootstrap by group."""
        return {
            f"{name}/{number}": interval
            for name, column in self._counted()
            for number, interval in intervals(column.rows.groups, column.weigher()).items()
        }

    def _counted(self) -> list[tuple[str, _SingleLabel | _MultiLabel | _Together]]:
        """The columns that have labelled rows, and all of them together."""
        found: list[tuple[str, _SingleLabel | _MultiLabel | _Together]] = [*self._columns.items()]
        if self._together:
            found.append(("all", self._together))
        return [(name, column) for name, column in found if len(column.rows)]

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
        real = _labelled(label)
        self._probabilities.append(probabilities[real].float())
        self._labels.append(label[real].long())
        self.groups += [group for group, kept in zip(groups, real.tolist(), strict=True) if kept]

    def take(self, other: _Rows) -> None:
        self._probabilities += other._probabilities
        self._labels += other._labels
        self.groups += other.groups

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def probabilities(self) -> Tensor:
        self._probabilities = [torch.cat(self._probabilities)]
        return self._probabilities[0]

    @property
    def labels(self) -> Tensor:
        self._labels = [torch.cat(self._labels)]
        return self._labels[0]


class _SingleLabel:
    def __init__(self, classes: Sequence[str]) -> None:
        self.classes, self.rows = tuple(classes), _Rows()

    def confusion(self) -> Tensor:
        """``(K, K)`` float64, true class by said class."""
        return self._counted(self._cells(), torch.ones(len(self.rows), dtype=torch.float64))

    def _cells(self) -> Tensor:
        """``(N,)``: which cell of the confusion matrix each row falls in."""
        if not len(self.rows):
            return torch.zeros(0, dtype=torch.int64)
        return self.rows.labels * len(self.classes) + self.rows.probabilities.argmax(1)

    def _counted(self, cells: Tensor, weight: Tensor) -> Tensor:
        many = len(self.classes)
        return cells.bincount(weight, minlength=many * many).reshape(many, many)

    def hits(self) -> tuple[Tensor, Tensor, Tensor]:
        """``(K,)`` each: said rightly, said, true."""
        counts = self.confusion()
        return counts.diagonal(), counts.sum(0), counts.sum(1)

    def weigher(self) -> Callable[[Tensor], dict[str, float]]:
        """A function that says the numbers which follow from the confusion matrix, rows counted ``weight (N,)`` times."""
        cells = self._cells()
        return lambda weight: self._numbers(self._counted(cells, weight))

    def _numbers(self, counts: Tensor) -> dict[str, float]:
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
            **self._numbers(self.confusion()),
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

    def weigher(self) -> Callable[[Tensor], dict[str, float]]:
        """A function that says the numbers which count answers at the threshold, rows counted ``weight (N,)`` times."""
        said, true = (self.rows.probabilities >= 0.5).double(), (self.rows.labels == 1).double()
        both, right = said * true, (said == true).all(1).double()

        def numbers(weight: Tensor) -> dict[str, float]:
            hit, told, asked = weight @ both, weight @ said, weight @ true
            return {
                "exact_match": float(weight @ right / weight.sum()),
                "micro_f1": float(_share(2 * hit.sum(), told.sum() + asked.sum())),
                "macro_f1": float(_share(2 * hit, told + asked).mean()),
            }

        return numbers

    def compute(self) -> dict[str, float]:
        from torchmetrics.functional.classification import binary_calibration_error

        p, true = self.rows.probabilities, self.rows.labels
        right, counts = ((p >= 0.5).long() == true).all(1), true.sum(1)
        return {
            **self.weigher()(torch.ones(len(true), dtype=torch.float64)),
            **_ranking(p, true),
            "calibration_error": float(binary_calibration_error(p.flatten(), true.flatten(), n_bins=BINS)),
            "majority_exact_match": float(true.unique(dim=0, return_counts=True)[1].max()) / len(true),
            **{f"exact_{n}": float(right[counts == n].double().mean()) for n in sorted(set(counts.tolist()))},
        }


class _Together:
    """Several columns at once: which rows have all of them right."""

    def __init__(self) -> None:
        self.rows = _Rows()

    def add(self, columns: Sequence[tuple[Tensor, Tensor]], groups: Sequence[str]) -> None:
        """Counts the rows of ``(probabilities, labels)`` of every column that are labelled in all of them."""
        real = torch.stack([_labelled(label) for _, label in columns]).all(0)
        right = torch.stack([_right(probabilities, label) for probabilities, label in columns]).all(0)
        self.rows.add(right.float().unsqueeze(1), torch.where(real, 1, -1), groups)

    def weigher(self) -> Callable[[Tensor], dict[str, float]]:
        """A function that says the number, rows counted ``weight (N,)`` times."""
        right = self.rows.probabilities[:, 0].double()
        return lambda weight: {"exact_match": float(weight @ right / weight.sum())}

    def compute(self) -> dict[str, float]:
        return self.weigher()(torch.ones(len(self.rows), dtype=torch.float64))


def _labelled(label: Tensor) -> Tensor:
    """``(B,)`` bool: which rows have labels."""
    return ~label.isnan().any(1) if label.ndim == 2 else label >= 0


def _right(probabilities: Tensor, label: Tensor) -> Tensor:
    """``(B,)`` bool: which rows are said as their labels are; ``(B,)`` classes, or ``(B, K)`` in {0, 1}."""
    if label.ndim == 2:
        return ((probabilities >= 0.5) == (label == 1)).all(1)
    return probabilities.argmax(1) == label


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
