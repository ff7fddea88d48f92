"""A list of annotations and a folder of its files, made into a table: every entry finds its file, or is said to have none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kinetext.manifest.annotations import Entry, read
from kinetext.manifest.layouts import clips
from kinetext.manifest.reading import Raw
from kinetext.manifest.rows import RESERVED, check_row
from kinetext.types import DataError, joined

_PARTS = ("train", "dev", "test")
_SHOWN = 5  # entries that one message names


@dataclass(frozen=True)
class Imported:
    """A table, and what is not in it.

    Args:
        table: of the entries that have a file.
        missing: names of files that the list has and the folder lacks.
        unusable: what is wrong with entries by themselves, such as an end before its start.
        left_out: entries that the list itself leaves out.
        unnamed: files in the folder that no entry names.
    """

    table: Raw
    missing: tuple[str, ...]
    unusable: tuple[str, ...]
    left_out: int
    unnamed: tuple[str, ...]


def imported(kind: str, annotations: Path, videos: Path, *, skip: bool = False) -> Imported:
    """Reads a list and looks for its files.

    Args:
        kind: "kinetics", "ucf101", "hmdb51", "msrvtt", "activitynet", "meld" or "mosi".
        annotations: the list.
        videos: a folder with the files, in any folders below it.
        skip: leave out entries without a file, and those that can't be used, instead of refusing them.

    Raises:
        DataError: the list or the folder can't be read, files are missing, or two files fit one entry.
    """
    listed = read(kind, annotations)
    if not videos.is_dir():
        raise DataError(f"videos: no folder {videos}")
    files = _Files(videos)
    rows: list[dict[str, object]] = []
    missing: dict[str, None] = {}
    unusable: list[str] = []
    for entry in listed.entries:
        place = files.find(entry)
        if place is None:
            missing[next(iter(entry.names))] = None
            continue
        file, extra = place
        row = {"file_name": file, **entry.cells, **extra}
        problems: list[str] = []
        check_row(0, row, (), problems)
        if problems:
            unusable += [f"{entry.where}: {what.removeprefix('row 0: ')}" for what in problems]
            continue
        rows.append(row)
    _refuse(annotations, videos, len(listed.entries), tuple(missing), unusable, skip, bool(rows))
    names = dict.fromkeys(name for row in rows for name in row)
    order = [*(name for name in RESERVED if name in names), *(name for name in names if name not in RESERVED)]
    table = Raw(tuple(order), tuple([row.get(name) for row in rows] for name in order))
    unnamed = tuple(sorted(files.all() - {str(row["file_name"]) for row in rows}))
    return Imported(table, tuple(missing), tuple(unusable), listed.left_out, unnamed)


def _refuse(
    annotations: Path,
    videos: Path,
    count: int,
    missing: Sequence[str],
    unusable: Sequence[str],
    skip: bool,
    any_row: bool,
) -> None:
    if not count:
        raise DataError(f"{annotations}: names no clips")
    if missing and (not skip or not any_row):
        hint = "" if not any_row else "; --missing skip leaves them out"
        raise DataError(f"{annotations}: {len(missing)} files are not in {videos}: {_some(missing)}{hint}")
    if unusable and (not skip or not any_row):
        hint = "" if not any_row else "; --missing skip leaves them out"
        raise DataError(f"{annotations}: {len(unusable)} entries can't be used: {'; '.join(unusable[:_SHOWN])}{hint}")


def _some(names: Sequence[str]) -> str:
    return joined(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


class _Files:
    """The clips under a folder, by the name without folders and suffix."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_stem: dict[str, list[PurePosixPath]] = {}
        for path in map(PurePosixPath, clips(root)):
            self._by_stem.setdefault(path.stem, []).append(path)

    def all(self) -> set[str]:
        """Their paths under the folder."""
        return {str(path) for paths in self._by_stem.values() for path in paths}

    def find(self, entry: Entry) -> tuple[str, dict[str, object]] | None:
        """The file of an entry and the cells that come with its name, or None.

        Raises:
            DataError: several files fit.
        """
        for name, cells in entry.names.items():
            parts = PurePosixPath(name).parts
            found = [
                path
                for path in self._by_stem.get(parts[-1], ())
                if path.parts[:-1][len(path.parts) - len(parts) :] == parts[:-1]
            ]
            if entry.folder:
                found = _of_part(found, entry.folder)
            if len(found) > 1:
                raise DataError(
                    f"{entry.where}: {len(found)} files are named {name}: {_some([str(path) for path in found])}; name the "
                    "folder with the right ones in --videos"
                )
            if found:
                return str(found[0]), dict(cells)
        return None


def _of_part(found: Sequence[PurePosixPath], part: str) -> list[PurePosixPath]:
    """The files in folders of a part; where there are none, those in folders that name no part at all."""
    words = {path: _words(path) for path in found}
    own = [path for path in found if part in words[path]]
    return own or [path for path in found if not words[path]]


def _words(path: PurePosixPath) -> set[str]:
    """The parts that the names of its folders speak of, such as test in "output_repeated_splits_test"."""
    words = re.findall(r"[^\W\d_]+", "/".join(path.parts[:-1]).lower())
    return {part for part in _PARTS if any(word.startswith(part) for word in words)}
