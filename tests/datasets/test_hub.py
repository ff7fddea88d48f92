"""A dataset of the library ``datasets`` as samples: the same as the folder that it was made from."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch

import datasets as library
from kinetext import video
from kinetext.datasets import hub as module
from kinetext.datasets.folder import Folder
from kinetext.datasets.hub import Hub
from kinetext.types import DataError

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS: dict[str, list[Any]] = {
    "file_name": ["0.mp4", "1.mp4", "", "3.mp4", "4.mp4", "5.mp4"],
    "caption": ["a kick", None, "only words", "踢", "a fall", "stay"],
    "kind": ["kick", "hug", "kick", "", "fall", "hug"],
    "tags": ["fast|low", "", "", "slow", "fast", ""],
    "score": [1.5, None, 2.0, -1.0, 0.0, 7.0],
    "start": [None, 0.5, None, None, None, None],
    "end": [None, 1.5, None, None, None, None],
    "who": ["g0", "g1", "g2", "g3", "g4", "g5"],
    "weight": [1.0, 2.0, 1.0, 1.0, 1.0, 1.0],
}
KINDS = ["kick", "hug", "fall"]
SPLITS = {"train": range(4), "val": range(4, 6)}
OPTIONS: dict[str, Any] = {
    "text": "caption", "targets": ("kind", "tags", "score"), "multi": ("tags",), "numeric": ("score",),
    "num_frames": 3, "size": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library.disable_progress_bars()
    root = tmp_path_factory.mktemp("clips")
    for number in range(6):
        dice = torch.Generator().manual_seed(number)
        video.write(root / f"{number}.mp4", (torch.rand(16, 40, 48, 3, generator=dice) * 255).to(torch.uint8), fps=8)
    lines = [",".join([*({"who": "group", "caption": "text"}.get(name, name) for name in ROWS), "split"])]
    for at in range(6):
        cells = ["" if cells[at] is None else str(cells[at]) for cells in ROWS.values()]
        lines.append(",".join([*cells, "train" if at < 4 else "val"]))
    (root / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return root


def part(root: Path, rows: range, *, as_bytes: bool) -> Any:
    """Some rows as the library keeps them: classes as numbers, several classes as a list."""

    def clip(name: str) -> Any:
        return (
            None if not name else {"bytes": (root / name).read_bytes(), "path": name} if as_bytes else str(root / name)
        )

    columns = {name: [cells[at] for at in rows] for name, cells in ROWS.items() if name != "file_name"}
    columns["kind"] = [KINDS.index(kind) if kind else -1 for kind in columns["kind"]]
    columns["tags"] = [tags.split("|") if tags else [] for tags in columns["tags"]]
    columns["clip"] = [clip(ROWS["file_name"][at]) for at in rows]
    columns["extra"] = [[[1.0]] for _ in rows]  # no label and no text; not looked at
    text, number = library.Value("string"), library.Value("float64")
    features = {
        "caption": text, "kind": library.ClassLabel(names=KINDS), "tags": library.List(text), "score": number,
        "start": number, "end": number, "who": text, "weight": number, "clip": library.Video(),
        "extra": library.List(library.List(number)),
    }  # fmt: skip
    return library.Dataset.from_dict(columns, features=library.Features(features))


def saved(root: Path, folder: Path, how: str) -> str:
    """The dataset on disk, in one of its forms; files that it names lie below it."""
    below = root if how != "paths" else Path(shutil.copytree(root, folder / "data" / "clips"))
    parts = {name: part(below, rows, as_bytes=how != "paths") for name, rows in SPLITS.items()}
    if how != "bytes":
        for name, one in parts.items():
            one.to_parquet(str(folder / "data" / f"{'validation' if name == 'val' else name}-00000-of-00001.parquet"))
    else:
        renamed = {"train": parts["train"], "dev": parts["val"]}
        library.DatasetDict(renamed).save_to_disk(str(folder / "data"))
    return str(folder / "data")


@pytest.mark.parametrize("how", ["bytes", "paths", "parquet"])
def test_it_gives_what_the_folder_gives(root: Path, tmp_path: Path, how: str) -> None:
    source = saved(root, tmp_path, how)
    for split in ("train", "val"):
        more = {"flip": True, "crop_jitter": 0.3, "sampling": "random", "clip_seconds": 0.5}
        folder = Folder(root=str(root), split=split, **(OPTIONS | {"text": "text"}), **more)  # type: ignore[arg-type]
        hub = Hub(source=source, split=split, video="clip", group="who", **OPTIONS, **more)  # type: ignore[arg-type]
        assert len(hub) == len(folder) and hub.splits == folder.splits == ("train", "val")
        assert (hub.targets, hub.video_shape, hub.fps) == (folder.targets, folder.video_shape, folder.fps)
        assert list(hub.texts()) == list(folder.texts()) and hub.counts("tags") == folder.counts("tags")
        assert hub.numbers("score") == folder.numbers("score")
        for draw in range(2 * len(folder)):
            one, two = folder[draw], hub[draw]
            assert (one.text, one.labels, one.weight) == (two.text, two.labels, two.weight)
            assert one.video is two.video is None or torch.equal(one.video, two.video)  # type: ignore[arg-type]
    keys = [hub.still(index).key for index in range(2)]
    assert keys == ["val/000000", "val/000001"] and hub.rows[0].group == "g4"


def test_fixed_clips_have_fingerprints_of_their_content(root: Path, tmp_path: Path) -> None:
    hub = Hub(source=saved(root, tmp_path, "bytes"), video="clip", **OPTIONS)
    folder = Folder(root=str(root), **(OPTIONS | {"text": "text"}))
    assert [hub.fingerprint(i) for i in range(4)] == [folder.fingerprint(i) for i in range(4)]
    assert hub.fingerprint(2) == "" and hub[1].video is not None


def test_one_table_is_split_by_group_and_stays_so(root: Path, tmp_path: Path) -> None:
    whole = part(root, range(6), as_bytes=True)
    whole.to_parquet(str(tmp_path / "all.parquet"))
    whole.save_to_disk(str(tmp_path / "all"))
    options = {"video": "clip", "group": "who", **OPTIONS}
    found = [
        {
            split: [row.number for row in Hub(source=str(tmp_path / name), split=split, **options).rows]
            for split in ("train", "val", "test")
        }  # type: ignore[arg-type]
        for name in ("all.parquet", "all", "all")
    ]
    assert found[0] == found[1] == found[2] and sorted(chain(*found[0].values())) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(DataError, match="row 2: has neither file_name nor text"):
        Hub(source=str(tmp_path / "all"), video="", text="caption")


@pytest.mark.parametrize("as_bytes", [True, False])
def test_stretches_of_one_video_stay_together(root: Path, tmp_path: Path, as_bytes: bool) -> None:
    """Two stretches of each of six videos, and nothing that says who is in them: no video is in two splits."""
    folder = Path(shutil.copytree(root, tmp_path / "all"))
    videos = [f"{number % 6}.mp4" for number in range(12)]
    cells = [{"bytes": (folder / name).read_bytes(), "path": None} for name in videos] if as_bytes else None
    columns = {"clip": cells or [str(folder / name) for name in videos], "caption": [f"part {n}" for n in range(12)]}
    columns |= {"start": [float(n >= 6) for n in range(12)], "end": [1.0 + (n >= 6) for n in range(12)]}
    schema = library.Dataset.from_dict(columns).cast_column("clip", library.Video()).features.arrow_schema
    clips = cells or [{"bytes": None, "path": path} for path in columns["clip"]]
    pyarrow.parquet.write_table(pyarrow.table(columns | {"clip": clips}, schema=schema), folder / "all.parquet")
    options: dict[str, Any] = {
        "source": str(folder / "all.parquet"),
        "video": "clip",
        "text": "caption",
        "num_frames": 1,
        "size": 8,
    }
    found = {split: {row.number - 1 for row in Hub(split=split, **options).rows} for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert sorted(chain(*found.values())) == list(range(12)) and all(found.values())
    for rows in found.values():
        assert rows == {number for number in range(12) if number % 6 in {row % 6 for row in rows}}
    folds = [Hub(split="val", folds=3, fold=fold, **options) for fold in range(3)]
    assert [len({row.file for row in fold.rows}) for fold in folds] == [2, 2, 2]
    assert len({data.still(index).key for data in folds for index in range(4)}) == 12


def by_path(path: str, folder: Path) -> Any:
    """A dataset of one clip, of which it says no more than where it lies; the library itself would take its bytes along."""
    schema = library.Features(clip=library.Video()).arrow_schema
    table = pyarrow.table({"clip": [{"bytes": None, "path": path}]}, schema=schema)
    pyarrow.parquet.write_table(table, folder / "one.parquet")
    return library.load_dataset("parquet", data_files=str(folder / "one.parquet"), split="train")


def test_a_dataset_names_no_files_of_this_machine(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wrote it says which files are read: only those that came with it, or lie where the library keeps its own."""
    source, options = tmp_path / "data", {"video": "clip", "text": "", "num_frames": 1, "size": 8}
    source.mkdir()
    (source / "link.mp4").symlink_to(root / "0.mp4")
    for path in (root / "0.mp4", source / "../private.mp4", source / "link.mp4", "file:///etc/passwd"):
        by_path(str(path), source)
        with pytest.raises(
            DataError, match=r"clip: row 1 of .* names the file .*expected bytes, a URL .*or a file below"
        ):
            Hub(source=str(source), **options)  # type: ignore[arg-type]
    kept = Path(shutil.copytree(root, tmp_path / "kept"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", kept)
    for path, legal in ((kept / "0.mp4", True), (root / "0.mp4", False)):
        found = dict.fromkeys(("train", "validation"), by_path(str(path), source))
        with monkeypatch.context() as there:
            there.setattr(library, "load_dataset", lambda *_, found=found, **__: found)  # what it gives of the hub
            if legal:
                assert Hub(source="user/name", **options)[0].video is not None  # type: ignore[arg-type]
            else:
                with pytest.raises(DataError, match="names the file"):
                    Hub(source="user/name", **options)  # type: ignore[arg-type]


def test_what_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    source = saved(root, tmp_path, "bytes")
    (tmp_path / "list.txt").write_text("x")
    odd = str(tmp_path / "odd")
    library.DatasetDict({"complete": part(root, range(4), as_bytes=True)}).save_to_disk(odd)
    for options, said in (
        ({"source": str(tmp_path / "list.txt")}, "list.txt' can't be loaded .*expected .parquet or .arrow"),
        ({"source": source}, "has no Video column 'video'; it has clip"),
        ({"source": source, "video": "caption"}, "has no Video column 'caption'; it has clip"),
        ({"source": source, "video": "clip", "val": "holdout"}, "val: .* has no split 'holdout'; it has train, dev"),
        ({"source": source, "video": "clip", "split": "test"}, "has no test rows"),
        ({"source": odd, "video": "clip"}, "train: .* has no split of a usual name.* it has complete$"),
        ({"source": source, "video": "clip", "targets": ("kinds",)}, "no label column 'kinds', did you mean 'kind'"),
        (
            {"source": source, "video": "clip", "text": "captions"},
            "no text column 'captions', did you mean 'caption'",
        ),
        (
            {"source": source, "video": "clip", "group": "kinds"},
            "group: .* has no group column 'kinds', did you mean 'kind'",
        ),
        ({"source": source, "video": "clip", "size": 0}, "size: 0, expected 1"),
    ):
        with pytest.raises(DataError, match=said):
            Hub(**{"text": "caption", **options})  # type: ignore[arg-type]


def test_chunks_of_large_clips_are_not_joined(tmp_path: Path) -> None:
    """Their paths are looked at by themselves: 300 clips of 8 MiB have more bytes than one Arrow array can hold."""
    schema = library.Features(clip=library.Video(), text=library.Value("string")).arrow_schema
    clip = pyarrow.array([{"bytes": bytes(8 * 2**20), "path": None}], schema.field("clip").type)
    whole = pyarrow.table([pyarrow.chunked_array([clip] * 300), [f"text {n}" for n in range(300)]], schema=schema)
    part = library.Dataset(whole, fingerprint="large").cast_column("clip", library.Video(decode=False))
    module._check_files("nowhere", part, "clip")
    named = pyarrow.array([{"bytes": None, "path": "/etc/passwd"}], schema.field("clip").type)
    whole = pyarrow.table([pyarrow.chunked_array([clip, clip, named, clip]), list("abcd")], schema=schema)
    part = library.Dataset(whole, fingerprint="large").cast_column("clip", library.Video(decode=False))
    with pytest.raises(DataError, match=r"clip: row 3 of .* names the file '/etc/passwd'"):
        module._check_files(str(tmp_path), part, "clip")


def test_clips_are_one_only_where_every_byte_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films without compression begin and end alike: with a header and black, with black and an index of equal frames."""
    begin, end = b"b" * 2**16, b"e" * 2**16
    one, two, alone = (begin + bytes([number]) * size + end for number, size in ((1, 2**16), (2, 2**16), (1, 2**15)))
    schema = library.Features(clip=library.Video(), text=library.Value("string")).arrow_schema

    def part(*films: bytes | None) -> Any:
        cells = [None if film is None else {"bytes": film, "path": None} for film in films]
        chunks = [pyarrow.array([cell], schema.field("clip").type) for cell in cells]
        whole = pyarrow.table([pyarrow.chunked_array(chunks), [f"text {n}" for n in range(len(films))]], schema=schema)
        return library.Dataset(whole, fingerprint="films").cast_column("clip", library.Video(decode=False))

    parts = {"train": part(one, None, alone), "val": part(two, one, two), "test": part(b"", b"", one)}
    sizes: list[int] = []
    monkeypatch.setattr(
        module, "hashlib", SimpleNamespace(sha256=lambda data: (sizes.append(len(data)), hashlib.sha256(data))[1])
    )
    rows, _ = module._rows("films", parts, "clip", {"text": "text"}, ())
    assert [row.get("file_name") for row in rows] == [
        "train/000000", None, "train/000002",
        "val/000000", "train/000000", "val/000000",
        "test/000000", "test/000000", "train/000000",
    ]  # fmt: skip
    assert sizes.count(len(one)) == 5 and len(alone) not in sizes  # only films that may be one are read whole


def test_a_number_that_is_none_is_an_empty_cell(tmp_path: Path) -> None:
    nothing, number = float("nan"), library.Value("float64")
    columns = {
        "text": [f"text {n}" for n in range(12)], "grade": [nothing, 1.0, 2.0] * 4, "weight": [nothing, 2.0, 1.0] * 4,
        "kinds": [["a|b"], ["c", "d"], []] * 4,
    }  # fmt: skip
    features = {
        "text": library.Value("string"), "grade": number, "weight": number, "kinds": library.List(library.Value("string")),
    }  # fmt: skip
    library.Dataset.from_dict(columns, features=library.Features(features)).save_to_disk(str(tmp_path / "set"))
    options: dict[str, Any] = {"source": str(tmp_path / "set"), "video": "", "folds": 2}
    found = [Hub(targets=("grade",), fold=fold, **options) for fold in range(2)]
    assert found[0].targets[0].classes == ("1.0", "2.0")
    samples = [data.still(index) for data in found for index in range(len(data))]
    assert {(tuple(one.labels.values()), one.weight) for one in samples} == {
        ((), 1.0), ((("1.0",),), 2.0), ((("2.0",),), 1.0),
    }  # fmt: skip
    with pytest.raises(DataError, match=r"set: row 1: kinds is a list"):
        Hub(targets=("kinds",), multi=("kinds",), **options)


def test_a_broken_clip_is_named_with_its_row(root: Path, tmp_path: Path) -> None:
    whole = [(root / f"{number % 6}.mp4").read_bytes() for number in range(40)]
    for broken in (0, 33):  # the first is opened for its length, the other only when it is read
        clips = [{"bytes": b"no clip" if n == broken else data, "path": None} for n, data in enumerate(whole)]
        columns = {"clip": clips, "text": [f"text {n}" for n in range(40)]}
        features = library.Features(clip=library.Video(), text=library.Value("string"))
        part = library.Dataset.from_dict(columns, features=features)
        library.DatasetDict({"train": part}).save_to_disk(str(tmp_path / str(broken)))
        with pytest.raises(DataError, match=rf"/{broken}: train {broken + 1}: .*members"):
            _ = Hub(source=str(tmp_path / str(broken)), video="clip", num_frames=2, size=8)[broken]


def test_without_the_library_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "from kinetext.datasets.hub import Hub\n"
        "try:\n    Hub()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    assert run.stdout.strip() == "DataError data hub needs the library datasets; pip install 'kinetext[hub]'"
