"""How a dataset looks at its clips: which frames, how large, and changed at random in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from kinetext.types import DataError, joined
from kinetext.video.frames import timeline
from kinetext.video.probing import probe
from kinetext.video.reader import DECODERS, Decoder
from kinetext.video.reading import read_clip
from kinetext.video.sampling import Sampling, reach, spread, window
from kinetext.video.shaping import CHANNELS, Fit, Region, check_region

READING = 3  # counts up when the same file and options give other pixels, so that what was kept of them is made anew


@dataclass(frozen=True)
class Look:
    """What every clip of one split is read with. All random choices are pure functions of the generator that is passed in.

    Args:
        training: whether windows, crops and mirroring are random where the others ask for it.
        num_frames: frames of a clip, 1 to 2**20.
        size: pixels, the side of a frame, 1 to 2**14.
        channels: 3 (RGB) or 1 (luma).
        sampling: "uniform", the window in the middle; "random": any.
        clip_seconds: length of the window; 0 is the whole clip.
        fit, region: as of ``read_clip``.
        flip: mirror every other clip left-right.
        crop_jitter: crop a random square with a side of at least (1 - this) of the frame, in [0, 0.8].
        decoder, isolated: as of ``read_clip``.

    Raises:
        DataError: one of them is outside its range.
    """

    training: bool
    num_frames: int
    size: int
    channels: int
    sampling: Sampling
    clip_seconds: float
    fit: Fit
    region: Region
    flip: bool
    crop_jitter: float
    decoder: Decoder = "auto"
    isolated: bool = False

    def __post_init__(self) -> None:
        for name, value, legal in (
            ("channels", self.channels, CHANNELS),
            ("sampling", self.sampling, get_args(Sampling)),
            ("fit", self.fit, get_args(Fit)),
            ("decoder", self.decoder, DECODERS),
        ):
            if value not in legal:
                raise DataError(f"{name}: {value!r}, expected one of {joined(legal)}")
        for name, number, low, high in (
            ("num_frames", self.num_frames, 1, 2**20),
            ("size", self.size, 1, 2**14),
            ("clip_seconds", self.clip_seconds, 0, 1e6),
            ("crop_jitter", self.crop_jitter, 0, 0.8),
        ):
            if not low <= number <= high:
                raise DataError(f"{name}: {number}, expected {low} to {high:g}")
        if self.sampling == "random" and self.clip_seconds == 0:
            raise DataError("sampling: 'random' needs clip_seconds, the length of the window; it is 0, the whole clip")
        check_region(self.region)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, T, H, W) of a clip."""
        return self.channels, self.num_frames, self.size, self.size

    @property
    def random_window(self) -> bool:
        """Whether the frames of a clip are others in every epoch."""
        return self.training and self.sampling == "random"

    @property
    def fixed(self) -> bool:
        """Whether a clip is the same in every epoch."""
        return not (self.training and (self.sampling == "random" or self.flip or self.crop_jitter))

    @property
    def read_size(self) -> int:
        """Pixels to read, so that the smallest random crop has ``size`` of them and none is enlarged."""
        return round(self.size / (1 - self.crop_jitter)) if self.training else self.size

    def told(self, start: float | None, end: float | None) -> str:
        """What tells a fixed clip in a range of a file from others of the same file."""
        how = (READING, self.decoder, self.num_frames, self.read_size, self.channels, self.fit, self.region)
        return f"{how} {start} {end} {self.clip_seconds}"

    def fps(self, parts: Sequence[tuple[Path, float | None, float | None]]) -> float:
        """Frames a second of clips where these parts of files (start, end) are all equally long; else 0."""
        return self.rate([self.seconds(*part) for part in parts])

    def rate(self, seconds: Sequence[float]) -> float:
        """Frames a second of clips of so many seconds, where all are equally long; else 0."""
        windows = [min(length, self.clip_seconds or length) for length in seconds]
        if not windows or min(windows) <= 0 or max(windows) > 1.01 * min(windows):
            return 0.0
        # thousandths: what a container can keep exactly
        return round(self.num_frames / (sum(windows) / len(windows)), 3)

    def seconds(self, path: Path, start: float | None, end: float | None) -> float:
        """How long the part of a file is that frames come from."""
        info = probe(path, isolated=self.isolated)
        return (info.duration if end is None else min(end, info.duration)) - (start or 0.0)

    def read(self, path: Path, start: float | None, end: float | None, dice: torch.Generator) -> Tensor:
        """The clip ``(C, T, read_size, read_size)`` in a range of a file, before ``augmented``."""
        return read_clip(
            path,
            num_frames=self.num_frames,
            size=self.read_size,
            channels=self.channels,
            start=start,
            end=end,
            sampling="random" if self.random_window else "uniform",
            clip_seconds=self.clip_seconds or None,
            fit=self.fit,
            region=self.region,
            rng=dice,
            decoder=self.decoder,
            isolated=self.isolated,
        )

    def chosen(self, total: int, seconds: float, dice: torch.Generator) -> list[int]:
        """Which of ``total`` frames, equally spread over ``seconds``, make a clip, as ``read_clip`` takes them of a file."""
        low, high = 0, total
        if self.clip_seconds and seconds > 0:
            low, high = window(total, seconds, self.clip_seconds, dice if self.random_window else None)
        return spread(low, high, self.num_frames)

    def augmented(self, clip: Tensor, dice: torch.Generator) -> Tensor:
        """A clip ``(C, T, S, S)``, S >= ``read_size``, as it is learned from, ``(C, T, size, size)``."""
        jitter = self.crop_jitter if self.training else 0.0
        if jitter:
            whole = clip.shape[-1]
            side = int(torch.randint(round(whole * (1 - jitter)), whole + 1, (), generator=dice))
            top, left = (int(v) for v in torch.randint(whole - side + 1, (2,), generator=dice))
            clip = clip[:, :, top : top + side, left : left + side]
        if jitter or clip.shape[-1] != self.size:
            shape = (self.size, self.size)
            clip = interpolate(clip, size=shape, mode="bilinear", antialias=True, align_corners=False)
        if self.training and self.flip and torch.rand((), generator=dice) < 0.5:
            clip = clip.flip(-1)
        return clip


def extent(path: Path, start: float | None, end: float | None, *, isolated: bool = False) -> tuple[int, float]:
    """How many frames a range of a file has, and how many seconds they are on screen; 0 for an image.

    Args:
        isolated: as of ``read_clip``.

    Raises:
        VideoError: the file is missing or broken, or does not reach ``start`` or ``end``.
    """
    if isolated:
        from kinetext.video.isolated import call

        return call("extent", path, {"start": start, "end": end})
    return reach(path, timeline(path), start, end)
