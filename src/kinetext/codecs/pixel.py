"""Pixels as they are: the identity codec."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kinetext.interfaces import Codec, Shape


class Pixel(Codec):
    """The target is the video itself, ``(B, C, T, H, W)`` in [-1, 1].

    Args:
        channels: of the video (decided by the assembly).
    """

    kind: Literal["continuous", "tokens"] = "continuous"

    def __init__(self, *, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels

    def encode(self, video: Tensor) -> Tensor:
        return video

    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        return target.clamp(-1, 1)

    def target_shape(self, shape: Shape) -> Shape:
        return shape
