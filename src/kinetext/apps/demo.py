"""Prompts of every shipped world -> clips, read back by its reader, on a page that plays them."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinetext.checkpoint import write_text
from kinetext.datasets.digits import objects_of
from kinetext.datasets.shapes import scene_of
from kinetext.making import Clip
from kinetext.pipeline import Pipeline
from kinetext.report import PLAYING, shell
from kinetext.types import DataError, Progress

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

    @property
    def right(self) -> bool:
        return _sets(self.wanted) == _sets(self.read)

    def seen(self) -> str:
        """What the reader saw, in words."""
        return ", ".join(name for names in self.read.values() for name in names) or "nothing"


def make(
    folder: Path, device: str | None = None, progress: Progress | None = None, *, worlds: Sequence[World] = WORLDS
) -> list[Shown]:
    """Generates every prompt, writes ``folder/NN.mp4``, reads the files back, and writes ``folder/index.html``.

    Args:
        progress: called with the clips that are made, and how many there will be.

    Raises:
        DataError: the folder can't be made, or a prompt says too little to be judged.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"out: {folder} can't be made ({error})") from error
    total, shown = sum(len(world.prompts) for world in worlds), list[Shown]()
    for world in worlds:
        shown += _world(world, folder, device, _after(len(shown), total, progress), first=len(shown) + 1)
    write_text(folder / "index.html", _page(worlds, shown))
    return shown


def _after(before: int, total: int, progress: Progress | None) -> Progress | None:
    """Progress of one part as that of all."""
    return (lambda done, _: progress(before + done, total)) if progress else None


def _world(world: World, folder: Path, device: str | None, progress: Progress | None, *, first: int) -> list[Shown]:
    maker, reader = Pipeline.load(world.maker, device), Pipeline.load(world.reader, device)
    clips = maker.generate(world.prompts, seed=0, progress=progress)
    return [_show(clip, folder / f"{number:02}.mp4", world, reader) for number, clip in enumerate(clips, first)]


def _show(clip: Clip, path: Path, world: World, reader: Pipeline) -> Shown:
    wanted = world.wanted(clip.prompt)
    if wanted is None:
        raise DataError(f"prompt: {clip.prompt!r} does not say all that the model {world.reader} reads")
    clip.save(path)
    return Shown(clip.prompt, wanted, _read(reader, path), path.name)


def _read(reader: Pipeline, path: Path) -> Labels:
    """What the reader sees in a file."""
    said, read = reader.predict(video=path)[0], dict[str, tuple[str, ...]]()
    for target in reader.run.meta.targets:
        probabilities = said[target.name]
        assert isinstance(probabilities, dict)
        likely = max(probabilities, key=lambda name: probabilities[name])
        many = tuple(name for name in target.classes if probabilities[name] >= 0.5)
        read[target.name] = many if target.multi else (likely,)
    return read


def _sets(labels: Labels) -> dict[str, frozenset[str]]:
    return {column: frozenset(names) for column, names in labels.items()}


def _page(worlds: Sequence[World], shown: Sequence[Shown]) -> str:
    figures = []
    for one in shown:
        verdict = "right" if one.right else "wrong"
        figures.append(
            f'<figure><video src="{one.file}" {PLAYING}></video><figcaption><b>{html.escape(one.prompt)}</b><br>'
            f'read as: {html.escape(one.seen())} <span class="{verdict}">{verdict}</span></figcaption></figure>'
        )
    right = sum(one.right for one in shown)
    makers, readers = (
        " or ".join(f"<b>{html.escape(name)}</b>" for name in names)
        for names in ([world.maker for world in worlds], [world.reader for world in worlds])
    )
    return shell(
        "kinetext demo",
        f"<header><h1>kinetext demo</h1><p>Every clip was made from its prompt by the model {makers} and read back "
        f"by the model {readers}, which has never seen a generated clip: {right} of {len(shown)} right.</p></header>"
        f'<section><div class="clips">{"".join(figures)}</div></section>',
    )
