"""Tar shards that others made: found by pattern, fetched where they are elsewhere, and indexed once."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from kinetext.manifest.fetching import fetch
from kinetext.manifest.packed import INDEX, ROWS, Index, write_index, write_rows
from kinetext.manifest.rows import Split, cell, check_row, is_elsewhere
from kinetext.manifest.table import Manifest, load
from kinetext.manifest.tars import Piece, Pieces, pieces
from kinetext.runtime import cache_folder
from kinetext.types import DataError, joined

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_OWN = ("file_name", "start", "end")  # the clip of a sample is a whole member of its tar
_VERSION = 2  # of what stands in an index


def indexed(
    patterns: Mapping[Split, str], multi: Sequence[str], suffixes: Sequence[str]
) -> tuple[Manifest, Index, list[Path]]:
    """The samples of tars, where they are, and the tars; remembered in the cache until a tar changes.

    Args:
        patterns: of the tars of a split, with "{000..009}", "{a,b}", "*", "?" or "[...]", local or URLs. Where only those of
            train are given, a column "split" in their samples says which split they belong to.
        multi: label columns whose cells hold several classes.
        suffixes: of members that are clips, such as ".mp4".

    Raises:
        DataError: there are none, or one can't be fetched or read.
    """
    given = {split: expanded(pattern) for split, pattern in patterns.items() if pattern}
    tars = [tar for found in given.values() for tar in found]
    if not tars:
        raise DataError("root: '', expected a folder that `kinetext data pack` made, or tars")
    splits = [split for split, found in given.items() for _ in found] if len(given) > 1 else [""] * len(tars)
    names, paths = _names(tars), list(_fetched(tars))
    state = [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns, split, name]
        for path, split, name in zip(paths, splits, names, strict=True)
    ]
    folder = (
        cache_folder() / "shards" / hashlib.sha256(json.dumps([_VERSION, *suffixes, *state]).encode()).hexdigest()[:24]
    )
    try:
        if not (folder / INDEX).is_file():  # written last
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, paths, names, splits, suffixes)
    except OSError as error:
        raise DataError(
            f"{folder}: can't be written ({error}); set KINETEXT_CACHE to a folder with room for the index of shards"
        ) from error
    return load(folder, manifest=ROWS, multi=multi, whole=False), Index.read(folder / INDEX), paths


def expanded(pattern: str) -> list[str]:
    """The paths or URLs that a pattern names: braces multiply, then wildcards find local files, in the order of their names.

    Raises:
        DataError: a brace that is not closed, or no such file.

    Example:
        >>> expanded("https://x.org/{a,b}-{08..10}.tar")[:4]
        ['https://x.org/a-08.tar', 'https://x.org/a-09.tar', 'https://x.org/a-10.tar', 'https://x.org/b-08.tar']
    """
    plain = _BRACES.split(pattern)  # texts and what stands in braces, in turn
    if any(brace in text for text in plain[::2] for brace in "{}"):
        raise DataError(f"root: {pattern!r} has braces that don't fit, expected such as {{000000..000009}} or {{a,b}}")
    named = ["".join(parts) for parts in product(*(_choices(p) if at % 2 else [p] for at, p in enumerate(plain)))]
    found = [path for name in named for path in ([name] if is_elsewhere(name) else sorted(glob.glob(name)))]
    missing = [name for name in named if not is_elsewhere(name) and not glob.glob(name)]
    if missing:
        folder = Path(missing[0])
        hint = "; a pack that was interrupted goes on with the same `kinetext data pack`" if folder.is_dir() else ""
        raise DataError(f"root: no tar {missing[0]!r}{hint}")
    folders = [path for path in found if Path(path).is_dir()]
    if folders:
        raise DataError(
            f"root: {folders[0]!r} is a folder without pack.json, expected one that `kinetext data pack` made (if it was "
            'interrupted, run it again), or tars, such as "data-{000000..000009}.tar"'
        )
    return found


def _choices(inside: str) -> list[str]:
    bounds = _RANGE.fullmatch(inside)
    if not bounds:
        return inside.split(",")
    low, high = bounds.groups()
    if int(low) > int(high):
        raise DataError(f"root: {{{inside}}} names no tar, expected the lower number first")
    return [f"{number:0{len(low)}}" for number in range(int(low), int(high) + 1)]


def _names(tars: Sequence[str]) -> list[str]:
    """What tells the tars from each other, as samples are called: their paths below the folder that all of them are in."""
    plain = [re.split(r"[?#]", tar)[0] if is_elsewhere(tar) else os.path.abspath(tar) for tar in tars]
    told = plain if len(set(plain)) == len(set(tars)) else tars  # some servers tell files by what stands behind "?"
    paths = [tar.replace("://", "/").lstrip("/") for tar in told]
    shared = os.path.commonpath(map(os.path.dirname, paths))
    return [path[len(shared) :].lstrip("/") for path in paths]


def _fetched(names: Sequence[str]) -> Iterator[Path]:
    """Local paths, those of what is elsewhere in the cache."""
    for name in names:
        yield fetch(name) if is_elsewhere(name) else Path(name).absolute()


def _write(
    folder: Path, paths: Sequence[Path], names: Sequence[str], splits: Sequence[str], suffixes: Sequence[str]
) -> None:
    """Indexes tars into a folder of the cache."""
    reader = Pieces(paths)
    rows: list[dict[str, str]] = []
    places: list[dict[str, Any]] = []
    for shard, path in enumerate(paths):
        for piece in pieces(path):
            row = _row(piece, reader, shard)
            if any(is_clip(name, suffixes) for name in piece.members):
                row["file_name"] = f"{names[shard]}/{piece.key}"
            elif not row.get("text"):
                has = joined(list(piece.members))
                raise DataError(f"{path}: {piece.key}: has neither a clip nor a text; its members are {has}")
            row |= {"split": splits[shard]} if splits[shard] else {}
            _check(path, piece.key, row)
            rows.append(row)
            places.append(
                {"key": piece.key, "shard": shard, "start": piece.start, "size": piece.size}
                | dict.fromkeys(("crc32", "frames", "source_frames", "seconds"), -1)
            )
    if not rows:
        raise DataError(f"{paths[0]}: no samples in it")
    whole = [at for at, row in enumerate(rows) if "split" in row]
    if 0 < len(whole) < len(rows):
        at = next(at for at, row in enumerate(rows) if "split" not in row)
        raise DataError(f"{paths[places[at]['shard']]}: {places[at]['key']}: has no split, and other samples have one")
    write_rows(folder / ROWS, rows)
    write_index(folder / INDEX, places)


def _check(path: Path, key: str, row: Mapping[str, str]) -> None:
    """Refuses what a table would refuse of a sample by itself, in words that say where it is."""
    problems: list[str] = []
    check_row(0, row, (), problems)
    if problems:
        raise DataError(f"{path}: {key}: {problems[0].removeprefix('row 0: ')}")


def _row(piece: Piece, reader: Pieces, shard: int) -> dict[str, str]:
    """What the small members of a sample say."""

    def text_of(name: str) -> str:
        try:
            return reader.read(shard, *piece.members[name]).decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{reader.paths[shard]}: {piece.key}.{name} is not UTF-8") from error

    row: dict[str, str] = {}
    if "json" in piece.members:
        try:
            said = json.loads(text_of("json"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{reader.paths[shard]}: {piece.key}.json is not JSON ({error})") from error
        cells = {name: _cell(name, value) for name, value in said.items()} if isinstance(said, dict) else {}
        row = {name: text for name, text in cells.items() if text and name not in _OWN}
    row |= {"text": text_of("txt")} if "txt" in piece.members else {}
    row |= {"cls": text_of("cls").strip()} if "cls" in piece.members else {}
    return row


def is_clip(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a member, by what follows its key, is a clip or a frame of one."""
    return name == "npy" or f".{name.rpartition('.')[2]}" in suffixes


def _cell(name: str, value: object) -> str:
    """A value of a JSON object as a cell; "" where it can't be one: not every column is for us."""
    return cell(name, value, (name,) if isinstance(value, list) else (), [])
