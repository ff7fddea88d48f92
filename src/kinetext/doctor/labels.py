"""What is wrong with labels: names, numbers, and who has them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from kinetext.doctor.findings import Finding, counted, found, some
from kinetext.doctor.subject import Subject
from kinetext.manifest import SEPARATOR, Row, as_number

RARE = 5  # rows; a class with fewer can hardly be learned, let alone measured
_STRAY = 0.1  # of the median class: an index at the edge that is rarer is a slip; so is a name, of one that it is near
_LONG_WORD = 5  # letters; in shorter words, one letter often makes another class


def check(subject: Subject) -> list[Finding]:
    """Everything about every label column."""
    return [one for column in subject.columns for one in _column(subject, column)]


def same_name(name: str) -> str:
    """What stays of a class name without case, spaces and width: names that share it are meant to be one.

    A hyphen is a space only between words: -1 and 1, or A- and A, are two classes.
    """
    plain = unicodedata.normalize("NFKC", name).strip().casefold()
    return plain if as_number(plain) is not None else re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", plain)


def _column(subject: Subject, column: str) -> list[Finding]:
    having: dict[str, list[Row]] = defaultdict(list)
    for row in subject.rows:
        for name in subject.names(row, column):
            having[name].append(row)
    if not having:
        return []
    return [
        *_missing(subject, column),
        *_names(column, having),
        *_slips(column, having),
        *_several(subject, column, having),
        *_indices(column, having),
        *_rare(subject, column, having),
        *_one_sided(subject, column, having),
    ]


def _missing(subject: Subject, column: str) -> list[Finding]:
    rows = [row.number for row in subject.rows if not row.labels.get(column) and row.number not in subject.broken]
    return found(
        "label-missing",
        "warning",
        f"{column}: {counted(len(rows), 'row has', 'rows have')} no label.",
        "Fill them in; a row without a label teaches nothing in this column.",
        rows,
        column,
    )


def _names(column: str, having: dict[str, list[Row]]) -> list[Finding]:
    """Classes that differ by what the eye hardly sees."""
    spaced = {row.number: repr(name) for name, rows in having.items() if name != name.strip() for row in rows}
    findings = found(
        "label-spaces",
        "error",
        f"{column}: {counted(len(spaced), 'row has', 'rows have')} spaces around the label, which make a class of its own.",
        "Take the spaces away; --write does.",
        spaced,
        column,
    )
    alike: dict[str, list[str]] = defaultdict(list)
    for name in having:
        alike[same_name(name)].append(name)
    rows: dict[int, str] = {}
    for names in alike.values():
        names = [name for name in names if name == name.strip()]
        best = max(names, key=lambda name: len(having[name]), default="")
        rows |= {row.number: f"{name!r}, and {best!r}" for name in names if name != best for row in having[name]}
    return findings + found(
        "label-variants",
        "warning",
        f"{column}: {counted(len(rows), 'row has', 'rows have')} a label that differs from another class by case, space, hyphen or width only.",
        "Give one class one name; --write takes the one that most rows have.",
        rows,
        column,
    )


def _slips(column: str, having: dict[str, list[Row]]) -> list[Finding]:
    """Rare classes that are one slip of the pen away from a frequent one, in a word that is long enough to tell."""
    near: dict[str, list[str]] = defaultdict(
        list
    )  # what a slip leaves of a name -> frequent names that it leaves it of
    for name, members in having.items():
        if len(members) * _STRAY >= 1:
            for left in _left(same_name(name)):
                near[left].append(name)
    rows: dict[int, str] = {}
    for name in (name for name in having if near and len(having[name]) < RARE):
        plain = same_name(name)
        some = {other for left in _left(plain) for other in near.get(left, ())}
        often = [o for o in some if len(having[o]) * _STRAY >= len(having[name]) and one_slip(plain, same_name(o))]
        if often:
            best = max(often, key=lambda other: (len(having[other]), other))
            rows |= {row.number: f"{name!r}, and {best!r}" for row in having[name]}
    return found(
        "label-typo",
        "warning",
        f"{column}: {counted(len(rows), 'row has', 'rows have')} a label that is one letter away from a frequent class.",
        "Correct it, or leave it if it is a class of its own.",
        rows,
        column,
    )


def _left(plain: str) -> set[str]:
    """A name, and what is left of it without one letter of a long word: names that are one slip apart share some of it, so
    that not every name is held against every other.
    """
    words = re.split(r"[\s_-]+", plain)
    shortened = {
        " ".join([*words[:at], word[:letter] + word[letter + 1 :], *words[at + 1 :]])
        for at, word in enumerate(words)
        if len(word) >= _LONG_WORD
        for letter in range(len(word))
    }
    return {" ".join(words), *shortened}


def one_slip(a: str, b: str) -> bool:
    """Whether one letter that was added, left out, changed or swapped with the next makes a word of one the word of the
    other, all other words being equal (Damerau 1964). Only words of letters count, ``_LONG_WORD`` or longer, in scripts that
    have capitals: a Chinese character more is another word. What makes a plural in English is no slip.
    """
    ours, theirs = re.split(r"[\s_-]+", a), re.split(r"[\s_-]+", b)
    differ = [(x, y) for x, y in zip(ours, theirs, strict=False) if x != y]
    if len(ours) != len(theirs) or len(differ) != 1:
        return False
    short, long = sorted(differ[0], key=len)
    if len(short) < _LONG_WORD or not (short + long).isalpha() or short.upper() == short or long == short + "s":
        return False
    start = next((i for i, (x, y) in enumerate(zip(short, long, strict=False)) if x != y), len(short))
    rest, other = short[start:], long[start:]
    if len(short) < len(long):
        return rest == other[1:]
    return rest[1:] == other[1:] or (rest[:2] == other[1::-1] and rest[2:] == other[2:])


def _several(subject: Subject, column: str, having: dict[str, list[Row]]) -> list[Finding]:
    if column in subject.plan.multi:
        return []
    # a single name with a bar in it may well be a name; one whose parts are classes is not
    rows = {
        row.number: repr(name)
        for name, rows in having.items()
        if SEPARATOR in name and any(part in having for part in name.split(SEPARATOR))
        for row in rows
    }
    return found(
        "label-multi",
        "warning",
        f"{column}: {counted(len(rows), 'row has', 'rows have')} several classes in one cell, which make a class of their own.",
        f'Set data.multi = ["{column}"], or keep one class a row.',
        rows,
        column,
    )


def _indices(column: str, having: dict[str, list[Row]]) -> list[Finding]:
    """Classes that are whole numbers: 0 to K - 1 without a gap is what most code expects."""
    numbers = {name: int(name) for name in having if re.fullmatch(r"-?\d{1,9}", name)}
    if len(numbers) < len(having):
        return []
    counts: dict[int, list[Row]] = defaultdict(list)  # "2" and "02" are one index
    for name, rows in having.items():
        counts[numbers[name]] += rows
    if len(counts) < 2:
        return []
    low, high = min(counts), max(counts)
    stray = _stray({number: len(rows) for number, rows in counts.items()})
    if stray is not None:
        few = [row.number for row in counts[stray]]
        text = f"{column}: index {stray} at the edge of {low} to {high} is in {counted(len(few), 'row')} only, and looks like a slip by one."
        return found("label-index", "warning", text, "Correct it, or leave it if the class is rare.", few, column)
    gaps = [number for number in range(low, high) if number not in counts] if high - low < 2 * len(counts) else []
    if low in (0, 1) and gaps:
        text = f"{column}: indices go from {low} to {high}, and {some(gaps)} is missing."
        return [Finding("label-index", "warning", text, "Check that no class was lost or misnumbered.", column=column)]
    if low == 1 and not gaps:
        text = f"{column}: indices go from 1 to {high}, not from 0 to {high - 1}."
        return [
            Finding(
                "label-from-one",
                "note",
                text,
                "kinetext takes them as names; code that indexes by them is off by one.",
                column=column,
            )
        ]
    return []


def _stray(counts: dict[int, int]) -> int | None:
    """The lowest or highest index, where it is far rarer than the others."""
    if len(counts) < 3:
        return None
    for edge in (max(counts), min(counts)):
        rest = sorted(count for number, count in counts.items() if number != edge)
        if counts[edge] < RARE and counts[edge] <= _STRAY * rest[len(rest) // 2]:
            return edge
    return None


def _rare(subject: Subject, column: str, having: dict[str, list[Row]]) -> list[Finding]:
    findings = []
    if rare := {name: len(rows) for name, rows in having.items() if len(rows) < RARE}:
        named = some([f"{name} ({count})" for name, count in rare.items()])
        rows = [row.number for name in rare for row in having[name]]
        text = f"{column}: {counted(len(rare), 'class has', 'classes have')} fewer than {RARE} rows: {named}."
        findings += found(
            "label-rare", "warning", text, "Collect more of them, or join or drop such classes.", rows, column
        )
    splits = {subject.split(row) for row in subject.rows} - {""}
    if len(splits) < 2 or "train" not in splits:
        return findings
    unseen = {name: rows for name, rows in having.items() if not any(subject.split(row) == "train" for row in rows)}
    findings += found(
        "label-unseen",
        "warning",
        f"{column}: {counted(len(unseen), 'class is', 'classes are')} in no train row, and asked for in others: {some(list(unseen))}.",
        "Such a class can't be learned; split by group and class, or leave it out.",
        [row.number for rows in unseen.values() for row in rows],
        column,
    )
    absent = {
        split: names
        for split in sorted(splits - {"train"})
        if (names := [name for name, rows in having.items() if not any(subject.split(row) == split for row in rows)])
    }
    for split, names in absent.items():
        text = f"{column}: {split} lacks {counted(len(names), 'class', 'classes')}: {some(names)}."
        findings.append(
            Finding(
                "label-unmeasured", "note", text, f"What is measured on {split} says nothing of them.", column=column
            )
        )
    return findings


def _one_sided(subject: Subject, column: str, having: dict[str, list[Row]]) -> list[Finding]:
    if len({row.group for row in subject.rows if row.group}) < 3:
        return []
    alone = {name: rows for name, rows in having.items() if len(rows) > 1 and _one_group(rows)}
    return found(
        "label-one-group",
        "warning",
        f"{column}: {counted(len(alone), 'class is', 'classes are')} in one group only: {some([f'{name} ({rows[0].group})' for name, rows in alone.items()])}. "
        "No split can tell such a class from its group.",
        "Collect the class in other groups.",
        [row.number for rows in alone.values() for row in rows],
        column,
    )


def _one_group(rows: Sequence[Row]) -> bool:
    return rows[0].group != "" and len({row.group for row in rows}) == 1


def balance(subject: Subject) -> dict[str, dict[str, dict[str, int]]]:
    """Column -> class -> split -> rows; "all" where no split is decided."""
    shown: dict[str, dict[str, dict[str, int]]] = {}
    for column in subject.columns:
        counts = Counter(
            (name, subject.split(row) or "all") for row in subject.rows for name in subject.names(row, column)
        )
        classes: dict[str, dict[str, int]] = defaultdict(dict)
        for (name, split), count in counts.items():
            classes[name][split] = count
        shown[column] = dict(sorted(classes.items(), key=lambda one: -sum(one[1].values())))
    return shown


def majority(subject: Subject) -> list[Finding]:
    """Which share always answering the most frequent class gets right."""
    findings = []
    for column, classes in balance(subject).items():
        totals = {name: sum(counts.values()) for name, counts in classes.items()}
        if not totals:
            continue
        best = max(totals, key=lambda name: totals[name])
        # of the rows that have a label; where they have several, shares of classes sum to more than 1
        share = totals[best] / sum(bool(subject.names(row, column)) for row in subject.rows)
        text = f"{column}: {len(totals)} classes; always answering {best!r} is right in {share:.1%} of the rows."
        findings.append(Finding("balance", "note", text, "Compare every accuracy with this number.", column=column))
    return findings
