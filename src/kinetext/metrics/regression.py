"""How well numbers are predicted, by the arithmetic of torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isnan
from typing import ClassVar

import torch
from torch import Tensor

from kinetext.interfaces import Metric
from kinetext.resampling import Interval, intervals
from kinetext.types import Batch, Prediction, Target


class RegressionMetric(Metric):
    """Numbers called "column/number" for every column of numbers; unlabelled rows are left out.

    ``mae`` and ``rmse`` in the column's unit, ``pearson`` (correlation), ``ccc`` (Lin 1989, the concordance correlation,
    which also asks for the right mean and scale), and ``mean_mae``, what always saying the mean would reach. The
    correlations need two rows that differ.

    Args:
        columns: that are predicted.
    """

    errors: ClassVar[frozenset[str]] = frozenset({"mae", "rmse"})

    def __init__(self, columns: Sequence[Target]) -> None:
        self._said: dict[str, list[Tensor]] = {column.name: [] for column in columns}
        self._true: dict[str, list[Tensor]] = {column.name: [] for column in columns}
        self._groups: dict[str, list[str]] = {column.name: [] for column in columns}

    def update(self, prediction: Prediction, batch: Batch) -> None:
        for name in self._said:
            label = batch.labels[name].cpu()
            real = ~label.isnan()
            self._said[name].append(prediction.numbers[name].cpu()[real].double())
            self._true[name].append(label[real].double())
            self._groups[name] += [g for g, kept in zip(batch.groups, real.tolist(), strict=True) if kept]

    def take(self, other: RegressionMetric) -> None:
        for name in self._said:
            self._said[name] += other._said[name]
            self._true[name] += other._true[name]
            self._groups[name] += other._groups[name]

    def compute(self) -> dict[str, float]:
        from torchmetrics.functional.regression import (
            mean_absolute_error,
            mean_squared_error,
            pearson_corrcoef,
        )

        numbers: dict[str, float] = {}
        for name, groups in self._groups.items():
            if not groups:
                continue
            said, true = self._rows(name)
            found = {
                "mae": mean_absolute_error(said, true),
                "rmse": mean_squared_error(said, true, squared=False),
                "mean_mae": (true - true.mean()).abs().mean(),
            }
            if len(true) > 1 and said.std() > 0 and true.std() > 0:
                # Lin's own, over N; torchmetrics divides by N - 1
                ccc = _weighted(said, true, torch.ones_like(said))["ccc"]
                found |= {"pearson": pearson_corrcoef(said, true), "ccc": torch.tensor(ccc)}
            numbers |= {f"{name}/{number}": float(value) for number, value in found.items()}
        return numbers

    def intervals(self) -> dict[str, Interval]:
        """Of all but ``mean_mae``, under the bootstrap by group."""
        known = self.compute()
        return {
            f"{name}/{number}": interval
            for name, groups in self._groups.items()
            if groups
            for number, interval in intervals(groups, partial(_weighted, *self._rows(name))).items()
            if f"{name}/{number}" in known and not any(map(isnan, interval))
        }

    def _rows(self, name: str) -> tuple[Tensor, Tensor]:
        return torch.cat(self._said[name]), torch.cat(self._true[name])


def _weighted(said: Tensor, true: Tensor, weight: Tensor) -> dict[str, float]:
    """The numbers with rows counted ``weight (N,)`` times."""
    share = weight / weight.sum()
    off = said - true
    mean_said, mean_true = share @ said, share @ true
    var_said, var_true = share @ (said - mean_said) ** 2, share @ (true - mean_true) ** 2
    covariance = share @ ((said - mean_said) * (true - mean_true))
    return {
        "mae": float(share @ off.abs()),
        "rmse": float((share @ off**2).sqrt()),
        "pearson": float(covariance / (var_said * var_true).sqrt()),
        "ccc": float(2 * covariance / (var_said + var_true + (mean_said - mean_true) ** 2)),
    }
