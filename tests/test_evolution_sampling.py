"""The clips that are judged: made again where something else would be made, and not otherwise."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import evolution
import evolution_sampling
from evolution_sampling import ClipPlan, begin, is_made, made_clips
from kinetext import assemble
from kinetext.checkpoint import Run
from kinetext.config import Recipe
from kinetext.types import KinetextError, RunError, Sample

PROMPTS = [Sample("", text=str(place)) for place in range(5)]


def plan_of(path: Path, *changes: str, batch: int = 2) -> ClipPlan:
    """That of a run, its recipe changed."""
    run = assemble.open_run(str(path))
    return ClipPlan.of(Run(run.path, assemble.resolve(run.recipe.changed(changes)), run.meta), PROMPTS, batch)


def filled(folder: Path, plan: ClipPlan) -> Path:
    """A folder with all that is to be made."""
    begin(folder, plan)
    for path in (*plan.files(folder), folder / "costs.json"):
        path.write_text("{}")
    return folder


def test_clips_of_another_plan_are_thrown_away(runs: SimpleNamespace, tmp_path: Path) -> None:
    plan = plan_of(runs.maker)
    folder = filled(tmp_path / "clips", plan)
    begin(folder, plan)
    assert is_made(folder, plan)
    begin(folder, plan_of(runs.maker, batch=3))
    assert [path.name for path in folder.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    "change", ["task.guidance=2", "generator.guidance_to=0.5", "text.max_tokens=8", "train.precision=bf16"]
)
def test_an_edited_recipe_gives_other_clips(change: str, runs: SimpleNamespace, tmp_path: Path) -> None:
    folder = filled(tmp_path / "clips", plan_of(runs.maker))
    assert not is_made(folder, plan_of(runs.maker, change))
    assert is_made(folder, plan_of(runs.maker, "data.clips=7", "train.lr=1", "evaluate.samples=2"))


def test_clips_are_made_only_with_every_piece_of_this_very_run(runs: SimpleNamespace, tmp_path: Path) -> None:
    """What is left where new ones could not be made is not judged."""
    plan = plan_of(runs.maker)
    folder = filled(tmp_path / "clips", plan)
    assert [path.name for path in plan.files(folder)] == ["000000.npz", "000002.npz", "000004.npz"]
    assert is_made(folder, plan)
    (folder / "000002.npz").unlink()
    assert not is_made(folder, plan)
    (folder / "plan.json").write_text(json.dumps({**asdict(plan), "weights": "other"}))
    (folder / "000002.npz").touch()
    assert not is_made(folder, plan) and not is_made(tmp_path / "gone", plan)
    with pytest.raises(KinetextError, match=r"makes no clips \(its task is classification\)"):
        plan_of(runs.reader)
    with pytest.raises(RunError):
        plan_of(tmp_path / "gone")


def test_clips_of_a_plan_that_said_less_are_kept(runs: SimpleNamespace, tmp_path: Path) -> None:
    plan = plan_of(runs.maker)
    folder = filled(tmp_path / "clips", plan)
    older = {name: value for name, value in asdict(plan).items() if name not in ("recipe", "clips")}
    (folder / "plan.json").write_text(json.dumps(older))
    assert is_made(folder, plan) and not is_made(folder, plan_of(runs.maker, "task.steps=9"))
    begin(folder, plan)  # from now on it says all, so that an edited recipe is seen
    assert is_made(folder, plan) and json.loads((folder / "plan.json").read_text()) == asdict(plan)


def test_one_run_without_all_its_clips_does_not_stop_the_others(runs: SimpleNamespace, tmp_path: Path) -> None:
    words = ["--clips=2", "--prompts=0", "--batch=2", f"--runs={tmp_path}", f"--data={tmp_path}"]
    asked = evolution.arguments(words)
    world, run = evolution.WORLDS["digits"], assemble.open_run(str(runs.maker))
    prompts = evolution.draw(world, run.recipe, 2, 0, asked.times, texts_only=True).prompts()
    plan = ClipPlan.of(run, prompts, 2)
    for method in ("flow", "gan"):
        filled(tmp_path / "clips" / f"evolution_{method}", plan)
    plan.files(tmp_path / "clips" / "evolution_gan")[-1].unlink()
    made = evolution.ready({"flow": runs.maker, "gan": runs.maker, "diffusion": tmp_path / "gone"}, asked)
    assert made == {"flow": runs.maker}


def test_data_may_have_moved_since_training(
    runs: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own root is gone; where --data has the world's, that is taken, and where nothing has it one line says so."""
    path = tmp_path / "run"
    shutil.copytree(runs.maker, path)
    moved = Recipe.load(path / "recipe.toml", [f"data.root={tmp_path / 'gone'}"])
    (path / "recipe.toml").write_text(moved.to_toml())
    words = [
        str(path),
        str(tmp_path / "clips"),
        "--world=digits",
        "--clips=1",
        "--prompts=0",
        "--batch=2",
        f"--data={tmp_path}",
    ]
    assert evolution_sampling.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("root: no t10k-images-idx3-ubyte")
    write_mnist(tmp_path / "mnist")
    assert evolution_sampling.main(words) == 0
    assert made_clips(tmp_path / "clips").shape == (2, 1, 16, 64, 64)
    job = evolution.sampling("flow", path, evolution.arguments([f"--data={tmp_path}"]), ())
    assert f"--data={tmp_path}" in job.command


def write_mnist(folder: Path) -> None:
    """Held-out handwriting, one image a digit, in the format of MNIST."""
    folder.mkdir()
    images, classes = np.full((10, 28, 28), 200, np.uint8), np.arange(10, dtype=np.uint8)
    for name, array in (("t10k-images-idx3-ubyte", images), ("t10k-labels-idx1-ubyte", classes)):
        sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
        (folder / name).write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
