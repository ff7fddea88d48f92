"""Copies in several splits, and one clip with several labels: which rows are told, and which a cleaned table leaves out."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from kinetext import doctor
from kinetext.doctor import Change, Finding, Plan, duplicates
from kinetext.doctor.facts import Facts
from kinetext.doctor.subject import Subject
from kinetext.manifest import examining, load

Cells = dict[str, str]
COLUMNS = ("file_name", "text", "label", "start", "end", "split")


def examined(folder: Path, rows: list[Cells]) -> tuple[list[Finding], list[Change], list[Cells]]:
    """What is told of copies, what a cleaned table changes, and that table; each file has a content of its own."""
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, COLUMNS, restval="")
        out.writeheader()
        out.writerows(rows)
    for row in rows:
        (folder / row["file_name"]).touch()
    found = examining.examine(folder)
    facts = {row["file_name"]: Facts(row["file_name"], 99) for row in rows}
    subject = Subject(found.table, Plan(targets=("label",)), found.problems, facts)
    said = duplicates.check(subject)
    changes = doctor.clean(found, subject, said, folder / "clean.csv")
    with (folder / "clean.csv").open(encoding="utf-8", newline="") as file:
        return said, changes, list(csv.DictReader(file))


def told(findings: list[Finding], code: str) -> set[int]:
    return {row for one in findings if one.code == code for row in one.rows}


def stretch(split: str, start: float | str = "", end: float | str = "") -> Cells:
    return {"file_name": "a.mp4", "label": "run", "split": split, "start": str(start), "end": str(end)}


def gone(changes: list[Change]) -> set[int]:
    return {one.row for one in changes if one.what.startswith("left out")}


@pytest.mark.parametrize("text", ["", "what is it?"])
def test_every_row_of_a_leaking_clip_is_told(tmp_path: Path, text: str) -> None:
    rows = [stretch("train"), stretch("train"), stretch("test")]
    said, changes, _ = examined(tmp_path, [{**row, "text": text} for row in rows])
    assert told(said, "duplicate-across-splits") == {1, 2, 3}
    assert gone(changes) == {1, 2}


def test_a_long_stretch_hides_no_other(tmp_path: Path) -> None:
    said, changes, _ = examined(tmp_path, [stretch("train", 0, 10), stretch("train", 1, 20), stretch("val", 5, 7)])
    assert told(said, "duplicate-across-splits") == {1, 2, 3}
    assert gone(changes) == {1, 2}


def test_only_rows_that_overlap_are_left_out(tmp_path: Path) -> None:
    rows = [stretch("train", 0, 10), stretch("val", 5, 12), stretch("test", 20, 30), stretch("train", 22, 25)]
    _, changes, _ = examined(tmp_path, rows)
    assert {one.row: one.what.split(", ")[-1] for one in changes} == {1: "val has this clip", 4: "test has this clip"}


def test_a_row_that_goes_takes_none_with_it(tmp_path: Path) -> None:
    """The test takes the place of the val row, which then is no reason any more to take the train row."""
    _, changes, _ = examined(tmp_path, [stretch("train", 0, 10), stretch("val", 5, 15), stretch("test", 12, 20)])
    assert gone(changes) == {2}


def test_overlaps_are_those_of_every_pair(tmp_path: Path) -> None:
    """Forty random stretches, held against each other one by one; what is left overlaps nothing."""
    dice = np.random.default_rng(0)
    ends = [sorted(dice.integers(0, 60, 2).tolist()) for _ in range(40)]
    rows = [
        stretch(("train", "val", "test")[number % 3], low, low + 1 + (high - low) // 9)
        for number, (low, high) in enumerate(ends)
    ]
    said, _, kept = examined(tmp_path, rows)
    assert told(said, "duplicate-across-splits") == _overlapping(rows)
    assert 0 < len(_overlapping(rows)) < 40
    assert _overlapping(kept) == set()
    assert [row for row in kept if row["split"] == "test"] == [
        {**dict.fromkeys(COLUMNS, ""), **row} for row in rows if row["split"] == "test"
    ]


def _overlapping(rows: list[Cells]) -> set[int]:
    return {
        place
        for (place, one), (_, other) in product(enumerate(rows, 1), repeat=2)
        if one["split"] != other["split"]
        and float(one["start"]) < float(other["end"])
        and float(other["start"]) < float(one["end"])
    }


def test_questions_about_one_clip_have_answers_of_their_own(tmp_path: Path) -> None:
    asked = [("how many?", "two"), ("where?", "park"), ("who?", "child"), ("who?", "dog")]
    rows = [{"file_name": "a.mp4", "text": text, "label": label} for text, label in asked]
    said, changes, _ = examined(tmp_path, rows)
    assert told(said, "label-conflict") == {3, 4}
    assert gone(changes) == {3, 4}


def test_a_start_of_0_is_none(tmp_path: Path) -> None:
    rows = [{"file_name": "a.mp4", "start": start, "label": label} for start, label in (("", "run"), ("0", "walk"))]
    said, changes, _ = examined(tmp_path, [*rows, {"file_name": "b.mp4", "label": "run"}])
    assert told(said, "label-conflict") == {1, 2} == gone(changes)


def test_a_name_written_two_ways_is_one_label(tmp_path: Path) -> None:
    labels = ["Walk", "walk", "walk", "run"]
    rows = [{"file_name": f"{number // 2}.mp4", "label": label} for number, label in enumerate(labels)]
    said, changes, kept = examined(tmp_path, rows)
    assert told(said, "label-conflict") == {3, 4}
    assert gone(changes) == {3, 4}
    assert len({row["label"] for row in kept}) == 1


@pytest.mark.parametrize("names", [("-1", "0", "1"), ("A-", "A", "B-", "B"), ("1e-5", "1e 5"), ("C", "C-", "_C")])
def test_a_sign_is_no_space(tmp_path: Path, names: tuple[str, ...]) -> None:
    labels = [name for name in names for _ in range(6)]
    rows = [{"file_name": f"{number}.mp4", "label": label} for number, label in enumerate(labels)]
    _, changes, kept = examined(tmp_path, rows)
    assert changes == []
    assert [row["label"] for row in kept] == labels


def test_a_cleaned_table_reads_back(tmp_path: Path) -> None:
    texts = ["one\rtwo", "a\r\nb", 'he said "no"', "x,y", "plain"]
    rows = [{"file_name": f"{n}.mp4", "text": text, "label": "run", "split": "train"} for n, text in enumerate(texts)]
    examined(tmp_path, rows)
    assert [row.text for row in load(tmp_path, manifest="clean.csv").rows] == texts
