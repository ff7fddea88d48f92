"""What is said of label columns, one case at a time."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from kinetext.doctor import Plan, labels
from kinetext.doctor.findings import Finding
from kinetext.doctor.labels import same_name
from kinetext.doctor.subject import Subject
from kinetext.manifest import Manifest, Row


def column(cells: list[str], groups: list[str] | None = None, *, multi: bool = False) -> list[Finding]:
    """What is found in a column of these cells, balance apart."""
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
    return labels.check(Subject(table, Plan(targets=("label",), multi=several)))


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


@pytest.mark.parametrize("cells", [["0", "1", "2"] * 20, ["1990", "2005", "2024"] * 9, ["-1", "1"] * 9])
def test_whole_numbers_that_are_right(cells: list[str]) -> None:
    assert not {"label-index", "label-from-one"} & set(codes(cells))


def test_a_bar_is_no_sign_where_several_are_meant() -> None:
    assert codes(["run|jump", "run", "jump"] * 6, multi=True) == {}
    assert "label-multi" not in codes(["AC|DC", "run", "jump"] * 6), "a name may have a bar in it"


def test_a_class_of_one_group() -> None:
    cells = ["run", "jump"] * 9 + ["climb"] * 6
    groups = [f"g{number // 6}" for number in range(24)]
    assert codes(cells, groups)["label-one-group"] == (19, 20, 21, 22, 23, 24)
    assert "label-one-group" not in codes(cells, [f"g{number % 4}" for number in range(24)])
