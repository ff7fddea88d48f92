"""Regression: units, worked losses, unlabelled rows, columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinetext.encoders.frame_cnn import FrameCNN
from kinetext.reading import chosen
from kinetext.runtime import rng
from kinetext.tasks.regression import Regression
from kinetext.types import Batch, RecipeError, Target

HEIGHT, WEIGHT = Target("height", numeric=True), Target("weight", numeric=True)
NUMBERS = {"height": (100.0, 200.0), "weight": (1.0, 2.0, 3.0)}  # means 150 and 2, deviations 50 and (2/3) ** 0.5


def regression(**options: Any) -> Regression:
    torch.manual_seed(0)
    encoder = FrameCNN(channels=1, num_frames=2, size=16, dim=8, width=8, stages=2, depth=0, heads=2)
    return Regression({"video": encoder}, None, (HEIGHT, WEIGHT), NUMBERS, **options).eval()


def saying(task: Regression, *standardised: float) -> Regression:
    """The task with a head that always says these, in standard deviations."""
    torch.nn.init.zeros_(task.head.weight)
    task.head.bias.data = torch.tensor(standardised)
    return task


def batch(height: Tensor, weight: Tensor, counts: Tensor | None = None) -> Batch:
    size = len(height)
    return Batch(
        keys=tuple(map(str, range(size))),
        video=torch.zeros(size, 1, 2, 16, 16),
        video_mask=torch.ones(size, 2, dtype=torch.bool),
        text=("",) * size,
        tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.zeros(size, 1, dtype=torch.bool),
        labels={"height": height, "weight": weight},
        weight=torch.ones(size) if counts is None else counts,
    )


def test_predictions_are_in_the_columns_own_unit() -> None:
    made = saying(regression(), 1.0, -2.0).predict(batch(torch.zeros(2), torch.zeros(2)), rng=rng(0)).numbers
    assert made["height"].tolist() == [200.0, 200.0]
    assert made["weight"] == pytest.approx([2 - 2 * (2 / 3) ** 0.5] * 2)


def test_worked_losses() -> None:
    """Standardised, the heights are 0 and 3; what is said is 1."""
    given = batch(torch.tensor([150.0, 300.0]), torch.tensor([2.0, float("nan")]), torch.tensor([1.0, 3.0]))
    mse = saying(regression(), 1.0, 0.5).loss(given, player="model", rng=rng(0))
    assert float(mse.parts["height/loss"]) == pytest.approx((1 * 1 + 3 * 4) / 4)
    assert float(mse.parts["weight/loss"]) == pytest.approx(0.25)
    assert float(mse.total.detach()) == pytest.approx((13 / 4 + 0.25) / 2)
    huber = saying(regression(loss="huber"), 1.0, 0.5).loss(given, player="model", rng=rng(0))
    assert float(huber.parts["height/loss"]) == pytest.approx((1 * 0.5 + 3 * 1.5) / 4)


def test_unlabelled_rows_give_no_gradient() -> None:
    task = regression()
    nothing = torch.full((2,), float("nan"))
    loss = task.loss(batch(nothing, nothing), player="model", rng=rng(0)).total
    loss.backward()
    assert float(loss.detach()) == 0
    assert not task.head.weight.grad.any()  # type: ignore[union-attr]


def test_weights_bring_their_unit() -> None:
    encoder = FrameCNN(channels=1, num_frames=2, size=16, dim=8, width=8, stages=2, depth=0, heads=2)
    reopened = Regression({"video": encoder}, None, (HEIGHT, WEIGHT), {})
    assert reopened.mean.isnan().all()
    reopened.load_state_dict(regression().state_dict())
    assert reopened.mean.tolist() == [150.0, 2.0]


def test_columns_are_named() -> None:
    kind = Target("kind", ("a", "b"))
    assert chosen((kind, HEIGHT), (), numeric=True) == (HEIGHT,)
    with pytest.raises(RecipeError, match=r"task.targets: 'kind' is not a column of numbers, .*: height"):
        chosen((kind, HEIGHT), ("kind",), numeric=True)
    with pytest.raises(RecipeError, match=r"task.targets: the data has no column of numbers"):
        chosen((kind,), (), numeric=True)
    with pytest.raises(
        RecipeError, match="'height' has 2 numbers in the training data, expected at least two that differ"
    ):
        Regression({"video": FrameCNN()}, None, (HEIGHT,), {"height": (3.0, 3.0)})


def test_a_frozen_encoder_stays_as_it_is() -> None:
    task = regression(frozen=("video",)).train()
    assert not task.encoders["video"].training
    assert {name for name, _ in task.parameters_of("model")} == {"head.weight", "head.bias"}
    with pytest.raises(RecipeError, match=r"task.frozen: 'text' is not encoded, expected names from: video"):
        regression(frozen=("text",))
