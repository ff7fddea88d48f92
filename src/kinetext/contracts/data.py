"""The contract of datasets."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kinetext.contracts.promises import require
from kinetext.interfaces import Dataset
from kinetext.types import Sample, Target


def check_dataset(dataset: Dataset, *, samples: int = 4) -> None:
    """Checks a dataset.

    Args:
        samples: how many to look at, >= 1.

    Raises:
        ContractError: a sample is not a pure function of its draw, does not fit ``video_shape`` or
            ``targets``, or counts don't fit the classes.
    """
    require(len(dataset) > 0, dataset, "is empty")
    looked = min(samples, len(dataset))
    targets = {target.name: target for target in dataset.targets}
    keys = []
    with torch.random.fork_rng(devices=[]):
        for draw in range(looked):
            torch.manual_seed(draw)
            sample = dataset[draw]
            torch.manual_seed(draw + 1)
            require(_same_sample(sample, dataset[draw]), dataset, f"gives two different samples for draw {draw}")
            later = dataset[draw + len(dataset)]
            require(later.key == sample.key, dataset, f"draw {draw} is {sample.key!r}, an epoch later {later.key!r}")
            kept = not dataset.fixed or _same_video(sample, later)
            require(kept, dataset, f"says that its clips are fixed, and {sample.key} is another one an epoch later")
            _check_sample(dataset, sample, targets)
            keys.append(sample.key)
    require(len(set(keys)) == looked, dataset, f"gives the same key to different samples: {keys}")
    for target in dataset.targets:
        counts = dataset.counts(target.name)
        require(not counts or len(counts) == len(target.classes), dataset,
                 f"counts {len(counts)} classes of {target.name!r}, and names {len(target.classes)}")  # fmt: skip


def _same_video(a: Sample, b: Sample) -> bool:
    return a.video is b.video or (a.video is not None and b.video is not None and torch.equal(a.video, b.video))


def _same_sample(a: Sample, b: Sample) -> bool:
    return _same_video(a, b) and (a.key, a.text, a.labels, a.weight) == (b.key, b.text, b.labels, b.weight)


def _check_sample(dataset: Dataset, sample: Sample, targets: Mapping[str, Target]) -> None:
    if sample.video is not None:
        shape = tuple(sample.video.shape)
        require(shape == dataset.video_shape, dataset, f"{sample.key}: video {shape}, promised {dataset.video_shape}")
        require(bool((sample.video.abs() <= 1).all()), dataset, f"{sample.key}: the video is not in [-1, 1]")
    for column, names in sample.labels.items():
        require(column in targets, dataset, f"{sample.key}: label column {column!r} is not among its targets")
        wrong = [name for name in names if name not in targets[column].classes]
        require(not wrong, dataset, f"{sample.key}: {column} is {wrong}, which is not among its classes")
        require(targets[column].multi or len(names) <= 1, dataset, f"{sample.key}: {column} has {len(names)} values")
    require(sample.text is None or any(dataset.texts()), dataset, "has texts, and texts() is empty")
