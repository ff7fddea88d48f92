"""The table of a dataset on disk: reading and checking metadata.csv, .jsonl or .parquet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow.parquet
from pyarrow import ArrowException

from kinetext.types import DataError, joined

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
RESERVED = ("file_name", "text", "start", "end", "group", "split", "weight")
SEPARATOR = "|"  # between the classes of a multi-label cell

_SHOWN = 5  # problems that one message names
_MEANT = {"validation": "val", "valid": "val", "dev": "val", "eval": "val", "training": "train", "testing": "test"}


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        number: in the table, from 1; the header is not counted.
        file: path under the root, or None for a row of text only.
        text: or None.
        start: seconds from the first frame, >= 0, or None for the beginning.
        end: seconds, > start, or None for the end.
        group: rows of one group are never in two splits; "" where the table gives none.
        split: "" where the table gives none.
        weight: >= 0.
        labels: every other column that has a value here, as written.
    """

    number: int
    file: str | None
    text: str | None
    start: float | None
    end: float | None
    group: str
    split: Split | Literal[""]
    weight: float
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """A whole table, checked.

    Args:
        root: the folder that files are relative to.
        path: the table.
        columns: its column names.
        multi: label columns whose cells hold several classes, separated by "|".
        rows: at least one.
    """

    root: Path
    path: Path
    columns: tuple[str, ...]
    multi: tuple[str, ...]
    rows: tuple[Row, ...]

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
            raise DataError(f"{self.path}: no label column {column!r}{_near(column, known)}; it has {joined(known)}")
        found = {name for row in self.rows for name in self.names(row, column)}
        if not found:
            raise DataError(f"{self.path}: label column {column!r} is empty, expected at least one label")
        spaced = sorted(name for name in found if name != name.strip())
        if spaced:
            raise DataError(f"{self.path}: {column} has the class {spaced[0]!r}, expected no spaces around it")
        return tuple(sorted(found))


def load(
    root: str | Path, *, manifest: str | Path | None = None, multi: Sequence[str] = (), whole: bool = True
) -> Manifest:
    """Reads and checks the table of a folder.

    Args:
        root: the folder.
        manifest: the table, relative to ``root`` or absolute; None looks for metadata.csv, .jsonl or .parquet.
        multi: label columns whose cells hold several classes, separated by "|" (or lists, in jsonl and parquet).
        whole: whether it is to be learned from: every column of ``multi`` and every file has to be there.

    Raises:
        DataError: with every problem's row, up to five of them.
    """
    root = Path(root)
    path = _table(root, manifest)
    columns, cells = _read(path)
    multi = multi if whole else [name for name in multi if name in columns]
    _check_columns(path, columns, multi)
    if not cells:
        raise DataError(f"{path}: no rows, expected at least one")
    problems: list[str] = []
    blank = dict.fromkeys(columns)  # a jsonl row may lack some
    rows = [_row(number, {**blank, **row}, multi, problems) for number, row in enumerate(cells, 1)]
    problems += _missing(root, rows) if whole else []
    if not problems:
        problems += _leaks(rows)
    if problems:
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise DataError(f"{path}: " + "; ".join(problems[:_SHOWN]) + more)
    return Manifest(root, path, tuple(columns), tuple(multi), tuple(rows))


def numbers(manifest: Manifest, column: str) -> dict[int, float]:
    """Row number -> what stands in a column of numbers; a row whose cell is empty has none.

    Raises:
        DataError: there is no such column, it is empty, or a cell is no finite number.
    """
    known = [name for name in manifest.columns if name not in RESERVED]
    if column not in known:
        raise DataError(f"{manifest.path}: no column {column!r}{_near(column, known)}; it has {joined(known)}")
    found = {}
    for row in manifest.rows:
        cell = row.labels.get(column, "")
        try:
            value = float(cell or "nan")
        except ValueError:
            value = math.inf
        if math.isinf(value) or (cell and math.isnan(value)):
            raise DataError(f"{manifest.path}: row {row.number}: {column} {cell!r}, expected a finite number")
        if cell:
            found[row.number] = value
    if not found:
        raise DataError(f"{manifest.path}: column {column!r} is empty, expected at least one number")
    return found


def _table(root: Path, manifest: str | Path | None) -> Path:
    if not root.is_dir():
        raise DataError(f"root: no folder {str(root)!r}, expected one with clips and {joined(TABLES)}")
    if manifest is not None:
        path = root / manifest
        if not path.is_file():
            raise DataError(f"manifest: no file {str(path)!r}")
        if path.suffix not in _READERS:
            raise DataError(f"manifest: {path.name!r}, expected a name that ends in {joined(list(_READERS))}")
        return path
    found = [name for name in TABLES if (root / name).is_file()]
    if len(found) != 1:
        raise DataError(f"{root}: has {joined(found)}, expected exactly one of {joined(TABLES)}")
    return root / found[0]


def _read(path: Path) -> tuple[list[str], list[dict[str, object]]]:
    """Column names and rows of raw cells."""
    try:
        return _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the table as UTF-8") from error
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: can't be read ({error})") from error


def _read_csv(path: Path) -> tuple[list[str], list[dict[str, object]]]:
    text = path.read_bytes().decode("utf-8-sig")
    if "\0" in text:
        raise DataError(f"{path}: a zero byte in it, expected text")
    try:
        header, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line] or [[]]
    except csv.Error as error:
        raise DataError(f"{path}: not a table ({error})") from error
    for number, line in enumerate(lines, 1):
        if len(line) != len(header):
            raise DataError(f"{path}: row {number} has {len(line)} cells, expected the header's {len(header)}")
    _once(path, header)
    return header, [dict(zip(header, line, strict=True)) for line in lines]


def _read_jsonl(path: Path) -> tuple[list[str], list[dict[str, object]]]:
    columns: dict[str, None] = {}
    rows = []
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            pairs = json.loads(line, object_pairs_hook=list)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error})") from error
        if not line.lstrip().startswith("{"):
            raise DataError(f"{path}: line {number} is {line.strip()[:20]!r}, expected an object")
        _once(path, [name for name, _ in pairs])
        columns |= dict.fromkeys(name for name, _ in pairs)
        rows.append(dict(pairs))
    return list(columns), rows


def _read_parquet(path: Path) -> tuple[list[str], list[dict[str, object]]]:
    table = pyarrow.parquet.ParquetFile(path).read()
    _once(path, table.column_names)
    return list(table.column_names), table.to_pylist()


_READERS: Mapping[str, Callable[[Path], tuple[list[str], list[dict[str, object]]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _once(path: Path, columns: Sequence[str]) -> None:
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is there {columns.count(twice[0])} times, expected once")


def _check_columns(path: Path, columns: Sequence[str], multi: Sequence[str]) -> None:
    odd = [name for name in columns if not name or name != name.strip()]
    if odd:
        raise DataError(f"{path}: column name {odd[0]!r}, expected one without spaces around it")
    if not {"file_name", "text"} & set(columns):
        near = _near("file_name", columns)
        raise DataError(f"{path}: no column file_name or text{near}; it has {joined(columns)}")
    for name in multi:
        if name not in columns or name in RESERVED:
            known = [column for column in columns if column not in RESERVED]
            raise DataError(f"multi: {path} has no label column {name!r}{_near(name, known)}; it has {joined(known)}")


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _row(number: int, raw: Mapping[str, object], multi: Sequence[str], problems: list[str]) -> Row:
    """A row of raw cells checked on its own; what is wrong is added to ``problems``."""
    found: list[str] = []
    cells = {name: _cell(name, value, multi, found) for name, value in raw.items()}
    start, end, weight = (_number(name, cells.get(name, ""), found) for name in ("start", "end", "weight"))
    file, text, split = cells.get("file_name", ""), cells.get("text", ""), cells.get("split", "")
    if file:
        found += escapes(file)
    elif not text:
        found.append("has neither file_name nor text")
    elif start is not None or end is not None:
        found.append("has start or end, but no file_name")
    if start is not None and end is not None and start >= end:
        found.append(f"start {start:g} s, expected less than end {end:g} s")
    if "split" in cells and split not in SPLITS:
        meant = _MEANT.get(split.lower()) or next(iter(get_close_matches(split.lower(), SPLITS, 1)), "")
        hint = f" (did you mean {meant!r}?)" if meant else ""
        found.append(f"split {split!r}, expected one of {joined(SPLITS)}{hint}")
    problems += [f"row {number}: {what}" for what in found]
    labels = {name: cell for name, cell in cells.items() if cell and name not in RESERVED}
    legal: Split | Literal[""] = next((known for known in SPLITS if known == split), "")
    weight = 1.0 if weight is None else weight
    return Row(number, file or None, text or None, start, end, cells.get("group", ""), legal, weight, labels)


def _cell(name: str, value: object, multi: Sequence[str], found: list[str]) -> str:
    """A raw cell as text; "" where nothing stands in it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and name in multi and all(isinstance(v, str) and SEPARATOR not in v for v in value):
        value = SEPARATOR.join(value)
    if isinstance(value, list | dict | tuple | bytes):
        found.append(f"{name} is a {type(value).__name__}, expected text or a number")
        return ""
    text = str(value)
    if name in multi and text:
        parts = text.split(SEPARATOR)
        if "" in parts or len(set(parts)) < len(parts):
            found.append(f"{name} {text!r}, expected different classes separated by {SEPARATOR!r}")
    return text


def _number(name: str, cell: str, found: list[str]) -> float | None:
    """A number >= 0, or None where there is none."""
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if 0 <= value < math.inf:
        return value
    found.append(f"{name} {cell!r}, expected a number, 0 or more")
    return None


def escapes(file: str) -> list[str]:
    """A file outside the root is refused, also where it exists: a table must not reach into other folders."""
    depth = 0
    for part in PurePosixPath(file).parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or part == "/":
            return [f"file_name {file!r} leads out of the root, expected a path inside it"]
    return [f"file_name {file!r} has a zero byte"] if "\0" in file else []


def _missing(root: Path, rows: Iterable[Row]) -> list[str]:
    files = list(dict.fromkeys(row.file for row in rows if row.file and not escapes(row.file)))
    missing = [file for file in files if not (root / file).is_file()]
    if not missing:
        return []
    more = ", ..." if len(missing) > _SHOWN else ""
    return [f"{len(missing)} of {len(files)} files are not in {root}: {joined(missing[:_SHOWN])}{more}"]


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
