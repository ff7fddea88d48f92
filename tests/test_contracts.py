"""Every registered component keeps its role's contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import datasets as library
from kinetext import assemble, codecs, datasets, encoders, fusion, generators, tasks, video
from kinetext.apps import packing
from kinetext.config import Recipe
from kinetext.contracts import (
    check_codec,
    check_dataset,
    check_encoder,
    check_fusion,
    check_generator,
    check_task,
)
from kinetext.interfaces import Dataset
from kinetext.types import DataError

SMALL_CLIPS = """
[data]
name = "digits"
clips = 4
num_frames = 2
"""
# the smallest recipe of each task; a new task gets one here
TASK_RECIPES = {
    "classification": """
        task.name = "classification"
        encoders.text = { name = "transformer", dim = 8, depth = 1 }
        encoders.video = { name = "frame_cnn", dim = 8, width = 8, depth = 1, heads = 2 }
        fusion = { name = "attention", dim = 8, heads = 2 }
    """,
    "regression": """
        task.name = "regression"
        encoders.text = { name = "transformer", dim = 8, depth = 1 }
        encoders.video = { name = "frame_cnn", dim = 8, width = 8, depth = 1, heads = 2 }
        fusion = { name = "attention", dim = 8, heads = 2 }
    """,
    "retrieval": """
        task = { name = "retrieval", dim = 8 }
        encoders.text = { name = "transformer", dim = 8, depth = 1 }
        encoders.video = { name = "frame_cnn", dim = 8, width = 8, depth = 1, heads = 2 }
    """,
    "reconstruction": """
        task.name = "reconstruction"
        codec = { name = "autoencoder", width = 8 }
    """,
    "text_to_video": """
        task = { name = "text_to_video", steps = 2 }
        encoders.text = { name = "transformer", dim = 8, depth = 1 }
        codec = { name = "autoencoder", width = 8 }
        generator = { name = "flow", dim = 16, depth = 1 }
    """,
    "video_to_text": """
        task.name = "video_to_text"
        encoders.video = { name = "frame_cnn", dim = 8, width = 8, depth = 1, heads = 2 }
        generator = { name = "autoregressive", dim = 16, depth = 1 }
    """,
}


@pytest.mark.parametrize("name", encoders.REGISTRY)
def test_encoders(name: str) -> None:
    check_encoder(encoders.REGISTRY[name]())


@pytest.mark.parametrize("name", fusion.REGISTRY)
def test_fusions(name: str) -> None:
    check_fusion(fusion.REGISTRY[name]())


@pytest.mark.parametrize("name", codecs.REGISTRY)
def test_codecs(name: str) -> None:
    check_codec(codecs.REGISTRY[name]())


@pytest.mark.parametrize("name", generators.REGISTRY)
def test_generators(name: str) -> None:
    check_generator(generators.REGISTRY[name]())


@pytest.mark.parametrize("name", tasks.REGISTRY)
def test_tasks(name: str, tmp_path: Path) -> None:
    data_section = numbered_clips(tmp_path) if name == "regression" else SMALL_CLIPS
    recipe = assemble.resolve(Recipe.parse(TASK_RECIPES[name] + data_section))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    batch = next(assemble.plain_batches(recipe, meta, data))
    check_task(assemble.task(recipe, meta, data), batch)


def numbered_clips(folder: Path) -> str:
    """A folder of clips with a column of numbers, one of which is missing."""
    rows = ["file_name,text,height,split"]
    for i in range(4):
        video.write(folder / f"{i}.mp4", torch.full((3, 2, 64, 64), i / 4), fps=8.0)
        rows += [f"{i}.mp4,clip {i},{'' if i == 1 else i / 2},train"]
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return f"""
        [data]
        name = "folder"
        root = "{folder}"
        targets = ["height"]
        numeric = ["height"]
        num_frames = 2
    """


@pytest.mark.parametrize("name", datasets.REGISTRY)
@pytest.mark.parametrize("split", ["train", "val"])
def test_datasets(name: str, split: str, tmp_path: Path, own_cache: None) -> None:
    check_dataset(DATASETS[name](tmp_path, split))


def digits(folder: Path, split: str) -> Dataset:
    return datasets.REGISTRY["digits"](clips=5, split=split)


def shapes(folder: Path, split: str) -> Dataset:
    return datasets.REGISTRY["shapes"](clips=5, split=split)


def clips_in_a_folder(folder: Path, split: str) -> Dataset:
    """Five short clips with everything random that training may do; one row has no text, one no label."""
    rows = ["file_name,text,shade,split"]
    for i in range(5):
        video.write(folder / f"{i}.mp4", torch.full((3, 4, 32, 32), i / 4), fps=8.0)
        rows += [f"{i}.mp4,{'' if i == 0 else f'clip {i}'},{'' if i == 1 else 'dark' if i < 3 else 'light'},{split}"]
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return datasets.REGISTRY["folder"](
        root=str(folder), split=split, targets=("shade",), num_frames=2, size=16, sampling="random",
        clip_seconds=0.25, flip=True, crop_jitter=0.5,
    )  # fmt: skip


def packed_clips(folder: Path, split: str) -> Dataset:
    """The same ones from shards."""
    clips_in_a_folder(folder, split)
    packing.pack(folder, folder / "packed", packing.Packing(size=32, fps=8.0))
    return datasets.REGISTRY["shards"](
        root=str(folder / "packed"), split=split, targets=("shade",), num_frames=2, size=16, sampling="random",
        clip_seconds=0.25, flip=True, crop_jitter=0.5,
    )  # fmt: skip


def clips_of_the_hub(folder: Path, split: str) -> Dataset:
    """The same ones in a table of the library ``datasets``, as bytes."""
    clips_in_a_folder(folder, split)
    made = library.Dataset.from_dict(
        {
            "video": [{"bytes": (folder / f"{i}.mp4").read_bytes(), "path": f"{i}.mp4"} for i in range(5)],
            "text": [None, *(f"clip {i}" for i in range(1, 5))],
            "shade": [-1 if i == 1 else int(i < 3) for i in range(5)],
        },
        features=library.Features(
            {
                "video": library.Video(),
                "text": library.Value("string"),
                "shade": library.ClassLabel(names=["light", "dark"]),
            }
        ),
    )
    library.disable_progress_bars()
    library.DatasetDict({"train" if split == "train" else "validation": made}).save_to_disk(str(folder / "saved"))
    return datasets.REGISTRY["hub"](
        source=str(folder / "saved"), split=split, targets=("shade",), num_frames=2, size=16, sampling="random",
        clip_seconds=0.25, flip=True, crop_jitter=0.5,
    )  # fmt: skip


# how to make each dataset at a small size; a new dataset gets a line here
DATASETS = {
    "digits": digits,
    "folder": clips_in_a_folder,
    "hub": clips_of_the_hub,
    "shapes": shapes,
    "shards": packed_clips,
}


def test_a_check_leaves_no_trace() -> None:
    encoder = encoders.REGISTRY["frame_cnn"](channels=1, size=16, width=8, dim=16)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    state = torch.get_rng_state()
    check_encoder(encoder, shape=(1, 2, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("name", ["reconstruction", "text_to_video"])
def test_learning_from_clips_refuses_samples_without(name: str) -> None:
    recipe = assemble.resolve(Recipe.parse(TASK_RECIPES[name] + SMALL_CLIPS))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    batch = next(assemble.plain_batches(recipe, meta, data))
    mask = batch.video_mask.clone()
    mask[1, -1] = False
    task = assemble.task(recipe, meta, data)
    with pytest.raises(DataError, match=f"{batch.keys[1]}: no video"):
        task.loss(replace(batch, video_mask=mask), player="model", rng=torch.Generator())
