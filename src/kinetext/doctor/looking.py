"""What a clip looks like, in few numbers: brightness, movement, mean colour, a small picture and its hashes."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

SIDE = 32  # pixels of the squares that clips are looked at in
TIMES = 8  # frames of a picture, evenly over the clip
CELLS = 16  # cells of a picture's side
Floats = NDArray[np.float32]

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_DARK = 24.0  # of 255: a frame whose brightest cells stay below is black
_HASHED = 8  # lowest frequencies of each direction that make a hash


@dataclass(frozen=True)
class Look:
    """What a clip shows.

    Args:
        frames: how many were looked at.
        black: share of them that are black, in [0, 1].
        change: how far the cell that changes most does so over the clip, in 0..255; 0 is a frozen clip.
        colour: mean red, green, blue of the whole picture, each in 0..255.
        middle: the same of the square in its middle.
        picture: ``TIMES x CELLS x CELLS`` bytes of luma, in base64.
        hashes: of ``TIMES`` frames, 64 bits each.
    """

    frames: int
    black: float
    change: float
    colour: tuple[float, float, float]
    middle: tuple[float, float, float]
    picture: str
    hashes: tuple[int, ...]

    def pixels(self) -> Floats:
        """The picture, ``(TIMES, CELLS, CELLS)`` in 0..255."""
        flat = np.frombuffer(base64.b64decode(self.picture), np.uint8)
        return flat.reshape(TIMES, CELLS, CELLS).astype(np.float32)


def look(frames: Iterable[Tensor], total: int, aspect: float) -> Look:
    """Looks at the frames of a clip one after another, in constant memory.

    Args:
        frames: ``(3, SIDE, SIDE)`` float32 in [-1, 1] each, squashed to a square.
        total: how many there are, >= 1.
        aspect: width over height before that, > 0.
    """
    wanted = [(2 * i + 1) * total // (2 * TIMES) for i in range(TIMES)]
    kept: dict[int, Floats] = {}
    low, high = np.full((SIDE, SIDE), 255, np.float32), np.zeros((SIDE, SIDE), np.float32)
    sums, black, count = np.zeros((3, SIDE, SIDE), np.float64), 0, 0
    for number, frame in enumerate(frames):
        pixels = (frame.numpy() + 1) * 127.5
        luma = np.tensordot(_LUMA, pixels, 1).astype(np.float32)
        black += float(np.quantile(luma, 0.98)) < _DARK
        low, high = np.minimum(low, luma), np.maximum(high, luma)
        sums += pixels
        count += 1
        if number in wanted:
            kept[number] = luma
    mean = sums / count
    shown = np.stack([kept[number] for number in wanted])
    small = shown.reshape(TIMES, CELLS, SIDE // CELLS, CELLS, SIDE // CELLS).mean((2, 4))
    return Look(
        frames=count,
        black=black / count,
        change=round(float((high - low).max()), 2),
        colour=_rgb(mean),
        middle=_rgb(_middle(mean, aspect)),
        picture=base64.b64encode(np.rint(small).astype(np.uint8).tobytes()).decode(),
        hashes=tuple(phash(frame) for frame in shown),
    )


def phash(luma: Floats) -> int:
    """64 bits of a picture: whether each of its 8 x 8 lowest frequencies is above their median (Zauner 2010, section
    3.2.1, as the library imagehash has it).

    Args:
        luma: ``(SIDE, SIDE)``, of any scale.
    """
    low = (_DCT @ luma @ _DCT.T)[:_HASHED, :_HASHED]
    bits = (low > np.median(low)).flatten()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def _dct(side: int) -> Floats:
    """The matrix of the discrete cosine transform (type II, not scaled, as scipy.fft.dct has it)."""
    place = np.arange(side)
    return (2 * np.cos(np.pi * place[:, None] * (2 * place + 1) / (2 * side))).astype(np.float32)


_DCT = _dct(SIDE)


def _middle(mean: NDArray[np.float64], aspect: float) -> NDArray[np.float64]:
    """The part of a squashed picture that is the square in the middle of the original."""
    share = min(aspect, 1 / aspect)
    edge = min(round(SIDE * (1 - share) / 2), SIDE // 2 - 1)
    if aspect > 1:
        return mean[:, :, edge : SIDE - edge]
    return mean[:, edge : SIDE - edge]


def _rgb(mean: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(v), 2) for v in mean.mean((1, 2)))
    return red, green, blue
