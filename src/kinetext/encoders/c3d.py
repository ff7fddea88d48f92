"""A plain 3-D convolutional network that makes one vector of a whole clip."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.clips import on_present, whole_clips
from kinetext.nn.spacetime import border_by_hand
from kinetext.nn.weights import load_strictly, read_file
from kinetext.types import Features, Modality, RecipeError


class C3D(Encoder):
    """Eight 3x3x3 convolutions, five poolings, one or two fully connected layers; a vector a clip.

    Tran et al. 2015, "Learning Spatiotemporal Features with 3D Convolutional Networks", section 3.3 and figure 3.
    ``C3D(width=64, hidden=4096, layer="fc7", num_frames=16, size=112)`` is the paper's network without its classes.
    Poolings round up, as those of its authors do (Caffe), so that every size goes: ``num_frames`` shrinks 16-fold,
    ``size`` 32-fold, in the paper to 1 x 4 x 4 cells. Weights start as in He et al. 2015 (the authors' fixed deviation
    of 0.01 fits their width only). A masked frame shows the real one before it, a shorter clip goes on with its last.

    Args:
        channels: of the video, >= 1 (decided by the assembly).
        num_frames: of a clip, >= 1; 16 in the paper (decided by the assembly).
        size: side of a frame in pixels, >= 1; 112 in the paper (decided by the assembly).
        width: channels of the first convolution, >= 1, 64 in the paper; the deepest have 8 times as many.
        hidden: width of fc6 and fc7, and of the features, >= 1; 4096 in the paper.
        layer: whose activations are the features: "fc6", the paper's "C3D video descriptor", or "fc7", behind which it
            classifies.
        dropout: behind fc6 and fc7, in [0, 1).
        pool5: where the last pooling puts its windows if the picture is odd there (7 x 7 in the paper): "ceil" as the
            authors, the last window is cut; "padded" as most PyTorch ports, by padding (0, 1, 1), for weights
            that were learned with it.
        pixels: what the first convolution sees: "signed" is [-1, 1]; "bytes" is 0 to 255 less ``mean``, which the
            public Sports-1M weights expect.
        mean: of each channel in 0 to 255, in the order that the network sees; () subtracts nothing. Needs "bytes".
        channel_order: of what the first convolution sees; "bgr" in the authors' own Sports-1M weights.
        weights: a file (.pth, .pt, .safetensors) with keys conv1, conv2, conv3a, conv3b, ..., fc6, fc7, each .weight
            and .bias; fc8 and what lies behind ``layer`` are left out. "" starts afresh.
        kept: the folder of a saved run: loads no ``weights``, since those of the run follow (decided by the assembly).

    Raises:
        RecipeError: when an option is outside its range, or ``weights`` do not fit.
    """

    modality: Modality = "video"

    def __init__(
        self,
        *,
        channels: int = 3,
        num_frames: int = 16,
        size: int = 64,
        width: int = 8,
        hidden: int = 128,
        layer: Literal["fc6", "fc7"] = "fc6",
        dropout: float = 0.5,
        pool5: Literal["ceil", "padded"] = "ceil",
        pixels: Literal["signed", "bytes"] = "signed",
        mean: tuple[float, ...] = (),
        channel_order: Literal["rgb", "bgr"] = "rgb",
        weights: str = "",
        kept: Path | None = None,
    ) -> None:
        super().__init__()
        counts = {"channels": channels, "num_frames": num_frames, "size": size, "width": width, "hidden": hidden}
        _check_options(counts, dropout, pixels, mean, channel_order)
        self.dim = hidden
        self.expected = (channels, num_frames, size)
        self.pixels, self.channel_order = pixels, channel_order
        self.register_buffer("mean", torch.tensor(mean or (0.0,)).reshape(-1, 1, 1, 1), persistent=False)
        self.conv1 = _conv(channels, width)
        self.pool1 = nn.MaxPool3d((1, 2, 2), ceil_mode=True)
        self.conv2 = _conv(width, 2 * width)
        self.pool2 = nn.MaxPool3d(2, ceil_mode=True)
        self.conv3a = _conv(2 * width, 4 * width)
        self.conv3b = _conv(4 * width, 4 * width)
        self.pool3 = nn.MaxPool3d(2, ceil_mode=True)
        self.conv4a = _conv(4 * width, 8 * width)
        self.conv4b = _conv(8 * width, 8 * width)
        self.pool4 = nn.MaxPool3d(2, ceil_mode=True)
        self.conv5a = _conv(8 * width, 8 * width)
        self.conv5b = _conv(8 * width, 8 * width)
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1) if pool5 == "padded" else 0, ceil_mode=True)
        side = -(-size // 32) if pool5 == "ceil" else -(-size // 16) // 2 + 1
        self.fc6 = nn.Linear(8 * width * -(-num_frames // 16) * side**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden) if layer == "fc7" else None
        self.dropout = nn.Dropout(dropout)
        border_by_hand(self)
        self._start()
        if weights:
            self.licence = f"started from the weights in {Path(weights).name}, whose own licence applies"
        if weights and kept is None:
            self._load(weights)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> Features ``(B, 1, dim)``, not negative."""
        channels, num_frames, size = self.expected
        if (x.shape[1], *x.shape[3:]) != (channels, size, size):
            raise ValueError(
                f"video: (C, H, W) is {(x.shape[1], *x.shape[3:])}, this encoder was built for {(channels, size, size)}"
            )
        present = mask.any(1)
        vectors = on_present(self.read, whole_clips(x, mask, num_frames), present, (self.dim,))
        return Features(vectors.unsqueeze(1), present.unsqueeze(1))

    def read(self, clips: Tensor) -> Tensor:
        """Whole clips ``(B, C, num_frames, size, size)`` in [-1, 1] -> vectors ``(B, dim)``."""
        h = self._seen(clips)
        h = self.pool1(F.relu(self.conv1(h)))
        h = self.pool2(F.relu(self.conv2(h)))
        h = self.pool3(F.relu(self.conv3b(F.relu(self.conv3a(h)))))
        h = self.pool4(F.relu(self.conv4b(F.relu(self.conv4a(h)))))
        h = self.pool5(F.relu(self.conv5b(F.relu(self.conv5a(h)))))
        h = self.dropout(F.relu(self.fc6(h.flatten(1))))
        return h if self.fc7 is None else self.dropout(F.relu(self.fc7(h)))

    def _seen(self, clips: Tensor) -> Tensor:
        """Clips in [-1, 1] as the first convolution wants them. Not folded into its weights: at the borders it pads
        with zeros, which are the mean of what it sees.
        """
        if self.channel_order == "bgr":
            clips = clips.flip(1)
        return clips if self.pixels == "signed" else (clips + 1) * 127.5 - self.get_buffer("mean")

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def _load(self, path: str) -> None:
        behind = ("fc8.",) if self.fc7 is not None else ("fc7.", "fc8.")
        found = read_file("encoders.video.weights", path)
        own = {name: tensor for name, tensor in found.items() if not name.startswith(behind)}
        load_strictly("encoders.video.weights", self, own)


def _conv(channels: int, width: int) -> nn.Conv3d:
    return nn.Conv3d(channels, width, 3, padding=1)


def _check_options(
    counts: dict[str, int], dropout: float, pixels: str, mean: tuple[float, ...], channel_order: str
) -> None:
    for name, count in counts.items():
        if count < 1:
            raise RecipeError(f"encoders.video.{name}: {count}, expected >= 1")
    if not 0 <= dropout < 1:
        raise RecipeError(f"encoders.video.dropout: {dropout}, expected 0 <= dropout < 1")
    if mean and (pixels != "bytes" or len(mean) != counts["channels"]):
        raise RecipeError(
            f"encoders.video.mean: {list(mean)} of {pixels} pixels, expected [] or, of bytes, "
            f"one number for each of the {counts['channels']} channels"
        )
    if channel_order == "bgr" and counts["channels"] != 3:
        raise RecipeError(f"encoders.video.channel_order: bgr of {counts['channels']} channels, expected rgb")
