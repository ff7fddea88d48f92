"""A dozen prompts -> clips, read back by the reader, on a page that plays them."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from kinetext.checkpoint import write_text
from kinetext.datasets.digits import OBJECTS, objects_of
from kinetext.making import Clip
from kinetext.pipeline import Pipeline
from kinetext.report import PLAYING, shell
from kinetext.types import DataError, Progress

PROMPTS = (
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
)
MAKER, READER = "digits", "digits-reader"
COLUMN = "objects"


@dataclass(frozen=True)
class Shown:
    """One clip of the demo: what was asked for, and what the reader saw."""

    prompt: str
    wanted: tuple[str, ...]
    read: tuple[str, ...]
    file: str

    @property
    def right(self) -> bool:
        return set(self.wanted) == set(self.read)


def make(
    folder: Path,
    device: str | None = None,
    progress: Progress | None = None,
    *,
    maker: str = MAKER,
    reader: str = READER,
    prompts: tuple[str, ...] = PROMPTS,
) -> list[Shown]:
    """Generates every prompt, writes ``folder/NN.mp4``, reads the files back, and writes ``folder/index.html``.

    Args:
        maker: a text-to-video model of the digits world.
        reader: a classifier of its objects.
    """
    makes, reads = Pipeline.load(maker, device), Pipeline.load(reader, device)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"out: {folder} can't be made ({error})") from error
    clips = makes.generate(prompts, seed=0, progress=progress)
    shown = [_show(clip, folder / f"{number:02}.mp4", reads) for number, clip in enumerate(clips, 1)]
    write_text(folder / "index.html", _page(shown))
    return shown


def _show(clip: Clip, path: Path, reader: Pipeline) -> Shown:
    wanted = objects_of(clip.prompt)
    if wanted is None:
        raise DataError(f"prompt: {clip.prompt!r} names no object of the digits world")
    clip.save(path)
    return Shown(clip.prompt, wanted, _read(reader, path), path.name)


def _read(reader: Pipeline, path: Path) -> tuple[str, ...]:
    """The objects that the reader sees in a file."""
    probabilities = reader.predict(video=path)[0][COLUMN]
    assert isinstance(probabilities, dict)
    return tuple(name for name in OBJECTS if probabilities[name] >= 0.5)


def _page(shown: list[Shown]) -> str:
    figures = []
    for one in shown:
        verdict = "right" if one.right else "wrong"
        read = html.escape(", ".join(one.read) or "nothing")
        figures.append(
            f'<figure><video src="{one.file}" {PLAYING}></video><figcaption><b>{html.escape(one.prompt)}</b><br>'
            f'read as: {read} <span class="{verdict}">{verdict}</span></figcaption></figure>'
        )
    right = sum(one.right for one in shown)
    return shell(
        "kinetext demo",
        f"<header><h1>kinetext demo</h1><p>Every clip was made from its prompt by the model <b>{MAKER}</b> and read back "
        f"by the model <b>{READER}</b>, which has never seen a generated clip: {right} of {len(shown)} right.</p></header>"
        f'<section><div class="clips">{"".join(figures)}</div></section>',
    )
