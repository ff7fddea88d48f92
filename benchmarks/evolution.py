"""Six generations of text-to-video on one scale: trains every method with the same budget, judges all of them alike, and writes
the table, the plot and the contact sheet of docs/evolution.md.

    python benchmarks/evolution.py --world digits --budget 40

The budget is in minutes on a machine of two cores: without an accelerator a method gets twice as many minutes of one
processor's work (``train.clock = "processor"``), in a process of one thread, and two methods run side by side; on an accelerator
it gets that many minutes on the wall. The stages of a method share its budget. Every method is trained by the command line, ``kinetext train``, into --runs. What is finished
there is not done again, what was stopped goes on, and Ctrl-C stops and saves everything.

    python benchmarks/evolution.py --world digits --judge-only --at flow=runs/mine     judges a run from elsewhere
    python benchmarks/evolution.py --world digits --real-only                          judges only the real clips again
    python benchmarks/evolution.py --world digits --page-only                          the page again, from the numbers
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from functools import cache
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import torch

import kinetext
from evolution_jobs import Job, alone, work
from evolution_judging import Clips, Jury
from evolution_page import prompt_notes, write_page, write_strip
from evolution_plan import Plan
from evolution_sampling import ClipPlan, is_made, made_clips, made_costs, slope
from evolution_worlds import ROOT, WORLDS, draw
from kinetext import assemble, runtime
from kinetext.checkpoint import Run, write_text
from kinetext.config import Component, Recipe
from kinetext.options import check_args
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import KinetextError, RunError, Sample

HERE = Path(__file__).parent


def sampling(name: str, run: Path | str, asked: argparse.Namespace, needs: tuple[str, ...]) -> Job:
    """Makes the clips of a run that are judged."""
    folder = asked.runs / "clips" / name
    sizes = [f"--{key}={getattr(asked, key)}" for key in ("world", "data", "clips", "prompts", "times", "batch")]
    command = [sys.executable, str(HERE / "evolution_sampling.py"), str(run), str(folder), *sizes]
    return Job(f"{name} clips", command, folder.with_suffix(".log"), needs)


def facts(run: Run, task: TextToVideo, plan: Plan | None, name: str) -> dict[str, Any]:
    """How a run, restored as ``task``, came to be, and how large it is; without a plan, of itself alone."""
    train = run.recipe.train
    runs = [Run.open(plan.run(stage)) for stage in plan.stages[name]] if plan else [run]
    usage = [plan.usage(stage) for stage in plan.stages[name]] if plan else []
    known = (
        bool(usage) and all(path.is_file() for path in usage) and alone()
    )  # an accelerator's is not seen from outside
    learned = sum(p.numel() for player in task.players for _, p in task.parameters_of(player))
    return {
        "minutes": sum(map(_minutes, runs)),
        "clock": train.clock,
        "stages": len(runs),
        "steps": sum(one.latest().get("step", 0) for one in runs),
        "clips": sum(map(_frames, runs)) / task.shape[1],
        "players": len(task.players),
        "parameters": learned,
        "codec_parameters": sum(p.numel() for p in task.codec.parameters()),
        "memory_mb": max(json.loads(path.read_text())["peak_kb"] for path in usage) / 1024 if known else None,
        "hardware": run.meta.facts.get("hardware", ""),
        "before": {first: _minutes(Run.open(plan.run(first))) for first in plan.others(name)} if plan else {},
    }


def _minutes(run: Run) -> float:
    return float(run.latest().get("train/seconds", 0.0)) / 60


def _frames(run: Run) -> float:
    """Frames that a training has looked at."""
    train, frames = run.recipe.train, run.meta.video_shape[1] if run.meta.video_shape else 0
    seen = run.recipe.task.args.get("train_frames", 0) or frames
    return float(run.latest().get("step", 0) * train.batch * train.accumulate * seen)


@cache
def origin() -> dict[str, Any]:
    """Where and by what something was measured: when it is first asked, for the folder may change under a long run."""
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


def entry(task: TextToVideo, jury: Jury, folder: Path) -> dict[str, Any]:
    """What the clips of one task are worth."""
    made, (seconds, memory) = made_clips(folder), made_costs(folder)
    times = json.loads((folder / "costs.json").read_text())
    able = task.generator.abilities
    return {
        **jury.judged(Clips.of(made, jury.sets)),
        "sampling": {
            "steps": task.steps if "steps" in able else None,
            "guidance": task.guidance if "guidance" in able else None, "seconds_per_clip": seconds, "memory_mb": memory,
            "seconds_by_frames": times, "seconds_per_frame": slope(times),
        },
    }  # fmt: skip


def known_results(path: Path, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The results so far, which must have been measured alike, with what is ``measured`` among their sizes; an option of
    the clips that is newer had its default, and of what else is newer nothing is known.

    Raises:
        KinetextError: they were not.
    """
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"methods": {}}
    before = dict(results.get("sizes", {})) if results["methods"] else {}
    if "data" in before:
        before["data"] = {**defaults(before["data"]["name"]), **before["data"]}
    under = [row["training"]["clock"] for row in results["methods"].values() if "at" not in row and "training" in row]
    if under:
        before.setdefault("clock", " and ".join(sorted(set(under))))
    for name, value in measured.items():
        if before.get(name, value) != value:
            raise KinetextError(
                f"{path}: measured with {name} {before[name]}, and this is {value}; choose another --results"
            )
    return {**results, "sizes": {**before, **measured}}


def defaults(data: str) -> dict[str, Any]:
    """What the options of the component ``data`` are where a recipe says nothing, as they stand in results."""
    return data_of(Component(data, check_args("data", assemble.find("data", data), {}, assemble.WIRED["data"])))


def data_of(data: Component) -> dict[str, Any]:
    """Which clips a recipe is trained on; how much their texts say may differ from method to method."""
    args = {name: value for name, value in data.args.items() if name != "captions"}
    if "root" in args:
        args["root"] = Path(args["root"]).name
    return dict(json.loads(json.dumps({"name": data.name, **args})))  # as it comes back from the results


def check_budget(plan: Plan, name: str, budget: float) -> None:
    """Refuses a method that was trained with another budget, in minutes.

    Raises:
        KinetextError: it was.
    """
    if not isclose(found := plan.minutes(name), budget, rel_tol=1e-3):
        raise KinetextError(f"{name}: trained with a budget of {found:g} minutes, expected --budget {budget:g}")


def clock_of(plan: Plan, names: Sequence[str]) -> str:
    """The clock by which the budget of these methods was measured.

    Raises:
        KinetextError: they have several.
    """
    clocks = {name: plan.clock(name) for name in names}
    if len(set(clocks.values())) > 1:
        said = ", ".join(f"{name} {clock}" for name, clock in clocks.items())
        raise KinetextError(f"train.clock: differs ({said}); they can't be compared")
    return clocks[names[0]]


def ready(runs: Mapping[str, Path], asked: argparse.Namespace) -> dict[str, Path]:
    """Those of the runs whose clips are all made, as they are asked for now."""
    world, texts, found = WORLDS[asked.world], dict[str, list[Sample]](), dict[str, Path]()
    for method, path in runs.items():
        try:
            run = assemble.open_run(str(path))
            recipe = assemble.with_data(run.recipe, world.here(asked.data))
            data = json.dumps(data_of(recipe.data))
            if data not in texts:
                texts[data] = draw(world, recipe, asked.clips, asked.prompts, asked.times, texts_only=True).prompts()
            plan = ClipPlan.of(run, texts[data], asked.batch)
        except RunError:
            continue  # it is gone, or has no weights yet
        if is_made(asked.runs / "clips" / f"{world.prefix}{method}", plan):
            found[method] = path
    return found


def results_path(asked: argparse.Namespace) -> Path:
    """Where the results of the world are."""
    return Path(asked.results / f"evolution_{asked.world}.json")


def note(results: Mapping[str, Any], asked: argparse.Namespace) -> None:
    """Writes the results so far."""
    path = results_path(asked)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(results, ensure_ascii=False, indent=1) + "\n")


def judge_real(recipe: Recipe, asked: argparse.Namespace, clock: Mapping[str, str]) -> tuple[dict[str, Any], Jury]:
    """Judges the real clips of the world of ``recipe``; the results with them, and who judges.

    Args:
        clock: that of the methods to be judged, if any is under the budget.
    """
    world = WORLDS[asked.world]
    names = ("budget", "clips", "prompts", "times", "batch", "pool", "reader")
    measured = {name: getattr(asked, name) for name in names}
    measured |= {"data": data_of(recipe.data), "device": runtime.device().type, **clock}
    results = known_results(results_path(asked), json.loads(json.dumps(measured)))
    sets = draw(world, recipe, asked.clips, asked.prompts, asked.times)
    jury = Jury(world, recipe, sets, asked.reader, asked.pool)
    print("real clips: judging", flush=True)
    results |= {"world": world.name, "real": {**jury.ceiling(), **origin()}, "prompts": prompt_notes(sets)}
    write_strip(asked.docs, world, "real", sets, jury.real)
    note(results, asked)
    return results, jury


def judge(runs: Mapping[str, Path], asked: argparse.Namespace, plan: Plan) -> list[str]:
    """Judges finished runs, method -> folder, and notes the results one by one; those that could not be judged."""
    world = WORLDS[asked.world]
    opened = {method: assemble.open_run(str(folder)) for method, folder in runs.items()}
    here = world.here(asked.data)
    recipes = {method: assemble.with_data(run.recipe, here) for method, run in opened.items()}
    (first, recipe), *others = recipes.items()
    for other, one in others:
        if data_of(one.data) != data_of(recipe.data):
            raise KinetextError(f"{other}: section data differs from that of {first}; they can't be compared")
    under = [world.recipe(method).stem for method in opened if method not in asked.at]
    for name in under:
        check_budget(plan, name, asked.budget)
    results, jury = judge_real(recipe, asked, {"clock": clock_of(plan, under)} if under else {})
    failed = list[str]()
    for method, run in opened.items():
        print(f"{method}: judging", flush=True)
        try:
            task = assemble.restore(run)
        except KinetextError as error:  # such as weights of another version: the others are judged all the same
            print(f"{method}: {error}", file=sys.stderr)
            failed.append(method)
            continue
        folder, name = asked.runs / "clips" / f"{world.prefix}{method}", world.recipe(method).stem
        assert isinstance(task, TextToVideo)
        trained = facts(run, task, None if method in asked.at else plan, name)
        found = entry(task, jury, folder)
        where = {"at": str(asked.at[method])} if method in asked.at else {}
        results["methods"][method] = {**where, "training": trained, **found, "weights": run.weights_hash(), **origin()}
        write_strip(asked.docs, world, method, jury.sets, Clips.of(made_clips(folder), jury.sets))
        note(results, asked)
    return failed


def train(plan: Plan, methods: Sequence[str], asked: argparse.Namespace) -> list[str]:
    """Trains what is not trained yet, and makes the clips to judge; names what failed."""
    names = [plan.add(plan.world.recipe(method), asked.budget) for method in methods if method not in asked.at]
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
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="in the recipes of methods and their stages",
    )
    parser.add_argument("--at", action="append", default=[], metavar="METHOD=RUN", help="judge this run in its place")
    parser.add_argument("--judge-only", action="store_true", help="train nothing")
    parser.add_argument("--real-only", action="store_true", help="judge the real clips again, and no method")
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
    asked.reader = asked.reader or world.reader
    wrong = [name for name in (*(asked.methods or ()), *asked.at) if name not in world.methods]
    if wrong:
        parser.error(f"{wrong[0]}: no method, expected one of {', '.join(world.methods)}")
    return asked


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> int:
    asked = arguments(words)
    origin()
    world, failed = WORLDS[asked.world], list[str]()
    signal.signal(signal.SIGTERM, _stop)
    try:
        if asked.real_only:
            recipe = Recipe.load(world.recipe("flow"), [*world.here(asked.data), *asked.set])
            judge_real(assemble.resolve(recipe), asked, {})
        elif not asked.page_only:
            wanted = [name for name in world.methods if not asked.methods or name in asked.methods]
            methods = [name for name in wanted if world.recipe(name).is_file() or name in asked.at]
            plan = Plan(asked, world)
            failed = train(plan, methods, asked)
            runs = {name: asked.at.get(name, plan.run(world.recipe(name).stem)) for name in methods}
            if made := ready(runs, asked):
                failed += judge(made, asked, plan)
        path = results_path(asked)
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"methods": {}}
        write_page(asked.docs, world, results)
    except KeyboardInterrupt:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    except KinetextError as error:
        print(error, file=sys.stderr)
        return 2
    for name in failed:
        print(f"{name}: failed, see its log in {asked.runs} or above", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
