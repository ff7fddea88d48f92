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
from kinetext.types import DataError, joined, suggest

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_OWN = ("file_name", "start", "end")  # the clip of a sample is a whole member of its tar
_VERSION = 2  # of what stands in an index


def indexed(
    patterns: Mapping[Split, str], multi: Sequence[str], suffixes: Sequence[str], group: str = "group"
) -> tuple[Manifest, Index, list[Path]]:
    """The samples of tars, where they are, and the tars; remembered in the cache until a tar changes.

    Args:
        patterns: of the tars of a split, with "{000..009}", "{a,b}", "*", "?" or "[...]", local or URLs. Where only those of
            train are given, a column "split" in their samples says which split they belong to.
        multi: label columns whose cells hold several classes.
        suffixes: of members that are clips, such as ".mp4".
        group: the column that says who or where a sample is from; "" for none.

    Raises:
        DataError: there are none, one can't be fetched or read, or no sample has the column ``group``.
    """
    given = {split: expanded(pattern) for split, pattern in patterns.items() if pattern}
    tars = [tar for found in given.values() for tar in found]
    if not tars:
        raise DataError("root: '', expected a folder that `kinetext data pack` made, or tars")
    splits = [split for split, found in given.items() for _ in found] if len(given) > 1 else [""] * len(tars)
    names, paths = _names(given), list(_fetched(tars))
    state = [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns, split, name]
        for path, split, name in zip(paths, splits, names, strict=True)
    ]
    told = [_VERSION, *suffixes, *([] if group == "group" else [{"group": group}]), *state]
    folder = cache_folder() / "shards" / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:24]
    try:
        if not (folder / INDEX).is_file():  # written last
            folder.mkdir(parents=True, exist_ok=True)
            _write(folder, paths, names, splits, suffixes, group)
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


def _names(given: Mapping[Split, Sequence[str]]) -> list[str]:
    """What tells tars from each other, as samples are called; one tar in two splits has one name.

    Rows are drawn by their names, so those of train must not depend on what else there is: a tar of another split that has
    the name of one before it is set apart by its split.
    """
    places = {
        split: [tar if is_elsewhere(tar) else os.path.abspath(tar) for tar in tars] for split, tars in given.items()
    }
    names: dict[str, str] = {}
    taken: set[str] = set()
    for split, tars in places.items():
        for tar, name in _told_apart(tars).items():
            if tar in names:
                continue
            while name in taken:
                name = f"{split}/{name}"
            names[tar] = name
            taken.add(name)
    return [names[tar] for tars in places.values() for tar in tars]


def _told_apart(tars: Sequence[str]) -> dict[str, str]:
    """The tars of one split by their file names; where several have one name, by their paths below the folder that all of
    those are in.
    """
    alike: dict[str, list[str]] = {}
    for tar in dict.fromkeys(tars):
        alike.setdefault(os.path.basename(_plain(tar)), []).append(tar)
    names: dict[str, str] = {}
    for name, same in alike.items():
        paths = [_plain(tar) for tar in same]
        if len(set(paths)) < len(same):  # some servers tell files by what stands behind "?"
            paths = [tar.replace("://", "/") for tar in same]
        shared = os.path.commonpath(map(os.path.dirname, paths))
        told = [path[len(shared) :].lstrip("/") for path in paths] if len(same) > 1 else [name]
        names.update(zip(same, told, strict=True))
    return names


def _plain(tar: str) -> str:
    """A tar's path, that of a URL without what stands behind "?"."""
    return (re.split(r"[?#]", tar)[0] if is_elsewhere(tar) else tar).replace("://", "/").strip("/")


def _fetched(names: Sequence[str]) -> Iterator[Path]:
    """Local paths, those of what is elsewhere in the cache."""
    for name in names:
        yield fetch(name) if is_elsewhere(name) else Path(name).absolute()


def _write(
    folder: Path,
    paths: Sequence[Path],
    names: Sequence[str],
    splits: Sequence[str],
    suffixes: Sequence[str],
    group: str,
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
    write_rows(folder / ROWS, rows if group == "group" else _grouped(paths, rows, group))
    write_index(folder / INDEX, places)


def _grouped(paths: Sequence[Path], rows: Sequence[Mapping[str, str]], group: str) -> list[dict[str, str]]:
    """The rows with another column as their group, or with none."""
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "file_name"))
    if group and group not in columns:
        tars = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        raise DataError(
            f"group: no sample of {tars} has {group!r}{suggest(group, columns)}; they have {joined(columns)}"
        )
    return [{**row, "group": row.get(group, "")} for row in rows]


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
