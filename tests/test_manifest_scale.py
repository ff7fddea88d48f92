"""A large table is read in time that grows with its rows, and column by column says what row by row says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kinetext.manifest import Manifest, Row, groups, load, with_fold, with_splits, with_val
from kinetext.manifest.columns import all_legal
from kinetext.manifest.reading import Raw
from kinetext.manifest.rows import check_row
from kinetext.types import DataError

VALUES: dict[str, tuple[object, ...]] = {
    "file_name": ("a.mp4", "x/b.mp4", "", None, "../c.mp4", "/d.mp4", "//e.mp4", "x/../f.mp4", "x..mp4", "http://h/g.mp4",
                  "file:///g.mp4", "s3::file:///h.mp4", "h\0.mp4"),
    "text": ("one", "二", "", None, 3, 4.5, True, ["p"], float("nan")),
    "start": ("", "0", "1.5", "nan", "inf", "-1", "1:30", None, 2, 0.5, float("nan"), -1.0, float("inf"), True, 10**400),
    "end": ("", "2", "1e3", None, 3, 1.5, {"a": 1}),
    "group": ("g", "", None, 7),
    "split": ("train", "val", "test", "dev", "", None),
    "weight": ("", "1", "0", None, 0, 2.5, "-0.0", "x"),
    "label": ("x", "", None, 1, 1.0, False, b"y"),
    "tags": ("p|q", "p", "", None, ["p", "q"], ["p|q"], "p||q", "p|p", [1]),
}  # fmt: skip


@pytest.mark.parametrize("flawed", [False, True])
def test_columns_say_what_rows_say(flawed: bool) -> None:
    """Random tables: either both find all rows legal, and make the same of them, or both find a flaw."""
    dice = np.random.default_rng(0)
    legal, both = 0, 0
    for _ in range(2000):
        names = [name for name in VALUES if dice.random() < 0.35] or ["text"]
        some = {name: VALUES[name][: None if flawed else 2] for name in names}
        cells = [[values[dice.integers(len(values))] for _ in range(2)] for values in some.values()]
        raw = Raw(tuple(names), tuple(cells))
        multi = [name for name in ("tags",) if name in names]
        problems: list[str] = []
        expected = tuple(check_row(number, row, multi, problems) for number, row in enumerate(raw.rows(), 1))
        found = all_legal(raw.columns, raw.cells, multi)
        assert (found is None) == bool(problems), (raw, problems)
        assert found is None or found == expected
        legal += found is not None
        both += bool(problems)
    assert legal > 50
    assert both > 50


def many(root: Path, count: int) -> Path:
    """The same table of ``count`` clips in three kinds, 20 clips a person, in folders of 1000."""
    rows = [
        {"file_name": f"{i // 1000:03}/{i:06}.mp4", "text": f"a person does thing {i}", "label": f"class {i % 100}",
         "start": i % 7 * 0.5, "end": i % 7 * 0.5 + 4, "group": f"person {i // 20}"}
        for i in range(count)
    ]  # fmt: skip
    for row in rows:
        path = root / str(row["file_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows).to_csv(root / "table.csv", index=False)
    pd.DataFrame(rows).to_parquet(root / "table.parquet")
    return root


def test_time_grows_with_rows(tmp_path: Path) -> None:
    """8,000 rows within what 100,000 in a second leave them, three times over for a busy machine."""
    root = many(tmp_path, 8_000)
    made = {}
    for kind in ("csv", "jsonl", "parquet"):
        load(root, manifest=f"table.{kind}")
        begun = time.process_time()
        made[kind] = load(root, manifest=f"table.{kind}").rows
        assert time.process_time() - begun < 0.24, kind
    assert made["csv"] == made["jsonl"] == made["parquet"]
    assert made["csv"][2345].file == "002/002345.mp4"
    assert (made["csv"][2345].start, made["csv"][2345].labels) == (0.0, {"label": "class 45"})


def test_a_file_that_is_missing_among_many_is_named(tmp_path: Path) -> None:
    root = many(tmp_path, 1100)
    (root / "001" / "001034.mp4").unlink()
    (root / "001" / "001035.mp4").unlink()
    (root / "001" / "001036.mp4").unlink()
    (root / "001" / "001036.mp4").mkdir()  # as a folder of pictures is
    (root / "000" / "000007.mp4").rename(root / "elsewhere.mp4")
    (root / "000" / "000007.mp4").symlink_to(root / "elsewhere.mp4")
    with pytest.raises(DataError, match=r"2 of 1100 files are not in .*: 001/001034\.mp4, 001/001035\.mp4"):
        load(root, manifest="table.csv")


def chained(count: int) -> Manifest:
    """Rows of which each shares a file with the one before and a group with the one after: all belong together."""
    rows = tuple(
        Row(i, f"{(count - i) // 2}.mp4", None, None, None, f"g{(count - i + 1) // 2}", "train", 1.0, {})
        for i in range(1, count + 1)
    )
    return Manifest(Path(), Path("metadata.csv"), ("file_name", "group", "split"), (), rows)


def test_groups_and_splits_of_many_rows_take_time_by_the_row() -> None:
    begun = time.process_time()
    assert len(set(groups(chained(50_000).rows))) == 1
    rows = tuple(Row(i, None, f"text {i}", None, None, "", "train", 1.0, {}) for i in range(1, 20_001))
    table = Manifest(Path(), Path("metadata.csv"), ("text", "split"), (), rows)
    assert len(with_val(table, 0.5, seed=0).where("val")) == 10_000
    assert len(with_fold(table, 3, 10_000, seed=0).where("val")) == 2
    assert time.process_time() - begun < 3


def test_a_split_of_many_rows_is_made_and_read_back(tmp_path: Path) -> None:
    rows = tuple(Row(i, None, f"text {i}", None, None, "", "", 1.0, {}) for i in range(1, 20_001))
    table = Manifest(tmp_path, tmp_path / "metadata.csv", ("text",), (), rows)
    begun = time.process_time()
    made = with_splits(table, seed=0)
    assert with_splits(table, seed=0).rows == made.rows
    assert time.process_time() - begun < 2
    assert len(made.where("train")) == 16_000
