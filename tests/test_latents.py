"""Packed latents: a training on them takes the very steps of one that reads clips and keeps targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from kinetext import cli, train, video
from kinetext.apps.packing import Packing, pack, verify
from kinetext.checkpoint import Run
from kinetext.config import Recipe
from kinetext.datasets.shards import Shards
from kinetext.evaluate import evaluate
from kinetext.types import DataError, KinetextError, RecipeError

CODEC = """
[task]
name = "reconstruction"

[codec]
name = "{codec}"
width = 8

[data]
name = "folder"
root = "{root}"
num_frames = 4
size = 16

[train]
steps = 2
batch = 2
precision = "fp32"
"""
MAKER = """
[task]
name = "text_to_video"
steps = 2
cache_targets = true

[encoders.text]
name = "transformer"
dim = 16
depth = 1

[codec]
name = "autoencoder"
width = 8

[generator]
name = "flow"
dim = 16
depth = 1

[data]
num_frames = 4
size = 16
{data}

[init]
codec = "{init}"

[train]
steps = 4
batch = 3
precision = "fp32"

[evaluate]
samples = 2
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    rows = ["file_name,text,split"]
    for number in range(6):
        dice = torch.Generator().manual_seed(number)
        video.write(
            root / f"{number}.mp4", (torch.rand(3 + number, 32, 32, 3, generator=dice) * 255).to(torch.uint8), fps=4
        )
        rows.append(f"{number}.mp4,clip {number},{'val' if number > 3 else 'train'}")
    (root / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return root


def trained_codec(root: Path, folder: Path, codec: str) -> str:
    return str(train.start(Recipe.parse(CODEC.format(codec=codec, root=root)), folder, quiet=True).path)


def made(folder: Path, init: str, data: dict[str, str], *changes: str) -> Run:
    """A run of text to video with the codec of the run ``init``."""
    named = "\n".join(f'{name} = "{value}"' for name, value in data.items())
    return train.start(Recipe.parse(MAKER.format(data=named, init=init), changes), folder, quiet=True)


OF_TOKENS = ("codec.name=vq", "generator.name=autoregressive", "task.steps=1")


@pytest.mark.parametrize("codec", ["autoencoder", "vq"])
def test_a_training_on_packed_latents_is_the_same(
    root: Path, tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = trained_codec(root, tmp_path / "codec", codec)
    packed = tmp_path / "packed"
    pack(root, packed, Packing(size=16, num_frames=4), run=init, workers=1)
    assert verify(packed) == []
    changes = ("task.train_frames=2",) if codec == "autoencoder" else OF_TOKENS
    one = made(tmp_path / "one", init, {"name": "folder", "root": str(root)}, *changes)
    monkeypatch.setattr(Shards, "__getitem__", None)  # no clip is read
    two = made(tmp_path / "two", init, {"name": "shards", "root": str(packed)}, *changes)
    monkeypatch.undo()
    first, second = one.weights(), two.weights()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    numbers = evaluate(two, device=torch.device("cpu")).numbers  # later judging reads the packed clips
    assert numbers["val/loss"] > 0


def test_latents_that_do_not_fit_are_refused(root: Path, tmp_path: Path) -> None:
    init = trained_codec(root, tmp_path / "codec", "autoencoder")
    with pytest.raises(
        DataError, match=r"is of clips \(C, T, H, W\) \(3, 4, 16, 16\), and .* --size 16 --num-frames 4"
    ):
        pack(root, tmp_path / "wrong", Packing(size=20, num_frames=4), run=init)
    with pytest.raises(KinetextError, match="neither a run folder nor a shipped model"):
        pack(root, tmp_path / "wrong", Packing(size=20, num_frames=4), run="nothing")
    run = CliRunner().invoke(cli.app, ["data", "pack", str(root), str(tmp_path / "packed"), "--run", init])
    assert run.exit_code == 0, run.output
    data = Shards(root=str(tmp_path / "packed"), num_frames=4, size=16)
    found = data.latent(0)
    assert found is not None and data.latents is not None and list(found.shape) == data.latents["shape"]
    with pytest.raises(DataError, match=r"was packed with codec .*, now it is None"):
        pack(root, tmp_path / "packed", Packing(size=16, num_frames=4))
    shards = {"name": "shards", "root": str(tmp_path / "packed")}
    recipe = Recipe.parse(CODEC.format(codec="autoencoder", root=root), ["train.seed=1"])
    another = str(train.start(recipe, tmp_path / "another", quiet=True).path)
    for codec, change, said in (
        (init, "data.flip=true", "does not promise the same clips"),
        (init, "data.num_frames=2", r"of whole clips .*\[3, 4, 16, 16\], and this recipe asks for \[3, 2, 16, 16\]"),
        (another, "train.seed=2", "were packed with another codec than this one"),
    ):
        with pytest.raises(RecipeError, match=said):
            made(tmp_path / change, codec, shards, change)
