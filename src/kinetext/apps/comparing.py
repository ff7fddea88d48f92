"""What differs between two tables, and between the files that they name: kinetext data diff."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kinetext import manifest, video
from kinetext.manifest import Manifest, Row
from kinetext.types import Progress

Page = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # of a terminal: title, columns, rows


@dataclass(frozen=True)
class Changed:
    """A cell that is another: of which row, in both tables from 1, in which column, what it was and what it is."""

    row: tuple[int, int]
    what: str
    column: str
    before: str
    after: str


@dataclass(frozen=True)
class Difference:
    """What differs between table A and table B.

    Args:
        added: rows that only B has, by what they name.
        removed: rows that only A has.
        changed: cells of rows that both have, but for their split.
        moved: rows that are in another split.
        columns_added, columns_removed: by name.
        files: named by both, with other content.
        files_gone: named by both, and there in only one of the two folders.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[Changed, ...]
    moved: tuple[Changed, ...]
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    files: tuple[str, ...]
    files_gone: tuple[str, ...]

    def any(self) -> bool:
        """Whether there is any difference."""
        return any(asdict(self).values())

    def as_json(self) -> dict[str, Any]:
        """Names and lists."""
        return {**asdict(self), "moves": self.moves()}

    def moves(self) -> dict[str, int]:
        """Rows by what they moved from and to, "train -> test"."""
        return dict(Counter(f"{one.before or '(none)'} -> {one.after or '(none)'}" for one in self.moved))


def diff(a: Path, b: Path, progress: Progress | None = None) -> Difference:
    """Compares two tables, or folders; where the folders differ, also the content of files that both name.

    Rows are the same row where all is; then where file, start, end and text are; then where file and times are; then where
    the file is; the order of rows makes no difference. Splits that stand beside a table (splits.csv) count as its own.

    Args:
        a, b: folders with a table, or by their layout; or tables.
        progress: of files that are compared.

    Raises:
        DataError: one of them can't be read.
    """
    one, two = (manifest.with_stored_splits(manifest.open_source(source)) for source in (a, b))
    pairs, removed, added = _matched(one.rows, two.rows)
    cells = [cell for before, after in pairs for cell in _cells(before, after)]
    content, gone = _files(one, two, progress)
    return Difference(
        added=tuple(map(_what, added)),
        removed=tuple(map(_what, removed)),
        changed=tuple(cell for cell in cells if cell.column != "split"),
        moved=tuple(cell for cell in cells if cell.column == "split"),
        columns_added=tuple(name for name in two.columns if name not in one.columns),
        columns_removed=tuple(name for name in one.columns if name not in two.columns),
        files=content,
        files_gone=gone,
    )


_KEYS: tuple[Callable[[Row], Hashable], ...] = (
    lambda row: (
        row.file,
        row.start,
        row.end,
        row.text,
        row.group,
        row.split,
        row.weight,
        frozenset(row.labels.items()),
    ),
    lambda row: (row.file, row.start, row.end, row.text),
    lambda row: row.file and (row.file, row.start, row.end),
    lambda row: row.file,
)


def _matched(ours: Sequence[Row], theirs: Sequence[Row]) -> tuple[list[tuple[Row, Row]], Sequence[Row], Sequence[Row]]:
    """Rows that are the same, in the order of A; those that only A has; those that only B has."""
    pairs: list[tuple[Row, Row]] = []
    for key in _KEYS:
        waiting: defaultdict[Hashable, list[Row]] = defaultdict(list)
        for row in reversed(theirs):
            waiting[key(row)].append(row)
        left = []
        for row in ours:
            name = key(row)
            if name is not None and waiting.get(name):
                pairs.append((row, waiting[name].pop()))
            else:
                left.append(row)
        ours, theirs = left, sorted((r for rows in waiting.values() for r in rows), key=lambda r: r.number)
    return sorted(pairs, key=lambda pair: pair[0].number), ours, theirs


def _cells(before: Row, after: Row) -> Iterator[Changed]:
    for column in dict.fromkeys([*manifest.RESERVED, *before.labels, *after.labels]):
        old, new = _cell(before, column), _cell(after, column)
        if old != new:
            yield Changed((before.number, after.number), _what(before), column, old, new)


def _cell(row: Row, column: str) -> str:
    if column == "file_name":
        return row.file or ""
    if column in manifest.RESERVED:
        value = getattr(row, column)
        return "" if value is None else f"{value:.12g}" if isinstance(value, float) else value
    return row.labels.get(column, "")


def _what(row: Row) -> str:
    return manifest.key_of(row) if row.file else (row.text or "")


def _files(one: Manifest, two: Manifest, progress: Progress | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files that both tables name under different folders: those with other content, those that one folder lacks."""
    if one.root.resolve() == two.root.resolve():
        return (), ()
    theirs = {row.file for row in two.rows}
    files = [
        file
        for file in dict.fromkeys(row.file for row in one.rows if row.file)
        if file in theirs and not manifest.is_elsewhere(file)
    ]
    changed, gone = [], []
    for number, file in enumerate(files, 1):
        a, b = one.root / file, two.root / file
        if a.exists() != b.exists():
            gone.append(file)
        elif a.exists() and video.digest(a) != video.digest(b):
            changed.append(file)
        if progress:
            progress(number, len(files))
    return tuple(changed), tuple(gone)


def diff_tables(found: Difference) -> list[Page]:
    """Differences as tables: title, columns and rows of each."""
    lists = {
        "rows added": found.added,
        "rows removed": found.removed,
        "columns added": found.columns_added,
        "columns removed": found.columns_removed,
        "files with other content": found.files,
        "files in one folder only": found.files_gone,
    }
    made: list[Page] = [
        ("", (f"{title}: {len(names)}",), [(name,) for name in names]) for title, names in lists.items() if names
    ]
    if found.moved:
        made.append(("", ("in another split", "rows"), [(move, str(n)) for move, n in found.moves().items()]))
    if found.changed:
        rows: list[tuple[str, ...]] = [
            (f"{one.row[0]}, {one.row[1]}", one.what, one.column, one.before, one.after) for one in found.changed
        ]
        title = f"cells changed: {len(found.changed)}"
        made.append(("", ("rows", title, "column", "before", "after"), rows))
    return made
