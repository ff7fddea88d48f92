"""Diffusion against closed forms, where the best network is known, and against the schedulers of diffusers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinetext.generators.diffusion import Diffusion, cosine_schedule
from kinetext.types import DataError, Features, Known, Start


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(batch: int, width: int = 64) -> Features:
    return Features(torch.randn(batch, 3, width, generator=rng(9)), torch.ones(batch, 3, dtype=torch.bool))


class Label(nn.Module):
    """Expects the first number of the text, 0 without."""

    def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        return cond.pooled()[:, 0][:, None, None, None, None].expand_as(z)


class GaussianPosterior(nn.Module):
    """E[x | z_n] = a s^2 z / (a^2 s^2 + sigma^2) for data N(0, s^2), told as x, or as the noise or v that it means."""

    def __init__(self, s: float, prediction: str = "x", levels: int = 1000) -> None:
        super().__init__()
        self.s, self.prediction, self.levels = s, prediction, levels
        self.kept = cosine_schedule(levels, 1.0)

    def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        n = ((1 - t_BT) * self.levels).round().long()
        kept = self.kept[n][:, None, :, None, None]
        a, sigma = kept.sqrt(), (1 - kept).sqrt()
        x = a * self.s**2 * z / (kept * self.s**2 + 1 - kept)
        noise = (z - a * x) / sigma
        return {"x": x, "eps": noise, "v": a * noise - sigma * x}[self.prediction].float()


WIDE = 1e6  # a clamp that changes nothing, which "eps" must have


def made_with(network: nn.Module, **options: Any) -> Diffusion:
    wide = {"clamp": WIDE} if options.get("prediction") == "eps" else {}
    diffusion = Diffusion(**{**wide, **options})
    diffusion.network = network  # type: ignore[assignment]
    return diffusion


def test_the_schedule_is_equation_17() -> None:
    kept = cosine_schedule(1000, 1.0)
    assert kept[0] == 1

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    for n in (1, 100, 500, 900, 990):
        assert float(kept[n]) == pytest.approx(f(n / 1000) / f(0), rel=1e-9)
    beta = 1 - kept[1:] / kept[:-1]
    assert float(beta[-1]) == pytest.approx(0.999) and (beta <= 0.999 + 1e-12).all()
    assert (beta[1:] >= beta[:-1]).all()


def test_a_shift_divides_the_signal_to_noise_ratio_by_its_square() -> None:
    plain, shifted = cosine_schedule(1000, 1.0)[1:900], cosine_schedule(1000, 2.0)[1:900]
    ratio = (plain / (1 - plain)) / (shifted / (1 - shifted))
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


SHAPE = (2, 1, 4, 8, 8)


@pytest.mark.parametrize("prediction", ["eps", "v", "x"])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
@pytest.mark.parametrize("s", [0.3, 2.0])
def test_noise_is_carried_to_the_data_distribution(sampler: str, prediction: str, s: float) -> None:
    """The probability flow of a Gaussian is a scaling by s, so every sample is s times its noise."""
    diffusion = made_with(GaussianPosterior(s, prediction), sampler=sampler, prediction=prediction)
    steps = 1000 if sampler == "ddim" else 250
    made = diffusion.sample(SHAPE, text(2), rng=rng(), steps=steps, guidance=1.0)
    torch.testing.assert_close(made, s * torch.randn(SHAPE, generator=rng()), atol=1e-2, rtol=5e-3)


def test_the_solver_is_second_order_and_ddim_first() -> None:
    exact = 2.0 * torch.randn(SHAPE, generator=rng())
    errors: dict[tuple[str, int], float] = {}
    for sampler in ("ddim", "dpmpp"):
        diffusion = made_with(GaussianPosterior(2.0), sampler=sampler, prediction="x")
        for steps in (50, 100):
            made = diffusion.sample(SHAPE, text(2), rng=rng(), steps=steps, guidance=1.0)
            errors[sampler, steps] = float((made - exact).norm())
    assert 1.8 < errors["ddim", 50] / errors["ddim", 100] < 2.2
    # the last step, which has no line, is as long as the others
    assert errors["dpmpp", 50] / errors["dpmpp", 100] > 3
    assert errors["dpmpp", 50] < errors["ddim", 100]


@pytest.mark.parametrize("steps", [10, 500])
@pytest.mark.parametrize("s", [0.5, 2.0])
def test_the_variance_of_ddpm_is_that_of_its_recursion(s: float, steps: int) -> None:
    """z' = A z + sqrt(b) e with b the posterior's variance (Ho et al. 2020, eq. 7), so var' = A^2 var + b."""
    kept = cosine_schedule(1000, 1.0).tolist()
    variance = 1.0
    for i in range(steps):
        now, after = kept[1000 - i * 1000 // steps], kept[1000 - (i + 1) * 1000 // steps]
        alpha, var = now / after, now * s**2 + 1 - now
        share = math.sqrt(now) * s**2 / var  # x_hat / z
        factor = math.sqrt(after) * (1 - alpha) / (1 - now) * share + math.sqrt(alpha) * (1 - after) / (1 - now)
        variance = factor**2 * variance + (1 - after) / (1 - now) * (1 - alpha)
    diffusion = made_with(GaussianPosterior(s), sampler="ddpm", prediction="x")
    made = diffusion.sample((8, 1, 8, 32, 32), text(8), rng=rng(), steps=steps, guidance=1.0)
    assert float(made.var()) == pytest.approx(variance, rel=0.02)  # of 65,536 numbers: 4 standard errors
    if steps == 500:
        assert variance == pytest.approx(s**2, rel=0.02)


def test_every_step_of_ddpm_has_fresh_noise_of_its_row() -> None:
    diffusion, cond = Diffusion(sampler="ddpm"), text(3)
    together = diffusion.sample((3, 1, 2, 4, 4), cond, rng=[rng(5), rng(6), rng(7)], steps=4, guidance=2.0)
    one = Features(cond.x[1:2], cond.mask[1:2])
    alone = diffusion.sample((1, 1, 2, 4, 4), one, rng=[dice := rng(6)], steps=4, guidance=2.0)
    torch.testing.assert_close(together[1:2], alone)
    after = rng(6)
    for _ in range(4):  # the noise that it begins with, and that of three steps; the last one adds none
        torch.randn(1, 2, 4, 4, generator=after)
    assert torch.equal(dice.get_state(), after.get_state())


def test_all_predictions_learn_and_sample_the_same() -> None:
    """The posterior's error of x is s^2 / a^2 times that of the noise and s^2 times that of v: with min-SNR, one loss."""
    target = 1.5 * torch.randn(64, 1, 2, 8, 8, generator=rng(1))
    losses, clips = [], []
    for prediction in ("eps", "v", "x"):
        diffusion = made_with(GaussianPosterior(1.5, prediction), prediction=prediction, min_snr=5.0, clamp=3.0)
        losses.append(diffusion.loss(target, text(64), player="model", rng=rng()).total)
        clips.append(diffusion.sample(SHAPE, text(2), rng=rng(), steps=10, guidance=1.0))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(losses[2], losses[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(clips[0], clips[1], rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(clips[2], clips[1], rtol=1e-3, atol=2e-3)
    assert float(clips[0].abs().max()) == 3.0


def test_the_loss_of_a_network_that_says_nothing() -> None:
    """Of noise N(0, 1) and data N(0, s^2) it is 1 as eps, s^2 as x, and E[abar + (1 - abar) s^2] as v."""

    class Nothing(nn.Module):
        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return torch.zeros_like(z)

    target = 2.0 * torch.randn(512, 1, 4, 8, 8, generator=rng(1))
    mean = float(cosine_schedule(1000, 1.0)[1:].mean())
    for prediction, expected in (("eps", 1.0), ("x", 4.0), ("v", mean + 4 * (1 - mean))):
        diffusion = made_with(Nothing(), prediction=prediction)
        loss = diffusion.loss(target, text(512), player="model", rng=rng()).total
        assert float(loss) == pytest.approx(expected, rel=0.05)


def test_the_network_is_told_time_1_for_data_and_0_for_noise() -> None:
    diffusion = Diffusion(levels=10)
    seen: list[Tensor] = []
    diffusion.network.register_forward_pre_hook(lambda module, args: seen.append(args[1].clone()))
    diffusion.sample((1, 1, 2, 4, 4), text(1), rng=rng(), steps=5, guidance=1.0)
    torch.testing.assert_close(torch.stack([t[0, 0] for t in seen]), torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8]))
    seen.clear()
    diffusion.loss(torch.randn(500, 1, 2, 4, 4), text(500), player="model", rng=rng())
    assert set(seen[0].mul(10).round().unique().tolist()) == set(range(10))


def test_guidance_extrapolates_from_no_text_or_another_text() -> None:
    def saying(number: float) -> Features:
        return Features(torch.full((1, 2, 64), number), torch.ones(1, 2, dtype=torch.bool))

    shape = (1, 1, 1, 2, 2)
    diffusion = made_with(Label(), prediction="x")
    for guidance in (0.0, 1.0, 3.0):
        made = diffusion.sample(shape, saying(1.0), rng=rng(), steps=4, guidance=guidance)
        torch.testing.assert_close(made, torch.full(shape, guidance))
    made = diffusion.sample(shape, saying(1.0), rng=rng(), steps=4, guidance=2.0, negative=saying(5.0))
    torch.testing.assert_close(made, torch.full(shape, 5.0 + 2 * (1.0 - 5.0)))


@pytest.mark.parametrize(
    ("interval", "guided"), [((0.1, 0.3), "nYYYnnnnnn"), ((0.8, 1.0), "nnnnnnnnYY"), ((0.0, 0.0), "Ynnnnnnnnn")]
)
def test_guidance_holds_in_its_interval_alone(interval: tuple[float, float], guided: str) -> None:
    sides: list[str] = []
    diffusion = Diffusion(guidance_from=interval[0], guidance_to=interval[1])
    diffusion.network.register_forward_pre_hook(lambda module, args: sides.append("nY"[len(args[0]) - 1]))
    diffusion.sample((1, 1, 1, 4, 4), text(1), rng=rng(), steps=10, guidance=3.0)
    assert "".join(sides) == guided


def test_a_late_text_is_the_one_that_is_exaggerated_from_its_time_on() -> None:
    """With the number of a text for a clip, 1 then 4 late: guidance 3 makes 3 * 1, and then 1 + 2 * 4."""
    said: list[float] = []

    diffusion = made_with(Label(), prediction="x", late_from=0.5, guidance_to=0.75)
    keep = diffusion._step
    diffusion._step = lambda z, x, *rest: (said.append(float(x.mean())), keep(z, x, *rest))[1]  # type: ignore[method-assign]
    one, late = (Features(torch.full((2, 2, 64), n), torch.ones(2, 2, dtype=torch.bool)) for n in (1.0, 4.0))
    diffusion.sample(SHAPE, one, rng=rng(), steps=5, guidance=3.0, late=late)
    assert said == pytest.approx([3.0, 3.0, 3.0, 9.0, 1.0]), "times 0, 0.2, 0.4, 0.6 and 0.8"


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp"])
def test_what_is_known_goes_its_own_way_through_the_noise(sampler: str) -> None:
    diffusion = Diffusion(sampler=sampler)
    target = torch.randn(SHAPE, generator=rng(3))
    cells = torch.zeros(2, 1, 4, 8, 8, dtype=torch.bool)
    cells[..., :3] = True
    seen: list[tuple[Tensor, Tensor]] = []
    diffusion.network.register_forward_pre_hook(lambda module, args: seen.append((args[0].clone(), args[1])))
    made = diffusion.sample(SHAPE, text(2), rng=rng(), steps=4, guidance=1.0, known=Known(target, cells))
    assert torch.equal(made[..., :3], target[..., :3])
    noise, kept = torch.randn(SHAPE, generator=rng()), cosine_schedule(1000, 1.0)
    for (z, t_BT), n in zip(seen, (1000, 750, 500, 250), strict=True):
        assert (t_BT == 1 - n / 1000).all()
        way = kept[n].sqrt() * target + (1 - kept[n]).sqrt() * noise
        torch.testing.assert_close(z[..., :3], way[..., :3].float())


def test_reconstruction_guidance_pulls_the_rest_after_what_is_known() -> None:
    """Of a network that expects c times the mean of all cells in each, by Ho et al. 2022, eq. 7, by hand."""

    class Mean(nn.Module):
        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return 0.5 * z.mean((1, 2, 3, 4), keepdim=True).expand_as(z)

    shape, weight = (3, 1, 2, 4, 4), 2.0
    target, cells = torch.full(shape, 3.0), torch.zeros(3, 2, dtype=torch.bool)
    cells[:, 0] = True
    noise, kept = torch.randn(shape, generator=rng()), cosine_schedule(1000, 1.0)
    a, s = float(kept[500].sqrt()), float((1 - kept[500]).sqrt())
    diffusion = made_with(Mean(), prediction="x", reconstruction=weight, levels=1000)
    made = diffusion.sample(shape, text(3), rng=rng(), steps=2, guidance=1.0, known=Known(target, cells))
    z, pulled = noise.clone(), 0.0
    for level, left in ((1000, (a, s)), (500, (1.0, 0.0))):
        a_n, s_n = float(kept[level].sqrt()), float((1 - kept[level]).sqrt())
        z[:, :, 0] = (a_n * target + s_n * noise)[:, :, 0]
        x = 0.5 * z.mean((1, 2, 3, 4), keepdim=True)
        # d/dz of 16 (x - 3)^2 with dx/dz = 0.5 / 32
        slope = 16 * 2 * (x - 3.0) * 0.5 / 32
        x = x - weight * a_n / 2 * slope
        z = left[0] * x + left[1] * (z - a_n * x) / s_n
        pulled += float(slope.abs().mean())
    torch.testing.assert_close(made[:, :, 1], z[:, :, 1], rtol=1e-4, atol=1e-4)
    assert torch.equal(made[:, :, 0], target[:, :, 0]) and pulled > 1


def test_a_draft_is_the_expectation_after_some_steps_from_noise() -> None:
    """For data N(0, s^2) noise e is carried to spread(n) e, and the expectation of x there is a s^2 z / spread^2."""
    s, steps, kept = 2.0, 200, cosine_schedule(1000, 1.0)
    diffusion, done = made_with(GaussianPosterior(s), prediction="x"), set()
    for seed in range(6):
        noise = torch.randn(SHAPE, generator=(dice := rng(seed)))
        n = 1000 - 5 * int(torch.randint(steps // 4, steps, (), generator=dice))
        spread = math.sqrt(kept[n] * s**2 + 1 - kept[n])
        draft = diffusion.draft(SHAPE, text(2), rng=rng(seed), steps=steps)
        torch.testing.assert_close(draft, math.sqrt(kept[n]) * s**2 * noise / spread, atol=3e-2, rtol=3e-2)
        done.add(n)
    assert len(done) > 3
    with pytest.raises(ValueError, match="steps: 1, expected 2 to 1000, the levels"):
        diffusion.draft(SHAPE, text(2), rng=rng(), steps=1)


def test_a_whole_draft_is_the_clip_of_ddim_with_gradients_of_all_its_steps() -> None:
    torch.manual_seed(0)
    diffusion, seen = Diffusion(sampler="ddim").eval(), list[bool]()
    diffusion.network.register_forward_pre_hook(lambda module, args: seen.append(torch.is_grad_enabled()))
    draft = diffusion.draft(SHAPE, text(2), rng=rng(3), steps=4, whole=True)
    assert seen == [True] * 4 and draft.requires_grad
    torch.testing.assert_close(draft, diffusion.sample(SHAPE, text(2), rng=rng(3), steps=4, guidance=1.0))


def test_a_change_begins_on_the_way_at_its_strength() -> None:
    """For data N(0, s^2) what is left of the way is a scaling from the spread at that level to s."""
    s, strength = 2.0, 0.3
    diffusion = made_with(GaussianPosterior(s), sampler="dpmpp", prediction="x")
    clip, noise = torch.randn(SHAPE, generator=rng(3)), torch.randn(SHAPE, generator=rng())
    kept = float(cosine_schedule(1000, 1.0)[300])
    made = diffusion.sample(SHAPE, text(2), rng=rng(), steps=200, guidance=1.0, start=Start(clip, strength))
    z = math.sqrt(kept) * clip + math.sqrt(1 - kept) * noise
    torch.testing.assert_close(made, s / math.sqrt(kept * s**2 + 1 - kept) * z, atol=5e-3, rtol=5e-3)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers on tensors as NumPy arrays
@pytest.mark.parametrize("prediction", ["eps", "v", "x"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "ddim with noise", "dpmpp"])
def test_samplers_are_those_of_diffusers(sampler: str, prediction: str) -> None:
    """The same betas, the same random network, the same noise."""
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    torch.manual_seed(0)
    eta, steps = (0.7 if "noise" in sampler else 0.0), 20
    diffusion = Diffusion(
        sampler=sampler.split()[0], prediction=prediction, eta=eta, clamp=WIDE, dim=16, heads=1, depth=1
    )  # type: ignore[arg-type]
    kept = cosine_schedule(1000, 1.0)
    betas = (1 - kept[1:] / kept[:-1]).numpy()
    say = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}[prediction]
    given: dict[str, Any] = {"trained_betas": betas, "prediction_type": say, "timestep_spacing": "trailing"}
    theirs: Any
    more: dict[str, Any] = {}
    dice = rng()  # one stream: what a clip begins with, then what each step adds
    if sampler == "ddpm":
        theirs, more = DDPMScheduler(**given, clip_sample=False), {"generator": dice}
    elif sampler == "dpmpp":
        theirs = DPMSolverMultistepScheduler(**given, final_sigmas_type="zero")
    else:
        theirs, more = DDIMScheduler(**given, clip_sample=False), {"eta": eta, "generator": dice}
    theirs.set_timesteps(steps)
    cond, size = text(2), (2, 1, 2, 8, 8)
    z = torch.randn(size, generator=dice)
    with torch.no_grad():
        for timestep in theirs.timesteps:
            t_BT = torch.full((2, 2), 1 - (int(timestep) + 1) / 1000)
            z = theirs.step(diffusion.network(z, t_BT, cond), timestep, z, **more).prev_sample
    made = diffusion.sample(size, cond, rng=rng(), steps=steps, guidance=1.0)
    torch.testing.assert_close(made, z, rtol=2e-3, atol=2e-3 * float(z.abs().max()))


def test_learning_the_text_decides_the_clip() -> None:
    """Two texts, two targets: after a short training each text samples its own."""
    torch.manual_seed(0)
    diffusion = Diffusion(dim=32, depth=2, heads=2, cond_dim=8, cond_dropout=0.2)
    x = torch.zeros(2, 1, 8)
    x[0, 0, 0], x[1, 0, 1] = 3.0, 3.0
    cond = Features(x.repeat(8, 1, 1), torch.ones(16, 1, dtype=torch.bool))
    pattern = torch.randn(2, 1, 2, 4, 4, generator=rng(1))
    optimizer = torch.optim.AdamW(diffusion.parameters(), 5e-3)
    for step in range(150):
        diffusion.loss(pattern.repeat(8, 1, 1, 1, 1), cond, player="model", rng=rng(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    for sampler in ("ddim", "dpmpp"):
        diffusion.sampler = sampler  # type: ignore[assignment]
        made = diffusion.sample(
            (2, 1, 2, 4, 4), Features(cond.x[:2], cond.mask[:2]), rng=rng(7), steps=10, guidance=1.0
        )
        right = (made - pattern).square().mean((1, 2, 3, 4))
        wrong = (made - pattern.flip(0)).square().mean((1, 2, 3, 4))
        assert (right < 0.25 * wrong).all(), sampler


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eta: 0\.5, expected 0 with sampler = dpmpp"):
        Diffusion(sampler="dpmpp", eta=0.5)
    with pytest.raises(ValueError, match="levels: 1, expected >= 2"):
        Diffusion(levels=1)
    with pytest.raises(ValueError, match="patch: 2, expected a divisor"):
        Diffusion().check((1, 4, 7, 8))
    with pytest.raises(DataError, match="steps: 11, expected 1 to 10"):
        Diffusion(levels=10).sample((1, 1, 2, 4, 4), text(1), rng=rng(), steps=11, guidance=1.0)


def test_what_cannot_sample_is_refused() -> None:
    with pytest.raises(ValueError, match=r'clamp: 0\.0, expected > 0 with prediction = "eps"'):
        Diffusion(prediction="eps")
    with pytest.raises(ValueError, match="heads: 0, expected >= 1"):
        Diffusion(heads=0)
    with pytest.raises(ValueError, match=r"guidance_from: 0\.5, expected in \[0, 1\] and not after guidance_to = 0\.4"):
        Diffusion(guidance_from=0.5, guidance_to=0.4)
    for end in (1.5, -0.5):
        with pytest.raises(ValueError, match=rf"guidance_to: {end}, expected in \[0, 1\]"):
            Diffusion(guidance_to=end)
    with pytest.raises(ValueError, match="sampler: plms, expected one of ddim, ddpm, dpmpp"):
        Diffusion(sampler="plms")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prediction: noise, expected one of v, eps, x"):
        Diffusion(prediction="noise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps: 8, expected 2 to 4, the levels"):
        Diffusion(levels=4).draft((1, 1, 2, 4, 4), text(1), rng=rng(), steps=8, whole=True)
    with pytest.raises(ValueError, match="steps: 16, expected 1 to 10"):
        Diffusion(levels=10).times(16)
