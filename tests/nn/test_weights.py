"""Weights from files: strict, and every complaint names its keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from kinetext.nn.weights import load_strictly, read_file
from kinetext.types import RecipeError


def test_both_formats_and_wrapped_states_are_read(tmp_path: Path) -> None:
    state = {k: v.detach().clone() for k, v in nn.Linear(2, 3).state_dict().items()}
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c.pt")
    for name in ("a.safetensors", "b.pth", "c.pt"):
        found = read_file("weights", tmp_path / name)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize("content", [b"", b"not weights", None])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "w.pth"
    if content is None:
        torch.save([1, 2, 3], path)
    else:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"encoders.video.weights: .*w\.pth"):
        read_file("encoders.video.weights", path)
    with pytest.raises(RecipeError, match="no file"):
        read_file("encoders.video.weights", tmp_path / "none.pth")


def test_every_misfit_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    weights = dict(module.state_dict())
    weights["extra"] = weights.pop("0.bias")
    weights["1.weight"] = torch.zeros(5, 3)
    with pytest.raises(RecipeError) as error:
        load_strictly("weights", module, weights)
    message = str(error.value)
    assert "1 keys missing: 0.bias" in message
    assert "1 keys unexpected: extra" in message
    assert "1.weight (5, 3), expected (1, 3)" in message


def test_fitting_weights_are_loaded() -> None:
    source, module = nn.Linear(2, 3), nn.Linear(2, 3)
    load_strictly("weights", module, source.state_dict())
    assert torch.equal(module.weight, source.weight)
