"""Datasets as folders of files: write a made-up one, look at any."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from kinetext import manifest, video
from kinetext.config import Recipe
from kinetext.datasets.digits import Digits
from kinetext.datasets.shapes import Shapes
from kinetext.interfaces import Dataset
from kinetext.manifest.writing import write_csv
from kinetext.options import check_args
from kinetext.types import DataError, Progress, Sample, joined, suggest

_MADE = {"digits": Digits, "shapes": Shapes}
_DECIDED = frozenset({"clips", "split"})  # by the command itself
_FRAMES, _SIDE = 8, 96  # of a clip on a contact sheet: frames, and their pixels


def make(name: str, folder: Path, clips: int, options: Sequence[str] = (), progress: Progress | None = None) -> None:
    """Writes a made-up dataset as a VideoFolder: clips/*.mp4 and metadata.csv; a fifth of it is the val split.

    Args:
        name: "digits" or "shapes".
        folder: new or empty; it appears when everything is written.
        clips: in all, 2 to 1,000,000.
        options: of the dataset, such as "languages=['en']".

    Raises:
        DataError: no such dataset, a folder with something in it, or one that can't be written.
        RecipeError: an option that is not legal.
    """
    if name not in _MADE:
        raise DataError(f"dataset: {name!r} can't be made{suggest(name, _MADE)}; expected one of {joined(list(_MADE))}")
    if not 2 <= clips <= 1_000_000:
        raise DataError(f"clips: {clips}, expected 2 to 1,000,000")
    cls, val = _MADE[name], max(1, clips // 5)
    asked = Recipe.parse(f'task.name = "none"\ndata.name = "{name}"', [f"data.{option}" for option in options])
    args = check_args("data", cls, asked.data.args, _DECIDED)
    parts: dict[str, Dataset] = {
        "train": cls(**args, split="train", clips=clips - val),
        "val": cls(**args, split="val", clips=val),
    }
    with _new_folder(folder) as fresh:
        _write(fresh, parts, clips, progress)


def show(source: Path, sheet: Path, num: int) -> list[tuple[str, str, str, str]]:
    """Writes a picture of ``num`` rows spread over a table, a row of frames for each clip, from left to right.

    Args:
        source: a folder with a table, or by its layout; or a table.
        sheet: a PNG.
        num: 1 to 200.

    Returns:
        File, text, labels and split of these rows.

    Raises:
        DataError: the table or a clip can't be read.
    """
    if not 1 <= num <= 200:
        raise DataError(f"num: {num}, expected 1 to 200")
    table = manifest.with_stored_splits(manifest.open_source(source))
    rows = table.rows
    chosen = [rows[i * len(rows) // min(num, len(rows))] for i in range(min(num, len(rows)))]
    clips = [
        video.read_clip(
            manifest.place(table.root, row.file),
            num_frames=_FRAMES,
            size=_SIDE,
            start=row.start,
            end=row.end,
            fit="pad",
        )
        for row in chosen
        if row.file
    ]
    if clips:
        # (B, C, T, H, W) -> (C, 1, B H, T W)
        picture = torch.stack(clips).permute(1, 0, 3, 2, 4).reshape(3, 1, len(clips) * _SIDE, _FRAMES * _SIDE)
        video.write_png(sheet, picture)
    return [(row.file or "", row.text or "", _labels(row.labels), row.split) for row in chosen]


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in labels.items())


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block ends well, and goes away when it does not."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not an empty folder; choose another")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    except OSError as error:
        raise DataError(f"{folder}: can't be made ({error})") from error
    try:
        yield fresh
        fresh.chmod(0o755)  # mkdtemp makes folders that only their owner can read
        os.replace(fresh, folder)
    except OSError as error:
        raise DataError(f"{folder}: can't be written ({error})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(folder: Path, parts: Mapping[str, Dataset], clips: int, progress: Progress | None) -> None:
    (folder / "clips").mkdir()
    columns = [target.name for target in parts["train"].targets]
    header = ["file_name", "text", "split", *columns]
    write_csv(folder / "metadata.csv", header, _clips(folder, parts, columns, clips, progress))


def _clips(
    folder: Path, parts: Mapping[str, Dataset], columns: Sequence[str], clips: int, progress: Progress | None
) -> Iterator[list[str]]:
    """Writes clip after clip, and gives the row of each."""
    done = 0
    for split, data in parts.items():
        for index in range(len(data)):
            sample = data[index]
            name = f"clips/{done:06}.mp4"
            _save(folder / name, sample, data.fps)
            labels = [manifest.SEPARATOR.join(sample.labels.get(column, ())) for column in columns]
            yield [name, sample.text or "", split, *labels]
            done += 1
            if progress:
                progress(done, clips)


def _save(path: Path, sample: Sample, fps: float) -> None:
    assert sample.video is not None
    video.write(path, sample.video, fps=fps)
