"""What is trained for a comparison, in which order, and with which budget.

Part of ``benchmarks/evolution.py``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

from evolution_jobs import Job, alone
from evolution_worlds import RECIPES, World
from kinetext import assemble
from kinetext.config import Recipe
from kinetext.types import KinetextError

MANY_STEPS = 10_000_000  # so that the budget ends a training, and nothing else


@dataclass
class Plan:
    """What is to be trained: a recipe's name -> the recipe as it is asked for, and those it starts from.

    A method may be trained in stages: recipes called after its own with something added, from which it starts. They
    share its budget, in proportion to their own minutes. What else it starts from, a codec say, has a budget of its own.
    """

    asked: argparse.Namespace
    world: World
    recipes: dict[str, list[str]] = field(default_factory=dict)  # name -> changes
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    stages: dict[str, list[str]] = field(default_factory=dict)  # of a method, its own recipe first
    _minutes: dict[str, float] = field(default_factory=dict)  # where the budget decides

    def add(self, path: Path, budget: float) -> str:
        """Plans the training of a method's recipe, after that of the recipes that it starts from; minutes on two cores."""
        own = {one.stem: Recipe.load(one).train.minutes for one in (path, *_stages(path))}
        self.stages[path.stem] = list(own)
        for name, minutes in own.items():
            self._minutes[name] = budget * minutes / sum(own.values())
        return self._add(path)

    def _add(self, path: Path) -> str:
        name = path.stem
        if name in self.recipes:
            return name
        changes = [f"data.root={self.asked.data / self.world.root}"] if self.world.root else []
        if name in self._minutes:
            changes += budget_of(self._minutes[name])
        before = []
        for key, first in _before(path).items():
            before.append(self._add(first))
            changes.append(f"{key}={self.asked.runs / first.stem}")
        # what others start from, a codec say, has other options
        asked = self.asked.set if name in self._minutes else []
        self.recipes[name], self.needs[name] = [*changes, *asked], tuple(dict.fromkeys(before))
        return name

    def others(self, name: str) -> list[str]:
        """What the stages of a method start from that is not one of them."""
        stages = self.stages[name]
        return [first for stage in stages for first in self.needs[stage] if first not in stages]

    def minutes(self, name: str) -> float:
        """The budget that a method and its stages were trained with, in minutes of two cores, or of an accelerator."""
        trains = [assemble.open_path(self.run(stage)).recipe.train for stage in self.stages[name]]
        return sum(train.minutes / (2 if train.clock == "processor" else 1) for train in trains)

    def clock(self, name: str) -> str:
        """The clock by which that budget was measured, "wall" or "processor"; both, where its stages differ."""
        clocks = {assemble.open_path(self.run(stage)).recipe.train.clock for stage in self.stages[name]}
        return " and ".join(sorted(clocks))

    def run(self, name: str) -> Path:
        """Where it is trained."""
        return self.asked.runs / name

    def usage(self, name: str) -> Path:
        """Where its peak memory is noted."""
        return self.run(name).with_suffix(".usage.json")

    def finished(self, name: str) -> bool:
        """Whether it is trained, as it is asked for; where nothing is to be trained, as it may be.

        Raises:
            KinetextError: what is there was trained by another recipe.
        """
        path = self.run(name)
        if not (path / "recipe.toml").is_file():
            return False
        if not self.asked.judge_only:
            if assemble.open_path(path).recipe != assemble.resolve(self.recipe(name)):
                raise KinetextError(
                    f"{path}: is a run of another recipe or budget; delete it, or choose another --runs"
                )
            for first in self.needs[name]:
                if not self.finished(first):
                    raise KinetextError(f"{path}: started from {first}, which is to be trained anew; delete it too")
        return (path / "evaluation.json").is_file()

    def recipe(self, name: str) -> Recipe:
        """As it is asked for."""
        return Recipe.load(RECIPES / f"{name}.toml", self.recipes[name])

    def job(self, name: str) -> Job | None:
        """The training, or what is left of it."""
        if self.finished(name):
            return None
        path, verb = self.run(name), [sys.executable, "-m", "kinetext", "train"]
        if (path / "recipe.toml").is_file():
            words = ["--resume", str(path)]
        else:
            self.usage(name).unlink(missing_ok=True)  # that of a run that was deleted
            words = [str(RECIPES / f"{name}.toml"), *self.recipes[name], "--out", str(path)]
        return Job(name, [*verb, *words], path.with_suffix(".log"), self.needs[name], self.usage(name))


def _before(path: Path) -> dict[str, Path]:
    """The recipes that a recipe starts from or needs: key -> path."""
    recipe = Recipe.load(path)
    sources = {f"init.{part}": source for part, source in recipe.init.items()}
    sources["evaluate.reader"] = recipe.evaluate.reader
    sources["task.reward"] = str(recipe.task.args.get("reward", ""))
    sources["method.teacher"] = str(recipe.method.args.get("teacher", "")) if recipe.method else ""
    ours = {key: Path(source) for key, source in sources.items() if Path(source).parent == Path("runs")}
    found = {key: RECIPES / f"{source.name}.toml" for key, source in ours.items()}
    return {key: first for key, first in found.items() if first.is_file()}


def _stages(path: Path) -> list[Path]:
    """The recipes of a method's stages before the last."""
    waiting, found = [path], list[Path]()
    while waiting:
        firsts = [one for one in _before(waiting.pop()).values() if one.stem.startswith(f"{path.stem}_")]
        waiting += [one for one in firsts if one not in found]
        found += [one for one in dict.fromkeys(firsts) if one not in found]
    return found


def budget_of(minutes: float) -> list[str]:
    """What gives a training so many minutes of two cores, or of an accelerator."""
    clock, times = ("processor", 2) if alone() else ("wall", 1)
    # the run's own evaluation is for its report; the judges come afterwards
    return [
        f"train.clock={clock}",
        f"train.minutes={times * minutes:g}",
        f"train.steps={MANY_STEPS}",
        "evaluate.samples=64",
    ]
