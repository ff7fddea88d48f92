"""Splits that are made: what is held out, two runs that make one at once, and what added rows move."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from kinetext.manifest import Manifest, Row, Split, divide, load, splits, with_splits, with_val
from kinetext.types import DataError


def grouped(groups: Sequence[str], split: Split | None = "train", root: Path = Path()) -> Manifest:
    """A text for every group named, all of one split."""
    rows = tuple(
        Row(number, None, f"text {number}", None, None, group, split or "", 1.0, {})
        for number, group in enumerate(groups, 1)
    )
    columns = ("text", "group", "split") if split else ("text", "group")
    return Manifest(root, root / "metadata.csv", columns, (), rows)


def val(groups: Sequence[str], share: float, seed: int) -> list[str]:
    return [row.group for row in with_val(grouped(groups), share, seed=seed).where("val")]


@pytest.mark.parametrize("seed", range(6))
def test_val_is_about_as_large_as_asked_for(seed: int) -> None:
    """One group holds nearly everything: whoever is drawn first, training keeps it."""
    assert len(val(["big"] * 90 + [f"g{i}" for i in range(10)], 0.1, seed)) == 10
    assert len(val(["big"] * 95 + [f"g{i}" for i in range(5)], 0.1, seed)) == 5
    assert 10 <= len(val(["big"] * 30 + [f"g{i // 3}" for i in range(70)], 0.1, seed)) <= 12
    assert val(["big"] * 99 + ["small"], 0.5, seed) == ["small"], "one group always stays in train"


@pytest.mark.parametrize("seed", range(3))
def test_where_every_group_is_too_large_the_smallest_is_val(seed: int) -> None:
    assert val(["a"] * 40 + ["b"] * 25 + ["c"] * 35, 0.1, seed) == ["b"] * 25
    assert len(set(val(["a"] * 25 + ["b"] * 25 + ["c"] * 25, 0.1, seed))) == 1
    with pytest.raises(DataError, match="1 groups to train on"):
        val(["a"] * 9, 0.1, seed)


def test_two_runs_that_begin_at_once_have_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find none and make one; the second to be ready takes that of the first."""
    table = grouped([f"g{i}" for i in range(60)], None, tmp_path)
    alone, other = splits.by_size(table, 0, splits.FRACTIONS), splits.by_size(table, 1, splits.FRACTIONS)
    assert alone != other
    made: list[Manifest] = []
    by_size = splits.by_size

    def slow(manifest: Manifest, seed: int, fractions: tuple[float, float, float]) -> list[Split]:
        if seed == 0:
            made.append(with_splits(manifest, seed=1))
        return by_size(manifest, seed, fractions)

    monkeypatch.setattr(splits, "by_size", slow)
    mine = with_splits(table, seed=0)
    assert [row.split for row in mine.rows] == other == [row.split for row in made[0].rows]
    assert with_splits(table, seed=5).rows == mine.rows
    assert os.listdir(tmp_path) == ["splits.csv"]


def test_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    table = grouped([f"g{i}" for i in range(60)], None, tmp_path)
    assert with_splits(table, seed=0).rows == with_splits(table, seed=1).rows
    assert os.listdir(tmp_path) == ["splits.csv"]


def test_added_rows_move_no_other_unless_they_bind_groups(tmp_path: Path) -> None:
    """By hash, as docs/data.md has it."""

    def made(*lines: str) -> list[Split]:
        (tmp_path / "table.csv").write_text("\n".join(["file_name,group", *lines]), encoding="utf-8")
        return divide(load(tmp_path, manifest="table.csv", whole=False), "hash", (0.5, 0.25, 0.25))

    lines = [f"{number}.mp4,{f'g{number // 2}' if number % 3 else ''}" for number in range(60)]
    before = made(*lines)
    assert made(*lines, *(f"{number}.mp4,new {number}" for number in range(60, 90)))[:60] == before
    assert made(*lines, *(f"{number}.mp4," for number in range(60)))[:60] == before, "the same files once more"
    moved = made(*lines, "0.mp4,g7")[:60]
    assert {at for at, (one, two) in enumerate(zip(moved, before, strict=True)) if one != two} <= {0}


def test_a_split_that_spells_files_otherwise_still_fits(tmp_path: Path) -> None:
    """It was made when "./0.mp4" was called so; the rows are the same."""
    files = [f"./{number}.mp4" for number in range(12)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name", *files]), encoding="utf-8")
    for file in files:
        (tmp_path / file).touch()
    made = with_splits(load(tmp_path), seed=0)
    path = tmp_path / "splits.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[1].startswith("0.mp4,1,0.mp4,")
    old = [
        lines[0],
        *(f"./{file},{row},./{group},{split}" for file, row, group, split in (one.split(",") for one in lines[1:])),
    ]
    path.write_text("\n".join(old), encoding="utf-8")
    assert with_splits(load(tmp_path), seed=1).rows == made.rows
