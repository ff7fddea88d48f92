"""A model on held-out data -> numbers and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from kinetext import assemble, runtime
from kinetext.checkpoint import Meta
from kinetext.config import Recipe
from kinetext.interfaces import Dataset, Metric, Task
from kinetext.tasks.classification import Classification
from kinetext.types import Batch, Prediction


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


def save_grid(video: Tensor, path: Path) -> None:
    """Writes clips ``(B, C, T, H, W)`` as a picture: a row a clip, a column a frame.

    Single frames stand side by side in rows of eight.
    """
    from torchvision.utils import save_image

    frames = video.shape[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.png")
    save_image(
        video.transpose(1, 2).flatten(0, 1).float(), temporary, nrow=frames if frames > 1 else 8, normalize=True, value_range=(-1, 1)
    )
    temporary.replace(path)
