"""Retrieval: losses against their papers' pseudo-code, doubles, absence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.encoders.features import PrecomputedFeatures
from kinetext.runtime import rng
from kinetext.tasks.retrieval import Retrieval
from kinetext.types import Batch, Features, RecipeError


def retrieval(**options: Any) -> Retrieval:
    torch.manual_seed(0)
    encoders = {m: PrecomputedFeatures(modality=m, vector_dim=6, dim=0, scale="none") for m in ("text", "video")}  # type: ignore[arg-type]
    return Retrieval(encoders, dim=4, **options).eval()


def batch(text: Tensor, video: Tensor, texts: tuple[str, ...] | None = None) -> Batch:
    """Vectors ``(B, 6)``; a row of zeros is absent."""
    size = len(text)
    return Batch(
        keys=tuple(map(str, range(size))),
        video=torch.zeros(size, 1, 1, 1, 1),
        video_mask=torch.zeros(size, 1, dtype=torch.bool),
        text=texts or tuple(f"text {i}" for i in range(size)),
        tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.zeros(size, 1, dtype=torch.bool),
        labels={},
        weight=torch.ones(size),
        vectors={
            "text": Features(text[:, None], text.any(1, keepdim=True)),
            "video": Features(video[:, None], video.any(1, keepdim=True)),
        },
    )


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(1)
    return torch.randn(5, 6, generator=noise), torch.randn(5, 6, generator=noise)


def embedded(task: Retrieval, given: Batch) -> tuple[Tensor, Tensor]:
    made = task.predict(given, rng=rng(0)).embeddings
    return made["text"], made["video"]


def test_infonce_is_clips_pseudo_code(pair: tuple[Tensor, Tensor]) -> None:
    task = retrieval()
    text, video = embedded(task, batch(*pair))
    logits = text @ video.T / 0.07
    labels = torch.arange(5)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    losses = task.loss(batch(*pair), player="model", rng=rng(0))
    assert float(losses.total.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(losses.parts["temperature"]) == pytest.approx(0.07)


def test_sigmoid_is_siglips_pseudo_code(pair: tuple[Tensor, Tensor]) -> None:
    task = retrieval(loss="sigmoid")
    text, video = embedded(task, batch(*pair))
    logits = text @ video.T * math.exp(math.log(10)) - 10
    labels = 2 * torch.eye(5) - 1
    expected = -F.logsigmoid(labels * logits).sum() / 5
    assert float(task.loss(batch(*pair), player="model", rng=rng(0)).total.detach()) == pytest.approx(
        float(expected), rel=1e-5
    )


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_absent_rows_change_nothing(pair: tuple[Tensor, Tensor], loss: str) -> None:
    task = retrieval(loss=loss)
    text, video = (x.clone() for x in pair)
    text[1], video[3] = 0, 0
    kept = torch.tensor([0, 2, 4])
    whole = task.loss(batch(text, video), player="model", rng=rng(0)).total
    alone = task.loss(batch(text[kept], video[kept]), player="model", rng=rng(0)).total
    assert float(whole.detach()) == pytest.approx(float(alone.detach()), rel=1e-5)
    nothing = task.loss(batch(text[[1, 1]], video[[0, 0]]), player="model", rng=rng(0)).total
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert task.project["text"].weight.grad.isfinite().all()


def test_samples_of_one_text_are_not_pushed_apart(pair: tuple[Tensor, Tensor]) -> None:
    task = retrieval()
    text, video = pair[0][[0, 0, 1]], pair[1][:3]
    same = batch(text, video, ("a", "a", "b"))
    u, v = embedded(task, same)
    logits = u @ v.T / 0.07
    target = torch.tensor([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]])
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    assert float(task.loss(same, player="model", rng=rng(0)).total.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_embeddings_have_length_one_or_are_absent(pair: tuple[Tensor, Tensor]) -> None:
    text = pair[0].clone()
    text[2] = 0
    u, v = embedded(retrieval(), batch(text, pair[1]))
    assert u.norm(dim=1) == pytest.approx([1, 1, 0, 1, 1], abs=1e-6)
    assert v.norm(dim=1) == pytest.approx([1] * 5, abs=1e-6)


def test_what_can_not_work_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"encoders: text, expected text and video"):
        Retrieval({"text": PrecomputedFeatures(modality="text")})
    with pytest.raises(RecipeError, match=r"task.temperature: -1"):
        retrieval(temperature=-1.0)
