"""Every recipe parses, resolves, and trains for two steps at a tiny size; those that build on others build on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from kinetext import assemble, video
from kinetext.checkpoint import Run
from kinetext.config import Recipe
from kinetext.train import start
from kinetext.types import RecipeError

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))
SHIPPED = {path.parent.name for path in (ROOT / "src" / "kinetext" / "models").glob("*/recipe.toml")}
RUNS = Path("runs")  # where recipes look for the runs that they start from: runs/NAME is recipes/NAME.toml trained

TINY = (
    "train.steps=2", "train.minutes=0", "train.batch=2", "train.accumulate=1", "train.workers=0", "train.warmup=0",
    "train.compile=false", "train.eval_every=0", "train.sample_every=0", "train.save_every=0", "train.log_every=1",
    "evaluate.samples=2", "evaluate.batch=2",
)  # fmt: skip
# what makes a part small; only options that the recipe's part has are taken
SMALL = {
    "generator": {"dim": 16, "depth": 1, "heads": 2, "critic_dim": 8},
    "codec": {"width": 8},
    "encoders.text": {"dim": 16, "depth": 1, "heads": 2},
    "encoders.video": {"dim": 16, "width": 8, "depth": 1, "heads": 2},
    "fusion": {"dim": 16, "heads": 2},
    "task": {"steps": 2, "reward_steps": 2, "critic_width": 8},
    "method": {"steps": 2, "substeps": 2},
}


def first(recipe: Recipe, part: str) -> str | None:
    """What a part starts from in the end: the recipe may name a run, or its whole task may start from one."""
    source = recipe.init.get(part) or recipe.init.get("task", "")
    if Path(source).parent == RUNS:
        return first(Recipe.load(FOLDER / f"{Path(source).name}.toml"), part)
    return source or None


def overrides(recipe: Recipe) -> list[str]:
    """What makes a recipe tiny, and takes it from MNIST to the digits that ship with scikit-learn."""
    found = list(TINY)
    encoders = {f"encoders.{modality}": part for modality, part in recipe.encoders.items()}
    parts = {"task": recipe.task, "generator": recipe.generator, "codec": recipe.codec, "fusion": recipe.fusion}
    parts["method"] = recipe.method
    for where, part in {**parts, **encoders}.items():
        known = assemble.resolve(recipe)  # with every default spelled out
        if part is None or where not in SMALL or first(recipe, where) in SHIPPED:
            continue  # what starts from a shipped model has its size
        args = known.encoders[where.split(".")[1]].args if "." in where else getattr(known, where).args
        found += [
            f"{where}.{option}={min(value, args[option])}" for option, value in SMALL[where].items() if option in args
        ]
    if recipe.data.name == "digits":
        found += ['data.root=""', "data.clips=4"]
    if recipe.data.name == "shapes":
        found += ["data.clips=4"]
    if recipe.data.name == "folder":
        found += ["data.size=32", f"data.num_frames={min(6, recipe.data.args.get('num_frames', 6))}"]
    return found


def make_folder(recipe: Recipe, folder: Path) -> None:
    """A little data of the kind that a recipe is for: its columns, clips or vectors, in groups."""
    args = assemble.resolve(recipe).data.args
    folder.mkdir()
    columns = [*args["targets"], *([args["vectors_row"]] if args["vectors_row"] else [])]
    lines = [",".join(["file_name", "text", "group", "split", *columns])]
    clips = ("video" in recipe.encoders or recipe.codec is not None) and not args["video_vectors"]
    for i in range(8):
        cells = [f"{i}.mp4" if clips else "", f"text number {i}", f"group {i // 2}"]
        cells += [("test" if args["val_share"] else "val") if i > 5 else "train"]
        cells += [str(i) if name == args["vectors_row"] else f"class {i % 2}" for name in columns]
        lines.append(",".join(cells))
        if clips:
            video.write(folder / f"{i}.mp4", torch.rand(3, 4, 48, 48) * 2 - 1, fps=8.0)
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    for source in filter(None, (args["text_vectors"], args["video_vectors"])):
        name, _, _ = source.partition(":")
        np.savez(folder / name, text=np.random.default_rng(0).normal(size=(8, 6)), video=np.ones((8, 4)))


def sources(recipe: Recipe) -> list[str]:
    """The runs that a recipe starts from, is taught by or is judged by."""
    teachers = [recipe.task.args.get("reward"), recipe.method and recipe.method.args.get("teacher")]
    teachers += [recipe.evaluate.reader]
    return [*recipe.init.values(), *(str(name) for name in teachers if name)]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Run]:
    """Trains a recipe in tmp_path, after those that it starts from."""
    monkeypatch.chdir(tmp_path)

    def train(name: str) -> Run:
        recipe = Recipe.load(FOLDER / f"{name}.toml")
        for source in sources(recipe):
            if Path(source).parent == RUNS and not Path(source).exists():
                train(Path(source).name)
        tiny = overrides(recipe)
        if recipe.data.name == "folder":
            make_folder(recipe, Path(f"{name}_clips"))
            tiny.append(f'data.root="{name}_clips"')
        return start(recipe.changed(tiny), RUNS / name, quiet=True)

    return train


def test_there_are_recipes() -> None:
    reading = {"mosi", "exercises_fused", "ut_interaction", "fights", "sentiment", "grid_retrieval"}
    assert {"digits", "digits_codec", "digits_images", "digits_reader"} | reading <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_resolves(name: str) -> None:
    recipe = assemble.resolve(Recipe.load(FOLDER / f"{name}.toml"))
    assert assemble.resolve(Recipe.parse(recipe.to_toml())) == recipe
    for source in sources(recipe):
        other = Path(source).parent == RUNS and Path(source).name in RECIPES
        assert other or source in SHIPPED, (
            f"{source}: a recipe starts from the run of another recipe, or a shipped model"
        )


@pytest.mark.parametrize("name", RECIPES)
def test_first_line_says_what_for_and_how(name: str) -> None:
    """A recipe begins with what it is for, and the command that trains it, or its folds."""
    about, command = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()[:2]
    assert about.startswith("# ")
    assert command.startswith((f"# kinetext train recipes/{name}.toml", f"# kinetext evaluate recipes/{name}.toml"))


@pytest.mark.parametrize("name", RECIPES)
def test_trains_two_steps(name: str, trained: Callable[[str], Run]) -> None:
    run = trained(name)
    losses = [  # of one player "train/loss", of several "train/PLAYER/loss"
        (record["step"], value)
        for record in run.history()
        for key, value in record.items()
        if key.startswith("train/") and key.endswith("/loss")
    ]
    assert {step for step, _ in losses} == {1, 2}
    assert all(math.isfinite(loss) for _, loss in losses)
    again = Run.open(run.path)
    assert again.recipe == run.recipe
    assemble.restore(again)


def test_an_unknown_option_is_refused() -> None:
    recipe = Recipe.load(FOLDER / "digits.toml", ["generator.dpeth=3"])
    with pytest.raises(RecipeError, match=r"generator\.dpeth.*did you mean 'depth'"):
        assemble.resolve(recipe)
