"""Numbers of codecs, against what they are by definition."""

from __future__ import annotations

import math

import pytest
import torch

from kinetext.metrics.reconstruction import ReconstructionMetric
from kinetext.types import Batch, Prediction


def batch_of(video: torch.Tensor) -> Batch:
    size, frames = len(video), video.shape[2]
    return Batch(
        keys=tuple(map(str, range(size))), video=video, video_mask=torch.ones(size, frames, dtype=torch.bool),
        text=("",) * size, tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.zeros(size, 1, dtype=torch.bool), labels={}, weight=torch.ones(size),
    )  # fmt: skip


def test_error_and_noise_of_the_peak_over_all_batches() -> None:
    metric, other = ReconstructionMetric(0), ReconstructionMetric(0)
    metric.update(Prediction(video=torch.full((1, 1, 2, 4, 4), 0.5)), batch_of(torch.zeros(1, 1, 2, 4, 4)))
    other.update(Prediction(video=torch.full((3, 1, 2, 4, 4), -0.1)), batch_of(torch.zeros(3, 1, 2, 4, 4)))
    metric.take(other)
    mse = (0.25 + 3 * 0.01) / 4
    assert metric.compute() == pytest.approx({"mse": mse, "psnr": 20 * math.log10(2 / math.sqrt(mse))})


def test_usage_and_perplexity_of_known_codes() -> None:
    metric, other = ReconstructionMetric(8), ReconstructionMetric(8)
    video = torch.zeros(2, 1, 1, 2, 2)
    codes = torch.tensor([[0, 0, 0, 0], [5, 5, 7, 7]]).view(2, 1, 1, 2, 2)
    metric.update(Prediction(video=video, codes=codes), batch_of(video))
    numbers = metric.compute()
    assert numbers["usage"] == pytest.approx(3 / 8)
    assert numbers["perplexity"] == pytest.approx(2**1.5)  # 1.5 bits
    other.update(Prediction(video=video, codes=torch.full_like(codes, 1)), batch_of(video))
    metric.take(other)
    assert metric.compute()["usage"] == pytest.approx(4 / 8)
    assert metric.compute()["perplexity"] == pytest.approx(2 ** (0.25 * 2 + 0.125 * 3 * 2 + 0.5))


def test_what_is_perfect_has_a_finite_number() -> None:
    metric = ReconstructionMetric(0)
    batch = batch_of(torch.ones(1, 1, 1, 2, 2))
    metric.update(Prediction(video=batch.video), batch)
    assert metric.compute() == pytest.approx({"mse": 0, "psnr": 10 * math.log10(4e12)})
