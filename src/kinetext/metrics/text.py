"""How near written texts are to what people wrote."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from kinetext.interfaces import Metric
from kinetext.resampling import Interval, intervals
from kinetext.text import split
from kinetext.types import Batch, Prediction

ORDER = 4  # of the longest n-grams


class TextMetric(Metric):
    """Texts are compared word by word, Chinese by the character, without regard to case or spaces.

    ``exact_match``: the share of texts that are one of the references; ``bleu`` (Papineni et al. 2002, of the whole
    corpus, up to 4-grams, no smoothing), by the arithmetic of torchmetrics; ``length``, the words written for a word of
    the nearest reference. The references of a sample are the texts of all samples with its key, since a clip may have
    several; samples without a text take no part.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._said: list[list[str]] = []
        self._true: list[list[str]] = []
        self._groups: list[str] = []

    def update(self, prediction: Prediction, batch: Batch) -> None:
        for key, said, true, group in zip(batch.keys, prediction.text, batch.text, batch.groups, strict=True):
            if words := split(true, "word"):
                self._keys.append(key)
                self._said.append(split(said, "word"))
                self._true.append(words)
                self._groups.append(group)

    def take(self, other: TextMetric) -> None:
        self._keys += other._keys
        self._said += other._said
        self._true += other._true
        self._groups += other._groups

    def compute(self) -> dict[str, float]:
        from torchmetrics.functional.text import bleu_score

        if not self._keys:
            return {}
        numbers = _weighted(self._counts(), torch.ones(len(self._keys), dtype=torch.float64))
        references = [[" ".join(words) for words in true] for true in self._references()]
        bleu = bleu_score([" ".join(words) for words in self._said], references, n_gram=ORDER)
        return {**numbers, "bleu": float(bleu)}

    def intervals(self) -> dict[str, Interval]:
        """Under the bootstrap by group; the references of a sample stay with it."""
        if not self._keys:
            return {}
        counts = self._counts()
        return intervals(self._groups, lambda weight: _weighted(counts, weight))

    def _references(self) -> list[list[list[str]]]:
        """Of every sample."""
        of_key: dict[str, list[list[str]]] = {}
        for key, true in zip(self._keys, self._true, strict=True):
            of_key.setdefault(key, []).append(true)
        return [of_key[key] for key in self._keys]

    def _counts(self) -> Tensor:
        """``(N, 3 + 2 * ORDER)`` float64: whether it is a reference, its words, those of the nearest reference, then the
        n-grams that references have and all its n-grams.
        """
        return torch.tensor(
            [_row(said, true) for said, true in zip(self._said, self._references(), strict=True)], dtype=torch.float64
        )


def _row(said: list[str], references: list[list[str]]) -> list[float]:
    nearest = min(references, key=lambda one: abs(len(one) - len(said)))
    row: list[float] = [said in references, len(said), len(nearest)]
    for n in range(1, ORDER + 1):
        most: Counter[tuple[str, ...]] = Counter()
        for one in references:
            most |= _grams(one, n)
        own = _grams(said, n)
        row += [(own & most).total(), own.total()]
    return row


def _grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _weighted(counts: Tensor, weight: Tensor) -> dict[str, float]:
    """The numbers with rows counted ``weight (N,)`` times."""
    exact, said, true, *grams = (weight @ counts).tolist()
    found = {"exact_match": exact / float(weight.sum()), "length": said / true, "bleu": 0.0}
    if all(grams[::2]):
        precision = sum(math.log(right / every) for right, every in zip(grams[::2], grams[1::2], strict=True)) / ORDER
        found["bleu"] = math.exp(precision + min(0.0, 1 - true / said))
    return found
