"""The cost of our training loop: a step of fit() over a step of a bare PyTorch loop, same model, same batches.

The two take turns in one process, so that a busy machine slows both; a very busy one leaves only the ratio of CPU times
to be trusted. A step is the time between two requests for a
batch. Both train with AdamW, gradient clipping and the same precision; the second pair also keeps a moving average of
the weights, which the bare loop does with ``torch.optim.swa_utils``.

    python benchmarks/loop.py [rounds] [steps a round]
"""

from __future__ import annotations

import copy
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kinetext import assemble, runtime
from kinetext.checkpoint import Meta, Run
from kinetext.config import Recipe, TrainConfig
from kinetext.interfaces import Task
from kinetext.train import fit
from kinetext.types import Batch

LIMIT = 1.05
RECIPE = """
task.name = "text_to_video"
encoders.text = { name = "transformer", dim = 128 }
codec.name = "pixel"
generator = { name = "flow", dim = 192, depth = 4, heads = 4, patch = 8 }
data = { name = "digits", clips = 64, num_frames = 4 }
train = { batch = 8 }
"""


class Clock:
    """The same batches again and again, noting when each is asked for."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.times: list[tuple[float, float]] = []  # on the wall, and of this process's processors

    def __call__(self, start: int) -> Iterator[Batch]:
        for batch in itertools.cycle(self.batches):
            self.times.append((time.perf_counter(), time.process_time()))
            yield batch

    def per_step(self) -> tuple[float, float]:
        """Mean seconds a step, on the wall and of the processors; the first steps warm up."""
        kept = self.times[3:]
        wall, cpu = (last - first for first, last in zip(kept[0], kept[-1], strict=True))
        return wall / (len(kept) - 1), cpu / (len(kept) - 1)


def ours(task: Task, config: TrainConfig, clock: Clock, recipe: Recipe, meta: Meta) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fit(task, config, clock, Run.create(Path(folder) / "run", recipe, meta), quiet=True)


def bare(task: Task, config: TrainConfig, clock: Clock) -> None:
    task.train()
    parameters = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, betas=(0.9, 0.99), foreach=True)
    average = AveragedModel(task, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
    rng = torch.Generator().manual_seed(0)
    batches = clock(0)
    for _ in range(config.steps):
        batch = next(batches)
        with runtime.autocast(config.precision, torch.device("cpu")):
            loss = task.loss(batch, player="model", rng=rng).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update_parameters(task)


def main(rounds: int, steps: int) -> int:
    if runtime.device().type != "cpu":
        print("measured on the processor only: hide the accelerator (CUDA_VISIBLE_DEVICES=)", file=sys.stderr)
        return 2
    recipe = assemble.resolve(Recipe.parse(RECIPE, [f"train.steps={steps}"]))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    task = assemble.task(recipe, meta, data)
    batches = list(itertools.islice(assemble.train_batches(recipe, meta, data)(0), 8))
    print(f"{runtime.hardware()}; {rounds} rounds of {steps} steps")
    print(f"{'':28} {'bare loop':>10} {'fit()':>10} {'ratio':>8} {'CPU time':>9}   (ms a step; limit {LIMIT})")
    worst = 0.0
    for name, ema in (("clipping", 0.0), ("clipping, weight average", 0.999)):
        config = Recipe.parse(RECIPE, [f"train.steps={steps}", f"train.ema={ema}"]).train
        pairs = []
        for number in range(rounds):
            clocks = {"bare": Clock(batches), "ours": Clock(batches)}
            for who in ("bare", "ours") if number % 2 else ("ours", "bare"):
                if who == "ours":
                    ours(copy.deepcopy(task), config, clocks[who], recipe, meta)
                else:
                    bare(copy.deepcopy(task), config, clocks[who])
            pairs.append((clocks["bare"].per_step(), clocks["ours"].per_step()))
        # every round compares neighbours in time; the median forgets rounds in which the machine was disturbed
        wall, cpu = (statistics.median(ours[i] / bare[i] for bare, ours in pairs) for i in (0, 1))
        middle = [1000 * statistics.median(one[0] for one in side) for side in zip(*pairs, strict=True)]
        print(f"{name:28} {middle[0]:10.2f} {middle[1]:10.2f} {wall:8.3f} {cpu:9.3f}", flush=True)
        worst = max(worst, wall)
    return int(worst > LIMIT)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    sys.exit(main(*(numbers + [5, 20][len(numbers) :])))
