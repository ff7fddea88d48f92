"""Finding the table of a folder, and reading it into columns of raw cells."""

from __future__ import annotations

import csv
import gc
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet
from pyarrow import ArrowException

from kinetext.manifest import layouts
from kinetext.manifest.rows import RESERVED, is_encodable
from kinetext.types import DataError, joined, suggest

PACK = "pack.json"  # what tells a pack of shards from a folder of clips
TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class Raw:
    """What stands in a table, before it is checked.

    Args:
        columns: their names.
        cells: of every column, those of all rows; None where a row lacks one.
        layout: of a folder that is no table.
    """

    columns: tuple[str, ...]
    cells: tuple[Sequence[object], ...]
    layout: Literal["table", "pairs", "classes"] = "table"

    def lists(self) -> tuple[str, ...]:
        """The columns with lists: label columns whose cells hold several classes."""
        columns = zip(self.columns, self.cells, strict=True)
        return tuple(name for name, cells in columns if name not in RESERVED and list in map(type, cells))

    def rows(self) -> list[dict[str, object]]:
        """Column -> cell of every row."""
        return [dict(zip(self.columns, cells, strict=True)) for cells in zip(*self.cells, strict=True)]


@contextmanager
def no_collector() -> Iterator[None]:
    """Rows hold no cycles; Python's collector of cycles would look through all of them again and again while they are
    made, which takes longer than to make them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def find(root: Path, manifest: str | Path | None) -> Path:
    """The table of a folder; the folder itself where it has none, and its layout may stand for one.

    Raises:
        DataError: there is no folder, or more than one table.
    """
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
    if len(found) == 1:
        return root / found[0]
    if (root / PACK).is_file():
        raise DataError(
            f"{root}: a pack of shards; expected the folder that it was made of, or, to train, data.name=shards"
        )
    if found:
        raise DataError(f"{root}: has {joined(found)}, expected exactly one of {joined(TABLES)}")
    return root


@no_collector()
def read(path: Path) -> Raw:
    """Reads a table, or a folder whose layout stands for one.

    Raises:
        DataError: it is none.
    """
    if path.is_dir():
        laid = layouts.read(path)
        if laid is None:
            raise DataError(
                f"{path}: no table, expected exactly one of {joined(TABLES)}, or a layout without one: "
                f"{'; '.join(layouts.LAYOUTS)}"
            )
        return Raw(laid.columns, laid.cells, laid.layout)
    try:
        return _READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the table as UTF-8") from error
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: can't be read ({error})") from error


def _read_csv(path: Path) -> Raw:
    text = path.read_bytes().decode("utf-8-sig")
    if "\0" in text:
        raise DataError(f"{path}: a zero byte in it, expected text")
    try:
        header, *lines = [line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line] or [[]]
    except csv.Error as error:
        raise DataError(f"{path}: not a table ({error})") from error
    if set(map(len, lines)) - {len(header)}:
        number, line = next((n, line) for n, line in enumerate(lines, 1) if len(line) != len(header))
        raise DataError(f"{path}: row {number} has {len(line)} cells, expected the header's {len(header)}")
    check_once(path, header)
    return Raw(tuple(header), tuple(zip(*lines, strict=True)) if lines else ((),) * len(header))


def _read_jsonl(path: Path) -> Raw:
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1):
        if not line or line.isspace():
            continue
        try:
            row = _decoded(line.strip(" \t\r"), decoder)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            if line.lstrip().startswith("{"):
                check_once(path, [name for name, _ in row])
            raise DataError(f"{path}: line {number} is {line.strip()[:20]!r}, expected an object")
        if row.keys() != columns.keys():
            columns |= dict.fromkeys(row)
        rows.append(row)
    return Raw(tuple(columns), tuple([row.get(name) for row in rows] for name in columns))


def _decoded(line: str, decoder: Any) -> Any:
    """What ``decoder.decode`` makes of a line without spaces around it, without its looks for them."""
    try:
        found, end = decoder.scan_once(line, 0)
    except StopIteration:
        end = -1
    return found if end == len(line) else decoder.decode(line)  # which says what is wrong


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | list[tuple[str, Any]]:
    """What stands between braces; where a name is there twice, the pairs as they are."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else pairs


def _read_parquet(path: Path) -> Raw:
    table = pyarrow.parquet.ParquetFile(path).read()
    check_once(path, table.column_names)
    return Raw(tuple(table.column_names), tuple(_cells(column) for column in table.columns))


def _cells(column: Any) -> list[Any]:
    """The cells of an Arrow column; ``to_pylist`` is slow where NumPy can say the same."""
    if pyarrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    is_text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    is_whole = column.null_count == 0 and pyarrow.types.is_integer(kind)
    if is_text or is_whole or pyarrow.types.is_float64(kind):
        return list(column.to_numpy().tolist())
    return list(column.to_pylist())


_READERS: Mapping[str, Callable[[Path], Raw]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def check_once(path: Path, columns: Sequence[str]) -> None:
    """Refuses a table that has a column twice."""
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} is there {columns.count(twice[0])} times, expected once")


def check_columns(path: Path, columns: Sequence[str], multi: Sequence[str]) -> None:
    """Refuses a table without the columns that it needs, or with names that are not legal."""
    odd = [name for name in columns if not name or name != name.strip() or not is_encodable(name)]
    if odd:
        raise DataError(f"{path}: column name {odd[0]!r}, expected one of whole characters, without spaces around it")
    if not {"file_name", "text"} & set(columns):
        hint = suggest("file_name", columns)
        raise DataError(f"{path}: no column file_name or text{hint}; it has {joined(columns)}")
    for name in multi:
        if name not in columns or name in RESERVED:
            known = [column for column in columns if column not in RESERVED]
            raise DataError(f"multi: {path} has no label column {name!r}{suggest(name, known)}; it has {joined(known)}")
