"""A transformer over tubelets: small blocks of a few frames and pixels, all attending to all."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.clips import whole_clips
from kinetext.nn.embedding import sinusoidal
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import Block
from kinetext.types import Features, Modality, RecipeError

_SCALE = 0.2  # smaller than the tubelet vectors, so that what is seen is heard from the first step on


class VideoTransformer(Encoder):
    """Cuts a clip into tubelets, projects each to a token, adds where and when it stands, and lets all tokens attend to
    each other.

    Arnab et al. 2021, "ViViT", section 3.2 (tubelet embedding) and section 3.3, model 1 (joint space-time attention);
    positions are the sum of one vector each for time, row and column. The blocks are pre-normalised, with SwiGLU. A
    tubelet is real if any of its frames is; a masked frame of a real one shows the real frame before it.

    ``tubelets``, ``positions``, ``embed`` and ``encode`` are steps of ``forward`` that masked learning can take by
    itself: ``encode`` works on any part of the tokens (He et al. 2022, section 3; Tong et al. 2022, VideoMAE).

    Args:
        channels: of the video, >= 1 (decided by the assembly).
        num_frames: the longest clip in frames, >= 1 (decided by the assembly).
        size: side of a frame in pixels, a multiple of ``patch`` (decided by the assembly).
        dim: width of the features, an even multiple of ``heads``, >= 6.
        depth: blocks, >= 1.
        heads: attention heads, >= 1.
        tubelet: frames of a tubelet, >= 1.
        patch: side of a tubelet in pixels, >= 1.
        positions: "learned" start as sines and cosines and are learned on; "sinusoidal" stay.
        dropout: on the tokens and inside the blocks, in [0, 1).
        pooling: "none" gives every token; "mean" one vector a clip, the mean of the real ones.

    Raises:
        RecipeError: when an option is outside its range.
    """

    modality: Modality = "video"
    time: Tensor
    row: Tensor
    column: Tensor

    def __init__(
        self,
        *,
        channels: int = 3,
        num_frames: int = 16,
        size: int = 64,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        tubelet: int = 2,
        patch: int = 16,
        positions: Literal["learned", "sinusoidal"] = "learned",
        dropout: float = 0.0,
        pooling: Literal["none", "mean"] = "none",
    ) -> None:
        super().__init__()
        counts = {"channels": channels, "num_frames": num_frames, "size": size, "depth": depth, "heads": heads}
        _check_options(counts | {"tubelet": tubelet, "patch": patch}, dim, dropout)
        self.dim = dim
        self.pooling = pooling
        self.expected = (channels, num_frames, size)
        self.tubelet, self.patch = tubelet, patch
        self.grid = (-(-num_frames // tubelet), size // patch, size // patch)  # tubelets over T, H, W
        self.project = nn.Linear(channels * tubelet * patch**2, dim)
        for name, start in zip(("time", "row", "column"), _axes(self.grid, dim), strict=True):
            if positions == "learned":
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start, persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout=dropout) for _ in range(depth))
        self.norm = RMSNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> Features ``(B, L, dim)``; L is 1 for "mean", or
        else the number of tubelets, in the order of ``tubelets``.
        """
        tokens = self.embed(x, mask)
        features = self.encode(Features(self.dropout(tokens.x), tokens.mask))
        if self.pooling == "none":
            return features
        return Features(features.pooled().unsqueeze(1), features.mask.any(1, keepdim=True))

    def tubelets(self, video: Tensor) -> Tensor:
        """Video ``(B, C, T, H, W)``, T a multiple of ``tubelet``, -> ``(B, N, C * tubelet * patch ** 2)``.

        Tubelets go by time, then row, then column; the numbers in one by channel, frame, row and column.
        """
        cut = video.unflatten(4, (-1, self.patch)).unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.tubelet))
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)

    def positions(self, steps: int) -> Tensor:
        """``(N, dim)``: what is added to the tokens of the first ``steps`` tubelets in time."""
        return (self.time[:steps, None, None] + self.row[:, None] + self.column).flatten(0, 2)

    def embed(self, video: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> one token a tubelet, with its position."""
        self._check(video)
        steps = -(-mask.shape[1] // self.tubelet)
        whole = whole_clips(video, mask, steps * self.tubelet)
        real = F.pad(mask, (0, whole.shape[2] - mask.shape[1])).unflatten(1, (steps, self.tubelet)).any(2)
        tokens = self.project(self.tubelets(whole))
        positions = self.positions(steps).to(tokens.dtype)
        return Features(tokens + positions, real.repeat_interleave(self.grid[1] * self.grid[2], dim=1))

    def encode(self, tokens: Features) -> Features:
        """Any of the tokens that ``embed`` makes -> their features, zeros where masked."""
        h = tokens.x
        for block in self.blocks:
            h = block(h, tokens.mask)
        return Features(self.norm(h).masked_fill(~tokens.mask.unsqueeze(-1), 0.0), tokens.mask)

    def _check(self, video: Tensor) -> None:
        channels, num_frames, size = self.expected
        _, given, frames, height, width = video.shape
        if (given, height, width) != (channels, size, size) or frames > num_frames:
            raise ValueError(
                f"video: (C, T, H, W) is {(given, frames, height, width)}, this encoder was built for "
                f"C = {channels}, T <= {num_frames}, H = W = {size}"
            )


def _axes(grid: tuple[int, int, int], dim: int) -> list[Tensor]:
    """A table ``(n, dim)`` for each axis: sines and cosines in a part of the width that is its own, zeros elsewhere, so
    that their sum tells a step in time from one in space; time has what is left over.

    Frequencies as in ``kinetext.nn.embedding.rope_3d``, for grids that are tens of cells long.
    """
    pairs = dim // 2
    shares = (2 * (pairs - 2 * (pairs // 3)), 2 * (pairs // 3), 2 * (pairs // 3))
    tables, start = [], 0
    for count, share in zip(grid, shares, strict=True):
        waves = _SCALE * sinusoidal(torch.arange(count), share, max_period=100.0)
        tables.append(F.pad(waves, (start, dim - start - share)))
        start += share
    return tables


def _check_options(counts: dict[str, int], dim: int, dropout: float) -> None:
    for name, count in counts.items():
        if count < 1:
            raise RecipeError(f"encoders.video.{name}: {count}, expected >= 1")
    size, patch, heads = counts["size"], counts["patch"], counts["heads"]
    if size % patch:
        raise RecipeError(f"encoders.video.size: {size} pixels, expected a multiple of patch = {patch}")
    if dim < 6 or dim % 2 or dim % heads:
        raise RecipeError(f"encoders.video.dim: {dim}, expected an even multiple of heads = {heads}, at least 6")
    if not 0 <= dropout < 1:
        raise RecipeError(f"encoders.video.dropout: {dropout}, expected 0 <= dropout < 1")
