"""Convolutions over (T, H, W), whose gradients are right in bfloat16 on a processor too.

Those of ``torch.nn.Conv3d`` and ``ConvTranspose3d`` that pad over time can't be trusted there: torch 2.15's weight gradients
are wrong on small grids, sometimes NaN, and at times the process dies (LOG.md, "3-D convolutions in bfloat16"). Ours compute
the same with 2-D convolutions of neighbouring frames side by side; those of known networks get their border from us.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Stride = tuple[int, int, int]  # over (T, H, W), each 1 or 2


class SpaceTimeConv(nn.Module):
    """A convolution with a border of one zero: 4 wide where the stride is 2, 3 where it is 1, so halves or keeps."""

    def __init__(self, width: int, after: int, stride: Stride = (1, 1, 1)) -> None:
        super().__init__()
        self.step = stride[0]
        self.taps = 2 + stride[0]
        space = stride[1:]
        self.conv = nn.Conv2d(self.taps * width, after, (2 + space[0], 2 + space[1]), space, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        windows = _windows(x_BCTHW, self.taps, self.step, before=1, after=1)
        return _frames(self.conv(windows), len(x_BCTHW))


class SpaceTimeDeconv(nn.Module):
    """A transposed convolution: 4 wide where the stride is 2, 3 where it is 1, so doubles or keeps."""

    def __init__(self, width: int, after: int, stride: Stride) -> None:
        super().__init__()
        space = stride[1:]
        kernel = (2 + space[0], 2 + space[1])
        # an output frame between t and t + 1 sees two frames: an even one t - 1 and t, an odd one t and t + 1
        taps = 3 if stride[0] == 1 else 2
        self.taps = taps
        self.convs = nn.ModuleList(nn.ConvTranspose2d(taps * width, after, kernel, space, 1) for _ in range(stride[0]))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        batch = len(x_BCTHW)
        if len(self.convs) == 1:
            return _frames(self.convs[0](_windows(x_BCTHW, self.taps, 1, before=1, after=1)), batch)
        even = _frames(self.convs[0](_windows(x_BCTHW, self.taps, 1, before=1, after=0)), batch)
        odd = _frames(self.convs[1](_windows(x_BCTHW, self.taps, 1, before=0, after=1)), batch)
        return torch.stack([even, odd], dim=3).flatten(2, 3)


def border_by_hand(network: nn.Module) -> None:
    """Makes every ``nn.Conv3d`` of ``network`` that pads over time add its zeros first and then pad nothing: the numbers
    and the names of the weights stay.
    """
    for conv in network.modules():
        if isinstance(conv, nn.Conv3d) and isinstance(conv.padding, tuple) and conv.padding[0]:
            border = tuple(side for side in reversed(conv.padding) for _ in range(2))
            conv.padding = (0, 0, 0)
            conv.register_forward_pre_hook(partial(_bordered, border))


def _bordered(border: tuple[int, ...], conv: nn.Module, args: tuple[Tensor]) -> Tensor:
    return F.pad(args[0], border)


def _windows(x_BCTHW: Tensor, taps: int, step: int, *, before: int, after: int) -> Tensor:
    """``(B * T', taps * C, H, W)`` in channels-last memory: every ``step``-th run of ``taps`` frames, zeros beyond the ends."""
    x_BTHWC = F.pad(x_BCTHW.permute(0, 2, 3, 4, 1), (0, 0, 0, 0, 0, 0, before, after))
    count = (x_BTHWC.shape[1] - taps) // step + 1
    runs = [x_BTHWC[:, tap : tap + step * (count - 1) + 1 : step] for tap in range(taps)]
    return torch.cat(runs, dim=-1).flatten(0, 1).permute(0, 3, 1, 2)


def _frames(frames: Tensor, batch: int) -> Tensor:
    """``(B * T, C, H, W)`` -> ``(B, C, T, H, W)``."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)
