"""Planted flaws: each is found in its rows, and nothing else is; the same set without them is left in peace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kinetext import doctor, video
from kinetext.doctor import Plan, Report
from kinetext.manifest import load, with_splits

PLAN = Plan(num_frames=8, max_tokens=32)


@pytest.fixture(scope="module")
def report(broken_set: Any) -> Report:
    return doctor.examine(broken_set.root, plan=PLAN, processes=1)


def rows(report: Report, code: str) -> set[int]:
    return {row for one in report.findings if one.code == code for row in one.rows}


def test_no_false_alarm(clean_set: Path) -> None:
    report = doctor.examine(clean_set, plan=PLAN, processes=1)
    assert [one.line() for one in report.findings if one.severity != "note"] == []
    assert report.subject.columns == ("label", "level")


def test_every_flaw_is_found_where_it_is(report: Report, broken_set: Any) -> None:
    assert len(broken_set.expected) >= 30
    found = {code: rows(report, code) for code in broken_set.expected}
    assert found == broken_set.expected
    assert [one.text for one in report.findings if one.code == "untracked" and "nobody_names_me" in one.text]


def test_what_is_hidden_is_no_clip_of_the_folder(tmp_path: Path) -> None:
    for name in ("a.mp4", ".trash/b.mp4", "c/.d.mp4", "c/e.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        video.write(tmp_path / name, torch.zeros(3, 4, 32, 32), fps=4)
    (tmp_path / "metadata.csv").write_text("file_name,label\na.mp4,x\n")
    (untracked,) = [one.text for one in doctor.examine(tmp_path, processes=1).findings if one.code == "untracked"]
    assert "1 clip " in untracked and "c/e.mp4" in untracked


def test_nothing_else_is_found(report: Report, broken_set: Any) -> None:
    others = [one.line() for one in report.findings if one.severity != "note" and one.code not in broken_set.expected]
    assert others == []


def test_splits_beside_the_table_are_those_of_training(tmp_path: Path, clean_set: Path) -> None:
    """A copy that splits.csv puts into val is a leak; the cleaned table has its splits, without the leak."""
    clips = sorted((clean_set / "clips").iterdir())[:4]
    names = [*(clip.name for clip in clips), "copy.mp4"]
    for clip, name in zip([*clips, clips[0]], names, strict=True):
        shutil.copy(clip, tmp_path / name)
    places = ["train", "train", "test", "val", "val"]
    table = tmp_path / "metadata.csv"
    table.write_text("\n".join(["file_name,label", *(f"{name},run" for name in names)]))
    stored = [f"{name},{row},{name},{split}" for row, (name, split) in enumerate(zip(names, places, strict=True), 1)]
    (tmp_path / "splits.csv").write_text("\n".join(["file_name,row,group,split", *stored]))
    report = doctor.examine(tmp_path, processes=1)
    assert rows(report, "duplicate-across-splits") == {1, 5}
    doctor.clean(report.examined, report.subject, report.findings, tmp_path / "clean.csv")
    kept = with_splits(load(tmp_path, manifest="clean.csv"), seed=0)
    assert [(row.file, row.split) for row in kept.rows] == list(zip(names, places, strict=True))[1:]
    folds = doctor.examine(tmp_path, plan=Plan(own_splits=False), processes=1)
    assert "duplicate-across-splits" not in folds.codes()
    table.write_text("\n".join(["file_name,label", *(f"{name},run" for name in names[:4])]))
    stale = doctor.examine(tmp_path, processes=1)
    (told,) = [one for one in stale.findings if one.code == "split-stale"]
    assert told.severity == "error" and "no longer fits metadata.csv" in told.text and "elete splits.csv" in told.advice


def test_the_page_names_every_code(report: Report) -> None:
    page = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
    sources = Path(doctor.__file__).parent.glob("*.py")
    written = {
        code
        for path in sources
        for code in re.findall(r'"([a-z]+-[a-z-]+)",\s+"(?:error|warning|note)"', path.read_text(encoding="utf-8"))
    }
    assert len(written) > 20
    assert {code for code in written | report.codes() if f"`{code}`" not in page} == set()
