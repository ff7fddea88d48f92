"""Real sets: the leak of UT-Interaction is found and gone, and no distinct clip is taken for a copy."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from kinetext import doctor
from kinetext.doctor import Plan, Report

SHARED = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


@pytest.fixture(scope="module")
def interaction() -> Report:
    return doctor.examine(SHARED / "ut_interaction", plan=Plan(targets=("label",), num_frames=16))


def test_the_leak_of_ut_interaction_is_shown_and_gone(interaction: Report) -> None:
    ways = {one.way: one for one in interaction.shortcuts}
    files, read = ways["as files"], ways["squash"]
    assert files.groups == 10
    assert files.chance == pytest.approx(1 / 6)
    assert files.together is not None
    assert 0.5 < files.together.accuracy < 0.6, "55 % were measured outside this program: ../shared/data/README.md"
    assert files.together.low > 0.4
    assert {"resolution", "aspect", "frames"} <= set(files.leaks())
    assert read.recommended
    assert list(read.alone) == ["mean colour"], "all else is the same of every clip"
    assert read.leaks() == ()
    assert read.together is not None
    assert read.together.low < files.chance < files.together.low
    assert "bars" in ways["pad"].leaks(), "black bars are as wide as the crop was narrow"
    (said,) = [one for one in interaction.findings if one.code == "shortcut"]
    assert 'Read as squares of one size (fit = "squash"), it is not above chance: 15.0% [' in said.text


def test_sixty_clips_are_sixty(interaction: Report) -> None:
    assert interaction.codes("error") == set()
    assert interaction.codes("warning") == {"shortcut"}


def some(name: str, table: Path, chosen: Callable[[int, dict[str, str]], bool]) -> Path:
    """A table of some rows of a set."""
    with (SHARED / name / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(row for number, row in enumerate(rows, 1) if chosen(number, row))
    return table


def test_exercises(tmp_path: Path) -> None:
    """A fifth of the clips, with the two of the same content among them, and those whose two photographs are one."""
    wanted = {2, 353, 86, 437, 510, 553, 663, *range(1, 751, 5)}
    table = some("exercises", tmp_path / "some.csv", lambda number, row: number in wanted)
    plan = Plan(targets=("category",), num_frames=2)
    found = doctor.examine(SHARED / "exercises", manifest=table, plan=plan)
    files = {row.number: row.file for row in found.subject.rows}
    told = {one.code: {files[row] for row in one.rows} for one in found.findings if one.rows}
    assert told["duplicate"] == {"clips/90_90_Hamstring.mp4", "clips/Leg-Up_Hamstring_Stretch.mp4"}
    assert "clips/Brachialis-SMR.mp4" in told["frozen"]
    assert not {"near-duplicate", "near-duplicate-across-splits", "file-unreadable", "text-garbled"} & set(told)
    assert found.codes("error") == set()
    # outside photographs are green, those of a studio are red: the mean colour tells the category, squared or not
    leaks = {one.way: one.leaks() for one in found.shortcuts}
    assert leaks["as files"] == leaks["squash"] == ("mean colour",)


def test_a_camera_that_stands_still(tmp_path: Path) -> None:
    """One camera, one room, one person, six activities three times: 18 clips, none of them a copy."""
    table = some(
        "falls",
        tmp_path / "some.csv",
        lambda number, row: row["camera"] == "1" and row["file_name"] < "clips/Activity5",
    )
    found = doctor.examine(SHARED / "falls", manifest=table, plan=Plan(targets=()))
    assert len(found.subject.rows) == 18
    assert not {code for code in found.codes() if "duplicate" in code}


def test_odd_media(tmp_path: Path) -> None:
    """What ``expected.csv`` says of every file, which was found with PyAV and by eye."""
    with (SHARED / "odd_media" / "expected.csv").open(encoding="utf-8", newline="") as file:
        expected = {row["file_name"]: row for row in csv.DictReader(file)}
    table = tmp_path / "odd.csv"
    table.write_text("\n".join(["file_name", *expected]), encoding="utf-8")
    found = doctor.examine(SHARED / "odd_media", manifest=table, processes=1)
    files = {row.number: row.file or "" for row in found.subject.rows}
    told = {one.code: {files[row] for row in one.rows} for one in found.findings}
    assert told["file-audio-only"] == {name for name, row in expected.items() if "audio only" in row["why"]}
    broken = {name for name, row in expected.items() if row["error"] or row["decoded_pyav18"] == "0"}
    damaged = {name for name, row in expected.items() if "corrupt" in row["why"]}
    assert told["file-unreadable"] | told["file-truncated"] == broken | damaged
    turned = {name for name, row in expected.items() if row["rotation"] not in ("", "0")}
    assert told["turned"] == turned - broken
    counts = {name: (row["header_frames"], row["decoded_pyav18"]) for name, row in expected.items()}
    differ = {name for name, (header, real) in counts.items() if header not in ("", "0") and real and header != real}
    assert told["frame-count"] == differ - broken
    assert told["variable-rate"] == {name for name, row in expected.items() if "VFR" in row["why"]}
