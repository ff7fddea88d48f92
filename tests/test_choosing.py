"""Which shipped model a prompt is for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kinetext import video
from kinetext.apps.choosing import maker_for
from kinetext.cli import main
from kinetext.types import RunError


@pytest.fixture
def shipped(runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two makers, one of which knows birds in place of digits, and a reader."""
    models = tmp_path / "models"
    for name in ("first", "second"):
        shutil.copytree(runs.maker, models / name)
    shutil.copytree(runs.both, models / "a-reader")  # which knows the words, and makes nothing
    meta = models / "second" / "meta.json"
    meta.write_text(meta.read_text().replace('"digit"', '"bird"').replace('"数"', '"鸟"'))
    monkeypatch.setattr("kinetext.assemble.runs.MODELS", models)


@pytest.mark.parametrize(
    ("prompt", "model"),
    [("the digit 3", "first"), ("the bird 3", "second"), ("数", "first"), ("鸟", "second"), ("up", "first")],
)
def test_the_model_that_lacks_the_fewest_words_is_taken(shipped: None, prompt: str, model: str) -> None:
    assert maker_for(prompt) == model


def test_folders_that_hide_every_maker_are_named(
    shipped: None, runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs.both, "first")
    assert maker_for("the digit 3") == "second"  # it is not hidden
    shutil.copytree(runs.both, "second")
    with pytest.raises(RunError) as error:
        maker_for("the digit 3")
    for name in ("first", "second"):
        assert str(tmp_path / name) in str(error.value)
    assert "a-reader" not in str(error.value)


def test_generate_says_which_model_it_took(
    shipped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bird.mp4"
    monkeypatch.setattr(sys, "argv", ["kinetext", "generate", "the bird 3", "--steps", "1", "-o", str(out)])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert (stop.value.code or 0, said.out) == (0, f"{out}\n")
    assert "model: second\n" in said.err
    assert (video.read_provenance(out) or {})["model"] == "second"
