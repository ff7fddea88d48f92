"""Precomputed vectors of a table's rows, columns of numbers, folds and made-up val splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kinetext import manifest
from kinetext.datasets.folder import Folder
from kinetext.types import DataError


def table(folder: Path, *rows: str, header: str = "text,place,file,group") -> manifest.Manifest:
    (folder / "metadata.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    return manifest.load(folder)


@pytest.fixture
def three(tmp_path: Path) -> manifest.Manifest:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "whole.npy", whole)
    np.savez(tmp_path / "many.npz", a=whole, b=whole.reshape(3, 2, 2), names=np.array(["x", "y", "z"]))
    lists = pyarrow.table({"a": whole.tolist(), "b": [[1.0], [2.0], [3.0]]})
    pyarrow.parquet.write_table(lists, tmp_path / "many.parquet")
    np.save(tmp_path / "one.npy", np.ones((5, 4)))
    np.savez(tmp_path / "two.npz", left=np.full(4, 2), right=np.zeros(4))
    return table(tmp_path, "x,2,one.npy,g", "y,0,two.npz:left,g", "z,1,,h")


@pytest.mark.parametrize("source", ["whole.npy", "many.npz:a", "many.parquet:a"])
def test_one_file_for_all_rows(three: manifest.Manifest, source: str) -> None:
    in_order, by_place = manifest.Vectors(three, source), manifest.Vectors(three, source, index="place")
    assert in_order.dim == by_place.dim == 4
    assert in_order.of(three.rows[0]).tolist() == [[0, 1, 2, 3]]  # type: ignore[union-attr]
    assert by_place.of(three.rows[0]).tolist() == [[8, 9, 10, 11]]  # type: ignore[union-attr]


def test_sequences_keep_their_steps(three: manifest.Manifest) -> None:
    vectors = manifest.Vectors(three, "many.npz:b")
    assert vectors.dim == 2
    assert vectors.of(three.rows[1]).tolist() == [[4, 5], [6, 7]]  # type: ignore[union-attr]


def test_a_file_for_each_row(three: manifest.Manifest) -> None:
    vectors = manifest.Vectors(three, "file")
    assert vectors.files(three) == ["one.npy", "two.npz"]
    assert manifest.Vectors(three, "many.npz:b").files(three) == ["many.npz"]
    assert [None if (x := vectors.of(row)) is None else tuple(x.shape) for row in three.rows] == [(5, 4), (1, 4), None]


@pytest.mark.parametrize(
    ("source", "index", "message"),
    [
        ("none", "", r"vectors: 'none' is neither a column \(place, file\) nor a name that ends in .npy"),
        ("none.npy", "", "no file"),
        ("many.npz", "", "has no ''; it has a, b, names: name one after a colon"),
        ("many.npz:c", "", "has no 'c'; it has a, b, names"),
        ("many.parquet:c", "", "has no 'c'; it has a, b"),
        ("whole.npy", "nowhere", "has no column 'nowhere'"),
        ("one.npy", "", "one.npy has 5 rows, and metadata.csv has 3"),
        ("many.npz:names", "", r"has shape \(3,\)"),
        ("place", "", "no file .*/2"),
    ],
)
def test_sources_that_do_not_fit(three: manifest.Manifest, source: str, index: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        manifest.Vectors(three, source, index=index)


def test_rows_that_do_not_fit(three: manifest.Manifest, tmp_path: Path) -> None:
    wide = table(tmp_path, "x,3,,g")
    with pytest.raises(DataError, match="row 1: place is '3', expected 0 to 2"):
        manifest.Vectors(wide, "whole.npy", index="place")
    np.save(tmp_path / "bad.npy", np.array([[1.0, np.nan]]))
    with pytest.raises(DataError, match="row 1: has numbers that are not finite"):
        manifest.Vectors(table(tmp_path, "x,0,,g"), "bad.npy")
    (tmp_path / "torn.npz").write_bytes(b"PK torn")
    with pytest.raises(DataError, match=r"torn.npz can't be read"):
        manifest.Vectors(table(tmp_path, "x,0,,g"), "torn.npz:a")


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="can't be read as an array"):
        manifest.Vectors(table(tmp_path, "x,0,,g"), "objects.npy")


def test_folder_gives_vectors_and_numbers(three: manifest.Manifest) -> None:
    data = Folder(
        root=str(three.root), targets=("place",), numeric=("place",), text_vectors="whole.npy", folds=2, fold=0
    )  # fmt: skip
    assert data.vector_dims == {"text": 4}
    assert data.video_shape is None
    assert set(data[0].vectors) == {"text"}
    assert data.targets[0].numeric
    assert sorted(data.numbers("place")) in ([0.0, 2.0], [1.0])


def test_numbers_are_checked(tmp_path: Path) -> None:
    made = table(tmp_path, "a,1.5", "b,", "c,-2e3", header="text,score")
    assert manifest.numbers(made, "score") == {1: 1.5, 3: -2000.0}
    for cell in ("much", "nan", "inf"):
        with pytest.raises(DataError, match=f"row 2: score '{cell}', expected a finite number"):
            manifest.numbers(table(tmp_path, "a,1", f"b,{cell}", header="text,score"), "score")
    with pytest.raises(DataError, match=r"no column 'scor', did you mean 'score'"):
        manifest.numbers(made, "scor")


def rows_of(tmp_path: Path, sizes: dict[str, int]) -> manifest.Manifest:
    lines = [f"{name} {i},0,,{name}" for name, size in sizes.items() for i in range(size)]
    return table(tmp_path, *lines)


def test_folds_share_no_group_and_cover_every_row_once(tmp_path: Path) -> None:
    made = rows_of(tmp_path, {"a": 5, "b": 4, "c": 3, "d": 3, "e": 1})
    held: Counter[int] = Counter()
    for fold in range(3):
        split = manifest.with_fold(made, fold, 3, seed=0)
        val = split.where("val")
        assert {r.group for r in val}.isdisjoint({r.group for r in split.where("train")})
        assert 5 <= len(val) <= 6
        held.update(r.number for r in val)
    assert held == Counter(range(1, 17))
    assert [len(manifest.with_fold(made, i, 5, seed=0).where("val")) for i in range(5)] == [5, 4, 3, 3, 1]
    for fold, folds in ((3, 3), (-1, 3), (0, 6), (0, 1)):
        with pytest.raises(DataError, match=r"data.folds?: "):
            manifest.with_fold(made, fold, folds, seed=0)


def test_a_val_split_is_taken_from_train_by_group(tmp_path: Path) -> None:
    lines = [f"{g} {i},0,,{g},{'test' if g == 'z' else 'train'}" for g in "abcdefghijz" for i in range(3)]
    made = table(tmp_path, *lines, header="text,place,file,group,split")
    split = manifest.with_val(made, 0.2, seed=1)
    sizes = {name: len(split.where(name)) for name in manifest.SPLITS}
    assert sizes == {"train": 24, "val": 6, "test": 3}
    assert len({r.group for r in split.where("val")}) == 2
    assert {r.group for r in manifest.with_val(made, 0.2, seed=2).where("val")} != {r.group for r in split.where("val")}
    with pytest.raises(DataError, match="has val rows of its own"):
        manifest.with_val(split, 0.2, seed=1)
    with pytest.raises(DataError, match=r"no val rows; it has .*; data.val_share takes some of the train rows"):
        Folder(root=str(tmp_path), split="val")
    assert len(Folder(root=str(tmp_path), split="val", val_share=0.2, seed=1)) == 6
    assert len(Folder(root=str(tmp_path), split="test", val_share=0.2)) == 3


def test_cells_lead_nowhere_else(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    np.save(tmp_path / "secret.npy", np.ones(4))
    np.save(inside / "own.npy", np.ones(4))
    for cell in ("../secret.npy", str(tmp_path / "secret.npy")):
        with pytest.raises(DataError, match="leads out of the root"):
            manifest.Vectors(table(inside, f"x,0,{cell},g"), "file")
    np.save(inside / "wide.npy", np.ones(5))
    vectors = manifest.Vectors(made := table(inside, "x,0,own.npy,g", "y,0,wide.npy,g"), "file")
    with pytest.raises(DataError, match="row 2: vectors of width 5, expected 4"):
        vectors.of(made.rows[1])
