"""The table of a dataset on disk: metadata.csv, .jsonl or .parquet, read and checked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kinetext.manifest import columns as by_column
from kinetext.manifest.reading import Raw, check_columns, find, no_collector, read
from kinetext.manifest.rows import RESERVED, SEPARATOR, SPLITS, Row, Split, as_number, check_row, escapes, is_elsewhere
from kinetext.types import DataError, joined, suggest

_MOST_CLASSES = 1000  # of a column that is taken for one of classes where nobody says
_LONGEST_NAME = 80  # characters of a class; what is longer is a text
_SHOWN = 5  # problems that one message names
_STATS = 16  # files of one folder that are asked for one by one; more are looked for in a listing of the folder


@dataclass(frozen=True)
class Manifest:
    """A whole table, checked.

    Args:
        root: the folder that files are relative to.
        path: the table; ``root`` itself where the layout of the folder stands for one.
        columns: its column names.
        multi: label columns whose cells hold several classes, separated by "|".
        rows: at least one.
        layout: "table", or of a folder without one: "pairs" of clips and texts, or "classes", a folder each.
    """

    root: Path
    path: Path
    columns: tuple[str, ...]
    multi: tuple[str, ...]
    rows: tuple[Row, ...]
    layout: Literal["table", "pairs", "classes"] = "table"

    def where(self, split: Split) -> tuple[Row, ...]:
        """The rows of one split, in table order."""
        return tuple(row for row in self.rows if row.split == split)

    def names(self, row: Row, column: str) -> tuple[str, ...]:
        """The classes that a row has in a label column; () if it is unlabelled."""
        cell = row.labels.get(column, "")
        return tuple(cell.split(SEPARATOR)) if column in self.multi and cell else (cell,) if cell else ()

    def classes(self, column: str) -> tuple[str, ...]:
        """Every class of a label column, sorted; from all rows, so that every split has the same.

        Raises:
            DataError: there is no such label column, it is empty, or a class has spaces around it.
        """
        known = [name for name in self.columns if name not in RESERVED]
        if column not in known:
            raise DataError(f"{self.path}: no label column {column!r}{suggest(column, known)}; it has {joined(known)}")
        found = {name for row in self.rows for name in self.names(row, column)}
        if not found:
            raise DataError(f"{self.path}: label column {column!r} is empty, expected at least one label")
        spaced = sorted(name for name in found if name != name.strip())
        if spaced:
            raise DataError(f"{self.path}: {column} has the class {spaced[0]!r}, expected no spaces around it")
        return tuple(sorted(found))


@no_collector()
def load(
    root: str | Path, *, manifest: str | Path | None = None, multi: Sequence[str] | None = (), whole: bool = True
) -> Manifest:
    """Reads and checks the table of a folder, or a folder without one whose layout says what its clips are.

    Args:
        root: the folder.
        manifest: the table, relative to ``root`` or absolute; None looks for metadata.csv, .jsonl or .parquet, then for
            texts beside clips (a.mp4 and a.txt) or class folders (wave/a.mp4), in folders train, val and test or not.
        multi: label columns whose cells hold several classes, separated by "|" (or lists, in jsonl and parquet); None is
            those with lists.
        whole: whether it is to be learned from: every column of ``multi`` and every file has to be there, and no group in two splits.

    Raises:
        DataError: with every problem's row, up to five of them.
    """
    root = Path(root)
    path = find(root, manifest)
    raw = read(path)
    multi = raw.lists() if multi is None else multi
    multi = multi if whole else [name for name in multi if name in raw.columns]
    check_columns(path, raw.columns, multi)
    if not raw.cells[0]:
        raise DataError(f"{path}: no rows, expected at least one")
    problems: list[str] = []
    rows = _checked(raw, multi, problems)
    problems += _missing(root, rows, bool(problems)) if whole else []
    if not problems:
        problems += _leaks(rows) if whole else []
    if problems:
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(problems[:_SHOWN]) + more)
    return Manifest(root, path, raw.columns, tuple(multi), rows, raw.layout)


def is_classes(manifest: Manifest, column: str) -> bool:
    """Whether a column looks like one of classes: names that come again, neither texts nor numbers of a scale."""
    names = Counter(name for row in manifest.rows for name in manifest.names(row, column))
    if not 0 < len(names) <= min(_MOST_CLASSES, max(2, names.total() // 2)):
        return False
    return max(map(len, names)) <= _LONGEST_NAME and not any("." in n and as_number(n) is not None for n in names)


def open_source(source: Path) -> Manifest:
    """The table of a folder, or a table by itself, to look at: files may be missing, and columns with lists hold several
    classes.
    """
    root, name = located(source)
    return load(root, manifest=name, multi=None, whole=False)


def located(source: Path) -> tuple[Path, str | None]:
    """The folder that files are in, and the name of the table there: None where ``source`` is that folder."""
    return (source.parent, source.name) if source.is_file() else (source, None)


def _checked(raw: Raw, multi: Sequence[str], problems: list[str]) -> tuple[Row, ...]:
    """All rows; what is wrong with them is added to ``problems``."""
    rows = by_column.all_legal(raw.columns, raw.cells, multi)
    if rows is not None:
        return rows
    return tuple(check_row(number, cells, multi, problems) for number, cells in enumerate(raw.rows(), 1))


def numbers(manifest: Manifest, column: str) -> dict[int, float]:
    """Row number -> what stands in a column of numbers; a row whose cell is empty has none.

    Raises:
        DataError: there is no such column, it is empty, or a cell is no finite number.
    """
    known = [name for name in manifest.columns if name not in RESERVED]
    if column not in known:
        raise DataError(f"{manifest.path}: no column {column!r}{suggest(column, known)}; it has {joined(known)}")
    found = {}
    for row in manifest.rows:
        if cell := row.labels.get(column, ""):
            value = as_number(cell)
            if value is None:
                raise DataError(f"{manifest.path}: row {row.number}: {column} {cell!r}, expected a finite number")
            found[row.number] = value
    if not found:
        raise DataError(f"{manifest.path}: column {column!r} is empty, expected at least one number")
    return found


def _missing(root: Path, rows: Iterable[Row], flawed: bool) -> list[str]:
    files = [file for file in dict.fromkeys(row.file for row in rows) if file and not is_elsewhere(file)]
    files = [file for file in files if not escapes(file)] if flawed else files
    missing = absent(root, files)
    if not missing:
        return []
    more = ", ..." if len(missing) > _SHOWN else ""
    return [f"{len(missing)} of {len(files)} files are not in {root}: {joined(missing[:_SHOWN])}{more}"]


def absent(root: Path, files: Sequence[str]) -> list[str]:
    """Those of ``files`` that are not under ``root``, in their order; a folder with many of them is listed once."""
    folders: dict[str, dict[str, str]] = {}
    for file in files:
        folder, _, name = file.rpartition("/")
        folders.setdefault(folder, {})[name] = file
    unseen: set[str] = set()
    for folder, inside in folders.items():
        names = set(inside)
        if len(inside) > _STATS and (root / folder).is_dir():
            with os.scandir(root / folder) as entries:
                names -= {entry.name for entry in entries if entry.is_file()}
        unseen.update(inside[name] for name in names)
    # a folder of pictures is a clip, too, and a disk may know a file by more names than the one that it lists
    gone = {file for file in unseen if not _exists(root / file)}
    return [file for file in files if file in gone] if gone else []


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise DataError(f"{path}: can't be looked for ({error.strerror or error})") from error


def _leaks(rows: Iterable[Row]) -> list[str]:
    """Groups that the table itself puts in two splits."""
    places: dict[str, set[str]] = {}
    for row in rows:
        if row.group and row.split:
            places.setdefault(row.group, set()).add(row.split)
    return [
        f"group {group!r} is in {joined([s for s in SPLITS if s in splits])}, expected one split for a whole group"
        for group, splits in places.items()
        if len(splits) > 1
    ]
