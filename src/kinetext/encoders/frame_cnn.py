"""A 2-D convolutional network on every frame, then a mean or attention over time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.conv import fold_frames
from kinetext.nn.embedding import sinusoidal
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import Block
from kinetext.types import Features, Modality, RecipeError


class FrameCNN(Encoder):
    """Reads each frame by itself, keeps where things are, and joins the frames over time.

    A residual network per frame (He et al. 2016, "Identity Mappings in Deep Residual Networks"). Its
    last small grid is flattened, not averaged, so a frame's vector says what is seen and where;
    transformer blocks over the frames can then tell how it moves. Batch norm takes its statistics from
    real frames alone.

    Args:
        channels: of the video, >= 1 (decided by the assembly).
        num_frames: the longest clip in frames, >= 1 (decided by the assembly).
        size: side of a frame in pixels, a multiple of ``2 ** stages`` (decided by the assembly).
        dim: width of the features, an even multiple of ``heads``.
        width: channels of the first stage, >= 1; stage i has ``i * width``.
        stages: halvings of the picture, >= 1.
        temporal: "mean" gives one vector a clip, the mean of its frames; "attention" gives one vector
            a frame, each of which has seen the others.
        depth: transformer blocks over time, >= 0; "mean" has none.
        heads: of these blocks.
        dropout: on the frame vectors and inside the blocks, in [0, 1).

    Raises:
        RecipeError: when ``size``, ``dim`` or ``dropout`` is outside its range.
    """

    modality: Modality = "video"

    def __init__(
        self,
        *,
        channels: int = 3,
        num_frames: int = 16,
        size: int = 64,
        dim: int = 128,
        width: int = 32,
        stages: int = 4,
        temporal: Literal["mean", "attention"] = "attention",
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if stages < 1:
            raise RecipeError(f"encoders.video.stages: {stages}, expected >= 1")
        if size < 1 or size % 2**stages:
            raise RecipeError(f"encoders.video.size: {size} pixels, expected a multiple of 2 ** stages = {2**stages}")
        if dim % 2 or dim % heads:
            raise RecipeError(f"encoders.video.dim: {dim}, expected an even multiple of heads = {heads}")
        if not 0 <= dropout < 1:
            raise RecipeError(f"encoders.video.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim = dim
        self.expected = (channels, num_frames, size)
        self.stages = nn.Sequential(*_stages(channels, width, stages)).to(memory_format=torch.channels_last)
        self.project = nn.Linear(width * stages * (size // 2**stages) ** 2, dim)
        self.dropout = nn.Dropout(dropout)
        self.time: nn.Parameter | None = None
        self.blocks = nn.ModuleList()
        if temporal == "attention":
            # smaller than the frame vectors, so that what is seen is heard from the first step on
            self.time = nn.Parameter(0.2 * sinusoidal(torch.arange(num_frames), dim))
            self.blocks.extend(Block(dim, heads, dropout=dropout) for _ in range(depth))
        self.norm = RMSNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> Features ``(B, T or 1, dim)``."""
        self._check(x)
        batch, frames = mask.shape
        h = self._frames(fold_frames(x), mask.flatten()).unflatten(0, (batch, frames))
        if self.time is None:
            mean = Features(h, mask).pooled()
            some = mask.any(1, keepdim=True)
            return Features(self.norm(mean).unsqueeze(1), some)
        h = h + self.time[:frames].to(h.dtype)
        for block in self.blocks:
            h = block(h, mask)
        return Features(self.norm(h).masked_fill(~mask.unsqueeze(-1), 0.0), mask)

    def _frames(self, frames: Tensor, real: Tensor) -> Tensor:
        """Frames ``(N, C, H, W)`` -> vectors ``(N, dim)``, zeros where a frame is not real.

        Only real frames are looked at: what is absent must not enter the statistics of the batch.
        """
        if real.all():
            return self.dropout(self.project(self.stages(frames).flatten(1)))
        h = torch.zeros(len(frames), self.dim, device=frames.device)
        if real.any():
            h[real] = self.dropout(self.project(self.stages(frames[real]).flatten(1))).to(h.dtype)
        return h

    def _check(self, video: Tensor) -> None:
        channels, num_frames, size = self.expected
        _, given, frames, height, width = video.shape
        if (given, height, width) != (channels, size, size) or frames > num_frames:
            raise ValueError(
                f"video: (C, T, H, W) is {(given, frames, height, width)}, this encoder was built for "
                f"C = {channels}, T <= {num_frames}, H = W = {size}"
            )


class Residual(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _stages(channels: int, width: int, stages: int) -> list[nn.Module]:
    """Each stage halves the picture; all but the first, whose pictures are the largest, have a residual block."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
    for stage in range(2, stages + 1):
        layers += [nn.Conv2d(width * (stage - 1), width * stage, 3, stride=2, padding=1), Residual(width * stage)]
    return [*layers, nn.BatchNorm2d(width * stages), nn.SiLU()]
