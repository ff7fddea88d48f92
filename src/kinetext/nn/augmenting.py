"""Clips as training sees them: mirrored, cropped at random, all of one size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def augmented(clip: Tensor, size: int, dice: torch.Generator, *, crop_jitter: float, flip: bool) -> Tensor:
    """A clip of ``size`` pixels, a pure function of the clip and ``dice``.

    Args:
        clip: ``(C, T, S, S)`` float, S >= ``size``.
        size: pixels, the side of the result.
        crop_jitter: a random square is cut out, with a side of at least (1 - this) of the frame; in [0, 1).
        flip: mirror every other clip left-right.

    Returns:
        ``(C, T, size, size)``.
    """
    if crop_jitter:
        whole = clip.shape[-1]
        side = int(torch.randint(max(1, round(whole * (1 - crop_jitter))), whole + 1, (), generator=dice))
        top, left = (int(v) for v in torch.randint(whole - side + 1, (2,), generator=dice))
        clip = clip[:, :, top : top + side, left : left + side]
    if crop_jitter or clip.shape[-1] != size:
        clip = interpolate(clip, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    if flip and torch.rand((), generator=dice) < 0.5:
        clip = clip.flip(-1)
    return clip


def read_size(size: int, crop_jitter: float) -> int:
    """Pixels to read, so that the smallest random crop has ``size`` of them and none is enlarged."""
    return round(size / (1 - crop_jitter))
