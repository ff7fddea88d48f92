"""A request -> plans: every default decided, every file looked at, and what can't be done refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from kinetext import runtime, video
from kinetext.interfaces import Ability
from kinetext.making.layout import history_between, history_of
from kinetext.making.maker import Maker
from kinetext.making.requests import STRENGTH, File, Plan, Request, frames_in
from kinetext.types import DataError, joined


class SamplingWarning(UserWarning):
    """A model is sampled otherwise than it was taught to be."""


def plans(maker: Maker, prompts: Sequence[str], request: Request) -> list[Plan]:
    """A plan for every clip that is asked for, those of the first prompt first.

    Raises:
        DataError: the request is out of range, its files don't suit it, or the model can't do it.
    """
    fps = float(maker.run.meta.fps if request.fps is None else request.fps)
    video.frame_rate(fps)
    window = maker.task.shape[1]
    frames = window if request.seconds is None else frames_in(request.seconds, fps)
    names = ("image", "video", "change", "mask")
    files = {name: File.of(name, path) for name in names if (path := getattr(request, name)) is not None}
    settings: dict[str, Any] = {
        **_settings(maker, request.steps, request.guidance),
        "fps": fps,
        "num_frames": frames,
        "history": history_of(request.history, frames, maker.grid),
        "negative": request.negative,
        **files,
        "keep": request.keep,
        "strength": None if request.change is None else request.strength or STRENGTH,
    }
    found = [
        Plan(prompt=prompt, seed=seed, index=index, **settings) for prompt, seed, index in _clips(prompts, request)
    ]
    if not found:
        return []
    _check_abilities(maker, found[0])
    keep = _check_files(maker, found[0])
    _warn_taught(maker, found[0])
    return _in_batches([replace(plan, keep=keep) for plan in found], request.batch)


def plan_between(
    maker: Maker,
    path: Path | str,
    prompt: str,
    *,
    factor: int,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
) -> Plan:
    """The plan of a clip that has the frames of ``path`` and ``factor`` - 1 made ones between any two of them.

    Raises:
        DataError: an option is out of range, the file can't be read or has one frame, or the model can't do it.
    """
    source = File.of("source", path)
    frames, fps = video.count_frames(path), video.probe(path).fps
    if frames < 2:
        raise DataError(f"{path}: one frame, expected two or more to make others between")
    if not video.is_steady(path):
        raise DataError(f"{path}: its frames are not all shown for as long; expected a constant frame rate")
    window = maker.task.shape[1]
    if maker.grid.joins:
        raise DataError(
            f"{maker.name}: its codec joins frames, so single frames can't be given; expected another model"
        )
    plan = Plan(
        prompt=prompt,
        seed=seed,
        index=0,
        **_settings(maker, steps, guidance),
        fps=fps * factor,
        num_frames=factor * (frames - 1) + 1,
        history=history_between(factor, window),
        source=source,
        factor=factor,
    )
    _check_abilities(maker, plan)
    _warn_taught(maker, plan)
    _warn_rate(maker, plan)
    return plan


def _settings(maker: Maker, steps: int | None, guidance: float | None) -> dict[str, Any]:
    if steps is not None and "steps" not in maker.task.generator.abilities:
        raise _unable(maker, "steps")
    asked = maker.run.recipe.train.precision
    precision: Literal["bf16", "fp32"] = "bf16" if runtime.has_fast_bf16(maker.device) else "fp32"
    return {
        "steps": maker.task.steps if steps is None else steps,
        "guidance": float(maker.task.guidance if guidance is None else guidance),
        "precision": precision if asked == "auto" else asked,
    }


def _warn_taught(maker: Maker, plan: Plan) -> None:
    """Says that a model which was distilled or rewarded is good at its own settings alone."""
    recipe, own = maker.run.recipe, (maker.task.steps, float(maker.task.guidance))
    distilled = recipe.method is not None and recipe.method.name == "distillation"
    if (plan.steps, plan.guidance) != own and (distilled or recipe.task.args["reward"]):
        how = "distilled" if distilled else "taught by a reward"
        asked = f"with {plan.steps} and {plan.guidance:g} its clips are likely worse"
        told = f"{own[0]} steps and guidance {own[1]:g}; {asked}"
        warnings.warn(f"{maker.name} was {how} for {told}", SamplingWarning, stacklevel=5)


def _warn_rate(maker: Maker, plan: Plan) -> None:
    """Says that frames closer to each other than any that a model learned from are beyond a generator without pace."""
    learned = maker.run.meta.fps
    if 0 < learned < plan.fps and "pace" not in maker.task.generator.abilities:
        told = f"{learned:g} frames a second, and this makes {plan.fps:g}; frames in between may stray from their path"
        warnings.warn(f"{maker.name} learned from {told}", SamplingWarning, stacklevel=4)


def _clips(prompts: Sequence[str], request: Request) -> Iterator[tuple[str, int, int]]:
    """(prompt, seed, number) of every clip; its noise is a pure function of the last two."""
    for place, prompt in enumerate(prompts):
        if request.seeds:
            yield from ((prompt, seed, 0) for seed in request.seeds)
        else:
            yield from ((prompt, request.seed, place * request.num + number) for number in range(request.num))


def _in_batches(found: list[Plan], batch: int) -> list[Plan]:
    """The plans with who is made together with whom."""
    return [
        replace(plan, batch=min(batch, len(found) - number // batch * batch), row=number % batch)
        for number, plan in enumerate(found)
    ]


def _check_abilities(maker: Maker, plan: Plan) -> None:
    """Refuses what the generator can't do, by the option that asks for it."""
    whole = plan.history is not None or plan.image is not None or (plan.video is not None and plan.mask is None)
    asked: dict[Ability, dict[str, bool]] = {
        "known frames": {
            "image": plan.image is not None,
            "video": plan.video is not None and plan.mask is None,
            "factor": plan.factor is not None,
            "seconds": whole,
        },
        "known cells": {"mask": plan.mask is not None},
        "start": {"change": plan.change is not None},
        "guidance": {"guidance": plan.guidance != 1},
        "negative": {"negative": bool(plan.negative)},
    }
    generator = maker.task.generator
    for ability, options in asked.items():
        if ability not in generator.abilities and any(options.values()):
            raise _unable(maker, next(name for name, wanted in options.items() if wanted))


def _unable(maker: Maker, option: str) -> DataError:
    """What is said of an option that asks for what the generator can't do."""
    kind = maker.run.recipe.generator and maker.run.recipe.generator.name
    can = joined(sorted(maker.task.generator.abilities))
    return DataError(f"{option}: {maker.name} can't do that, its generator ({kind}) can: {can}")


def _check_files(maker: Maker, plan: Plan) -> int | None:
    """Refuses files that don't suit the plan; says how many frames of its video stay."""
    for name, file in (("image", plan.image), ("mask", plan.mask)):
        if file is not None and (count := _count_frames(name, "a picture", file)) > 1:
            raise DataError(f"{name}: {file.path} has {count} frames, expected a picture")
    rate, total = maker.rate(plan.fps), plan.num_frames
    name, under = ("change", plan.change) if plan.change else ("video", plan.video if plan.mask else None)
    if under is not None and (count := _count_frames(name, "a video", under, rate)) < total:
        raise DataError(f"{name}: {under.path} has {count} frames at {rate:g} a second, expected {total} or more")
    if plan.image is not None:
        _check_known(maker, "image", 1)
    if plan.video is None or plan.mask is not None:
        return None
    count = _count_frames("video", "a video", plan.video, rate)
    if plan.keep is not None and plan.keep > count:
        raise DataError(f"keep: {plan.keep}, but {plan.video.path} has {count} frames at {rate:g} a second")
    keep = plan.keep or count
    if keep >= total:
        what = f"the clip has {total} frames, and {keep} of {plan.video.path} would stay"
        raise DataError(f"keep: {what}; say fewer (keep), or make a longer clip (seconds)")
    _check_known(maker, "keep", keep)
    return keep


def _count_frames(name: str, kind: str, file: File, rate: float | None = None) -> int:
    """How many frames a file has; one that can't be read is named by its option, as what it should be."""
    try:
        return video.count_frames(file.path, rate)
    except video.VideoError as error:
        raise DataError(f"{name}: expected {kind}; {error}") from error


def _check_known(maker: Maker, name: str, frames: int) -> None:
    """Refuses to give fewer frames than the codec needs for one of its own."""
    stays = torch.zeros(1, *maker.task.shape[1:], dtype=torch.bool)
    stays[:, :frames] = True
    if not maker.grid.known(stays).any():
        raise DataError(f"{name}: {frames} frames are given, and the codec of {maker.name} joins more into one")
    if name == "keep" and maker.grid.joins and frames < len(stays[0]):
        told = [count for count in range(1, len(stays[0]) + 1) if _ends_a_cell(maker, count)]
        if frames not in told:
            raise DataError(
                f"keep: {frames}, but the codec of {maker.name} joins frames; expected one of {joined(told)}"
            )


def _ends_a_cell(maker: Maker, frames: int) -> bool:
    """Whether the last of so many first frames completes one that the codec makes of several."""
    stays = torch.zeros(2, *maker.task.shape[1:], dtype=torch.bool)
    stays[0, : frames - 1] = True
    stays[1, :frames] = True
    before, after = maker.grid.known(stays).flatten(1).sum(1).tolist()
    return bool(after > before)
