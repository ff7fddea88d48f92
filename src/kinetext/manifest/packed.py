"""What lies in a folder of packed shards: the tars, a table of their samples, where each of them is, and checksums."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from pyarrow import ArrowException

from kinetext.manifest.reading import PACK
from kinetext.manifest.table import Manifest, load
from kinetext.manifest.tars import Pieces
from kinetext.runtime import whole_file
from kinetext.types import DataError, Progress

ROWS, INDEX = "rows.parquet", "index.parquet"
LATENT = "latent.npy"  # the member with what a codec made of a clip
FORMAT = 1
_COLUMNS: Mapping[str, Any] = {
    "key": pyarrow.string(), "shard": pyarrow.int64(), "start": pyarrow.int64(), "size": pyarrow.int64(),
    "crc32": pyarrow.int64(), "frames": pyarrow.int64(), "source_frames": pyarrow.int64(), "seconds": pyarrow.float64(),
}  # fmt: skip


@dataclass(frozen=True)
class Index:
    """Where samples are, in the order of their table.

    Args:
        key: ``(N,)`` what the names of a sample's members begin with.
        shard: ``(N,)`` number of its tar.
        start: ``(N,)`` first byte of its piece.
        size: ``(N,)`` bytes of its piece.
        crc32: ``(N,)`` of its piece; -1 where it is not known.
        frames: ``(N,)`` stored frames of its clip, 0 without a clip; -1 where they are not known.
        source_frames: ``(N,)`` frames that the clip had before it was packed; -1 where that is not known.
        seconds: ``(N,)`` how long the clip is; -1 where that is not known.
    """

    key: tuple[str, ...]
    shard: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]
    crc32: NDArray[np.int64]
    frames: NDArray[np.int64]
    source_frames: NDArray[np.int64]
    seconds: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> Index:
        """The index in a file.

        Raises:
            DataError: it can't be read.
        """
        try:
            table = pyarrow.parquet.read_table(path, schema=pyarrow.schema(_COLUMNS))
        except (OSError, ArrowException) as error:
            raise DataError(f"{path}: can't be read ({error})") from error
        keys, *numbers = (table.column(name) for name in _COLUMNS)
        return cls(tuple(keys.to_pylist()), *(column.to_numpy() for column in numbers))


def write_index(path: Path, entries: Sequence[Mapping[str, object]]) -> None:
    """Writes what ``Index.read`` reads, of a mapping with its fields for every sample."""
    _write(path, pyarrow.Table.from_pylist(list(entries), schema=pyarrow.schema(_COLUMNS)))


def join_indices(parts: Sequence[Path], path: Path) -> None:
    """Writes what stands in the indices of shards, in their order, as one."""
    _write(path, pyarrow.concat_tables([pyarrow.parquet.read_table(part) for part in parts]))


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Writes the table of samples, of cells by column; a row may lack some."""
    columns = dict.fromkeys(["file_name", *(name for row in rows for name in row)])
    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    _write(path, pyarrow.Table.from_pylist(list(rows), schema=schema))


def _write(path: Path, table: Any) -> None:
    with whole_file(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)


@dataclass(frozen=True)
class Pack:
    """A folder of packed shards, whole.

    Args:
        folder: of all of them.
        recipe: what ``pack.json`` says: how it was made, and of every shard its name, bytes and SHA-256.
        index: where samples are.
    """

    folder: Path
    recipe: Mapping[str, Any]
    index: Index

    @classmethod
    def open(cls, folder: Path) -> Pack:
        """Reads the recipe and the index, compares both tables with their checksums, and looks for every shard.

        Raises:
            DataError: something is missing, of another length than it was, or of a later version; or a table has changed.
        """
        recipe = _recipe(folder)
        flaws = [flaw for name in (INDEX, ROWS) if (flaw := _changed(folder, name, recipe))]
        flaws += [flaw for shard in recipe["shards"] if (flaw := _cut(folder, shard))]
        if flaws:
            raise DataError(flaws[0])
        return cls(folder, recipe, Index.read(folder / INDEX))

    def paths(self) -> list[Path]:
        """The shards."""
        return [self.folder / shard["name"] for shard in self.recipe["shards"]]

    def table(self, multi: Sequence[str]) -> Manifest:
        """The rows of the samples; their files are those that were packed, which need not be there any more."""
        return load(self.folder, manifest=ROWS, multi=multi, whole=False)


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / PACK
    try:
        recipe = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read ({error}); a pack that was interrupted has none") from error
    if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
        said = recipe.get("format") if isinstance(recipe, dict) else None
        raise DataError(f"{path}: format {said!r}, expected {FORMAT}")
    return recipe


def _changed(folder: Path, table: str, recipe: Mapping[str, Any]) -> str:
    """What is wrong with the bytes of a table; "" where nothing is."""
    path = folder / table
    if not path.is_file():
        return f"{path}: is missing"
    return "" if sha256(path) == recipe["tables"][table] else f"{path}: damaged: its SHA-256 is not that of {PACK}"


def _cut(folder: Path, shard: Mapping[str, Any]) -> str:
    """What is wrong with the length of a shard; "" where nothing is."""
    path = folder / shard["name"]
    there = path.stat().st_size if path.is_file() else 0
    return "" if there == shard["bytes"] else f"{path}: {there:,} bytes are there, expected {shard['bytes']:,}"


def check_piece(piece: bytes, crc32: int) -> None:
    """Refuses, by a DataError, bytes that are not those that were packed."""
    found = zlib.crc32(piece)
    if crc32 not in (-1, found):
        raise DataError(f"damaged: the CRC-32 of its bytes is {found:08x}, expected {crc32:08x}")


def verify(folder: Path, progress: Progress | None = None) -> Iterator[str]:
    """Compares every byte with the checksums.

    Args:
        progress: called with the shards done, and all.

    Returns:
        What is wrong, in sentences that name the file and, where the index says so, the key; nothing where all is as it was
        packed.

    Raises:
        DataError: there is no recipe, or one of a later version.
    """
    recipe = _recipe(folder)
    flaws = {name: _changed(folder, name, recipe) for name in (INDEX, ROWS)}
    yield from filter(None, flaws.values())
    index = None if flaws[INDEX] else Index.read(folder / INDEX)
    pieces = Pieces([folder / shard["name"] for shard in recipe["shards"]])
    for number, shard in enumerate(recipe["shards"]):
        path = pieces.paths[number]
        if cut := _cut(folder, shard):
            yield cut
        elif sha256(path) != shard["sha256"]:
            damaged = _damaged(index, pieces, number) if index else [f"{path}: damaged"]
            yield from damaged or [f"{path}: damaged outside of its samples"]
        if progress:
            progress(number + 1, len(recipe["shards"]))


def _damaged(index: Index, pieces: Pieces, shard: int) -> list[str]:
    """The samples of a shard whose bytes are not those that were packed."""
    found = []
    for place in np.flatnonzero(index.shard == shard):
        piece = pieces.read(shard, int(index.start[place]), int(index.size[place]))
        try:
            check_piece(piece, int(index.crc32[place]))
        except DataError as error:
            found.append(f"{pieces.paths[shard]}: {index.key[place]}: {error}")
    return found


def sha256(path: Path) -> str:
    """Of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
