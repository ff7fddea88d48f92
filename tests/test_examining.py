"""A table as it is: what is written comes along as every other reader of the package takes it, and what is no table is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
import torch

from kinetext import doctor, video
from kinetext.apps import folders, tables
from kinetext.doctor import clean
from kinetext.manifest import examine, load
from kinetext.types import DataError

TAGS = [["a", "b"], ["a"], ["b", "c"], [], None] * 4


@pytest.fixture(params=["jsonl", "parquet"])
def listed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Texts with lists of classes."""
    data = pd.DataFrame({"text": [f"text {n}" for n in range(len(TAGS))], "tags": TAGS})
    if request.param == "parquet":
        data.to_parquet(tmp_path / "metadata.parquet")
    else:
        data.to_json(tmp_path / "metadata.jsonl", orient="records", lines=True)
    return tmp_path


def test_lists_are_classes_wherever_nobody_says_so(listed: Path) -> None:
    examined = examine(listed)
    assert (examined.problems, examined.table.multi) == ({}, ("tags",))
    assert [examined.table.names(row, "tags") for row in examined.table.rows[:4]] == [
        ("a", "b"),
        ("a",),
        ("b", "c"),
        (),
    ]
    assert examined.table == load(listed, multi=None)
    assert folders.show(listed, listed / "sheet.png", 20)[0] == ("", "text 0", "tags: a|b", "")
    counts = tables.stats(listed)["columns"]["tags"]
    assert (counts["rows"], counts["different"]) == (12, 3)
    assert counts["classes"] == {"a": {"rows": 8}, "b": {"rows": 8}, "c": {"rows": 4}}


def test_the_doctor_takes_lists_for_several_classes(listed: Path) -> None:
    report = doctor.examine(listed)
    assert {one.code for one in report.findings} == {"balance", "label-missing", "label-rare"}
    assert report.balance["tags"] == {"a": {"all": 8}, "b": {"all": 8}, "c": {"all": 4}}
    clean(report.examined, report.subject, report.findings, listed / "clean.csv")
    assert load(listed, manifest="clean.csv", multi=["tags"]).rows == report.subject.rows


def test_lists_where_no_classes_can_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"text": ["a", "b"]}\n')
    with pytest.raises(DataError, match="row 1: text is a list, expected text or a number"):
        load(tmp_path, multi=None)


def test_cells_are_as_a_csv_holds_them(tmp_path: Path) -> None:
    frames = (torch.rand(12, 32, 32, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    video.write(tmp_path / "a.mp4", frames, fps=8)
    cells = {"file_name": ["a.mp4", "a.mp4"], "start": [None, 0.5], "seen": [True, False], "part": [0.1, float("nan")]}
    pd.DataFrame(cells).to_parquet(tmp_path / "metadata.parquet")
    report = doctor.examine(tmp_path)
    clean(report.examined, report.subject, report.findings, tmp_path / "clean.csv")
    with (tmp_path / "clean.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"file_name": "a.mp4", "start": "", "seen": "true", "part": "0.1"},
            {"file_name": "a.mp4", "start": "0.5", "seen": "false", "part": ""},
        ]


@pytest.mark.parametrize("row", ["x,y,z", "x,y,z,more"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, row: str) -> None:
    (tmp_path / "metadata.csv").write_text(f"text,label,label\n{row}\n")
    with pytest.raises(DataError, match="column 'label' is there 2 times"):
        examine(tmp_path)


def test_a_carriage_return_stays_in_its_cell(tmp_path: Path) -> None:
    table = pd.DataFrame({"text": ["a\rb", "c", "d"], "label": ["x", "y", "x"]})
    table.to_json(tmp_path / "metadata.jsonl", orient="records", lines=True)
    report = doctor.examine(tmp_path)
    clean(report.examined, report.subject, report.findings, tmp_path / "clean.csv")
    assert load(tmp_path, manifest="clean.csv").rows == report.subject.rows
