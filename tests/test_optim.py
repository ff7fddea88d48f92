"""Optimisers, schedule and moving average against their closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kinetext.optim import Ema, build, rate
from kinetext.types import RecipeError


def test_every_parameter_has_exactly_one_optimiser_and_muon_takes_hidden_matrices() -> None:
    module = nn.ModuleDict({"words": nn.Embedding(4, 8), "linear": nn.Linear(8, 8), "conv": nn.Conv2d(1, 2, 3)})
    for name in ("adamw", "muon"):
        optimizers = build(module, module.named_parameters(), name, lr=1e-3, weight_decay=0.1)  # type: ignore[arg-type]
        owned = [id(p) for o in optimizers for g in o.param_groups for p in g["params"]]
        assert sorted(owned) == sorted(id(p) for p in module.parameters())
    muon = next(o for o in optimizers if isinstance(o, torch.optim.Muon))
    assert [tuple(p.shape) for g in muon.param_groups for p in g["params"]] == [(8, 8)]
    adamw = next(o for o in optimizers if isinstance(o, torch.optim.AdamW))
    assert all(p.ndim >= 2 for p in adamw.param_groups[0]["params"]) and adamw.param_groups[1]["weight_decay"] == 0


def test_betas_are_those_of_adamw() -> None:
    """After one step from zero the averages are (1 - beta1) g and (1 - beta2) g^2."""
    module = nn.Linear(1, 1, bias=False)
    (optimizer,) = build(module, module.named_parameters(), "adamw", lr=1e-3, weight_decay=0.0, betas=(0.2, 0.7))
    module.weight.grad = torch.full((1, 1), 3.0)
    optimizer.step()
    state = optimizer.state[module.weight]
    assert state["exp_avg"].item() == pytest.approx(0.8 * 3) and state["exp_avg_sq"].item() == pytest.approx(0.3 * 9)


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(RecipeError, match="nothing to train"):
        build(nn.Identity(), [], "adamw", lr=1e-3, weight_decay=0.0)


def test_the_rate_rises_stays_and_falls() -> None:
    def at(progress: float, step: int, decay: str = "cosine") -> float:
        return rate(progress, step, lr=2.0, warmup=10, decay=decay, decay_fraction=0.5)  # type: ignore[arg-type]

    assert at(0.0, 0) == pytest.approx(0.2) and at(0.1, 9) == pytest.approx(2.0)
    assert at(0.5, 500) == pytest.approx(2.0) and at(1.0, 1000) == pytest.approx(0.0)
    assert at(0.75, 750) == pytest.approx(1.0) and at(0.9, 900, "linear") == pytest.approx(0.4)
    assert at(1.0, 1000, "constant") == 2.0


def test_the_average_is_the_recursion_and_is_put_back() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    ema = Ema(module, 0.5)
    expected = 1.0
    for n, value in enumerate((2.0, 3.0, 4.0, 5.0)):
        nn.init.constant_(module.weight, value)
        ema.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    with ema.applied():
        assert float(module.weight.detach()) == pytest.approx(expected)
    assert float(module.weight.detach()) == 5.0


def test_frozen_weights_and_buffers_are_copied() -> None:
    module = nn.BatchNorm1d(2)
    module.weight.requires_grad_(False)
    ema = Ema(module, 0.9)
    module(torch.randn(8, 2))
    ema.update()
    torch.testing.assert_close(ema.shadow["running_mean"], module.running_mean)
    assert int(ema.shadow["num_batches_tracked"]) == 1
