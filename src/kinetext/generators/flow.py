"""Rectified flow with a video transformer that allows one noise level per frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Generator as Rng
from torch import Tensor

from kinetext.interfaces import Ability, Generator, Shape
from kinetext.nn.denoiser import VideoDenoiser
from kinetext.nn.guidance import ROUNDING, Guide, When, dropped
from kinetext.nn.noise import normal
from kinetext.types import Features, Known, Losses, Start, check_legal, check_one_of

Velocity = Callable[[Tensor, Tensor], Tensor]


class Flow(Generator):
    r"""Learns to carry noise to data along straight lines.

    Rectified flow (Liu et al. 2022, eq. 1; Lipman et al. 2022): with data x, noise e and time t,

        z_t = t x + (1 - t) e,   v = dz/dt = x - e.

    The network predicts x; the loss compares velocities, |x_hat - x|^2 / (1 - t)^2 (Li & He 2025,
    "Back to Basics" (JiT), table 1: x-prediction, v-loss). Times are logit-normal (Esser et al. 2024,
    section 3.1). Every frame may have its own time (Chen et al. 2024, "Diffusion Forcing"), so a frame
    that is known is one with t = 1, and the same weights continue, fill in and extend clips. Text
    tokens join every attention as keys and, where ``pooled_text``, their mean modulates every norm. Classifier-free guidance
    (Ho & Salimans 2022) within an interval of times (Kynkäänniemi et al. 2024).

    Args:
        channels: of the target (decided by the assembly).
        cond_dim: width of the text features (decided by the assembly).
        dim: width, a multiple of ``heads``.
        depth: number of blocks, >= 1.
        heads: attention heads.
        patch: side of a spatial patch, in target pixels; H and W of the target are multiples of it.
        pooled_text: whether the mean of the text modulates every norm, besides the words that attention takes.
        time_mean: mean of logit(t) in training; negative means more noise.
        time_std: standard deviation of logit(t), > 0.
        time_floor: least value of (1 - t) in the loss, in (0, 1).
        independent: share of training clips, in [0, 1], where every frame has its own time.
        history: share of training clips, in [0, 1], whose first frames are known (t = 1).
        gaps: share of training clips, in [0, 1], of which every second, third or fourth frame is known.
        cond_dropout: share of training clips, in [0, 1], that see no text (for guidance).
        sampler: "heun" (two evaluations a step) or "euler" (one).
        guidance_from, guidance_to: guide only while t is in this interval of [0, 1] (Kynkäänniemi et al. 2024).
        late_from: time in [0, 1]; from the first step that begins there or after it a late text guides, where there is one
            (``task.early_words``), and a guided step costs three evaluations in place of two.
        shift: > 0; above 1 the sampler spends more of its steps near noise (Esser et al. 2024, eq. 23).
    """

    kind: Literal["continuous", "tokens"] = "continuous"
    abilities: ClassVar[frozenset[Ability]] = frozenset(
        {"known frames", "known cells", "pace", "start", "steps", "guidance", "negative", "late text"}
    )

    def __init__(
        self,
        *,
        channels: int = 1,
        cond_dim: int = 64,
        dim: int = 64,
        depth: int = 2,
        heads: int = 2,
        patch: int = 2,
        pooled_text: bool = True,
        time_mean: float = -0.8,
        time_std: float = 0.8,
        time_floor: float = 0.05,
        independent: float = 0.1,
        history: float = 0.1,
        gaps: float = 0.0,
        cond_dropout: float = 0.1,
        sampler: Literal["heun", "euler"] = "heun",
        guidance_from: float = 0.0,
        guidance_to: float = 1.0,
        late_from: float = 0.2,
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        check_one_of("sampler", sampler, "heun", "euler")
        check_legal("time_std", time_std, time_std > 0, "> 0")
        check_legal("time_floor", time_floor, 0 < time_floor < 1, "in (0, 1)")
        check_legal("shift", shift, shift > 0, "> 0")
        check_legal("cond_dropout", cond_dropout, 0 <= cond_dropout <= 1, "in [0, 1]")
        shares = (independent, history, gaps)
        legal = min(shares) >= 0 and sum(shares) <= 1
        check_legal("independent + history + gaps", sum(shares), legal, "shares that add up to at most 1")
        self.network = VideoDenoiser(channels, cond_dim, dim, depth, heads, patch, pooled_text)
        self.time_mean, self.time_std, self.time_floor = time_mean, time_std, time_floor
        self.independent, self.history, self.gaps, self.cond_dropout = independent, history, gaps, cond_dropout
        self.sampler, self.shift = sampler, shift
        self.when = When(guidance_from, guidance_to, late_from)

    def check(self, shape: Shape) -> None:
        """H and W must be multiples of ``patch``."""
        self.network.check(shape)

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """Mean squared velocity error over the frames that are not known."""
        t_BT, known_BT = self._times(target, rng)
        cond = dropped(cond, self.cond_dropout, rng)
        noise = torch.randn(target.shape, generator=rng, device=target.device)
        t = _per_frame(t_BT)
        z = t * target + (1 - t) * noise
        x_hat = self.network(z, t_BT, cond, frames).float()
        error = ((x_hat - target) / (1 - t).clamp(min=self.time_floor)).square().mean(dim=(1, 3, 4))
        loss = error.masked_fill(known_BT, 0.0).sum() / (~known_BT).sum().clamp(min=1)
        return Losses(loss, {"velocity": loss.detach()})

    def _times(self, target: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Times ``(B, T)`` and which frames are known ``(B, T)``."""
        batch, frames = len(target), target.shape[2]
        on = target.device
        normal = torch.randn(batch, frames, generator=rng, device=on)
        kind_B = torch.rand(batch, generator=rng, device=on)
        length_B = 1 + (torch.rand(batch, generator=rng, device=on) * (frames - 1)).long()
        every_B = torch.randint(2, 5, (batch,), generator=rng, device=on)
        own_B1 = (kind_B < self.independent)[:, None]
        t_BT = torch.where(own_B1, normal, normal[:, :1]).mul(self.time_std).add(self.time_mean).sigmoid()
        place_T = torch.arange(frames, device=on)
        ends = (self.independent, self.independent + self.history, self.independent + self.history + self.gaps)
        with_history_B = (kind_B >= ends[0]) & (kind_B < ends[1]) & (frames > 1)
        with_gaps_B = (kind_B >= ends[1]) & (kind_B < ends[2]) & (frames > 1)
        known_BT = with_history_B[:, None] & (place_T < length_B[:, None])
        known_BT |= with_gaps_B[:, None] & (place_T % every_B[:, None] == 0)
        return t_BT.masked_fill(known_BT, 1.0), known_BT

    @torch.no_grad()
    def sample(
        self,
        shape: Shape,
        cond: Features,
        *,
        rng: Rng | Sequence[Rng],
        steps: int,
        guidance: float,
        known: Known | None = None,
        start: Start | None = None,
        negative: Features | None = None,
        late: Features | None = None,
    ) -> Tensor:
        """Integrates from noise at t = 0 to data at t = 1 in ``steps`` >= 1 steps.

        Known frames have t = 1. Known cells of other frames are put back on their own straight line after every
        step (Lugmayr et al. 2022, "RePaint", eq. 8, with the noise of the clip). What is changed begins on its line
        at t = 1 - strength (Meng et al. 2022, "SDEdit", section 3), and takes the steps that end after it. A negative
        text takes the place of no text in the guidance.
        """
        check_legal("steps", steps, steps >= 1, ">= 1")
        self.refuse(guidance, known, start, negative, late)
        guide = Guide(cond, negative, late, guidance, self.when)
        noise = normal(shape, rng, cond.x.device)
        begin = 1.0 - start.strength if start else 0.0
        z = noise if start is None else begin * start.target + (1 - begin) * noise
        fixed_BT, places_T = torch.zeros(shape[0], shape[2], dtype=torch.bool, device=z.device), None
        if known is not None:
            fixed_BT, places_T = known.frames(), known.places()

        def kept(z: Tensor, t: float) -> Tensor:
            if known is None:
                return z
            on_line = torch.where(_per_frame(fixed_BT), known.target, t * known.target + (1 - t) * noise)
            return torch.where(known.cells(), on_line, z)

        def velocity(z: Tensor, t: float) -> Tensor:
            t_BT = torch.full(fixed_BT.shape, t, device=z.device).masked_fill(fixed_BT, 1.0)
            return self._guided(z, t, t_BT, guide, places_T).masked_fill(_per_frame(fixed_BT), 0.0)

        z = kept(z, begin)
        for now, after in pairwise(self._grid(steps, begin)):
            v = velocity(z, now)
            ahead = z + (after - now) * v
            if self.sampler == "heun" and after < 1:
                ahead = z + (after - now) * (v + velocity(kept(ahead, after), after)) / 2
            z = kept(ahead, after)
        return z

    def draft(
        self, shape: Shape, cond: Features, *, rng: Rng, steps: int, frames: Tensor | None = None, whole: bool = False
    ) -> Tensor:
        """The clean target that the network expects after a random part of ``steps`` >= 2 steps from noise.

        The steps are Euler's, without guidance and without gradients; the expectation has gradients (Xu et al.
        2023, "ImageReward", algorithm 1, ReFL). A ``whole`` one has taken all steps, with gradients (Clark et al. 2024, "DRaFT",
        section 4).
        """
        check_legal("steps", steps, steps >= 2, ">= 2")
        z = normal(shape, rng, cond.x.device)
        # an early draft is not from the first quarter: nothing is decided there yet, and what can't be read can't be taught
        first = max(1, steps // 4)
        done = steps - 1 if whole else int(torch.randint(first, steps, (), generator=rng, device=rng.device))
        times = self._grid(steps)[: done + 1]

        def at(t: float) -> Tensor:
            return torch.full((shape[0], shape[2]), t, device=z.device)

        with torch.set_grad_enabled(whole and torch.is_grad_enabled()):
            for now, after in pairwise(times):
                z = z + (after - now) * self._velocity(z, at(now), cond, frames)
        expected: Tensor = self.network(z, at(times[-1]), cond, frames).float()
        return expected

    def times(self, steps: int) -> list[float]:
        """Those of the sampler."""
        return self._grid(steps)

    def noised(self, target: Tensor, noise: Tensor, t: float) -> Tensor:
        """t x + (1 - t) e."""
        return t * target + (1 - t) * noise

    def carried(
        self, z: Tensor, cond: Features, times: Sequence[float], *, guidance: float, late: Features | None = None
    ) -> Tensor:
        """Steps of the sampler, in which no frame is known."""
        guide = Guide(cond, None, late, guidance, self.when)

        def velocity(z: Tensor, t: float) -> Tensor:
            t_BT = torch.full((len(z), z.shape[2]), t, device=z.device)
            return self._guided(z, t, t_BT, guide)

        for now, after in pairwise(times):
            v = velocity(z, now)
            if self.sampler == "heun" and after < 1:
                v = (v + velocity(z + (after - now) * v, after)) / 2
            z = z + (after - now) * v
        return z

    def _grid(self, steps: int, begin: float = 0.0) -> list[float]:
        """``steps + 1`` times from 0 to 1; ``begin`` and those after it where it is not 0."""
        times = torch.linspace(0, 1, steps + 1)
        times = times / (self.shift - (self.shift - 1) * times)
        # rounding may leave the last a bit aside, and the last step must end at the data
        return [begin, *(t for t in times[1:-1].tolist() if t > begin + ROUNDING), 1.0]

    def _guided(self, z: Tensor, t: float, t_BT: Tensor, guide: Guide, places_T: Tensor | None = None) -> Tensor:
        """The velocity at time t, at which all frames stand but those that are known."""

        def ask(cond: Features) -> Tensor:
            copies = len(cond.x) // len(z)
            return self._velocity(z.repeat(copies, 1, 1, 1, 1), t_BT.repeat(copies, 1), cond, places_T)

        return guide.said(ask, t)

    def _velocity(self, z: Tensor, t_BT: Tensor, cond: Features, frames: Tensor | None = None) -> Tensor:
        x_hat = self.network(z, t_BT, cond, frames).float()
        # known frames have t = 1; their velocity is masked, it only has to be finite
        return (x_hat - z) / (1 - _per_frame(t_BT)).clamp(min=1e-6)


def _per_frame(x_BT: Tensor) -> Tensor:
    return x_BT[:, None, :, None, None]
