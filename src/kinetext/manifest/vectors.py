"""Precomputed vectors of the rows of a table: files that cells name, or one array for all rows."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from pyarrow import ArrowException
from torch import Tensor

from kinetext.manifest.rows import RESERVED, Row, escapes
from kinetext.manifest.table import Manifest
from kinetext.types import DataError, joined

SUFFIXES = (".npy", ".npz", ".parquet")


class Vectors:
    """The vectors ``(L, D)`` of every row; a row may have none.

    Args:
        table: the rows.
        source: a column whose cells name files under the root, "a.npy" or "a.npz:KEY", of shape (D,) or (L, D); or one
            file for all rows, "FILE.npy", "FILE.npz:KEY" or "FILE.parquet:COLUMN", of shape (N, D) or (N, L, D).
        index: with one file: the column that holds each row's place in it, from 0; "" is the order of the table.
        field: the option that holds ``source``, for messages.

    Raises:
        DataError: no such column or file, or what it holds is no such array of finite numbers.
    """

    def __init__(self, table: Manifest, source: str, *, index: str = "", field: str = "vectors") -> None:
        self.field, self.root, self.source, self.index = field, table.root, source, index
        known = [name for name in table.columns if name not in RESERVED]
        if index and index not in known:
            raise DataError(f"{field}: {table.path} has no column {index!r}; it has {joined(known)}")
        name = source.partition(":")[0]
        self.whole: np.ndarray[Any, Any] | None = None
        if source in known and index:
            raise DataError(f"{field}: {source!r} is a column of files, which has no use for vectors_row = {index!r}")
        if source not in known:
            if not name.endswith(SUFFIXES):
                raise DataError(
                    f"{field}: {source!r} is neither a column ({joined(known)}) nor a name that ends in {joined(SUFFIXES)}"
                )
            self.whole = self._array(source)
            if self.whole.ndim not in (2, 3):
                raise DataError(f"{field}: {source} has shape {self.whole.shape}, expected (N, D) or (N, L, D)")
            if not index and len(self.whole) != len(table.rows):
                raise DataError(
                    f"{field}: {source} has {len(self.whole)} rows, and {table.path.name} has {len(table.rows)}"
                )
        first = next((one for row in table.rows if (one := self._of(row)) is not None), None)
        if first is None:
            raise DataError(f"{field}: no row of {table.path} has vectors in {source!r}")
        self.dim = first.shape[1]

    def of(self, row: Row) -> Tensor | None:
        """``(L, D)`` float32 of a row, or None where its cell is empty.

        Raises:
            DataError: naming the row.
        """
        found = self._of(row)
        if found is not None and found.shape[1] != self.dim:
            raise DataError(
                f"{self.field}, row {row.number}: vectors of width {found.shape[1]}, expected {self.dim}, that of the first"
            )
        return found

    def files(self, table: Manifest) -> list[str]:
        """The files that hold the vectors of a table's rows, relative to its root."""
        named = [row.labels.get(self.source, "") for row in table.rows] if self.whole is None else [self.source]
        return list(dict.fromkeys(name.partition(":")[0] for name in named if name))

    def _of(self, row: Row) -> Tensor | None:
        where = f"{self.field}, row {row.number}"
        if self.whole is None:
            cell = row.labels.get(self.source, "")
            if wrong := escapes(cell):
                raise DataError(f"{where}: {wrong[0].replace('file_name', self.source)}")
            return _checked(where, self._array(cell)) if cell else None
        if not self.index:
            return _checked(where, self.whole[row.number - 1])
        cell = row.labels.get(self.index, "")
        if not cell:
            return None
        place = int(cell) if cell.isascii() and cell.isdigit() else -1
        if not 0 <= place < len(self.whole):
            raise DataError(f"{where}: {self.index} is {cell!r}, expected 0 to {len(self.whole) - 1}")
        return _checked(where, self.whole[place])

    def _array(self, source: str) -> np.ndarray[Any, Any]:
        name, _, key = source.partition(":")
        path = self.root / name
        if not path.is_file():
            raise DataError(f"{self.field}: no file {str(path)!r}")
        try:
            if path.suffix == ".npy":
                return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as arrays:
                    return np.asarray(arrays[self._key(path, key, list(arrays))])
            if path.suffix == ".parquet":
                table = pyarrow.parquet.ParquetFile(path).read()
                return np.array(table.column(self._key(path, key, table.column_names)).to_pylist(), dtype=np.float32)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, ArrowException) as error:
            raise DataError(f"{self.field}: {path} can't be read as an array ({error})") from error
        raise DataError(f"{self.field}: {name!r}, expected a name that ends in {joined(SUFFIXES)}")

    def _key(self, path: Path, key: str, known: list[str]) -> str:
        if not key and len(known) == 1:
            return known[0]
        if key not in known:
            raise DataError(f"{self.field}: {path} has no {key!r}; it has {joined(known)}: name one after a colon")
        return key


def _checked(where: str, array: np.ndarray[Any, Any]) -> Tensor:
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise DataError(f"{where}: an array of {array.dtype} {array.shape}, expected numbers of shape (D,) or (L, D)")
    found = torch.from_numpy(np.atleast_2d(np.array(array, dtype=np.float32)))
    if not found.isfinite().all():
        raise DataError(f"{where}: has numbers that are not finite")
    return found
