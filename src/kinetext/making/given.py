"""What is given of a clip: frames and parts of frames from files, on the grid of a codec's target."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat, zip_longest
from typing import Self

import torch
from torch import Tensor

from kinetext import video
from kinetext.interfaces import Codec, Shape
from kinetext.making.requests import File, Plan
from kinetext.types import DataError

# The frames of a file, each (C, H, W), at so many a second; None is each as it comes.
Reader = Callable[[str, float | None], Iterator[Tensor]]


@dataclass(frozen=True)
class Place:
    """What is given of one frame.

    Args:
        frame: ``(C, H, W)`` in [-1, 1].
        stays: ``(H, W)`` bool, True = this pixel is in the clip as it is here.
    """

    frame: Tensor
    stays: Tensor

    @classmethod
    def whole(cls, frame: Tensor) -> Self:
        """A frame that stays."""
        return cls(frame, torch.ones(frame.shape[1:], dtype=torch.bool))


def places(plan: Plan, read: Reader, rate: float) -> Iterator[Place | None]:
    """What is given of the frames of a clip, from the first to the last that something is given of."""
    if plan.source is not None and plan.factor is not None:
        for frame in read(plan.source.path, None):
            yield Place.whole(frame)
            yield from repeat(None, plan.factor - 1)
        return
    first: Iterable[Tensor] = ()
    if plan.image is not None:
        first = read(plan.image.path, None)
    elif plan.video is not None and plan.mask is None:
        first = islice(read(plan.video.path, rate), plan.keep)
    under = plan.change or (plan.video if plan.mask else None)
    below: Iterable[Tensor] = read(under.path, rate) if under else ()
    stays = _outside(plan.mask, read) if plan.mask else None
    for own, other in zip_longest(first, below):
        if own is not None:
            yield Place.whole(own)
        else:
            yield Place(other, torch.zeros(other.shape[1:], dtype=torch.bool) if stays is None else stays)


def _outside(mask: File, read: Reader) -> Tensor:
    """``(H, W)`` bool: where a mask is not white.

    Raises:
        DataError: it is no picture, or there is no white in it.
    """
    (picture,) = islice(read(mask.path, None), 1)
    stays = picture.mean(0) < 0
    if stays.all():
        raise DataError(f"mask: there is no white in {mask.path}, so nothing would be made")
    return stays


class Rolling:
    """Places of a clip, window by window; only one window is kept."""

    def __init__(self, given: Iterator[Place | None]) -> None:
        self._coming = chain(given, repeat(None))
        self._kept: deque[Place | None] = deque()
        self._first = 0

    def window(self, start: int, stop: int) -> list[Place | None]:
        """Places ``start`` to ``stop - 1``; ``start`` never goes back."""
        while self._first + len(self._kept) < stop:
            self._kept.append(next(self._coming))
        while self._first < start:
            self._kept.popleft()
            self._first += 1
        return list(islice(self._kept, stop - start))


@dataclass(frozen=True)
class Piece:
    """What is given of a window.

    Args:
        frames: ``(C, T, H, W)``; where nothing is given, the nearest given frame.
        stays: ``(T, H, W)`` bool.
        shown: whether anything is given at all.
    """

    frames: Tensor
    stays: Tensor
    shown: bool

    @classmethod
    def of(cls, given: Sequence[Place | None], shape: Shape) -> Piece:
        """From the places of a window of ``shape`` (C, T, H, W)."""
        there = [number for number, place in enumerate(given) if place is not None]
        frames, stays = torch.zeros(shape), torch.zeros(shape[1:], dtype=torch.bool)
        for number, place in enumerate(given):
            if place is not None:
                frames[:, number], stays[number] = place.frame, place.stays
            elif there:  # a codec that joins frames should see nothing strange beside what it is given
                nearest = given[min(there, key=lambda other: abs(other - number))]
                assert nearest is not None
                frames[:, number] = nearest.frame
        return cls(frames, stays, bool(there))


@dataclass(frozen=True)
class Grid:
    """How a codec's target lies on a video.

    Args:
        cells: of every frame of the video, the frame of the target that it is in.
        target: (C', T', H', W').
    """

    cells: tuple[int, ...]
    target: Shape

    @classmethod
    def of(cls, codec: Codec, shape: Shape) -> Self:
        """Of a codec on videos of ``shape`` (C, T, H, W): a frame is in the last cell of the video that ends with it."""
        ends = ((shape[0], frame, *shape[2:]) for frame in range(1, shape[1] + 1))
        return cls(tuple(codec.target_shape(end)[1] - 1 for end in ends), codec.target_shape(shape))

    @property
    def window(self) -> int:
        """Frames of the video."""
        return len(self.cells)

    @property
    def joins(self) -> bool:
        """Whether frames share a cell: then a video is encoded and decoded as a whole."""
        return self.target[1] != self.window

    def first(self, count: int) -> int:
        """How many frames of the video the first ``count`` frames of the target are."""
        return sum(cell < count for cell in self.cells)

    def known(self, stays: Tensor) -> Tensor:
        """Which cells are known, ``(B, 1, T', H', W')`` bool: those all of whose pixels stay, ``(B, T, H, W)`` bool."""
        _, frames, height, width = self.target
        rows = stays.unflatten(2, (height, -1)).unflatten(4, (width, -1)).all(5).all(3)
        found = torch.ones(len(stays), 1, frames, height, width, dtype=torch.bool)
        for frame, cell in enumerate(self.cells):
            found[:, 0, cell] &= rows[:, frame]
        return found


def reader(size: int, channels: int, fit: video.Fit, region: video.Region) -> Reader:
    """Reads files as the model saw files in training."""
    return lambda path, fps: video.stream(path, size=size, channels=channels, fps=fps, fit=fit, region=region)
