"""How much of held-out clips a codec keeps, and how evenly it uses its codes."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from kinetext.interfaces import Metric
from kinetext.types import Batch, Prediction


class ReconstructionMetric(Metric):
    """``mse`` in units of [-1, 1] squared, and ``psnr`` in dB, 10 log10(4 / mse), of decoded against given clips.

    Of a codec of tokens also ``usage``, the share of codes that occur at all, and ``perplexity``, the exponential of the
    entropy of how often each occurs: 1 if it is always the same one, ``vocab`` if all are used alike.

    Args:
        vocab: how many different tokens there are; 0 where targets are continuous.
    """

    errors: ClassVar[frozenset[str]] = frozenset({"mse"})

    def __init__(self, vocab: int) -> None:
        self._error, self._numbers = 0.0, 0
        self._counts = torch.zeros(vocab, dtype=torch.int64)

    def update(self, prediction: Prediction, batch: Batch) -> None:
        assert prediction.video is not None
        self._error += float((prediction.video.float() - batch.video).square().sum(dtype=torch.float64))
        self._numbers += batch.video.numel()
        if prediction.codes is not None:
            self._counts += torch.bincount(prediction.codes.flatten().cpu(), minlength=len(self._counts))

    def take(self, other: ReconstructionMetric) -> None:
        self._error, self._numbers = self._error + other._error, self._numbers + other._numbers
        self._counts += other._counts

    def compute(self) -> dict[str, float]:
        mse = self._error / self._numbers
        numbers = {"mse": mse, "psnr": 10 * math.log10(4 / max(mse, 1e-12))}  # the peak of a signal in [-1, 1] is 2
        if len(self._counts):
            share = self._counts.double() / self._counts.sum()
            entropy = -torch.special.xlogy(share, share).sum()
            numbers |= {"usage": float((share > 0).double().mean()), "perplexity": float(entropy.exp())}
        return numbers
