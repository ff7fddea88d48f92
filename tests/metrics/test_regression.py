"""The numbers of a regression, against scikit-learn, scipy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor

from kinetext.metrics.regression import RegressionMetric
from kinetext.types import Batch, Prediction, Target

SCORE = Target("score", numeric=True)


def batch(labels: Tensor, groups: tuple[str, ...] = ()) -> Batch:
    size = len(labels)
    return Batch(
        keys=tuple(map(str, range(size))),
        video=torch.zeros(size, 1, 1, 1, 1),
        video_mask=torch.zeros(size, 1, dtype=torch.bool),
        text=("",) * size,
        tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.zeros(size, 1, dtype=torch.bool),
        labels={"score": labels},
        weight=torch.ones(size),
        groups=groups,
    )


@pytest.fixture
def rows() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    true = torch.randn(60, generator=rng) * 2 + 1
    return true * 0.7 + 0.5 * torch.randn(60, generator=rng), true


def fed(said: Tensor, true: Tensor, groups: tuple[str, ...] = ()) -> RegressionMetric:
    metric = RegressionMetric([SCORE])
    for part in torch.arange(len(said)).split(7):
        some = tuple(groups[i] for i in part) if groups else ()
        metric.update(Prediction(numbers={"score": said[part]}), batch(true[part], some))
    return metric


def test_equals_other_libraries(rows: tuple[Tensor, Tensor]) -> None:
    said, true = rows
    s, t = said.double().numpy(), true.double().numpy()
    concordance = 2 * np.cov(s, t, bias=True)[0, 1] / (s.var() + t.var() + (s.mean() - t.mean()) ** 2)
    assert fed(said, true).compute() == {
        "score/mae": pytest.approx(sk.mean_absolute_error(t, s)),
        "score/rmse": pytest.approx(sk.mean_squared_error(t, s) ** 0.5),
        "score/pearson": pytest.approx(stats.pearsonr(s, t).statistic),
        "score/ccc": pytest.approx(concordance),
        "score/mean_mae": pytest.approx(np.abs(t - t.mean()).mean()),
    }


def test_unlabelled_rows_are_left_out(rows: tuple[Tensor, Tensor]) -> None:
    said, true = rows
    hidden = true.clone()
    hidden[::3] = float("nan")
    kept = torch.arange(60) % 3 != 0
    assert fed(said, hidden).compute() == fed(said[kept], true[kept]).compute()
    assert fed(said, torch.full_like(true, float("nan"))).compute() == {}


def test_a_constant_answer_has_no_correlation(rows: tuple[Tensor, Tensor]) -> None:
    numbers = fed(torch.full((60,), float(rows[1].mean())), rows[1]).compute()
    assert set(numbers) == {"score/mae", "score/rmse", "score/mean_mae"}
    assert numbers["score/mae"] == pytest.approx(numbers["score/mean_mae"], abs=1e-6)


def test_intervals_hold_the_numbers(rows: tuple[Tensor, Tensor]) -> None:
    metric = fed(*rows)
    numbers = metric.compute()
    for name, (low, high) in metric.intervals().items():
        assert low < numbers[name] < high, name
    off = (rows[0] - rows[1]).abs().double()
    low, high = metric.intervals()["score/mae"]
    assert high - low == pytest.approx(2 * 1.96 * float(off.std()) / 60**0.5, rel=0.25)


def test_no_interval_without_a_number(rows: tuple[Tensor, Tensor]) -> None:
    metric = fed(torch.full((60,), 2.0), rows[1])
    assert set(metric.intervals()) == {"score/mae", "score/rmse"}
    assert all(low < high for low, high in metric.intervals().values())
