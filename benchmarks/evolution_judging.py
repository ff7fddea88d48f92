"""Made clips -> numbers: what two judges read in them, and how they stand to real clips and to the training clips.

Part of ``benchmarks/evolution.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

import kinetext
from evolution_second import SECOND, Rights, SecondJudge, add
from evolution_worlds import KINDS, Kind, Said, Sets, World, as_video, clip_pieces, held_out
from kinetext import assemble, runtime
from kinetext.checkpoint import Meta
from kinetext.config import Recipe
from kinetext.datasets.loader import Collate
from kinetext.metrics.video import frechet_distance, memorisation, spread
from kinetext.reading import joint
from kinetext.tasks.classification import Classification
from kinetext.types import Sample

PIECE = 100  # clips read at once


@dataclass(frozen=True)
class Read:
    """What a reader of kinetext makes of clips.

    Args:
        rights: of every clip.
        features: ``(N, D)``.
    """

    rights: Rights
    features: Tensor


class Reader:
    """A shipped classifier of video; it is not shown the texts."""

    def __init__(self, world: World, name: str, meta: Meta) -> None:
        self.world, self.shape = world, meta.video_shape
        self.eye = assemble.clip_reader("--reader", name, meta, meta.targets)
        self.on = runtime.device()
        self.eye.task.to(self.on)

    @torch.no_grad()
    def read(self, samples: Sequence[Sample], clips: Tensor) -> Read:
        """Clips ``(N, C, T, H, W)`` uint8 of the texts of ``samples``."""
        task, rights, features = self.eye.task, Rights(), []
        assert isinstance(task, Classification)
        ready = Collate(None, self.eye.columns, self.shape)
        for first in range(0, len(samples), PIECE):
            part, video = samples[first : first + PIECE], as_video(clips[first : first + PIECE]).to(self.on)
            whole = torch.ones(video.shape[0], video.shape[2], dtype=torch.bool, device=self.on)
            shown = self.eye.shown(ready(part).to(self.on), video, whole)
            with runtime.autocast(self.eye.precision, self.on):
                said = task.predict(shown, rng=runtime.rng(0, "read")).probabilities
                features.append(joint(task.encoders, task.fusion, shown).pooled().float().cpu())
            for row, one in enumerate(part):
                add(rights, self._right({name: p[row].cpu() for name, p in said.items()}, one))
        return Read(rights, torch.cat(features))

    def _right(self, probabilities: Mapping[str, Tensor], sample: Sample) -> dict[str, bool]:
        said: dict[str, frozenset[str]] = {}
        for column in self.eye.columns:
            p = probabilities[column.name]
            places = (p > 0.5).nonzero()[:, 0].tolist() if column.multi else [int(p.argmax())]
            said[column.name] = frozenset(column.classes[place] for place in places)
        true: Said = {column.name: frozenset(sample.labels[column.name]) for column in self.eye.columns}
        return {"exact": said == true, **self.world.parts(said, true)}


def shares(rights: Rights, first: int, last: int) -> dict[str, Any]:
    """Of clips ``first`` to ``last - 1``: the share that is right, and where 95 % say it lies."""
    part = {name: right[first:last] for name, right in rights.items()}
    low, high = wilson(sum(part["exact"]), last - first)
    return {**{name: sum(right) / len(right) for name, right in part.items()}, "interval": [low, high]}


def by_kind(rights: Rights, seen: int) -> dict[Kind, dict[str, Any]]:
    """The shares of the first ``seen`` clips, of seen prompts, and of the others, of unseen ones."""
    ends = (0, seen, len(rights["exact"]))
    return {kind: shares(rights, *ends[place : place + 2]) for place, kind in enumerate(KINDS)}


def wilson(right: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4)."""
    share, more = right / of, z * z / of
    middle = (share + more / 2) / (1 + more)
    half = z / (1 + more) * math.sqrt(share * (1 - share) / of + more / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Clips:
    """Made or real clips, uint8, in the order of ``Sets.prompts``."""

    seen: Tensor
    unseen: Tensor
    repeats: Tensor

    @classmethod
    def of(cls, made: Tensor, sets: Sets) -> Clips:
        """A method's clips, taken apart."""
        ends = len(sets.seen), len(sets.seen) + len(sets.unseen)
        return cls(made[: ends[0]], made[ends[0] : ends[1]], made[ends[1] :])

    def both(self) -> Tensor:
        """Of single prompts, seen and unseen."""
        return torch.cat([self.seen, self.unseen])


class Jury:
    """Judges the clips of every method of a world alike.

    Args:
        recipe: of any run in this world: where prompts, real clips and training clips are from.
        reader: a shipped model or run folder.
        pool: training clips that made ones are compared with, at most.
    """

    def __init__(self, world: World, recipe: Recipe, sets: Sets, reader: str, pool: int) -> None:
        self.world, self.recipe, self.sets, self.pool = world, recipe, sets, pool
        self.real = Clips(sets.seen.video, sets.unseen.video, sets.repeats.video)
        data = held_out(world, recipe)
        self.reader = Reader(world, reader, Meta(kinetext.__version__, (), data.targets, data.video_shape))
        self.prompts = [*sets.seen.samples, *sets.unseen.samples]

    @cached_property
    def second(self) -> SecondJudge:
        """The second judge, taught by training clips of another seed."""
        return SECOND[self.world.name](self.world, self.recipe)

    @cached_property
    def real_read(self) -> Read:
        """How the reader reads the real clips."""
        return self.reader.read(self.prompts, self.real.both())

    @cached_property
    def training(self) -> list[Tensor]:
        """The training clips, small, in pieces."""
        data = assemble.dataset(self.recipe, "train")
        return [small(clips) for _, clips in clip_pieces(data, range(min(self.pool, len(data))))]

    def judged(self, clips: Clips, read: Read | None = None) -> dict[str, Any]:
        """All numbers of a set of clips.

        Args:
            read: what the reader made of them, if that is known.
        """
        read = read or self.reader.read(self.prompts, clips.both())
        found: dict[str, Any] = {"clips": {"seen": len(clips.seen), "unseen": len(clips.unseen)}}
        found["reader"] = by_kind(read.rights, len(clips.seen))
        found["frechet"] = {
            "distance": frechet_distance(read.features, self.real_read.features),
            "clips": len(read.features),
        }
        found["diversity"] = self._diversity(clips)
        near = memorisation(small(clips.seen), small(self.real.seen), self.training)
        found["memorisation"] = {
            "ratio": near.ratio, "copies": near.copies, "training_clips": sum(map(len, self.training)),
        }  # fmt: skip
        rights, found["second_unreadable"] = self.second.rights(clips.both(), self.prompts)
        found["second"] = by_kind(rights, len(clips.seen))
        return found

    def ceiling(self) -> dict[str, Any]:
        """The same numbers of real clips. Their Frechet distance is that of other real clips of the very same labels, as
        those of a perfect method would be: none can be expected to be nearer.
        """
        found = self.judged(self.real, self.real_read)
        again = self.reader.read(self.sets.again.samples, self.sets.again.video)
        found["frechet"] = {
            "distance": frechet_distance(again.features, self.real_read.features), "clips": len(again.features),
        }  # fmt: skip
        return found

    def _diversity(self, clips: Clips) -> dict[str, float]:
        """At the same prompt, in pixels and in the reader's features."""
        samples = self.sets.repeats.samples
        if not samples:
            return {}
        groups = [one.text or "" for one in samples]
        found = {
            "pixels": spread(as_video(clips.repeats), groups),
            "features": spread(self.reader.read(samples, clips.repeats).features, groups),
            "prompts": float(len(set(groups))),
        }
        starts = self.second.starts(clips.repeats, groups)
        return found if starts is None else {**found, "start": starts}


def relative(found: Mapping[str, Any], real: Mapping[str, Any]) -> dict[str, float]:
    """Diversity over that of real clips of the same labels."""
    names = [name for name in ("pixels", "features", "start") if name in found and real.get(name)]
    return {name: found[name] / real[name] for name in names}


def small(clips: Tensor) -> Tensor:
    """Clips ``(N, C, T, H, W)`` uint8 as near ones are looked for: at a quarter of their size, every second frame, of zero mean
    and length 1, so that clips that are dark or pale are not near to everything.
    """
    pieces = [avg_pool3d(as_video(piece[:, :, ::2]), (1, 4, 4)).flatten(1) for piece in clips.split(PIECE)]
    x = torch.cat(pieces)
    return torch.nn.functional.normalize(x - x.mean(1, keepdim=True), eps=1e-3)
