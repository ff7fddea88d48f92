"""The whole examination: table, files, copies, labels, texts, shortcuts, in this order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kinetext import manifest as tables
from kinetext.doctor import duplicates, files, labels, shortcut, splits, texts
from kinetext.doctor.cleaning import Change
from kinetext.doctor.facts import Range
from kinetext.doctor.findings import SEVERITIES, Finding, counted, found, ordered
from kinetext.doctor.shortcut import TOGETHER, Shortcut
from kinetext.doctor.subject import Plan, Subject, part
from kinetext.doctor.survey import survey
from kinetext.manifest.examining import Examined
from kinetext.manifest.layouts import clips
from kinetext.types import DataError, Progress

Bar = Callable[[str], AbstractContextManager[Progress]]

# what is worth a line before every training; the rest is for who asks
_TOLD = (
    "file-across-splits",
    "label-variants",
    "label-typo",
    "label-multi",
    "label-unseen",
    "label-conflict",
    "text-garbled",
    "text-conflict",
)


@dataclass(frozen=True)
class Report:
    """What the doctor found.

    Args:
        examined: the table as it is.
        subject: the table with what its files hold.
        findings: errors first.
        balance: label column -> class -> split -> rows.
        shortcuts: of every label column, as files and as read.
        changes: what --write did.
        trial: title -> what a recipe would do with it.
        unwritten: why a page or a table that was asked for is not there, "" where all is.
    """

    examined: Examined
    subject: Subject
    findings: tuple[Finding, ...]
    balance: Mapping[str, Mapping[str, Mapping[str, int]]]
    shortcuts: tuple[Shortcut, ...]
    changes: tuple[Change, ...] = ()
    trial: Mapping[str, str] = field(default_factory=dict)
    unwritten: str = ""

    def count(self, severity: str) -> int:
        """How many findings have this severity."""
        return sum(one.severity == severity for one in self.findings)

    def codes(self, severity: str = "") -> set[str]:
        """The codes of the findings, of one severity or of all."""
        return {one.code for one in self.findings if one.severity == severity or not severity}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "table": str(self.subject.table.path),
            "rows": len(self.subject.rows),
            "columns": list(self.subject.columns),
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "findings": [one.to_json() for one in self.findings],
            "balance": self.balance,
            "shortcuts": [_shortcut(one) for one in self.shortcuts],
            "changes": [{"row": one.row, "what": one.what} for one in self.changes],
            "unwritten": self.unwritten,
            "recipe": dict(self.trial),
        }


def _shortcut(one: Shortcut) -> dict[str, Any]:
    scores = {**({TOGETHER: one.together} if one.together else {}), **one.alone}
    return {
        "column": one.column,
        "way": one.way,
        "recommended": one.recommended,
        "chance": one.chance,
        "rows": one.rows,
        "groups": one.groups,
        "leaks": list(one.leaks()),
        "scores": {name: vars(score) for name, score in scores.items()},
    }


def examine(
    root: Path,
    *,
    manifest: str | Path | None = None,
    plan: Plan | None = None,
    cache: Path | None = None,
    processes: int = 0,
    bar: Bar | None = None,
) -> Report:
    """Examines a whole dataset: reads every file that its table names, once.

    Args:
        root: the folder that files are relative to.
        manifest: the table, relative to ``root`` or absolute; None finds it.
        plan: what the data is meant for; None where nothing is decided.
        cache: a folder for what is found of files; None keeps nothing.
        processes: that read files, 0 is as many as the machine has cores where files are many or large, else one.
        bar: makes a progress line of a name.

    Raises:
        DataError: there is no table, or the cache can't be written.
    """
    plan = plan or Plan()
    examined = tables.examine(root, manifest=manifest, multi=plan.multi)
    plan = replace(plan, multi=examined.table.multi)
    with _line(bar, "files") as progress:
        facts = survey(root, _ranges(examined), cache=cache, processes=processes, progress=progress)
    table, stale = _divided(examined.table) if plan.own_splits else (examined.table, [])
    subject = Subject(table, plan, examined.problems, facts)
    checks = [
        *stale,
        *_rows(subject),
        *files.check(subject, _untracked(subject)),
        *[one for one in splits.check(subject) if one.code not in ("duplicate-across-splits", "file-across-splits")],
        *duplicates.check(subject),
        *labels.check(subject),
        *texts.check(subject),
        *labels.majority(subject),
    ]
    with _line(bar, "shortcuts") as progress:
        shortcuts = shortcut.test(subject, progress)
    checks += [*shortcut.findings(shortcuts, decided=plan.decided), *shortcut.untested(subject, shortcuts)]
    return Report(examined, subject, tuple(ordered(checks)), labels.balance(subject), tuple(shortcuts))


def quick(table: tables.Manifest, plan: Plan) -> list[Finding]:
    """What a table alone says in less than a second, before training: errors, and warnings that are more than a hint."""
    subject = Subject(table, plan)
    checks = ordered([*splits.check(subject), *labels.check(subject), *texts.check(subject)])
    return [one for one in checks if one.severity == "error" or one.code in _TOLD]


class _Silent(AbstractContextManager[Progress]):
    def __enter__(self) -> Progress:
        return lambda done, total: None

    def __exit__(self, *error: object) -> None:
        return None


def _line(bar: Bar | None, name: str) -> AbstractContextManager[Progress]:
    return bar(name) if bar else _Silent()


def _ranges(examined: Examined) -> dict[str, list[Range]]:
    """What to read: every file of a row that is whole, and the stretches of it that rows name."""
    ranges: dict[str, list[Range]] = defaultdict(list)
    for row in examined.table.rows:
        if row.file and row.number not in examined.problems:
            ranges[row.file].append(part(row))
    return ranges


def _divided(table: tables.Manifest) -> tuple[tables.Manifest, list[Finding]]:
    """The table with the splits that stand beside it, as training has them, and whether they still fit."""
    try:
        return tables.with_stored_splits(table), []
    except DataError as error:
        text, _, advice = str(error).partition("; ")
        return table, [Finding("split-stale", "error", f"{text}.", f"{advice[:1].upper()}{advice[1:]}.")]


def _rows(subject: Subject) -> list[Finding]:
    empty = {
        row.number: subject.broken[row.number]
        for row in subject.rows
        if row.number in subject.broken and row.start is not None and row.end is not None and row.start >= row.end
    }
    broken = {row: what for row, what in subject.broken.items() if row not in empty}
    return [
        *found(
            "row-broken",
            "error",
            f"{counted(len(broken), 'row has', 'rows have')} cells that are not legal.",
            "Correct the table, or leave these rows out.",
            broken,
        ),
        *found(
            "range-empty",
            "error",
            f"{counted(len(empty), 'row ends', 'rows end')} before or where {'it begins' if len(empty) == 1 else 'they begin'}.",
            "Correct start and end; they are seconds from the first frame.",
            empty,
        ),
    ]


def _untracked(subject: Subject) -> list[str]:
    """Clips in the folder that no row names, nor the folder of pictures that they are in."""
    root = subject.table.root
    named = {(root / row.file).resolve() for row in subject.rows if row.file and row.number not in subject.broken}
    there = ((clip, (root / clip).resolve()) for clip in clips(root))
    return [clip for clip, path in there if path not in named and (root / clip).parent.resolve() not in named]
