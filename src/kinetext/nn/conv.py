"""2-D convolution blocks that run frame by frame in channels-last memory, and what looks back in time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kinetext.nn.norm import PixelNorm

Norm = Literal["group", "pixel"]  # over groups of channels of a whole frame, or over the channels of every pixel


def fold_frames(video: Tensor) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(B*T, C, H, W)`` in channels-last memory."""
    frames = video.transpose(1, 2).flatten(0, 1)
    return frames.contiguous(memory_format=torch.channels_last)


def unfold_frames(frames: Tensor, batch: int) -> Tensor:
    """``(B*T, C, H, W)`` -> ``(B, C, T, H, W)``."""
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


def norm_of(kind: Norm, width: int) -> nn.Module:
    """A normalisation of frames ``(N, width, H, W)``."""
    return nn.GroupNorm(8, width) if kind == "group" else PixelNorm(width)


class ResidualConv(nn.Module):
    """Two 3x3 convolutions with a norm and SiLU, pre-activated (He et al. 2016, "Identity Mappings")."""

    def __init__(self, width: int, norm: Norm = "group") -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm_of(norm, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            norm_of(norm, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class PerFrame(nn.Module):
    """A network of frames on clips ``(B, C, T, H, W)``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return unfold_frames(self.body(fold_frames(x)), len(x))


class CausalConv(nn.Module):
    """A 3-D convolution of ``(B, C, T, H, W)`` that never looks ahead: output j sees the ``taps`` frames up to the last
    one of the j-th ``stride`` frames. Before the first frame stands the first frame, so an image is a still clip.

    It is computed as a 2-D convolution over stacked frames, which is the same and on processors much faster.

    Args:
        before, after: channels.
        kernel: side in space.
        taps: frames that it sees, >= ``stride``.
        stride: in time; T is a multiple of it.
        space_stride, padding: in space.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        *,
        taps: int,
        stride: int = 1,
        space_stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.taps, self.stride = taps, stride
        self.conv = nn.Conv2d(taps * before, after, kernel, stride=space_stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        past = x[:, :, :1].expand(-1, -1, self.taps - self.stride, -1, -1)
        x = torch.cat([past, x], dim=2)
        last = x.shape[2] - self.taps + 1
        stacked = torch.cat([x[:, :, tap : tap + last : self.stride] for tap in range(self.taps)], dim=1)
        return unfold_frames(self.conv(fold_frames(stacked)), len(x))


class CausalMix(nn.Module):
    """Every pixel sees itself in the two frames before, as a residual."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.norm = PerFrame(norm_of(norm, width), nn.SiLU())
        self.conv = CausalConv(width, width, 1, taps=3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x))


class Doubled(nn.Module):
    """Twice the side and, where ``time``, twice the frames: sub-pixel convolution, cheaper than a transposed one and free
    of checkerboards (Shi et al. 2016).
    """

    def __init__(self, before: int, after: int, time: bool) -> None:
        super().__init__()
        self.time = time
        self.body = PerFrame(nn.Conv2d(before, 4 * (1 + time) * after, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        # (B, 2 C, T, H, W) -> (B, C, 2 T, H, W)
        return x.unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3) if self.time else x
