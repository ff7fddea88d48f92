"""A model on held-out data -> numbers and pictures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinetext import assemble, runtime, video
from kinetext.checkpoint import Meta, Run, write_text
from kinetext.config import Recipe
from kinetext.interfaces import Dataset, Metric, Task
from kinetext.metrics.classification import ClassificationMetric
from kinetext.tasks.classification import Classification
from kinetext.tasks.reconstruction import Reconstruction
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import Batch, Modality, Prediction, Progress


@dataclass(frozen=True)
class Confusion:
    """How often (row) class was called (column) class."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        numbers: "val/..." (or "test/...") on held-out data; "text_only/..." and "video_only/..." with the other modality taken away;
            "generated/..." and "real/...": how a reader reads generated and real held-out clips.
        confusion: single-label column -> its matrix.
    """

    numbers: Mapping[str, float]
    confusion: Mapping[str, Confusion] = field(default_factory=dict)


def evaluate(
    run: Run, overrides: Sequence[str] = (), *, device: torch.device | None = None, progress: Progress | None = None
) -> Evaluation:
    """Judges a run's best weights on the held-out split of its data.

    Args:
        overrides: of the sections data and evaluate, such as "data.root=clips" and "evaluate.samples=100".
        progress: called while clips are generated.

    Raises:
        RecipeError: an override of another section, or a reader that does not fit.
        DataError: the data can't be read.
    """
    recipe = assemble.with_data(run.recipe, overrides)
    held_out = assemble.dataset(recipe, recipe.evaluate.split)
    on = device or runtime.device()
    task = assemble.restore(run).to(on)
    reader = None
    if isinstance(task, TextToVideo) and recipe.evaluate.reader:
        reader = Reader(recipe.evaluate.reader, held_out, run.meta, on)
    shown = len(held_out) if recipe.evaluate.samples == 0 else min(recipe.evaluate.samples, len(held_out))

    def passes(absent: Modality | None = None) -> dict[str, float]:
        batches = assemble.plain_batches(recipe, run.meta, held_out, limit=recipe.evaluate.samples)
        metrics = assemble.metrics(task)
        numbers = measure(task, (b.without(absent) if absent else b for b in batches), metrics, recipe)
        if absent is None:
            confusion.update(_confusion(task, metrics))
        return numbers

    confusion: dict[str, Confusion] = {}
    numbers = {"samples": float(shown), **_named(recipe.evaluate.split, passes())}
    if isinstance(task, Classification) and len(recipe.encoders) > 1:
        numbers |= _named("text_only", passes("video")) | _named("video_only", passes("text"))
    if isinstance(task, Reconstruction):
        # the peak of a signal in [-1, 1] is 2
        numbers[f"{recipe.evaluate.split}/psnr"] = 10 * math.log10(
            4 / max(numbers[f"{recipe.evaluate.split}/loss"], 1e-12)
        )
    if reader and isinstance(task, TextToVideo):
        batches = assemble.plain_batches(recipe, run.meta, held_out, limit=recipe.evaluate.samples)
        numbers |= reader.judge(task, batches, recipe, shown, progress)
    return Evaluation(numbers, confusion)


def check_reader(recipe: Recipe, meta: Meta, held_out: Dataset) -> None:
    """Refuses a reader that does not fit, before a long training."""
    if recipe.evaluate.reader:
        Reader(recipe.evaluate.reader, held_out, meta, torch.device("cpu"))


class Reader:
    """A classifier that reads generated clips, and real held-out ones for comparison.

    Args:
        name: run folder or shipped model.
        held_out: where prompts and real clips come from.
        meta: of the model that generates.

    Raises:
        RecipeError: it is no classifier, does not read video, reads clips of another shape, or knows none of
            the label columns of the data.
    """

    def __init__(self, name: str, held_out: Dataset, meta: Meta, on: torch.device) -> None:
        self.eye = assemble.clip_reader("evaluate.reader", name, meta, held_out.targets)
        self.eye.task.to(on)
        self.columns, self.on = self.eye.columns, on

    def judge(
        self, maker: TextToVideo, batches: Iterator[Batch], recipe: Recipe, clips: int, progress: Progress | None
    ) -> dict[str, float]:
        """Generates a clip for every text, and reads it and the real clip.

        The noise of clip i is a pure function of (evaluate.seed, i), whatever the batch size.
        """
        made, real = ClassificationMetric(self.columns), ClassificationMetric(self.columns)
        done, seconds = 0, 0.0
        for batch in batches:
            batch = batch.to(self.on)
            rngs = [runtime.rng(recipe.evaluate.seed, "clip", done + row) for row in range(len(batch))]
            began = time.perf_counter()
            with runtime.autocast(recipe.train.precision, self.on):
                video = maker.predict(batch, rng=rngs).video
            assert video is not None
            clip = video.float().cpu().to(self.on)  # the copy waits for the accelerator, so that the time is true
            seconds += time.perf_counter() - began
            made.update(self.read(batch, clip, torch.ones_like(batch.video_mask)), batch)
            real.update(self.read(batch, batch.video, batch.video_mask), batch)
            done += len(batch)
            if progress:
                progress(done, clips)
        numbers = _named("generated", made.compute()) | _named("real", real.compute())
        return numbers | {"seconds_per_clip": seconds / done}

    @torch.no_grad()
    def read(self, batch: Batch, video: Tensor, mask: Tensor) -> Prediction:
        """What the reader sees in ``video (B, C, T, H, W)`` with ``mask (B, T)``; it is not shown the texts."""
        shown = self.eye.shown(batch, video, mask)
        with runtime.autocast(self.eye.precision, self.on):
            return self.eye.task.predict(shown, rng=runtime.rng(0, "read"))


def record(run: Run, found: Evaluation, facts: Mapping[str, str]) -> None:
    """Keeps an evaluation in the run folder, for the report and the model card."""
    # numbers of an earlier evaluation would say what is no longer so: they go
    run.describe(replace(run.meta, numbers=found.numbers, facts={**run.meta.facts, **facts}))
    write_text(run.path / "evaluation.json", json.dumps(asdict(found), ensure_ascii=False) + "\n")


def recorded(run: Run) -> Evaluation:
    """The evaluation that a run folder keeps; without one, the numbers of its card."""
    path = run.path / "evaluation.json"
    if not path.is_file():
        return Evaluation(run.meta.numbers)
    raw = json.loads(path.read_text(encoding="utf-8"))
    matrices = {
        name: Confusion(tuple(c["classes"]), tuple(map(tuple, c["counts"]))) for name, c in raw["confusion"].items()
    }
    return Evaluation(raw["numbers"], matrices)


def _named(prefix: str, numbers: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in numbers.items()}


def _confusion(task: Task, metrics: Sequence[Metric]) -> dict[str, Confusion]:
    if not isinstance(task, Classification):
        return {}
    single = [target for target in task.targets if not target.multi]
    return {
        target.name: Confusion(target.classes, tuple(tuple(row) for row in metric.confusion(target.name).tolist()))
        for metric in metrics
        if isinstance(metric, ClassificationMetric)
        for target in single
    }


def measure(task: Task, batches: Iterator[Batch], metrics: Sequence[Metric], recipe: Recipe) -> dict[str, float]:
    """One pass over ``batches``: the mean loss ("loss") and what the metrics say.

    Everything random is a pure function of (evaluate.seed, batch number), so two models are judged on
    the same noise.
    """
    total, rows = 0.0, 0
    on = next(task.parameters()).device
    for number, batch in enumerate(batches):
        batch = batch.to(on)
        seed = (recipe.evaluate.seed, "evaluate", number)
        with torch.no_grad(), runtime.autocast(recipe.train.precision, on):
            losses = [task.loss(batch, player=p, rng=runtime.rng(*seed, p, on=on)) for p in task.players]
            total += len(batch) * sum(float(one.total) for one in losses)
            rows += len(batch)
            if metrics:
                prediction = task.predict(batch, rng=runtime.rng(*seed, "predict", on=on))
                for metric in metrics:
                    metric.update(prediction, batch)
    numbers = {"loss": total / rows}
    for metric in metrics:
        numbers |= metric.compute()
    return numbers


class Judge:
    """What the training loop asks now and then: numbers on held-out data, and samples to look at.

    Args:
        held_out: the validation split.
    """

    def __init__(self, recipe: Recipe, meta: Meta, held_out: Dataset) -> None:
        self.recipe, self.meta, self.held_out = recipe, meta, held_out

    def validate(self, task: Task) -> Mapping[str, float]:
        """Numbers called "val/...", on the first ``evaluate.samples`` held-out samples."""
        batches = assemble.plain_batches(self.recipe, self.meta, self.held_out, limit=self.recipe.evaluate.samples)
        numbers = measure(task, batches, assemble.metrics(task), self.recipe)
        return {f"val/{name}": value for name, value in numbers.items()}

    def draw_into(self, folder: Path) -> Callable[[Task, int], None]:
        """A function that writes ``folder/STEP.png``: a row of frames for every clip."""

        def draw(task: Task, step: int) -> None:
            if isinstance(task, Classification):
                return  # it answers in numbers; nothing to look at
            batch = next(assemble.plain_batches(self.recipe, self.meta, self.held_out, limit=8))
            on = next(task.parameters()).device
            with runtime.autocast(self.recipe.train.precision, on):
                made: Prediction = task.predict(batch.to(on), rng=runtime.rng(self.recipe.evaluate.seed, "draw", on=on))
            if made.video is not None:
                save_grid(made.video.cpu(), folder / f"{step:09d}.png")

        return draw


def save_grid(clips: Tensor, path: Path) -> None:
    """Writes clips ``(B, C, T, H, W)`` in [-1, 1] as a PNG: a row a clip, a column a frame.

    Single frames stand side by side in rows of eight.
    """
    columns = clips.shape[2] if clips.shape[2] > 1 else 8
    tiles = pad(clips.float().transpose(1, 2).flatten(0, 1), (1, 1, 1, 1), value=-1.0)
    rows = -(-len(tiles) // columns)
    tiles = torch.cat([tiles, tiles.new_full((rows * columns - len(tiles), *tiles.shape[1:]), -1.0)])
    # (row, column, C, H, W) -> (C, 1, row H, column W)
    picture = tiles.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write_png(path, picture.unsqueeze(1))
