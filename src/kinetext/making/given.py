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
from kinetext.interfaces import Shape
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


def known_cells(stays: Tensor, target: Shape) -> Tensor:
    """Which cells of a target are known: those all of whose pixels are.

    A target has as many frames as the video, or one for every few, or one for the first frame and one for every few
    of the others, as codecs that are causal in time make it.

    Args:
        stays: ``(B, T, H, W)`` bool.
        target: (C', T', H', W').

    Returns:
        ``(B, 1, T', H', W')`` bool.

    Raises:
        DataError: the target's frames lie in none of these ways.
    """
    total, frames = stays.shape[1], target[1]
    rows = stays.unflatten(2, (target[2], -1)).unflatten(4, (target[3], -1)).all(5).all(3)
    if total % frames == 0:
        return rows.unflatten(1, (frames, -1)).all(2)[:, None]
    if frames > 1 and (total - 1) % (frames - 1) == 0:
        rest = rows[:, 1:].unflatten(1, (frames - 1, -1)).all(2)
        return torch.cat([rows[:, :1], rest], 1)[:, None]
    raise DataError(
        f"this model's codec makes {frames} frames of {total}: which of them a given frame is can't be said"
    )


def frames_of(count: int, total: int, target: Shape) -> int:
    """How many of the first frames of a video of ``total`` frames it takes to know ``count`` frames of its target."""
    for frames in range(1, total + 1):
        stays = (torch.arange(total) < frames)[None, :, None, None].expand(1, total, *target[2:])
        if int(known_cells(stays, target)[0, 0, :, 0, 0].sum()) >= count:
            return frames
    return total


def reader(size: int, channels: int, fit: video.Fit, region: video.Region) -> Reader:
    """Reads files as the model saw files in training."""
    return lambda path, fps: video.stream(path, size=size, channels=channels, fps=fps, fit=fit, region=region)
