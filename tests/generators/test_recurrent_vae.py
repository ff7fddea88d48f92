"""The recurrent VAE against closed forms: its likelihood, its bound, its counters, and what it learns."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from kinetext.contracts import check_generator
from kinetext.generators.recurrent_vae import RecurrentVAE
from kinetext.nn.recurrent import Gaussian
from kinetext.types import DataError, Features, Known, Start

SHAPE = (1, 4, 8, 8)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(batch: int, width: int = 64) -> Features:
    return Features(torch.randn(batch, 3, width, generator=rng(9)), torch.ones(batch, 3, dtype=torch.bool))


def clips(batch: int) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=rng(3))


def loss(model: RecurrentVAE, target: Tensor, seed: int = 0, **options: Any) -> Any:
    return model.loss(target, text(len(target)), player="model", rng=rng(seed), **options)


@pytest.mark.parametrize(
    "options",
    [{"prior": "standard"}, {"refinements": 3, "heads": 2}, {"sigma": 0.5, "kl_weight": 0.1}, {"temperature": 0.5}],
)
def test_the_contract_holds_with_other_options(options: dict[str, Any]) -> None:
    check_generator(RecurrentVAE(**options))


def test_the_contract_holds_on_pixels() -> None:
    model = RecurrentVAE(channels=1, height=64, width=64, filters=8, dim=16)
    check_generator(model, shape=(1, 2, 64, 64))


def test_reconstruction_is_the_gaussians_nats() -> None:
    model, target, mean = RecurrentVAE(sigma=0.4), clips(3), torch.randn(3, *SHAPE, generator=rng(4))
    expected = -Normal(mean, 0.4).log_prob(target).flatten(1).sum(1)
    for training in (True, False):
        torch.testing.assert_close(model.train(training)._nats(target, mean), expected)


def test_the_best_sigma_is_the_root_of_the_mean_squared_error() -> None:
    """No other gives more likelihood; evaluation takes the average of what training found, and changes nothing."""
    model, target, mean = RecurrentVAE(), clips(3), torch.randn(3, *SHAPE, generator=rng(4))
    best = model._nats(target, mean).mean()
    sigma = (target - mean).square().mean().sqrt()
    others = [-Normal(mean, factor * sigma).log_prob(target).flatten(1).sum(1).mean() for factor in (1.0, 0.97, 1.03)]
    torch.testing.assert_close(best, others[0])
    assert best < min(others[1:])
    for _ in range(1500):
        model._nats(target, mean)
    torch.testing.assert_close(model.eval()._nats(target, mean).mean(), best)
    before = model.variance.clone()
    model._nats(target + 1, mean)
    assert torch.equal(model.variance, before)


def test_the_loss_is_the_sum_of_its_parts_per_number() -> None:
    model = RecurrentVAE(refinements=2, kl_weight=0.3).eval()
    losses = loss(model, clips(3))
    expected = (losses.parts["reconstruction"] + 0.3 * losses.parts["kl"]) / (4 * 8 * 8)
    torch.testing.assert_close(losses.total.detach(), expected)
    assert losses.parts["kl"] > 0


def test_free_bits_by_hand() -> None:
    """Every dimension costs its mean KL over the batch, but no less than what is free; what is free has no gradient."""
    plain, free = RecurrentVAE(latent=5), RecurrentVAE(latent=5, free_bits=5.0)
    free.load_state_dict(plain.state_dict())
    # push some dimensions above what is free
    for model in (plain, free):
        model.eval()
        with torch.no_grad():
            model.inference[2].bias[:2] = 3.0
    target = clips(4)
    there = torch.ones(4, dtype=torch.bool)
    read = {t: (x, there) for t, x in enumerate(plain.encoder(target).unbind(1))}
    noise = torch.randn(4, 4, 1, 5, generator=rng())
    _, kl_BTZ = plain._draw(text(4), noise, read)
    kl_Z = kl_BTZ.sum(1).mean(0)
    assert (kl_Z > 5).any() and (kl_Z < 5).any()
    difference = kl_Z.clamp(min=5).sum() - kl_Z.sum()
    torch.testing.assert_close(
        (loss(free, target).total - loss(plain, target).total) * 256, difference, atol=1e-3, rtol=1e-3
    )
    assert loss(free, target).parts["kl"] == loss(plain, target).parts["kl"]  # what is told is the KL itself


class Linear(nn.Module):
    """The decoder x = w * (sum of the canvas), a linear-Gaussian model."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = w

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.w * x_BTD[:, :, None, :1, None].transpose(1, 2)


class Keep(nn.Module):
    """A cell whose state is the decision itself."""

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(batch, 1), torch.zeros(batch, 1)

    def forward(self, x_BD: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return x_BD[:, :1], x_BD[:, :1]


class Says(nn.Module):
    """An inference network that says the exact posterior of z given x = w z + sigma e."""

    def __init__(self, w: float, sigma: float) -> None:
        super().__init__()
        self.w, self.variance = w, sigma**2 / (w**2 + sigma**2)

    def forward(self, seen: Tensor) -> Tensor:
        mean = self.w * seen[:, -1:] / (self.w**2 / (1 - self.variance))
        std = torch.full_like(mean, self.variance**0.5)
        return torch.cat([mean, (torch.expm1(std - 1e-4)).log() - math.log(math.e - 1)], dim=1)


def test_with_the_exact_posterior_the_bound_is_the_likelihood() -> None:
    """Frames x_t = w z_t + sigma e_t with z_t ~ N(0, 1): -log p(x) = -sum log N(x_t; 0, w^2 + sigma^2), whatever noise."""
    w, sigma = 1.5, 0.4
    model = RecurrentVAE(
        channels=1, height=1, width=1, dim=1, latent=1, prior="standard", sigma=sigma, filters=8
    ).eval()
    model.cell, model.decoder, model.inference = Keep(), Linear(w), Says(w, sigma)  # type: ignore[assignment]
    model.encoder = nn.Flatten(2)  # type: ignore[assignment]
    target = torch.randn(6, 1, 5, 1, 1, generator=rng(5))
    model.encoder.forward = lambda x: x[:, 0, :, 0]  # type: ignore[method-assign]
    exact = -Normal(0.0, (w**2 + sigma**2) ** 0.5).log_prob(target).flatten(1).sum(1).mean()
    bound = loss(model, target.repeat(400, 1, 1, 1, 1)).total * 5
    torch.testing.assert_close(bound, exact, atol=0.05, rtol=0)
    joint = MultivariateNormal(torch.zeros(5), (w**2 + sigma**2) * torch.eye(5)).log_prob(target.flatten(1))
    torch.testing.assert_close(exact, -joint.mean())


def test_frames_that_are_not_there_come_from_the_prior() -> None:
    model, target = RecurrentVAE().eval(), clips(2)
    few = torch.tensor([0, 2])
    losses = loss(model, target[:, :, few], frames=few)
    noise = torch.randn(2, 3, 1, 16, generator=rng())
    there = torch.ones(2, dtype=torch.bool)
    read = model.encoder(target[:, :, few])
    mean, kl = model._draw(text(2), noise, {0: (read[:, 0], there), 2: (read[:, 1], there)})
    assert not kl[:, 1].any() and kl[:, 0].any() and kl[:, 2].any()
    expected = model._nats(target[:, :, few], mean[:, :, few]).mean()
    torch.testing.assert_close(losses.parts["reconstruction"], expected.detach())


def test_the_kl_rises_with_the_calls_of_training_alone_and_resumes() -> None:
    model, target = RecurrentVAE(kl_calls=4, sigma=1.0), clips(2)
    whole = loss(model.eval(), target)
    parts = whole.parts["reconstruction"], whole.parts["kl"]
    model.train()
    for share in (0.25, 0.5):
        expected = (parts[0] + share * parts[1]) / 256
        torch.testing.assert_close(loss(model, target).total.detach(), expected)
    torch.testing.assert_close(loss(model.eval(), target).total, whole.total)
    again = RecurrentVAE(kl_calls=4, sigma=1.0)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(loss(again.train(), target).total, loss(model.train(), target).total)
    torch.testing.assert_close(loss(again, target).total, whole.total)  # the fourth call has the whole weight


def test_refinements_write_to_one_canvas() -> None:
    """The decoder of frames sees the sum of what every refinement's state and decision say."""
    model = RecurrentVAE(refinements=3, prior="standard").eval()
    seen: list[Tensor] = []
    states: list[Tensor] = []
    decisions: list[Tensor] = []
    model.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.cell.register_forward_hook(lambda module, args, out: states.append(out[0]))
    model.cell.register_forward_pre_hook(lambda module, args: decisions.append(args[0][:, :16]))
    model.sample((2, *SHAPE), text(2), rng=rng(), steps=1, guidance=1.0)
    expected = (
        torch.cat([torch.stack(states), torch.stack(decisions)], dim=2).unflatten(0, (4, 3)).sum(1).transpose(0, 1)
    )
    torch.testing.assert_close(seen[0], expected)


def test_known_frames_are_read_and_later_decisions_go_on_from_them() -> None:
    model, target = RecurrentVAE().eval(), clips(2)
    mask = torch.tensor([[True, True, False, False], [False, False, True, False]])
    made = model.sample((2, *SHAPE), text(2), rng=rng(), steps=1, guidance=1.0, known=Known(target, mask))
    keep = mask[:, None, :, None, None].expand_as(target)
    assert torch.equal(made[keep], target[keep])
    plain = model.sample((2, *SHAPE), text(2), rng=rng(), steps=1, guidance=1.0)
    torch.testing.assert_close(made[1, :, :2], plain[1, :, :2])  # what is before a known frame does not know it
    assert not torch.allclose(made[1, :, 3], plain[1, :, 3]) and not torch.allclose(made[0, :, 2], plain[0, :, 2])
    hidden = torch.where(keep, target, float("nan"))
    same = model.sample((2, *SHAPE), text(2), rng=rng(), steps=1, guidance=1.0, known=Known(hidden, mask))
    torch.testing.assert_close(same, made)


def test_temperature_narrows_the_prior() -> None:
    model = RecurrentVAE().eval()
    cold = RecurrentVAE(temperature=1e-6).eval()
    cold.load_state_dict(model.state_dict())
    made = [cold.sample((2, *SHAPE), text(2), rng=rng(seed), steps=1, guidance=1.0) for seed in (1, 2)]
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=1e-4)
    first = Gaussian.of(torch.tensor([[1.0, 0.0]]))
    assert float(first.at(torch.zeros(1, 1))) == 1.0


def test_learning_the_text_decides_the_clip() -> None:
    """Four clips of two texts: every text draws one of its own, and both of them are drawn."""
    torch.manual_seed(0)
    model = RecurrentVAE(dim=32, latent=8, filters=8, cond_dim=8, kl_calls=50)
    x = torch.zeros(4, 1, 8)
    x[:2, 0, 0], x[2:, 0, 1] = 3.0, 3.0
    cond = Features(x.repeat(4, 1, 1), torch.ones(16, 1, dtype=torch.bool))
    patterns = torch.randn(4, 1, 2, 4, 4, generator=rng(1)).repeat_interleave(2, 3).repeat_interleave(2, 4)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for step in range(150):
        model.loss(patterns.repeat(4, 1, 1, 1, 1), cond, player="model", rng=rng(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    made = model.sample((16, 1, 2, 8, 8), cond, rng=rng(7), steps=1, guidance=1.0)
    away = (made[:, None] - patterns[None]).square().mean((2, 3, 4, 5))  # (16, 4)
    nearest = away.argmin(1)
    assert (nearest // 2 == torch.arange(16) % 4 // 2).float().mean() > 0.9
    assert away.min(1).values.median() < 0.3
    assert len(set(nearest.tolist())) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refinements": 0}, "refinements: 0, expected >= 1"),
        ({"latent": 0}, "latent: 0, expected >= 1"),
        ({"sigma": -1.0}, "sigma: -1.0, expected >= 0"),
        ({"free_bits": -0.1}, "free_bits: -0.1, expected >= 0"),
        ({"kl_calls": -1}, "kl_calls: -1, expected >= 0"),
        ({"kl_weight": 0.0}, "kl_weight: 0.0, expected > 0"),
        ({"temperature": 1.5}, r"temperature: 1.5, expected in \(0, 1\]"),
        ({"filters": 12}, "filters: 12, expected a multiple of 8"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentVAE(**options)


def test_what_it_cannot_do_is_refused() -> None:
    model = RecurrentVAE()
    with pytest.raises(ValueError, match=r"frames \(C, H, W\) of \(1, 8, 4\), expected \(1, 8, 8\)"):
        model.check((1, 4, 8, 4))
    ask: dict[str, Any] = {"rng": rng(), "steps": 1, "guidance": 1.0}
    with pytest.raises(DataError, match="start: recurrent_vae can't do that; it can do known frames"):
        model.sample((2, *SHAPE), text(2), **ask, start=Start(clips(2), 0.5))
    with pytest.raises(DataError, match="guidance"):
        model.sample((2, *SHAPE), text(2), **{**ask, "guidance": 3.0})
