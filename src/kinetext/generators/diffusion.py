"""Diffusion in discrete steps with the video transformer: DDPM, DDIM and DPM-Solver++ samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Generator as Rng
from torch import Tensor

from kinetext.interfaces import Ability, Generator, Shape
from kinetext.nn.denoiser import VideoDenoiser
from kinetext.nn.guidance import Guide, When, dropped
from kinetext.nn.noise import normal
from kinetext.types import Features, Known, Losses, Start, check_between, check_legal, check_one_of

Clean = Callable[[Tensor, int], Tensor]  # (z, n) -> the clean target that is expected behind z


class Diffusion(Generator):
    r"""Learns to undo noise, level by level: a video diffusion model.

    Denoising diffusion (Ho et al. 2020, "DDPM", eq. 4, 12 and 14) of whole clips (Ho et al. 2022, "Video Diffusion
    Models"): with data x, noise e and levels n = 0 (data) to N (noise),

        z_n = a_n x + s_n e,   a_n^2 = abar_n = prod_{i <= n} (1 - beta_i),   s_n^2 = 1 - abar_n.

    abar follows a cosine, f(n) / f(0) with f(n) = cos^2((n / N + 0.008) / 1.008 pi / 2) and no beta above 0.999 (Nichol &
    Dhariwal 2021, eq. 17). The network says e, or v = a e - s x (Salimans & Ho 2022, appendix D), or x, and learns
    the mean squared error of what it says; with ``min_snr`` a level counts in the error of x by min(abar / s^2, gamma)
    (Hang et al. 2023, eq. 11). All three say the same, x = (z - s e) / a = a z - s v.

    The network is told the time t = 1 - n / N, 0 noise and 1 data, as that of a flow is, the same for all frames.
    Classifier-free guidance (Ho & Salimans 2022). Frames and cells that are known are put back on their own way
    through the noise after every step (Lugmayr et al. 2022, "RePaint", eq. 8; Ho et al. 2022, section 3.1, "replacement"),
    and what the network expects there may be pulled to them ("reconstruction guidance", there, eq. 7).

    Args:
        channels: of the target (decided by the assembly).
        cond_dim: width of the text features (decided by the assembly).
        dim: width, a multiple of ``heads``.
        depth: number of blocks, >= 1.
        heads: attention heads.
        patch: side of a spatial patch, in target pixels; H and W of the target are multiples of it.
        pooled_text: whether the mean of the text modulates every norm, besides the words that attention takes.
        levels: N, >= 2; a sampler has at most so many steps.
        noise_shift: > 0; above 1 every level has more noise, abar / s^2 being divided by its square: a clip shows at
            higher noise what it is than a picture does (Hoogeboom et al. 2023, "simple diffusion", section 3.1).
        prediction: what the network says: "v", "eps" or "x".
        min_snr: gamma, the most that a level counts, > 0; 0 is off.
        cond_dropout: share of training clips, in [0, 1], that see no text (for guidance).
        sampler: "ddim" (Song et al. 2021, eq. 12), "ddpm", which is the same with all of the noise (eta = 1), or "dpmpp",
            DPM-Solver++(2M) (Lu et al. 2022, algorithm 2).
        guidance_from, guidance_to: guide only while t = 1 - n / N is in this interval of [0, 1] (Kynkäänniemi et al. 2024).
        late_from: time in [0, 1]; from the first step that begins there or after it a late text guides, where there is one
            (``task.early_words``), and a guided step costs three evaluations in place of two.
        eta: how much fresh noise a step of "ddim" adds, in [0, 1].
        reconstruction: how strongly the rest of a clip follows what is known of it, >= 0; 0 is replacement alone. Every step
            costs a backward pass more.
        clamp: the expected clean target is kept within +- this while sampling, > 0; 0 is off.
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
        levels: int = 1000,
        noise_shift: float = 1.0,
        prediction: Literal["v", "eps", "x"] = "v",
        min_snr: float = 0.0,
        cond_dropout: float = 0.1,
        sampler: Literal["ddim", "ddpm", "dpmpp"] = "ddim",
        guidance_from: float = 0.0,
        guidance_to: float = 1.0,
        late_from: float = 0.2,
        eta: float = 0.0,
        reconstruction: float = 0.0,
        clamp: float = 0.0,
    ) -> None:
        super().__init__()
        check_one_of("prediction", prediction, "v", "eps", "x")
        check_one_of("sampler", sampler, "ddim", "ddpm", "dpmpp")
        check_legal("levels", levels, levels >= 2, ">= 2")
        check_legal("noise_shift", noise_shift, noise_shift > 0, "> 0")
        check_legal("min_snr", min_snr, min_snr >= 0, ">= 0")
        check_legal("cond_dropout", cond_dropout, 0 <= cond_dropout <= 1, "in [0, 1]")
        check_legal("eta", eta, 0 <= eta <= 1, "in [0, 1]")
        check_legal("eta", eta, eta == 0 or sampler == "ddim", f"0 with sampler = {sampler}")
        check_legal("reconstruction", reconstruction, reconstruction >= 0, ">= 0")
        check_legal("clamp", clamp, clamp >= 0, ">= 0")
        # x = (z - s e) / a is 20,000 times as wrong as e is where nearly all is noise
        check_legal("clamp", clamp, prediction != "eps" or clamp > 0, '> 0 with prediction = "eps"')
        self.network = VideoDenoiser(channels, cond_dim, dim, depth, heads, patch, pooled_text)
        self.max_steps = levels
        self.levels, self.prediction, self.min_snr, self.cond_dropout = levels, prediction, min_snr, cond_dropout
        self.sampler, self.reconstruction, self.clamp = sampler, reconstruction, clamp
        self.when = When(guidance_from, guidance_to, late_from)
        self.eta = 1.0 if sampler == "ddpm" else eta
        kept = cosine_schedule(levels, noise_shift)
        self._a, self._s = kept.sqrt().tolist(), (1 - kept).sqrt().tolist()  # in 64 bits
        self.register_buffer("a_N", kept.sqrt().float(), persistent=False)
        self.register_buffer("s_N", (1 - kept).sqrt().float(), persistent=False)

    def check(self, shape: Shape) -> None:
        """H and W must be multiples of ``patch``."""
        self.network.check(shape)

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """Mean squared error of what the network says, at levels that are drawn evenly from 1 to N."""
        n_B = torch.randint(1, self.levels + 1, (len(target),), generator=rng, device=target.device)
        cond = dropped(cond, self.cond_dropout, rng)
        noise = torch.randn(target.shape, generator=rng, device=target.device)
        a_B, s_B = self.get_buffer("a_N")[n_B], self.get_buffer("s_N")[n_B]
        a, s = (x_B[:, None, None, None, None] for x_B in (a_B, s_B))
        t_BT = (1 - n_B / self.levels)[:, None].expand(-1, target.shape[2])
        said = self.network(a * target + s * noise, t_BT, cond, frames).float()
        right = {"eps": noise, "v": a * noise - s * target, "x": target}[self.prediction]
        error_B = (said - right).square().mean(dim=(1, 2, 3, 4))
        loss = (self._weights(a_B, s_B) * error_B).mean()
        return Losses(loss, {self.prediction: error_B.mean().detach()})

    def _weights(self, a_B: Tensor, s_B: Tensor) -> Tensor:
        """How much a level's error counts, given that of x is s^2 / a^2 times that of e, and s^2 times that of v."""
        if not self.min_snr:
            return torch.ones_like(a_B)
        # min(snr, gamma) a^2 / s^2 written so that nothing is divided by an a near 0
        snr_B = (a_B / s_B).square()
        of_x_B = snr_B.clamp(max=self.min_snr)
        if self.prediction == "eps":
            return (self.min_snr / snr_B).clamp(max=1.0)
        return of_x_B if self.prediction == "x" else of_x_B * s_B.square()

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
        """Goes from noise at level N down to data at level 0 in ``steps`` steps, 1 to N, of equal length.

        What is changed begins at level strength * N of its way through the noise (Meng et al. 2022, "SDEdit", section 3), and
        takes that share of the steps. A negative text takes the place of no text in the guidance.

        Raises:
            DataError: more steps than there are levels.
        """
        check_between("steps", steps, 1, self.levels)
        self.refuse(guidance, known, start, negative, late)
        guide = Guide(cond, negative, late, guidance, self.when)
        noise = normal(shape, rng, cond.x.device)
        begin = max(1, round(start.strength * self.levels)) if start else self.levels
        z = noise if start is None else self._a[begin] * start.target + self._s[begin] * noise

        def kept(z: Tensor, n: int) -> Tensor:
            if known is None:
                return z
            return torch.where(known.cells(), self._a[n] * known.target + self._s[n] * noise, z)

        places_T = None if known is None else known.places()

        def clean(z: Tensor, n: int) -> Tensor:
            if known is None or not self.reconstruction:
                return self._expected(z, n, guide, places_T)
            with torch.enable_grad():
                x = self._expected(z.requires_grad_(), n, guide, places_T)
                missed = (x - known.target).masked_fill(~known.cells(), 0.0).square().sum()
            return x.detach() - self.reconstruction * self._a[n] / 2 * torch.autograd.grad(missed, z)[0]

        levels = self._grid(steps, begin)
        z = kept(z, begin)
        if self.sampler == "dpmpp":
            return self._solved(z, levels, clean, kept)
        for now, after in pairwise(levels):
            fresh = normal(shape, rng, z.device) if self.eta and after else None
            z = kept(self._step(z, clean(z, now), now, after, self.eta, fresh), after)
        return z

    def times(self, steps: int) -> list[float]:
        """Those of the levels where "ddim" stands, without noise."""
        if self.sampler != "ddim" or self.eta:
            raise ValueError(
                f"sampler: {self.sampler} with eta = {self.eta}; its steps do not stand for themselves, expected ddim with eta = 0"
            )
        check_legal("steps", steps, 1 <= steps <= self.levels, f"1 to {self.levels}, the levels")
        return [self._time(n) for n in self._grid(steps, self.levels)]

    def noised(self, target: Tensor, noise: Tensor, t: float) -> Tensor:
        """a x + s e."""
        n = self._level(t)
        return self._a[n] * target + self._s[n] * noise

    def carried(
        self, z: Tensor, cond: Features, times: Sequence[float], *, guidance: float, late: Features | None = None
    ) -> Tensor:
        """Steps of "ddim" without noise, whatever the sampler."""
        guide = Guide(cond, None, late, guidance, self.when)
        for now, after in pairwise(map(self._level, times)):
            z = self._step(z, self._expected(z, now, guide), now, after, 0.0, None)
        return z

    def _time(self, n: int) -> float:
        return (self.levels - n) / self.levels  # 1 - n / N would miss 0.3 by a rounding

    def _level(self, t: float) -> int:
        return round((1 - t) * self.levels)

    def _grid(self, steps: int, begin: int) -> list[int]:
        """Levels from ``begin`` to 0: those of ``steps`` equal steps from N that lie below it."""
        whole = [round(self.levels * (steps - i) / steps) for i in range(steps + 1)]
        return [begin, *(n for n in whole if n < begin)]

    def _step(self, z: Tensor, x: Tensor, now: int, after: int, eta: float, fresh: Tensor | None) -> Tensor:
        """From level ``now`` to ``after``, where x is expected: Song et al. 2021, eq. 12 and 16. With eta = 1 it draws
        from the posterior q(z_after | z_now, x) (Ho et al. 2020, eq. 6 and 7).
        """
        e = (z - self._a[now] * x) / self._s[now]
        a, variance = self._a[after], self._s[after] ** 2
        new = eta**2 * variance / self._s[now] ** 2 * (1 - (self._a[now] / a) ** 2)
        z = a * x + math.sqrt(max(variance - new, 0.0)) * e
        return z if fresh is None else z + math.sqrt(new) * fresh

    def _solved(self, z: Tensor, levels: Sequence[int], clean: Clean, kept: Callable[[Tensor, int], Tensor]) -> Tensor:
        """DPM-Solver++(2M): with lambda = log(a / s), h its step and r = h_before / h, x_hat goes on along a line,

            D = (1 + 1 / 2r) x_hat - 1 / 2r x_hat_before,   z' = s' / s z - a' (exp(-h) - 1) D.

        The first and the last step have no line: D = x_hat.
        """
        before: Tensor | None = None
        h_before = 0.0
        for now, after in pairwise(levels):
            x = clean(z, now)
            if after == 0:
                return kept(x, 0)
            h = math.log(self._a[after] / self._s[after]) - math.log(self._a[now] / self._s[now])
            ahead = x if before is None else x + (x - before) * h / (2 * h_before)
            z = kept(self._s[after] / self._s[now] * z - self._a[after] * math.expm1(-h) * ahead, after)
            before, h_before = x, h
        raise AssertionError("levels end at 0")

    def draft(
        self, shape: Shape, cond: Features, *, rng: Rng, steps: int, frames: Tensor | None = None, whole: bool = False
    ) -> Tensor:
        """The clean target that is expected after a random part of ``steps``, 2 to N, steps of "ddim" from noise, without
        guidance; it alone has gradients (Xu et al. 2023, "ImageReward", algorithm 1, ReFL). A ``whole`` one has taken all
        steps, with gradients (Clark et al. 2024, "DRaFT", section 4).
        """
        check_legal("steps", steps, 2 <= steps <= self.levels, f"2 to {self.levels}, the levels")
        z = normal(shape, rng, cond.x.device)
        # an early draft is not from the first quarter: nothing is decided there yet, and what can't be read can't be taught
        first = max(1, steps // 4)
        done = steps - 1 if whole else int(torch.randint(first, steps, (), generator=rng, device=rng.device))
        levels = self._grid(steps, self.levels)[: done + 1]
        with torch.set_grad_enabled(whole and torch.is_grad_enabled()):
            for now, after in pairwise(levels):
                z = self._step(z, self._meant(z, now, self._said(z, now, cond, frames)), now, after, 0.0, None)
        return self._meant(z, levels[-1], self._said(z, levels[-1], cond, frames))

    def _expected(self, z: Tensor, n: int, guide: Guide, places_T: Tensor | None = None) -> Tensor:
        def ask(cond: Features) -> Tensor:
            return self._said(z.repeat(len(cond.x) // len(z), 1, 1, 1, 1), n, cond, places_T)

        return self._meant(z, n, guide.said(ask, self._time(n)))

    def _meant(self, z: Tensor, n: int, said: Tensor) -> Tensor:
        """The clean target that what the network says means."""
        a, s = self._a[n], self._s[n]
        x = {"eps": (z - s * said) / a, "v": a * z - s * said, "x": said}[self.prediction]
        return x.clamp(-self.clamp, self.clamp) if self.clamp else x

    def _said(self, z: Tensor, n: int, cond: Features, frames: Tensor | None = None) -> Tensor:
        t_BT = torch.full((len(z), z.shape[2]), self._time(n), device=z.device)
        said: Tensor = self.network(z, t_BT, cond, frames).float()
        return said


def cosine_schedule(levels: int, shift: float) -> Tensor:
    """abar of levels 0 to ``levels``, ``(N + 1,)`` float64 (Nichol & Dhariwal 2021, eq. 17); shifted, logit(abar) - 2 log(shift)."""
    place = torch.arange(levels + 1, dtype=torch.float64) / levels
    f = torch.cos((place + 0.008) / 1.008 * math.pi / 2).square()
    kept = f / f[0]
    kept = kept / (kept + shift**2 * (1 - kept))
    beta = (1 - kept[1:] / kept[:-1]).clamp(max=0.999)
    return torch.cat([kept.new_ones(1), (1 - beta).cumprod(0)])
