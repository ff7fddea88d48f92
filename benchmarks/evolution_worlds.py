"""What the methods are compared on: which prompts they have seen, which they have not, and real clips of both.

Part of ``benchmarks/evolution.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from kinetext import assemble
from kinetext.config import Recipe
from kinetext.interfaces import Dataset
from kinetext.types import KinetextError, Sample
from kinetext.video import to_bytes

if TYPE_CHECKING:
    from kinetext.datasets.digits import Digits
    from kinetext.datasets.shapes import Shapes

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
Kind = Literal["seen", "unseen"]
KINDS: tuple[Kind, ...] = ("seen", "unseen")
ENDLESS = 2**31  # clips of the split that prompts are drawn from
PIECE = 50  # clips made at once
STILLS = 500  # samples made at once without their clips
MOST_DRAWS = 40_000  # in search of prompts to repeat
MOST_MORE = 400_000  # in search of another real clip of every prompt
Said = Mapping[str, frozenset[str]]  # column -> the classes that are said to hold


def digits_kind(sample: Sample) -> Kind | None:
    """Whether compositional training has the pair of digit and motion; None where a clip has both sorts."""
    from kinetext.datasets.digits import OBJECTS, is_held_out

    return _kind([is_held_out(OBJECTS.index(name)) for name in sample.labels["objects"]])


def digits_parts(said: Said, true: Said) -> dict[str, bool]:
    """Digit and motion apart, from labels such as "3 up and down"; two digits at once are no digit."""
    found, asked = ([name.split(" ", 1) for name in one["objects"]] for one in (said, true))
    digits, motions = ({pair[place] for pair in found} for place in (0, 1))
    return {
        "digit": digits == {pair[0] for pair in asked},
        "motion": motions == {pair[1] for pair in asked},
    }


def shapes_kind(sample: Sample) -> Kind | None:
    """Whether compositional training has the pairs of colour and shape, and of motion and shape, of all objects."""
    from kinetext.datasets import shapes

    of: dict[str, dict[str, str]] = {
        column: dict(name.split(" ", 1) for name in sample.labels[column]) for column in ("shape", "size", "motion")
    }
    objects = [
        shapes.Object(colour, of["shape"][colour], of["size"][colour], of["motion"][colour]) for colour in of["shape"]
    ]
    return _kind([one.held_out for one in objects])


def columns_apart(said: Said, true: Said) -> dict[str, bool]:
    """Every label column by itself."""
    return {column: said[column] == true[column] for column in true}


def _kind(held_out: list[bool]) -> Kind | None:
    if all(held_out):
        return "unseen"
    return None if any(held_out) else "seen"


@dataclass(frozen=True)
class World:
    """One comparison.

    Args:
        prefix: of the names of its recipes; a method's name follows.
        methods: in the order of the field's history.
        reader: the shipped model that reads its clips.
        root: of the data, under --data; "" where it is made from nothing.
        kind: of a sample.
        parts: what is right about a clip.
        tracks: whether the second judge follows the object, and says where it begins and whether it jumps.
        data: options of its dataset for prompts and for the clips that a second judge learns from.
    """

    name: str
    prefix: str
    methods: tuple[str, ...]
    reader: str
    root: str
    kind: Callable[[Sample], Kind | None]
    parts: Callable[[Said, Said], dict[str, bool]]
    tracks: bool
    data: Mapping[str, object]

    def recipe(self, method: str) -> Path:
        """The method's recipe, which may not be there yet."""
        return RECIPES / f"{self.prefix}{method}.toml"

    def here(self, data: Path) -> list[str]:
        """The change to a recipe that finds the world's data in the folder ``data``; none where it is not there."""
        return [f"data.root={data / self.root}"] if self.root and (data / self.root).is_dir() else []


METHODS = ("recurrent_vae", "gan", "seq2seq", "autoregressive", "diffusion", "flow")
WORLDS: Mapping[str, World] = {
    "digits": World(
        "digits", "evolution_", METHODS, "digits-reader", "mnist", digits_kind, digits_parts, True,
        {"digits": (1,), "captions": "full", "roaming": 0.0},
    ),
    "shapes": World(
        "shapes", "evolution_shapes_", METHODS, "shapes-reader", "", shapes_kind, columns_apart, False, {"objects": (1,)}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """Texts with their labels, and a real clip of each.

    Args:
        samples: without clips.
        video: ``(N, C, T, H, W)`` uint8; empty where only the texts were asked for.
    """

    samples: list[Sample]
    video: Tensor

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Sets:
    """What is judged.

    Args:
        seen, unseen: prompts of either kind, and the real clip of each.
        repeats: a few prompts, each several times in a row; real clips of the same labels.
        again: another real clip of the same labels for each of ``seen`` and ``unseen``, in their order; empty where only
            the texts were asked for.
    """

    seen: Shown
    unseen: Shown
    repeats: Shown
    again: Shown

    def prompts(self) -> list[Sample]:
        """Of the clips that every method makes; the place of one is its noise's name."""
        return [*self.seen.samples, *self.unseen.samples, *self.repeats.samples]


def held_out(world: World, recipe: Recipe, **options: object) -> Digits | Shapes:
    """Clips of all compositions, made from what is held out of training (handwriting, say)."""
    args = {**recipe.data.args, **world.data, "composition": "all", "clips": ENDLESS, **options}
    return assemble.find("data", recipe.data.name)(**args, split="val")


def draw(world: World, recipe: Recipe, clips: int, prompts: int, times: int, *, texts_only: bool = False) -> Sets:
    """Prompts and real clips, the same for every method: a pure function of the arguments.

    Args:
        recipe: of any run in this world; its section data says which.
        clips: of either kind.
        prompts: how many are repeated, half of either kind.
        times: how often.
        texts_only: no clips.

    Raises:
        KinetextError: there is no other real clip of a prompt's labels.
    """
    data = held_out(world, recipe)
    places = stills(data)
    first = _take(world, places, clips)
    again = [] if texts_only else _again(places, [sample for kind in KINDS for _, sample in first[kind]])
    repeats = _repeated(world, data, prompts, times)
    # the labels of the real clip stay its own; the text is that of the group's first
    repeats = [(place, replace(one, text=repeats[i - i % times][1].text)) for i, (place, one) in enumerate(repeats)]

    def shown(taken: Sequence[tuple[int, Sample]]) -> Shown:
        places = [] if texts_only else [place for place, _ in taken]
        pieces = [clips for _, clips in clip_pieces(data, places)]
        return Shown(
            [sample for _, sample in taken], torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.uint8)
        )

    return Sets(shown(first["seen"]), shown(first["unseen"]), shown(repeats), shown(again))


def other_prompts(world: World, recipe: Recipe, clips: int, seed: int) -> list[Sample]:
    """``clips`` prompts of either kind, of the world of another seed than that which ``draw`` takes them from."""
    taken = _take(world, stills(held_out(world, recipe, seed=seed)), clips)
    return [sample for kind in KINDS for _, sample in taken[kind]]


def stills(data: Digits | Shapes) -> Iterator[tuple[int, Sample]]:
    """Every place of a made world, with its sample but no clip."""
    for first in count(0, STILLS):
        places = range(first, first + STILLS)
        yield from zip(places, data.__getitems__(places, drawn=False), strict=True)


def _take(world: World, places: Iterator[tuple[int, Sample]], clips: int) -> dict[Kind, list[tuple[int, Sample]]]:
    """The next ``clips`` samples of either kind, with their places."""
    taken: dict[Kind, list[tuple[int, Sample]]] = {kind: [] for kind in KINDS}
    while any(len(some) < clips for some in taken.values()):
        place, sample = next(places)
        kind = world.kind(sample)
        if kind is not None and len(taken[kind]) < clips:
            taken[kind].append((place, sample))
    return taken


def _again(places: Iterator[tuple[int, Sample]], samples: Sequence[Sample]) -> list[tuple[int, Sample]]:
    """For each of ``samples`` the next place of the same labels that none before it has taken."""
    waiting: dict[object, list[int]] = {}
    for row, sample in enumerate(samples):
        waiting.setdefault(_labels(sample), []).append(row)
    found: dict[int, tuple[int, Sample]] = {}
    for place, sample in islice(places, MOST_MORE):
        if rows := waiting.get(_labels(sample)):
            found[rows.pop(0)] = (place, sample)
        if len(found) == len(samples):
            return [found[row] for row in range(len(samples))]
    lost = next(sample for row, sample in enumerate(samples) if row not in found)
    raise KinetextError(
        f"real clips: no other one of the labels {dict(lost.labels)} in {MOST_MORE:,} more; choose fewer --clips"
    )


def _labels(sample: Sample) -> object:
    return tuple(sorted(sample.labels.items()))


def _repeated(world: World, data: Digits | Shapes, prompts: int, times: int) -> list[tuple[int, Sample]]:
    """``times`` samples with the same labels, one after the other, for ``prompts`` label sets."""
    found: dict[object, list[tuple[int, Sample]]] = {}
    room = dict.fromkeys(KINDS, prompts // 2)
    for place, sample in islice(stills(data), MOST_DRAWS):
        kind, labels = world.kind(sample), _labels(sample)
        if labels not in found and kind is not None and room[kind]:
            room[kind] -= 1
            found[labels] = []
        if labels in found and len(found[labels]) < times:
            found[labels].append((place, sample))
        if not any(room.values()) and all(len(some) == times for some in found.values()):
            break
    return [one for some in found.values() if len(some) == times for one in some]


def clip_pieces(data: Dataset, places: Sequence[int]) -> Iterator[tuple[list[Sample], Tensor]]:
    """Samples and their clips, uint8, a piece at a time."""
    for first in range(0, len(places), PIECE):
        samples = data.__getitems__(places[first : first + PIECE])
        yield samples, to_bytes(torch.stack([one.video for one in samples if one.video is not None]))


def as_video(clips: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return clips.float() / 127.5 - 1
