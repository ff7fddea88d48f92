"""A run that writes texts, from its recipe to its captions: evaluation, report, pipeline and command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kinetext import train, video
from kinetext.checkpoint import Run
from kinetext.cli import main
from kinetext.config import Recipe
from kinetext.pipeline import Pipeline
from kinetext.report import finish
from kinetext.types import DataError, RunError

RECIPE = """
task = { name = "video_to_text", frozen = ["video"] }
encoders.video = { name = "frame_cnn", dim = 16, width = 8, depth = 1 }
generator = { name = "autoregressive", dim = 32, depth = 1, cond_dropout = 0.0 }
data = { name = "folder", root = "clips", size = 32, num_frames = 2 }
text = { max_tokens = 8 }
train = { steps = 60, batch = 4, lr = 0.01, warmup = 5, ema = 0.0, precision = "fp32", log_every = 20 }
"""
TEXTS = {
    "train": ("a dark clip", "很亮的片"),
    "val": ("a dark clip", "很亮的片"),
    "test": ("something else", "很亮的片"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Has learned to tell dark clips from bright ones, in words."""
    folder = tmp_path_factory.mktemp("captions")
    clips = folder / "clips"
    clips.mkdir()
    rows = ["file_name,text,split"]
    for split, texts in TEXTS.items():
        for i in range(4):
            video.write(clips / f"{split}{i}.mp4", torch.full((3, 2, 32, 32), (i % 2) * 1.5 - 0.75), fps=8.0)
            rows.append(f"{split}{i}.mp4,{texts[i % 2]},{split}")
    (clips / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KINETEXT_CACHE", str(folder / "cache"))
        made = train.start(Recipe.parse(RECIPE, [f'data.root="{clips}"']), folder / "run", quiet=True)
        finish(made)
    return made


@pytest.fixture(scope="module")
def pipeline(run: Run) -> Pipeline:
    return Pipeline.load(run.path, "cpu")


def clip(run: Run, name: str) -> Path:
    return run.path.parent / "clips" / name


def test_the_numbers_stand_in_the_card_and_the_report(run: Run) -> None:
    numbers = json.loads((run.path / "evaluation.json").read_text())["numbers"]
    assert numbers["val/exact_match"] == 1 and numbers["test/exact_match"] == 0.5
    # of three words or four characters a clip, a dark one has no 4-grams: those of the bright one count
    assert numbers["val/bleu"] == pytest.approx(1.0)
    card, page = (run.path / "README.md").read_text(), (run.path / "report.html").read_text()
    assert "kinetext caption run --video clip.mp4" in card
    assert "val/bleu" in card and "很亮的片\n    (很亮的片)" in page


def test_captions_say_what_is_seen(run: Run, pipeline: Pipeline) -> None:
    files = [clip(run, "val0.mp4"), clip(run, "val1.mp4")]
    assert pipeline.caption(files) == ["a dark clip", "很亮的片"]
    assert pipeline.caption(torch.full((3, 2, 32, 32), 0.7)) == ["很亮的片"]


def test_a_text_depends_on_seed_and_number_alone(run: Run, pipeline: Pipeline) -> None:
    dark, bright = clip(run, "val0.mp4"), clip(run, "val1.mp4")
    drawn = pipeline.caption([dark, bright], num=3, seed=1, temperature=5.0)
    assert len(drawn) == 6 and len(set(drawn)) > 2
    assert pipeline.caption(dark, num=3, seed=1, temperature=5.0) == drawn[:3]
    assert pipeline.caption(dark, num=2, seed=1, temperature=5.0) == drawn[:2]
    assert pipeline.caption(dark, num=3, seed=2, temperature=5.0) != drawn[:3]


def test_the_pipeline_refuses(run: Run, pipeline: Pipeline, runs: SimpleNamespace) -> None:
    dark = clip(run, "val0.mp4")
    with pytest.raises(DataError, match="num: 2 texts at temperature 0 are all the same"):
        pipeline.caption(dark, num=2)
    with pytest.raises(DataError, match="temperature: -1, expected 0 to 100"):
        pipeline.caption(dark, temperature=-1)
    with pytest.raises(DataError, match="num: 0, expected 1 to 10000"):
        pipeline.caption(dark, num=0)
    with pytest.raises(DataError, match="seed: -1"):
        pipeline.caption(dark, seed=-1)
    with pytest.raises(DataError, match="neither text nor video"):
        pipeline.caption([None])
    with pytest.raises(RunError, match="its task is video_to_text, expected text_to_video"):
        pipeline.generate("a dark clip")
    with pytest.raises(RunError, match="its task is video_to_text, expected classification or regression"):
        pipeline.predict(video=dark)
    with pytest.raises(RunError, match="its task is classification, expected video_to_text"):
        Pipeline.load(runs.reader, "cpu").caption(dark)


def test_the_command(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kinetext", "caption", *map(str, words), "--device", "cpu"])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    bright = clip(run, "val1.mp4")
    assert call(run.path, "--video", bright) == (0, "很亮的片\n", "")
    code, out, _ = call(run.path, "--video", bright, "--num", 3, "--temperature", 0.01, "--seed", 4)
    assert (code, out) == (0, "很亮的片\n" * 3)
    code, out, err = call(run.path, "--video", bright, "--num", 3)
    assert (code, out) == (2, "") and "a temperature above 0" in err
    code, out, err = call(run.path, "--video", bright.with_name("nothing.mp4"))
    assert (code, out) == (2, "") and "nothing.mp4" in err


def test_features_of_a_frozen_encoder_are_kept_and_train_the_same(run: Run, tmp_path: Path, own_cache: None) -> None:
    changes = [f'data.root="{run.path.parent / "clips"}"', "train.steps=4", "train.warmup=0"]
    made, taken = (
        train.start(Recipe.parse(RECIPE, changes), tmp_path / name, quiet=True) for name in ("made", "taken")
    )
    assert list((tmp_path / "cache").rglob("*.*"))
    first, second = made.weights(), taken.weights()
    assert all(torch.equal(first[name], second[name]) for name in first)
