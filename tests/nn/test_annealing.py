"""The weight that counts its own calls."""

from __future__ import annotations

import copy

import pytest
import torch

from kinetext.nn.annealing import Ramp


def test_it_rises_to_one_in_training_and_is_one_in_evaluation() -> None:
    ramp = Ramp(4)
    assert [float(ramp()) for _ in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    ramp = Ramp(4)
    assert float(ramp()) == 0.25
    ramp.eval()
    assert [float(ramp()) for _ in range(3)] == [1.0, 1.0, 1.0]
    assert float(ramp.train()()) == 0.5  # evaluation counted nothing


@pytest.mark.parametrize("calls", [0, 1])
def test_no_calls_is_one_from_the_beginning(calls: int) -> None:
    ramp = Ramp(calls)
    assert float(ramp()) == 1.0


def test_the_count_travels_with_the_weights() -> None:
    ramp = Ramp(10)
    for _ in range(3):
        ramp()
    other = Ramp(10)
    other.load_state_dict(copy.deepcopy(ramp.state_dict()))
    assert float(other()) == float(ramp()) == pytest.approx(0.4)
    assert ramp.calls_so_far.dtype == torch.int64
