"""A table as it is: every row that can be made out, and what is wrong with each, where ``load`` would refuse the whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinetext.manifest.reading import Raw, check_columns, check_once, find, read
from kinetext.manifest.rows import cell, check_row, is_empty
from kinetext.manifest.table import Manifest
from kinetext.types import DataError


@dataclass(frozen=True)
class Examined:
    """A table that may be broken.

    Args:
        table: all rows; cells that can't be read are empty. Files may be missing, and groups may cross splits.
        cells: column -> cell of every row, as a csv holds it; "" where there is none.
        problems: row number -> what is wrong with the row on its own; ``load`` refuses a table with any.
    """

    table: Manifest
    cells: tuple[Mapping[str, str], ...]
    problems: Mapping[int, str]


def examine(root: str | Path, *, manifest: str | Path | None = None, multi: Sequence[str] = ()) -> Examined:
    """Reads a table row by row, and says what is wrong instead of refusing it.

    Args:
        root, manifest: as of ``load``.
        multi: as of ``load``, besides columns with lists; those that are not there are left out.

    Raises:
        DataError: there is no table, or it can't be read as one at all.
    """
    root = Path(root)
    path = find(root, manifest)
    ragged: dict[int, str] = {}
    raw = _lenient(path, ragged) if path.suffix == ".csv" else read(path)
    multi = tuple(dict.fromkeys([*(name for name in multi if name in raw.columns), *raw.lists()]))
    check_columns(path, raw.columns, multi)
    if not raw.cells[0]:
        raise DataError(f"{path}: no rows, expected at least one")
    rows, problems = [], dict(ragged)
    for number, cells in enumerate(raw.rows(), 1):
        said: list[str] = []
        rows.append(check_row(number, cells, multi, said))
        if said:
            problems.setdefault(number, "; ".join(one.removeprefix(f"row {number}: ") for one in said))
    written = tuple({name: _written(name, value, multi) for name, value in cells.items()} for cells in raw.rows())
    table = Manifest(root, path, raw.columns, multi, tuple(rows), raw.layout)
    return Examined(table, written, problems)


def _lenient(path: Path, ragged: dict[int, str]) -> Raw:
    """A csv whose rows may have more or fewer cells than its header, which are noted in ``ragged``."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except (OSError, UnicodeDecodeError, csv.Error):
        return read(path)  # which says what is wrong
    header, *rest = lines or [[]]
    for number, line in enumerate(rest, 1):
        if len(line) != len(header):
            ragged[number] = f"{len(line)} cells, expected the header's {len(header)}"
    if not ragged or "\0" in text:
        return read(path)
    check_once(path, header)
    padded = [(line + [""] * len(header))[: len(header)] for line in rest]
    return Raw(tuple(header), tuple(zip(*padded, strict=True)))


def _written(name: str, value: object, multi: Sequence[str]) -> str:
    return cell(name, value, multi, []) or ("" if is_empty(value) or value == [] else str(value))
