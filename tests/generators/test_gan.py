"""The adversarial network against closed forms: its losses by hand, R1 of a linear discriminator, singular values."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinetext.generators.gan import Gan
from kinetext.nn.deconvolution import doublings
from kinetext.types import DataError, Features


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(batch: int, width: int = 64) -> Features:
    return Features(torch.randn(batch, 3, width, generator=rng(9)), torch.ones(batch, 3, dtype=torch.bool))


def said(*words: float) -> Features:
    """Texts of one number; NaN is no text."""
    x = torch.tensor(words)[:, None, None]
    return Features(x, ~x.isnan()[..., 0])


def softplus(x: float) -> float:
    return log(1 + exp(x))


class Product(nn.Module):
    """D(x, s) = mean(x) s, whose every value is known."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1, keepdim=True)

    def score(self, h: Tensor, text_ND: Tensor, has_N: Tensor) -> Tensor:
        return h[:, 0] * text_ND[:, 0] * self.one


class Linear(nn.Module):
    """D(x, s) = (w + V s) . x, whose gradient is w + V s."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(size, generator=rng(1)))
        self.v = nn.Parameter(torch.randn(size, width, generator=rng(2)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def score(self, h: Tensor, text_ND: Tensor, has_N: Tensor) -> Tensor:
        return (h * (self.w + text_ND @ self.v.T)).sum(1)


class Always(nn.Module):
    """Makes clips of one grey."""

    def __init__(self, grey: float) -> None:
        super().__init__()
        self.grey = nn.Parameter(torch.tensor(grey))

    def forward(self, noise: Tensor, motion: Tensor | None, text_BD: Tensor) -> Tensor:
        return self.grey.expand(len(noise), 1, 4, 8, 8)


def by_hand(**options: Any) -> Gan:
    """Real clips are 0.5, made ones 0.25, and a score is that times the text."""
    gan = Gan(cond_dim=1, views=("video",), r1=0.0, **options)
    gan.critics["video"] = Product()
    gan.maker = Always(0.25)  # type: ignore[assignment]
    return gan


def test_the_losses_of_two_clips_by_hand() -> None:
    """Texts 2 and -6: right scores 1 and -3, of made clips 0.5 and -1.5, of real clips with the other's text -3 and 1."""
    cond, target = said(2.0, -6.0), torch.full((2, 1, 4, 8, 8), 0.5)
    hinge = (0 + 4) / 2 + 0.3 * (1.5 + 0) / 2 + 0.7 * (0 + 2) / 2
    right, made, wrong = softplus(-1) + softplus(3), softplus(0.5) + softplus(-1.5), softplus(-3) + softplus(1)
    bce = right / 2 + 0.3 * made / 2 + 0.7 * wrong / 2
    rivals = 0.3 * (softplus(0.5 - 1) + softplus(-1.5 + 3)) / 2 + 0.7 * (softplus(-3 - 1) + softplus(1 + 3)) / 2
    expected = {
        ("hinge", "discriminator"): hinge,
        ("hinge", "generator"): -(0.5 - 1.5) / 2,
        ("bce", "discriminator"): bce,
        ("bce", "generator"): (softplus(-0.5) + softplus(1.5)) / 2,
        ("relativistic", "discriminator"): rivals,
        ("relativistic", "generator"): (softplus(1 - 0.5) + softplus(-3 + 1.5)) / 2,
    }
    for (objective, player), value in expected.items():
        losses = by_hand(objective=objective, mismatch=0.7).loss(target, cond, player=player, rng=rng())
        assert losses.total.item() == pytest.approx(value)
        if player == "generator":  # scores 0.5 and -1.5 against 0, or against those of real clips, 1 and -3
            assert losses.parts["fooled_video"] == 0.5


def test_a_wrong_text_is_one_that_is_there_and_another() -> None:
    gan = by_hand()
    cond = said(1.0, 1.0, 2.0, float("nan"))
    shifts = set()
    for seed in range(40):
        other, wrong = gan._wrong(cond.pooled(), cond.mask.any(1), rng(seed))
        shift = next(s for s in (1, 2, 3) if torch.equal(other, cond.pooled().roll(s, 0)))
        shifts.add(shift)
        # 1 | 1 | 2 | none beside itself moved by one, two and three places
        expected = {1: [False, False, True, False], 2: [True, False, True, False], 3: [False, True, False, False]}
        assert wrong.tolist() == expected[shift]
    assert shifts == {1, 2, 3}


def test_the_same_text_is_never_told_to_be_wrong() -> None:
    """With one text in the batch, or one clip, the weight of wrong texts is without effect."""
    for cond in (said(2.0, 2.0), said(2.0), said(2.0, float("nan"))):
        target = torch.full((len(cond.x), 1, 4, 8, 8), 0.5)
        losses = [by_hand(mismatch=m).loss(target, cond, player="discriminator", rng=rng()).total for m in (0.0, 0.9)]
        assert torch.equal(*losses)


def test_the_text_of_a_discriminator_is_given() -> None:
    """The generator may not bend the text until everything matches it: with a maker that reads none, none is learned."""
    cond = said(2.0, -6.0)
    x = cond.x.clone().requires_grad_()
    losses = by_hand().loss(torch.zeros(2, 1, 4, 8, 8), Features(x, cond.mask), player="generator", rng=rng())
    losses.total.backward()
    assert x.grad is None


def test_each_player_learns_its_own_and_is_whole_again() -> None:
    gan, cond = Gan(), text(3)
    target = torch.randn(3, 1, 4, 8, 8, generator=rng(3))
    for player in gan.players:
        gan.zero_grad()
        gan.loss(target, cond, player=player, rng=rng()).total.backward()
        with_gradient = {name for name, p in gan.named_parameters() if p.grad is not None}
        assert with_gradient == {name for name, _ in gan.parameters_of(player)}
        assert all(p.requires_grad for p in gan.parameters())


def linear(**options: Any) -> Gan:
    gan = Gan(cond_dim=5, views=("video", "frame", "motion"), frames_seen=2, mismatch=0.0, **options)
    for view, size in (("video", 256), ("frame", 64), ("motion", 64)):
        gan.critics[view] = Linear(size, 5)
    return gan


def closed_form(gan: Gan, cond: Features) -> Tensor:
    """The sum over discriminators of E |w + V s|^2."""
    total = torch.zeros(())
    for critic in gan.critics.values():
        assert isinstance(critic, Linear)
        total = total + (critic.w + cond.pooled() @ critic.v.T).square().sum(1).mean()
    return total


def test_r1_of_linear_discriminators_is_their_squared_norm() -> None:
    gan, cond = linear(), text(3, 5)
    views = gan._views(torch.randn(3, 1, 4, 8, 8, generator=rng(4)), (torch.tensor([2, 0]), torch.tensor([2, 0])))
    found, expected = gan.penalty(views, cond.pooled(), cond.mask.any(1)), closed_form(gan, cond)
    torch.testing.assert_close(found, expected)
    weights = list(gan.critics.parameters())
    for got, wanted in zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(got, wanted)


def test_r1_comes_on_every_kth_step_on_average_and_k_times_as_strong() -> None:
    cond, target = text(3, 5), torch.randn(3, 1, 4, 8, 8, generator=rng(4))
    lazy, never = linear(r1=0.3, r1_every=4), linear(r1=0.0)
    never.load_state_dict(lazy.state_dict())
    extra = 4 * 0.3 / 2 * closed_form(lazy, cond).item()
    seen = []
    for seed in range(200):
        both = [gan.loss(target, cond, player="discriminator", rng=rng(seed)) for gan in (lazy, never)]
        more = (both[0].total - both[1].total).item()
        assert ("r1" in both[0].parts) == (more > 0)
        assert more == 0 or more == pytest.approx(extra, rel=1e-4)
        seen.append(more > 0)
    assert 0.15 < sum(seen) / len(seen) < 0.35
    with torch.no_grad():  # as in an evaluation
        assert "r1" not in linear(r1_every=1).loss(target, cond, player="discriminator", rng=rng()).parts


def test_r2_is_of_made_clips() -> None:
    """Of linear discriminators it is R1, which is the same everywhere; of others it is the slope where made clips are."""
    cond, target = text(3, 5), torch.randn(3, 1, 4, 8, 8, generator=rng(4))
    both, none = linear(r1=0.3, r2=0.2, r1_every=1), linear(r1=0.0)
    none.load_state_dict(both.state_dict())
    losses = [gan.loss(target, cond, player="discriminator", rng=rng()) for gan in (both, none)]
    more = (losses[0].total - losses[1].total).item()
    assert more == pytest.approx((0.3 + 0.2) / 2 * closed_form(both, cond).item(), rel=1e-4)
    curved = Gan(cond_dim=5, r1=0.0, r2=0.2, r1_every=1, views=("video",))
    parts = curved.loss(target, cond, player="discriminator", rng=rng(3)).parts
    noise, path = curved._noise(3, rng(3), target.device)
    made = curved._make(noise, path, cond.pooled(), cond.mask.any(1)).detach()
    expected = curved.penalty({"video": made}, cond.pooled(), cond.mask.any(1)).detach()
    torch.testing.assert_close(parts["r2"], expected)
    assert "r1" not in parts


def test_r1_is_the_same_under_autocast_and_reaches_the_weights() -> None:
    """It is computed in float32, whatever is around it."""
    gan, cond = Gan(), text(2)
    views = gan._views(torch.randn(2, 1, 4, 8, 8, generator=rng(4)), (torch.tensor([1]), torch.tensor([1])))
    found = []
    for on in (False, True):
        gan.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            penalty = gan.penalty(views, cond.pooled(), cond.mask.any(1))
        penalty.backward()
        body = [
            p for critic in gan.critics.values() for name, p in critic.named_parameters() if name.endswith("weight")
        ]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) and bool(p.grad.any()) for p in body)
        found.append([penalty, *(p.grad for p in body)])
    for plain, cast in zip(*found, strict=True):
        assert plain is not None and cast is not None and torch.equal(plain, cast)
    with torch.autocast("cpu", torch.bfloat16):
        total = Gan(r1_every=1).loss(torch.randn(2, 1, 4, 8, 8), cond, player="discriminator", rng=rng()).total
    total.backward()
    assert bool(total.isfinite())


def test_r1_is_the_slope_that_finite_differences_see() -> None:
    """|grad D|^2 of a discriminator as it is built, from differences along every axis."""
    gan = Gan(views=("video",)).double()
    cond = Features(text(1).x.double(), text(1).mask)
    x = torch.randn(1, 1, 4, 8, 8, generator=rng(4), dtype=torch.float64)

    with torch.no_grad():
        steps = torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape[1:]) * 1e-3
        said, has = cond.pooled().expand(len(steps), -1), cond.mask.any(1).expand(len(steps))
        ahead, behind = (gan._scores({"video": clips}, said, has)["video"].double() for clips in (x + steps, x - steps))
        slopes = (ahead - behind) / 2e-3
    gan.float()
    found = gan.penalty({"video": x.float()}, cond.pooled().float(), cond.mask.any(1))
    assert found.item() == pytest.approx(float(slopes.square().sum()), rel=1e-2)


def test_spectral_norm_brings_every_weight_to_a_largest_singular_value_of_one() -> None:
    torch.manual_seed(0)
    gan = Gan(spectral_norm=True)
    views = gan._views(torch.randn(2, 1, 4, 8, 8, generator=rng(4)), (torch.tensor([1]), torch.tensor([1])))
    cond = text(2)
    for _ in range(60):  # one power iteration each
        gan._scores(views, cond.pooled(), cond.mask.any(1))
    gan.eval()
    checked = 0
    for module in gan.critics.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.02)
            checked += 1
    assert checked >= 15
    assert not any(hasattr(module, "parametrizations") for module in Gan().critics.modules())


def test_grids_double_in_time_first_and_in_space_last() -> None:
    assert doublings(2, 3) == [(2, 1, 1), (2, 2, 2), (2, 2, 2)]
    assert doublings(4, 2) == [(2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)]
    assert doublings(1, 0) == [(1, 2, 2)]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 16, 8, 8), {"levels": 2, "time_levels": 3}),
        ((1, 16, 64, 64), {"levels": 4, "time_levels": 2, "dim": 8, "critic_dim": 2, "blocks": 0}),
        ((3, 6, 8, 16), {"levels": 3, "time_levels": 1, "motion_noise": 3}),
        ((2, 3, 6, 2), {"levels": 1, "time_levels": 0, "objective": "bce"}),
        ((1, 1, 8, 8), {"time_levels": 0, "views": ("video", "frame")}),
    ],
)
def test_targets_of_any_size_that_doubles_up_from_a_base_grid(
    shape: tuple[int, int, int, int], options: dict[str, Any]
) -> None:
    channels, frames, height, width = shape
    gan = Gan(channels=channels, num_frames=frames, height=height, width=width, **options)
    made = gan.sample((2, *shape), text(2), rng=[rng(1), rng(2)], steps=1, guidance=1.0)
    assert made.shape == (2, *shape) and made.dtype == torch.float32
    for player in gan.players:
        total = gan.loss(made, text(2), player=player, rng=rng()).total
        total.backward()
        assert bool(total.isfinite())


def test_motion_noise_changes_a_clip_beside_its_content() -> None:
    """Content and motion are drawn apart; either alone changes the clip, and steps do not."""
    gan, cond = Gan(motion_noise=4), text(1)
    said, has = cond.pooled(), cond.mask.any(1)
    content, motion = (torch.randn(2, 1, n, generator=rng(5)) for n in (32, 2 * 4))
    motion = motion.unflatten(2, (2, 4))
    with torch.no_grad():
        clips = [gan._make(content[a], motion[b], said, has) for a, b in ((0, 0), (0, 1), (1, 0))]
    assert not torch.equal(clips[0], clips[1]) and not torch.equal(clips[0], clips[2])
    one, many = (gan.sample((1, 1, 4, 8, 8), cond, rng=rng(), steps=n, guidance=1.0) for n in (1, 50))
    assert torch.equal(one, many)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "bce", "spectral_norm": True, "r1": 0.0, "motion_noise": 4},
        {"objective": "relativistic", "r2": 1.0},
    ],
)
def test_learning_the_text_decides_the_clip(options: dict[str, Any]) -> None:
    """Four texts, four targets: after a short game each text samples its own."""
    torch.manual_seed(0)
    gan = Gan(height=4, width=4, cond_dim=8, dim=8, critic_dim=8, levels=1, time_levels=1, **options)
    x = torch.zeros(4, 1, 8)
    x[range(4), 0, range(4)] = 3.0
    cond = Features(x.repeat(4, 1, 1), torch.ones(16, 1, dtype=torch.bool))
    pattern = torch.randn(4, 1, 4, 4, 4, generator=rng(1))
    players = {
        player: torch.optim.AdamW([p for _, p in gan.parameters_of(player)], 2e-3, betas=(0.0, 0.99))
        for player in gan.players
    }
    for step in range(120):
        for player, optimizer in players.items():
            gan.loss(pattern.repeat(4, 1, 1, 1, 1), cond, player=player, rng=rng(step)).total.backward()
            optimizer.step()
            gan.zero_grad()
    made = gan.sample((4, 1, 4, 4, 4), Features(cond.x[:4], cond.mask[:4]), rng=rng(7), steps=1, guidance=1.0)
    right = (made - pattern).square().mean((1, 2, 3, 4))
    for shift in (1, 2, 3):
        wrong = (made - pattern.roll(shift, 0)).square().mean((1, 2, 3, 4))
        assert (right < 0.2 * wrong).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 6}, "levels: 2, but a target of 6 x 8 is no multiple of 4; expected fewer"),
        ({"num_frames": 5}, "time_levels: 1, but 5 frames are no multiple of 2; expected fewer"),
        ({"dim": 12}, "dim: 12, expected a multiple of 8"),
        ({"levels": 0}, "levels: 0, expected >= 1"),
        ({"blocks": -1}, "blocks: -1, expected >= 0"),
        ({"r1": -1.0}, "r1: -1.0, expected >= 0"),
        ({"r2": -1.0}, "r2: -1.0, expected >= 0"),
        ({"r1_every": 0}, "r1_every: 0, expected >= 1"),
        ({"frames_seen": 0}, "frames_seen: 0, expected >= 1"),
        ({"mismatch": 1.0}, r"mismatch: 1.0, expected in \[0, 1\)"),
        ({"objective": "wgan"}, "objective: wgan, expected one of relativistic, hinge, bce"),
        ({"views": ()}, r"views: \[\], expected one or more of video, frame, motion, each once"),
        ({"views": ("video", "video")}, "each once"),
        ({"num_frames": 1, "time_levels": 0}, "expected one or more of video, frame, each once"),
    ],
)
def test_illegal_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Gan(**options)


def test_other_shapes_and_parts_of_clips_are_refused() -> None:
    gan, cond = Gan(), text(2)
    with pytest.raises(ValueError, match=r"target: \(C, T, H, W\) = \(1, 8, 8, 8\), expected \(1, 4, 8, 8\)"):
        gan.sample((2, 1, 8, 8, 8), cond, rng=rng(), steps=1, guidance=1.0)
    with pytest.raises(DataError, match=r"frames: \[0, 2, 3, 5\].*task.train_frames = 0"):
        frames = torch.tensor([0, 2, 3, 5])
        gan.loss(torch.zeros(2, 1, 4, 8, 8), cond, player="generator", rng=rng(), frames=frames)


def test_a_step_shows_every_frame_and_every_pair_at_most_once() -> None:
    gan = Gan(num_frames=4, frames_seen=3)
    for seed in range(20):
        frames, pairs = gan._shown(4, rng(seed))
        assert len(set(frames.tolist())) == 3
        assert sorted(pairs.tolist()) == [0, 1, 2]
