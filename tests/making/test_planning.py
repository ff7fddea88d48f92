"""Defaults, what a model was taught to be sampled with, and files that can't be used."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kinetext import video
from kinetext.generators.flow import Flow
from kinetext.making.planning import SamplingWarning
from kinetext.pipeline import Pipeline
from kinetext.types import DataError

METHOD = '\n[method]\nname = "distillation"\nteacher = "runs/gone"\n'


@pytest.mark.parametrize(
    ("old", "new", "how"),
    [
        ('reward = ""', 'reward = "runs/gone"', "taught by a reward"),
        ("\n[train]", f"{METHOD}\n[train]", "distilled"),
    ],
)
def test_a_model_that_was_taught_few_steps_says_so(
    runs: SimpleNamespace, tmp_path: Path, old: str, new: str, how: str
) -> None:
    run = shutil.copytree(runs.maker, tmp_path / "taught")
    recipe = (run / "recipe.toml").read_text()
    assert recipe.count(old) == 1
    (run / "recipe.toml").write_text(recipe.replace(old, new))
    taught, plain = Pipeline.load(run, "cpu"), Pipeline.load(runs.maker, "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplingWarning)
        plain.generate("the digit 3", steps=1)
        taught.generate("the digit 3")
        taught.generate("the digit 3", steps=2)  # its own
    with pytest.warns(SamplingWarning, match=rf"was {how} for 2 steps and guidance 3; with 1 and 3 its clips"):
        taught.generate("the digit 3", steps=1)
    with pytest.warns(SamplingWarning, match=r"with 2 and 1 its clips"):
        taught.generate("the digit 3", guidance=1)


@pytest.mark.parametrize(("options", "message"), [({"steps": 0}, "steps: 0"), ({"guidance": -1.0}, "guidance: -1.0")])
def test_what_is_refused_is_not_warned_of(
    runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    run = shutil.copytree(runs.maker, tmp_path / "taught")
    recipe = (run / "recipe.toml").read_text()
    (run / "recipe.toml").write_text(recipe.replace('reward = ""', 'reward = "runs/gone"'))
    taught, given = Pipeline.load(run, "cpu"), tmp_path / "given.mp4"
    video.write(given, torch.zeros(1, 3, 64, 64), fps=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplingWarning)
        taught.interpolate(given, factor=2)  # its own rate
        with pytest.raises(DataError, match=message):
            taught.generate("the digit 3", **options)
        with pytest.raises(DataError, match=message):
            taught.interpolate(given, factor=2, **options)
    with pytest.warns(SamplingWarning, match="with 1 and 3 its clips"):
        taught.interpolate(given, factor=2, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SamplingWarning)
        closer = taught.interpolate(given, factor=3)
        assert closer._maker.pace(closer.plan) == pytest.approx(2 / 3)
    monkeypatch.setattr(Flow, "abilities", Flow.abilities - {"pace"})
    with pytest.warns(SamplingWarning, match="learned from 8 frames a second, and this makes 12; frames in between"):
        closer = taught.interpolate(given, factor=3)
    assert closer._maker.pace(closer.plan) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("image",), r"^image: expected a picture; .*text\.png: not a video that can be read"),
        (("mask", "video"), r"^mask: expected a picture; .*text\.png: not a video that can be read"),
        (("video",), r"^video: expected a video; .*text\.png: not a video that can be read"),
        (("change",), r"^change: expected a video; .*text\.png: not a video that can be read"),
    ],
)
def test_a_file_that_is_none_is_named_by_its_option(
    runs: SimpleNamespace, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(DataError, match=message):
        Pipeline.load(runs.maker, "cpu").generate("the digit 3", **dict.fromkeys(options, text))  # type: ignore[arg-type]
