"""A cleaned table: rows that can't be used are left out, names are made one; every change is listed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinetext.doctor.duplicates import conflicting, content_of
from kinetext.doctor.findings import Finding
from kinetext.doctor.labels import same_name
from kinetext.doctor.splits import meeting
from kinetext.doctor.subject import Subject
from kinetext.manifest import SEPARATOR, SPLITS, Row
from kinetext.manifest.examining import Examined
from kinetext.manifest.writing import check_new, write_csv
from kinetext.runtime import whole_file
from kinetext.types import DataError

# findings whose rows can't be used by anything
DROPPED = (
    "row-broken",
    "range-empty",
    "range-outside",
    "file-missing",
    "file-empty",
    "file-audio-only",
    "file-truncated",
    "file-unreadable",
)


@dataclass(frozen=True)
class Change:
    """What was done to a row, or to one of its cells.

    Args:
        row: its number in the table that was read, from 1.
        what: in words.
    """

    row: int
    what: str


def clean(examined: Examined, subject: Subject, findings: Sequence[Finding], path: Path) -> list[Change]:
    """Writes the table without rows that can't be used, without copies that are in an earlier split than another, and without
    rows of one clip that have different labels; class names that ``same_name`` takes for one become the most frequent of
    them. Splits that stand in ``splits.csv`` become a column, since that file fits no table with fewer rows. Nothing else is
    touched.

    Args:
        path: a new file that ends in .csv.

    Returns:
        Every change.

    Raises:
        DataError: the file is there already, has another ending, or can't be written; or no row is left.
    """
    check_new(path, "write", (".csv",))
    gone = dropped(subject, findings)
    names = {column: _names(subject, column) for column in subject.columns}
    changes = [Change(number, f"left out: {why}") for number, (_, why) in gone.items()]
    columns = subject.table.columns
    divided = "split" not in columns and any(row.split for row in subject.rows)
    lines = []
    for row, cells in zip(subject.rows, examined.cells, strict=True):
        if row.number in gone:
            continue
        line = {**cells, "split": row.split} if divided else dict(cells)
        for column, meant in names.items():
            several = column in subject.plan.multi
            parts = line[column].split(SEPARATOR) if several else [line[column]]
            new = SEPARATOR.join(dict.fromkeys(meant.get(one, one) for one in parts))
            if new != line[column]:
                changes.append(Change(row.number, f"{column}: {line[column]!r} is now {new!r}"))
                line[column] = new
        lines.append(line)
    if not lines:
        raise DataError(f"write: no row of {subject.table.path} can be used, so {path} would be empty")
    _write(path, (*columns, "split") if divided else columns, lines)
    return sorted(changes, key=lambda change: change.row)


def dropped(subject: Subject, findings: Iterable[Finding]) -> dict[int, tuple[str, str]]:
    """The rows that a cleaned table leaves out: number -> the code of what is the matter, and all of it in words."""
    gone: dict[int, tuple[str, str]] = {}
    for one in findings:
        if one.code in DROPPED:
            for row, what in one.details.items():
                gone.setdefault(row, (one.code, f"{one.code}, {what}" if what else one.code))
    for column in subject.columns:
        if column not in subject.plan.multi:
            for row, label in conflicting(subject, column).items():
                why = f"label-conflict, {column} is {label!r} here and something else for the same clip"
                gone.setdefault(row, ("label-conflict", why))
    earlier = {row: ("duplicate-across-splits", why) for row, why in _earlier(subject, gone).items()}
    return dict(sorted({**earlier, **gone}.items()))


def _earlier(subject: Subject, gone: Container[int]) -> dict[int, str]:
    """Rows whose clip a row of a later split has, too, that stays: the test is left as it is, and training gives way."""
    contents: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in subject.rows:
        if row.number not in gone and subject.split(row) and (content := content_of(subject, row)):
            contents[content][subject.split(row)].append(row)
    found: dict[int, str] = {}
    for splits in contents.values():
        for place, split in reversed(list(enumerate(SPLITS))):
            for later in SPLITS[place + 1 :]:
                staying = [row for row in splits[later] if row.number not in found]
                for number in meeting(splits[split], staying):
                    found[number] = f"duplicate-across-splits, {later} has this clip"
    return found


def _names(subject: Subject, column: str) -> dict[str, str]:
    """Class name as written -> the one that it becomes, where that is another: the one that most rows of the table have."""
    counts = Counter(name for row in subject.rows for name in subject.names(row, column))
    alike: dict[str, list[str]] = defaultdict(list)
    for name in counts:
        alike[same_name(name)].append(name)
    meant: dict[str, str] = {}
    for names in alike.values():
        bare: Counter[str] = Counter()
        for name in names:
            bare[name.strip()] += counts[name]
        best = bare.most_common(1)[0][0]
        meant |= {name: best for name in names if name != best}
    return meant


def _write(path: Path, columns: Sequence[str], lines: Sequence[Mapping[str, str]]) -> None:
    try:
        with whole_file(path) as temporary:
            write_csv(temporary, columns, ([line[name] for name in columns] for line in lines))
    except OSError as error:
        raise DataError(f"write: {path} can't be written ({error.strerror or error})") from error
