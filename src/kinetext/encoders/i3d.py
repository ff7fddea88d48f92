"""An Inception network inflated to video: a vector for every eighth frame."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.clips import on_present, whole_clips
from kinetext.nn.inflate import inflate_kernel
from kinetext.nn.weights import load_strictly, read_file
from kinetext.types import Features, Modality, RecipeError

STRIDE = 8  # frames of a time step
_PAPER_WIDTH = 64
# Channels of the branches b0, b1a, b1b, b2a, b2b, b3b (Szegedy et al. 2015, "Going Deeper with Convolutions", table 1)
# at the paper's width; all are multiples of 16.
_MIXED: Mapping[str, tuple[int, ...]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
# torchvision's names for the same layers
_STEM_2D: Mapping[str, str] = {"Conv3d_1a_7x7": "conv1", "Conv3d_2b_1x1": "conv2", "Conv3d_2c_3x3": "conv3"}
_MIXED_2D = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
_BRANCH_2D: Mapping[str, str] = {
    "b0": "branch1", "b1a": "branch2.0", "b1b": "branch2.1", "b2a": "branch3.0", "b2b": "branch3.1", "b3b": "branch4.1",
}  # fmt: skip


class I3D(Encoder):
    """The RGB stream of I3D: Inception-v1 with kernels and poolings inflated to 3-D, averaged over space.

    Carreira & Zisserman 2017, "Quo Vadis, Action Recognition?", section 2.4 and figure 3; ``I3D(width=64)`` is the
    paper's network without its classes, and has 12.3 million parameters. Convolutions and poolings pad as TensorFlow's
    "SAME" does, so every size goes; time shrinks 8-fold, the picture 32-fold. It expects clips in [-1, 1], as the
    public weights do. A masked frame shows the real one before it, a shorter clip goes on with its last.

    Args:
        channels: of the video, >= 1 (decided by the assembly).
        num_frames: of a clip, >= 1; 64 in the paper (decided by the assembly).
        size: side of a frame in pixels, >= 1; 224 in the paper. 32 pixels and 8 frames together are too few: batch norm
            needs more than the one cell that they leave (decided by the assembly).
        width: channels of the first convolution, a multiple of 4, 64 in the paper; the features are 16 times as wide.
        dropout: on the vectors of the time steps, in [0, 1); 0.5 in the paper.
        weights: a file (.pt, .pth, .safetensors) with the keys of the public PyTorch checkpoints of the RGB stream
            (Conv3d_1a_7x7.conv3d.weight, Mixed_3b.b1a.bn.running_mean, ...); the classes, logits.*, are left out.
            "" starts afresh.
        inflate: Inception-v1 weights of pictures to start from: a file that holds the state of torchvision's googlenet,
            or the name of torchvision's own weights for it ("DEFAULT"), which are fetched once. Kernels are repeated
            over time and divided by their length, so that a clip that stands still is seen as its picture, but for
            two borders: time is padded with zeros, and the first convolution stands one pixel from torchvision's,
            where TensorFlow's stood. ``fc`` and ``aux`` are left out. "" has none; needs width = 64.
        kept: the folder of a saved run: loads neither of them, since the run's own weights follow (decided by the
            assembly).

    Raises:
        RecipeError: when an option is outside its range, or the weights do not fit.
    """

    modality: Modality = "video"

    def __init__(
        self,
        *,
        channels: int = 3,
        num_frames: int = 16,
        size: int = 64,
        width: int = 8,
        dropout: float = 0.0,
        weights: str = "",
        inflate: str = "",
        kept: Path | None = None,
    ) -> None:
        super().__init__()
        _check_options({"channels": channels, "num_frames": num_frames, "size": size}, width, dropout)
        if weights and inflate:
            raise RecipeError(
                f"encoders.video.inflate: {inflate!r} besides weights = {weights!r}, expected one of them"
            )
        self.dim = 16 * width
        self.expected = (channels, num_frames, size)
        self.steps = -(-num_frames // STRIDE)
        self.layers = nn.Sequential(_layers(channels, width))
        self.dropout = nn.Dropout(dropout)
        if weights or inflate:
            self.licence = _licence(weights, inflate)
        if weights and kept is None:
            self._load("encoders.video.weights", read_file("encoders.video.weights", weights), ("logits.",))
        if inflate and kept is None:
            self._inflate(_pictures(inflate))

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> Features ``(B, ceil(num_frames / 8), dim)``.

        A time step is real if any of its 8 frames is.
        """
        channels, num_frames, size = self.expected
        if (x.shape[1], *x.shape[3:]) != (channels, size, size):
            raise ValueError(
                f"video: (C, H, W) is {(x.shape[1], *x.shape[3:])}, this encoder was built for {(channels, size, size)}"
            )
        clips = whole_clips(x, mask, num_frames)
        vectors = on_present(self.read, clips, mask.any(1), (self.steps, self.dim))
        real = F.pad(mask, (0, self.steps * STRIDE - mask.shape[1])).unflatten(1, (self.steps, STRIDE)).any(2)
        return Features(self.dropout(vectors).masked_fill(~real.unsqueeze(-1), 0.0), real)

    def read(self, clips: Tensor) -> Tensor:
        """Whole clips ``(B, C, num_frames, size, size)`` in [-1, 1] -> vectors ``(B, ceil(num_frames / 8), dim)``."""
        return self.layers(clips).mean((3, 4)).transpose(1, 2)

    def _load(self, field: str, found: Mapping[str, Tensor], heads: tuple[str, ...]) -> None:
        """Loads ``found`` without the layers that start with ``heads``, which classify."""
        own = {name: tensor for name, tensor in found.items() if not name.startswith(heads)}
        # files from before PyTorch 0.4.1 count no batches
        counters = {k: v for k, v in self.layers.state_dict().items() if k.endswith("num_batches_tracked")}
        load_strictly(field, self.layers, counters | own)

    def _inflate(self, found: Mapping[str, Tensor]) -> None:
        """Loads the state of a googlenet for pictures."""
        own = self.layers.state_dict()
        names = {_picture_name(name): name for name in own}
        renamed = {names.get(name, name): tensor for name, tensor in found.items()}
        inflated = {
            name: inflate_kernel(tensor, own[name].shape[2])
            if tensor.ndim == 4 and name in own and own[name].ndim == 5
            else tensor
            for name, tensor in renamed.items()
        }
        self._load("encoders.video.inflate", inflated, ("fc.", "aux1.", "aux2."))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """What TensorFlow's "SAME" pads before and after ``size`` cells, so that ``ceil(size / stride)`` come out.

    Example:
        >>> same_padding(224, 7, 2)
        (2, 3)
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SamePool(nn.Module):
    """Max pooling of what is not negative, padded as TensorFlow's "SAME"."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(_padded(x, self.kernel, self.stride), self.kernel, self.stride)


class Unit(nn.Module):
    """Convolution without bias, padded as TensorFlow's "SAME", batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(width, eps=1e-3)
        nn.init.kaiming_normal_(self.conv3d.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv3d.weight.shape[2:], self.conv3d.stride
        return F.relu(self.bn(self.conv3d(_padded(x, kernel, stride))))


class Inception(nn.Module):
    """Four branches side by side: 1x1x1; 3x3x3 twice, behind 1x1x1; 1x1x1 behind a pooling (figure 3, right)."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit(channels, b0)
        self.b1a = Unit(channels, b1a)
        self.b1b = Unit(b1a, b1b, 3)
        self.b2a = Unit(channels, b2a)
        self.b2b = Unit(b2a, b2b, 3)
        self.b3a = SamePool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(channels, b3b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


def _padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """``x`` with the zeros of "SAME" around it; they do for max pooling too, as nothing here is negative.

    The convolution is not left to pad over time: see ``nn.spacetime``.
    """
    sides = [same_padding(*three) for three in zip(x.shape[2:], kernel, stride, strict=True)]
    border = [zeros for side in reversed(sides) for zeros in side]
    return F.pad(x, border) if any(border) else x


def _layers(channels: int, width: int) -> OrderedDict[str, nn.Module]:
    """Figure 3, left, without the last two layers, under the names of the public checkpoints."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["Conv3d_1a_7x7"] = Unit(channels, width, 7, 2)
    layers["MaxPool3d_2a_3x3"] = SamePool((1, 3, 3), (1, 2, 2))
    layers["Conv3d_2b_1x1"] = Unit(width, width)
    layers["Conv3d_2c_3x3"] = Unit(width, 3 * width, 3)
    layers["MaxPool3d_3a_3x3"] = SamePool((1, 3, 3), (1, 2, 2))
    last = 3 * width
    for name, paper in _MIXED.items():
        if name == "Mixed_4b":
            layers["MaxPool3d_4a_3x3"] = SamePool((3, 3, 3), (2, 2, 2))
        if name == "Mixed_5b":
            layers["MaxPool3d_5a_2x2"] = SamePool((2, 2, 2), (2, 2, 2))
        widths = tuple(count * width // _PAPER_WIDTH for count in paper)
        layers[name] = Inception(last, widths)
        last = widths[0] + widths[2] + widths[4] + widths[5]
    return layers


def _picture_name(name: str) -> str:
    """Mixed_3b.b1a.conv3d.weight -> inception3a.branch2.0.conv.weight."""
    layer, *branch, kind, leaf = name.split(".")
    mixed = dict(zip(_MIXED, _MIXED_2D, strict=True))
    unit = [_STEM_2D[layer]] if layer in _STEM_2D else [f"inception{mixed[layer]}", _BRANCH_2D[branch[0]]]
    return ".".join([*unit, "conv" if kind == "conv3d" else kind, leaf])


def _known_pictures() -> Mapping[str, Any]:
    """torchvision's own weights of its googlenet, by name."""
    from torchvision.models import get_model_weights  # type: ignore[import-untyped]

    known: Mapping[str, Any] = get_model_weights("googlenet").__members__
    return known


def _pictures(inflate: str) -> dict[str, Tensor]:
    """The state of a googlenet: torchvision's own weights of that name, or else a file."""
    known = _known_pictures()
    if inflate not in known:
        return read_file("encoders.video.inflate", inflate)
    try:
        found: dict[str, Tensor] = known[inflate].get_state_dict(progress=False, check_hash=True, weights_only=True)
    except OSError as error:
        raise RecipeError(
            f"encoders.video.inflate: {inflate} can't be fetched ({error}), expected a network or a file"
        ) from error
    return found


def _licence(weights: str, inflate: str) -> str:
    if inflate and inflate in _known_pictures():
        return f"started from torchvision's googlenet {inflate} (BSD-3-Clause; learned on ImageNet, whose terms apply)"
    return f"started from the weights in {Path(weights or inflate).name}, whose own licence applies"


def _check_options(counts: Mapping[str, int], width: int, dropout: float) -> None:
    for name, count in counts.items():
        if count < 1:
            raise RecipeError(f"encoders.video.{name}: {count}, expected >= 1")
    if counts["size"] <= 32 and counts["num_frames"] <= STRIDE:
        raise RecipeError(
            f"encoders.video.size: {counts['size']} pixels and {counts['num_frames']} frames leave one cell, of which "
            f"batch norm can't learn; expected more than 32 pixels or more than {STRIDE} frames"
        )
    if width < 4 or width % 4:
        raise RecipeError(f"encoders.video.width: {width}, expected a multiple of 4")
    if not 0 <= dropout < 1:
        raise RecipeError(f"encoders.video.dropout: {dropout}, expected 0 <= dropout < 1")
