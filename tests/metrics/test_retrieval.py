"""Retrieval: ranks worked by hand, ties, doubles, absence."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.metrics.retrieval import RetrievalMetric
from kinetext.types import Batch, Prediction


def batch(texts: tuple[str, ...]) -> Batch:
    size = len(texts)
    return Batch(
        keys=tuple(map(str, range(size))),
        video=torch.zeros(size, 1, 1, 1, 1),
        video_mask=torch.ones(size, 1, dtype=torch.bool),
        text=texts,
        tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.ones(size, 1, dtype=torch.bool),
        labels={},
        weight=torch.ones(size),
    )


def fed(text: Tensor, video: Tensor, texts: tuple[str, ...] | None = None) -> RetrievalMetric:
    metric = RetrievalMetric()
    texts = texts or tuple(f"text {i}" for i in range(len(text)))
    for part in torch.arange(len(text)).split(3):
        prediction = Prediction(embeddings={"text": text[part], "video": video[part]})
        metric.update(prediction, batch(tuple(texts[i] for i in part)))
    return metric


def test_everything_found() -> None:
    x = F.normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    numbers = fed(x, x).compute()
    for way in ("text_to_video", "video_to_text"):
        assert {numbers[f"{way}/r{k}"] for k in (1, 5, 10)} == {1.0}
        assert numbers[f"{way}/median_rank"] == 1
    assert numbers["chance_r1"] == pytest.approx(1 / 12)
    assert numbers["candidates"] == 12


def test_worked_ranks() -> None:
    """Texts on the axes; the clip of text 0 lies nearer to text 1, and that of text 1 nearer to text 0."""
    text = torch.eye(3)
    video = F.normalize(torch.tensor([[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), dim=1)
    numbers = fed(text, video).compute()
    assert numbers["video_to_text/r1"] == pytest.approx(1 / 3)
    assert numbers["video_to_text/r5"] == 1
    assert numbers["video_to_text/median_rank"] == 2
    assert numbers["text_to_video/r1"] == pytest.approx(1 / 3)


def test_ties_count_against_us() -> None:
    same = F.normalize(torch.ones(20, 4), dim=1)
    numbers = fed(same, same).compute()
    assert numbers["text_to_video/r10"] == 0
    assert numbers["text_to_video/median_rank"] == 20


def test_samples_of_one_text_are_matches_of_each_other() -> None:
    text = torch.eye(4)[[0, 0, 1, 2]]
    video = torch.eye(4)[[3, 0, 1, 2]]  # the first clip is like nothing; its text is found by the second clip
    numbers = fed(text, video, ("a", "a", "b", "c")).compute()
    assert numbers["text_to_video/r1"] == 1
    assert numbers["video_to_text/r1"] == pytest.approx(3 / 4)
    assert numbers["chance_r1"] == pytest.approx((2 + 2 + 1 + 1) / 16)


def test_absent_modalities_take_no_part() -> None:
    x = torch.eye(5)
    video = x.clone()
    video[2] = 0
    assert fed(x, video).compute()["candidates"] == 4
    assert fed(torch.zeros(2, 3), torch.zeros(2, 3)).compute() == {}


def test_intervals_of_recalls() -> None:
    x = F.normalize(torch.randn(80, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    y = F.normalize(x + 0.5 * torch.randn(80, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    metric = fed(x, y)
    numbers = metric.compute()
    low, high = metric.intervals()["text_to_video/r1"]
    share = numbers["text_to_video/r1"]
    assert 0.05 < share < 0.95
    assert high - low == pytest.approx(2 * 1.96 * (share * (1 - share) / 80) ** 0.5, rel=0.25)


def test_samples_without_a_text_match_only_themselves() -> None:
    x = torch.eye(4)
    numbers = fed(x, x[[1, 0, 2, 3]], ("", "", "", "")).compute()
    assert numbers["text_to_video/r1"] == 0.5
    assert numbers["chance_r1"] == 0.25
