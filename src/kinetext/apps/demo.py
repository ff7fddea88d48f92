"""Prompts of every shipped world -> clips, read back by its reader, on a page that plays them."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from kinetext.checkpoint import write_text
from kinetext.datasets.digits import objects_of
from kinetext.datasets.shapes import scene_of
from kinetext.making import Clip
from kinetext.pipeline import Pipeline
from kinetext.report import PLAYING, shell
from kinetext.types import DataError, Progress, Target

Labels = Mapping[str, tuple[str, ...]]  # column -> the classes that hold


def digits_wanted(prompt: str) -> Labels | None:
    """The digits and how they move."""
    objects = objects_of(prompt)
    return None if objects is None else {"objects": objects}


def shapes_wanted(prompt: str) -> Labels | None:
    """Every attribute of the shapes, and the background."""
    scene = scene_of(prompt)
    return None if scene is None else scene.labels()


@dataclass(frozen=True)
class World:
    """Prompts for one model, and who reads what it makes of them.

    Args:
        maker: a text-to-video model.
        reader: a classifier of what its clips show, which has never seen a generated one.
        wanted: what a prompt asks for; None where it says too little.
        prompts: one or more.
    """

    maker: str
    reader: str
    wanted: Callable[[str], Labels | None]
    prompts: tuple[str, ...]


DIGITS = World(
    "digits",
    "digits-reader",
    digits_wanted,
    (
        "the digit 3 is moving up and down",
        "digit 8 moves left and right",
        "a 5 moving up and down",
        "数字2左右移动",
        "数字7正在上下运动",
        "一个0左右移动",
        "the digit 3 is moving up and down and the digit 7 is moving left and right",
        "digit 1 moves up and down, and digit 6 moves left and right",
        "4 bounces left and right while 9 bounces up and down",
        "数字3上下移动，数字7左右移动",
        "5在左右移动，同时0在上下移动",
        "一个8上下移动和一个2上下移动",
    ),
)
SHAPES = World(
    "shapes",
    "shapes-reader",
    shapes_wanted,
    (
        "a large red circle bounces over a blue background",
        "a tiny white star spins on a black background",
        "一个黄色大方块在绿色背景上向左移动",
        "一个小的橙色三角形正在往上升，背景为灰色",
    ),
)
WORLDS = (DIGITS, SHAPES)


@dataclass(frozen=True)
class Shown:
    """One clip of the demo: what was asked for, and what the reader saw."""

    prompt: str
    wanted: Labels
    read: Labels
    file: str
    world: World

    @property
    def right(self) -> bool:
        return _sets(self.wanted) == _sets(self.read)

    def seen(self) -> str:
        """What the reader saw, in words: "3 up and down", or "shape: red circle; background: blue" where it reads several columns."""
        said = {column: ", ".join(names) or "nothing" for column, names in self.read.items()}
        return next(iter(said.values())) if len(said) == 1 else "; ".join(f"{k}: {v}" for k, v in said.items())


def make(
    folder: Path, device: str | None = None, progress: Progress | None = None, *, worlds: Sequence[World] = WORLDS
) -> list[Shown]:
    """Generates every prompt, writes ``folder/NN.mp4``, reads the files back, and writes ``folder/index.html``.

    Args:
        progress: called with the clips that are made, and how many there will be.

    Raises:
        DataError: the folder can't be made, or, before anything is, a prompt says too little to be judged.
        RunError: a model is missing or damaged, or there is no such device.
    """
    for world in worlds:
        for prompt in world.prompts:
            _wanted(world, prompt)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"out: {folder} can't be made ({error})") from error
    total, shown = sum(len(world.prompts) for world in worlds), list[Shown]()
    for world in worlds:
        shown += _world(world, folder, device, _after(len(shown), total, progress), first=len(shown) + 1)
    write_text(folder / "index.html", _page(shown))
    return shown


def _wanted(world: World, prompt: str) -> Labels:
    wanted = world.wanted(prompt)
    if wanted is None:
        raise DataError(f"prompt: {prompt!r}, expected a text that tells all that {world.reader} reads")
    return wanted


def _after(before: int, total: int, progress: Progress | None) -> Progress | None:
    """Progress of one part as that of all."""
    return (lambda done, _: progress(before + done, total)) if progress else None


def _world(world: World, folder: Path, device: str | None, progress: Progress | None, *, first: int) -> list[Shown]:
    maker, reader = Pipeline.load(world.maker, device), Pipeline.load(world.reader, device)
    clips = maker.generate(world.prompts, seed=0, progress=progress)
    return [_show(clip, folder / f"{number:02}.mp4", world, reader) for number, clip in enumerate(clips, first)]


def _show(clip: Clip, path: Path, world: World, reader: Pipeline) -> Shown:
    clip.save(path)
    return Shown(clip.prompt, _wanted(world, clip.prompt), _read(reader, path), path.name, world)


def _read(reader: Pipeline, path: Path) -> Labels:
    """What the reader sees in a file."""
    said = reader.predict(video=path)[0]
    return {target.name: _classes(target, said[target.name]) for target in reader.run.meta.targets}


def _classes(target: Target, probabilities: object) -> tuple[str, ...]:
    """Those that are likelier than not, of a column of many; of others the likeliest."""
    assert isinstance(probabilities, dict)
    if target.multi:
        return tuple(name for name in target.classes if probabilities[name] >= 0.5)
    return (max(target.classes, key=probabilities.__getitem__),)


def _sets(labels: Labels) -> dict[str, frozenset[str]]:
    return {column: frozenset(names) for column, names in labels.items()}


def _page(shown: Sequence[Shown]) -> str:
    sections = [_section(world, list(some)) for world, some in groupby(shown, lambda one: one.world)]
    right = sum(one.right for one in shown)
    return shell(
        "kinetext demo",
        "<header><h1>kinetext demo</h1><p>Every clip was made from its prompt, and read back by a model which has never "
        f"seen a generated clip: {right} of {len(shown)} right.</p></header>{''.join(sections)}",
    )


def _section(world: World, shown: Sequence[Shown]) -> str:
    right = sum(one.right for one in shown)
    return (
        f"<section><p>Made by <b>{html.escape(world.maker)}</b>, read by <b>{html.escape(world.reader)}</b>: "
        f'{right} of {len(shown)} right.</p><div class="clips">{"".join(map(_figure, shown))}</div></section>'
    )


def _figure(one: Shown) -> str:
    verdict = "right" if one.right else "wrong"
    return (
        f'<figure><video src="{one.file}" {PLAYING}></video><figcaption><b>{html.escape(one.prompt)}</b><br>'
        f'read as: {html.escape(one.seen())} <span class="{verdict}">{verdict}</span></figcaption></figure>'
    )
