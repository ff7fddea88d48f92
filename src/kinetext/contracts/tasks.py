"""The contract of tasks."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from kinetext.contracts.promises import (
    ATOL,
    ContractError,
    check_loss,
    check_players,
    check_state,
    close,
    gradients_reach,
    require,
    shaken_copy,
    still_copy,
)
from kinetext.interfaces import Task
from kinetext.runtime import rng
from kinetext.types import MODALITIES, Batch, KinetextError, Prediction


def check_task(task: Task, batch: Batch) -> None:
    """Checks a task on a batch that it is meant for, of at least 2 samples.

    Raises:
        ContractError: players share parameters or leave some out, losses are no finite scalars, results are
            not a pure function of the random generator passed in, a masked modality matters, a prediction
            has the wrong shape or range or depends on other rows, or the state dict lacks something.
    """
    check_players(task)
    with torch.random.fork_rng(devices=[]):
        still = still_copy(task)
        check_loss(task, task.players, lambda p, seed: still.loss(batch, player=p, rng=rng(seed)), random=False)
        for player in task.players:
            _check_gradients(task, batch, player)
        _check_absent(task, still, batch)
        _check_prediction(task, still, batch)
        check_state(task, lambda module: _numbers(module.predict(batch, rng=rng(0))))


def _check_gradients(task: Task, batch: Batch, player: str) -> None:
    shaken = shaken_copy(task)
    total = shaken.loss(batch, player=player, rng=rng(0)).total
    for modality in MODALITIES:  # what stands in for an absent modality learns from its absence
        try:
            total = total + shaken.loss(batch.without(modality), player=player, rng=rng(0)).total
        except KinetextError:
            continue  # says in plain words that it needs this modality
    mine = [(name, p) for name, p in shaken.parameters_of(player) if p.requires_grad]
    gradients_reach(task, mine, total)


@torch.no_grad()
def _check_absent(task: Task, still: Task, batch: Batch) -> None:
    for modality in MODALITIES:
        absent = batch.without(modality)
        if modality == "text":
            garbage = replace(absent, tokens=torch.ones_like(batch.tokens), text=("",) * len(batch))
        else:
            garbage = replace(absent, video=torch.full_like(batch.video, float("nan")))
        try:
            losses = [[still.loss(b, player=p, rng=rng(0)).total for p in task.players] for b in (absent, garbage)]
        except KinetextError:
            continue  # says in plain words that it needs this modality
        require(close(*map(torch.stack, losses)), task, f"what stands in a masked {modality} changes the loss")
        answers = [_numbers(still.predict(b, rng=rng(0))) for b in (absent, garbage)]
        require(close(*answers), task, f"what stands in a masked {modality} changes the prediction")


@torch.no_grad()
def _check_prediction(task: Task, still: Task, batch: Batch) -> None:
    made = still.predict(batch, rng=[rng(i) for i in range(len(batch))])
    for name, p in made.probabilities.items():
        require(p.ndim == 2 and len(p) == len(batch), task, f"probabilities of {name}: shape {tuple(p.shape)}")
        require(bool(((p >= 0) & (p <= 1)).all()), task, f"probabilities of {name} are not in [0, 1]")
    for name, numbers in made.numbers.items():
        require(numbers.shape == (len(batch),), task, f"numbers of {name}: shape {tuple(numbers.shape)}")
        require(bool(numbers.isfinite().all()), task, f"numbers of {name} are not finite")
    for name, x in made.embeddings.items():
        require(x.ndim == 2 and len(x) == len(batch), task, f"embeddings of {name}: shape {tuple(x.shape)}")
        unit = (x.norm(dim=1) - 1).abs() < ATOL
        require(bool((unit | (x == 0).all(1)).all()), task, f"embeddings of {name} are not of length 1")
    if made.video is not None:
        require(made.video.ndim == 5 and len(made.video) == len(batch), task, f"video: shape {tuple(made.video.shape)}")
        require(bool((made.video.abs() <= 1).all()), task, "the video is not in [-1, 1]")
    if made.text:
        require(len(made.text) == len(batch), task, f"text: {len(made.text)} strings for {len(batch)} samples")
    both = _numbers(made), _numbers(still.predict(batch, rng=[rng(i) for i in range(len(batch))]))
    require(torch.equal(*both), task, "two predictions with the same rng differ")
    alone = _numbers(still.predict(batch.rows(1, 2), rng=[rng(1)]))
    require(close(alone[0], both[0][1]), task, "a prediction changes with the other rows of its batch")


def _numbers(prediction: Prediction) -> Tensor:
    """All that a prediction says, ``(B, N)``."""
    parts = [p.flatten(1) for p in prediction.probabilities.values()]
    parts += [numbers[:, None] for numbers in prediction.numbers.values()]
    parts += list(prediction.embeddings.values())
    parts += [prediction.video.flatten(1)] if prediction.video is not None else []
    if prediction.text:  # 24 bits of each, exact in float32
        digests = [hashlib.blake2b(text.encode(), digest_size=3).digest() for text in prediction.text]
        parts += [torch.tensor([[float(int.from_bytes(digest, "little"))] for digest in digests])]
    if not parts:
        raise ContractError("predict: the prediction is empty")
    return torch.cat(parts, 1)
