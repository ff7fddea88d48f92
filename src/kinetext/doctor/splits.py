"""Rows that must not be told apart by a split: groups, and stretches of one file."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import accumulate

from kinetext.doctor.findings import Finding, counted, found, some
from kinetext.doctor.subject import Subject
from kinetext.manifest import SPLITS, Row
from kinetext.types import joined


def check(subject: Subject) -> list[Finding]:
    """What can be said from the table alone."""
    return [*_groups(subject), *clips(subject, lambda row: row.file), *_sizes(subject)]


def _groups(subject: Subject) -> list[Finding]:
    places = _where(subject, [(row, row.group) for row in subject.rows if row.group])
    crossing = {name: rows for name, rows in places.items() if len({subject.split(row) for row in rows}) > 1}
    rows = {row.number: f"{name}, {row.split}" for name, members in crossing.items() for row in members}
    return found(
        "group-across-splits",
        "error",
        f"{counted(len(crossing), 'group is', 'groups are')} in more than one split ({some(list(map(str, crossing)))}), "
        "so that what is learned of them in training is asked for again in the test.",
        "Put each group into one split, or leave the split column out: kinetext then makes one by group.",
        rows,
    )


def clips(subject: Subject, clip_of: Callable[[Row], Hashable]) -> list[Finding]:
    """One file's clips in several splits: an error where they overlap, that is, where a clip is in both.

    Args:
        clip_of: what tells a file from others: its name, or its content.
    """
    places = _where(subject, [(row, key) for row in subject.rows if (key := clip_of(row))])
    same: dict[int, str] = {}
    apart: dict[int, str] = {}
    for rows in places.values():
        if len({subject.split(row) for row in rows}) < 2:
            continue
        for split in SPLITS:
            mine = [row for row in rows if subject.split(row) == split]
            hit = meeting(mine, [row for row in rows if subject.split(row) != split])
            for row in mine:
                (same if row.number in hit else apart)[row.number] = f"{row.file}, {row.split}"
    return [
        *found(
            "duplicate-across-splits",
            "error",
            f"{counted(len(same), 'row shows', 'rows show')} a clip that another split has, too: what is measured there was learned.",
            "Keep each clip in one split; `kinetext doctor DIR --write clean.csv` takes the copies out of the earlier one.",
            same,
        ),
        *found(
            "file-across-splits",
            "warning",
            f"{counted(len(apart), 'row is a stretch', 'rows are stretches')} of a file whose other stretches are in another split: "
            "the same people and places are learned and tested.",
            "Give all stretches of a file one group, and split by group.",
            apart,
        ),
    ]


def _where(subject: Subject, keyed: Iterable[tuple[Row, Hashable]]) -> dict[Hashable, list[Row]]:
    """Key -> its rows that are in a split."""
    places: dict[Hashable, list[Row]] = defaultdict(list)
    for row, key in keyed:
        if subject.split(row):
            places[key].append(row)
    return places


def meeting(rows: Iterable[Row], others: Sequence[Row]) -> set[int]:
    """Numbers of ``rows`` whose stretch overlaps one of ``others``, all of one file."""
    ordered = sorted(others, key=_begin)
    begins = [_begin(row) for row in ordered]
    # where the furthest of those that begin so early ends
    ends = list(accumulate((_end(row) for row in ordered), max))
    found: set[int] = set()
    for row in rows:
        earlier = bisect_left(begins, _end(row))
        if earlier and ends[earlier - 1] > _begin(row):
            found.add(row.number)
    return found


def _begin(row: Row) -> float:
    return row.start or 0.0


def _end(row: Row) -> float:
    return math.inf if row.end is None else row.end


def _sizes(subject: Subject) -> list[Finding]:
    if not any(map(subject.split, subject.rows)):
        return []
    has = {split: sum(subject.split(row) == split for row in subject.rows) for split in SPLITS}
    if not has["train"] or not (has["val"] or has["test"]):
        empty = joined([split for split in SPLITS if not has[split]])
        return [
            Finding(
                "split-empty",
                "error" if not has["train"] else "note",
                f"The table has no rows of {empty}.",
                "Set data.val_share to hold out train rows by group, or fill the column split.",
            )
        ]
    return []
