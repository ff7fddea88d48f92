"""The second judges, which share neither code nor weights with kinetext's readers, taught by clips of a world.

Part of ``benchmarks/evolution.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from centroid_judge import CentroidJudge
from centroid_judge import Reading as DigitReading
from evolution_worlds import ENDLESS, World, clip_pieces
from kinetext import assemble
from kinetext.config import Recipe
from kinetext.interfaces import Dataset
from kinetext.types import Sample
from shapes_judge import Reading as ShapesReading
from shapes_judge import ShapesJudge

TEACHING = {"digits": 20_000, "shapes": 3_000}  # single frames of digits, clips of shapes
SEED = 77  # of the world that these are from: no method is trained in it
Rights = dict[str, list[bool]]  # what is right about each clip; "exact": everything


class SecondJudge(ABC):
    """Reads clips ``(N, C, T, H, W)`` uint8 of one object."""

    @abstractmethod
    def rights(self, clips: Tensor, samples: Sequence[Sample]) -> tuple[Rights, dict[str, int]]:
        """What is right about clips of the texts of ``samples``; why some can't be read -> how many."""

    def starts(self, clips: Tensor, groups: Sequence[str]) -> float | None:
        """How far apart clips of one text begin; None where this judge can't say."""
        return None


class DigitsSecond(SecondJudge):
    """Centroids and a support vector machine."""

    def __init__(self, world: World, recipe: Recipe) -> None:
        pieces = list(clip_pieces(_world(world, recipe, num_frames=1), range(TEACHING["digits"])))
        digits = [int(one.labels["objects"][0][0]) for samples, _ in pieces for one in samples]
        self.judge = CentroidJudge().fit(_grey(torch.cat([clips for _, clips in pieces])), np.array(digits))

    def rights(self, clips: Tensor, samples: Sequence[Sample]) -> tuple[Rights, dict[str, int]]:
        readings = self.judge.read(_grey(clips))
        return centroid_rights(readings, samples), dict(Counter(one.why for one in readings if one.why))

    def starts(self, clips: Tensor, groups: Sequence[str]) -> float | None:
        return start_spread(self.judge.read(_grey(clips)), groups)


class ShapesSecond(SecondJudge):
    """What is not background, and random forests."""

    def __init__(self, world: World, recipe: Recipe) -> None:
        pieces = clip_pieces(_world(world, recipe), range(TEACHING["shapes"]))
        pairs = (
            (clip, shape_names(one))
            for samples, video in pieces
            for clip, one in zip(_coloured(video), samples, strict=True)
        )
        self.judge = ShapesJudge().fit(pairs)

    def rights(self, clips: Tensor, samples: Sequence[Sample]) -> tuple[Rights, dict[str, int]]:
        readings = self.judge.read(_coloured(clips))
        return shapes_rights(readings, samples), dict(Counter(one.why for one in readings if one.why))


SECOND: Mapping[str, type[DigitsSecond] | type[ShapesSecond]] = {"digits": DigitsSecond, "shapes": ShapesSecond}


def add(rights: Rights, one: Mapping[str, bool]) -> None:
    """Notes what is right about one more clip."""
    for name, right in one.items():
        rights.setdefault(name, []).append(right)


def centroid_rights(readings: Sequence[DigitReading], samples: Sequence[Sample]) -> Rights:
    """What the centroid judge finds right; a clip that it can't read is wrong, and counted."""
    rights = Rights()
    for reading, sample in zip(readings, samples, strict=True):
        digit, motion = sample.labels["objects"][0].split(" ", 1)
        found = {"digit": str(reading.digit) == digit, "motion": reading.motion == motion}
        exact = all(found.values())
        smooth = exact and reading.smooth
        add(rights, {"exact": exact, **found, "exact_and_smooth": smooth, "unreadable": bool(reading.why)})
    return rights


def shape_names(sample: Sample) -> tuple[str, str, str, str, str]:
    """Colour, shape, size, motion and background of a sample with one object."""
    colour = sample.labels["colour"][0]
    shape, size, motion = (sample.labels[name][0].removeprefix(f"{colour} ") for name in ("shape", "size", "motion"))
    return colour, shape, size, motion, sample.labels["background"][0]


def shapes_rights(readings: Sequence[ShapesReading], samples: Sequence[Sample]) -> Rights:
    """What the judge of shapes finds right; a clip that it can't read is wrong, and counted."""
    rights, columns = Rights(), ("colour", "shape", "size", "motion", "background")
    for reading, sample in zip(readings, samples, strict=True):
        true = dict(zip(columns, shape_names(sample), strict=True))
        found = {name: getattr(reading, name) == true[name] for name in columns}
        add(rights, {"exact": all(found.values()), **found, "unreadable": bool(reading.why)})
    return rights


def start_spread(readings: Sequence[DigitReading], groups: Sequence[str]) -> float:
    """How far apart clips of one text begin: the root of the summed variance of the first places, in pixels, as the mean
    over the texts of which two clips or more can be read; 0 where there is none.
    """
    starts: dict[str, list[tuple[float, float]]] = {}
    for reading, group in zip(readings, groups, strict=True):
        if reading.start is not None:
            starts.setdefault(group, []).append(reading.start)
    spreads = [float(np.sqrt(np.var(some, axis=0, ddof=1).sum())) for some in starts.values() if len(some) > 1]
    return float(np.mean(spreads)) if spreads else 0.0


def _world(world: World, recipe: Recipe, **options: object) -> Dataset:
    """Training clips of all compositions, of another seed than those of any method."""
    args = {**recipe.data.args, **world.data, "composition": "all", "clips": ENDLESS, "seed": SEED, **options}
    return assemble.find("data", recipe.data.name)(**args, split="train")


def _grey(clips: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """``(N, 1, T, H, W)`` uint8 -> ``(N, T, H, W)`` in [0, 1]."""
    return (clips[:, 0].float() / 255).numpy()


def _coloured(clips: Tensor) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """``(N, 3, T, H, W)`` uint8 -> N times ``(T, H, W, 3)`` in [0, 1]."""
    return list((clips.permute(0, 2, 3, 4, 1).float() / 255).numpy())
