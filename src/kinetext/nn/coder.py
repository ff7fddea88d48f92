"""Encoder and decoder of learned codecs: convolutions frame by frame, or causal over time; decoding in pieces and tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal, cast

import torch
from torch import Tensor, nn

from kinetext.nn.conv import (
    CausalConv,
    CausalMix,
    Doubled,
    Norm,
    PerFrame,
    ResidualConv,
    fold_frames,
    norm_of,
    unfold_frames,
)
from kinetext.types import check_legal

Temporal = Literal["frame", "causal"]
PIECE = 64  # frames at a time where no gradients are wanted; those of a small clip then fit a processor's cache


@dataclass(frozen=True)
class Plan:
    """The sizes of an encoder and its decoder.

    Args:
        channels: of the video.
        width: channels of the first level, a multiple of 8; they double at every level.
        levels: halvings of the frame's side, >= 1; H and W are multiples of 2^levels.
        blocks: residual blocks a level, >= 0.
        temporal: "frame" codes every frame by itself; "causal" also looks back in time, never ahead.
        time_levels: of the deepest levels that halve time as well, 0 for "frame", 1 to ``levels`` for "causal".
        norm: "group" normalises over whole frames, "pixel" over the channels of every pixel.
        tile: side, in pixels, of the overlapping tiles that larger frames are decoded in where no gradients are wanted, a
            multiple of 2^levels, at least 8 times it; 0 decodes whole frames.
    """

    channels: int
    width: int
    levels: int
    blocks: int
    temporal: Temporal
    time_levels: int
    norm: Norm
    tile: int

    def __post_init__(self) -> None:
        check_legal("width", self.width, self.width >= 8 and self.width % 8 == 0, "a multiple of 8")
        check_legal("levels", self.levels, self.levels >= 1, ">= 1")
        check_legal("blocks", self.blocks, self.blocks >= 0, ">= 0")
        if self.temporal == "frame":
            check_legal("time_levels", self.time_levels, self.time_levels == 0, '0 with temporal = "frame"')
        else:
            legal = 1 <= self.time_levels <= self.levels
            check_legal("time_levels", self.time_levels, legal, f'1 to levels = {self.levels} with temporal = "causal"')
        unit = 2**self.levels
        legal = self.tile == 0 or (self.tile % unit == 0 and self.tile >= 8 * unit)
        check_legal("tile", self.tile, legal, f"0, or a multiple of {unit} that is at least {8 * unit}")

    @property
    def widths(self) -> list[int]:
        """Channels of every level."""
        return [self.width * 2**level for level in range(self.levels)]

    @property
    def stride(self) -> int:
        """Frames that one frame of the target stands for."""
        return int(2**self.time_levels)

    def halves_time(self, level: int) -> bool:
        return level >= self.levels - self.time_levels

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, T, H, W) of a video -> (T', H', W') of its target, T' = T / 2^time_levels rounded up.

        Raises:
            ValueError: other channels, or sides that can't be halved so often.
        """
        channels, frames, height, width = shape
        unit = 2**self.levels
        if channels != self.channels or height % unit or width % unit:
            raise ValueError(
                f"video: (C, T, H, W) = {shape}, expected {self.channels} channels and H, W that are multiples of {unit}"
            )
        return (-(-frames // self.stride), height // unit, width // unit)

    def reach(self) -> int:
        """How many frames of the target before it a decoded one can depend on."""
        frames, rate = 2.0, 1  # the first convolution sees two; later ones see a fraction, time being finer
        for level in range(self.levels - 1, -1, -1):
            frames += 2 * self.blocks / rate
            rate *= 2 if self.halves_time(level) else 1
        return math.ceil(frames)


class VideoEncoder(nn.Sequential):
    """``(B, C, T, H, W)`` -> ``(B, out, T', H', W')``, after Rombach et al. 2022 ("High-Resolution Image Synthesis with
    Latent Diffusion Models", appendix G), here without attention.

    A clip whose T is no multiple of 2^time_levels is completed with its last frame.
    """

    def __init__(self, plan: Plan, out: int) -> None:
        layers: list[nn.Module] = []
        before = plan.channels
        for level, width in enumerate(plan.widths):
            if plan.temporal == "frame":
                layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
                layers.extend(ResidualConv(width, plan.norm) for _ in range(plan.blocks))
            else:
                taps, stride = (4, 2) if plan.halves_time(level) else (1, 1)
                layers.append(CausalConv(before, width, 4, taps=taps, stride=stride, space_stride=2, padding=1))
                for _ in range(plan.blocks):
                    layers.extend([PerFrame(ResidualConv(width, plan.norm)), CausalMix(width, plan.norm)])
            before = width
        last = [norm_of(plan.norm, before), nn.SiLU(), nn.Conv2d(before, out, 3, padding=1)]
        super().__init__(*_with_end(layers, last, plan))
        self.plan = plan

    def encode(self, video: Tensor) -> Tensor:
        pieces = not torch.is_grad_enabled() and video.device.type == "cpu"
        if self.plan.temporal == "frame":
            frames = fold_frames(video)
            # pieces that fit a processor's cache: faster than all at once (LOG.md, "Encoding in pieces")
            parts = [self(piece) for piece in frames.split(PIECE if pieces else len(frames))]
            return unfold_frames(torch.cat(parts), len(video))
        missing = -video.shape[2] % self.plan.stride
        whole = torch.cat([video, video[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
        rows = max(1, PIECE // whole.shape[2]) if pieces else len(whole)
        return torch.cat([self(piece) for piece in whole.split(rows)])


class VideoDecoder(nn.Sequential):
    """``(B, dim, T', H', W')`` -> ``(B, C, T, H, W)``, the mirror of ``VideoEncoder``; nothing is clamped."""

    def __init__(self, plan: Plan, dim: int) -> None:
        widths = plan.widths
        frame = plan.temporal == "frame"
        layers: list[nn.Module] = [
            nn.Conv2d(dim, widths[-1], 3, padding=1) if frame else CausalConv(dim, widths[-1], 3, taps=3, padding=1)
        ]
        for level in range(plan.levels - 1, -1, -1):
            width, after = widths[level], widths[max(level - 1, 0)]
            if frame:
                layers.extend(ResidualConv(width, plan.norm) for _ in range(plan.blocks))
                # sub-pixel convolution, see Doubled
                layers.extend([nn.Conv2d(width, 4 * after, 3, padding=1), nn.PixelShuffle(2)])
            else:
                for _ in range(plan.blocks):
                    layers.extend([PerFrame(ResidualConv(width, plan.norm)), CausalMix(width, plan.norm)])
                layers.append(Doubled(width, after, plan.halves_time(level)))
        last = [norm_of(plan.norm, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], plan.channels, 3, padding=1)]
        super().__init__(*_with_end(layers, last, plan))
        self.plan, self._last = plan, (last[-1],)  # in a tuple, or the layer would have two names

    def decode(self, target: Tensor, frames: int) -> Tensor:
        """The first ``frames`` frames.

        Without gradients it goes in pieces of time and, where the plan has them, in tiles, so that memory is bounded.
        """
        if torch.is_grad_enabled():
            return self._at_once(target)[:, :, :frames]
        tile = self.plan.tile // 2**self.plan.levels
        if tile == 0 or max(target.shape[3:]) <= tile:
            return self._in_time(target)[:, :, :frames]
        return self._in_tiles(target, tile)[:, :, :frames]

    def last_weight(self) -> nn.Parameter:
        """The weight of the last convolution."""
        return cast(nn.Parameter, self._last[0].weight)

    def _at_once(self, target: Tensor) -> Tensor:
        if self.plan.temporal == "frame":
            return unfold_frames(self(fold_frames(target)), len(target))
        whole: Tensor = self(target)
        return whole

    def _in_time(self, target: Tensor) -> Tensor:
        """Decodes a piece of time after the other; each is given as much of the past as it can depend on."""
        if self.plan.temporal == "frame":
            parts = [self(piece) for piece in fold_frames(target).split(PIECE)]
            return unfold_frames(torch.cat(parts), len(target))
        stride, reach = self.plan.stride, self.plan.reach()
        length = max(1, PIECE // stride)

        def piece(rows: Tensor, start: int) -> Tensor:
            begin = max(0, start - reach)
            made: Tensor = self(rows[:, :, begin : start + length])
            return made[:, :, (start - begin) * stride :]

        starts = range(0, target.shape[2], length)
        some = target.split(max(1, length // target.shape[2]))
        return torch.cat([torch.cat([piece(rows, start) for start in starts], dim=2) for rows in some])

    def _in_tiles(self, target: Tensor, tile: int) -> Tensor:
        """Decodes overlapping tiles of ``tile`` cells. An eighth of a tile at an inner edge, which lacks what is beyond,
        is left out; over the next eighth it fades linearly into its neighbour.
        """
        unit, edge = 2**self.plan.levels, tile // 8
        height, width = target.shape[3:]
        video, total = torch.zeros(()), torch.zeros(height * unit, width * unit, device=target.device)
        for top, left in product(_starts(height, tile, 3 * edge), _starts(width, tile, 3 * edge)):
            part = self._in_time(target[:, :, :, top : top + tile, left : left + tile]).float()
            high, wide = part.shape[3:]
            down = _fade(high, edge * unit, top > 0, top + tile < height)
            across = _fade(wide, edge * unit, left > 0, left + tile < width)
            weight = (down[:, None] * across).to(part.device)
            if video.ndim == 0:
                video = part.new_zeros((*part.shape[:3], *total.shape))
            place = (slice(top * unit, top * unit + high), slice(left * unit, left * unit + wide))
            video[(..., *place)] += part * weight
            total[place] += weight
        return video / total


def _with_end(layers: list[nn.Module], last: list[nn.Module], plan: Plan) -> list[nn.Module]:
    """The layers, and the last ones, which work on frames."""
    return [*layers, *last] if plan.temporal == "frame" else [*layers, PerFrame(*last)]


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of one axis begin; the last one ends with the frame."""
    if side <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, side - tile, step), side - tile]


def _fade(side: int, edge: int, before: bool, after: bool) -> Tensor:
    """Weights of a tile along one axis: where there is a tile before, nothing over ``edge`` and a linear rise over as much;
    likewise after.
    """
    rise = ((torch.arange(side) - edge + 0.5) / edge).clamp(0, 1)
    weight = rise if before else torch.ones(side)
    return weight * rise.flip(0) if after else weight
