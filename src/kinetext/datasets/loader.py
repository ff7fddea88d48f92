"""Samples -> batches, in an order that is a pure function of (seed, position)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from kinetext.interfaces import Dataset, Shape
from kinetext.nn.shuffling import Permutation
from kinetext.text import Tokenizer
from kinetext.tokenizers import PretrainedTokenizer
from kinetext.types import Batch, DataError, Features, KinetextError, Modality, Sample, Target


class Draws(Sampler[list[int]]):
    """Batches of draws, shuffled anew each epoch, from any position on and without end.

    The n-th draw of a run is the same whatever the number of workers, and wherever the run was
    interrupted. Rank r of w takes every w-th batch. Neither memory nor the way to a position grows with the dataset.

    Args:
        size: samples in the dataset, >= 1.
        batch: samples a batch, >= 1.
        seed: of the shuffling.
        start: batches (of this rank) to skip.
    """

    def __init__(self, size: int, batch: int, *, seed: int, start: int = 0, rank: int = 0, ranks: int = 1) -> None:
        if size < 1:
            raise DataError(f"data: {size} samples, expected at least one")
        self.size, self.batch, self.seed = size, batch, seed
        self.start, self.rank, self.ranks = start, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        position = (self.start * self.ranks + self.rank) * self.batch
        epoch, order = -1, Permutation(1)
        while True:
            draws: list[int] = []
            while len(draws) < self.batch:
                now, place = divmod(position + len(draws), self.size)
                if now != epoch:
                    epoch, order = now, Permutation(self.size, self.seed, "epoch", now)
                places = np.arange(place, min(place + self.batch - len(draws), self.size))
                draws += (epoch * self.size + order.at(places)).tolist()
            yield draws
            position += self.ranks * self.batch


class Collate:
    """Samples side by side: pads, encodes text, turns label names into indices.

    Args:
        tokenizer: for the text, or None when nothing reads text.
        targets: the label columns to encode.
        video_shape: (C, T, H, W) that every clip has, or None when nothing reads video.
        vector_dims: modality -> width of precomputed vectors.
        encoded_dims: modality -> width of what a frozen encoder made.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | PretrainedTokenizer | None,
        targets: Sequence[Target],
        video_shape: Shape | None,
        vector_dims: Mapping[Modality, int] | None = None,
        encoded_dims: Mapping[Modality, int] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.targets = tuple(targets)
        self.video_shape = video_shape
        self.vector_dims, self.encoded_dims = dict(vector_dims or {}), dict(encoded_dims or {})

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        texts = [sample.text for sample in samples]
        tokens = torch.zeros(len(samples), 1, dtype=torch.int64)
        token_mask = tokens.bool()
        if self.tokenizer is not None:
            tokens, token_mask = self.tokenizer.batch(texts)
        video, video_mask = self._videos(samples)
        return Batch(
            keys=tuple(sample.key for sample in samples),
            video=video,
            video_mask=video_mask,
            text=tuple(text or "" for text in texts),
            tokens=tokens,
            token_mask=token_mask,
            labels={target.name: _labels(samples, target) for target in self.targets},
            weight=torch.tensor([sample.weight for sample in samples], dtype=torch.float32),
            groups=tuple(sample.group for sample in samples),
            vectors=_features([sample.vectors for sample in samples], self.vector_dims),
            encoded=_features([sample.encoded for sample in samples], self.encoded_dims),
        )

    def _videos(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        if self.video_shape is None:
            return torch.zeros(len(samples), 1, 1, 1, 1), torch.zeros(len(samples), 1, dtype=torch.bool)
        video = torch.zeros(len(samples), *self.video_shape)
        mask = torch.zeros(len(samples), self.video_shape[1], dtype=torch.bool)
        for row, sample in enumerate(samples):
            if sample.video is None:
                continue
            if tuple(sample.video.shape) != tuple(self.video_shape):
                raise DataError(
                    f"{sample.key}: video (C, T, H, W) {tuple(sample.video.shape)}, expected {tuple(self.video_shape)}"
                )
            video[row] = sample.video
            mask[row] = True
        return video, mask


def _labels(samples: Sequence[Sample], target: Target) -> Tensor:
    index = {name: i for i, name in enumerate(target.classes)}
    rows: list[Tensor] = []
    for sample in samples:
        names = sample.labels.get(target.name)
        if target.numeric:
            rows.append(torch.tensor(float(names[0]) if names else float("nan")))
            continue
        missing = [name for name in names or () if name not in index]
        if missing:
            raise DataError(f"{sample.key}: {target.name} is {missing[0]!r}, expected one of {list(target.classes)}")
        if not target.multi:
            rows.append(torch.tensor(index[names[0]] if names else -1))
        elif names is None:
            rows.append(torch.full((len(index),), float("nan")))
        else:
            rows.append(
                torch.zeros(len(index)).index_fill_(0, torch.tensor([index[n] for n in names], dtype=torch.int64), 1.0)
            )
    return torch.stack(rows)


def _features(samples: Sequence[Mapping[Modality, Tensor]], dims: Mapping[Modality, int]) -> dict[Modality, Features]:
    """Vectors ``(L, D)`` of each modality side by side, as long as the longest of the batch."""
    found: dict[Modality, Features] = {}
    for modality, dim in dims.items():
        given = [sample.get(modality, torch.zeros(0, dim)) for sample in samples]
        longest = max(1, *map(len, given))
        x, mask = torch.zeros(len(given), longest, dim), torch.zeros(len(given), longest, dtype=torch.bool)
        for row, one in enumerate(given):
            if one.shape[1] != dim:
                raise DataError(f"{modality} vectors: width {one.shape[1]}, expected {dim}")
            x[row, : len(one)], mask[row, : len(one)] = one, True
        found[modality] = Features(x, mask)
    return found


def train_loader(
    data: Dataset,
    collate: Collate,
    *,
    batch: int,
    seed: int,
    workers: int,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """Endless shuffled batches from batch number ``start`` on."""
    draws = Draws(len(data), batch, seed=seed, start=start, rank=rank, ranks=ranks)
    return _batches(data, collate, draws, workers)


def plain_loader(data: Dataset, collate: Collate, *, batch: int, workers: int = 0, limit: int = 0) -> Iterator[Batch]:
    """One pass in order; the first ``limit`` samples if it is not 0."""
    size = min(limit or len(data), len(data))
    if size < 1:
        raise DataError("data: 0 samples, expected at least one")
    chunks = [list(range(i, min(i + batch, size))) for i in range(0, size, batch)]
    return _batches(data, collate, chunks, workers)


def ignore_interrupt(worker: int) -> None:
    """A terminal's Ctrl-C reaches the workers too; the loop still needs them to end its step and save."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Told:
    """Hands a user's mistake over as a value: raised in a worker it would reach the loop as a stack trace."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __getitems__(self, draws: Sequence[int]) -> list[Sample] | KinetextError:
        try:
            return self.data.__getitems__(draws)
        except KinetextError as error:
            return error


@dataclass
class _Collated:
    collate: Collate

    def __call__(self, samples: list[Sample] | KinetextError) -> Batch | KinetextError:
        try:
            return samples if isinstance(samples, KinetextError) else self.collate(samples)
        except KinetextError as error:
            return error


def _batches(
    data: Dataset, collate: Collate, batches: Sampler[list[int]] | list[list[int]], workers: int
) -> Iterator[Batch]:
    """Batches made by ``workers`` processes, or by this one.

    Raises:
        KinetextError: whatever the dataset or the collation raised, as they raised it.
    """
    loader: DataLoader[Batch | KinetextError] = DataLoader(
        cast("torch.utils.data.Dataset[Batch | KinetextError]", _Told(data)),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_Collated(collate),
        worker_init_fn=ignore_interrupt,
        multiprocessing_context="fork" if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    for made in loader:
        if isinstance(made, KinetextError):
            raise made
        yield made
