"""Projected concatenation, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from kinetext.fusion.concat import Concat
from kinetext.types import Features, RecipeError


def by_hand() -> Concat:
    """dim 1: tanh(2 t) and tanh(v0 - v1) joined as 3 a - 5 b + 0.5; absent: 0.25 and -0.75."""
    made = Concat(dims={"text": 1, "video": 2}, dim=1)
    values = {
        "project.text.weight": [[2.0]], "project.text.bias": [0.0],
        "project.video.weight": [[1.0, -1.0]], "project.video.bias": [0.0],
        "absent.text": [0.25], "absent.video": [-0.75],
        "join.weight": [[3.0, -5.0]], "join.bias": [0.5],
    }  # fmt: skip
    made.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return made


def test_worked_numbers() -> None:
    text = Features(
        torch.tensor([[[0.1], [0.5], [9.0]]]).repeat(3, 1, 1), torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0]]).bool()
    )
    video = Features(torch.tensor([[[1.0, 0.4]]]).repeat(3, 1, 1), torch.tensor([[1], [0], [1]]).bool())
    a, b = math.tanh(2 * 0.3), math.tanh(0.6)
    expected = [3 * a - 5 * b + 0.5, 3 * a - 5 * -0.75 + 0.5, 3 * 0.25 - 5 * b + 0.5]
    out = by_hand()({"text": text, "video": video})
    torch.testing.assert_close(out.x.flatten(), torch.tensor(expected))


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(RecipeError, match=r"fusion\.dim: 0, expected >= 1"):
        Concat(dim=0)
    with pytest.raises(RecipeError, match=r"fusion\.dropout: 1\.0, expected"):
        Concat(dropout=1.0)
