"""Folders without a table: each legal layout is read as the table it stands for, and every mixture is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from kinetext import video
from kinetext.config import Recipe
from kinetext.datasets.folder import Folder
from kinetext.manifest import SPLITS, load, with_splits
from kinetext.manifest.layouts import CLIPS, clips
from kinetext.types import DataError


def tree(root: Path, files: str | Mapping[str, str]) -> Path:
    """Empty files by name, or files with what is in them."""
    for name, text in (dict.fromkeys(files.split(), "") if isinstance(files, str) else files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_clips_are_what_video_reads() -> None:
    assert CLIPS == video.SUFFIXES


def test_texts_beside_clips(tmp_path: Path) -> None:
    files = {"b.MP4": "", "b.txt": "\ufeff两个人 \r\n走\r\n", "a.webm": "", "a.txt": "one", "c.gif": "", "c.txt": "\n"}
    table = load(tree(tmp_path, {**files, ".b.txt": "hidden", ".cache/d.mp4": "", "notes.md": ""}))
    assert (table.layout, table.path, table.columns) == ("pairs", tmp_path, ("file_name", "text"))
    assert [(row.file, row.text) for row in table.rows] == [
        ("a.webm", "one"),
        ("b.MP4", "两个人 \n走"),
        ("c.gif", None),
    ]
    made = with_splits(table, seed=0)
    assert {row.split for row in made.rows} == set(SPLITS)
    assert (tmp_path / "splits.csv").is_file()
    assert with_splits(load(tmp_path), seed=1).rows == made.rows  # written down, and read back


def test_class_folders(tmp_path: Path) -> None:
    table = load(tree(tmp_path, "wave/2.mp4 wave/1.mp4 bow/1.mp4 README.txt"))
    assert (table.layout, table.columns) == ("classes", ("file_name", "label"))
    found = [(row.number, row.file, row.labels["label"]) for row in table.rows]
    assert found == [(1, "bow/1.mp4", "bow"), (2, "wave/1.mp4", "wave"), (3, "wave/2.mp4", "wave")]
    assert table.classes("label") == ("bow", "wave")


def test_split_folders_around_either(tmp_path: Path) -> None:
    classes = load(tree(tmp_path / "a", "train/wave/1.mp4 train/bow/1.mp4 validation/wave/2.mp4 Test/bow/2.mp4"))
    assert [(row.split, row.labels["label"]) for row in classes.rows] == [
        ("test", "bow"), ("train", "bow"), ("train", "wave"), ("val", "wave"),
    ]  # fmt: skip
    assert with_splits(classes, seed=0) is classes
    pairs = load(tree(tmp_path / "b", {"train/a.mp4": "", "train/a.txt": "x", "val/a.mp4": "", "val/a.txt": "y"}))
    assert [(row.file, row.text, row.split) for row in pairs.rows] == [
        ("train/a.mp4", "x", "train"), ("val/a.mp4", "y", "val"),
    ]  # fmt: skip


def test_a_table_comes_first(tmp_path: Path) -> None:
    root = tree(tmp_path, {"wave/1.mp4": "", "bow/1.mp4": "", "metadata.csv": "file_name\nwave/1.mp4\n"})
    assert load(root).layout == "table"
    assert len(load(root).rows) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("wave/1.mp4 bow/1.mp4 2.mp4", r"clips of its own \(2\.mp4\) beside folders of clips \(bow, wave\)"),
        ("wave/1.mp4 bow/1.mp4 bow/1.txt", r"texts beside clips, in folders that may be classes \(bow, wave\)"),
        ("train/wave/1.mp4 extra/bow/1.mp4", r"folders for splits \(train\) beside others \(extra\)"),
        ("wave/1.mp4 bow/1.mp4 bow/day/2.mp4", r"others that lie elsewhere \(bow/day/2\.mp4\)"),
        ("train/wave/1.mp4 train/bow/1.mp4 val/2.mp4", r"others that lie elsewhere \(val/2\.mp4\)"),
        ("train/wave/1.mp4 train/wave/1.txt", r"in folders that may be classes \(wave\)"),
        ("a.mp4 a.txt b.mp4 c.mp4", r"2 of 3 clips have no text beside them: b\.mp4, c\.mp4; an empty b\.txt"),
        ("a.mp4 a.txt README.txt", r"1 texts have no clip beside them: README\.txt"),
        ("a.mp4 a.gif a.txt", "two clips named a beside one text"),
        ("a.mov a.mov.mp4 a.mp4 a.txt a.mov.txt", "two clips named a beside one text"),
        ("a.mp4 b.mp4 a.txt a.TXT b.txt", r"2 texts of one name, a\.TXT, a\.txt, expected one"),
        ("a.mp4 b.mp4", r"no table, expected exactly one of metadata\.csv.* or a layout .*wave/a\.mp4"),
        ("clips/a.mp4 clips/b.mp4", r"no table, expected exactly one of metadata\.csv"),
        ("train/a.mp4 val/b.mp4", r"no table, expected exactly one of metadata\.csv"),
    ],
)
def test_mixtures_are_refused(tmp_path: Path, files: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tree(tmp_path, files))


def test_a_text_that_is_none_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "a.mp4 a.txt")
    (tmp_path / "a.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt: byte 2 is not UTF-8"):
        load(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"a" * (2**20 + 1))
    with pytest.raises(DataError, match="expected a text of at most"):
        load(tmp_path)


def test_hidden_files_and_links_to_themselves_are_no_clips(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.mp4 b/2.mp4 b/.3.mp4 .trash/4.mp4 a/.old/5.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "a" / "6.mp4").symlink_to(tmp_path / "b" / "2.mp4")
    assert clips(tmp_path) == ["a/1.mp4", "a/6.mp4", "b/2.mp4"]
    assert [row.file for row in load(tmp_path).rows] == clips(tmp_path)


READER = """
[task]
name = "classification"

[encoders.video]
name = "frame_cnn"
dim = 16
width = 4
depth = 1

[data]
name = "folder"
targets = ["label"]
num_frames = 4
size = 32

[train]
steps = 2
batch = 2
precision = "fp32"
"""
MAKER = """
[task]
name = "text_to_video"
steps = 2

[encoders.text]
name = "transformer"
dim = 16
depth = 1

[codec]
name = "autoencoder"
width = 8

[generator]
name = "flow"
dim = 32
depth = 1
heads = 2

[data]
name = "folder"
num_frames = 4
size = 32

[train]
steps = 1
batch = 2
precision = "fp32"
"""


def shades(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        video.write(root / name, torch.full((3, 4, 32, 32), number / 4 - 1), fps=8.0)
    return root


def test_a_folder_of_classes_trains(tmp_path: Path) -> None:
    from kinetext import train

    root = shades(
        tmp_path / "clips", [f"{split}/{c}/{i}.mp4" for split in ("train", "val") for c in "ab" for i in "12"]
    )
    run = train.start(Recipe.parse(READER, [f"data.root={root}"]), tmp_path / "run", quiet=True)
    assert run.meta.targets[0].classes == ("a", "b")
    assert (run.path / "model.safetensors").is_file()


def test_a_folder_of_pairs_trains(tmp_path: Path) -> None:
    from kinetext import train

    root = shades(tmp_path / "clips", [f"{i}.mp4" for i in range(6)])
    tree(root, {f"{i}.txt": f"shade number {i}" for i in range(6)})
    assert set(Folder(root=str(root), size=32, num_frames=4).texts()) < {f"shade number {i}" for i in range(6)}
    run = train.start(Recipe.parse(MAKER, [f"data.root={root}"]), tmp_path / "run", quiet=True)
    assert (run.path / "model.safetensors").is_file()
