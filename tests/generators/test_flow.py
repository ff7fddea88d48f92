"""Rectified flow against closed forms: where the best network is known, so is every answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinetext.generators.diffusion import Diffusion
from kinetext.generators.flow import Flow
from kinetext.nn.denoiser import patchify, unpatchify
from kinetext.nn.embedding import rope_3d
from kinetext.types import Features, Known, Start


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(batch: int, width: int = 64) -> Features:
    return Features(torch.randn(batch, 3, width, generator=rng(9)), torch.ones(batch, 3, dtype=torch.bool))


class GaussianPosterior(nn.Module):
    """E[x | z_t] for data N(0, s^2): t s^2 z / (t^2 s^2 + (1 - t)^2)."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s = s

    def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        t = t_BT[:, None, :, None, None]
        return t * self.s**2 * z / (t**2 * self.s**2 + (1 - t) ** 2)


def made_with(network: nn.Module, **options: Any) -> Flow:
    flow = Flow(**options)
    flow.network = network  # type: ignore[assignment]
    return flow


@pytest.mark.parametrize("s", [0.3, 1.0, 2.0])
def test_the_sampler_carries_noise_to_the_data_distribution(s: float) -> None:
    """The flow map of a Gaussian is a scaling by s, so every sample is s times its noise."""
    shape = (2, 1, 4, 8, 8)
    flow = made_with(GaussianPosterior(s), time_floor=1e-4)
    made = flow.sample(shape, text(2), rng=rng(), steps=200, guidance=1.0)
    torch.testing.assert_close(made, s * torch.randn(shape, generator=rng()), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("shift", [1.0, 2.4, 2.9, 3.0])
@pytest.mark.parametrize("steps", [20, 40, 100])
def test_the_last_step_ends_at_the_networks_own_answer(shift: float, steps: int) -> None:
    """A network that always sees the same clip must be followed to it, whatever the grid of times."""

    class Always(nn.Module):
        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return torch.full_like(z, 0.5)

    flow = made_with(Always(), shift=shift)
    made = flow.sample((1, 1, 2, 4, 4), text(1), rng=rng(), steps=steps, guidance=1.0)
    torch.testing.assert_close(made, torch.full_like(made, 0.5), atol=1e-4, rtol=0)


def test_heun_is_second_order_and_euler_first() -> None:
    shape = (1, 1, 1, 8, 8)
    exact = 2.0 * torch.randn(shape, generator=rng())
    errors: dict[tuple[str, int], float] = {}
    for sampler in ("euler", "heun"):
        flow = made_with(GaussianPosterior(2.0), sampler=sampler, time_floor=1e-4)
        for steps in (20, 40):
            made = flow.sample(shape, text(1), rng=rng(), steps=steps, guidance=1.0)
            errors[sampler, steps] = float((made - exact).norm())
    assert 1.7 < errors["euler", 20] / errors["euler", 40] < 2.4
    assert errors["heun", 20] / errors["heun", 40] > 3
    assert errors["heun", 20] < errors["euler", 40]


def test_the_loss_of_a_network_that_returns_its_input() -> None:
    """x_hat = z gives (z - x) / (1 - t) = e - x, whatever t: the loss is E|e - x|^2 = 1 + x^2."""

    class Same(nn.Module):
        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return z

    flow = made_with(Same(), time_floor=1e-6, history=0.0, independent=0.5)
    target = torch.full((64, 1, 4, 16, 16), 0.5)
    loss = flow.loss(target, text(64), player="model", rng=rng()).total
    assert float(loss) == pytest.approx(1.25, abs=0.02)


@pytest.mark.parametrize("steps", [5, 10, 20, 25])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_change_takes_the_steps_that_end_after_its_time(steps: int, shift: float) -> None:
    """No step of no length: where a step of the grid begins at the change's time, it is the first."""
    for strength in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
        asked = list[float]()

        class Watched(nn.Module):
            def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
                asked.append(float(t_BT[0, 0]))  # noqa: B023  (it is used before the loop goes on)
                return torch.zeros_like(z)

        flow = made_with(Watched(), sampler="euler", shift=shift)
        start = Start(torch.zeros(1, 1, 2, 4, 4), strength)
        flow.sample((1, 1, 2, 4, 4), text(1), rng=rng(), steps=steps, guidance=1.0, start=start)
        ends = [i / steps / (shift - (shift - 1) * i / steps) for i in range(1, steps + 1)]
        assert len(asked) == sum(end > 1 - strength + 1e-5 for end in ends)
        assert asked[0] == pytest.approx(1 - strength) and min(b - a for a, b in pairwise([*asked, 1.0])) > 1e-5


@pytest.mark.parametrize("made", [Flow(), Diffusion()], ids=["flow", "diffusion"])
def test_frames_at_a_pace_stand_closer_in_time(made: Flow | Diffusion) -> None:
    places = list[list[float] | None]()
    made.network.register_forward_pre_hook(lambda _, args: places.append(None if args[3] is None else args[3].tolist()))
    clip, first = torch.zeros(1, 1, 4, 8, 8), torch.tensor([[True, False, False, False]])
    clips = [
        made.sample(tuple(clip.shape), text(1), rng=rng(), steps=2, guidance=2.0, known=Known(clip, first, pace))
        for pace in (1.0, 0.5)
    ]
    assert places[0] is None and places[-1] == [0.0, 0.5, 1.0, 1.5]
    assert (clips[0] - clips[1]).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"known.pace: 0, expected in \(0, 1\]"):
        Known(clip, first, 0)


def test_places_need_not_be_whole() -> None:
    whole, same = rope_3d(torch.arange(3), (2, 2), 12), rope_3d(torch.arange(3.0), (2, 2), 12)
    assert all(torch.equal(a, b) for a, b in zip(whole, same, strict=True))
    halves = rope_3d(torch.arange(5) / 2, (2, 2), 12)[0].view(5, 4, -1)
    torch.testing.assert_close(halves[::2].flatten(0, 1), whole[0])


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="sampler: rk4, expected one of heun, euler"):
        Flow(sampler="rk4")  # type: ignore[arg-type]


def test_guidance_extrapolates_from_no_text_and_only_in_its_interval() -> None:
    class Label(nn.Module):
        """Predicts 1 with text and 0 without."""

        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return cond.mask.any(1).float()[:, None, None, None, None].expand_as(z)

    shape = (1, 1, 1, 2, 2)
    flow = made_with(Label(), time_floor=1e-6)
    for guidance in (0.0, 1.0, 3.0):
        made = flow.sample(shape, text(1), rng=rng(), steps=4, guidance=guidance)
        torch.testing.assert_close(made, torch.full(shape, guidance))
    never = made_with(Label(), time_floor=1e-6, guidance_from=0.9, guidance_to=0.95)
    torch.testing.assert_close(never.sample(shape, text(1), rng=rng(), steps=4, guidance=3.0), torch.ones(shape))


def test_a_late_text_is_the_one_that_is_exaggerated_from_its_time_on() -> None:
    """A network that expects 1 of the text and 4 of the late one: guided by 3 it is taken to 3, and late to 1 + 2 * 4."""

    class Label(nn.Module):
        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return cond.pooled()[:, 0][:, None, None, None, None].expand_as(z)

    one, late = (Features(torch.full((1, 2, 64), n), torch.ones(1, 2, dtype=torch.bool)) for n in (1.0, 4.0))
    shape = (1, 1, 1, 2, 2)
    for late_from, expected in ((0.0, 9.0), (0.5, 9.0), (1.0, 3.0)):
        flow = made_with(Label(), time_floor=1e-6, late_from=late_from)
        made = flow.sample(shape, one, rng=rng(), steps=4, guidance=3.0, late=late)
        torch.testing.assert_close(made, torch.full(shape, expected))
    noise = torch.zeros(shape)
    half = flow.carried(noise, one, [0.0, 0.5], guidance=3.0, late=late)
    torch.testing.assert_close(half, torch.full(shape, 1.5))
    flow = made_with(Label(), time_floor=1e-6, late_from=0.5)
    torch.testing.assert_close(
        flow.carried(half, one, [0.5, 0.75], guidance=3.0, late=late), torch.full(shape, 1.5 + (9 - 1.5) / 2)
    )


@pytest.mark.parametrize(("steps", "shift"), [(20, 1.0), (10, 1.0), (20, 3.0)])
def test_a_step_that_begins_at_a_time_of_the_guidance_belongs_to_it(steps: int, shift: float) -> None:
    """Steps are placed in single precision: 7 / 20 comes out below 0.35, 8 / 20 above 0.4."""
    for first, last in ((7, 8), (3, 6)):
        place = [step / steps / (shift - (shift - 1) * step / steps) for step in (first, last)]
        flow = Flow(late_from=place[0], guidance_to=place[1], shift=shift, sampler="euler")
        rows: list[int] = []
        flow.network.register_forward_pre_hook(lambda module, args, rows=rows: rows.append(len(args[0])))
        flow.sample((1, 1, 1, 4, 4), text(1), rng=rng(), steps=steps, guidance=3.0, late=text(1))
        assert rows == [2] * first + [3] * (last - first + 1) + [1] * (steps - last - 1)


def test_known_frames_stay_and_are_clean_to_the_network() -> None:
    flow = Flow()
    target = torch.randn(2, 1, 4, 8, 8, generator=rng(3))
    mask = torch.tensor([[True, True, False, False], [False, False, False, True]])
    seen: list[Tensor] = []
    flow.network.register_forward_pre_hook(lambda module, args: seen.append(args[1].clone()))
    made = flow.sample((2, 1, 4, 8, 8), text(2), rng=rng(), steps=3, guidance=1.0, known=Known(target, mask))
    keep = mask[:, None, :, None, None].expand_as(target)
    torch.testing.assert_close(made[keep], target[keep])
    assert all(bool((t[mask] == 1).all()) and bool((t[~mask] < 1).all()) for t in seen)


def test_a_clip_does_not_depend_on_its_batch_mates() -> None:
    flow, cond = Flow(), text(3)
    together = flow.sample((3, 1, 2, 4, 4), cond, rng=[rng(5), rng(6), rng(7)], steps=3, guidance=2.0)
    alone = flow.sample((1, 1, 2, 4, 4), Features(cond.x[1:2], cond.mask[1:2]), rng=[rng(6)], steps=3, guidance=2.0)
    torch.testing.assert_close(together[1:2], alone)


def test_times_are_logit_normal_shared_or_one_per_frame_and_history_is_clean() -> None:
    target = torch.zeros(4000, 1, 4, 2, 2)
    shared, known = Flow(independent=0.0, history=0.0, time_mean=-1.0, time_std=0.5)._times(target, rng())
    assert not known.any() and (shared == shared[:, :1]).all()
    logits = shared[:, 0].logit()
    assert float(logits.mean()) == pytest.approx(-1.0, abs=0.03) and float(logits.std()) == pytest.approx(0.5, abs=0.03)
    own, _ = Flow(independent=1.0, history=0.0)._times(target, rng())
    assert (own[:, 0] != own[:, 1]).all()
    past, known = Flow(independent=0.0, history=1.0)._times(target, rng())
    assert known[:, 0].all() and not known[:, -1].any() and (past[known] == 1).all() and (past[~known] < 1).all()
    assert set(known.sum(1).tolist()) == {1, 2, 3}


def test_patches_go_back_to_where_they_came_from() -> None:
    z = torch.arange(2 * 3 * 2 * 4 * 6).reshape(2, 3, 2, 4, 6)
    tokens = patchify(z, 2)
    assert tokens.shape == (2, 2, 6, 12)
    torch.testing.assert_close(tokens[0, 0, 1], z[0, :, 0, 0:2, 2:4].flatten())
    torch.testing.assert_close(unpatchify(tokens, 2, (2, 3)), z)


def test_learning_the_text_decides_the_clip() -> None:
    """Two texts, two targets: after a short training each text samples its own."""
    torch.manual_seed(0)
    flow = Flow(dim=32, depth=2, heads=2, cond_dim=8, independent=0.0, history=0.0, cond_dropout=0.2)
    x = torch.zeros(2, 1, 8)
    x[0, 0, 0], x[1, 0, 1] = 3.0, 3.0
    cond = Features(x.repeat(8, 1, 1), torch.ones(16, 1, dtype=torch.bool))
    pattern = torch.randn(2, 1, 2, 4, 4, generator=rng(1))
    optimizer = torch.optim.AdamW(flow.parameters(), 5e-3)
    for step in range(150):
        flow.loss(pattern.repeat(8, 1, 1, 1, 1), cond, player="model", rng=rng(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    made = flow.sample((2, 1, 2, 4, 4), Features(cond.x[:2], cond.mask[:2]), rng=rng(7), steps=10, guidance=1.0)
    right = (made - pattern).square().mean((1, 2, 3, 4))
    wrong = (made - pattern.flip(0)).square().mean((1, 2, 3, 4))
    assert (right < 0.25 * wrong).all()


def test_a_draft_is_the_expectation_after_some_steps_from_noise() -> None:
    """For data N(0, s^2) noise e is carried to c(t) e with c known, and the expectation of x there is t s^2 z / var(t)."""
    shape, s, steps = (2, 1, 3, 4, 4), 2.0, 200
    flow = made_with(GaussianPosterior(s), time_floor=1e-4)
    done = set()
    for seed in range(6):
        noise = torch.randn(shape, generator=(dice := rng(seed)))
        t = int(torch.randint(steps // 4, steps, (), generator=dice)) / steps
        scale = (t**2 * s**2 + (1 - t) ** 2) ** 0.5  # the flow map of a Gaussian keeps every point's rank
        expected = t * s**2 * noise / scale
        draft = flow.draft(shape, text(2), rng=rng(seed), steps=steps)
        torch.testing.assert_close(draft, expected, atol=2e-2, rtol=2e-2)
        done.add(t)
    assert len(done) > 3


def test_only_the_last_evaluation_of_a_draft_has_gradients() -> None:
    flow = Flow()
    seen: list[bool] = []
    flow.network.register_forward_pre_hook(lambda module, args: seen.append(torch.is_grad_enabled()))
    lengths = set()
    for seed in range(40):
        seen.clear()
        draft = flow.draft((2, 1, 2, 4, 4), text(2), rng=rng(seed), steps=8)
        assert seen == [False] * (len(seen) - 1) + [True] and draft.requires_grad
        lengths.add(len(seen) - 1)
    assert lengths == {2, 3, 4, 5, 6, 7}
    with pytest.raises(ValueError, match="steps: 1, expected >= 2"):
        flow.draft((2, 1, 2, 4, 4), text(2), rng=rng(), steps=1)


def test_a_whole_draft_is_the_clip_of_the_sampler_with_gradients_of_all_its_steps() -> None:
    torch.manual_seed(0)
    flow, shape = Flow(sampler="euler", shift=3.0).eval(), (2, 1, 2, 4, 4)
    cond = text(2)
    seen: list[bool] = []
    flow.network.register_forward_pre_hook(lambda module, args: seen.append(torch.is_grad_enabled()))
    draft = flow.draft(shape, cond, rng=rng(3), steps=4, whole=True)
    assert seen == [True] * 4 and draft.requires_grad
    torch.testing.assert_close(draft, flow.sample(shape, cond, rng=rng(3), steps=4, guidance=1.0))
