"""THE training loop: every task, every player, one ``fit()``; exact resume."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch import Tensor, nn

from kinetext import assemble, optim, runtime
from kinetext.checkpoint import Meta, Run, State, write_weights
from kinetext.config import Recipe, TrainConfig
from kinetext.evaluate import Judge, check_reader
from kinetext.interfaces import Dataset, Task
from kinetext.progress import Meter, bar, tell
from kinetext.types import Batch, KinetextError, Losses, RecipeError, RunError, joined

Batches = Callable[[int], Iterator[Batch]]
Validate = Callable[[Task], Mapping[str, float]]
Draw = Callable[[Task, int], None]


class Interrupted(KinetextError):
    """Ctrl-C or SIGTERM: the run was saved first."""


class Trainer:
    """What one run holds while it trains: weights, optimisers, average, position."""

    def __init__(self, task: Task, config: TrainConfig, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.task = task.to(accelerator.device).train()
        self.config = config
        if config.compile:
            runtime.compile_blocks(self.task)
        self.model: nn.Module = accelerator.prepare_model(self.task)
        self.optimizers = {
            player: optim.build(
                self.task,
                self.task.parameters_of(player),
                config.optimizer,
                lr=config.lr,
                weight_decay=config.weight_decay,
                betas=config.betas,
            )
            for player in task.players
        }
        self.ema = optim.Ema(task.plain(), config.ema) if config.ema else None
        self.step = 0
        self.seconds = 0.0
        self.best = math.inf
        self.stale = 0

    def progress(self) -> float:
        """How much of the budget (steps or minutes, whichever is further) is behind, in [0, 1]."""
        by_time = self.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(self.step / self.config.steps, by_time))

    def turn(self, player: str, batches: list[Batch], lr: float) -> dict[str, Tensor]:
        """One optimiser step of ``player`` over ``accumulate`` batches; returns what it logs."""
        logged: dict[str, Tensor] = {}
        for micro, batch in enumerate(batches):
            seed = (self.config.seed, "step", self.step, player, micro, self.accelerator.process_index)
            runtime.seed_global(runtime.seed_of(*seed), self.accelerator.device)
            with self.autocast():
                losses: Losses = self.model(batch, player, runtime.rng(*seed, "rng", on=self.accelerator.device))
            self.accelerator.backward(losses.total / len(batches))
            for name, value in {"loss": losses.total.detach(), **losses.parts}.items():
                logged[name] = logged.get(name, torch.zeros_like(value)) + value / len(batches)
        mine = [p for _, p in self.task.parameters_of(player) if p.grad is not None]
        if self.config.clip:
            logged["gradient"] = nn.utils.clip_grad_norm_(mine, self.config.clip)
        for optimizer in self.optimizers[player]:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        self.task.zero_grad(set_to_none=True)  # a player's loss may have reached the others' weights too
        return logged

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 where the recipe and the machine say so."""
        return runtime.autocast(self.config.precision, self.accelerator.device)

    def weights(self) -> AbstractContextManager[None]:
        """The weights to judge: the average where there is one."""
        return self.ema.applied() if self.ema else nullcontext()

    def check(self) -> None:
        """Refuses to go on, and to be saved, with weights that are not numbers.

        Raises:
            RunError: naming the first such weight.
        """
        for name, weight in self.task.plain().named_parameters():
            if not torch.isfinite(weight).all():
                raise RunError(
                    f"{name}: not finite after step {self.step}; lower train.lr or set train.clip. "
                    "The last saved state is untouched"
                )

    def state(self) -> State:
        """Everything that an exact resume needs."""
        return State(
            step=self.step,
            model=self.task.plain().state_dict(),
            ema=self.ema.shadow if self.ema else {},
            optimizers={p: [o.state_dict() for o in many] for p, many in self.optimizers.items()},
            progress={
                "seconds": self.seconds,
                "best": self.best if math.isfinite(self.best) else None,
                "stale": self.stale,
                "updates": self.ema.updates if self.ema else 0,
            },
        )

    def restore(self, state: State) -> None:
        """Continues from a saved state."""
        try:
            self.task.plain().load_state_dict(state.model)
            if self.ema:
                self.ema.load(state.ema, state.progress["updates"])
            for player, saved in state.optimizers.items():
                for optimizer, one in zip(self.optimizers[player], saved, strict=True):
                    optimizer.load_state_dict(one)
        except (RuntimeError, ValueError, KeyError) as error:
            why = str(error).splitlines()[0]
            raise RunError(f"the saved state at step {state.step} does not fit the run's recipe.toml: {why}") from error
        self.step = state.step
        self.seconds = state.progress["seconds"]
        self.best = math.inf if state.progress["best"] is None else state.progress["best"]
        self.stale = state.progress["stale"]


def fit(
    task: Task,
    config: TrainConfig,
    batches: Batches,
    run: Run,
    *,
    validate: Validate | None = None,
    draw: Draw | None = None,
    quiet: bool = False,
) -> Task:
    """Trains ``task`` until its budget is spent; continues where ``run`` was last saved.

    Args:
        batches: batches of this rank from batch number n on, without end.
        validate: called with the task in evaluation mode, under the averaged weights.
        draw: called with the task and the step to write samples.
        quiet: no progress line.

    Returns:
        The task, holding the weights to judge (the average where there is one).

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after saving.
        RunError: the loss is no longer finite, or the run can't be written.
    """
    # a player's turn reaches only its own weights, which several processes must not wait for
    several = DistributedDataParallelKwargs(find_unused_parameters=len(task.players) > 1)
    trainer = Trainer(task, config, Accelerator(kwargs_handlers=[several]))
    saved = run.load()
    if saved is not None:
        trainer.restore(saved)
    main = trainer.accelerator.is_main_process
    if main:
        run.forget_after(trainer.step)
    source = batches(trainer.step * config.accumulate)
    meter = Meter(run, config, first=trainer.step, quiet=quiet or not main, writes=main)
    with runtime.Stop().listening() as stop, meter:
        _loop(trainer, source, run, meter, stop, validate, draw)
    if trainer.ema:
        task.plain().load_state_dict(trainer.ema.shadow)
    return task.eval()


def _loop(
    trainer: Trainer,
    source: Iterator[Batch],
    run: Run,
    meter: Meter,
    stop: runtime.Stop,
    validate: Validate | None,
    draw: Draw | None,
) -> None:
    config = trainer.config
    clock = time.process_time if config.clock == "processor" else time.monotonic
    began, before, saved_at = clock(), trainer.seconds, time.monotonic()
    done = trainer.progress() >= 1 or _patience_spent(trainer)
    while not done:
        # one step: every player's turn on the same batches
        lr = optim.rate(
            trainer.progress(), trainer.step, lr=config.lr, warmup=config.warmup,
            decay=config.decay, decay_fraction=config.decay_fraction,
        )  # fmt: skip
        mine = [next(source).to(trainer.accelerator.device) for _ in range(config.accumulate)]
        logged = {p: trainer.turn(p, mine, lr) for p in trainer.task.players}
        if trainer.ema:
            trainer.ema.update()
        trainer.step += 1
        (trainer.seconds,) = _most(trainer, before + clock() - began)
        meter.step(trainer.step, trainer.progress(), trainer.seconds, logged, lr, sum(map(len, mine)))

        # now and then: judge, save, draw
        done = trainer.progress() >= 1
        if validate and (done or _due(config.eval_every, trainer.step)):
            done = _judge(trainer, run, meter, validate) or done
        trainer.seconds, *wishes = _most(trainer, before + clock() - began, done, stop.asked)
        done, asked = map(bool, wishes)
        (overdue,) = _most(trainer, time.monotonic() - saved_at > 60 * config.save_minutes)
        if done or asked or overdue or _due(config.save_every, trainer.step):
            meter.check(trainer.step, logged)
            trainer.check()
            if trainer.accelerator.is_main_process:
                run.save(trainer.state())
            saved_at = time.monotonic()
        if draw and trainer.accelerator.is_main_process and (done or _due(config.sample_every, trainer.step)):
            with trainer.weights():
                draw(trainer.task.eval(), trainer.step)
            trainer.task.train()
        if done or asked:
            trainer.accelerator.wait_for_everyone()  # who leaves first would have its launcher kill the one that saves
        if asked and not done:
            raise Interrupted(
                f"stopped and saved at step {trainer.step}; go on with: kinetext train --resume {run.path}"
            )


def _most(trainer: Trainer, *own: float) -> list[float]:
    """The largest of each number among all processes, which must leave the loop after the same step."""
    if trainer.accelerator.num_processes == 1:
        return list(own)
    numbers = torch.tensor([own], dtype=torch.float32, device=trainer.accelerator.device)
    most: list[float] = trainer.accelerator.gather(numbers).amax(0).tolist()
    return most


def _judge(trainer: Trainer, run: Run, meter: Meter, validate: Validate) -> bool:
    """Evaluates; keeps the best weights; says whether patience has run out."""
    config = trainer.config
    with trainer.weights():
        numbers = dict(validate(trainer.task.eval()))
        trainer.task.train()
        name = config.best or "val/loss"
        if not math.isfinite(numbers["val/loss"]):
            raise RunError(
                f"val/loss: {numbers['val/loss']} after step {trainer.step}; lower train.lr or set train.clip. "
                "The last saved state is untouched"
            )
        score = numbers[name] if assemble.is_error(trainer.task, name) else -numbers[name]
        # a game's summed losses say nothing of how good it is: the newest weights are taken
        if score < trainer.best or _no_score(config, trainer.task):
            trainer.best, trainer.stale = score, 0
            if trainer.accelerator.is_main_process:
                write_weights(run.path / "best.safetensors", trainer.task.plain().state_dict())
        else:
            trainer.stale += 1
    meter.evaluated(trainer.step, numbers)
    return _patience_spent(trainer)


def _no_score(config: TrainConfig, task: Task) -> bool:
    """Whether nothing is measured by which one state of the weights is better than another."""
    return len(task.players) > 1 and config.best in ("", "val/loss")


def _patience_spent(trainer: Trainer) -> bool:
    return 0 < trainer.config.patience <= trainer.stale


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _check_compiler(config: TrainConfig) -> None:
    if (
        config.compile
        and runtime.device().type == "cpu"
        and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    ):
        raise RecipeError(
            "train.compile: true, but there is no C++ compiler (g++ or clang++) here; install one, or set it to false"
        )


def start(recipe: Recipe, path: Path, *, quiet: bool = False) -> Run:
    """Trains a recipe from its beginning into a new run folder.

    Raises:
        KinetextError: whatever is wrong with the recipe or the data, before the first step and before
            anything is written.
    """
    recipe = assemble.resolve(recipe)
    _check_compiler(recipe.train)
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    doubts = assemble.check(recipe, data)
    task = assemble.task(recipe, meta, data)
    assemble.start_weights(task, recipe, meta, assemble.open_run)
    held_out = assemble.dataset(recipe, "val")
    _check_judging(recipe, meta, task, held_out)
    ranks = PartialState()
    tell(doubts, quiet=quiet or not ranks.is_main_process)
    with ranks.main_process_first():
        run = Run.create(path, recipe, meta) if ranks.is_main_process else Run.open(path)
        if ranks.is_main_process:
            assemble.keep(run, task)
    return _train(run, task, data, held_out, quiet=quiet)


def _check_judging(recipe: Recipe, meta: Meta, task: Task, held_out: Dataset) -> None:
    """Refuses, before a long training, what would fail when the result is judged."""
    check_reader(recipe, meta, held_out)
    if recipe.evaluate.split not in ("", "val"):
        assemble.dataset(recipe, recipe.evaluate.split)
    if _no_score(recipe.train, task) and recipe.train.patience:
        raise RecipeError(
            f"train.patience: {recipe.train.patience}, but a game's val/loss is no score; set train.best, or 0"
        )
    if recipe.train.best in ("", "val/loss"):
        return
    task = task.to(PartialState().device).eval()
    one_batch = replace(recipe, evaluate=replace(recipe.evaluate, samples=recipe.evaluate.batch))
    for some in (one_batch, recipe):  # a few numbers need a sample of their kind, so that one batch may lack them
        numbers = Judge(some, meta, held_out).validate(task)
        if recipe.train.best in numbers:
            return
    raise RecipeError(
        f"train.best: {recipe.train.best!r} is not measured here, expected one of {joined(sorted(numbers))}"
    )


def resume(path: Path, *, quiet: bool = False) -> Run:
    """Continues a run exactly where it was last saved.

    Raises:
        KinetextError: not a run folder, a damaged one, or a recipe in it that was edited into something illegal.
    """
    run = assemble.open_path(path)
    _check_compiler(run.recipe.train)
    data = assemble.dataset(run.recipe)
    # killed before the first save: begin again, from the same starting weights
    meta = run.meta if run.saved() else replace(run.meta, kept=None)
    task = assemble.task(run.recipe, meta, data)
    state = run.load()
    if state is None:
        if PartialState().is_main_process:
            assemble.keep(run, task)
        assemble.start_weights(task, run.recipe, run.meta, assemble.open_run)
    else:
        with suppress(RuntimeError):  # what does not fit is told where the rest is restored
            task.plain().load_state_dict(state.model)  # before frozen encoders are run
    held_out = assemble.dataset(run.recipe, "val")
    _check_judging(run.recipe, run.meta, task, held_out)
    return _train(run, task, data, held_out, quiet=quiet)


def _train(run: Run, task: Task, data: Dataset, held_out: Dataset, *, quiet: bool) -> Run:
    recipe, ranks = run.recipe, PartialState()
    with ranks.main_process_first(), bar("encoding", quiet=quiet or not ranks.is_main_process, lines=True) as line:
        data, dims = assemble.encoded(recipe, run.meta, task, data, ranks.device, line)
        held_out, held_dims = assemble.encoded(recipe, run.meta, task, held_out, ranks.device, line)
    judge = Judge(recipe, run.meta, held_out, held_dims)
    fit(
        task,
        recipe.train,
        assemble.train_batches(recipe, run.meta, data, dims, rank=ranks.process_index, ranks=ranks.num_processes),
        run,
        validate=judge.validate,
        draw=judge.draw_into(run.path / "samples"),
        quiet=quiet,
    )
    ranks.wait_for_everyone()
    return run


def is_first() -> bool:
    """Whether this process is the one of several that reports."""
    return PartialState().is_main_process
