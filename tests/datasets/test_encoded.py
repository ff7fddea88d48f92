"""What frozen encoders made: found again, made once, and the same as making it in every step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinetext import assemble, video
from kinetext.config import Recipe
from kinetext.datasets.encoded import Encoded
from kinetext.datasets.folder import Folder
from kinetext.runtime import rng
from kinetext.types import DataError, Sample

RECIPE = """
[task]
name = "classification"
frozen = ["video"]
[encoders.video]
name = "frame_cnn"
dim = 8
width = 8
depth = 1
heads = 2
[encoders.text]
name = "transformer"
dim = 8
[fusion]
name = "attention"
dim = 8
[data]
name = "folder"
targets = ["shade"]
num_frames = 2
size = 16
"""


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    rows = ["file_name,text,shade,split"]
    for i in range(6):
        video.write(folder / f"{i}.mp4", torch.full((3, 4, 32, 32), i / 3 - 1), fps=8.0)
        rows += [f"{i}.mp4,clip {i},{'dark' if i < 3 else 'light'},{'train' if i % 3 else 'val'}"]
    rows += [",a text alone,dark,train"]
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


class Counting:
    """Encodes a clip as its mean, and counts."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        self.seen += [sample.key for sample in samples]
        return {"video": [torch.zeros(0, 1) if s.video is None else s.video.mean().reshape(1, 1) for s in samples]}


def test_each_clip_is_encoded_once_and_found_again(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, first = Folder(root=str(clips), targets=("shade",), num_frames=2, size=16), Counting()
    kept = Encoded(data, {"video": "mean"}, first, tmp_path / "cache")  # type: ignore[arg-type]
    assert first.seen == ["1.mp4", "2.mp4", "4.mp4", "5.mp4"]
    assert float(kept[0].encoded["video"]) == pytest.approx(float(data[0].video.mean()))  # type: ignore[union-attr]
    assert kept[4].encoded == {}
    assert kept[0].text == "clip 1"
    again = Counting()
    monkeypatch.setattr(video, "read_clip", None)  # nothing is decoded
    other = Encoded(data, {"video": "mean"}, again, tmp_path / "cache")  # type: ignore[arg-type]
    assert again.seen == []
    assert torch.equal(other[3].encoded["video"], kept[3].encoded["video"])


def test_what_several_samples_see_is_encoded_once(tmp_path: Path) -> None:
    rows = [f"a person {'waves' if n % 2 else 'bows'},g{n},train" for n in range(100)]
    (tmp_path / "metadata.csv").write_text("\n".join(["text,group,split", *rows]))
    data, seen = Folder(root=str(tmp_path)), list[str]()

    def encode(samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        seen.extend(str(sample.text) for sample in samples)
        return {"text": [torch.full((1, 1), float(len(str(sample.text)))) for sample in samples]}

    kept = Encoded(data, {"text": "length"}, encode, tmp_path / "cache")  # type: ignore[arg-type]
    assert seen == ["a person bows", "a person waves"]
    assert [kept[index].encoded["text"].item() for index in (0, 1, 98, 99)] == [13, 14, 13, 14]


def test_other_content_sampling_or_encoder_is_encoded_anew(clips: Path, tmp_path: Path) -> None:
    def made(name: str = "mean", size: int = 16) -> list[str]:
        count = Counting()
        data = Folder(root=str(clips), targets=("shade",), num_frames=2, size=size)
        Encoded(data, {"video": name}, count, tmp_path / "cache")  # type: ignore[arg-type]
        return count.seen

    assert len(made()) == 4
    assert made() == []
    assert len(made(name="other weights")) == 4
    assert len(made(size=8)) == 4
    video.write(clips / "2.mp4", torch.ones(3, 4, 32, 32), fps=8.0)
    assert made() == ["2.mp4"]


def test_a_damaged_file_is_named(clips: Path, tmp_path: Path) -> None:
    data = Folder(root=str(clips), targets=("shade",), num_frames=2, size=16)
    kept = Encoded(data, {"video": "mean"}, Counting(), tmp_path / "cache")  # type: ignore[arg-type]
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.write_bytes(b"torn")
    with pytest.raises(DataError, match="safetensors: can't be read"):
        kept[0]


def test_training_on_kept_features_is_training_on_clips(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KINETEXT_CACHE", str(tmp_path / "cache"))
    recipe = assemble.resolve(Recipe.parse(RECIPE, [f"data.root={clips}", "train.precision=fp32"]))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    task = assemble.task(recipe, meta, data)
    kept, dims = assemble.encoded(recipe, meta, task, data, torch.device("cpu"))
    assert dims == {"video": 8}
    assert (tmp_path / "cache").is_dir()
    plain = next(assemble.plain_batches(recipe, meta, data))
    fast = next(assemble.plain_batches(recipe, meta, kept, encoded=dims))
    assert fast.video.numel() == len(fast)  # no clip in it
    losses = [task.train().loss(batch, player="model", rng=rng(0)).total for batch in (plain, fast)]
    assert torch.allclose(*losses, atol=1e-6)
    answers = [task.eval().predict(b.without("text"), rng=rng(0)).probabilities["shade"] for b in (plain, fast)]
    assert torch.allclose(*answers, atol=1e-6)


def test_clips_that_change_are_not_kept(clips: Path, tmp_path: Path) -> None:
    recipe = assemble.resolve(Recipe.parse(RECIPE, [f"data.root={clips}", "data.flip=true"]))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    task = assemble.task(recipe, meta, data)
    same, dims = assemble.encoded(recipe, meta, task, data, torch.device("cpu"))
    assert same is data
    assert dims == {}
