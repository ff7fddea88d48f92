"""Rectified flow with a video transformer that allows one noise level per frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.interfaces import Generator, Shape
from kinetext.nn.embedding import TimeEmbedding, rope_3d
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import ModulatedBlock
from kinetext.types import Features, Known, Losses

Velocity = Callable[[Tensor, Tensor], Tensor]


class Flow(Generator):
    r"""Learns to carry noise to data along straight lines.

    Rectified flow (Liu et al. 2022, eq. 1; Lipman et al. 2022): with data x, noise e and time t,

        z_t = t x + (1 - t) e,   v = dz/dt = x - e.

    The network predicts x; the loss compares velocities, |x_hat - x|^2 / (1 - t)^2 (Li & He 2025,
    "Back to Basics" (JiT), table 1: x-prediction, v-loss). Times are logit-normal (Esser et al. 2024,
    section 3.1). Every frame may have its own time (Chen et al. 2024, "Diffusion Forcing"), so a frame
    that is known is one with t = 1, and the same weights continue, fill in and extend clips. Text
    tokens join every attention as keys and their mean modulates every norm. Classifier-free guidance
    (Ho & Salimans 2022) within an interval of times (Kynkäänniemi et al. 2024).

    Args:
        channels: of the target (decided by the assembly).
        cond_dim: width of the text features (decided by the assembly).
        dim: width, a multiple of ``heads``.
        depth: number of blocks, >= 1.
        heads: attention heads.
        patch: side of a spatial patch, in target pixels; H and W of the target are multiples of it.
        time_mean: mean of logit(t) in training; negative means more noise.
        time_std: standard deviation of logit(t), > 0.
        time_floor: least value of (1 - t) in the loss, in (0, 1).
        independent: share of training clips, in [0, 1], where every frame has its own time.
        history: share of training clips, in [0, 1], whose first frames are known (t = 1).
        cond_dropout: share of training clips, in [0, 1], that see no text (for guidance).
        sampler: "heun" (two evaluations a step) or "euler" (one).
        guidance_from, guidance_to: guide only while t is in this interval of [0, 1].
        shift: > 0; above 1 the sampler spends more of its steps near noise (Esser et al. 2024, eq. 23).
    """

    kind: Literal["continuous", "tokens"] = "continuous"

    def __init__(
        self,
        *,
        channels: int = 1,
        cond_dim: int = 64,
        dim: int = 64,
        depth: int = 2,
        heads: int = 2,
        patch: int = 2,
        time_mean: float = -0.8,
        time_std: float = 0.8,
        time_floor: float = 0.05,
        independent: float = 0.1,
        history: float = 0.1,
        cond_dropout: float = 0.1,
        sampler: Literal["heun", "euler"] = "heun",
        guidance_from: float = 0.0,
        guidance_to: float = 1.0,
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        _legal("depth", depth, depth >= 1, ">= 1")
        _legal("patch", patch, patch >= 1, ">= 1")
        _legal("dim", dim, dim % (2 * heads) == 0, f"an even multiple of heads = {heads}")
        _legal("time_std", time_std, time_std > 0, "> 0")
        _legal("time_floor", time_floor, 0 < time_floor < 1, "in (0, 1)")
        _legal("shift", shift, shift > 0, "> 0")
        _legal("cond_dropout", cond_dropout, 0 <= cond_dropout <= 1, "in [0, 1]")
        shares = min(independent, history) >= 0 and independent + history <= 1
        _legal("independent + history", independent + history, shares, "shares that add up to at most 1")
        self.network = FlowTransformer(channels, cond_dim, dim, depth, heads, patch)
        self.time_mean, self.time_std, self.time_floor = time_mean, time_std, time_floor
        self.independent, self.history, self.cond_dropout = independent, history, cond_dropout
        self.sampler, self.shift = sampler, shift
        self.guidance_from, self.guidance_to = guidance_from, guidance_to

    def check(self, shape: Shape) -> None:
        """H and W must be multiples of ``patch``."""
        patch = self.network.patch
        if shape[2] % patch or shape[3] % patch:
            raise ValueError(
                f"patch: {patch}, expected a divisor of the target's height {shape[2]} and width {shape[3]}"
            )

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """Mean squared velocity error over the frames that are not known."""
        t_BT, known_BT = self._times(target, rng)
        dropped_B = torch.rand(len(target), generator=rng, device=target.device) < self.cond_dropout
        cond = Features(cond.x, cond.mask & ~dropped_B[:, None])
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
        own_B1 = (kind_B < self.independent)[:, None]
        t_BT = torch.where(own_B1, normal, normal[:, :1]).mul(self.time_std).add(self.time_mean).sigmoid()
        with_history_B = (kind_B >= self.independent) & (kind_B < self.independent + self.history) & (frames > 1)
        known_BT = with_history_B[:, None] & (torch.arange(frames, device=on) < length_B[:, None])
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
    ) -> Tensor:
        """Integrates from noise at t = 0 to data at t = 1 in ``steps`` >= 1 steps.

        Args:
            guidance: 1 follows the text as learned, more exaggerates it, 0 ignores it.
        """
        if steps < 1:
            raise ValueError(f"steps: {steps}, expected >= 1")
        z = _noise(shape, rng, cond.x.device)
        fixed_BT = torch.zeros(shape[0], shape[2], dtype=torch.bool, device=z.device)
        if known is not None:
            fixed_BT = known.mask
            z = torch.where(_per_frame(fixed_BT), known.target, z)
        times = self._grid(steps)

        def velocity(z: Tensor, t: float) -> Tensor:
            t_BT = torch.full(fixed_BT.shape, t, device=z.device).masked_fill(fixed_BT, 1.0)
            v = self._guided(z, t_BT, cond, guidance if self.guidance_from <= t <= self.guidance_to else 1.0)
            return v.masked_fill(_per_frame(fixed_BT), 0.0)

        for now, after in pairwise(times):
            v = velocity(z, now)
            ahead = z + (after - now) * v
            if self.sampler == "heun" and after < 1:
                ahead = z + (after - now) * (v + velocity(ahead, after)) / 2
            z = ahead
        return z

    def draft(self, shape: Shape, cond: Features, *, rng: Rng, steps: int, frames: Tensor | None = None) -> Tensor:
        """The clean target that the network expects after a random part of ``steps`` >= 2 steps from noise.

        The steps are Euler's, without guidance and without gradients; the expectation has gradients (Xu et al.
        2023, "ImageReward", algorithm 1, ReFL).
        """
        if steps < 2:
            raise ValueError(f"steps: {steps}, expected >= 2")
        z = _noise(shape, rng, cond.x.device)
        # not from the first quarter: nothing is decided there yet, and what can't be read can't be taught
        done = int(torch.randint(max(1, steps // 4), steps, (), generator=rng, device=rng.device))
        times = self._grid(steps)[: done + 1]

        def at(t: float) -> Tensor:
            return torch.full((shape[0], shape[2]), t, device=z.device)

        with torch.no_grad():
            for now, after in pairwise(times):
                z = z + (after - now) * self._velocity(z, at(now), cond, frames)
        expected: Tensor = self.network(z, at(times[-1]), cond, frames).float()
        return expected

    def _grid(self, steps: int) -> list[float]:
        """``steps + 1`` times from 0 to 1."""
        times = torch.linspace(0, 1, steps + 1)
        times = times / (self.shift - (self.shift - 1) * times)
        # rounding may leave the last a bit aside, and the last step must end at the data
        return [*times[:-1].tolist(), 1.0]

    def _guided(self, z: Tensor, t_BT: Tensor, cond: Features, guidance: float) -> Tensor:
        if guidance == 1.0:
            return self._velocity(z, t_BT, cond)
        both = Features(cond.x.repeat(2, 1, 1), torch.cat([cond.mask, torch.zeros_like(cond.mask)]))
        with_text, without = self._velocity(z.repeat(2, 1, 1, 1, 1), t_BT.repeat(2, 1), both).chunk(2)
        return without + guidance * (with_text - without)

    def _velocity(self, z: Tensor, t_BT: Tensor, cond: Features, frames: Tensor | None = None) -> Tensor:
        x_hat = self.network(z, t_BT, cond, frames).float()
        # known frames have t = 1; their velocity is masked, it only has to be finite
        return (x_hat - z) / (1 - _per_frame(t_BT)).clamp(min=1e-6)


def _legal(name: str, value: float, holds: bool, legal: str) -> None:
    if not holds:
        raise ValueError(f"{name}: {value}, expected {legal}")


def _per_frame(x_BT: Tensor) -> Tensor:
    return x_BT[:, None, :, None, None]


def _noise(shape: Shape, rng: Rng | Sequence[Rng], on: torch.device) -> Tensor:
    if isinstance(rng, Rng):
        return torch.randn(shape, generator=rng, device=rng.device).to(on)
    rows = [torch.randn(shape[1:], generator=one, device=one.device) for one in rng]
    return torch.stack(rows).to(on)


class FlowTransformer(nn.Module):
    """``(z, t, text) -> x``: patches of all frames in one sequence, 3-D rotary positions.

    A DiT (Peebles & Xie 2023) with RMSNorm, QK-norm, SwiGLU and text keys in every attention.
    """

    def __init__(self, channels: int, cond_dim: int, dim: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.head_dim = dim // heads
        self.embed = nn.Linear(channels * patch * patch, dim)
        self.time = TimeEmbedding(dim)
        self.no_text = nn.Parameter(torch.randn(cond_dim) * 0.02)
        self.text = nn.Linear(cond_dim, dim)
        modulation = nn.Linear(dim, 6 * dim)
        nn.init.normal_(modulation.weight, std=0.02)
        nn.init.zeros_(modulation.bias)
        self.modulation = nn.Sequential(nn.SiLU(), modulation)
        self.blocks = nn.ModuleList(ModulatedBlock(dim, heads, context_dim=cond_dim) for _ in range(depth))
        self.norm = RMSNorm(dim)
        self.out = nn.Linear(dim, channels * patch * patch)

    def forward(self, z_BCTHW: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        """``(B, C, T, H, W)``, times ``(B, T)``, text features -> clean estimate ``(B, C, T, H, W)``.

        ``frames_T`` are the frames' positions in the clip, 0 to T - 1 where None.
        """
        rows, columns = z_BCTHW.shape[3] // self.patch, z_BCTHW.shape[4] // self.patch
        if frames_T is None:
            frames_T = torch.arange(z_BCTHW.shape[2], device=z_BCTHW.device)
        # absent tokens become a learned vector, so attention needs no mask and "no text" is a text too
        context = torch.where(cond.mask.unsqueeze(-1), cond.x, self.no_text.to(cond.x.dtype))
        pooled = torch.where(cond.mask.any(1, keepdim=True), cond.pooled(), self.no_text.to(cond.x.dtype))
        signal_BTD = self.time(t_BT) + self.text(pooled)[:, None]
        modulation = self.modulation(signal_BTD).unflatten(-1, (6, -1))
        rope = rope_3d(frames_T, (rows, columns), self.head_dim)
        x = self.embed(patchify(z_BCTHW, self.patch))
        for block in self.blocks:
            x = block(x, modulation, context, rope)
        return unpatchify(self.out(self.norm(x)), self.patch, (rows, columns))


def patchify(z_BCTHW: Tensor, patch: int) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(B, T, S, C * patch^2)``, S patches of a frame in row-major order."""
    if z_BCTHW.shape[3] % patch or z_BCTHW.shape[4] % patch:
        raise ValueError(f"patch: {patch} does not divide a target of {tuple(z_BCTHW.shape[3:])}")
    x = z_BCTHW.unflatten(3, (-1, patch)).unflatten(5, (-1, patch))  # B C T h p w q
    return x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)


def unpatchify(x_BTSD: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of ``patchify``; ``grid`` is (rows, columns) of patches."""
    x = x_BTSD.unflatten(3, (-1, patch, patch)).unflatten(2, grid)  # B T h w C p q
    return x.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
