"""The doctor with a recipe: what the recipe takes from a dataset, and what training on it would cost."""

from __future__ import annotations

import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator

from kinetext import assemble, doctor, runtime
from kinetext.checkpoint import Meta, write_text
from kinetext.config import Recipe
from kinetext.doctor import Plan, Report
from kinetext.doctor.findings import counted
from kinetext.interfaces import Dataset, Task
from kinetext.manifest import SPLITS, located
from kinetext.manifest.writing import check_new
from kinetext.report import shell
from kinetext.train import Trainer
from kinetext.types import DataError, KinetextError

_PATIENCE = 30.0  # seconds that a first step may take, for a second one to be measured, too


@dataclass(frozen=True)
class Asked:
    """What the command line was asked for.

    Args:
        recipe: a recipe file, or None.
        report: where a page goes, or None.
        write: where a cleaned table goes, or None.
    """

    recipe: Path | None = None
    report: Path | None = None
    write: Path | None = None


def examine(source: Path, asked: Asked, bar: doctor.Bar | None = None) -> Report:
    """Examines a dataset, writes what was asked for, and says what was found.

    Args:
        source: a folder with a table, or such a table.
        bar: makes a progress line of a name.

    Raises:
        DataError: there is no table, or what is asked for is there already. What can't be written once the files are read
            is said in the report, so that what was found is not lost.
        RecipeError: the recipe is wrong, or its data is no folder.
    """
    if asked.write:
        check_new(asked.write, "write", (".csv",))
    if asked.report:
        check_new(asked.report, "report", (".html",))
    recipe = assemble.resolve(Recipe.load(asked.recipe)) if asked.recipe else None
    root, manifest = located(source)
    if manifest is None and recipe:
        manifest = recipe.data.args.get("manifest") or None
    plan = assemble.plan(recipe) if recipe else Plan()
    cache = runtime.cache_folder() / "doctor"
    report = doctor.examine(root, manifest=manifest, plan=plan, cache=cache, bar=bar)
    unwritten = []
    if asked.write:
        try:
            changes = doctor.clean(report.examined, report.subject, report.findings, asked.write)
            report = replace(report, changes=tuple(changes))
        except DataError as error:
            unwritten.append(str(error))
    if recipe:
        report = replace(report, trial=trial(recipe, report))
    if asked.report:
        try:
            write_text(asked.report, shell(f"{root.resolve().name}: doctor", doctor.body(report)))
        except OSError as error:
            unwritten.append(f"report: {asked.report} can't be written ({error.strerror or error})")
    return replace(report, unwritten="; ".join(unwritten))


def lines(report: Report) -> Iterator[str]:
    """What was found, as a terminal shows it."""
    for one in report.findings:
        yield f"{one.severity:8}{one.code}: {one.line()}"
        yield f"        {one.advice}"
    for title, said in report.trial.items():
        yield f"recipe  {title}: {said}"
    for change in report.changes:
        yield f"changed row {change.row}: {change.what}"
    counts = ", ".join(counted(report.count(severity), severity) for severity in doctor.SEVERITIES)
    yield f"{counted(len(report.subject.rows), 'row')}, {counted(len(report.subject.facts), 'file')}: {counts}"


def trial(recipe: Recipe, report: Report) -> dict[str, str]:
    """What a recipe would do with the rows that can be used: a real step or two are taken, on a copy of the table.

    Returns:
        Title -> what is said.
    """
    said = _taken(report)
    with tempfile.TemporaryDirectory(prefix="kinetext-doctor-") as folder:
        table = Path(folder) / "metadata.csv"
        try:
            doctor.clean(report.examined, report.subject, report.findings, table)
            args = {**recipe.data.args, "root": str(report.subject.table.root), "manifest": str(table.absolute())}
            said |= _steps(replace(recipe, data=replace(recipe.data, args=args)))
        except (KinetextError, ValueError, OSError) as error:
            said["training"] = f"would stop: {error}".replace(str(table), report.subject.table.path.name)
    return said


def _taken(report: Report) -> dict[str, str]:
    """Rows used and left out, texts cut and frames repeated."""
    why = {row: code for row, (code, _) in doctor.dropped(report.subject, report.findings).items()}
    said = {}
    rows = report.subject.rows
    for split in ("", *SPLITS):
        mine = [row for row in rows if report.subject.split(row) == split]
        if not mine:
            continue
        lost = Counter(why[row.number] for row in mine if row.number in why)
        left = "".join(f", {count} {code}" for code, count in lost.most_common())
        said[f"rows of {split or 'the table, not split yet'}"] = (
            f"{len(mine) - lost.total()} of {len(mine)} can be used{left}"
        )
    if why:
        said["rows that can't be used"] = "stop a training or make it worse; --write makes a table without them"
    for code, title in (("text-long", "texts that are cut"), ("short", "clips with frames shown twice")):
        said[title] = str(sum(len(one.rows) for one in report.findings if one.code == code))
    return said


def _steps(recipe: Recipe) -> dict[str, str]:
    """The cost of training, measured in at most two steps."""
    data = assemble.dataset(recipe)
    assemble.dataset(recipe, "val")  # a training wants rows to judge by, too
    meta = assemble.describe(recipe, data)
    task = assemble.task(recipe, meta, data)
    said = {"samples": f"{len(data)} in train, {recipe.train.batch * recipe.train.accumulate} a step"}
    if meta.video_shape:
        channels, frames, height, width = meta.video_shape
        said["a clip"] = f"{frames} frames of {width}x{height}, {'grey' if channels == 1 else 'colour'}"
    words = assemble.tokenizer(recipe, meta)
    if words:
        texts = list(data.texts())
        over = [length - words.max_tokens for text in texts if (length := words.length(text)) > words.max_tokens]
        said["tokens cut"] = f"{sum(over):,} ({len(over):,} of {len(texts):,} train texts are too long)"
    learned = sum(p.numel() for p in task.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in task.parameters())
    said["parameters"] = f"{whole:,}, of which {learned:,} learn"
    said["weights, gradients, optimiser, average"] = _megabytes(
        4 * (whole + 3 * learned + (whole if recipe.train.ema else 0))
    )
    return said | _measured(recipe, meta, data, task)


def _measured(recipe: Recipe, meta: Meta, data: Dataset, task: Task) -> dict[str, str]:
    # the loader's workers are left out: what one process takes to read a batch is what they divide
    config = replace(recipe.train, workers=0, compile=False)
    accelerator = Accelerator()
    trainer = Trainer(task, config, accelerator)
    _forget_peak()
    batches = assemble.train_batches(replace(recipe, train=config), meta, data)(0)
    read, worked = 0.0, 0.0
    for step in range(2):
        began = time.perf_counter()
        some = [next(batches).to(accelerator.device) for _ in range(config.accumulate)]
        read = time.perf_counter() - began
        for player in task.players:
            trainer.turn(player, some, config.lr)
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        worked = time.perf_counter() - began - read
        trainer.step += 1
        if step == 0 and worked + read > _PATIENCE:
            break
    whole = config.steps * (worked + read / max(1, recipe.train.workers))
    said = {
        "a step": f"{worked:.3g} s, and {read:.3g} s to read its clips the first time (one process)",
        "memory": _peak(accelerator.device),
        "training": f"about {_duration(whole)} for {config.steps:,} steps, clips read anew in each; less where they are kept",
        "measured on": runtime.hardware(),
    }
    if task.frozen:
        said["frozen encoders"] = "ran in the measured step; in training they run once a clip"
    return said


def _forget_peak() -> None:
    """Makes memory's peak begin again, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{_megabytes(torch.cuda.max_memory_allocated())} of the accelerator at most"
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(line for line in lines if line.startswith("VmHWM"))
        return f"{_megabytes(1024 * int(peak.split()[1]))} at most, of the whole process"
    return f"{_megabytes(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)} at most, of the whole process"


def _megabytes(count: float) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
