"""Ways to divide a table into train, val and test that are asked for: by group, stratified, by time, by hash.

Whatever the way, rows of one group, and rows of one file, stay together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate

from kinetext.manifest.rows import RESERVED, SPLITS, Row, Split, as_number
from kinetext.manifest.splits import by_size, check_fractions, groups, own_group
from kinetext.manifest.table import Manifest
from kinetext.runtime import seed_of
from kinetext.types import DataError, joined, suggest

BYS = ("group", "time", "hash")
Fractions = tuple[float, float, float]


def divide(
    manifest: Manifest, by: str, fractions: Fractions, *, seed: int = 0, stratify: str = "", time: str = ""
) -> list[Split]:
    """A split for every row, whatever splits the table has.

    Args:
        by: "group": as near to ``fractions`` as groups allow; "time": the oldest rows to train, the newest to test, a
            group by its newest row, rows of one time never divided; "hash": by the group's name and ``seed`` alone, so
            that rows which are added move no other, unless they change what belongs together (``stable_names``).
        fractions: of the rows, for train, val and test; they sum to 1, and 0 leaves a split out.
        seed: of ties by group, and of hashes.
        stratify: with "group", a label column whose classes have about the same share in every split.
        time: with "time", the column: numbers, or dates as of ISO 8601, those without a zone in UTC.

    Raises:
        DataError: an option that is not legal, a time that is none, or too few groups or times.
    """
    if by not in BYS:
        raise DataError(f"by: {by!r}, expected one of {joined(BYS)}")
    check_fractions(fractions)
    if stratify and by != "group":
        raise DataError(f"stratify: {stratify!r}, but a split by {by} has no choice; expected it with by group")
    if bool(time) != (by == "time"):
        raise DataError(f"time: {time!r}, expected a column with by time, and none with by {joined(BYS[::2])}")
    if by == "hash":
        return _by_hash(manifest, fractions, seed)
    if by == "time":
        return _by_time(manifest, fractions, time)
    return _stratified(manifest, fractions, seed, stratify) if stratify else by_size(manifest, seed, fractions)


def _wanted(fractions: Fractions) -> dict[Split, float]:
    return {split: part for split, part in zip(SPLITS, fractions, strict=True) if part > 0}


def _stratified(manifest: Manifest, fractions: Fractions, seed: int, column: str) -> list[Split]:
    """Largest groups first, each to the split where the sum over splits and classes of count^2 / expected count grows
    least: as in a chi-squared test, that sum is smallest where every split has its part of every class. All rows together
    count as one class more, and so do those without a label.
    """
    manifest.classes(column)
    names = groups(manifest.rows)
    held: dict[str, Counter[str | None]] = {}
    for row, name in zip(manifest.rows, names, strict=True):
        held.setdefault(name, Counter()).update([None, *(manifest.names(row, column) or ("",))])
    wanted = _wanted(fractions)
    if len(held) < len(wanted):
        raise DataError(f"{manifest.path}: {len(held)} groups can't be divided into {joined(list(wanted))}; add groups")
    totals: Counter[str | None] = Counter()
    for counts in held.values():
        totals.update(counts)
    filled: dict[Split, Counter[str | None]] = {split: Counter() for split in wanted}

    def growth(split: Split, counts: Mapping[str | None, int]) -> float:
        there, part = filled[split], wanted[split]
        return sum((2 * there[name] * n + n * n) / (part * totals[name]) for name, n in counts.items())

    chosen: dict[str, Split] = {}
    order = sorted(held, key=lambda name: (-held[name][None], seed_of(seed, "split", name)))
    for left, name in zip(range(len(order), 0, -1), order, strict=True):
        empty = [split for split in wanted if not filled[split]]
        legal = empty if left == len(empty) else list(wanted)  # no split stays empty
        chosen[name] = min(legal, key=lambda split: growth(split, held[name]))
        filled[chosen[name]].update(held[name])
    return [chosen[name] for name in names]


def _by_hash(manifest: Manifest, fractions: Fractions, seed: int) -> list[Split]:
    names = stable_names(manifest.rows)
    wanted = _wanted(fractions)
    ends = list(zip(accumulate(wanted.values()), wanted, strict=True))
    last = ends[-1][1]
    place = {
        name: next((split for end, split in ends if seed_of(seed, "hash", name) < end * 2**63), last)
        for name in set(names)
    }
    empty = [split for split in wanted if split not in place.values()]
    if empty:
        raise DataError(
            f"{manifest.path}: no group of {len(place)} falls into {joined(empty)}; add groups, choose another seed, or "
            "by group"
        )
    return [place[name] for name in names]


def stable_names(rows: Sequence[Row]) -> list[str]:
    """A name for each row that it shares with all rows it must stay with: that of its group, else of its file, else its text.

    Where files bind several groups together, it is the first of their names. Rows that are added change it only where
    they bind groups together, or give a file without a group its first.
    """
    together = groups(rows)
    best: dict[str, tuple[bool, str]] = {}
    for row, name in zip(rows, together, strict=True):
        own = (not row.group, own_group(row))
        best[name] = min(own, best.get(name, own))
    return [best[name][1] for name in together]


def _by_time(manifest: Manifest, fractions: Fractions, column: str) -> list[Split]:
    times = _times(manifest, column)
    names = groups(manifest.rows)
    newest: dict[str, float] = {}
    for time, name in zip(times, names, strict=True):
        newest[name] = max(time, newest.get(name, time))
    rows = Counter(newest[name] for name in names)
    order = sorted(rows)
    wanted = _wanted(fractions)
    if len(order) < len(wanted):
        raise DataError(
            f"{manifest.path}: {len(order)} different times in {column!r} can't be divided into {joined(list(wanted))}"
        )
    older = [0, *accumulate(rows[time] for time in order)]  # rows before every possible cut
    place: dict[float, Split] = {}
    begin = 0
    for number, (split, end) in enumerate(zip(wanted, accumulate(wanted.values()), strict=True), 1):
        most = len(order) - (len(wanted) - number)  # leaves a time for every split that follows
        cut = min(range(begin + 1, most + 1), key=lambda cut: abs(older[cut] - end * len(names)))
        cut = most if number == len(wanted) else cut
        place |= dict.fromkeys(order[begin:cut], split)
        begin = cut
    return [place[newest[name]] for name in names]


def _times(manifest: Manifest, column: str) -> list[float]:
    known = [name for name in manifest.columns if name not in RESERVED]
    if column not in known:
        raise DataError(
            f"time: {manifest.path} has no column {column!r}{suggest(column, known)}; it has {joined(known)}"
        )
    cells = [row.labels.get(column, "") for row in manifest.rows]
    read = as_number if all(as_number(cell) is not None for cell in cells) else _date
    found = []
    for row, cell in zip(manifest.rows, cells, strict=True):
        value = read(cell)
        if value is None:
            raise DataError(
                f"{manifest.path}: row {row.number}: {column} {cell!r}, expected numbers in all rows, or dates such as "
                "2026-11-28 or 2026-11-28T08:30"
            )
        found.append(value)
    return found


def _date(cell: str) -> float | None:
    try:
        value = datetime.fromisoformat(cell)
    except ValueError:
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
