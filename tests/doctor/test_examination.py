"""Planted flaws: each is found in its rows, and nothing else is; the same set without them is left in peace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kinetext import doctor
from kinetext.doctor import Plan, Report

PLAN = Plan(num_frames=8, max_tokens=32)


@pytest.fixture(scope="module")
def report(broken_set: Any) -> Report:
    return doctor.examine(broken_set.root, plan=PLAN)


def rows(report: Report, code: str) -> set[int]:
    return {row for one in report.findings if one.code == code for row in one.rows}


def test_no_false_alarm(clean_set: Path) -> None:
    report = doctor.examine(clean_set, plan=PLAN)
    assert [one.line() for one in report.findings if one.severity != "note"] == []
    assert report.subject.columns == ("label", "level")


def test_every_flaw_is_found_where_it_is(report: Report, broken_set: Any) -> None:
    assert len(broken_set.expected) >= 30
    found = {code: rows(report, code) for code in broken_set.expected}
    assert found == broken_set.expected
    assert [one.text for one in report.findings if one.code == "untracked" and "nobody_names_me" in one.text]


def test_nothing_else_is_found(report: Report, broken_set: Any) -> None:
    others = [one.line() for one in report.findings if one.severity != "note" and one.code not in broken_set.expected]
    assert others == []


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
