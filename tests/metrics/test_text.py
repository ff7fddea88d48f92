"""Written texts against numbers worked by hand, and against torchmetrics."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torchmetrics.functional.text import bleu_score

from kinetext.metrics.text import TextMetric, _weighted
from kinetext.types import Batch, Prediction


def fed(said: list[str], true: list[str], keys: list[str] | None = None, groups: list[str] | None = None) -> TextMetric:
    metric = TextMetric()
    size = len(true)
    batch = Batch(
        keys=tuple(keys or map(str, range(size))),
        video=torch.zeros(size, 1, 1, 1, 1),
        video_mask=torch.ones(size, 1, dtype=torch.bool),
        text=tuple(true),
        tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.ones(size, 1, dtype=torch.bool),
        labels={},
        weight=torch.ones(size),
        groups=tuple(groups or [""] * size),
    )
    metric.update(Prediction(text=tuple(said)), batch)
    return metric


def test_one_word_of_six_is_wrong() -> None:
    """Precisions of 1- to 4-grams are 5/6, 4/5, 3/4, 2/3: their product is 1/3."""
    numbers = fed(["the cat sat on the mat"], ["the cat sat on the rug"]).compute()
    assert numbers == pytest.approx({"exact_match": 0.0, "bleu": (1 / 3) ** 0.25, "length": 1.0})


def test_what_is_too_short_pays_for_it() -> None:
    numbers = fed(["a digit moves up"], ["a digit moves up slowly"]).compute()
    assert numbers == pytest.approx({"exact_match": 0.0, "bleu": math.exp(1 - 5 / 4), "length": 4 / 5})


def test_chinese_is_compared_by_the_character() -> None:
    """The last of seven characters is wrong: 6/7, 5/6, 4/5 and 3/4."""
    numbers = fed(["数字3上下移走"], ["数字3上下移动"]).compute()
    assert numbers == pytest.approx({"exact_match": 0.0, "bleu": (3 / 7) ** 0.25, "length": 1.0})
    assert fed(["数 字 ３上下移动"], ["数字3上下移动"]).compute()["exact_match"] == 1


def test_case_and_spaces_do_not_matter() -> None:
    numbers = fed(["the  Digit 3 moves ,up"], ["The digit 3 moves, up"]).compute()
    assert numbers == pytest.approx({"exact_match": 1.0, "bleu": 1.0, "length": 1.0})


def test_a_word_counts_as_often_as_a_reference_has_it() -> None:
    """Papineni et al. 2002, section 2.1: of seven "the" two are right."""
    counts = fed(["the the the the the the the"], ["the cat is on the mat"])._counts()[0]
    assert counts[3:5].tolist() == [2, 7]
    assert fed(["the the the the the the the"], ["the cat is on the mat"]).compute()["bleu"] == 0


def test_all_texts_of_a_clip_are_its_references() -> None:
    said = ["a red ball rolls away", "a red ball rolls away", "b"]
    true = ["the ball is red now", "a red ball rolls away", "c"]
    together = fed(said, true, ["clip", "clip", "other"]).compute()
    assert together["exact_match"] == pytest.approx(2 / 3)
    assert fed(said, true).compute()["exact_match"] == pytest.approx(1 / 3)


def test_samples_without_a_text_take_no_part() -> None:
    some = fed(["a b c d", "x"], ["a b c d", ""])
    assert some.compute() == fed(["a b c d"], ["a b c d"]).compute()
    assert fed(["x"], [" "]).compute() == {} == fed(["x"], [""]).intervals()
    assert fed(["", ""], ["a b", "c"]).compute() == {"exact_match": 0.0, "bleu": 0.0, "length": 0.0}


def corpus(seed: int) -> tuple[list[str], list[str], list[str]]:
    dice = random.Random(seed)
    true = [" ".join(dice.choices("abcd", k=dice.randint(4, 12))) for _ in range(40)]
    said = [
        " ".join(word if dice.random() < 0.8 else "a" for word in one.split()[: dice.randint(4, 12)]) for one in true
    ]
    return said, true, [str(dice.randrange(20)) for _ in true]


def test_the_bootstraps_own_arithmetic_is_that_of_torchmetrics() -> None:
    for seed in range(5):
        said, true, keys = corpus(seed)
        metric = fed(said, true, keys)
        numbers = metric.compute()
        references = [[b for b, key in zip(true, keys, strict=True) if key == mine] for mine in keys]
        assert numbers["bleu"] == pytest.approx(float(bleu_score(said, references)))
        assert numbers == pytest.approx(_weighted(metric._counts(), torch.ones(40, dtype=torch.float64)), rel=1e-5)


def test_intervals_hold_the_number_and_draw_whole_groups() -> None:
    said, true, _ = corpus(0)
    for groups in (None, [str(i // 4) for i in range(40)]):
        metric = fed(said, true, groups=groups)
        for name, (low, high) in metric.intervals().items():
            assert low <= metric.compute()[name] <= high
    assert fed(said, true, groups=["one"] * 40).intervals() == {}


def test_two_that_counted_apart_are_one_that_counted_all() -> None:
    said, true, keys = corpus(1)
    first, second = fed(said[:15], true[:15], keys[:15]), fed(said[15:], true[15:], keys[15:])
    first.take(second)
    assert first.compute() == fed(said, true, keys).compute()
