"""Defaults, and what a model was taught to be sampled with."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from kinetext.making.planning import SamplingWarning
from kinetext.pipeline import Pipeline

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
