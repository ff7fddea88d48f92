"""The video classifiers of torchvision, with or without their Kinetics-400 weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.clips import on_present, whole_clips
from kinetext.nn.conv import fold_frames, unfold_frames
from kinetext.nn.spacetime import border_by_hand
from kinetext.nn.torchvision_models import trunk
from kinetext.types import Features, Modality, RecipeError


@dataclass(frozen=True)
class _Architecture:
    """What torchvision says of a model in its code alone.

    Args:
        steps: frames -> positions in time that are left at the end.
        fewest: frames that it takes.
        smallest: side of a frame in pixels that it takes.
    """

    steps: Callable[[int], int]
    fewest: int = 1
    smallest: int = 1


_ARCHITECTURES: Mapping[str, _Architecture] = {
    "r3d_18": _Architecture(lambda frames: -(-frames // 8)),
    "mc3_18": _Architecture(lambda frames: frames),
    "r2plus1d_18": _Architecture(lambda frames: -(-frames // 8)),
    "s3d": _Architecture(lambda frames: -(-frames // 4) // 2, fewest=5, smallest=17),
    "mvit_v2_s": _Architecture(lambda frames: -(-frames // 2)),
    "swin3d_t": _Architecture(lambda frames: -(-frames // 2)),
}


class TorchvisionVideo(Encoder):
    """A video network of torchvision without its classes.

    r3d_18 (33 million parameters), mc3_18 (11) and r2plus1d_18 (31): Tran et al. 2018, "A Closer Look at Spatiotemporal
    Convolutions for Action Recognition"; s3d (8): Xie et al. 2018, "Rethinking Spatiotemporal Feature Learning";
    mvit_v2_s (34): Li et al. 2022, "MViTv2"; swin3d_t (28): Liu et al. 2022, "Video Swin Transformer". The clip is
    mapped to [0, 1] and standardised with the mean and deviation that torchvision's weights for the model were trained
    with. A masked frame shows the real one before it, a shorter clip goes on with its last.

    Every model takes any number of frames and any side, but for s3d: 5 frames and 17 pixels are the least. Where its
    picture is smaller than the window of 2 x 7 x 7 cells that torchvision averages (clips below 209 pixels or 13
    frames), the window shrinks to it. It is the cheapest on a CPU, but its batch norm follows the data by a thousandth
    a step: after 300 steps, what evaluation uses has come a quarter of the way. mvit_v2_s interpolates its relative
    positions for what is not 16 frames of 224 pixels.

    Args:
        channels: of the video: 3, or 1 that is seen as three (decided by the assembly).
        num_frames: of a clip, >= 1, for s3d >= 5; torchvision rates its weights on 16, those of s3d on 128, of swin3d_t
            on 32 (decided by the assembly).
        size: side of a frame in pixels (decided by the assembly).
        model: which network.
        weights: "" for random ones; the name of torchvision's own ("KINETICS400_V1", "DEFAULT"), which are fetched once
            into torch's cache; or a file (.pth, .pt, .safetensors) with the state of the whole classifier.
        resize: side in pixels that frames are brought to for the network (bilinear, antialiased); 0 is the crop that
            the weights were trained with (112 for the first three models, else 224), or without weights ``size``. Less
            than the crop is cheaper, and the weights do less well.
        pooling: "mean" gives one vector a clip, what the classes were told from: the mean over place and time, for
            mvit_v2_s its class token. "none" gives one for each position in time that the network keeps (an eighth of
            the frames; a half for the transformers; all for mc3_18), the mean over place.
        dropout: on these vectors, in [0, 1); torchvision's own right before the classes is left out.
        kept: the folder of a saved run: reads and fetches no ``weights``, since those of the run follow (decided by the
            assembly).

    Raises:
        RecipeError: when an option is outside its range, or ``weights`` can't be had or do not fit.
    """

    modality: Modality = "video"

    def __init__(
        self,
        *,
        channels: int = 3,
        num_frames: int = 4,
        size: int = 64,
        model: Literal["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"] = "mc3_18",
        weights: str = "",
        resize: int = 0,
        pooling: Literal["mean", "none"] = "mean",
        dropout: float = 0.0,
        kept: Path | None = None,
    ) -> None:
        super().__init__()
        if resize < 0:
            raise RecipeError(f"encoders.video.resize: {resize} pixels, expected >= 0")
        if not 0 <= dropout < 1:
            raise RecipeError(f"encoders.video.dropout: {dropout}, expected 0 <= dropout < 1")
        found = trunk("encoders.video.model", model, _ARCHITECTURES, weights, kept=kept is not None)
        side = resize or (found.side if weights else size)
        known = _ARCHITECTURES[model]
        if num_frames < known.fewest:
            raise RecipeError(f"data.num_frames: {num_frames}, expected >= {known.fewest} for {model}")
        if side < known.smallest:
            field = "encoders.video.resize" if resize else "data.size"
            raise RecipeError(f"{field}: {side} pixels, expected >= {known.smallest} for {model}")
        self.dim, self.licence = found.dim, found.licence
        self.model, self.pooling = model, pooling
        self.expected = (channels, num_frames, size)
        self.steps = 1 if pooling == "mean" else known.steps(num_frames)
        self.pixels = found.pixels(channels, side)
        self.network = found.network
        border_by_hand(self.network)
        if model == "mvit_v2_s":
            _size_mvit(found.network, num_frames, side)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> Features ``(B, 1 or steps, dim)``.

        A position in time is real if any of the frames around it is.
        """
        self._check(x)
        present = mask.any(1)
        clips = whole_clips(x, mask, self.expected[1])
        vectors = self.dropout(on_present(self.read, clips, present, (self.steps, self.dim)))
        padded = F.pad(mask, (0, self.expected[1] - mask.shape[1]))
        real = F.adaptive_max_pool1d(padded.float(), self.steps) > 0
        return Features(vectors.masked_fill(~real.unsqueeze(-1), 0.0), real)

    def read(self, clips: Tensor) -> Tensor:
        """Whole clips ``(B, C, num_frames, size, size)`` in [-1, 1] -> vectors ``(B, 1 or steps, dim)``."""
        # contiguous: 3-D convolutions in channels-last memory take up to twice as long on a CPU
        seen = unfold_frames(self.pixels(fold_frames(clips)), len(clips)).contiguous()
        if self.pooling == "none":
            return _over_time(self.model, self.network, seen)
        vectors = _s3d_vector(self.network, seen) if self.model == "s3d" else self.network(seen)
        return vectors.unsqueeze(1)

    def _check(self, video: Tensor) -> None:
        channels, num_frames, size = self.expected
        _, given, frames, height, width = video.shape
        if (given, height, width) != (channels, size, size) or frames > num_frames:
            raise ValueError(
                f"video: (C, T, H, W) is {(given, frames, height, width)}, this encoder was built for "
                f"C = {channels}, T <= {num_frames}, H = W = {size}"
            )


def _s3d_vector(network: Any, seen: Tensor) -> Tensor:
    """What torchvision's forward does, with a window that fits into the grid. ``(B, 3, T, H, W)`` -> ``(B, dim)``."""
    grid = network.features(seen)
    window = [min(wanted, given) for wanted, given in zip(network.avgpool.kernel_size, grid.shape[2:], strict=True)]
    return F.avg_pool3d(grid, window, stride=1).mean((2, 3, 4))


def _over_time(model: str, network: Any, seen: Tensor) -> Tensor:
    """The last layer's cells, averaged over place: ``(B, 3, T, H, W)`` -> ``(B, steps, dim)``."""
    match model:
        case "s3d":
            return network.features(seen).mean((3, 4)).transpose(1, 2)
        case "swin3d_t":
            return network.norm(network.features(network.pos_drop(network.patch_embed(seen)))).mean((2, 3))
        case "mvit_v2_s":
            h = network.pos_encoding(network.conv_proj(seen).flatten(2).transpose(1, 2))
            grid = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
            for block in network.blocks:
                h, grid = block(h, grid)
            return network.norm(h)[:, 1:].unflatten(1, grid).mean((2, 3))  # the first is the class token
        case _:
            for part in (network.stem, network.layer1, network.layer2, network.layer3, network.layer4):
                seen = part(seen)
            return seen.mean((3, 4)).transpose(1, 2)


def _size_mvit(network: Any, num_frames: int, side: int) -> None:
    """Says how many cells the patches of a clip are; torchvision's builder knows 16 frames of 224 pixels alone."""
    network.pos_encoding.temporal_size = -(-num_frames // 2)
    network.pos_encoding.spatial_size = (-(-side // 4), -(-side // 4))
