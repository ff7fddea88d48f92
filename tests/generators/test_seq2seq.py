"""Sequence to sequence by hand: what it is fed with, what its loss is, what it samples, and what it learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from kinetext.contracts import check_generator
from kinetext.generators.seq2seq import Seq2Seq
from kinetext.types import DataError, Features, Known, Losses, Start

SHAPE = (1, 4, 8, 8)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(batch: int, width: int = 64) -> Features:
    return Features(torch.randn(batch, 3, width, generator=rng(9)), torch.ones(batch, 3, dtype=torch.bool))


def clips(batch: int) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=rng(3))


def loss(model: Seq2Seq, target: Tensor, seed: int = 0, **options: Any) -> Losses:
    return model.loss(target, text(len(target)), player="model", rng=rng(seed), **options)


def sample(model: Seq2Seq, batch: int, seed: int = 0, **options: Any) -> Tensor:
    return model.sample((batch, *SHAPE), text(batch), rng=rng(seed), steps=1, guidance=1.0, **options)


@pytest.mark.parametrize("options", [{"depth": 2, "heads": 2}, {"own": 1.0, "own_calls": 0}, {"temperature": 0.5}])
def test_the_contract_holds_with_other_options(options: dict[str, Any]) -> None:
    check_generator(Seq2Seq(**options))


def test_the_contract_holds_on_pixels() -> None:
    model = Seq2Seq(channels=1, height=64, width=64, filters=8, dim=16)
    check_generator(model, shape=(1, 2, 64, 64))


def noisy_codes(model: Seq2Seq, target: Tensor, seed: int = 0) -> Tensor:
    """What stands for the frames in a loss with that seed: its noise is the first that is drawn."""
    codes = model._codes(target)
    return codes + model.noise * torch.randn(codes.shape, generator=rng(seed))


def by_hand(model: Seq2Seq, target: Tensor) -> tuple[Tensor, Tensor]:
    """Pure teacher forcing, step by step: nats of a clip's codes, and the squared error of its frames."""
    code = noisy_codes(model, target)
    cond = text(len(target))
    (cell,) = model.lstm.cells
    h, c = torch.zeros(len(target), 64), torch.zeros(len(target), 64)
    nats = torch.zeros(len(target))
    fed = model.begin.expand(len(target), -1)
    for t in range(target.shape[2]):
        scores = model.attention.score(torch.tanh(model.attention.query(h)[:, None] + model.attention.key(cond.x)))
        context = (scores.softmax(1) * cond.x).sum(1)
        i, f, g, o = cell.gates(torch.cat([fed, context, h], dim=1)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        nats = nats - model.head.log_prob(code[:, t], torch.cat([h, context, fed], dim=1))
        fed = code[:, t]
    error = (model.decoder(code) - target).square().mean()
    return nats.mean(), error


@pytest.mark.parametrize(("own", "training"), [(0.0, True), (0.0, False), (0.7, False)])
def test_with_probability_0_and_in_evaluation_it_is_pure_teacher_forcing(own: float, training: bool) -> None:
    model, target = Seq2Seq(own=own, own_calls=0).train(training), clips(3)
    with torch.no_grad():
        losses = loss(model, target)
        nats, error = by_hand(model, target)
    torch.testing.assert_close(losses.parts["code"], nats)
    torch.testing.assert_close(losses.parts["reconstruction"], error)
    torch.testing.assert_close(losses.total, error + nats / (4 * 16))


def heard(model: Seq2Seq, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the density is told in the next loss, gathered."""
    told: list[Tensor] = []
    real = model.head.log_prob
    monkeypatch.setattr(model.head, "log_prob", lambda y, state: told.append(state) or real(y, state))
    return told


def test_with_probability_1_it_is_fed_with_its_own_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Seq2Seq(own=1.0, own_calls=0).train()
    told = heard(model, monkeypatch)
    for target in (clips(3), clips(3) + 1.0):
        loss(model, target)
    torch.testing.assert_close(told[0], told[1])  # the real frames are learned, and never fed
    model.own = 0.0
    for target in (clips(3), clips(3) * torch.randn(3, 1, 1, 1, 1, generator=rng(5))):
        loss(model, target)
    assert not torch.allclose(told[2], told[3])
    torch.testing.assert_close(told[0][:, 0], told[2][:, 0])  # before the first frame nothing is fed


def test_how_often_it_is_fed_with_its_own_rises_with_the_calls_of_training_and_resumes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Seq2Seq(own=0.8, own_calls=4)
    target, fed = torch.randn(200, *SHAPE, generator=rng(1)), []
    write = model._write

    def watched(*args: Any) -> tuple[Tensor, Tensor]:
        fed.append(float(args[2].float().mean()))
        return write(*args)

    monkeypatch.setattr(model, "_write", watched)
    with torch.no_grad():
        for seed in range(5):
            loss(model.train(), target, seed)
            loss(model.eval(), target, seed)
    assert fed[::2] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2], abs=0.05)
    assert fed[1::2] == [1.0] * 5
    again = Seq2Seq(own_calls=4)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert int(again.ramp.calls_so_far) == 5


def test_frames_that_are_not_there_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, target = Seq2Seq().eval(), clips(2)
    few = torch.tensor([0, 2])
    told = heard(model, monkeypatch)
    losses = loss(model, target[:, :, few], frames=few)
    (seen,) = told
    assert seen.shape[:2] == (2, 2)
    first = noisy_codes(model, target[:, :, few])[:, 0]
    code = seen[:, 1, -16:]  # what it was fed with before frame 2: its own frame 1, neither real one
    assert not torch.allclose(code, first)
    # a loss on frames 0 and 1 is fed with the real frame 0 before frame 1
    loss(model, target[:, :, :2])
    torch.testing.assert_close(told[1][:, 1, -16:], noisy_codes(model, target[:, :, :2])[:, 0])
    assert losses.parts["code"].isfinite()


def test_codes_have_mean_0_and_variance_1_after_training() -> None:
    """In evaluation they are normalised by what training saw, so a clip does not depend on its neighbours."""
    model = Seq2Seq().train()
    torch.manual_seed(0)
    target = 3 + 2 * torch.randn(16, *SHAPE)
    with torch.no_grad():
        for _ in range(1500):
            model._codes(target)
    codes = model.eval()._codes(target).flatten(0, 1)
    torch.testing.assert_close(codes.mean(0), torch.zeros(16), atol=0.02, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(16), atol=0.02, rtol=0)


def test_the_density_teaches_the_text_and_not_the_codes() -> None:
    model, target = Seq2Seq(own=0.0), clips(2)
    cond = text(2)
    cond.x.requires_grad_()
    losses = model.loss(target, cond, player="model", rng=rng())
    losses.total.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert cond.x.grad is not None and cond.x.grad.any()
    model.zero_grad()
    code = noisy_codes(model, target)
    (model.decoder(code) - target).square().mean().backward()
    for name, parameter in model.encoder.named_parameters():
        torch.testing.assert_close(grads[f"encoder.{name}"], parameter.grad)


def test_known_frames_are_fed_and_later_ones_go_on_from_them() -> None:
    model, target = Seq2Seq().eval(), clips(2)
    mask = torch.tensor([[True, True, False, False], [False, False, True, False]])
    made = sample(model, 2, known=Known(target, mask))
    keep = mask[:, None, :, None, None].expand_as(target)
    assert torch.equal(made[keep], target[keep])
    plain = sample(model, 2)
    torch.testing.assert_close(made[1, :, :2], plain[1, :, :2])  # what is before a known frame does not know it
    assert not torch.allclose(made[1, :, 3], plain[1, :, 3]) and not torch.allclose(made[0, :, 2], plain[0, :, 2])
    hidden = torch.where(keep, target, float("nan"))
    torch.testing.assert_close(sample(model, 2, known=Known(hidden, mask)), made)


def test_learning_the_text_decides_the_clip() -> None:
    """Four clips of two texts: every text writes one of its own, sharp, and both of them are written."""
    torch.manual_seed(0)
    model = Seq2Seq(dim=32, code=4, pieces=2, filters=8, cond_dim=8, own_calls=100)
    x = torch.zeros(4, 1, 8)
    x[:2, 0, 0], x[2:, 0, 1] = 3.0, 3.0
    cond = Features(x.repeat(4, 1, 1), torch.ones(16, 1, dtype=torch.bool))
    patterns = torch.randn(4, 1, 2, 4, 4, generator=rng(1)).repeat_interleave(2, 3).repeat_interleave(2, 4)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for step in range(180):
        model.loss(patterns.repeat(4, 1, 1, 1, 1), cond, player="model", rng=rng(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    made = model.sample((16, 1, 2, 8, 8), cond, rng=rng(7), steps=1, guidance=1.0)
    away = (made[:, None] - patterns[None]).square().mean((2, 3, 4, 5))  # (16, 4)
    nearest = away.argmin(1)
    assert (nearest // 2 == torch.arange(16) % 4 // 2).float().mean() > 0.9
    assert away.min(1).values.median() < 0.2
    assert len(set(nearest.tolist())) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth: 0, expected >= 1"),
        ({"pieces": 5}, "pieces: 5, expected a divisor of the code's size 16"),
        ({"noise": 0.0}, "noise: 0.0, expected > 0"),
        ({"own": 1.5}, r"own: 1.5, expected in \[0, 1\]"),
        ({"own_calls": -1}, "own_calls: -1, expected >= 0"),
        ({"temperature": 0.0}, r"temperature: 0.0, expected in \(0, 1\]"),
        ({"filters": 12}, "filters: 12, expected a multiple of 8"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seq2Seq(**options)


def test_what_it_cannot_do_is_refused() -> None:
    model = Seq2Seq()
    with pytest.raises(ValueError, match=r"frames \(C, H, W\) of \(2, 8, 8\), expected \(1, 8, 8\)"):
        model.check((2, 4, 8, 8))
    with pytest.raises(DataError, match="start: seq2seq can't do that; it can do known frames"):
        sample(model, 2, start=Start(clips(2), 0.5))
    with pytest.raises(DataError, match="batch: one frame of one clip, expected two frames or more"):
        model.loss(clips(1)[:, :, :1], text(1), player="generator", rng=rng())
    cells = torch.ones(2, 1, 4, 8, 8, dtype=torch.bool)
    cells[..., :4] = False
    with pytest.raises(DataError, match="known cells"):
        sample(model, 2, known=Known(clips(2), cells))
