"""A network for pictures on every frame, own or torchvision's, then a mean, attention, recurrence or convolutions over time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kinetext.interfaces import Encoder
from kinetext.nn.clips import changes, on_present
from kinetext.nn.conv import fold_frames
from kinetext.nn.embedding import sinusoidal
from kinetext.nn.norm import RMSNorm
from kinetext.nn.torchvision_models import image_models, trunk
from kinetext.nn.transformer import Block
from kinetext.types import Features, Modality, RecipeError

_OWN = "own"  # the backbone that is built here
_WIDTH, _STAGES = 32, 4  # of that


class FrameCNN(Encoder):
    """Reads each frame by itself, keeps where things are, and joins the frames over time.

    The own backbone is a residual network (He et al. 2016, "Identity Mappings in Deep Residual Networks"). Its
    last small grid is flattened, not averaged, so a frame's vector says what is seen and where;
    transformer blocks over the frames can then tell how it moves. Batch norm takes its statistics from
    real frames alone.

    Any classifier of pictures that torchvision has can take its place, random or pretrained: the vector of a frame
    is what the last linear layer of that network read (resnet18: 512 numbers, the mean over the picture; vgg11: 4096,
    the second hidden layer; convnext_tiny: 768, normalised; vit_b_16: 768, the class token). A dropout right before
    that layer and the auxiliary classifiers of inception_v3 and googlenet go with it. With ``temporal="lstm"`` this is
    the network of Donahue et al. 2015, "Long-term Recurrent Convolutional Networks", read both ways.

    Args:
        channels: of the video, >= 1; 3, or 1 that is seen as three, for torchvision's (decided by the assembly).
        num_frames: the longest clip in frames, >= 1 (decided by the assembly).
        size: side of a frame in pixels; a multiple of ``2 ** stages`` for the own backbone (decided by the assembly).
        dim: width of the features, an even multiple of ``heads``.
        view: "frames" as they are; "changes": what is different from the frame before (the RGB difference of Wang et al. 2016,
            "Temporal Segment Networks", section 3.2), which leaves only what moves, and learns actions from few
            clips; or "both" as channels side by side, for the own backbone.
        width: channels of the own backbone's first stage, >= 1; stage i has ``i * width``.
        stages: halvings of the picture in the own backbone, >= 1.
        temporal: "mean" gives one vector a clip, the mean of its frames; "attention" gives one vector
            a frame, each of which has seen the others; "lstm" likewise, by long short-term memory, half of ``dim``
            each way, that steps over real frames alone; "conv" gives one vector a clip, by two convolutions over time
            of 5 frames and step 2, whose last positions are flattened, not averaged: what is seen when, for clips
            that keep time (the layers of Petridis et al. 2018, "End-to-End Audiovisual Speech Recognition",
            section 3.1, behind their lip reader).
        depth: transformer blocks over time, >= 0, or layers of "lstm", >= 1; "mean" and "conv" have none.
        heads: of the blocks.
        dropout: on the frame vectors, inside the blocks and between the layers of "lstm", in [0, 1).
        backbone: "own", or a classifier of torchvision (resnet18, vgg11, inception_v3, convnext_tiny, vit_b_16, ...).
        weights: of torchvision's backbone: "" for random ones; the name of torchvision's own ("IMAGENET1K_V1",
            "DEFAULT"), which are fetched once into torch's cache; or a file (.pth, .pt, .safetensors) with the state of
            the whole classifier. Frames are standardised as those weights, or without any the default ones, expect.
        resize: side in pixels that frames are brought to for torchvision's backbone (bilinear, antialiased); 0 is
            the crop that the weights were trained with (mostly 224), or without weights ``size``.
        kept: the folder of a saved run: reads and fetches no ``weights``, since those of the run follow (decided by the
            assembly).

    Raises:
        RecipeError: when an option is outside its range or belongs to another backbone, or ``weights`` can't be had or
            do not fit.
    """

    modality: Modality = "video"

    def __init__(
        self,
        *,
        channels: int = 3,
        num_frames: int = 16,
        size: int = 64,
        dim: int = 128,
        view: Literal["frames", "changes", "both"] = "frames",
        width: int = _WIDTH,
        stages: int = _STAGES,
        temporal: Literal["mean", "attention", "lstm", "conv"] = "attention",
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        backbone: str = _OWN,
        weights: str = "",
        resize: int = 0,
        kept: Path | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or dim < 2 or dim % 2 or dim % heads:
            raise RecipeError(f"encoders.video.dim: {dim}, expected an even multiple of heads = {heads}")
        if not 0 <= dropout < 1:
            raise RecipeError(f"encoders.video.dropout: {dropout}, expected 0 <= dropout < 1")
        if temporal == "conv" and num_frames < 5:
            raise RecipeError(f'data.num_frames: {num_frames}, expected >= 5 with encoders.video.temporal = "conv"')
        if temporal == "lstm" and depth < 1:
            raise RecipeError(f'encoders.video.depth: {depth}, expected >= 1 with temporal = "lstm"')
        self.dim, self.view = dim, view
        self.expected = (channels, num_frames, size)
        if backbone == _OWN:
            _check_own(size, stages, weights, resize)
            self.stages = nn.Sequential(*_stages(2 * channels if view == "both" else channels, width, stages))
            seen = width * stages * (size // 2**stages) ** 2
        else:
            _check_borrowed(backbone, width, stages, view)
            self.stages, seen, self.licence = _borrowed(backbone, weights, kept, channels, size, resize)
        self.stages.to(memory_format=torch.channels_last)
        # changes are small beside what is there: both at one scale
        scaled = 2 * channels if view == "both" else channels
        self.scale = nn.Identity() if view == "frames" else nn.BatchNorm2d(scaled, affine=False)
        self.project = nn.Linear(seen, dim)
        self.dropout = nn.Dropout(dropout)
        self.time: nn.Parameter | None = None
        self.lstm: nn.LSTM | None = None
        self.blocks = nn.ModuleList()
        if temporal == "attention":
            # smaller than the frame vectors, so that what is seen is heard from the first step on
            self.time = nn.Parameter(0.2 * sinusoidal(torch.arange(num_frames), dim))
            self.blocks.extend(Block(dim, heads, dropout=dropout) for _ in range(depth))
        elif temporal == "lstm":
            between = dropout if depth > 1 else 0.0
            self.lstm = nn.LSTM(dim, dim // 2, depth, batch_first=True, bidirectional=True, dropout=between)
        self.over_time = _over_time(dim, num_frames, dropout) if temporal == "conv" else None
        self.norm = RMSNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> Features ``(B, T or 1, dim)``."""
        self._check(x)
        batch, frames = mask.shape
        if self.view != "frames":
            moved = changes(x, mask)
            x = moved if self.view == "changes" else torch.cat([x, moved], dim=1)
        h = self._frames(fold_frames(x), mask.flatten()).unflatten(0, (batch, frames))
        if self.over_time is not None:
            some = mask.any(1)
            whole = nn.functional.pad(h, (0, 0, 0, self.expected[1] - frames)).transpose(1, 2)
            one = on_present(self.over_time, whole.masked_fill(~some[:, None, None], 0.0), some, (self.dim,))
            return Features(self.norm(one).masked_fill(~some[:, None], 0.0).unsqueeze(1), some[:, None])
        if self.lstm is not None:
            h = _over_real(self.lstm, h, mask)
        elif self.time is not None:
            h = h + self.time[:frames].to(h.dtype)
            for block in self.blocks:
                h = block(h, mask)
        else:
            mean = Features(h, mask).pooled()
            some = mask.any(1, keepdim=True)
            return Features(self.norm(mean).unsqueeze(1), some)
        return Features(self.norm(h).masked_fill(~mask.unsqueeze(-1), 0.0), mask)

    def _frames(self, frames: Tensor, real: Tensor) -> Tensor:
        """Frames ``(N, C, H, W)`` -> vectors ``(N, dim)``, zeros where a frame is not real.

        Only real frames are looked at: what is absent must not enter the statistics of the batch.
        """
        if real.all():
            return self.dropout(self.project(self.stages(self.scale(frames)).flatten(1)))
        h = torch.zeros(len(frames), self.dim, device=frames.device)
        if real.any():
            h[real] = self.dropout(self.project(self.stages(self.scale(frames[real])).flatten(1))).to(h.dtype)
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


def _over_time(dim: int, num_frames: int, dropout: float) -> nn.Sequential:
    """Frame vectors ``(B, dim, num_frames)`` -> ``(B, dim)``."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv1d(dim, dim, 5, stride=2, padding=2), nn.BatchNorm1d(dim), nn.SiLU(), nn.Dropout(dropout)]
    steps = (num_frames + 3) // 4
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(dim * steps, dim))


def _stages(channels: int, width: int, stages: int) -> list[nn.Module]:
    """Each stage halves the picture; all but the first, whose pictures are the largest, have a residual block."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
    for stage in range(2, stages + 1):
        layers += [nn.Conv2d(width * (stage - 1), width * stage, 3, stride=2, padding=1), Residual(width * stage)]
    return [*layers, nn.BatchNorm2d(width * stages), nn.SiLU()]


def _check_own(size: int, stages: int, weights: str, resize: int) -> None:
    if stages < 1:
        raise RecipeError(f"encoders.video.stages: {stages}, expected >= 1")
    if size < 1 or size % 2**stages:
        raise RecipeError(f"encoders.video.size: {size} pixels, expected a multiple of 2 ** stages = {2**stages}")
    if weights:
        raise RecipeError(f'encoders.video.weights: {weights!r}, expected "" with the own backbone; see [init]')
    if resize:
        raise RecipeError(f"encoders.video.resize: {resize}, expected 0 with the own backbone; see data.size")


def _check_borrowed(backbone: str, width: int, stages: int, view: str) -> None:
    if view == "both":
        raise RecipeError(
            f'encoders.video.view: "both" is for the own backbone, expected frames or changes with {backbone}'
        )
    for name, value, own in (("width", width, _WIDTH), ("stages", stages, _STAGES)):
        if value != own:
            raise RecipeError(f"encoders.video.{name}: {value} is for the own backbone; take it out with {backbone}")


def _borrowed(
    backbone: str, weights: str, kept: Path | None, channels: int, size: int, resize: int
) -> tuple[nn.Sequential, int, str]:
    """torchvision's network behind what standardises its frames, the width of its vectors, and its licence."""
    legal = [_OWN, *image_models()]
    found = trunk("encoders.video.backbone", backbone, legal, weights, kept=kept is not None)
    side = resize or (found.side if weights else size)
    if side < found.smallest or (found.fixed and side != found.side):
        expected = f"{found.side}" if found.fixed else f">= {found.smallest}"
        raise RecipeError(
            f"encoders.video.resize: {resize} makes frames of {side} pixels, and {backbone} takes {expected}; "
            f"its weights were trained with {found.side}"
        )
    return nn.Sequential(found.pixels(channels, side), found.network), found.dim, found.licence


def _over_real(lstm: nn.LSTM, h: Tensor, mask: Tensor) -> Tensor:
    """``lstm`` over the real positions of each row alone, as if the others were not there; ``h (B, T, D)``."""
    order = (~mask).long().argsort(dim=1, stable=True)  # real ones to the front
    lengths = mask.sum(1).clamp(min=1).cpu()  # packing takes no empty rows: one reads zeros, and is masked later
    with torch.autocast(h.device.type, enabled=False):
        front = h.float().gather(1, order.unsqueeze(-1).expand_as(h))
        packed, _ = lstm(pack_padded_sequence(front, lengths, batch_first=True, enforce_sorted=False))
    out, _ = pad_packed_sequence(packed, batch_first=True, total_length=mask.shape[1])
    return out.gather(1, order.argsort(dim=1).unsqueeze(-1).expand_as(out))
