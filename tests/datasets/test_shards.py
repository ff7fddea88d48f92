"""Tar shards as samples: those that we packed give what the folder gave, those of others what their library reads."""

from __future__ import annotations

import io
import json
import os
import tarfile
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from torch import Tensor

from kinetext import video
from kinetext.apps.packing import Packing, pack
from kinetext.datasets.folder import Folder
from kinetext.datasets.loader import Collate, train_loader
from kinetext.datasets.shards import Shards
from kinetext.manifest.tars import Pieces
from kinetext.types import DataError

TABLE = """file_name,text,start,end,group,split,weight,label,tags,score
a.mp4,a kick,,,g1,train,2,kick,fast|low,1.5
b.mp4,,1,2,g2,train,,hug,,
c.mp4,a fall,,,g3,val,,,slow,2
,only words,,,g4,train,0.5,kick,,
sub/d.e.mp4,踢,0,3.5,g5,train,,kick,fast,-1
"""
OPTIONS = {"targets": ("label", "tags", "score"), "multi": ("tags",), "numeric": ("score",)}


leaves_files_open = pytest.mark.filterwarnings(  # the library does
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def moving(seed: int, num_frames: int = 20) -> Tensor:
    """Blocks of colour of which some change from frame to frame."""
    blocks = torch.rand(3, num_frames, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    (root / "sub").mkdir()
    for index, name in enumerate(("a", "b", "c", "sub/d.e")):
        video.write(root / f"{name}.mp4", moving(index), fps=5)
    (root / "metadata.csv").write_text(TABLE, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def exact(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "exact"
    pack(root, out, Packing(size=20, fps=5, stored="exact"))
    return out


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_exact_pack_gives_what_its_folder_gives(root: Path, exact: Path, split: str) -> None:
    options = {"sampling": "random", "clip_seconds": 0.9, "flip": True, "crop_jitter": 0.2, "num_frames": 3, "size": 16}
    folder = Folder(root=str(root), split=split, **options, **OPTIONS)  # type: ignore[arg-type]
    shards = Shards(root=str(exact), split=split, **options, **OPTIONS)  # type: ignore[arg-type]
    if split == "val":  # read at 16 pixels; packed at 20
        folder = Folder(root=str(root), split=split, **(options | {"size": 20}), **OPTIONS)  # type: ignore[arg-type]
        shards = Shards(root=str(exact), split=split, **(options | {"size": 20, "crop_jitter": 0}), **OPTIONS)  # type: ignore[arg-type]
    assert len(shards) == len(folder)
    assert (shards.targets, shards.splits, shards.fps) == (folder.targets, folder.splits, folder.fps)
    assert list(shards.texts()) == list(folder.texts()) and shards.counts("tags") == folder.counts("tags")
    assert shards.numbers("score") == folder.numbers("score") and shards.video_shape == folder.video_shape
    for draw in range(3 * len(folder)):
        one, two = folder[draw], shards[draw]
        assert (one.key, one.text, one.labels, one.weight, one.group) == (
            two.key, two.text, two.labels, two.weight, two.group,
        )  # fmt: skip
        assert (one.video is None) == (two.video is None)
        assert one.video is None or two.video is None or torch.equal(one.video, two.video)


def test_jpegs_are_near_and_fewer_frames_are_the_same_ones(root: Path, tmp_path: Path) -> None:
    for name, packing in (("few", Packing(size=20, num_frames=5)), ("grey", Packing(size=20, fps=5, channels=1))):
        pack(root, tmp_path / name, packing)
    folder, few = (
        Folder(root=str(root), num_frames=5, size=20),
        Shards(root=str(tmp_path / "few"), num_frames=5, size=20),
    )
    grey = Shards(root=str(tmp_path / "grey"), num_frames=5, size=20, channels=1)
    of_colour = Shards(root=str(tmp_path / "few"), num_frames=5, size=20, channels=1)
    for index in (0, 1, 3):
        wanted, found = folder[index].video, few[index].video
        assert wanted is not None and found is not None
        assert (wanted - found).square().mean() < 1e-3  # 36 dB of a range of 2, of blocks of pure colours
        assert not torch.equal(wanted, found)
        assert torch.allclose(grey[index].video, of_colour[index].video, atol=0.06)  # type: ignore[arg-type]
    assert few.fingerprint(0) and few.fingerprint(0) != few.fingerprint(1)
    assert few.fingerprint(2) == "" and few.still(2).text == "only words"


def test_what_was_packed_otherwise_is_refused(root: Path, exact: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "few", Packing(size=16, num_frames=4, channels=1, fit="pad"))
    for options, said in (
        ({"size": 24}, "size: 24, but .* was packed with 20; pack it again with --size 24"),
        ({"size": 20, "crop_jitter": 0.5}, "size: 20 and crop_jitter 0.5 take 40 pixels"),
        ({"fit": "squash"}, "fit: 'squash', but .* was packed with 'crop'"),
        ({"region": (0.0, 0.0, 0.5, 1.0)}, "region: .* was packed with"),
        ({"val": "x.tar"}, "val and test: 'x.tar', but .* is a pack"),
        ({"group": ""}, "group: '', but .* is a pack, which has its groups; expected 'group'"),
        ({"split": "test"}, "has no test rows"),
        ({"targets": ("labels",)}, "no label column 'labels', did you mean 'label'"),
        ({"sampling": "random"}, "needs clip_seconds"),
    ):
        with pytest.raises(DataError, match=said):
            Shards(root=str(exact), **{"size": 16, **options})  # type: ignore[arg-type]
    few = str(tmp_path / "few")
    with pytest.raises(DataError, match=r"channels: 3, but .* was packed with 1"):
        Shards(root=few, size=16, fit="pad", num_frames=4)
    with pytest.raises(DataError, match=r"num_frames: 8, but .* has 4 packed frames of a.mp4; pack it again with more"):
        Shards(root=few, size=16, fit="pad", channels=1, num_frames=8)
    with pytest.raises(DataError, match=r"num_frames: 4, but .* has 2 packed frames"):
        Shards(root=few, size=16, fit="pad", channels=1, num_frames=4, clip_seconds=2.0)
    # a clip that never had more frames repeats them, as read from its file
    assert Shards(root=str(exact), num_frames=32, size=16)[0].video is not None


def test_a_changed_byte_is_named_when_it_is_read(exact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exact.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    damaged = Shards(root=str(copy), size=16)
    with pytest.raises(DataError, match=r"shard-000000.tar: a.mp4: damaged: the CRC-32"):
        _ = damaged[0]
    assert damaged[1].video is not None
    shard.write_bytes(data[:-600])
    with pytest.raises(DataError, match=r"shard-000000.tar: .* bytes are there, expected"):
        Shards(root=str(copy), size=16)
    shard.write_bytes((exact / shard.name).read_bytes())
    for name in ("rows.parquet", "index.parquet"):  # a label, say, that would be another
        table = (exact / name).read_bytes()
        (copy / name).write_bytes(table[:200] + bytes([table[200] ^ 1]) + table[201:])
        with pytest.raises(DataError, match=rf"{name}: damaged: its SHA-256"):
            Shards(root=str(copy), size=16)
        (copy / name).write_bytes(table)
    (copy / "pack.json").unlink()
    with pytest.raises(DataError, match=r"a folder without pack.json"):
        Shards(root=str(copy), size=16)


def test_workers_and_a_resumed_training_change_nothing(exact: Path) -> None:
    data = Shards(root=str(exact), num_frames=4, size=16, flip=True)
    collate = Collate(None, (), data.video_shape)
    alone = list(islice(train_loader(data, collate, batch=3, seed=0, workers=0), 6))
    helped = list(islice(train_loader(data, collate, batch=3, seed=0, workers=2, start=2), 4))
    for one, two in zip(alone[2:], helped, strict=True):
        assert one.keys == two.keys and torch.equal(one.video, two.video)


@leaves_files_open
def test_webdataset_reads_what_was_packed(root: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "jpeg", Packing(size=20, num_frames=5))
    pack(root, tmp_path / "exact", Packing(size=20, num_frames=5, stored="exact"))
    ours = Shards(root=str(tmp_path / "jpeg"), num_frames=5, size=20)
    bits = Shards(root=str(tmp_path / "exact"), num_frames=5, size=20)
    place = 0
    for theirs, array in zip(
        *(
            webdataset.WebDataset(str(tmp_path / name / "shard-000000.tar"), shardshuffle=False).decode("rgb8")
            for name in ("jpeg", "exact")
        ),
        strict=True,
    ):
        if theirs["json"]["split"] != "train":
            continue
        sample, exactly = ours[place], bits[place]
        place += 1
        assert theirs["json"]["key"] == sample.key and theirs["json"].get("text") == sample.text
        assert theirs["json"]["weight"] == sample.weight
        if sample.video is None:
            continue
        frames = np.stack([theirs[f"{number:03}.jpg"] for number in range(5)])
        assert np.array_equal(frames, video.to_bytes(sample.video).permute(1, 2, 3, 0).numpy())
        assert exactly.video is not None
        assert np.array_equal(array["npy"], video.to_bytes(exactly.video).permute(1, 2, 3, 0).numpy())
    assert place == len(ours) == 4


def written_by_webdataset(root: Path, folder: Path) -> None:
    """Two tars of mp4, txt, json and cls, in the library's own hand; one sample has a name longer than a header holds."""
    names = {"one": "a", "two": "b", f"{'deep/' * 40}three": "c", "four": "sub/d.e"}
    for shard in range(2):
        with webdataset.TarWriter(str(folder / f"data-{shard:02}.tar")) as writer:
            for number, (key, name) in list(enumerate(names.items()))[2 * shard : 2 * shard + 2]:
                writer.write(
                    {
                        "__key__": key,
                        "mp4": (root / f"{name}.mp4").read_bytes(),
                        "txt": f"clip {number}",
                        "cls": number % 2,
                        "json": {
                            "group": f"g{number}",
                            "tags": ["x", "y"][: number % 3],
                            "more": {"deep": [1]},
                            "start": 7,
                        },
                    }
                )


@leaves_files_open
def test_what_webdataset_writes_is_read_as_it_reads_it(
    root: Path, tmp_path: Path, own_cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by_webdataset(root, tmp_path)
    pattern = f"{tmp_path}/data-{{00..01}}.tar"
    with webdataset.TarWriter(str(tmp_path / "val.tar")) as writer:
        writer.write({"__key__": "five", "txt": "clip 5"})
    val = str(tmp_path / "val.tar")
    data = Shards(root=pattern, val=val, targets=("cls", "tags"), multi=("tags",), num_frames=4, size=16)
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False).decode())
    assert len(data) == len(theirs) == 4 and data.splits == ("train", "val") and data.fps == 1.0
    for index, (sample, their) in enumerate(zip((data[i] for i in range(4)), theirs, strict=True)):
        assert sample.key.endswith(f".tar/{their['__key__']}") and sample.text == their["txt"] == f"clip {index}"
        assert sample.labels.get("cls") == (str(their["cls"]),)
        assert sample.labels.get("tags", ()) == tuple(their["json"]["tags"]) and data.rows[index].group == f"g{index}"
        assert sample.video is not None
        file = tmp_path / "their.mp4"
        file.write_bytes(their["mp4"])
        assert torch.equal(sample.video, video.read_clip(file, num_frames=4, size=16))
    # the index is made once: what it stands on are the tars' names, sizes and times
    monkeypatch.setattr("kinetext.manifest.webdataset.pieces", None)
    again = Shards(root=pattern, val=val, num_frames=4, size=16)
    assert again.still(3).text == "clip 3"


def test_tars_elsewhere_are_fetched_once(root: Path, tmp_path: Path, own_cache: None) -> None:
    written_by_webdataset(root, tmp_path)
    disk = fsspec.filesystem("memory")
    for shard in range(2):
        disk.pipe(f"/there/data-{shard:02}.tar", (tmp_path / f"data-{shard:02}.tar").read_bytes())
    options = {"root": "memory://there/data-{00..01}.tar", "num_frames": 2, "size": 16}
    here = Shards(**options)  # type: ignore[arg-type]
    assert {here[i].text for i in range(len(here))} < {f"clip {i}" for i in range(4)}
    disk.rm("/there", recursive=True)
    assert Shards(**options)[0].text == here[0].text  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"memory://there/no\.tar: "):
        Shards(root="memory://there/no.tar")


def test_frames_as_pictures_and_our_own_tars_by_name(root: Path, exact: Path, tmp_path: Path, own_cache: None) -> None:
    """A pack is a WebDataset: its tars alone, without the index, give the same clips."""
    tars = Shards(root=str(exact / "shard-*.tar"), num_frames=20, size=20, targets=("label",))
    known = Shards(root=str(exact), num_frames=20, size=20, targets=("label",))
    assert len(tars) == len(known) and tars.splits == known.splits
    for index in range(len(known)):
        one, two = tars[index], known[index]
        assert (one.text, one.labels, one.weight) == (two.text, two.labels, two.weight)
        assert one.video is two.video is None or torch.equal(one.video, two.video)  # type: ignore[arg-type]
    with pytest.raises(
        DataError, match=r"shard-000000.tar: .*: frames of 20x20, expected squares of 24 pixels or more"
    ):
        _ = Shards(root=str(exact / "shard-*.tar"), num_frames=20, size=24)[0]
    picture = io.BytesIO()
    Image.new("RGB", (32, 24), (255, 0, 0)).save(picture, "PNG")
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name, data in (
            ("cat.png", picture.getvalue()),
            ("cat.json", json.dumps({"split": "val", "what": "cat"}).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pytest.raises(DataError, match=r"group: no sample of .*images\.tar has 'who'; they have split, what"):
        Shards(root=str(tmp_path / "images.tar"), split="val", group="who")
    still = Shards(root=str(tmp_path / "images.tar"), split="val", num_frames=2, size=8, targets=("what",))[0]
    assert still.video is not None and still.labels == {"what": ("cat",)}
    assert torch.allclose(still.video[:, :, 4, 4].T, torch.tensor([1.0, -1.0, -1.0]).expand(2, 3), atol=0.02)


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("first", ["mp4", "npy"])
def test_features_beside_a_clip_are_not_taken_for_it(root: Path, tmp_path: Path, own_cache: None, first: str) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((7, 5), np.float32))
    members = {"mp4": (root / "a.mp4").read_bytes(), "npy": array.getvalue(), "json": b'{"split": "train"}'}
    order = [first, *(name for name in members if name != first)]
    write_tar(tmp_path / "mixed.tar", {f"s.{name}": members[name] for name in order})
    mixed = Shards(root=str(tmp_path / "mixed.tar"), num_frames=4, size=16)
    assert torch.equal(mixed[0].video, video.read_clip(root / "a.mp4", num_frames=4, size=16))  # type: ignore[arg-type]
    assert mixed.fps == 1.0  # 4 frames of 4 seconds
    write_tar(tmp_path / "features.tar", {f"s.{name}": members[name] for name in ("npy", "json")})
    with pytest.raises(DataError, match=r"features.tar: .*/s: .*array of float32 \(7, 5\), expected uint8"):
        _ = Shards(root=str(tmp_path / "features.tar"), num_frames=4, size=16)[0]
    write_tar(tmp_path / "broken.tar", {"s.mp4": b"no video", "s.json": members["json"]})
    with pytest.raises(DataError, match=r"broken.tar: .*/s: "):
        Shards(root=str(tmp_path / "broken.tar"), num_frames=4, size=16)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.tar", "no tar"),
        ("", "root: '', expected a folder that"),
        ("data-{0..2.tar", "braces that don't fit"),
        ("text.tar", "can't be read as a tar"),
        ("packed.tar.gz", "can't be read as a tar without compression"),
        ("cut.tar", "can't be read as a tar|cut off"),
        ("twice.tar", "a.txt is there twice"),
        ("json.tar", "a.json is not JSON"),
        ("empty.tar", "no samples"),
        ("split.tar", r"split.tar: a: split 'dev', expected one of .*did you mean 'val'"),
        ("some.tar", "some.tar: b: has no split, and other samples have one"),
        ("ends.tar", "ends.tar: can't be read .*cut off, or damaged: no end of the tar at byte 2,048"),
        ("neither.tar", "neither.tar: b: has neither a clip nor a text; its members are cls, flac"),
        ("half.tar", r"half.tar: a: text 'cut .*' has half a character"),
        ("data-{5..3}.tar", r"root: \{5..3\} names no tar, expected the lower number first"),
    ],
)
def test_broken_tars_are_named(tmp_path: Path, own_cache: None, name: str, said: str) -> None:
    def write(file: str, mode: str, *members: tuple[str, bytes]) -> None:
        with tarfile.open(tmp_path / file, mode) as tar:  # type: ignore[call-overload]
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    (tmp_path / "text.tar").write_bytes(b"not a tar" * 200)
    write("packed.tar.gz", "w:gz", ("a.txt", b"a"))
    write("whole.tar", "w", ("a.txt", b"a"), ("b.txt", b"b" * 4000))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:3000])
    write("twice.tar", "w", ("a.txt", b"a"), ("a.txt", b"a"))
    write("json.tar", "w", ("a.json", b"{"), ("a.txt", b"a"))
    write("empty.tar", "w", ("nothing", b"a"))
    write("split.tar", "w", ("a.json", b'{"split": "dev"}'), ("a.txt", b"a"))
    write("some.tar", "w", ("a.json", b'{"split": "val"}'), ("a.txt", b"a"), ("b.txt", b"b"))
    write("ends.tar", "w", ("a.txt", b"a"), ("b.txt", b"b"))
    (tmp_path / "ends.tar").write_bytes((tmp_path / "ends.tar").read_bytes()[:2048])
    write("neither.tar", "w", ("a.txt", b"a"), ("b.cls", b"1"), ("b.flac", b"x"))
    write("half.tar", "w", ("a.json", rb'{"text": "cut \ud83d"}'))
    with pytest.raises(DataError, match=said):
        Shards(root=str(tmp_path / name) if name else "")


def test_cells_of_tars_are_as_of_tables(tmp_path: Path, own_cache: None) -> None:
    said = {"a": '{"grade": NaN, "sure": true, "tags": ["x", "y"], "deep": {"z": 1}}', "b": '{"grade": 2.5}'}
    members = {f"{key}.json": text.encode() for key, text in said.items()}
    members |= {f"{key}.{name}": data for key in "ab" for name, data in (("cls", b"1\n"), ("txt", key.encode()))}
    write_tar(tmp_path / "a.tar", dict(sorted(members.items())))
    data = Shards(root=str(tmp_path / "a.tar"), folds=2, targets=("cls", "grade"))
    one, two = data.selected.table.rows
    assert one.labels == {"sure": "true", "tags": "x|y", "cls": "1"} and two.labels == {"grade": "2.5", "cls": "1"}


def test_a_member_is_read_though_the_system_gives_less_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux gives at most 2,147,479,552 bytes, here a thousand."""
    content, pread = bytes(range(256)) * 20, os.pread
    (tmp_path / "a.tar").write_bytes(content)
    monkeypatch.setattr(os, "pread", lambda file, size, start: pread(file, min(size, 1000), start))
    pieces = Pieces([tmp_path / "a.tar"])
    assert pieces.read(0, 3, 5000) == content[3:5003]
    with pytest.raises(DataError, match=r"a.tar: ends at byte 5120, expected 3 more"):
        pieces.read(0, 123, 5000)
