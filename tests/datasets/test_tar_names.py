"""What samples of tars are called: by their tars, which are told apart wherever they lie."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image

from kinetext.datasets.shards import Shards

pytestmark = pytest.mark.usefixtures("own_cache")


def write_tar(path: Path, keys: list[str]) -> None:
    """A picture for each key."""
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key in keys:
            info = tarfile.TarInfo(f"{key}.png")
            info.size = len(picture.getvalue())
            tar.addfile(info, io.BytesIO(picture.getvalue()))


def test_tars_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tar(tmp_path / folder / "0.tar", [f"{i}" for i in range(3)])
        fsspec.filesystem("memory").pipe(f"/{folder}/0.tar", (tmp_path / folder / "0.tar").read_bytes())
    for home in (f"{tmp_path}/", "memory://"):
        train, val = (Shards(root=f"{home}a/0.tar", val=f"{home}b/0.tar", split=s) for s in ("train", "val"))
        assert train.rows[0].file == "0.tar/0" and val.rows[0].file == "val/0.tar/0"
        assert not {train[i].group for i in range(3)} & {val[i].group for i in range(3)}
        assert Shards(root=f"{home}a/0.tar", folds=2).selected.table.rows[0].file == "0.tar/0"
        both = Shards(root=f"{home}{{a,b}}/0.tar", val=f"{home}a/0.tar", test=f"{home}b/0.tar")
        assert [row.file for row in both.rows[::3]] == ["a/0.tar/0", "b/0.tar/0"]
        rows = both.selected.table.rows  # one tar in two splits has one name: training must not begin with it
        assert [row.file for row in rows[6:]] == [row.file for row in rows[:6]]


def test_val_is_the_same_wherever_the_tars_of_test_lie(tmp_path: Path) -> None:
    """Rows are drawn by their names, and those of train must not depend on what else there is."""
    places = ["train/0.tar", "train/1.tar", "train/test.tar", "test/0.tar", "test/1.tar", "deep/er/0.tar"]
    for at, name in enumerate(places):
        write_tar(tmp_path / name, [f"{at}-{i}" for i in range(12)])
    options: dict[str, Any] = {"root": f"{tmp_path}/train/[01].tar", "val_share": 0.2, "num_frames": 1, "size": 8}
    found = [
        [row.file for row in Shards(split="val", test=f"{tmp_path}/{name}", **options).rows]
        for name in [*places[2:], "{test,deep/er}/0.tar"]
    ]
    assert found[0] and all(one == found[0] for one in found)


def test_urls_are_told_apart_by_what_tells_their_server(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", ["a", "b"])
    disk = fsspec.filesystem("memory")
    for name in ("0.tar?of=1", "0.tar?of=2", "deep/0.tar?of=1"):
        disk.pipe(f"/get/{name}", (tmp_path / "0.tar").read_bytes())
    for root, found in (
        ("memory://get/0.tar?of=1", ["0.tar"]),
        ("memory://get/0.tar?of={1,2}", ["0.tar?of=1", "0.tar?of=2"]),
        ("memory://get/{,deep/}0.tar?of=1", ["0.tar", "deep/0.tar"]),
    ):
        rows = Shards(root=root, folds=2, num_frames=1, size=8).selected.table.rows
        assert [row.file for row in rows] == [f"{name}/{key}" for name in found for key in "ab"]
