"""Six generations of text-to-video on one scale: trains every method with the same budget, judges all of them alike, and writes
the table, the plot and the contact sheet of docs/evolution.md.

    python benchmarks/evolution.py --world digits --budget 40

The budget is in minutes on a machine of two cores: without an accelerator a method gets twice as many minutes of one
processor's work (``train.clock = "processor"``), in a process of one thread, and two methods run side by side; on an accelerator
it gets that many minutes on the wall. Every method is trained by the command line, ``kinetext train``, into --runs. What is finished
there is not done again, what was stopped goes on, and Ctrl-C stops and saves everything.

    python benchmarks/evolution.py --world digits --judge-only --at flow=runs/mine     judges a run from elsewhere
    python benchmarks/evolution.py --world digits --page-only                          the page again, from the numbers
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

import kinetext
from evolution_judging import Clips, Jury
from evolution_page import prompt_notes, write_page, write_strip
from evolution_sampling import made_clips, made_costs, slope
from evolution_worlds import RECIPES, ROOT, WORLDS, Sets, World, draw
from kinetext import assemble, runtime
from kinetext.checkpoint import Run, write_text
from kinetext.config import Recipe
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import KinetextError

HERE = Path(__file__).parent
MANY_STEPS = 10_000_000  # so that the budget ends a training, and nothing else
PAUSE = 0.5  # seconds between two looks at what runs


@dataclass
class Job:
    """A process to run, and what must be finished before."""

    name: str
    command: list[str]
    log: Path
    needs: tuple[str, ...] = ()
    usage: Path | None = None  # where its peak memory is noted


@dataclass
class Plan:
    """What is to be trained: a recipe's name -> the recipe as it is asked for, and those it starts from."""

    asked: argparse.Namespace
    world: World
    recipes: dict[str, list[str]] = field(default_factory=dict)  # name -> changes
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, path: Path, budget: Sequence[str]) -> str:
        """Plans the training of a recipe, after that of the recipes that it starts from."""
        name = path.stem
        if name in self.recipes:
            return name
        changes = [f"data.root={self.asked.data / self.world.root}"] if self.world.root else []
        changes += budget
        recipe, before = Recipe.load(path), []
        sources = {f"init.{part}": source for part, source in recipe.init.items()}
        sources["evaluate.reader"] = recipe.evaluate.reader
        sources["task.reward"] = str(recipe.task.args.get("reward", ""))
        sources["method.teacher"] = str(recipe.method.args.get("teacher", "")) if recipe.method else ""
        for key, source in sources.items():
            first = RECIPES / f"{Path(source).name}.toml"
            if Path(source).parent == Path("runs") and first.is_file():
                before.append(self.add(first, ()))
                changes.append(f"{key}={self.asked.runs / first.stem}")
        self.recipes[name], self.needs[name] = [*changes, *self.asked.set], tuple(dict.fromkeys(before))
        return name

    def run(self, name: str) -> Path:
        """Where it is trained."""
        return self.asked.runs / name

    def finished(self, name: str) -> bool:
        """Whether it is trained, as it is asked for; where nothing is to be trained, as it may be.

        Raises:
            KinetextError: what is there was trained by another recipe.
        """
        path = self.run(name)
        if not (path / "recipe.toml").is_file():
            return False
        if not self.asked.judge_only and assemble.open_path(path).recipe != assemble.resolve(self.recipe(name)):
            raise KinetextError(f"{path}: is a run of another recipe or budget; delete it, or choose another --runs")
        return (path / "evaluation.json").is_file()

    def recipe(self, name: str) -> Recipe:
        """As it is asked for."""
        return Recipe.load(RECIPES / f"{name}.toml", self.recipes[name])

    def job(self, name: str) -> Job | None:
        """The training, or what is left of it."""
        if self.finished(name):
            return None
        path, verb = self.run(name), [sys.executable, "-m", "kinetext", "train"]
        begun = (path / "recipe.toml").is_file()
        words = (
            ["--resume", str(path)]
            if begun
            else [str(RECIPES / f"{name}.toml"), *self.recipes[name], "--out", str(path)]
        )
        return Job(name, [*verb, *words], path.with_suffix(".log"), self.needs[name], path.with_suffix(".usage.json"))


def alone() -> bool:
    """Whether there is no accelerator."""
    return runtime.device().type == "cpu"


def budget_of(minutes: float) -> list[str]:
    """What gives every method the same budget."""
    clock, times = ("processor", 2) if alone() else ("wall", 1)
    # the run's own evaluation is for its report; the judges come afterwards
    return [
        f"train.clock={clock}",
        f"train.minutes={times * minutes:g}",
        f"train.steps={MANY_STEPS}",
        "evaluate.samples=64",
    ]


def work(jobs: Sequence[Job], at_once: int) -> list[str]:
    """Runs processes, ``at_once`` at a time and each after what it needs; names those that failed.

    Raises:
        KeyboardInterrupt: after all of them have stopped; trainings save first.
    """
    waiting, running, failed = list(jobs), dict[int, tuple[Job, subprocess.Popen[bytes]]](), list[str]()
    try:
        while waiting or running:
            busy = {job.name for job in waiting} | {job.name for job, _ in running.values()}
            for job in [job for job in waiting if not busy & set(job.needs)][: at_once - len(running)]:
                waiting.remove(job)
                if set(job.needs) & set(failed):
                    failed.append(job.name)
                    continue
                print(f"{job.name}: started, see {job.log}", flush=True)
                process = _start(job)
                running[process.pid] = (job, process)
            failed += _ended(running)
            time.sleep(PAUSE if running else 0)
    finally:
        for _, process in running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        while running:
            _ended(running)
            time.sleep(PAUSE)
    return failed


def _start(job: Job) -> subprocess.Popen[bytes]:
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if alone() else {}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        # a group of its own: a terminal's Ctrl-C reaches this process alone, which then stops the others once
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **one_thread},
        )  # fmt: skip


def _ended(running: dict[int, tuple[Job, subprocess.Popen[bytes]]]) -> list[str]:
    """Takes out the processes that have ended, and names those that failed."""
    failed = []
    for pid, (job, process) in list(running.items()):
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if not done:
            continue
        del running[pid]
        process.returncode = os.waitstatus_to_exitcode(status)
        if job.usage:
            before = json.loads(job.usage.read_text()) if job.usage.is_file() else {"peak_kb": 0}
            peak = usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
            write_text(job.usage, json.dumps({"peak_kb": max(before["peak_kb"], peak)}) + "\n")
        print(f"{job.name}: {'done' if process.returncode == 0 else f'ended with {process.returncode}'}", flush=True)
        if process.returncode:
            failed.append(job.name)
    return failed


def sampling(name: str, run: Path | str, asked: argparse.Namespace, needs: tuple[str, ...]) -> Job:
    """Makes the clips of a run that are judged."""
    folder = asked.runs / "clips" / name
    sizes = [f"--{key}={getattr(asked, key)}" for key in ("world", "clips", "prompts", "times", "batch")]
    command = [sys.executable, str(HERE / "evolution_sampling.py"), str(run), str(folder), *sizes]
    return Job(f"{name} clips", command, folder.with_suffix(".log"), needs)


def facts(run: Run, asked: argparse.Namespace, plan: Plan | None, name: str) -> dict[str, Any]:
    """How a run came to be, and how large it is."""
    task = assemble.restore(run)
    assert isinstance(task, TextToVideo)
    last: dict[str, Any] = {}
    for line in run.history():
        last |= line
    train, steps = run.recipe.train, last.get("step", 0)
    learned = sum(p.numel() for player in task.players for _, p in task.parameters_of(player))
    usage = asked.runs / f"{name}.usage.json"
    known = usage.is_file() and alone()  # an accelerator's memory is not seen from outside
    return {
        "budget": train.minutes / (2 if train.clock == "processor" else 1),
        "minutes": last.get("train/seconds", 0.0) / 60,
        "clock": train.clock,
        "steps": steps,
        "clips": steps * train.batch * train.accumulate,
        "players": len(task.players),
        "parameters": learned,
        "codec_parameters": sum(p.numel() for p in task.codec.parameters()),
        "memory_mb": json.loads(usage.read_text())["peak_kb"] / 1024 if known else None,
        "before": {first: _minutes(plan.run(first)) for first in plan.needs.get(name, ())} if plan else {},
    }


def _minutes(path: Path) -> float:
    return max((line.get("train/seconds", 0.0) for line in Run.open(path).history()), default=0.0) / 60


def origin() -> dict[str, Any]:
    """Where and by what something was measured."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    return {
        "date": date.today().isoformat(),
        "commit": commit + (" with changes" if changed else ""),
        "hardware": runtime.hardware(),
        "versions": {
            "kinetext": kinetext.__version__, "torch": torch.__version__, "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
        },
    }  # fmt: skip


def entry(run: Run, jury: Jury, sets: Sets, folder: Path) -> dict[str, Any]:
    """What one run's clips are worth."""
    made, (seconds, memory) = made_clips(folder), made_costs(folder)
    times = json.loads((folder / "costs.json").read_text())
    task = run.recipe.task.args
    return {
        **jury.judged(Clips.of(made, sets)),
        "sampling": {
            "steps": task["steps"], "guidance": task["guidance"], "seconds_per_clip": seconds, "memory_mb": memory,
            "seconds_by_frames": times, "seconds_per_frame": slope(times),
        },
    }  # fmt: skip


def judge(runs: Mapping[str, Path], asked: argparse.Namespace, plan: Plan | None) -> None:
    """Judges finished runs, method -> folder, and notes the results one by one."""
    world = WORLDS[asked.world]
    path = asked.results / f"evolution_{world.name}.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"methods": {}}
    sizes = {name: getattr(asked, name) for name in ("clips", "prompts", "times", "pool", "reader")}
    if results["methods"] and results["sizes"] != sizes:
        raise KinetextError(f"{path}: measured with {results['sizes']}, and this is {sizes}; choose another --results")
    opened = {method: assemble.open_run(str(folder)) for method, folder in runs.items()}
    here = [f"data.root={asked.data / world.root}"] if world.root and (asked.data / world.root).is_dir() else []
    recipes = {method: assemble.with_data(run.recipe, here) for method, run in opened.items()}
    (method, recipe), *others = recipes.items()
    for other, one in others:
        if one.data != recipe.data:
            raise KinetextError(f"{other}: section data differs from that of {method}; they can't be compared")
    sets = draw(world, recipe, asked.clips, asked.prompts, asked.times)
    jury = Jury(world, recipe, opened[method].meta, sets, asked.reader, asked.pool)
    print("real clips: judging", flush=True)
    results |= {"world": world.name, "sizes": sizes, "real": {**jury.ceiling(), **origin()}}
    results["prompts"] = prompt_notes(sets)
    write_strip(asked.docs, world, "real", sets, jury.real)
    for method, run in opened.items():
        print(f"{method}: judging", flush=True)
        folder, name = asked.runs / "clips" / f"{world.prefix}{method}", world.recipe(method).stem
        found = entry(run, jury, sets, folder)
        trained = facts(run, asked, plan, name)
        results["methods"][method] = {"training": trained, **found, "weights": run.weights_hash(), **origin()}
        write_strip(asked.docs, world, method, sets, Clips.of(made_clips(folder), sets))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(results, ensure_ascii=False, indent=1) + "\n")


def train(plan: Plan, methods: Sequence[str], asked: argparse.Namespace) -> list[str]:
    """Trains what is not trained yet, and makes the clips to judge; names what failed."""
    budget = budget_of(asked.budget)
    names = [plan.add(plan.world.recipe(method), budget) for method in methods if method not in asked.at]
    jobs = [job for name in plan.recipes if (job := plan.job(name))] if not asked.judge_only else []
    needed = {first for job in jobs for first in job.needs}
    jobs.sort(key=lambda job: job.name not in needed)  # or what waits for them would be alone at the end
    training = {job.name for job in jobs}
    for name in names:
        if name in training or plan.finished(name):
            needs = (name,) if name in training else ()
            jobs.append(sampling(name, plan.run(name), asked, needs))
        else:
            print(f"{name}: not trained yet", flush=True)
    jobs += [
        sampling(f"{plan.world.prefix}{method}", path, asked, ())
        for method, path in asked.at.items()
        if method in methods
    ]
    return work(jobs, asked.jobs)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=WORLDS, default="digits")
    parser.add_argument("--budget", type=float, default=40.0, metavar="MINUTES", help="a method, on two cores")
    parser.add_argument("--methods", type=lambda text: text.split(","), help="such as flow,gan; all that have a recipe")
    parser.add_argument("--jobs", type=int, default=2 if alone() else 1, help="at once")
    parser.add_argument("--runs", type=Path, default=Path("runs/evolution"), help="where runs and clips are kept")
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data", help="with mnist in it")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="in every recipe")
    parser.add_argument("--at", action="append", default=[], metavar="METHOD=RUN", help="judge this run in its place")
    parser.add_argument("--judge-only", action="store_true", help="train nothing")
    parser.add_argument("--page-only", action="store_true", help="only write the page from the results")
    parser.add_argument("--clips", type=int, default=500, help="to judge, of either kind")
    parser.add_argument("--prompts", type=int, default=20, help="that are repeated, to see how clips differ")
    parser.add_argument("--times", type=int, default=8, help="how often")
    parser.add_argument("--batch", type=int, default=16, help="clips made at once")
    parser.add_argument("--pool", type=int, default=30_000, help="training clips that made ones are compared with")
    parser.add_argument("--reader", help="a shipped model or run folder; the world's own if not given")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    asked = parser.parse_args(words)
    asked.data, asked.at = asked.data.resolve(), {k: Path(v) for k, _, v in (one.partition("=") for one in asked.at)}
    world = WORLDS[asked.world]
    trained = Path(world.reader).parent == Path("runs")  # by its recipe, before the methods that it judges
    asked.reader = asked.reader or (str(asked.runs / Path(world.reader).name) if trained else world.reader)
    wrong = [name for name in (*(asked.methods or ()), *asked.at) if name not in world.methods]
    if wrong:
        parser.error(f"{wrong[0]}: no method, expected one of {', '.join(world.methods)}")
    return asked


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> int:
    asked = arguments(words)
    world, failed = WORLDS[asked.world], list[str]()
    signal.signal(signal.SIGTERM, _stop)
    try:
        if not asked.page_only:
            wanted = [name for name in world.methods if not asked.methods or name in asked.methods]
            methods = [name for name in wanted if world.recipe(name).is_file() or name in asked.at]
            plan = Plan(asked, world)
            failed = train(plan, methods, asked)
            runs = {name: asked.at.get(name, plan.run(world.recipe(name).stem)) for name in methods}
            clips = asked.runs / "clips"
            ready = {k: v for k, v in runs.items() if (clips / f"{world.prefix}{k}" / "costs.json").is_file()}
            if ready:
                judge(ready, asked, plan)
        path = asked.results / f"evolution_{world.name}.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"methods": {}}
        write_page(asked.docs, world, results)
    except KeyboardInterrupt:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    except KinetextError as error:
        print(error, file=sys.stderr)
        return 2
    for name in failed:
        print(f"{name}: failed, see its log in {asked.runs}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
