"""The numbers of a classifier, against scikit-learn and by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from kinetext.metrics.classification import ClassificationMetric
from kinetext.types import Batch, Prediction, Target

ONE = Target("category", ("a", "b", "c", "d"))
MANY = Target("objects", ("x", "y", "z"), multi=True)


def batch(labels: dict[str, Tensor], groups: tuple[str, ...] = ()) -> Batch:
    size = len(next(iter(labels.values())))
    return Batch(
        keys=tuple(map(str, range(size))),
        video=torch.zeros(size, 1, 1, 1, 1),
        video_mask=torch.zeros(size, 1, dtype=torch.bool),
        text=("",) * size,
        tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.zeros(size, 1, dtype=torch.bool),
        labels=labels,
        weight=torch.ones(size),
        groups=groups,
    )


def fed(column: Target, probabilities: Tensor, labels: Tensor) -> ClassificationMetric:
    metric = ClassificationMetric([column])
    for p, y in zip(probabilities.split(7), labels.split(7), strict=True):
        metric.update(Prediction({column.name: p}), batch({column.name: y}))
    return metric


@pytest.fixture
def single() -> tuple[Tensor, Tensor]:
    """Class c never occurs, and is sometimes said."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 3])[torch.randint(3, (40,), generator=rng)]
    return (torch.randn(40, 4, generator=rng) + 2 * torch.eye(4)[labels]).softmax(1), labels


@pytest.fixture
def several() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (40, 3), generator=rng).float()
    return (0.35 * torch.randn(40, 3, generator=rng) + labels).clamp(0.01, 0.99), labels


def test_single_label_equals_scikit_learn(single: tuple[Tensor, Tensor]) -> None:
    probabilities, labels = single
    metric, said, true = fed(ONE, probabilities, labels), probabilities.argmax(1).numpy(), labels.numpy()
    assert (said == 2).any()
    assert not (true == 2).any()
    numbers = metric.compute()
    recalls = sk.recall_score(true, said, labels=[0, 1, 3], average=None)
    one_hot = np.eye(4)[true]
    p = probabilities.numpy()
    assert numbers == {
        "category/accuracy": pytest.approx(sk.accuracy_score(true, said)),
        "category/balanced_accuracy": pytest.approx(float(np.mean(recalls))),
        "category/macro_f1": pytest.approx(sk.f1_score(true, said, average="macro")),
        "category/weighted_f1": pytest.approx(sk.f1_score(true, said, average="weighted")),
        "category/auroc": pytest.approx(
            np.mean([sk.roc_auc_score(one_hot[:, k], p[:, k]) for k in (0, 1, 3)]), abs=1e-6
        ),
        "category/average_precision": pytest.approx(
            np.mean([sk.average_precision_score(one_hot[:, k], p[:, k]) for k in (0, 1, 3)]), abs=1e-6
        ),
        "category/calibration_error": pytest.approx(calibration_error(p.max(1), said == true), abs=1e-6),
        "category/majority_accuracy": pytest.approx(np.bincount(true).max() / 40),
    }
    precision, recall, f1, support = sk.precision_recall_fscore_support(true, said, labels=range(4), zero_division=0.0)
    for place, one in enumerate(metric.classes("category")):
        assert (one.name, one.support) == ("abcd"[place], support[place])
        assert (one.precision, one.recall, one.f1) == pytest.approx((precision[place], recall[place], f1[place]))
    assert np.array_equal(metric.confusion("category").numpy(), sk.confusion_matrix(true, said, labels=range(4)))


def test_multi_label_equals_scikit_learn(several: tuple[Tensor, Tensor]) -> None:
    probabilities, labels = several
    said, true = (probabilities >= 0.5).numpy(), labels.numpy() == 1
    numbers = fed(MANY, probabilities, labels).compute()
    by_count = {
        f"objects/exact_{n}": pytest.approx(sk.accuracy_score(true[true.sum(1) == n], said[true.sum(1) == n]))
        for n in range(4)
    }
    p = probabilities.numpy()
    assert numbers == {
        "objects/exact_match": pytest.approx(sk.accuracy_score(true, said)),
        "objects/micro_f1": pytest.approx(sk.f1_score(true, said, average="micro")),
        "objects/macro_f1": pytest.approx(sk.f1_score(true, said, average="macro")),
        "objects/auroc": pytest.approx(sk.roc_auc_score(true, p, average="macro"), abs=1e-6),
        "objects/average_precision": pytest.approx(sk.average_precision_score(true, p, average="macro"), abs=1e-6),
        "objects/calibration_error": pytest.approx(calibration_error(p.ravel(), true.ravel()), abs=1e-6),
        "objects/majority_exact_match": max(Counter(map(tuple, true.tolist())).values()) / 40,
        **by_count,
    }


def calibration_error(sure: np.ndarray, right: np.ndarray) -> float:
    """Guo et al. 2017, eq. 3: the gap between how sure and how often right, over 15 equal bins, by their size."""
    bins = np.ceil(sure * 15)
    gaps = [abs(sure[bins == b].mean() - right[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)]
    return float(sum(gaps) / len(sure))


def test_intervals_are_those_of_resampled_groups(single: tuple[Tensor, Tensor]) -> None:
    """With every row a group of its own, the bootstrap's spread is that of a binomial share."""
    probabilities, labels = single
    metric = ClassificationMetric([ONE])
    metric.update(Prediction({"category": probabilities}), batch({"category": labels}))
    accuracy = metric.compute()["category/accuracy"]
    low, high = metric.intervals()["category/accuracy"]
    deviation = (accuracy * (1 - accuracy) / 40) ** 0.5
    assert low < accuracy < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.25)
    # rows that always come together say less: two groups leave everything open
    halves = ClassificationMetric([ONE])
    right = (probabilities.argmax(1) == labels).tolist()
    halves.update(
        Prediction({"category": probabilities}),
        batch({"category": labels}, tuple("right" if r else "wrong" for r in right)),
    )
    assert halves.intervals()["category/accuracy"] == (0.0, 1.0)


def test_one_group_has_no_interval(single: tuple[Tensor, Tensor]) -> None:
    metric = ClassificationMetric([ONE])
    metric.update(Prediction({"category": single[0]}), batch({"category": single[1]}, ("a",) * 40))
    assert metric.intervals() == {}


def test_resampled_numbers_are_those_of_repeated_rows(
    single: tuple[Tensor, Tensor], several: tuple[Tensor, Tensor]
) -> None:
    """Counting a row three times is having it three times in the table."""
    times = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(2))
    for column, (probabilities, labels) in ((ONE, single), (MANY, several)):
        rows = fed(column, probabilities, labels)._columns[column.name]
        repeated = fed(column, probabilities.repeat_interleave(times, 0), labels.repeat_interleave(times, 0)).compute()
        for number, value in rows.weigher()(times.double()).items():
            assert value == pytest.approx(repeated[f"{column.name}/{number}"]), number


def test_worked_numbers() -> None:
    """Two of three right on one object, none of one right on two; a half counts as said."""
    labels = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]).float()
    said = torch.tensor([[0.5, 0.1, 0.4], [0.2, 0.9, 0.0], [0.9, 0.2, 0.9], [0.8, 0.49, 0.1]])
    numbers = fed(MANY, said, labels).compute()
    assert numbers["objects/exact_1"] == pytest.approx(2 / 3)
    assert numbers["objects/exact_2"] == 0.0
    assert numbers["objects/exact_match"] == pytest.approx(0.5)
    assert "objects/exact_0" not in numbers
    assert "objects/exact_3" not in numbers


def test_a_column_of_one_label() -> None:
    column = Target("fall", ("fall",), multi=True)
    numbers = fed(column, torch.tensor([[0.9], [0.2], [0.6]]), torch.tensor([[1.0], [0.0], [0.0]])).compute()
    assert numbers["fall/exact_match"] == pytest.approx(2 / 3)
    assert numbers["fall/micro_f1"] == pytest.approx(2 / 3)


def test_unlabelled_rows_are_left_out(single: tuple[Tensor, Tensor], several: tuple[Tensor, Tensor]) -> None:
    for column, (probabilities, labels), empty in ((ONE, single, -1), (MANY, several, float("nan"))):
        hidden = labels.clone()
        hidden[::3] = empty
        kept = torch.arange(40) % 3 != 0
        assert fed(column, probabilities, hidden).compute() == fed(column, probabilities[kept], labels[kept]).compute()


def test_no_labelled_row_gives_no_number(single: tuple[Tensor, Tensor]) -> None:
    metric = fed(ONE, single[0], torch.full((40,), -1))
    assert metric.compute() == {}
    assert metric.confusion("category").sum() == 0
    assert fed(MANY, torch.zeros(2, 3), torch.full((2, 3), float("nan"))).compute() == {}
    assert ClassificationMetric([ONE, MANY]).compute() == {}


def test_several_columns_keep_apart(single: tuple[Tensor, Tensor], several: tuple[Tensor, Tensor]) -> None:
    metric = ClassificationMetric([ONE, MANY])
    metric.update(
        Prediction({"category": single[0], "objects": several[0]}),
        batch({"category": single[1], "objects": several[1]}),
    )
    numbers = metric.compute()
    assert numbers.pop("all/exact_match") <= min(numbers["category/accuracy"], numbers["objects/exact_match"])
    assert numbers == fed(ONE, *single).compute() | fed(MANY, *several).compute()


TWO = (Target("category", ("a", "b", "c")), Target("objects", ("x", "y"), multi=True))
# row by row: both right, category wrong, one object missed, both right (a half counts as said), category unlabelled,
# objects unlabelled
SAID = Prediction(
    {
        "category": torch.tensor([[0.8, 0.1, 0.1]] * 6),
        "objects": torch.tensor([[0.9, 0.2], [0.9, 0.2], [0.4, 0.2], [0.5, 0.5], [0.9, 0.2], [0.9, 0.2]]),
    }
)
TRUE = {
    "category": torch.tensor([0, 2, 0, 0, -1, 0]),
    "objects": torch.tensor([[1, 0], [1, 0], [1, 0], [1, 1], [1, 0], [float("nan")] * 2]),
}


def test_every_column_right() -> None:
    """By hand: of the four samples that are labelled in both columns, the first and the fourth are right in both."""
    metric = ClassificationMetric(TWO)
    metric.update(SAID, batch(TRUE))
    numbers = metric.compute()
    assert numbers["all/exact_match"] == 0.5
    assert numbers["category/accuracy"] == pytest.approx(4 / 5)
    assert numbers["objects/exact_match"] == pytest.approx(4 / 5)
    low, high = metric.intervals()["all/exact_match"]
    assert low < 0.5 < high


def test_every_column_right_is_counted_over_batches_and_metrics() -> None:
    whole, halves = ClassificationMetric(TWO), [ClassificationMetric(TWO), ClassificationMetric(TWO)]
    whole.update(SAID, batch(TRUE))
    for part, rows in zip(halves, (slice(0, 3), slice(3, 6)), strict=True):
        said = Prediction({name: p[rows] for name, p in SAID.probabilities.items()})
        part.update(said, batch({name: y[rows] for name, y in TRUE.items()}))
    assert [half.compute()["all/exact_match"] for half in halves] == [pytest.approx(1 / 3), 1.0]
    halves[0].take(halves[1])
    assert halves[0].compute() == whole.compute()


def test_one_column_or_one_called_all_has_no_number_of_every_column() -> None:
    alone = ClassificationMetric(TWO[:1])
    alone.update(SAID, batch(TRUE))
    assert "all/exact_match" not in alone.compute()
    named = ClassificationMetric([TWO[0], Target("all", ("x", "y"), multi=True)])
    named.update(
        Prediction({"category": SAID.probabilities["category"], "all": SAID.probabilities["objects"]}),
        batch({"category": TRUE["category"], "all": TRUE["objects"]}),
    )
    assert named.compute()["all/exact_match"] == pytest.approx(4 / 5)  # the column's own


def test_wrong_columns_are_named(single: tuple[Tensor, Tensor]) -> None:
    metric = ClassificationMetric([ONE, MANY])
    with pytest.raises(ValueError, match=r"objects: expected in the predictions \(category\)"):
        metric.update(Prediction({"category": single[0]}), batch({"category": single[1]}))
    with pytest.raises(ValueError, match="'objects', expected a single-label one: category"):
        metric.confusion("objects")
