"""The doctor with a recipe, and what training says of a table before it begins."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import pytest

from kinetext import assemble, runtime, train
from kinetext.apps import doctoring
from kinetext.assemble import checking
from kinetext.cli import main
from kinetext.config import Recipe
from kinetext.types import DataError, RecipeError

RECIPE = """
[task]
name = "classification"
targets = ["shade"]

[encoders.text]
name = "transformer"
dim = 16
depth = 1

[encoders.video]
name = "frame_cnn"
dim = 16
width = 4
depth = 1

[fusion]
name = "concat"

[text]
max_tokens = 2

[data]
name = "folder"
targets = ["shade"]
num_frames = 6
size = 16

[train]
steps = 2
batch = 2
precision = "fp32"
log_every = 1
"""


RETRIEVAL = RECIPE.replace('name = "classification"\ntargets = ["shade"]', 'name = "retrieval"')
RETRIEVAL = RETRIEVAL.replace('[fusion]\nname = "concat"\n', "").replace('targets = ["shade"]\n', "")


def table(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)


@pytest.fixture
def rows(clips: Path) -> list[dict[str, str]]:
    """The rows of ``clips``, with a split by person: the last one is val."""
    with (clips / "metadata.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    for row in found:
        row["split"] = "val" if row["group"] == "person 3" else "train"
    return found


@pytest.mark.usefixtures("own_cache")
def test_what_a_recipe_would_do(clips: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    rows += [{**rows[0], "file_name": "gone.mp4", "text": "two words"}]
    table(clips, rows)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    before = sorted(os.listdir(clips))
    found = doctoring.examine(clips, doctoring.Asked(recipe=tmp_path / "recipe.toml"))
    assert sorted(os.listdir(clips)) == before, "no split is written beside the table"
    said = found.trial
    assert said["rows of train"] == "6 of 7 can be used, 1 file-missing"
    assert said["rows of val"] == "3 of 3 can be used"
    assert said["texts that are cut"] == "9", "of three and four words, two are read"
    assert said["clips with frames shown twice"] == "8", "4 frames are read as 6"
    assert said["samples"] == "6 in train, 2 a step"
    assert said["tokens cut"] == "6 (6 of 6 train texts are too long)"
    assert said["a clip"] == "6 frames of 16x16, colour"
    recipe = assemble.resolve(Recipe.parse(RECIPE, [f"data.root={clips}"]))
    table(clips, rows[:-1])
    data = assemble.dataset(recipe)
    task = assemble.task(recipe, assemble.describe(recipe, data), data)
    assert said["parameters"].startswith(f"{sum(p.numel() for p in task.parameters()):,},")
    assert float(said["a step"].split()[0]) > 0
    assert "MiB" in said["memory"]
    assert said["measured on"] == runtime.hardware()


@pytest.mark.usefixtures("own_cache")
def test_rows_are_counted_as_they_are_left_out(clips: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    """A copy in val takes its row of train away, and a clip with two labels goes as a whole."""
    rows += [{**rows[0], "group": "another", "split": "val"}, {**rows[1], "shade": "other"}]
    table(clips, rows)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    said = doctoring.examine(clips, doctoring.Asked(recipe=tmp_path / "recipe.toml")).trial
    assert said["rows of train"] == "4 of 7 can be used, 2 label-conflict, 1 duplicate-across-splits"
    assert said["samples"].startswith("4 in train")


@pytest.mark.usefixtures("own_cache")
def test_what_was_found_is_said_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of which no row can be used: the page is there, and the findings come before the error."""
    table(tmp_path, [{"file_name": "gone.mp4", "label": "a"}])
    page = tmp_path / "page.html"
    words = ["doctor", str(tmp_path), "--write", str(tmp_path / "clean.csv"), "--report", str(page)]
    monkeypatch.setattr(sys, "argv", ["kinetext", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert "file-missing" in out and out.splitlines()[-1] == str(page)
    assert "no row of" in err and err.count("\n") == 1
    assert "file-missing" in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("own_cache")
def test_a_recipe_that_would_stop(clips: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    rows[0]["group"] = "person 3"
    table(clips, rows)
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    found = doctoring.examine(clips, doctoring.Asked(recipe=tmp_path / "recipe.toml"))
    assert "group-across-splits" in found.codes("error")
    assert found.trial["training"].startswith("would stop: metadata.csv: group 'person 3' is in train, val")


def test_made_data_needs_no_doctor(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('task.name = "classification"\ndata.name = "digits"', encoding="utf-8")
    with pytest.raises(RecipeError, match="data: digits"):
        doctoring.examine(clips, doctoring.Asked(recipe=tmp_path / "recipe.toml"))


def begin(clips: Path, out: Path) -> None:
    train.start(Recipe.parse(RECIPE, [f"data.root={clips}"]), out)


def test_training_is_quiet_where_nothing_is_wrong(
    clips: Path, rows: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table(clips, rows)
    begin(clips, tmp_path / "run")
    assert "kinetext doctor" not in capsys.readouterr().err


def test_training_says_once_what_looks_wrong(
    clips: Path, rows: list[dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows[1]["shade"] = "Dark"
    table(clips, rows)
    begin(clips, tmp_path / "run")
    err = " ".join(capsys.readouterr().err.split())
    assert err.count("label-variants: shade: 1 row has a label that differs from another class by case") == 1
    assert f"more with: kinetext doctor {clips}" in err


def test_training_stops_before_a_leak(clips: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    rows.append({**rows[0], "group": "somebody else", "split": "val"})
    table(clips, rows)
    with pytest.raises(DataError, match=r"2 rows show a clip that another split has.*Rows 1 .*kinetext doctor") as told:
        begin(clips, tmp_path / "run")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "run").exists()


def test_training_without_targets_stops_before_a_leak(clips: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    """A recipe that learns no label column still has its clips measured; its labels are nobody's business."""
    rows[1]["shade"] = "Dark"
    rows.append({**rows[0], "group": "somebody else", "split": "val"})
    table(clips, rows)
    recipe = Recipe.parse(RETRIEVAL, [f"data.root={clips}"])
    with pytest.raises(DataError, match="2 rows show a clip that another split has"):
        train.start(recipe, tmp_path / "run")
    table(clips, rows[:-1])
    resolved = assemble.resolve(recipe)
    said = checking.check(resolved, assemble.dataset(resolved))
    assert not [line for line in said if line.startswith("label")]
