"""Packing: the same bytes however it is done, nothing done twice, and every damage found and named."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kinetext import cli, manifest, video
from kinetext.apps.packing import Packing, pack, verify
from kinetext.datasets.folder import Folder
from kinetext.datasets.shards import Shards
from kinetext.types import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    rows = ["file_name,text,group,label"]
    for number in range(10):
        dice = torch.Generator().manual_seed(number)
        frames = (torch.rand(8, 80, 96, 3, generator=dice) * 255).to(torch.uint8)
        video.write(root / f"{number}.mp4", frames, fps=8)
        rows.append(f"{number}.mp4,clip {number},g{number},{'odd' if number % 2 else 'even'}")
    rows.append(",a text alone,g10,odd")
    (root / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


SMALL = Packing(size=64, num_frames=8, stored="exact", shard_mb=1)  # a sample takes 100 kB


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "whole"
    seen: list[tuple[int, int]] = []
    assert pack(root, out, SMALL, progress=lambda done, total: seen.append((done, total))) == 2
    assert seen == [(number, 11) for number in range(1, 12)]
    return out


def test_a_pack_is_tars_and_tables_and_what_made_it(root: Path, whole: Path) -> None:
    names = ["index.parquet", "pack.json", "rows.parquet", "shard-000000.tar", "shard-000001.tar"]
    assert list(content(whole)) == names
    recipe = json.loads((whole / "pack.json").read_text(encoding="utf-8"))
    assert recipe["options"]["size"] == 64 and recipe["source"]["rows"] == 11
    assert [shard["samples"] for shard in recipe["shards"]] == [9, 2]
    assert str(root) not in (whole / "pack.json").read_text(encoding="utf-8")
    with tarfile.open(whole / "shard-000000.tar") as tar:
        assert tar.getnames()[:2] == ["00000001.npy", "00000001.json"]
        first = json.load(tar.extractfile("00000001.json"))  # type: ignore[arg-type]
    assert first == {
        "key": "0.mp4", "file_name": "0.mp4", "text": "clip 0", "group": "g0", "label": "even", "weight": 1.0,
        "clip": {"frames": 8, "seconds": 1.0},
    }  # fmt: skip


def test_the_split_of_a_pack_is_that_of_its_folder(root: Path, tmp_path: Path) -> None:
    """Made beside the table before, or beside the pack after; nothing is written into the folder of the clips."""
    (tmp_path / "clips").mkdir()
    for path in root.iterdir():
        (tmp_path / "clips" / path.name).write_bytes(path.read_bytes())
    small = Packing(size=8, num_frames=1)
    pack(tmp_path / "clips", tmp_path / "before", small)
    assert not (tmp_path / "clips" / "splits.csv").exists()
    folder = {split: Folder(root=str(tmp_path / "clips"), split=split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    pack(tmp_path / "clips", tmp_path / "after", small)
    for split, data in folder.items():
        for name in ("before", "after"):
            shards = Shards(root=str(tmp_path / name), split=split, num_frames=1, size=8)  # type: ignore[arg-type]
            assert [row.number for row in shards.rows] == [row.number for row in data.rows]
    assert verify(tmp_path / "before") == []


def test_the_split_of_a_folder_without_a_table_goes_along(root: Path, tmp_path: Path) -> None:
    """The one in the folder, not one of the folder above it, which has nothing to do with it."""
    clips = tmp_path / "above" / "clips"
    for number in range(6):
        (clips / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        (clips / "ab"[number % 2] / f"{number}.mp4").write_bytes((root / f"{number}.mp4").read_bytes())
    Folder(root=str(clips))  # writes a split, of which the next lines make another
    header, *lines = (clips / "splits.csv").read_text().splitlines()
    cells = [line.rpartition(",") for line in lines]
    other = [f"{name},{cells[at - 1][2]}" for at, (name, _, _) in enumerate(cells)]
    (clips / "splits.csv").write_text("\n".join([header, *other, ""]))
    data = Folder(root=str(clips))
    pack(clips, tmp_path / "out", Packing(size=8, num_frames=1))
    shards = Shards(root=str(tmp_path / "out"), num_frames=1, size=8)
    assert [row.number for row in shards.rows] == [row.number for row in data.rows]
    (clips / "splits.csv").rename(clips.parent / "splits.csv")
    pack(clips, tmp_path / "without", Packing(size=8, num_frames=1))
    assert sorted(path.name for path in clips.iterdir()) == ["a", "b"]


def test_lists_of_classes_go_along(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "tags": ["a", "b"][: n % 3]} for n in range(6)]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(tmp_path / "a", tmp_path / "out", Packing(size=8, num_frames=1))
    packed = Shards(root=str(tmp_path / "out"), targets=["tags"], multi=["tags"], num_frames=1, size=8)
    folder = Folder(root=str(tmp_path / "a"), targets=["tags"], multi=["tags"], num_frames=1, size=8)
    assert [row.labels for row in packed.rows] == [row.labels for row in folder.rows]


def test_workers_change_no_byte(root: Path, whole: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "out", SMALL, workers=2)
    assert content(tmp_path / "out") == content(whole)


def test_an_interrupted_pack_goes_on(root: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 11:  # the first shard is whole by then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(root, out, SMALL, progress=stop)
    assert (out / "shard-000000.tar").is_file() and not (out / "pack.json").exists()
    (out / ".shard-000001.tar.1.2.tmp").write_bytes(b"of a process that was killed")
    with pytest.raises(DataError, match=r"pack.json: can't be read .* a pack that was interrupted has none"):
        verify(out)
    with pytest.raises(DataError, match="was packed with size 64, now it is 32; choose another folder"):
        pack(root, out, Packing(size=32, num_frames=8, stored="exact", shard_mb=1))
    seen: list[int] = []
    read: list[str] = []
    real = video.read_clip
    monkeypatch.setattr(video, "read_clip", lambda path, **how: (read.append(path.name), real(path, **how))[1])
    pack(root, out, SMALL, progress=lambda done, total: seen.append(done))
    assert seen == [10, 11] and read == ["9.mp4"]
    assert content(out) == content(whole)
    pack(root, out, SMALL)  # is whole
    assert content(out) == content(whole)
    with pytest.raises(DataError, match="was packed with quality 95, now it is 50"):
        pack(root, out, Packing(size=64, num_frames=8, stored="exact", shard_mb=1, quality=50))


def test_a_pack_without_a_whole_shard_begins_anew(root: Path, whole: Path, tmp_path: Path) -> None:
    """Nothing is lost by it: a table that stopped the first try can be mended, and options changed."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(root, tmp_path / "out", Packing(size=32, num_frames=8), progress=stop)
    (tmp_path / "out" / ".shard-000000.tar.1.2.tmp").write_bytes(b"of a process that was killed")
    pack(root, tmp_path / "out", SMALL)
    assert content(tmp_path / "out") == content(whole)


def test_a_table_names_its_folder(root: Path, whole: Path, tmp_path: Path) -> None:
    pack(root / "metadata.csv", tmp_path / "out", SMALL)
    assert content(tmp_path / "out") == content(whole)
    with pytest.raises(DataError, match=r"manifest: other.csv, expected none, since .*metadata.csv is a table itself"):
        pack(root / "metadata.csv", tmp_path / "other", SMALL, table="other.csv")


def test_clips_that_change_meanwhile_are_noticed(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "clips"
    copy.mkdir()
    for path in root.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())

    def stop(done: int, total: int) -> None:
        if done == 11:  # the first shard is whole by then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(copy, tmp_path / "out", SMALL, progress=stop)
    os.utime(copy / "3.mp4", (0, 0))
    with pytest.raises(DataError, match="clips were changed since this pack was begun"):
        pack(copy, tmp_path / "out", SMALL)


def test_clips_that_change_after_a_pack_is_whole_are_noticed(root: Path, tmp_path: Path) -> None:
    """Folders of pictures too, whose own time says nothing of a picture that is written over."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes((root / "0.mp4").read_bytes())
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.new("RGB", (96, 80), (40 * number, 0, 0)).save(tmp_path / "frames" / f"{number}.bmp")
    (tmp_path / "metadata.csv").write_text("file_name,split\na.mp4,train\nb.mp4,train\nframes,train\n")
    out = tmp_path / "out"
    pack(tmp_path, out, SMALL)
    before = content(out)
    pack(tmp_path, out, SMALL)
    for path, other in (
        (tmp_path / "b.mp4", (root / "1.mp4").read_bytes()),
        (tmp_path / "frames" / "1.bmp", (tmp_path / "frames" / "2.bmp").read_bytes()),
    ):
        data = path.read_bytes()
        path.write_bytes(other)
        with pytest.raises(DataError, match="clips were changed since this pack was begun; choose another folder"):
            pack(tmp_path, out, SMALL)
        path.write_bytes(data)
    pack(tmp_path, out, SMALL)  # as it was, whenever it was written
    assert content(out) == before


def test_packs_of_earlier_code_are_told_by_what_made_them(root: Path, tmp_path: Path) -> None:
    """They have no hash of their clips, and what is not known to have changed is not said to have."""
    out, note = tmp_path / "out", tmp_path / "out" / "pack.json"
    pack(root, out, SMALL)
    recipe = json.loads(note.read_text(encoding="utf-8"))
    clips = recipe["source"].pop("clips")
    note.write_text(json.dumps(recipe), encoding="utf-8")
    pack(root, out, SMALL)
    recipe["source"]["clips"] = clips[::-1]
    recipe["versions"]["av"] = "1.0"
    note.write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(DataError, match=r"was packed with av '1\.0', now it is"):
        pack(root, out, SMALL)


def test_an_unfinished_pack_of_earlier_code_is_not_said_to_have_changed(root: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 11:  # the first shard is whole by then
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(root, tmp_path / "out", SMALL, progress=stop)
    note = tmp_path / "out" / "unfinished.json"
    begun = json.loads(note.read_text(encoding="utf-8"))
    del begun["recipe"]["source"]["clips"]
    note.write_text(json.dumps(begun | {"files": "told otherwise then"}), encoding="utf-8")
    with pytest.raises(DataError, match=r"out: was begun by earlier code, .*; choose another folder, or delete it$"):
        pack(root, tmp_path / "out", SMALL)


def test_an_unfinished_pack_of_pictures_is_not_gone_on_with_after_one_changed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.effect_noise((700, 700), 80).save(tmp_path / folder / "0.png")
    (tmp_path / "metadata.csv").write_text("file_name,split\none,train\ntwo,train\n")
    large = Packing(size=700, num_frames=1, stored="exact", shard_mb=1)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path, tmp_path / "out", large, progress=stop)
    assert (tmp_path / "out" / "shard-000000.tar").is_file()
    Image.effect_noise((700, 700), 80).save(tmp_path / "one" / "0.png")
    with pytest.raises(DataError, match="clips were changed since this pack was begun"):
        pack(tmp_path, tmp_path / "out", large)


def test_a_pack_that_is_stopped_at_its_end_is_tidied(
    root: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: Path, *_: object, **__: object) -> None:
        if path.name.startswith(("shard", "unfinished")):
            raise KeyboardInterrupt

    with monkeypatch.context() as there:
        there.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            pack(root, tmp_path / "out", SMALL)
    assert (tmp_path / "out" / "pack.json").is_file() and (tmp_path / "out" / "unfinished.json").is_file()
    pack(root, tmp_path / "out", SMALL)
    assert content(tmp_path / "out") == content(whole)


def test_columns_of_any_name_are_packed_as_they_are(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((root / "0.mp4").read_bytes())
    (tmp_path / "metadata.csv").write_text("file_name,split,key,clip\na.mp4,train,my key,my clip\n")
    pack(tmp_path, tmp_path / "out", SMALL)
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        said = json.load(tar.extractfile("00000001.json"))  # type: ignore[arg-type]
    assert (said["key"], said["clip"]) == ("my key", "my clip")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_clip_is_named_with_its_row(root: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "good.mp4").write_bytes((root / "0.mp4").read_bytes())
    (tmp_path / "bad.mp4").write_bytes((root / "1.mp4").read_bytes()[:400])
    (tmp_path / "metadata.csv").write_text("file_name,split\ngood.mp4,train\nbad.mp4,train\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"row 2: .*bad.mp4: .*mend it, or leave the row out"):
        pack(tmp_path, tmp_path / "out", SMALL, workers=workers)


@pytest.mark.parametrize("shard", [0, 1])
def test_a_flipped_byte_is_named_with_shard_and_key(whole: Path, tmp_path: Path, shard: int) -> None:
    for name, data in content(whole).items():
        (tmp_path / name).write_bytes(data)
    assert verify(tmp_path) == []
    path = tmp_path / f"shard-{shard:06}.tar"
    data = bytearray(path.read_bytes())
    data[300_000 if shard == 0 else 520] ^= 4
    path.write_bytes(data)
    (said,) = verify(tmp_path)
    assert said.startswith(f"{path}: {'00000003' if shard == 0 else '00000010'}: damaged")
    data = bytearray((whole / path.name).read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (tmp_path / "rows.parquet").write_bytes(b"x")
    assert verify(tmp_path) == [
        f"{tmp_path / 'rows.parquet'}: damaged: its SHA-256 is not that of pack.json",
        f"{path}: damaged outside of its samples",
    ]


def test_a_pack_that_lost_a_file_is_told_like_any_damage(whole: Path, tmp_path: Path) -> None:
    for name, data in content(whole).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "rows.parquet").unlink()
    (tmp_path / "index.parquet").write_bytes(b"x")
    (tmp_path / "shard-000001.tar").unlink()
    data = bytearray((whole / "shard-000000.tar").read_bytes())
    data[700] ^= 1
    (tmp_path / "shard-000000.tar").write_bytes(data)
    said = [line.removeprefix(f"{tmp_path}/") for line in verify(tmp_path)]
    assert said[:3] == [
        "index.parquet: damaged: its SHA-256 is not that of pack.json",
        "rows.parquet: is missing",
        "shard-000000.tar: damaged",
    ]
    assert said[3].startswith("shard-000001.tar: 0 bytes are there, expected") and len(said) == 4
    done = CliRunner().invoke(cli.app, ["data", "verify", str(tmp_path)])
    assert done.exit_code == 1


def test_what_packs_can_be_made_with(root: Path, tmp_path: Path) -> None:
    for options, said in (
        ({"num_frames": 4, "fps": 8.0}, "num_frames and fps: 4 and 8, expected one of them"),
        ({}, "expected one of them"),
        ({"num_frames": 4, "quality": 0}, "quality: 0, expected 1 to 100"),
        ({"num_frames": 4, "size": 0}, "size: 0, expected 1 to 4096"),
        ({"num_frames": 4, "fit": "stretch"}, "fit: 'stretch', expected one of crop"),
        ({"num_frames": 4, "region": (0.5, 0.0, 0.5, 1.0)}, "region: "),
    ):
        with pytest.raises(DataError, match=said):
            Packing(**{"size": 8, **options})  # type: ignore[arg-type]
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="has something else in it"):
        pack(root, tmp_path, SMALL)


def test_the_command_line(root: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "out", CliRunner().invoke
    made = run(
        cli.app, ["data", "pack", str(root), str(out), "--size", "32", "--fps", "4", "--region", "0", "0", "1", "0.5"]
    )
    assert made.exit_code == 0 and made.output.strip().endswith("out: 1 shard")
    options = json.loads((out / "pack.json").read_text(encoding="utf-8"))["options"]
    assert (options["fps"], options["num_frames"], options["region"]) == (4.0, 0, [0.0, 0.0, 1.0, 0.5])
    assert run(cli.app, ["data", "verify", str(out)]).exit_code == 0
    data = bytearray((out / "shard-000000.tar").read_bytes())
    data[600] ^= 1
    (out / "shard-000000.tar").write_bytes(data)
    damaged = run(cli.app, ["data", "verify", str(out)])
    assert damaged.exit_code == 1 and "shard-000000.tar: 00000001: damaged" in damaged.output


def test_a_pack_is_no_folder_of_clips(tmp_path: Path) -> None:
    """Verbs that look at folders say what it is, and where to look."""
    (tmp_path / "pack.json").write_text("{}")
    with pytest.raises(DataError, match="a pack of shards; expected the folder that it was made of"):
        manifest.load(tmp_path)
