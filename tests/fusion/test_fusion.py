"""What every fusion owes: absent modalities, masks, gradients, state."""

from __future__ import annotations

import pytest
import torch

from kinetext.fusion import REGISTRY
from kinetext.interfaces import Fusion
from kinetext.types import Features

NAMES = sorted(REGISTRY)


def fusion(name: str) -> Fusion:
    torch.manual_seed(0)
    made: Fusion = REGISTRY[name](dims={"text": 6, "video": 10}, dim=8)
    with torch.no_grad():  # off zero, so that nothing is equal by chance
        for p in made.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    return made.eval()


def given() -> dict[str, Features]:
    """Four samples: both, text only, video only, neither; ragged masks."""
    rng = torch.Generator().manual_seed(1)
    text = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]).bool()
    video = torch.tensor([[1, 1], [0, 0], [0, 1], [0, 0]]).bool()
    return {
        "text": Features(torch.randn(4, 3, 6, generator=rng), text),
        "video": Features(torch.randn(4, 2, 10, generator=rng), video),
    }


@pytest.mark.parametrize("name", NAMES)
def test_one_vector_a_sample_masked_where_nothing_is_there(name: str) -> None:
    out = fusion(name)(given())
    assert out.x.shape == (4, 1, 8)
    assert out.mask.squeeze(1).tolist() == [True, True, True, False]
    assert (out.x[3] == 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("garbage", [7.0, float("nan"), float("inf")])
def test_what_stands_at_masked_positions_changes_nothing(name: str, garbage: float) -> None:
    results = []
    for dirty in (False, True):
        features = given()
        if dirty:
            features = {
                k: Features(f.x.masked_fill(~f.mask.unsqueeze(-1), garbage), f.mask) for k, f in features.items()
            }
        made = fusion(name)
        out = made(features).x
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in made.parameters())])
    for clean, other in zip(*results, strict=True):
        assert clean is not None
        assert torch.equal(clean, other)


@pytest.mark.parametrize("name", NAMES)
def test_longer_padding_changes_nothing(name: str) -> None:
    short = given()
    padded = {
        k: Features(torch.cat([f.x, torch.ones_like(f.x)], 1), torch.cat([f.mask, torch.zeros_like(f.mask)], 1))
        for k, f in short.items()
    }
    torch.testing.assert_close(fusion(name)(padded).x, fusion(name)(short).x)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("modality", ["text", "video"])
def test_each_modality_matters_where_it_is_there(name: str, modality: str) -> None:
    before, features = fusion(name)(given()).x, given()
    features[modality] = Features(features[modality].x + 1.0, features[modality].mask)
    changed = (fusion(name)(features).x - before).abs().amax((1, 2)) > 1e-4
    assert changed.tolist() == features[modality].mask.any(1).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_independent_of_its_batch(name: str) -> None:
    features = given()
    one = {k: Features(f.x[1:2], f.mask[1:2]) for k, f in features.items()}
    torch.testing.assert_close(fusion(name)(features).x[1:2], fusion(name)(one).x)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name: str) -> None:
    made = fusion(name)
    made(given()).x.square().sum().backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_round_trip(name: str) -> None:
    other: Fusion = REGISTRY[name](dims={"text": 6, "video": 10}, dim=8).eval()
    other.load_state_dict(fusion(name).state_dict())
    assert torch.equal(other(given()).x, fusion(name)(given()).x)


@pytest.mark.parametrize("name", NAMES)
def test_toy_defaults_build(name: str) -> None:
    made: Fusion = REGISTRY[name]()
    ones = torch.ones(1, 1, dtype=torch.bool)
    out = made({"text": Features(torch.ones(1, 1, 32), ones), "video": Features(torch.ones(1, 1, 32), ones)})
    assert out.x.shape == (1, 1, made.dim)
