"""Distillation against flow maps that are known, and whole runs of it: saved without the teacher, resumed bit for bit."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kinetext import Pipeline, assemble, evaluate, train
from kinetext.checkpoint import Run
from kinetext.config import Recipe
from kinetext.contracts import check_task
from kinetext.generators.diffusion import Diffusion
from kinetext.generators.flow import Flow
from kinetext.interfaces import Generator, Maker
from kinetext.methods.distillation import Distillation
from kinetext.runtime import rng
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import Batch, Features, Losses, Prediction, RecipeError

SIZE = (1, 2, 4, 4)


class Toy(Maker):
    """A maker of a user's own: clips are targets, and a text is the mean of its words' vectors."""

    def __init__(self, generator: Generator, network: nn.Module | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 16)
        self.generator, self.target_size = copy.deepcopy(generator), SIZE
        if network is not None:
            self.generator.network = network

    def condition(self, batch: Batch) -> Features:
        return Features(self.words(batch.tokens), batch.token_mask)

    def target(self, batch: Batch) -> Tensor:
        return batch.video

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        return self.generator.loss(self.target(batch), self.condition(batch), player=player, rng=rng)

    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        return Prediction(video=self.made(batch, 4, 1.0, rng))

    def made(
        self, batch: Batch, steps: int, guidance: float, rng: torch.Generator | Sequence[torch.Generator]
    ) -> Tensor:
        shape = (len(batch), *self.target_size)
        return self.generator.sample(shape, self.condition(batch), rng=rng, steps=steps, guidance=guidance)


def clips(video: Tensor, words: Tensor) -> Batch:
    """Clips with texts of one word."""
    size = len(video)
    return Batch(
        keys=("clip",) * size, video=video, video_mask=torch.ones(size, video.shape[2], dtype=torch.bool),
        text=("word",) * size, tokens=words[:, None], token_mask=torch.ones(size, 1, dtype=torch.bool), labels={},
        weight=torch.ones(size),
    )  # fmt: skip


def some(size: int = 16) -> Batch:
    return clips(torch.randn(size, *SIZE, generator=rng(3)), torch.arange(size) % 2)


class GaussianFlow(nn.Module):
    """E[x | z_t] for data N(0, s^2) on straight lines: the way is z(t) = spread(t) z(0)."""

    s = 2.0

    @classmethod
    def spread(cls, t: float) -> float:
        return math.sqrt(t**2 * cls.s**2 + (1 - t) ** 2)

    def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        t = t_BT[:, None, :, None, None]
        return t * self.s**2 * z / (t**2 * self.s**2 + (1 - t) ** 2)


class GaussianDiffusion(nn.Module):
    """The same with the levels of a diffusion that predicts x."""

    s = 2.0

    def __init__(self) -> None:
        super().__init__()
        self.diffusion = Diffusion()

    def spread(self, t: float) -> float:
        a = float(self.diffusion.noised(torch.ones(()), torch.zeros(()), t))
        return math.sqrt(a**2 * self.s**2 + 1 - a**2)

    def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        a = float(self.diffusion.noised(torch.ones(()), torch.zeros(()), float(t_BT[0, 0])))
        return a * self.s**2 * z / (a**2 * self.s**2 + 1 - a**2)


class Scaling(nn.Module):
    """x_hat = w z, with a w of its own for every one of so many times."""

    def __init__(self, times: list[float]) -> None:
        super().__init__()
        self.times = times
        self.w = nn.Parameter(torch.zeros(len(times)))

    def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        near = min(range(len(self.times)), key=lambda i: abs(self.times[i] - float(t_BT[0, 0])))
        return self.w[near] * z


def learn(method: Distillation, batch: Batch, steps: int, lr: float) -> None:
    optimizer = torch.optim.AdamW([p for _, p in method.parameters_of("model")], lr, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        method.train().loss(batch, player="model", rng=rng(step)).total.backward()
        optimizer.step()


@pytest.mark.parametrize("begin", ["student", "teacher", "clips"])
@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_so_many_steps_of_the_student_are_the_known_flow_map(kind: str, steps: int, begin: Any) -> None:
    """The flow map of a Gaussian is a scaling, and there is one step that goes it whole: the student finds it."""
    network: GaussianFlow | GaussianDiffusion
    generator: Generator
    if kind == "flow":
        network, generator = GaussianFlow(), Flow(sampler="euler", shift=2.0)
    else:
        network, generator = GaussianDiffusion(), Diffusion(prediction="x")
    task, batch = Toy(generator, Scaling(generator.times(steps))), some()
    method = Distillation(task, Toy(generator, network), steps=steps, substeps=60 // steps, guidance=1.0, begin=begin)
    learn(method, batch, 80, 0.1)
    z = noise = torch.randn((16, *SIZE), generator=rng())
    times, cond = generator.times(steps), task.condition(batch)
    for now, after in pairwise(times):
        z = task.generator.carried(z, cond, [now, after], guidance=1.0)
        torch.testing.assert_close(z, network.spread(after) * noise, rtol=0.08, atol=0.01)
    torch.testing.assert_close(task.made(batch, steps, 1.0, rng()), z)


def test_where_segments_begin() -> None:
    """On noised clips; where the teacher's way has come to; where the student's has."""
    network = GaussianFlow()
    flow, batch = Flow(sampler="euler"), some()
    for begin in ("clips", "teacher", "student"):
        task = Toy(flow, Scaling([0.0, 0.5]))
        method = Distillation(task, Toy(flow, network), steps=2, substeps=400, guidance=1.0, begin=begin)  # type: ignore[arg-type]
        seen: list[Tensor] = []
        task.generator.network.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(args[0].clone()))
        loss = method.eval().loss(batch, player="model", rng=rng())
        noise = torch.randn((16, *SIZE), generator=rng())
        # its network says 0 everywhere, so that its own step goes straight to 0
        middle = {"clips": (batch.video + noise) / 2, "teacher": network.spread(0.5) * noise, "student": noise / 2}
        torch.testing.assert_close(seen[0], noise)
        torch.testing.assert_close(seen[1], middle[begin], rtol=0.01, atol=0.01)
        # what is lost is (the teacher's end - the student's) / 0.5, squared
        first = (2 * (network.spread(0.5) - 0.5)) ** 2 * noise.square().mean()
        rest = network.spread(1.0) / network.spread(0.5)
        second = (2 * rest * seen[1]).square().mean()
        torch.testing.assert_close(loss.parts["segment_1"], first, rtol=0.01, atol=0)
        torch.testing.assert_close(loss.parts["segment_2"], second, rtol=0.01, atol=0)
        torch.testing.assert_close(loss.total, (loss.parts["segment_1"] + loss.parts["segment_2"]) / 2)


def test_some_steps_begin_inside_their_segment_where_the_teacher_has_come_to() -> None:
    flow, batch = Flow(sampler="euler"), some()
    task = Toy(flow, Scaling([0.0]))
    method = Distillation(task, Toy(flow, GaussianFlow()), steps=1, substeps=10, guidance=1.0, inside=0.5)
    seen: list[tuple[float, float]] = []
    task.generator.network.register_forward_pre_hook(
        lambda module, args: seen.append((float(args[1][0, 0]), float(args[0].std())))
    )
    for step in range(200):
        method.loss(batch, player="model", rng=rng(step))
    share = sum(t > 0 for t, _ in seen) / len(seen)
    assert share == pytest.approx(0.45, abs=0.12)  # half of them, a tenth of which are at the beginning
    assert {round(t, 4) for t, _ in seen} == {i / 10 for i in range(10)}
    spread = {0.0: 1.0}  # of ten steps of Euler's
    for i in range(10):
        t = i / 10
        spread[(i + 1) / 10] = spread[t] * (1 + 0.1 * (t * 4 / GaussianFlow.spread(t) ** 2 - 1) / (1 - t))
    assert all(std == pytest.approx(spread[round(t, 4)], rel=0.15) for t, std in seen)


def test_guidance_is_the_teachers() -> None:
    """Where x_hat is 1 with text and 0 without, guidance 3 leads to 3: so does the student, without guidance."""

    class Label(nn.Module):
        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return cond.mask.any(1).float()[:, None, None, None, None].expand_as(z)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.zeros(()))

        def forward(self, z: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
            return self.x.expand_as(z)

    task, flow = Toy(Flow(), Constant()), Flow(sampler="euler")
    learn(Distillation(task, Toy(flow, Label()), steps=2, substeps=2, guidance=3.0), some(), 100, 0.2)
    made = task.made(some(), 2, 1.0, rng())
    torch.testing.assert_close(made, torch.full_like(made, 3.0), rtol=0.02, atol=0)


def test_learning_a_student_goes_in_two_steps_where_its_teacher_goes_in_many() -> None:
    """A trained flow of two texts with two clips each: two taught steps come nearer to forty than four of its own."""
    torch.manual_seed(0)
    task = Toy(Flow(dim=32, heads=2, cond_dim=16, patch=4, sampler="euler", independent=0.0, history=0.0))
    patterns = torch.randn(2, 2, *SIZE, generator=rng(1))
    optimizer = torch.optim.AdamW(task.parameters(), 5e-3)
    for step in range(200):
        words, which = torch.arange(32) % 2, torch.randint(2, (32,), generator=rng(step, "which"))
        task.loss(clips(patterns[words, which], words), player="model", rng=rng(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    student = copy.deepcopy(task)
    learn(Distillation(student, task, steps=2, substeps=4, guidance=1.0), some(32), 200, 3e-3)
    best = task.made(some(64), 40, 1.0, rng(7))
    taught = float((student.made(some(64), 2, 1.0, rng(7)) - best).square().mean())
    own = {steps: float((task.made(some(64), steps, 1.0, rng(7)) - best).square().mean()) for steps in (2, 4)}
    assert taught < min(own.values()), (taught, own)


def test_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match="teacher: runs/a goes another way from noise to data"):
        Distillation(Toy(Diffusion()), Toy(Diffusion(noise_shift=2.0)), teacher="runs/a")
    with pytest.raises(ValueError, match=r"sampler: dpmpp with eta = 0\.0; its steps do not stand for themselves"):
        Distillation(Toy(Diffusion(sampler="dpmpp")), Toy(Diffusion()))
    with pytest.raises(ValueError, match="substeps: 0, expected >= 1"):
        Distillation(Toy(Flow()), Toy(Flow()), substeps=0)
    with pytest.raises(ValueError, match="has no way from noise to data"):
        Generator.times(Flow(), 2)


# whole runs: the teacher is the tiny text-to-video run of conftest.py

CHANGES = ("generator.sampler=euler", "task.steps=2", "task.guidance=1.5", "train.batch=3", "train.accumulate=2")


def student(teacher: Path, *changes: str, **method: Any) -> Recipe:
    options: Mapping[str, Any] = {"name": "distillation", "teacher": str(teacher), "steps": 2, "substeps": 2, **method}
    set_ = [f"method.{name}={value}" for name, value in options.items()]
    return Recipe.load(teacher / "recipe.toml", [*CHANGES, f"init.task={teacher}", *set_, *changes])


def test_a_run_is_saved_without_its_teacher_and_opens_as_any_other(runs: Any, tmp_path: Path) -> None:
    recipe = student(runs.maker, "train.best=val/loss", "train.eval_every=1")
    run = train.start(recipe, tmp_path / "run", quiet=True)
    plain = load_file(runs.maker / "model.safetensors")
    for name in ("model", "ema", "best"):
        saved = load_file(run.path / f"{name}.safetensors")
        assert {k: v.shape for k, v in saved.items()} == {k: v.shape for k, v in plain.items()}, name
    history = run.history()
    assert {"train/segment_1", "train/segment_2"} <= {key for line in history for key in line}
    assert any("val/loss" in line for line in history) and (run.path / "samples").is_dir()
    pipeline = Pipeline.load(run.path)
    assert isinstance(pipeline.task, TextToVideo)
    (clip,) = pipeline.generate("the digit 3 is moving up and down")
    assert clip.provenance["steps"] == 2 and clip.provenance["guidance"] == 1.5
    assert evaluate.evaluate(Run.open(run.path)).numbers["val/loss"] > 0


def test_a_reward_teaches_the_student_beside_the_teacher(runs: Any, tmp_path: Path) -> None:
    reward = (f"task.reward={runs.reader}", "task.reward_steps=2", "task.reward_through=all", "train.steps=1")
    histories = [
        train.start(student(runs.maker, *reward, *more), tmp_path / str(len(more)), quiet=True).history()
        for more in ((), ("task.reward_weight=3.0",))
    ]
    once, thrice = (next(line for line in history if "train/loss" in line) for history in histories)
    assert once["train/reward_loss"] == thrice["train/reward_loss"] > 0
    assert once["train/segment_1"] == thrice["train/segment_1"]
    assert thrice["train/loss"] - once["train/loss"] == pytest.approx(2 * once["train/reward_loss"], rel=1e-5)


@pytest.mark.parametrize(("begin", "rewarded"), [("student", False), ("clips", False), ("student", True)])
def test_four_steps_are_two_and_a_stop_and_two(runs: Any, tmp_path: Path, begin: str, rewarded: bool) -> None:
    same = ["train.decay=constant", "train.optimizer=muon"]
    same += [f"task.reward={runs.reader}", "task.reward_steps=2"] if rewarded else []
    whole = train.start(
        student(runs.maker, *same, "train.steps=4", begin=begin, inside=0.5), tmp_path / "whole", quiet=True
    )
    train.start(student(runs.maker, *same, "train.steps=2", begin=begin, inside=0.5), tmp_path / "parts", quiet=True)
    saved = tmp_path / "parts" / "recipe.toml"
    saved.write_text(saved.read_text().replace("steps = 2\nminutes", "steps = 4\nminutes"))
    parts = train.resume(tmp_path / "parts", quiet=True)
    for name in ("model", "ema"):
        first, second = (load_file(run.path / f"{name}.safetensors") for run in (whole, parts))
        assert all(torch.equal(first[key], second[key]) for key in first)
    steps = [
        [json.dumps({k: v for k, v in r.items() if "second" not in k}) for r in run.history() if "train/loss" in r]
        for run in (whole, parts)
    ]
    assert steps[0] == steps[1] and len(steps[0]) == 4


@pytest.mark.parametrize("begin", ["student", "teacher", "clips"])
def test_the_contract(runs: Any, begin: str) -> None:
    recipe = assemble.resolve(student(runs.maker, begin=begin, inside=0.5))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    task = assemble.task(recipe, meta, data)
    assert isinstance(task, Distillation)
    check_task(task, next(assemble.plain_batches(recipe, meta, data)))
    assert not task.train().expert.training and task.task.training
    assert isinstance(assemble.task(recipe, meta), TextToVideo)


def test_what_does_not_fit_is_told_before_training(runs: Any, tmp_path: Path) -> None:
    for changes, message in (
        (["task.steps=5"], r"task\.steps: 5, expected 2 with method distillation"),
        (["task.guidance=3.0"], r"task\.guidance: 3\.0, expected between 1 and 2 with method distillation"),
        (["task.guidance=0.5"], r"task\.guidance: 0\.5, expected between 1 and 2 with method distillation"),
        ([f"task.reward={runs.reader}", "method.steps=1"], r"method\.steps: 1, expected >= 2 with task\.reward"),
        ([f"task.reward={runs.reader}"], r"task\.reward_steps: 8, expected 2 with method distillation"),
        (["task.train_frames=1"], r"task\.train_frames: 1, expected 0 with"),
        (['task.early_words=["up"]'], r"task\.early_words: \(.up.,\), expected \(\) with method distillation"),
        (["method.teacher="], r"method\.teacher: missing, expected a run folder"),
        (["init.codec=digits"], r"init\.codec: digits, expected .*, the teacher"),
        (["method.teacher=runs/nowhere"], r"method\.teacher: runs/nowhere: neither a run folder"),
        ([f"method.teacher={runs.reader}"], r"method\.teacher: .*reader makes no clips"),
        ([f"method.teacher={runs.maker}/."], r"init\.codec: .*maker, expected .*maker/\., the teacher"),
        (["method.begin=nowhere"], r"method\.begin: \"nowhere\", expected"),
        (["method.name=distilation"], "method: no component 'distilation', did you mean 'distillation'"),
        (["method.expert=x"], r"method\.expert: no such option"),
        (["method.inside=2.0"], r"method: inside: 2\.0, expected in \[0, 1\]"),
        (['data.languages=["en"]'], "makes no clips from the texts of this vocabulary"),
    ):
        with pytest.raises(RecipeError, match=message):
            train.start(student(runs.maker, *changes), tmp_path / "none", quiet=True)
    reading = Recipe.load(runs.reader / "recipe.toml", ["method.name=distillation"])
    with pytest.raises(RecipeError, match="method: distillation, but task classification has no generator to teach"):
        train.start(reading, tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()
