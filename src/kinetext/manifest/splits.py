"""Train, val and test without leaks: made once, written beside the table, read back ever after."""

from __future__ import annotations

import csv
import errno
import heapq
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from kinetext.manifest.reading import no_collector
from kinetext.manifest.rows import SPLITS, Row, Split, plain
from kinetext.manifest.table import Manifest
from kinetext.manifest.writing import write_csv
from kinetext.runtime import seed_of, whole_file
from kinetext.types import DataError, joined

SPLIT_TABLE = "splits.csv"
FRACTIONS = (0.8, 0.1, 0.1)  # of the rows, for train, val and test, where nobody says
_HEADER = ("file_name", "row", "group", "split")


@no_collector()
def with_splits(manifest: Manifest, *, seed: int) -> Manifest:
    """The manifest with a split for every row.

    The table's own ``split`` column comes first, then the ``splits.csv`` beside the table; where there is neither, a
    split, 80 / 10 / 10, is made and written there, so that it stays. Groups are never divided; a row without one counts as
    the group of its file, or of its text. Of two runs that begin at once, both have the split of the first; but on a disk
    without hard links, such as FAT, each may have its own, and what the second wrote stays.

    Args:
        manifest: of all rows.
        seed: of the split that is made; a split that is already written down stays as it is.

    Raises:
        DataError: there are too few groups, ``splits.csv`` belongs to other rows, or it can't be written.
    """
    if "split" in manifest.columns:
        return manifest
    path = split_table(manifest)
    splits = _stored(path, manifest) if path.exists() else _store(path, manifest, by_size(manifest, seed, FRACTIONS))
    rows = tuple(row.moved(split) for row, split in zip(manifest.rows, splits, strict=True))
    return replace(manifest, rows=rows)


def with_stored_splits(manifest: Manifest) -> Manifest:
    """The manifest with the splits that stand beside its table, if there are any; none are made."""
    return with_splits(manifest, seed=0) if split_table(manifest).is_file() else manifest


def split_table(manifest: Manifest) -> Path:
    """Where the splits of a table are written down."""
    return (manifest.root if manifest.path == manifest.root else manifest.path.parent) / SPLIT_TABLE


def own_group(row: Row) -> str:
    """The name of a row's group on its own."""
    return row.group or row.file or row.text or ""


def groups(rows: Sequence[Row]) -> list[str]:
    """A name for each row that it shares with all rows it must stay with: those of its group and of its file."""
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = name = above.setdefault(above[name], above[name])  # halves the way for whoever comes next
        return name

    names = [own_group(row) for row in rows]
    for row, name in zip(rows, names, strict=True):
        if row.file:
            one, two = sorted((top(name), top(row.file)))
            above[two] = one
    return [top(name) for name in names]


def with_val(manifest: Manifest, share: float, *, seed: int) -> Manifest:
    """The manifest with ``share`` of its train rows as val, whole groups drawn by ``seed``, for a table whose own splits
    have no val.

    A group that would make val more than twice as large as asked for, or train less than half as large, stays in train. Where every
    group would, val is the smallest; one group always stays.

    Raises:
        DataError: it has val rows, or too few groups.
    """
    train = manifest.where("train")
    if manifest.where("val"):
        raise DataError(f"data.val_share: {share:g}, but {manifest.path} has val rows of its own, expected 0")
    names = dict(zip([row.number for row in train], groups(train), strict=True))
    sizes = Counter(names.values())
    if len(sizes) < 2:
        raise DataError(
            f"data.val_share: {share:g}, and {manifest.path} has {len(sizes)} groups to train on; add groups"
        )
    order = sorted(sizes, key=lambda group: seed_of(seed, "val", group))
    wanted, rows = share * len(train), 0
    most = min(2 * wanted, (wanted + len(train)) / 2)
    drawn: set[str] = set()
    for group in order:
        if rows >= wanted or len(drawn) == len(sizes) - 1:
            break
        if rows + sizes[group] <= most:
            drawn.add(group)
            rows += sizes[group]
    drawn = drawn or {min(order, key=lambda group: sizes[group])}
    return replace(manifest, rows=tuple(r.moved("val") if names.get(r.number) in drawn else r for r in manifest.rows))


def with_fold(manifest: Manifest, fold: int, folds: int, *, seed: int) -> Manifest:
    """The manifest with the rows of one fold as val and all others as train; what the table says of splits is not
    looked at.

    Groups are never divided. They go to the folds largest first, ties in an order drawn by ``seed``, each to the fold
    with the fewest rows; with as many folds as groups every fold is one group (leave one group out).

    Args:
        fold: which is held out, from 0.
        folds: how many there are, 2 to the number of groups.

    Raises:
        DataError: there is no such fold, or there are too few groups.
    """
    names = groups(manifest.rows)
    sizes = Counter(names)
    if not 2 <= folds <= len(sizes):
        raise DataError(f"data.folds: {folds}, expected 2 to {len(sizes)}, the groups of {manifest.path}")
    if not 0 <= fold < folds:
        raise DataError(f"data.fold: {fold}, expected 0 to {folds - 1}")
    filled = [(0, number) for number in range(folds)]
    place: dict[str, int] = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], seed_of(seed, "fold", group))):
        rows, place[group] = filled[0]
        heapq.heapreplace(filled, (rows + sizes[group], place[group]))
    splits: list[Split] = ["val" if place[name] == fold else "train" for name in names]
    return replace(manifest, rows=tuple(r.moved(s) for r, s in zip(manifest.rows, splits, strict=True)))


def check_fractions(fractions: Sequence[float]) -> None:
    """Refuses fractions that are not three that sum to 1."""
    if len(fractions) != len(SPLITS) or not abs(sum(fractions) - 1) < 1e-6 or min(fractions) < 0:
        raise DataError(f"fractions: {joined(fractions)}, expected three numbers, 0 or more, that sum to 1")


def by_size(manifest: Manifest, seed: int, fractions: tuple[float, float, float]) -> list[Split]:
    """Largest groups first, ties in an order drawn by ``seed``, each to the split that lacks most rows.

    The result depends on the groups and their sizes only, not on labels or on the order of rows.

    Raises:
        DataError: too few groups, or fractions that do not sum to 1.
    """
    check_fractions(fractions)
    names = groups(manifest.rows)
    sizes = Counter(names)
    lacks = {split: part * len(manifest.rows) for split, part in zip(SPLITS, fractions, strict=True) if part > 0}
    if len(sizes) < len(lacks):
        raise DataError(
            f"{manifest.path}: {len(sizes)} groups can't be divided into {joined(list(lacks))}; "
            "add groups, or a split column of your own"
        )
    order = sorted(sizes, key=lambda group: (-sizes[group], seed_of(seed, "split", group)))
    chosen: dict[str, Split] = {}
    empty = list(lacks)
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        split = max(empty if left == len(empty) else lacks, key=lambda s: lacks[s])  # no split stays empty
        chosen[group] = split
        empty = [other for other in empty if other != split]
        lacks[split] -= sizes[group]
    return [chosen[name] for name in names]


def _store(path: Path, manifest: Manifest, splits: list[Split]) -> list[Split]:
    """Writes splits down, unless another run was first.

    Returns:
        What is written down.
    """
    try:
        if not path.parent.stat().st_mode & 0o222:  # root may write there all the same; it was not meant to
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        with whole_file(path) as temporary:
            lines = ((*_name(row), split) for row, split in zip(manifest.rows, splits, strict=True))
            write_csv(temporary, _HEADER, lines)
            _publish(temporary, path)
    except FileExistsError:
        return _stored(path, manifest)
    except OSError as error:
        name = manifest.path.name
        instead = (
            "put the clips into folders train, val and test"
            if manifest.path == manifest.root
            else f"add a split column to {name}, or copy {name} to a writable folder and name the copy in manifest"
        )
        raise DataError(
            f"{path}: the split can't be written down ({error.strerror or error}); make the folder writable, {instead}"
        ) from error
    return splits


def _publish(temporary: Path, path: Path) -> None:
    """Gives a file its name, by a FileExistsError only if nothing has it, where the disk has hard links."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        return  # no links here: ``whole_file`` then takes the name, whoever has it


def _name(row: Row) -> tuple[str, str, str]:
    return row.file or "", str(row.number), own_group(row)


def _stored(path: Path, manifest: Manifest) -> list[Split]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *lines = list(csv.reader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: can't be read ({error}); delete it to make a new split") from error
    expected = [_name(row) for row in manifest.rows]
    if tuple(header) != _HEADER or any(len(line) != len(_HEADER) or line[3] not in SPLITS for line in lines):
        raise DataError(f"{path}: expected the columns {joined(_HEADER)}; delete it to make a new split")
    found = [(plain(line[0]), line[1], plain(line[2]) if line[2] == line[0] else line[2]) for line in lines]
    if found != expected:
        changed = [e for f, e in zip(found, expected, strict=False) if f != e]
        where = f"row {changed[0][1]}" if changed else f"{len(found)} rows there, {len(expected)} here"
        raise DataError(
            f"{path}: no longer fits {manifest.path.name} (first difference: {where}); bring the old table back, or "
            f"delete {path.name} to make a new split, which is not comparable with the old one"
        )
    return [cast("Split", line[3]) for line in lines]
