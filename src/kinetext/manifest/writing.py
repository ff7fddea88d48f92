"""Writing a table: csv, jsonl or parquet, whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import pyarrow
import pyarrow.parquet
from pyarrow import ArrowException

from kinetext.manifest.reading import Raw
from kinetext.manifest.rows import cell, is_empty
from kinetext.runtime import whole_file
from kinetext.types import DataError, joined

KINDS = (".csv", ".jsonl", ".parquet")


def check_new(path: Path, option: str = "out", suffixes: Sequence[str] = KINDS) -> None:
    """Refuses a file that can't be written, before the work is done.

    Args:
        path: of the file.
        option: that names it, for messages.
        suffixes: what its name may end in.

    Raises:
        DataError: its name says no kind, its folder is not there, or there is a file of that name already.
    """
    if path.suffix not in suffixes:
        raise DataError(f"{option}: {path}, expected a name that ends in {joined(suffixes)}")
    if not path.parent.is_dir():
        raise DataError(f"{option}: there is no folder {path.parent}")
    if path.exists():
        raise DataError(f"{option}: {path} is there already; choose another name")


def write(path: Path, table: Raw) -> None:
    """Writes a new table of raw cells; the kind is what its name ends in.

    Raises:
        DataError: as of ``check_new``, or the disk is full.
    """
    check_new(path)
    try:
        with whole_file(path) as temporary:
            if path.suffix == ".csv":
                _csv(temporary, table)
            elif path.suffix == ".jsonl":
                _jsonl(temporary, table)
            else:
                columns = {name: list(cells) for name, cells in zip(table.columns, table.cells, strict=True)}
                pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
    except (OSError, TypeError, ValueError, ArrowException) as error:
        raise DataError(f"{path}: can't be written ({error})") from error


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes a csv that reads back as it was; every csv that kinetext writes is written here.

    Args:
        path: of the caller's ``whole_file``.
        columns: the header.
        rows: cells in the order of ``columns``; None becomes an empty one.

    Raises:
        OSError: it can't be written.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(_Lines(file))
        table.writerow(columns)
        table.writerows(rows)


class _Lines:
    """Ends lines with a line feed alone. Told to do so itself, the csv writer of Python 3.11 leaves a carriage return in a
    cell without quotes, and no reader takes that for one cell.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, line: str) -> int:
        """Takes a line that ends in carriage return and line feed."""
        return self.file.write(line[:-2] + "\n")


def _csv(path: Path, table: Raw) -> None:
    columns = [
        [as_text(name, value) for value in cells] for name, cells in zip(table.columns, table.cells, strict=True)
    ]
    write_csv(path, table.columns, zip(*columns, strict=True))


def _jsonl(path: Path, table: Raw) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in table.rows():
            there = {name: value for name, value in row.items() if not is_empty(value)}
            file.write(json.dumps(there, ensure_ascii=False, allow_nan=False) + "\n")


def as_text(name: str, value: object) -> str:
    """A raw cell as a csv holds it: lists of classes joined by "|".

    Raises:
        TypeError: a csv can't hold it.
    """
    found: list[str] = []
    text = cell(name, value, (name,) if isinstance(value, list) else (), found)
    if found:
        raise TypeError(found[0])
    return text


def with_column(table: Raw, name: str, cells: Sequence[object]) -> Raw:
    """The table with a column put in, or in the place of the one of that name."""
    columns = dict(zip(table.columns, table.cells, strict=True)) | {name: cells}
    return Raw(tuple(columns), tuple(columns.values()))
