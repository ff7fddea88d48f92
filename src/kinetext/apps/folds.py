"""Cross-validation by group: one recipe trained once a fold, all judged together."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from kinetext import assemble, manifest, report, runtime, train
from kinetext.checkpoint import Run, write_text
from kinetext.config import Recipe
from kinetext.evaluate import Evaluation, Tally
from kinetext.types import DataError, RecipeError

Say = Callable[[str], None]


@dataclass(frozen=True)
class CrossValidated:
    """What came of it.

    Args:
        found: over the held-out samples of all folds, each judged by the model that did not see its group; "folds/..." is
            the standard deviation of a number over the folds.
        folds: of every fold by itself, name -> number.
    """

    found: Evaluation
    folds: tuple[dict[str, float], ...]


def cross_validate(recipe: Recipe, folds: int | Literal["group"], out: Path, say: Say) -> CrossValidated:
    """Trains ``recipe`` once for every fold, into ``out/fold-00``, ``out/fold-01`` ..., and judges all of them together.

    A run that is there is not trained again, and one that was interrupted goes on where it was.

    Args:
        folds: how many, 2 to the number of groups; "group" is as many as there are groups (leave one group out).
        out: a folder; the result goes to ``out/evaluation.json`` and ``out/report.html`` too.
        say: told what is going on.

    Raises:
        RecipeError: the data is no folder with a table, or the recipe looks at held-out data while it trains.
        DataError: too few groups.
        Interrupted: Ctrl-C, after saving.
    """
    recipe = assemble.resolve(recipe)
    _check(recipe)
    args = recipe.data.args
    table = manifest.load(args["root"], manifest=args["manifest"] or None, multi=args["multi"])
    groups = len(set(manifest.groups(table.rows)))
    many = groups if folds == "group" else folds
    manifest.with_fold(table, 0, many, seed=args["seed"])  # refuses a wrong number before anything is trained
    _same_folds(out / "folds.csv", table, many, args["seed"])
    tally, each = None, []
    for fold in range(many):
        path = out / f"fold-{fold:02}"
        say(f"fold {fold + 1} of {many}, {groups} groups: {path}")
        run = trained(recipe.changed([f"data.folds={many}", f"data.fold={fold}"]), path)
        task, held_out = assemble.restore(run).to(runtime.device()), assemble.dataset(run.recipe, "val")
        tally = tally or Tally(task, run.recipe, "val")
        alone = Tally(task, run.recipe, "val")
        alone.add(task, run.meta, held_out)
        each.append(dict(alone.found().numbers))
        tally.take(alone)
    assert tally is not None
    result = CrossValidated(tally.found().joined(Evaluation(_spread(each))), tuple(each))
    write_text(out / "evaluation.json", json.dumps({**asdict(result.found), "folds": each}, ensure_ascii=False) + "\n")
    write_text(out / "report.html", report.folds_page(out.name, result.found, each, recipe))
    return result


def _same_folds(path: Path, table: manifest.Manifest, many: int, seed: int) -> None:
    """Writes down which row is held out in which fold; what stands there already has to be the same, or models would
    be judged on what they were trained on.
    """
    place: dict[int, int] = {}
    for fold in range(many):
        place |= {row.number: fold for row in manifest.with_fold(table, fold, many, seed=seed).where("val")}
    lines = [
        f"{row.number},{json.dumps(row.file or row.text, ensure_ascii=False)},{place[row.number]}" for row in table.rows
    ]
    text = "\n".join(["row,what,fold", *lines]) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise DataError(
            f"{path}: the table or the folds are no longer those of the runs beside it; choose another --out"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent}: can't be made ({error})") from error
    write_text(path, text)


def trained(recipe: Recipe, path: Path) -> Run:
    """The finished run at ``path``: made where there is none, gone on with where it was interrupted.

    Raises:
        RecipeError: it is a run of another recipe.
    """
    if not (path / "recipe.toml").is_file():
        return train.start(recipe, path)
    there = assemble.open_path(path)
    if there.recipe != assemble.resolve(recipe):
        raise RecipeError(f"{path}: is a run of another recipe; delete it, or choose another --out")
    return train.resume(path)


def _check(recipe: Recipe) -> None:
    if recipe.task.name == "retrieval":
        raise RecipeError("task.name: retrieval, and the models of folds have no space in common to search in")
    if "folds" not in recipe.data.args:
        raise RecipeError(f"data.name: {recipe.data.name!r} has no groups to make folds of, expected folder")
    for name, value in (("eval_every", recipe.train.eval_every), ("patience", recipe.train.patience)):
        if value:
            raise RecipeError(
                f"train.{name}: {value}, expected 0 with folds: choosing the best step by the fold that is held out "
                "would make the result too good"
            )


def _spread(each: list[dict[str, float]]) -> dict[str, float]:
    """The standard deviation of every number that all folds have, over the folds."""
    names = [name for name in each[0] if name.startswith("val/") and all(name in one for one in each)]
    return {f"folds/{name.removeprefix('val/')}": statistics.stdev(one[name] for one in each) for name in names}
