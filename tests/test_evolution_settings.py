"""Sampling settings are compared on prompts and noise of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import evolution_sampling
import evolution_settings
from evolution_worlds import WORLDS, draw
from kinetext import assemble
from kinetext.checkpoint import Meta, Run
from kinetext.config import Recipe
from kinetext.tasks.text_to_video import TextToVideo


def test_a_line_a_setting(runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(runs.maker), "", "task.steps=1 task.guidance=2", "--world=digits", f"--data={tmp_path}", "--clips=2"]
    assert evolution_settings.main([*words, f"--out={tmp_path / 'rows'}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("its own; ") and said[1].startswith("task.steps=1 task.guidance=2; ")
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["setting"] for row in rows] == ["", "task.steps=1 task.guidance=2"]
    assert set(rows[0]["reader"]["unseen"]) == {"exact", "digit", "motion", "interval"}


def test_only_sampling_can_be_set(runs: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert evolution_settings.main([str(runs.maker), "train.lr=1", "--world=digits"]) == 2
    assert "setting 'train.lr=1': expected a change to one of task.steps, " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_prompts_of_settings_are_none_of_the_benchmarks(name: str) -> None:
    world = WORLDS[name]
    run = Run(Path("run"), assemble.resolve(Recipe.load(world.recipe("flow"))), Meta("0.1.0", (), (), None))
    benchmark = draw(world, run.recipe, 500, 20, 2, texts_only=True)
    keys, texts = ({getattr(one, what) for one in benchmark.prompts()} for what in ("key", "text"))
    for clips in (100, 250, 500):
        prompts = evolution_settings.prompts_of(world, run, clips, benchmark=False)
        assert [world.kind(one) for one in prompts] == ["seen"] * clips + ["unseen"] * clips
        assert not keys & {one.key for one in prompts}
        if name == "shapes":  # digits have twenty pairs and few ways to say them: of these texts nearly all are shared
            assert not texts & {one.text for one in prompts}
    first = evolution_settings.prompts_of(world, run, 100, benchmark=True)
    assert first == [*benchmark.seen.samples[:100], *benchmark.unseen.samples[:100]]


def test_clips_of_the_benchmark_are_the_benchmarks(runs: SimpleNamespace) -> None:
    """The same prompts and noise give what evolution_sampling makes; settings are chosen by others."""
    run, on = assemble.open_run(str(runs.maker)), torch.device("cpu")
    prompts = draw(WORLDS["digits"], run.recipe, 2, 2, 1, texts_only=True).seen.samples
    task = assemble.restore(run)
    assert isinstance(task, TextToVideo)
    batch = assemble.collate(run.recipe, run.meta)(prompts)
    theirs, _ = evolution_sampling.make(task, batch, run.recipe, 0, on)
    mine, _ = evolution_settings.clips_of(run, prompts, evolution_sampling.SEED, 2, on)
    others, _ = evolution_settings.clips_of(run, prompts, evolution_settings.OTHER_SEED, 2, on)
    assert torch.equal(mine, theirs) and not torch.equal(mine, others)
