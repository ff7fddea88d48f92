"""The order of draws, and samples side by side."""

from __future__ import annotations

import time
from itertools import islice

import pytest
import torch

from kinetext.datasets.digits import Digits
from kinetext.datasets.loader import Collate, Draws, plain_loader, train_loader
from kinetext.text import Tokenizer
from kinetext.types import DataError, Sample, Target

TARGETS = (Target("kind", ("a", "b", "c")), Target("tags", ("x", "y"), multi=True))


def take(size: int, batch: int, count: int, start: int = 0, rank: int = 0, ranks: int = 1) -> list[list[int]]:
    return list(islice(Draws(size, batch, seed=3, start=start, rank=rank, ranks=ranks), count))


def test_every_epoch_is_a_permutation_and_no_two_are_alike() -> None:
    draws = [draw for batch in take(10, 4, 5) for draw in batch]
    epochs = [[d % 10 for d in draws[i : i + 10]] for i in (0, 10)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert {d // 10 for d in draws[:10]} == {0} and {d // 10 for d in draws[10:]} == {1}


def test_starting_anywhere_gives_the_rest_of_the_same_order() -> None:
    assert take(10, 4, 7)[3:] == take(10, 4, 4, start=3)


def test_a_batch_may_be_longer_than_the_data() -> None:
    (first, second) = take(3, 8, 2)
    assert sorted(first[:3]) == [0, 1, 2] and sorted(first[3:6]) == [3, 4, 5]
    assert sorted(first[6:] + second[:1]) == [6, 7, 8]


def test_the_way_to_a_position_does_not_grow_with_the_data() -> None:
    """A billion rows, resumed in the ten-thousandth epoch: a shuffled list would take 8 GB."""
    begun = time.process_time()
    (batch,) = take(10**9, 4, 1, start=2500 * 10**9)
    assert {draw // 10**9 for draw in batch} == {10**4} and len(set(batch)) == 4
    assert time.process_time() - begun < 0.5


def test_ranks_share_the_order_out() -> None:
    both = zip(take(10, 2, 5, rank=0, ranks=2), take(10, 2, 5, rank=1, ranks=2), strict=True)
    assert [b for pair in both for b in pair] == take(10, 2, 10)


def test_labels_become_indices_and_the_absent_is_marked() -> None:
    samples = [
        Sample("one", labels={"kind": ("b",), "tags": ("y",)}, text="a b"),
        Sample("two", labels={"tags": ()}, weight=2.0),
        Sample("three", labels={"kind": ("c",)}),
    ]
    batch = Collate(Tokenizer.train(["a b"], "word", max_tokens=4), TARGETS, None)(samples)
    assert batch.labels["kind"].tolist() == [1, -1, 2]
    assert batch.labels["tags"][:2].tolist() == [[0, 1], [0, 0]] and batch.labels["tags"][2].isnan().all()
    assert batch.token_mask.sum(1).tolist() == [2, 0, 0] and not batch.video_mask.any()
    assert batch.weight.tolist() == [1, 2, 1] and batch.text == ("a b", "", "")


def test_clips_of_another_size_and_unknown_classes_are_named() -> None:
    collate = Collate(None, TARGETS, (1, 2, 8, 8))
    with pytest.raises(DataError, match=r"wide: video .* \(1, 2, 8, 9\), expected \(1, 2, 8, 8\)"):
        collate([Sample("wide", video=torch.zeros(1, 2, 8, 9))])
    with pytest.raises(DataError, match="odd: kind is 'z', expected one of"):
        collate([Sample("odd", labels={"kind": ("z",)})])
    batch = collate([Sample("clip", video=torch.ones(1, 2, 8, 8)), Sample("none")])
    assert batch.video_mask.tolist() == [[True, True], [False, False]] and batch.video[1].abs().sum() == 0


def test_workers_change_nothing() -> None:
    data = Digits(clips=12, num_frames=2)
    collate = Collate(None, data.targets, data.video_shape)
    alone, helped = (list(islice(train_loader(data, collate, batch=5, seed=0, workers=w), 4)) for w in (0, 2))
    for one, two in zip(alone, helped, strict=True):
        assert one.keys == two.keys and torch.equal(one.video, two.video)


def test_one_pass_in_order() -> None:
    data = Digits(clips=5, num_frames=1)
    batches = list(plain_loader(data, Collate(None, (), data.video_shape), batch=2, limit=3))
    assert [len(b) for b in batches] == [2, 1] and batches[0].keys == (data[0].key, data[1].key)
