"""Annotations of well-known datasets as a table of kinetext: kinetext data import."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kinetext import manifest
from kinetext.manifest import SPLITS, imports, writing
from kinetext.types import DataError

_SHOWN = 5  # names of a list that are shown


@dataclass(frozen=True)
class Done:
    """What was written.

    Args:
        path: the table.
        rows: how many it has, and "train", "val", "test" where it says so.
        notes: what is not in it, and what it will be refused for, in words.
    """

    path: Path
    rows: dict[str, int]
    notes: tuple[str, ...]


def convert(kind: str, annotations: Path, videos: Path, out: Path | None, *, missing: str = "error") -> Done:
    """Writes a table of the files in ``videos`` that a list of annotations names.

    Args:
        kind: of list, see ``manifest.imports``.
        annotations: the list.
        videos: the folder that the table's files are relative to.
        out: a new table, which ends in .csv, .jsonl or .parquet; ``videos``/metadata.csv if None.
        missing: "error", or "skip" to leave out entries without a file, and those that can't be used.

    Raises:
        DataError: as of ``manifest.imports``, or ``out`` is there already.
    """
    if missing not in ("error", "skip"):
        raise DataError(f"missing: {missing!r}, expected error or skip")
    path = out or videos / "metadata.csv"
    if not videos.is_dir():
        raise DataError(f"videos: no folder {videos}")
    writing.check_new(path)
    found = imports.imported(kind, annotations, videos, skip=missing == "skip")
    writing.write(path, found.table)
    cells = dict(zip(found.table.columns, found.table.cells, strict=True))
    splits = Counter(map(str, cells.get("split", ())))
    rows = {"rows": len(cells["file_name"])}
    rows |= {split: splits[split] for split in SPLITS if splits[split]}
    return Done(path, rows, tuple(_notes(found, videos, path)))


def _notes(found: imports.Imported, videos: Path, path: Path) -> list[str]:
    notes = []
    if found.missing:
        notes.append(f"left out, not in {videos}: {_counted(found.missing, 'file')}")
    if found.unusable:
        notes.append(f"left out, can't be used: {_counted(found.unusable, 'entry', 'entries')}")
    if found.left_out:
        notes.append(f"left out by the list itself: {found.left_out} entries")
    if found.unnamed:
        notes.append(f"not named by the list: {_counted(found.unnamed, 'file')}")
    try:
        manifest.load(videos, manifest=path.absolute())
    except DataError as error:
        notes.append(f"the table will be refused until it is mended: {error}")
    return notes


def _counted(names: tuple[str, ...], one: str, many: str = "") -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names)} {one if len(names) == 1 else many or one + 's'} ({shown})"
