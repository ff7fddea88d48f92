"""What is said of label columns, one case at a time."""

from __future__ import annotations

import random
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from kinetext.doctor import Plan, labels
from kinetext.doctor.findings import Finding
from kinetext.doctor.labels import same_name
from kinetext.doctor.subject import Subject
from kinetext.manifest import Manifest, Row


def subject(cells: list[str], groups: list[str] | None = None, *, multi: bool = False) -> Subject:
    """A table with a column of these cells."""
    rows = tuple(
        Row(
            number,
            None,
            f"text {number}",
            None,
            None,
            groups[number - 1] if groups else "",
            "",
            1.0,
            {"label": cell} if cell else {},
        )
        for number, cell in enumerate(cells, 1)
    )
    several = ("label",) if multi else ()
    table = Manifest(Path(), Path("metadata.csv"), ("text", "label"), several, rows)
    return Subject(table, Plan(targets=("label",), multi=several))


def column(cells: list[str], groups: list[str] | None = None, *, multi: bool = False) -> list[Finding]:
    """What is found in a column of these cells, balance apart."""
    return labels.check(subject(cells, groups, multi=multi))


def codes(cells: list[str], groups: list[str] | None = None, *, multi: bool = False) -> dict[str, tuple[int, ...]]:
    return {one.code: one.rows for one in column(cells, groups, multi=multi)}


def test_width_is_what_unicode_says() -> None:
    """Every full-width form is the name of its plain letter (Unicode, block Halfwidth and Fullwidth Forms)."""
    for point in range(0xFF01, 0xFF5F):
        plain = unicodedata.normalize("NFKC", chr(point))
        assert ord(plain) == point - 0xFEE0
        assert same_name(f"a{chr(point)}b") == same_name(f"a{plain}b")
    assert same_name("Hand  Shake") == same_name("hand-shake") == same_name("hand_shake ")
    assert same_name("挥手") != same_name("握手")
    assert same_name("STRASSE") == same_name("straße")


def test_nothing_is_said_of_a_sound_column() -> None:
    assert codes(["run", "jump", "wave"] * 6) == {}


@pytest.mark.parametrize(
    ("cells", "code", "rows"),
    [
        (["0", "1", "2"] * 20 + ["3"], "label-index", (61,)),
        (["1", "2", "3"] * 20 + ["0"], "label-index", (61,)),
        (["0", "1", "3"] * 20, "label-index", ()),
        (["1", "2", "3"] * 20, "label-from-one", ()),
        (["run", "jump"] * 9 + ["Run"] * 5, "label-variants", (19, 20, 21, 22, 23)),
        (["run", "jump"] * 9 + ["run|jump"] * 5, "label-multi", (19, 20, 21, 22, 23)),
        (["run", "jump"] * 9 + [" run"] * 5, "label-spaces", (19, 20, 21, 22, 23)),
        (["run", "jump"] * 9 + [""], "label-missing", (19,)),
        (["run", "jump"] * 9 + ["fly"] * 4, "label-rare", (19, 20, 21, 22)),
    ],
)
def test_each(cells: list[str], code: str, rows: tuple[int, ...]) -> None:
    assert codes(cells)[code] == rows


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("runing", "running"),
        ("runnning", "running"),
        ("runninh", "running"),
        ("rnuning", "running"),
        ("shake hnads", "Shake-Hands"),
        ("бегат", "бегать"),
    ],
)
def test_a_slip_of_the_pen(slip: str, meant: str) -> None:
    said = column([meant, "jump"] * 10 + [slip])
    (one,) = [one for one in said if one.code == "label-typo"]
    assert dict(one.details) == {21: f"{slip!r}, and {meant!r}"}


@pytest.mark.parametrize(
    ("other", "often"),
    [
        ("walk", "talk"),  # short words differ by a letter as often as not
        ("jumps rope", "jump rope"),
        ("class 11", "class 12"),
        ("运动员跑步", "运动员散步"),
        ("take left", "take right"),
        ("running", "running fast"),
    ],
)
def test_two_names_that_are_no_slip(other: str, often: str) -> None:
    assert "label-typo" not in codes([often, "jump"] * 10 + [other])
    assert "label-typo" not in codes(["running", "jump"] * 10 + ["runing"] * 5), "often enough to be a class"


def test_slips_are_those_of_every_pair() -> None:
    """Sixty words drawn from two letters, with one letter or two apart from each other, held against each other one by one."""
    dice = random.Random(0)
    words = list(dict.fromkeys("".join(dice.choices("ab", k=dice.choice((5, 6, 7)))) + " walks" for _ in range(60)))
    cells = [word for at, word in enumerate(words) for _ in range(10 * (1 + at % 3) if at % 2 else 1 + at % 4)]
    counts = Counter(cells)
    slipped = {
        word
        for word in words
        if counts[word] < 5 and any(counts[o] >= 10 * counts[word] and labels.one_slip(word, o) for o in words)
    }
    (said,) = [one for one in column(cells) if one.code == "label-typo"]
    assert 3 < len(slipped) < sum(counts[word] < 5 for word in words)
    assert {cells[row - 1] for row in said.rows} == slipped


def test_many_classes_take_time_by_the_class() -> None:
    """20,000 rare classes and 300 frequent ones: pair by pair it took minutes."""
    dice = random.Random(1)
    names = ["".join(dice.choices("abcdefghij", k=9)) for _ in range(20_300)]
    cells = names[:20_000] + names[20_000:] * 10
    began = time.process_time()
    column(cells)
    assert time.process_time() - began < 4


@pytest.mark.parametrize(
    "cells", [["0", "1", "2"] * 20, ["0", "1", "2"] * 10 + ["02"], ["1990", "2005", "2024"] * 9, ["-1", "1"] * 9]
)
def test_whole_numbers_that_are_right(cells: list[str]) -> None:
    assert not {"label-index", "label-from-one"} & set(codes(cells))


def test_a_bar_is_no_sign_where_several_are_meant() -> None:
    assert codes(["run|jump", "run", "jump"] * 6, multi=True) == {}
    assert "label-multi" not in codes(["AC|DC", "run", "jump"] * 6), "a name may have a bar in it"


def test_the_share_of_the_most_frequent_class() -> None:
    """Of the rows that have a label: where they have several, "run" is right in all of them."""
    for cells, share in (
        (["run|jump", "run|wave", "run", ""], "100.0%"),
        (["run", "run|jump", "jump|wave", "fly"], "50.0%"),
    ):
        (said,) = labels.majority(subject(cells, multi=True))
        assert f"'run' is right in {share} of the rows" in said.text


def test_a_class_of_one_group() -> None:
    cells = ["run", "jump"] * 9 + ["climb"] * 6
    groups = [f"g{number // 6}" for number in range(24)]
    assert codes(cells, groups)["label-one-group"] == (19, 20, 21, 22, 23, 24)
    assert "label-one-group" not in codes(cells, [f"g{number % 4}" for number in range(24)])
