"""A model on held-out data -> numbers and pictures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from kinetext import assemble, runtime, video
from kinetext.checkpoint import Meta, Run, write_text
from kinetext.config import Recipe
from kinetext.interfaces import Dataset, Metric, Task
from kinetext.metrics.classification import ClassificationMetric, ClassScore
from kinetext.resampling import Interval
from kinetext.tasks.classification import Classification
from kinetext.tasks.reconstruction import Reconstruction
from kinetext.tasks.regression import Regression
from kinetext.tasks.retrieval import Retrieval
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.tasks.video_to_text import VideoToText
from kinetext.types import Batch, Modality, Prediction, Progress

T = TypeVar("T")
READERS = (Classification, Regression, Retrieval, VideoToText)  # tasks whose answers data can be held against


@dataclass(frozen=True)
class Confusion:
    """How often (row) class was called (column) class."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        numbers: "val/..." and "test/..." on held-out data, and of a model of two modalities "val/text_only/..." and
            "val/video_only/..." with the other one taken away; "generated/..." (of a codec "decoded/...") and
            "real/...": how a reader reads generated (decoded) and real held-out clips.
        confusion: "val/COLUMN", single-label columns -> the matrix.
        classes: "val/COLUMN" -> how well each class is told from the rest.
        intervals: name of a number -> where 95 % of resamples by group fall.
    """

    numbers: Mapping[str, float]
    confusion: Mapping[str, Confusion] = field(default_factory=dict)
    classes: Mapping[str, tuple[ClassScore, ...]] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def joined(self, other: Evaluation) -> Evaluation:
        """Both as one."""
        return Evaluation(
            {**self.numbers, **other.numbers},
            {**self.confusion, **other.confusion},
            {**self.classes, **other.classes},
            {**self.intervals, **other.intervals},
        )


def evaluate(
    run: Run, overrides: Sequence[str] = (), *, device: torch.device | None = None, progress: Progress | None = None
) -> Evaluation:
    """Judges a run's best weights on the held-out splits of its data: the one that the recipe names, or val, and test
    where a task that reads has one.

    Args:
        overrides: of the sections data and evaluate, such as "data.root=clips" and "evaluate.samples=100".
        progress: called while clips are generated.

    Raises:
        RecipeError: an override of another section, or a reader that does not fit.
        DataError: the data can't be read.
    """
    recipe = assemble.with_data(run.recipe, overrides)
    on = device or runtime.device()
    task = assemble.restore(run).to(on)
    asked = recipe.evaluate.split
    held_out = assemble.dataset(recipe, asked or "val")
    meta, here = run.meta, held_out.video_shape
    if isinstance(task, Reconstruction) and here and meta.video_shape:
        # a codec takes clips of any length, so that of the clips at hand counts, not that of those it was trained on
        channels, _, *size = meta.video_shape
        meta = replace(meta, video_shape=(channels, here[1], *size))
    reader = None
    if isinstance(task, TextToVideo | Reconstruction) and recipe.evaluate.reader:
        reader = Reader(recipe.evaluate.reader, held_out, meta, on)
    found = judged(task, recipe, meta, held_out, asked or "val")
    if not asked and "test" in held_out.splits and isinstance(task, READERS):
        found = found.joined(judged(task, recipe, run.meta, assemble.dataset(recipe, "test"), "test"))
    if reader and isinstance(task, TextToVideo | Reconstruction):
        batches = assemble.plain_batches(recipe, meta, held_out, limit=recipe.evaluate.samples)
        shown = min(recipe.evaluate.samples or len(held_out), len(held_out))
        found = found.joined(Evaluation(reader.judge(task, batches, recipe, shown, progress)))
    return found


class Tally:
    """What a task says of held-out samples, counted: with all that it reads, and where that is two modalities, with
    each of them alone. Several models may add to it, each judged on samples of its own (folds).

    Args:
        task: of the kind that is judged.
        split: the name that the numbers begin with.
    """

    def __init__(self, task: Task, recipe: Recipe, split: str) -> None:
        two = isinstance(task, Classification | Regression) and len(recipe.encoders) > 1
        sides: tuple[tuple[str, Modality | None], ...] = (("", None), ("text_only", "video"), ("video_only", "text"))
        self.split, self.recipe = split, recipe
        self.sides = [_Side(name, absent, assemble.metrics(task)) for name, absent in sides if two or not absent]
        self.targets = task.targets if isinstance(task, Classification) else ()
        self.samples = 0

    def add(self, task: Task, meta: Meta, held_out: Dataset) -> None:
        """Judges ``task`` on ``held_out``."""
        for side in self.sides:
            batches = assemble.plain_batches(self.recipe, meta, held_out, limit=self.recipe.evaluate.samples)
            absent = side.absent
            total, rows = feed(task, (b.without(absent) if absent else b for b in batches), side.metrics, self.recipe)
            side.total, side.rows = side.total + total, side.rows + rows
        self.samples += min(self.recipe.evaluate.samples or len(held_out), len(held_out))

    def take(self, other: Tally) -> None:
        """Counts what ``other`` has counted too."""
        for mine, theirs in zip(self.sides, other.sides, strict=True):
            mine.total, mine.rows = mine.total + theirs.total, mine.rows + theirs.rows
            for metric, same in zip(mine.metrics, theirs.metrics, strict=True):
                metric.take(same)
        self.samples += other.samples

    def found(self) -> Evaluation:
        """Everything that was counted."""
        found = Evaluation({"samples" if self.split == "val" else f"{self.split}/samples": float(self.samples)})
        for side in self.sides:
            numbers = {"loss": side.total / side.rows}
            intervals: dict[str, Interval] = {}
            for metric in side.metrics:
                numbers |= metric.compute()
                intervals |= metric.intervals()
            prefix = f"{self.split}/{side.name}".rstrip("/")
            found = found.joined(Evaluation(_named(prefix, numbers), intervals=_named(prefix, intervals)))
        return found.joined(self._tables())

    def _tables(self) -> Evaluation:
        """Confusion matrices and the scores of every class."""
        confusion: dict[str, Confusion] = {}
        classes: dict[str, tuple[ClassScore, ...]] = {}
        for metric in self.sides[0].metrics:
            if not isinstance(metric, ClassificationMetric):
                continue
            for target in self.targets:
                name = f"{self.split}/{target.name}"
                classes[name] = metric.classes(target.name)
                if not target.multi:
                    counts = tuple(tuple(row) for row in metric.confusion(target.name).tolist())
                    confusion[name] = Confusion(target.classes, counts)
        return Evaluation({}, confusion, classes)


@dataclass
class _Side:
    """What was counted with one modality taken away, or none."""

    name: str
    absent: Modality | None
    metrics: Sequence[Metric]
    total: float = 0.0
    rows: int = 0


def judged(task: Task, recipe: Recipe, meta: Meta, held_out: Dataset, split: str) -> Evaluation:
    """A task on one split."""
    tally = Tally(task, recipe, split)
    tally.add(task, meta, held_out)
    return tally.found()


def check_reader(recipe: Recipe, meta: Meta, held_out: Dataset) -> None:
    """Refuses a reader that does not fit, before a long training."""
    if recipe.evaluate.reader:
        Reader(recipe.evaluate.reader, held_out, meta, torch.device("cpu"))


class Reader:
    """A classifier that reads clips that a model generates or a codec decodes, and real held-out ones for comparison.

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
        self,
        maker: TextToVideo | Reconstruction,
        batches: Iterator[Batch],
        recipe: Recipe,
        clips: int,
        progress: Progress | None,
    ) -> dict[str, float]:
        """Generates a clip for every text, or decodes what a codec made of the clip, and reads it and the real clip.

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
        numbers = _named("decoded" if isinstance(maker, Reconstruction) else "generated", made.compute()) | _named(
            "real", real.compute()
        )
        return numbers | {"seconds_per_clip": seconds / done}

    @torch.no_grad()
    def read(self, batch: Batch, video: Tensor, mask: Tensor) -> Prediction:
        """What the reader sees in ``video (B, C, T, H, W)`` with ``mask (B, T)``; it is not shown the texts."""
        shown = self.eye.shown(batch, video, mask)
        with runtime.autocast(self.eye.precision, self.on):
            return self.eye.task.predict(shown, rng=runtime.rng(0, "read"))


# prefix of a number -> the title of its column
SIDES: Mapping[str, str] = {
    "val": "held-out",
    "val/text_only": "text only",
    "val/video_only": "video only",
    "test": "test split",
    "test/text_only": "test, text only",
    "test/video_only": "test, video only",
    "generated": "generated",
    "decoded": "decoded",
    "real": "real clips",
    "folds": "deviation over folds",
    "folds/text_only": "deviation, text only",
    "folds/video_only": "deviation, video only",
}


def side_by_side(found: Evaluation) -> tuple[list[str], dict[str, list[str]], dict[str, float]]:
    """Numbers of the same name side by side: on all, with text only, with video only, ...

    Returns:
        Titles of the columns, number -> its cells, and the numbers that belong to no column.
    """
    placed: dict[str, dict[str, str]] = {}
    rest: dict[str, float] = {}
    for key, value in sorted(found.numbers.items()):
        prefix = max((p for p in SIDES if key.startswith(f"{p}/")), key=len, default="")
        if not prefix:
            rest[key] = value
            continue
        low, high = found.intervals.get(key, (math.nan, math.nan))
        sure = "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
        placed.setdefault(key.removeprefix(f"{prefix}/"), {})[prefix] = f"{value:.4g}{sure}"
    used = [p for p in SIDES if any(p in cells for cells in placed.values())]
    return [SIDES[p] for p in used], {n: [cells.get(p, "") for p in used] for n, cells in placed.items()}, rest


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
    classes = {name: tuple(ClassScore(**one) for one in rows) for name, rows in raw.get("classes", {}).items()}
    intervals = {name: (low, high) for name, (low, high) in raw.get("intervals", {}).items()}
    return Evaluation(raw["numbers"], matrices, classes, intervals)


def _named(prefix: str, numbers: Mapping[str, T]) -> dict[str, T]:
    return {f"{prefix}/{name}": value for name, value in numbers.items()}


def measure(task: Task, batches: Iterator[Batch], metrics: Sequence[Metric], recipe: Recipe) -> dict[str, float]:
    """One pass over ``batches``: the mean loss ("loss") and what the metrics say."""
    total, rows = feed(task, batches, metrics, recipe)
    numbers = {"loss": total / rows}
    for metric in metrics:
        numbers |= metric.compute()
    return numbers


def feed(task: Task, batches: Iterator[Batch], metrics: Sequence[Metric], recipe: Recipe) -> tuple[float, int]:
    """One pass over ``batches`` that tells ``metrics`` what the task says; the sum of its losses, and of how many rows.

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
    return total, rows


class Judge:
    """What the training loop asks now and then: numbers on held-out data, and samples to look at.

    Args:
        held_out: the validation split.
        encoded: modality -> width of what frozen encoders made of it.
    """

    def __init__(
        self, recipe: Recipe, meta: Meta, held_out: Dataset, encoded: Mapping[Modality, int] | None = None
    ) -> None:
        self.recipe, self.meta, self.held_out, self.encoded = recipe, meta, held_out, encoded

    def validate(self, task: Task) -> Mapping[str, float]:
        """Numbers called "val/...", on the first ``evaluate.samples`` held-out samples."""
        limit = self.recipe.evaluate.samples
        batches = assemble.plain_batches(self.recipe, self.meta, self.held_out, limit=limit, encoded=self.encoded)
        numbers = measure(task, batches, assemble.metrics(task), self.recipe)
        return {f"val/{name}": value for name, value in numbers.items()}

    def draw_into(self, folder: Path) -> Callable[[Task, int], None]:
        """A function that writes ``folder/STEP.png``, a row of frames for every clip; or ``folder/STEP.txt``, captions."""

        def draw(task: Task, step: int) -> None:
            if isinstance(task, Classification | Regression | Retrieval):
                return  # it answers in numbers; nothing to look at
            batch = next(assemble.plain_batches(self.recipe, self.meta, self.held_out, limit=8))
            on = next(task.parameters()).device
            with runtime.autocast(self.recipe.train.precision, on):
                made: Prediction = task.predict(batch.to(on), rng=runtime.rng(self.recipe.evaluate.seed, "draw", on=on))
            if made.video is not None:
                save_grid(made.video.cpu(), folder / f"{step:09d}.png")
            if made.text:
                pairs = zip(made.text, batch.text, strict=True)
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / f"{step:09d}.txt", "".join(f"{said}\n    ({true})\n" for said, true in pairs))

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
