"""kinetext data split, stats and diff: no group is divided, shares and times are kept, and every difference is named."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from kinetext import cli
from kinetext.apps import comparing, tables
from kinetext.doctor import Plan
from kinetext.doctor.subject import Subject
from kinetext.manifest import SPLITS, Manifest, divide, load
from kinetext.types import DataError


def table(root: Path, lines: list[str], name: str = "metadata.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def people(root: Path, count: int = 300, of_each: int = 5) -> Path:
    """Texts of people, each with one of three rare or common classes, and a day."""
    dice = np.random.default_rng(0)
    rows = [
        f"text {i},person {i // of_each},{dice.choice(['walk', 'run', 'fall'], p=[0.7, 0.22, 0.08])},{i // of_each}"
        for i in range(count)
    ]
    return table(root, ["text,group,label,day", *rows])


def shares(rows: Any, split: str) -> dict[str, float]:
    counts = Counter(row.labels["label"] for row in rows if row.split == split)
    return {name: counts[name] / counts.total() for name in ("walk", "run", "fall")}


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["data", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "how", [["--by", "group"], ["--stratify", "label"], ["--by", "hash"], ["--by", "time", "--time", "day"]]
)
def test_a_split_keeps_groups_and_fractions(tmp_path: Path, how: list[str]) -> None:
    root = people(tmp_path / "a", 1000)
    code, said = run("split", str(root), "--out", str(root / "new.csv"), "--fractions", "0.6,0.2,0.2", *how)
    assert code == 0
    assert "label: fall" in said
    made = load(root, manifest="new.csv")
    assert len({(row.group, row.split) for row in made.rows}) == 200
    sizes = [len(made.where(split)) / 1000 for split in SPLITS]
    assert sizes == pytest.approx([0.6, 0.2, 0.2], abs=0.07 if "hash" in how else 0.006)
    with (root / "new.csv").open() as file:
        old = [line[:4] for line in csv.reader(file)][1:]
    with (root / "metadata.csv").open() as file:
        assert old == list(csv.reader(file))[1:]  # every other cell as it was
    assert not (root / "splits.csv").exists()


def test_stratified_shares_are_nearer_than_those_of_size_alone(tmp_path: Path) -> None:
    made = load(people(tmp_path, 1500))
    whole = Counter(row.labels["label"] for row in made.rows)

    def worst(**options: Any) -> float:
        splits = divide(made, "group", (0.8, 0.1, 0.1), **options)
        rows = [row.moved(split) for row, split in zip(made.rows, splits, strict=True)]
        return max(abs(shares(rows, split)[name] - whole[name] / 1500) for split in SPLITS for name in whole)

    assert worst(stratify="label") < 0.02
    assert worst(stratify="label") < worst()


def test_stratified_is_no_worse_than_scikit_learn(tmp_path: Path) -> None:
    """Five even folds by StratifiedGroupKFold; ours of the same shape, 60 / 20 / 20."""
    from sklearn.model_selection import StratifiedGroupKFold

    made = load(people(tmp_path, 600))
    labels = np.array([row.labels["label"] for row in made.rows])
    groups = np.array([row.group for row in made.rows])
    whole = {name: (labels == name).mean() for name in set(labels)}
    theirs = [
        max(abs((labels[held] == name).mean() - share) for name, share in whole.items())
        for _, held in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups)
    ]
    splits = np.array(divide(made, "group", (0.6, 0.2, 0.2), stratify="label"))
    ours = [max(abs((labels[splits == s] == name).mean() - share) for name, share in whole.items()) for s in SPLITS]
    assert max(ours) <= max(theirs) + 0.005


def test_a_hash_stays_when_rows_are_added(tmp_path: Path) -> None:
    first = load(table(tmp_path / "a", ["text,group", *(f"text {i},g{i % 40}" for i in range(80))]))
    more = load(
        table(tmp_path / "b", ["text,group", *(f"new {i},{'g' if i % 2 else 'h'}{i % 60}" for i in range(200))])
    )
    one = dict(zip([r.group for r in first.rows], divide(first, "hash", (0.5, 0.3, 0.2)), strict=True))
    two = dict(zip([r.group for r in more.rows], divide(more, "hash", (0.5, 0.3, 0.2)), strict=True))
    both = set(one) & set(two)
    assert len(both) == 20
    assert all(one[name] == two[name] for name in both)
    other = dict(zip([r.group for r in first.rows], divide(first, "hash", (0.5, 0.3, 0.2), seed=1), strict=True))
    assert other != one


def test_a_hash_of_a_group_does_not_look_at_its_files(tmp_path: Path) -> None:
    for name in ("0.mp4", "z.mp4"):
        (tmp_path / name).touch()
    lines = ["file_name,text,group", "z.mp4,,person", *(f",text {i}," for i in range(30))]
    one = divide(load(table(tmp_path, lines)), "hash", (0.5, 0.25, 0.25))
    two = divide(load(table(tmp_path, [*lines, "0.mp4,,person"])), "hash", (0.5, 0.25, 0.25))
    assert two[:-1] == one
    assert two[-1] == one[0]


def test_the_newest_rows_are_tested_on(tmp_path: Path) -> None:
    days = ["2026-03-01", "2026-01-05T12:00", "2026-01-05T13:00+02:00", "2025-12-31", "2026-02-01", "2026-02-01"]
    made = load(table(tmp_path, ["text,day", *(f"text {i},{day}" for i, day in enumerate(days))]))
    assert divide(made, "time", (0.5, 0.3, 0.2), time="day") == ["test", "train", "train", "train", "val", "val"]
    grouped = load(table(tmp_path, ["text,day,group", "a,1,x", "b,9,x", "c,2,y", "d,3,z"]))
    assert divide(grouped, "time", (0.5, 0.25, 0.25), time="day") == ["test", "test", "train", "val"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "name"}, "by: 'name', expected one of group, time, hash"),
        ({"fractions": (0.5, 0.5)}, "fractions: 0.5, 0.5, expected three numbers"),
        ({"fractions": (0.9, 0.2, -0.1)}, "fractions: 0.9, 0.2, -0.1"),
        ({"stratify": "lable"}, r"no label column 'lable', did you mean 'label'\?"),
        ({"by": "hash", "stratify": "label"}, "stratify: 'label', but a split by hash has no choice"),
        ({"by": "time"}, "time: '', expected a column"),
        ({"time": "day"}, "time: 'day', expected a column with by time"),
        ({"by": "time", "time": "dya"}, r"has no column 'dya', did you mean 'day'\?"),
        ({"by": "time", "time": "label"}, "row 1: label 'walk', expected numbers in all rows, or dates"),
    ],
)  # fmt: skip
def test_what_is_not_legal_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    root = people(tmp_path, 20)
    with pytest.raises(DataError, match=message):
        tables.split(root, root / "new.csv", **options)
    assert not (root / "new.csv").exists()


def test_too_few_groups_or_times_are_named(tmp_path: Path) -> None:
    made = load(table(tmp_path, ["text,group,label,day", "a,x,p,1", "b,x,q,1", "c,y,p,1"]))
    with pytest.raises(DataError, match="2 groups can't be divided into train, val, test"):
        divide(made, "group", (0.8, 0.1, 0.1), stratify="label")
    with pytest.raises(DataError, match="1 different times in 'day' can't be divided"):
        divide(made, "time", (0.8, 0.1, 0.1), time="day")
    with pytest.raises(DataError, match=r"no group of 2 falls into .*; add groups, choose another seed"):
        divide(made, "hash", (0.8, 0.1, 0.1))
    assert divide(made, "group", (1.0, 0.0, 0.0), stratify="label") == ["train"] * 3


def test_no_table_is_overwritten(tmp_path: Path) -> None:
    root = people(tmp_path, 20)
    before = (root / "metadata.csv").read_bytes()
    with pytest.raises(DataError, match=r"metadata\.csv is there already; choose another name"):
        tables.split(root, root / "metadata.csv")
    assert (root / "metadata.csv").read_bytes() == before
    with pytest.raises(DataError, match=r"ends in \.csv, \.jsonl, \.parquet"):
        tables.split(root, root / "new.txt")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_lists_and_numbers_survive_in_every_kind(tmp_path: Path, kind: str) -> None:
    rows = [{"text": f"文 {i}", "tags": ["p", "q"][: i % 3], "count": i, "part": 0.1 * i} for i in range(6)]
    table(tmp_path, [json.dumps(row, ensure_ascii=False) for row in rows], "metadata.jsonl")
    tables.split(tmp_path, tmp_path / f"new.{kind}")
    made = load(tmp_path, manifest=f"new.{kind}", multi=["tags"])
    old = load(tmp_path, manifest="metadata.jsonl", multi=["tags"])
    assert [(r.text, r.labels) for r in made.rows] == [(r.text, r.labels) for r in old.rows]
    assert {row.split for row in made.rows} == set(SPLITS)


def test_stats_count_what_is_there(clips: Path) -> None:
    (clips / "broken.mp4").write_bytes(b"no clip")
    lines = (clips / "metadata.csv").read_text().splitlines()
    table(clips, [*lines, "broken.mp4,坏的 clip,light,,person 9,9"])
    found = tables.stats(clips, probe=True)
    assert (found["rows"], found["groups"], found["files"]["different"], found["splits"]) == (10, 5, 9, {})
    assert found["columns"]["shade"]["classes"] == {"dark": {"rows": 5}, "light": {"rows": 5}}
    assert found["columns"]["score"]["numbers"]["max"] == 3.5
    assert found["text"]["scripts"] == {"Latin": 0.9, "mixed": 0.1}
    assert found["text"]["words"]["median"] == 3
    probed = found["clips"]
    assert (probed["read"], probed["failed"], list(probed["failures"])) == (8, 1, ["broken.mp4"])
    assert (probed["sizes"], probed["fps"]) == ({"32x32": 8}, {"8": 8})
    assert probed["seconds"]["sum"] == pytest.approx(4.0)
    code, said = run("stats", str(clips), "--json")
    assert code == 0
    assert json.loads(said)["columns"]["shade"]["different"] == 2
    code, said = run("stats", str(clips), "--probe")
    assert re.search(r"32x32 +│ 8 ", said) and re.search(r"scripts: mixed +│ 10.0% of the texts", said)
    assert not (clips / "splits.csv").exists()


def test_classes_are_what_the_doctor_takes_for_classes(tmp_path: Path) -> None:
    """400 classes, as Kinetics has, are some; ids, texts and numbers of a scale are none."""
    rows = [f"text {n},c{n % 400},id{n},{n % 4 / 4:.2f},{n % 5},{'long ' * 20}{n % 2}" for n in range(1200)]
    table(tmp_path, ["text,label,id,score,rating,note", *rows])
    held = tables.stats(tmp_path)["columns"]
    assert [name for name in held if "classes" in held[name]] == ["label", "rating"]
    assert list(Subject(load(tmp_path), Plan()).columns) == ["label", "rating"]
    assert (held["score"]["numbers"]["max"], held["label"]["classes"]["c7"]) == (0.75, {"rows": 3})
    code, said = run("stats", str(tmp_path))
    assert code == 0
    assert "and 380 more" in said
    assert len(run("stats", str(tmp_path), "--json")[1].splitlines()) > 400


def twin(tmp_path: Path, change: Callable[[Path], None]) -> comparing.Difference:
    """What differs between a folder and its copy, once ``change`` was at the copy."""
    for name in "ab":
        root = table(tmp_path / name, ["file_name,text,start,label,split", "1.mp4,one,,x,train", "2.mp4,two,1,y,val"])
        for number in (1, 2):
            (root / f"{number}.mp4").write_bytes(b"clip %d" % number)
    change(tmp_path / "b")
    return comparing.diff(tmp_path / "a", tmp_path / "b")


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "metadata.csv"
        path.write_text(path.read_text().replace(old, new))

    return change


def test_a_copy_is_no_difference(tmp_path: Path) -> None:
    found = twin(tmp_path, edit("1.mp4,one,,x,train\n2.mp4,two,1,y,val\n", "2.mp4,two,1.0,y,val\n1.mp4,one,,x,train\n"))
    assert not found.any()
    assert run("diff", str(tmp_path / "a"), str(tmp_path / "b"))[0] == 0


@pytest.mark.parametrize(
    ("old", "new", "column", "before", "after"),
    [
        ("one", "eins", "text", "one", "eins"),
        (",1,y", ",1.5,y", "start", "1", "1.5"),
        (",y,", ",z,", "label", "y", "z"),
    ],
)
def test_a_cell_that_changed_is_named(tmp_path: Path, old: str, new: str, column: str, before: str, after: str) -> None:
    found = twin(tmp_path, edit(old, new))
    assert [(one.column, one.before, one.after) for one in found.changed] == [(column, before, after)]
    assert not (found.added or found.removed or found.moved or found.files)
    assert run("diff", str(tmp_path / "a"), str(tmp_path / "b"))[0] == 1


def test_rows_splits_columns_and_files_that_differ(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        (root / "1.mp4").write_bytes(b"clip 3")
        (root / "3.mp4").touch()
        table(root, ["file_name,text,start,split,new", "1.mp4,one,,test,", "3.mp4,three,,val,n"])

    found = twin(tmp_path, change)
    assert found.added == ("3.mp4",)
    assert found.removed == ("2.mp4#t=1",)
    assert found.moves() == {"train -> test": 1}
    assert (found.columns_added, found.columns_removed) == (("new",), ("label",))
    assert found.files == ("1.mp4",)
    code, said = run("diff", str(tmp_path / "a"), str(tmp_path / "b"), "--json")
    assert code == 1
    assert json.loads(said)["moves"] == {"train -> test": 1}
    assert "rows added: 1" in run("diff", str(tmp_path / "a"), str(tmp_path / "b"))[1]


def test_a_long_difference_says_how_much_is_left(tmp_path: Path) -> None:
    for name, rows in (("a", []), ("b", [f"text {n}" for n in range(7)])):
        table(tmp_path / name, ["text", "both", *rows])
    said = run("diff", str(tmp_path / "a"), str(tmp_path / "b"), "--most", "3")[1]
    assert "rows added: 7" in said and "text 2" in said and "text 3" not in said and "and 4 more" in said


def test_a_folder_of_pictures_counts_as_large_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 48), (60 * number, 0, 0)).save(tmp_path / "frames" / f"{number}.bmp")
    (tmp_path / "metadata.csv").write_text("file_name\nframes\ngone.mp4\n")
    clips = tables.stats(tmp_path, probe=True)["clips"]
    assert clips["megabytes"] * 1e6 == sum(path.stat().st_size for path in (tmp_path / "frames").iterdir())
    assert list(clips["failures"]) == ["gone.mp4"]


def test_the_order_of_rows_is_no_difference(tmp_path: Path) -> None:
    rows = ["a.mp4,run", "a.mp4,walk", "a.mp4,sit", "b.mp4,sit"]
    for name, order in (("a", rows), ("b", rows[::-1]), ("c", [rows[1], "a.mp4,jump", *rows[:1], rows[3]])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metadata.csv").write_text("\n".join(["file_name,label", *order]))
    assert not comparing.diff(tmp_path / "a", tmp_path / "b").any()
    (cell,) = comparing.diff(tmp_path / "a", tmp_path / "c").changed
    assert (cell.row, cell.before, cell.after) == ((3, 2), "sit", "jump")


def test_a_folder_of_pictures_that_changed_is_named(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name / "walk").mkdir(parents=True)
        (tmp_path / name / "walk" / "1.png").write_bytes(b"picture")
        table(tmp_path / name, ["file_name", "walk"])
    assert not comparing.diff(tmp_path / "a", tmp_path / "b").any()
    (tmp_path / "b" / "walk" / "1.png").write_bytes(b"another")
    assert comparing.diff(tmp_path / "a", tmp_path / "b").files == ("walk",)


def test_a_split_is_a_difference_of_splits_only(tmp_path: Path) -> None:
    root = people(tmp_path, 40)
    tables.split(root, root / "one.csv", seed=0)
    tables.split(root, root / "two.csv", seed=1)
    found = comparing.diff(root / "one.csv", root / "two.csv")
    assert found.moved
    assert not (found.changed or found.added or found.removed or found.files)
    assert isinstance(load(root, manifest="one.csv"), Manifest)
