"""Weights are not all that a clip hangs on: somebody may edit how the model samples, and clips know."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from kinetext import video
from kinetext.apps.reproducing import reproduce
from kinetext.assemble import open_run, resolve
from kinetext.config import Recipe
from kinetext.making.settings import settings_of
from kinetext.pipeline import Pipeline

PROMPT = "the digit 3 is moving up and down"
Edit = Callable[[str, str], Path]


@pytest.fixture
def edit(runs: SimpleNamespace, tmp_path: Path) -> Edit:
    """Changes a copy of the tiny maker's recipe.toml, and says where the copy is."""
    run = shutil.copytree(runs.maker, tmp_path / "run")

    def change(old: str, new: str) -> Path:
        recipe = (run / "recipe.toml").read_text()
        assert recipe.count(old) == 1
        (run / "recipe.toml").write_text(recipe.replace(old, new))
        return run

    return change


def settings(run: Path) -> str:
    return settings_of(open_run(str(run)).recipe)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('sampler = "heun"', 'sampler = "euler"'),
        ("guidance_to = 1.0", "guidance_to = 0.5"),
        ("early_words = []", 'early_words = ["moving"]'),
        ("max_tokens = 32", "max_tokens = 8"),
        ('temporal = "frame"', 'temporal = "causal"'),
        ("heads = 2\n", "heads = 1\n"),
    ],
)
def test_what_sampling_hangs_on_is_in_it(runs: SimpleNamespace, old: str, new: str) -> None:
    recipe = (runs.maker / "recipe.toml").read_text()
    assert recipe.count(old) >= 1
    changed = resolve(Recipe.parse(recipe.replace(old, new)))
    assert settings_of(changed) != settings(runs.maker)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("clips = 24", "clips = 25"),
        ("log_every = 1", "log_every = 2"),
        ("samples = 6", "samples = 7"),
        ("[train]", "# a note\n[train]"),
        ("shift = 1.0\n", "shift = 1\n"),
        ("shift = 1.0\n", ""),  # it is the default, as an option that was added since
    ],
)
def test_what_it_does_not_hang_on_is_not(edit: Edit, runs: SimpleNamespace, old: str, new: str) -> None:
    assert settings(edit(old, new)) == settings(runs.maker)


def test_how_given_files_are_read_is_in_it() -> None:
    folder = '[task]\nname = "text_to_video"\n\n[data]\nname = "folder"\nroot = "{}"\nfit = "{}"\n'
    crop, moved, pad = (
        settings_of(Recipe.parse(folder.format(*o))) for o in (("a", "crop"), ("b", "crop"), ("a", "pad"))
    )
    assert crop == moved != pad


def test_a_clip_of_other_settings_is_made_anew_and_reproduce_names_them(edit: Edit, tmp_path: Path) -> None:
    run, out = edit('sampler = "heun"', 'sampler = "euler"'), tmp_path / "clip.mp4"
    Pipeline.load(run, "cpu").write(PROMPT, [out])
    before = out.read_bytes()
    edit('sampler = "euler"', 'sampler = "heun"')
    found = reproduce(out, device="cpu")
    assert found.difference > 0
    assert found.notes == (f"the settings of the model are others now (recipe.toml of {run}, or their defaults)",)
    Pipeline.load(run, "cpu").write(PROMPT, [out])
    assert out.read_bytes() != before
    found = reproduce(out, device="cpu")
    assert (found.difference, found.notes) == (0, ())


def test_clips_of_earlier_versions_do_not_say_and_can_be_made_again(runs: SimpleNamespace, tmp_path: Path) -> None:
    maker, out = Pipeline.load(runs.maker, "cpu"), tmp_path / "clip.mp4"
    clip = maker.generate(PROMPT)[0]
    earlier = {name: value for name, value in clip.provenance.items() if name != "settings"}
    video.write(out, clip.video, fps=8, provenance=earlier)
    found = reproduce(out, device="cpu")
    assert (found.difference, found.notes) == (0, ())
    maker.write(PROMPT, [out])  # how it was sampled is not known, so that it is no clip of now
    assert video.read_provenance(out) == dict(clip.provenance)
