"""Tables of clips: every flaw is named with its row, and no group is ever in two splits."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from kinetext.manifest import SPLITS, Manifest, divide, examine, groups, load, with_splits
from kinetext.types import DataError

SHARED = Path(__file__).parents[2] / "shared" / "data"


def folder(root: Path, table: str, *, name: str = "metadata.csv", files: Sequence[str] = ("a.mp4", "b.mp4")) -> Path:
    """A folder with a table and empty files: nothing here opens a clip."""
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    (root / name).write_text(table, encoding="utf-8")
    return root


def grouped(root: Path, groups: Sequence[str]) -> Manifest:
    """One text row for every group named."""
    lines = [f"text {i},{group}" for i, group in enumerate(groups)]
    return load(folder(root, "\n".join(["text,group", *lines]), files=()))


@contextmanager
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_table_is_read(tmp_path: Path) -> None:
    table = (
        "file_name,text,start,end,group,split,weight,label,instructions\n"
        'a.mp4,"a kick, and\na fall",0.5,2,g1,train,2,fight,"keep ""calm"""\n'
        "b.mp4,,,,g2,val,,,\n"
        ",数字3上下移动,,,,test,0,NA,\n"
    )
    manifest = load(folder(tmp_path, table))
    first, second, third = manifest.rows
    assert (first.number, first.file, first.text, first.start, first.end) == (1, "a.mp4", "a kick, and\na fall", 0.5, 2)
    assert (first.group, first.split, first.weight) == ("g1", "train", 2)
    assert first.labels == {"label": "fight", "instructions": 'keep "calm"'}
    assert (second.file, second.text, second.start, second.weight, second.labels) == ("b.mp4", None, None, 1, {})
    assert (third.file, third.text, third.weight) == (None, "数字3上下移动", 0)
    assert third.labels == {"label": "NA"}  # a class like any other, not a missing value
    assert manifest.where("val") == (second,)
    assert manifest.classes("label") == ("NA", "fight")
    assert manifest.names(second, "label") == ()


def test_csv_jsonl_and_parquet_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.mp4", "text": "one", "start": 0.5, "label": "x", "tags": ["p", "q"], "count": 3},
        {"file_name": "b.mp4", "text": None, "start": None, "label": "y", "tags": None, "count": 4},
    ]
    made = {}
    for kind in ("csv", "jsonl", "parquet"):
        root = folder(tmp_path / kind, "", name="unused")
        if kind == "csv":
            table = "file_name,text,start,label,tags,count\na.mp4,one,0.5,x,p|q,3\nb.mp4,,,y,,4\n"
            (root / "metadata.csv").write_text("\ufeff" + table.replace("\n", "\r\n"), encoding="utf-8")
        elif kind == "jsonl":
            (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        else:
            pd.DataFrame(rows).to_parquet(root / "metadata.parquet")
        made[kind] = load(root, multi=["tags"])
    assert made["csv"].rows == made["jsonl"].rows == made["parquet"].rows
    assert made["csv"].names(made["csv"].rows[0], "tags") == ("p", "q")
    assert made["csv"].classes("tags") == ("p", "q")
    assert made["csv"].classes("count") == ("3", "4")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "no column file_name or text"),
        ('file_name,text\na.mp4,"open\n', "not a table"),
        ("file_name,text\n", "no rows"),
        ("filename,label\na.mp4,x\n", r"no column file_name or text, did you mean 'filename'\?"),
        ("file_name,label,label\na.mp4,x,y\n", "column 'label' is there 2 times"),
        ("file_name, label\na.mp4,x\n", "column name ' label'"),
        ("file_name,\na.mp4,x\n", "column name ''"),
        ("file_name,label\na.mp4\nb.mp4,x\n", "row 1 has 1 cells, expected the header's 2"),
        ("file_name,label\na.mp4,x\nb.mp4,x,y\n", "row 2 has 3 cells, expected the header's 2"),
        ("file_name\na.mp4\nc.mp4\nd.mp4\n", r"2 of 3 files are not in .*: c\.mp4, d\.mp4"),
        ("file_name\n../a.mp4\n", r"row 1: file_name '\.\./a\.mp4' leads out of the root"),
        ("file_name\nx/../../a.mp4\n", "leads out of the root"),
        (
            "file_name\nx/../a.mp4\n",
            r"row 1: file_name 'x/\.\./a\.mp4' goes back by '\.\.', expected a path without it",
        ),
        ("file_name\n./\n", r"row 1: file_name '\./' is the root itself"),
        ("file_name\nx/..//../a.mp4\n", "leads out of the root"),
        (
            "file_name,text\nb.mp4,x\n" + "a person waves " * 30 + ",a.mp4\n",
            "row 2: file_name 'a person .* longer than",
        ),
        (
            "file_name,text\n" + "有人在挥手" * 20 + ",a.mp4\n",
            "row 1: file_name .* are two columns in each other's place",
        ),
        ("file_name\n" + "folder/" * 700 + "a.mp4\n", "row 1: file_name .* longer than"),
        ("file_name\n/etc/passwd\n", "leads out of the root"),
        ("file_name,start,end\na.mp4,0,1\nb.mp4,2,2\n", "row 2: start 2 s, expected less than end 2 s"),
        ("file_name,start\na.mp4,-1\n", "row 1: start '-1', expected a number, 0 or more"),
        ("file_name,end\na.mp4,nan\n", "row 1: end 'nan'"),
        ("file_name,end\na.mp4,1:30\n", "row 1: end '1:30'"),
        ("file_name,weight\na.mp4,-0.5\n", r"row 1: weight '-0\.5'"),
        ("file_name,text,start\n,hello,1\n", "row 1: has start or end, but no file_name"),
        ("file_name,text\na.mp4,x\n,\n", "row 2: has neither file_name nor text"),
        ("file_name,split\na.mp4,validation\n", r"split 'validation', expected one of .*, did you mean 'val'\?"),
        ("file_name,split\na.mp4,dev\n", "did you mean 'val'"),
        ("file_name,split\na.mp4,Train\n", "did you mean 'train'"),
        ("file_name,split\na.mp4,train\nb.mp4,\n", "row 2: split ''"),
        ("file_name,split,group\na.mp4,train,g\nb.mp4,test,g\n", "group 'g' is in train, test"),
    ],
)
def test_flaws_are_named(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(folder(tmp_path, table))
    assert "metadata.csv" in str(caught.value)


def test_many_flaws_are_counted(tmp_path: Path) -> None:
    table = "file_name,weight\n" + "a.mp4,-1\n" * 8
    with pytest.raises(DataError, match=r"row 1: .*row 5: .*\(and 3 more\)"):
        load(folder(tmp_path, table))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"file_name": "a.mp4"', "line 2 is not JSON"),
        ('["a.mp4"]', "line 2 is .* expected an object"),
        ('{"file_name": "a.mp4", "file_name": "b.mp4"}', "column 'file_name' is there 2 times"),
        ('{"file_name": "a.mp4", "label": ["x"]}', "row 2: label is a list"),
        ('{"file_name": "a.mp4", "label": {"x": 1}}', "row 2: label is a list|row 2: label is a dict"),
        ('{"file_name": "a.mp4", "text": "cut \\ud83d"}', r"row 2: text 'cut \\ud83d' has half a character"),
        ('{"file_name": "a.mp4", "label": 1, "\\udc00": "x"}', "column name .* expected one of whole characters"),
        ('{"file_name": ' + "[" * 100_000, "line 2 is not JSON .*recursion"),
    ],
)
def test_flaws_of_jsonl_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(folder(tmp_path, '{"file_name": "b.mp4"}\n' + line, name="metadata.jsonl"))


def test_bytes_that_are_no_table_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, "")
    (root / "metadata.csv").write_bytes("file_name,text\na.mp4,größe\n".encode("latin-1"))
    with pytest.raises(DataError, match="byte 23 is not UTF-8"):
        load(root)
    (root / "metadata.csv").write_bytes(b"file_name\na.mp4\0\n")
    with pytest.raises(DataError, match="zero byte"):
        load(root)
    (root / "metadata.csv").rename(root / "metadata.parquet")
    with pytest.raises(DataError, match="can't be read"):
        load(root)


def test_a_file_has_one_name(tmp_path: Path) -> None:
    """Rows that spell one file differently stay together, whichever way rows are checked."""
    spelled = ["a.mp4", "./a.mp4", ".//./a.mp4", "x//./b.mp4", "x/b.mp4", "./x/.//b.mp4", "x/c.mp4"]
    url = "https://host.org/x/../a//b.mp4"
    files = ("a.mp4", "x/b.mp4", "x/c.mp4")
    lines = "\n".join(f"{file},1" for file in (*spelled, url))
    fast = load(folder(tmp_path, f"file_name,label\n{lines}\n", files=files))
    for table in (fast, examine(tmp_path).table):
        assert [row.file for row in table.rows] == ["a.mp4"] * 3 + ["x/b.mp4"] * 3 + ["x/c.mp4", url]
    assert len(set(groups(fast.rows))) == 4


def test_exactly_one_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no table, expected exactly one of metadata\.csv"):
        load(tmp_path)
    root = folder(tmp_path, "file_name\na.mp4\n")
    (root / "metadata.jsonl").write_text('{"file_name": "a.mp4"}')
    with pytest.raises(DataError, match=r"has metadata\.csv, metadata\.jsonl"):
        load(root)
    assert len(load(root, manifest="metadata.jsonl").rows) == 1
    with pytest.raises(DataError, match=r"no file '.*other\.csv'"):
        load(root, manifest="other.csv")
    with pytest.raises(DataError, match=r"'a\.mp4', expected a name that ends in \.csv, \.jsonl, \.parquet"):
        load(root, manifest="a.mp4")


def test_label_columns_are_checked(tmp_path: Path) -> None:
    manifest = load(folder(tmp_path, "file_name,label,empty\na.mp4,x,\nb.mp4, x,\n"))
    with pytest.raises(DataError, match=r"no label column 'labels', did you mean 'label'\?"):
        manifest.classes("labels")
    with pytest.raises(DataError, match="no label column 'file_name'"):
        manifest.classes("file_name")
    with pytest.raises(DataError, match="'empty' is empty"):
        manifest.classes("empty")
    with pytest.raises(DataError, match="class ' x', expected no spaces"):
        manifest.classes("label")
    with pytest.raises(DataError, match=r"multi: .* no label column 'tag'"):
        load(tmp_path, multi=["tag"])
    for cell in ("p||q", "p|p", "|"):
        root = folder(tmp_path / cell.replace("|", "-"), f"file_name,tags\na.mp4,{cell}\n")
        with pytest.raises(DataError, match=r"row 1: tags .* expected different classes"):
            load(root, multi=["tags"])


def test_a_split_is_made_by_group_and_stays(tmp_path: Path) -> None:
    groups = [f"g{i // 3}" for i in range(90)]
    manifest = grouped(tmp_path, groups)
    made = with_splits(manifest, seed=1)
    assert [len(made.where(split)) for split in SPLITS] == [72, 9, 9]
    places = {(row.group, row.split) for row in made.rows}
    assert len(places) == 30  # every group in one split only
    written = (tmp_path / "splits.csv").read_text()
    assert written.splitlines()[:2] == ["file_name,row,group,split", f",1,g0,{made.rows[0].split}"]
    assert with_splits(load(tmp_path), seed=2).rows == made.rows  # what is written down wins
    (tmp_path / "splits.csv").unlink()
    assert with_splits(load(tmp_path), seed=2).rows != made.rows
    (tmp_path / "splits.csv").unlink()
    assert with_splits(load(tmp_path), seed=1).rows == made.rows
    assert (tmp_path / "splits.csv").read_text() == written


def test_a_split_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    groups = [f"g{i // 2}" for i in range(60)]
    forward = with_splits(grouped(tmp_path / "a", groups), seed=0)
    backward = with_splits(grouped(tmp_path / "b", groups[::-1]), seed=0)
    assert {(r.group, r.split) for r in forward.rows} == {(r.group, r.split) for r in backward.rows}


@pytest.mark.parametrize("groups", ["abc", "aaaaaaaaabc", "aaabbbccc", "aaaaaaaaaabbbbbbbbbbcd"])
def test_no_split_stays_empty(tmp_path: Path, groups: str) -> None:
    made = with_splits(grouped(tmp_path, groups), seed=0)
    assert all(made.where(split) for split in SPLITS)


def test_rows_of_one_file_or_text_stay_together(tmp_path: Path) -> None:
    files = [f"{i}.mp4" for i in range(10)]
    lines = [f"{file},,{start},{start + 1}" for start in (0, 1) for file in files] + [",same,,", ",same,,"]
    made = with_splits(load(folder(tmp_path, "\n".join(["file_name,text,start,end", *lines]), files=files)), seed=0)
    assert len({(row.file, row.text, row.split) for row in made.rows}) == 11


def test_fractions_are_kept_and_checked(tmp_path: Path) -> None:
    groups = [str(i) for i in range(20)]
    made = divide(grouped(tmp_path / "a", groups), "group", (0.5, 0.5, 0.0))
    assert [made.count(split) for split in SPLITS] == [10, 10, 0]
    with pytest.raises(DataError, match=r"fractions: 0\.5, 0\.1, 0\.1"):
        divide(grouped(tmp_path / "b", groups), "group", (0.5, 0.1, 0.1))
    with pytest.raises(DataError, match="2 groups can't be divided into train, val, test"):
        with_splits(grouped(tmp_path / "c", "ab"), seed=0)


def test_the_tables_own_split_wins(tmp_path: Path) -> None:
    manifest = load(folder(tmp_path, "file_name,split\na.mp4,train\nb.mp4,val\n"))
    assert with_splits(manifest, seed=0) is manifest
    assert not (tmp_path / "splits.csv").exists()


def test_a_split_of_other_rows_is_refused(tmp_path: Path) -> None:
    groups = ["a", "b", "c", "d"]
    with_splits(grouped(tmp_path, groups), seed=0)
    with pytest.raises(DataError, match=r"no longer fits metadata\.csv \(first difference: row 2\); .* delete"):
        with_splits(grouped(tmp_path, ["a", "x", "c", "d"]), seed=0)
    with pytest.raises(DataError, match="4 rows there, 5 here"):
        with_splits(grouped(tmp_path, [*groups, "e"]), seed=0)
    (tmp_path / "splits.csv").write_text("file_name,row,group,split\n,1,a,dev\n")
    with pytest.raises(DataError, match="expected the columns"):
        with_splits(grouped(tmp_path, ["a"]), seed=0)


def test_a_split_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    manifest = grouped(tmp_path, "abcd")
    with full_disk(), pytest.raises(DataError, match=r"add a split column to metadata\.csv, or copy"):
        with_splits(manifest, seed=0)
    tmp_path.chmod(0o555)
    with pytest.raises(DataError, match=r"splits\.csv: .*\(Read-only file system\); make the folder writable"):
        with_splits(manifest, seed=0)
    tmp_path.chmod(0o755)
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.csv"]


def test_a_table_elsewhere_splits_a_read_only_folder(tmp_path: Path) -> None:
    clips = folder(tmp_path / "clips", "file_name\na.mp4\nb.mp4\nc.mp4\n", files=("a.mp4", "b.mp4", "c.mp4"))
    mine = tmp_path / "mine.csv"
    mine.write_bytes((clips / "metadata.csv").read_bytes())
    clips.chmod(0o555)
    made = with_splits(load(clips, manifest=mine), seed=0)
    clips.chmod(0o755)
    assert {row.split for row in made.rows} == set(SPLITS)
    assert (tmp_path / "splits.csv").is_file()


@pytest.mark.parametrize("name", ["exercises", "falls", "surveillance_fights", "ut_interaction", "grid_speaker1"])
def test_real_tables_load(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip("no ../shared/data here")
    manifest = load(SHARED / name)
    assert len(manifest.rows) > 50
    assert all(row.file for row in manifest.rows)


def test_rows_of_one_file_stay_together_whether_or_not_they_name_a_group(tmp_path: Path) -> None:
    names = [f"{i}.mp4" for i in range(10)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    rows = ["file_name,start,end,group"] + [f"{n},0,1,g{i}" for i, n in enumerate(names)] + [f"{n},1,2," for n in names]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    for row in (made := with_splits(load(tmp_path), seed=0)).rows:
        assert {other.split for other in made.rows if other.file == row.file} == {row.split}


def test_a_jsonl_row_without_a_split_is_named_where_others_have_one(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"text": "a", "split": "train"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match="row 2: split '', expected one of"):
        load(tmp_path)
