"""Noise and text in, a clip out: transposed convolutions in space and time, and their mirror, strided ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.nn.conv import fold_frames, unfold_frames
from kinetext.nn.spacetime import SpaceTimeConv, SpaceTimeDeconv

Stride = tuple[int, int] | tuple[int, int, int]  # over (H, W) or (T, H, W)


def doublings(levels: int, time_levels: int) -> list[tuple[int, int, int]]:
    """By how much every level doubles (T, H, W), from the base grid on: time as early and space as late as can be.

    Early, so that where things are in every frame is decided on a small grid; late, since large grids cost most.
    """
    count = max(levels, time_levels)
    sides = [2 if i >= count - levels else 1 for i in range(count)]
    return [(2 if i < time_levels else 1, side, side) for i, side in enumerate(sides)]


def width_at(dim: int, level: int) -> int:
    """Channels ``level`` doublings away from the full grid: they double too, up to 4 ``dim``."""
    return dim * min(2**level, 4)


class Modulated(nn.Module):
    """Group norm whose scale and shift come from a signal (Brock et al. 2019, "BigGAN", section 3, with the norm of
    Wu & He 2018): every row by itself.
    """

    def __init__(self, width: int, signal_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width, affine=False)
        self.scale_shift = _begun(nn.Linear(signal_dim, 2 * width), 0.5)

    def forward(self, x_BDTHW: Tensor, signal_BD: Tensor) -> Tensor:
        scale, shift = self.scale_shift(signal_BD)[:, :, None, None, None].chunk(2, 1)
        return F.silu(self.norm(x_BDTHW) * (1 + scale) + shift)


class _Up(nn.Module):
    """A transposed convolution, then residual convolutions."""

    def __init__(self, width: int, after: int, stride: tuple[int, int, int], blocks: int, signal_dim: int) -> None:
        super().__init__()
        self.before = Modulated(width, signal_dim)
        self.up = SpaceTimeDeconv(width, after, stride)
        self.norms = nn.ModuleList(Modulated(after, signal_dim) for _ in range(blocks))
        self.convs = nn.ModuleList(SpaceTimeConv(after, after) for _ in range(blocks))

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        x = self.up(self.before(x, signal))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + conv(norm(x, signal))
        return x


class ClipDeconvolution(nn.Module):
    """(noise, text) -> clip, as DCGAN (Radford et al. 2016) with an axis of time (Vondrick et al. 2016, "VGAN").

    Noise and text give a small grid of features, which transposed convolutions double in space and time; they also
    modulate every norm. With ``motion`` > 0 every frame of the small grid has noise of its own, which a GRU joins
    to a path (Tulyakov et al. 2018, "MoCoGAN", section 3), beside the noise of the clip.

    Args:
        grid: (T, H, W) of the clip; T is a multiple of 2^time_levels, H and W of 2^levels.
        dim: channels on the full grid, a multiple of 8; smaller grids have up to four times as many.
    """

    def __init__(
        self,
        channels: int,
        cond_dim: int,
        dim: int,
        grid: tuple[int, int, int],
        levels: int,
        time_levels: int,
        blocks: int,
        noise: int,
        motion: int,
    ) -> None:
        super().__init__()
        strides = doublings(levels, time_levels)
        self.base = (grid[0] >> time_levels, grid[1] >> levels, grid[2] >> levels)
        first, signal = width_at(dim, len(strides)), 4 * dim
        self.text = _begun(nn.Linear(cond_dim, signal), 1.0)
        self.noise = _begun(nn.Linear(noise, signal), 1.0)
        self.signal = nn.Sequential(nn.SiLU(), _begun(nn.Linear(signal, signal), 1.5), nn.SiLU())
        self.path = nn.GRU(motion, motion, batch_first=True) if motion else None
        cells = prod(self.base[1:] if motion else self.base)
        self.start = _begun(nn.Linear(signal + motion, first * cells), 1.0)
        widths = [width_at(dim, len(strides) - i) for i in range(len(strides) + 1)]
        self.ups = nn.ModuleList(
            _Up(width, after, stride, blocks, signal)
            for width, after, stride in zip(widths, widths[1:], strides, strict=False)
        )
        self.last = Modulated(widths[-1], signal)
        self.out = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, noise_BD: Tensor, motion_BTD: Tensor | None, text_BD: Tensor) -> Tensor:
        """-> ``(B, C, T, H, W)``; ``motion_BTD`` has one row for every frame of the base grid."""
        signal = self.signal(self.noise(noise_BD) + self.text(_scaled(text_BD)))
        frames, height, width = self.base
        if self.path is None or motion_BTD is None:
            x = self.start(signal).unflatten(1, (-1, *self.base))
        else:
            path, _ = self.path(motion_BTD)
            both = torch.cat([signal[:, None].expand(-1, frames, -1), path], dim=-1)
            x = self.start(both).unflatten(2, (-1, height, width)).transpose(1, 2)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        for up in self.ups:
            x = up(x, signal)
        return unfold_frames(self.out(fold_frames(self.last(x, signal))), len(x))


class Critic(nn.Module):
    """A clip (3-D) or frames (2-D) and a text -> a score, by strided convolutions without norms.

    The score is that of a projection discriminator (Miyato & Koyama 2018, "cGANs with Projection Discriminator", eq. 3):
    ``w . h + (V text) . h``, so scores of other texts cost next to nothing once there are features ``h``.

    Args:
        grid: (T, H, W) or (H, W) of what it sees.
        strides: of every level, from the full grid on.
        dim: channels of the first level.
        spectral: divide every weight by its largest singular value (Miyato et al. 2018, "Spectral Normalization").
    """

    def __init__(
        self,
        channels: int,
        cond_dim: int,
        dim: int,
        grid: Sequence[int],
        strides: Sequence[Stride],
        blocks: int,
        spectral: bool,
    ) -> None:
        super().__init__()
        same: Stride = (1, 1, 1) if len(grid) == 3 else (1, 1)
        self.no_text = nn.Parameter(torch.randn(cond_dim) * 0.02)
        widths = [width_at(dim, i) for i in range(len(strides) + 1)]
        layers: list[nn.Module] = [_conv(channels, dim, same)]
        for width, after, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [nn.LeakyReLU(0.2), _conv(width, after, stride)]
            layers += [_Residual(after, same) for _ in range(blocks)]
        cells = prod(side // prod(stride[axis] for stride in strides) for axis, side in enumerate(grid))
        self.hidden = 4 * dim
        layers += [nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(widths[-1] * cells, self.hidden), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.real = nn.Linear(self.hidden, 1, bias=False)  # the features have one
        self.match = nn.Linear(cond_dim, self.hidden)
        for module in list(self.modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                if module is not self.match:
                    nn.init.kaiming_normal_(module.weight, 0.2)
                if spectral:
                    nn.utils.parametrizations.spectral_norm(module)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, ...)`` -> features ``(N, D)``."""
        layout = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        return cast(Tensor, self.body(x.contiguous(memory_format=layout)))

    def score(self, h_ND: Tensor, text_ND: Tensor, has_N: Tensor) -> Tensor:
        """Features and texts -> scores ``(N,)`` in float32; ``has_N`` says which texts there are."""
        with torch.autocast(h_ND.device.type, enabled=False):
            wide = torch.promote_types(h_ND.dtype, torch.float32)
            h_ND, text_ND = h_ND.to(wide), text_ND.to(wide)
            text = torch.where(has_N[:, None], text_ND, self.no_text)
            wanted = self.match(text) / self.hidden**0.5
            return self.real(h_ND)[:, 0] + (wanted * h_ND).sum(1)


class _Residual(nn.Module):
    """``(x + conv(leaky(x))) / sqrt(2)``: the variance stays."""

    def __init__(self, width: int, same: Stride) -> None:
        super().__init__()
        self.conv = _conv(width, width, same)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.conv(F.leaky_relu(x, 0.2))) / 2**0.5


def _begun(linear: nn.Linear, gain: float) -> nn.Linear:
    """Starts with outputs ``gain`` times as large as inputs, and no bias: else all clips would begin alike, since norms
    enlarge whatever is common to them, and a game that begins so does not get away from it.
    """
    nn.init.normal_(linear.weight, std=gain / linear.in_features**0.5)
    nn.init.zeros_(linear.bias)
    return linear


def _scaled(text_ND: Tensor) -> Tensor:
    """Pooled text at a root mean square of 1: a mean over many words is small beside noise."""
    return F.rms_norm(text_ND, text_ND.shape[-1:], eps=1e-6)


def _conv(before: int, after: int, stride: Stride) -> nn.Module:
    """A convolution 4 wide where it halves and 3 where it does not."""
    if len(stride) == 3:
        return SpaceTimeConv(before, after, stride)
    height, width = stride
    return nn.Conv2d(before, after, (2 + height, 2 + width), stride, 1)
