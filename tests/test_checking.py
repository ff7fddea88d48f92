"""What stops a training on a dataset that is no folder with a table: leaks, as in a folder."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

import datasets as library
from kinetext import assemble
from kinetext.config import Recipe
from kinetext.datasets.shards import Shards
from kinetext.types import DataError

pytestmark = pytest.mark.usefixtures("own_cache")

TEXTS = 'task.name = "classification"\nencoders.text.name = "transformer"\n[data]\ntargets = ["label"]\n'
CLIPS = 'task.name = "classification"\nencoders.video.name = "frame_cnn"\n[data]\ntargets = ["label"]\nnum_frames = 2\n'


def said(recipe: str, *options: str) -> list[str]:
    resolved = assemble.resolve(Recipe.parse(recipe, list(options)))
    return assemble.check(resolved, assemble.dataset(resolved))


def write_tar(path: Path, who: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, group in enumerate(who):
            cells = {"group": group, "label": "ab"[number % 2]}
            for name, data in ((f"{number}.txt", f"a text {group}"), (f"{number}.json", json.dumps(cells))):
                member = tarfile.TarInfo(f"{path.stem}{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data.encode()))


def test_a_group_in_tars_of_two_splits(tmp_path: Path) -> None:
    for folder, who in (("train", ["anna", "bo", "cy"]), ("val", ["dee", "eve", "flo"]), ("leaking", ["dee", "anna"])):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "0.tar", who)
    options = ["data.name=shards", f"data.root={tmp_path}/train/0.tar"]
    assert not any("split" in line for line in said(TEXTS, *options, f"data.val={tmp_path}/val/0.tar"))
    leaking = [*options, f"data.val={tmp_path}/leaking/0.tar"]
    with pytest.raises(
        DataError, match=r"train/0\.tar: 1 group is in more than one split \('anna'\).*data\.folds"
    ) as told:
        said(TEXTS, *leaking)
    assert "kinetext doctor" not in str(told.value) and "\n" not in str(told.value)
    said(TEXTS, *leaking, "data.folds=2")


def test_a_field_of_tars_that_is_called_group_need_not_be_one(tmp_path: Path) -> None:
    """Others mean what they like by it, such as a category that every split has."""
    for name in ("train", "val"):
        cells = [{"group": "ab"[n % 2], "label": "xy"[n % 2], "who": f"{name} {n // 2}"} for n in range(6)]
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for number, one in enumerate(cells):
                for kind, data in (("txt", f"a text {name} {number}"), ("json", json.dumps(one))):
                    member = tarfile.TarInfo(f"{number}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data.encode()))
    options = ["data.name=shards", f"data.root={tmp_path}/train.tar", f"data.val={tmp_path}/val.tar"]
    with pytest.raises(DataError, match=r"2 groups are in more than one split .*data\.group \(\"\" is none\)"):
        said(TEXTS, *options)
    for group, names in (("", [""] * 6), ("who", [f"train {n // 2}" for n in range(6)])):
        assert not any("split" in line for line in said(TEXTS, *options, f"data.group={group}"))
        tars = Shards(root=f"{tmp_path}/train.tar", val=f"{tmp_path}/val.tar", group=group)
        assert [row.group for row in tars.rows] == names
    assert Shards(root=f"{tmp_path}/train.tar", val=f"{tmp_path}/val.tar").rows[1].group == "b"


@pytest.fixture
def hub(clips: Path) -> Path:
    """The clip of the first row is that of a row of val, too, whose group is another."""
    library.disable_progress_bars()
    kinds = {"video": library.Video(decode=False)} | {name: library.Value("string") for name in ("label", "group")}
    files = sorted(clips.rglob("*.mp4"))[:3]

    def part(rows: list[tuple[int, str]]) -> library.Dataset:
        made = [
            {"video": {"bytes": files[at].read_bytes(), "path": None}, "label": "ab"[at % 2], "group": group}
            for at, group in rows
        ]
        return library.Dataset.from_list(made, features=library.Features(kinds))

    parts = {"train": part([(0, "anna"), (1, "bo")]), "validation": part([(2, "cy"), (0, "dee"), (1, "bo")])}
    library.DatasetDict(parts).save_to_disk(str(clips / "saved"))
    return clips / "saved"


def test_a_clip_and_a_group_in_two_splits_of_a_hub_dataset(hub: Path) -> None:
    options = ["data.name=hub", f"data.source={hub}"]
    with pytest.raises(DataError, match=r"1 group is in more than one split \('bo'\).*data\.group"):
        said(CLIPS, *options)
    with pytest.raises(DataError, match=r"saved: 4 rows show a clip that another split has.*data\.folds") as told:
        said(CLIPS, *options, "data.group=")
    assert "kinetext doctor" not in str(told.value)
    said(CLIPS, *options, "data.group=", "data.folds=2")
