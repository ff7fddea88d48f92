"""The gated multimodal unit, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from kinetext.contracts import check_fusion
from kinetext.fusion.gated import Gated
from kinetext.types import Features, RecipeError

DIMS = {"text": 3, "video": 2}


def by_hand() -> Gated:
    """dim 1: h_v = tanh(v0 - v1), h_t = tanh(2 t), z = sigmoid(v0 + 3 v1 - 4 t)."""
    made = Gated(dims={"text": 1, "video": 2}, dim=1)
    values = {"project.text.weight": [[2.0]], "project.video.weight": [[1.0, -1.0]], "gate.weight": [[1.0, 3.0, -4.0]]}
    made.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return made


def given() -> dict[str, Features]:
    """Both, text only, video only, neither; ragged, with NaN at masked positions."""
    rng = torch.Generator().manual_seed(1)
    masks = {
        "text": torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]]).bool(),
        "video": torch.tensor([[0, 1], [0, 0], [1, 1], [0, 0]]).bool(),
    }
    x = {name: torch.randn(4, mask.shape[1], DIMS[name], generator=rng) for name, mask in masks.items()}
    return {n: Features(x[n].masked_fill(~mask[..., None], torch.nan), mask) for n, mask in masks.items()}


def test_worked_numbers() -> None:
    """Text is 0.2, the mean of 0.1 and 0.3; video is (1.0, 0.4)."""
    text = Features(
        torch.tensor([[[0.1], [0.3], [9.0]]]).repeat(4, 1, 1),
        torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]).bool(),
    )
    video = Features(torch.tensor([[[1.0, 0.4]]]).repeat(4, 1, 1), torch.tensor([[1], [0], [1], [0]]).bool())
    h_t, h_v, z = math.tanh(0.4), math.tanh(0.6), 1 / (1 + math.exp(-(1.0 + 1.2 - 0.8)))
    out = by_hand()({"text": text, "video": video})
    torch.testing.assert_close(out.x.flatten(), torch.tensor([z * h_v + (1 - z) * h_t, h_t, h_v, 0.0]))
    assert out.mask.flatten().tolist() == [True, True, True, False]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_equals_the_unit_written_out_number_by_number() -> None:
    torch.manual_seed(0)
    made, features = Gated(dims=DIMS, dim=4), given()
    w_t, w_v, w_z = (m.weight.tolist() for m in (made.project["text"], made.project["video"], made.gate))
    x_t = features["text"].x[0, :2].mean(0).tolist()
    x_v = features["video"].x[0, 1].tolist()
    expected = []
    for row_t, row_v, row_z in zip(w_t, w_v, w_z, strict=True):
        h_t, h_v = math.tanh(dot(row_t, x_t)), math.tanh(dot(row_v, x_v))
        z = 1 / (1 + math.exp(-dot(row_z, [*x_v, *x_t])))
        expected.append(z * h_v + (1 - z) * h_t)
    torch.testing.assert_close(made(features).x[0, 0], torch.tensor(expected))


def test_alone_a_modality_passes_whole_whatever_the_gate_says() -> None:
    torch.manual_seed(0)
    made, features = Gated(dims=DIMS, dim=4), given()
    for scale in (1.0, -100.0, 100.0):
        with torch.no_grad():
            made.gate.weight.copy_(scale * torch.ones(4, 5))
        out = made(features).x[:, 0]
        text = torch.tanh(made.project["text"].weight @ features["text"].x[1, 1:].mean(0))
        video = torch.tanh(made.project["video"].weight @ features["video"].x[2].mean(0))
        torch.testing.assert_close(out[1], text)
        torch.testing.assert_close(out[2], video)
        assert (out[3] == 0).all()


def test_the_order_in_which_modalities_are_named_means_nothing() -> None:
    torch.manual_seed(0)
    made, features = Gated(dims=DIMS, dim=4), given()
    other = Gated(dims=dict(reversed(DIMS.items())), dim=4)
    other.load_state_dict(made.state_dict())
    assert list(other.state_dict()) == list(made.state_dict())
    assert torch.equal(other(dict(reversed(features.items()))).x, made(features).x)


def test_gradients_are_finite_and_the_gate_learns_from_rows_with_both_only() -> None:
    made = Gated(dims=DIMS, dim=4)
    made(given()).x.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())
    made.zero_grad()
    made({name: Features(f.x[1:], f.mask[1:]) for name, f in given().items()}).x.square().sum().backward()
    assert made.gate.weight.grad is not None
    assert not made.gate.weight.grad.any()
    assert all(p.grad is not None and p.grad.any() for p in made.project.parameters())


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    made = Gated(dims=DIMS, dim=2).double()
    masks = {name: f.mask for name, f in given().items()}

    def run(text: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
        return made({"text": Features(text, masks["text"]), "video": Features(video, masks["video"])}).x

    inputs = [torch.randn(*masks[name].shape, DIMS[name], dtype=torch.double, requires_grad=True) for name in DIMS]
    assert torch.autograd.gradcheck(run, inputs)


def test_dropout_only_in_training() -> None:
    made, features = Gated(dims=DIMS, dim=8, dropout=0.5), given()
    assert not torch.equal(made(features).x, made(features).x)
    made.eval()
    assert torch.equal(made(features).x, made(features).x)


def test_half_precision() -> None:
    torch.manual_seed(0)
    made, features = Gated(dims=DIMS, dim=8), given()
    with torch.autocast("cpu", torch.bfloat16):
        half = made(features).x.float()
    torch.testing.assert_close(half, made(features).x, atol=0.02, rtol=0.02)


def test_contract() -> None:
    check_fusion(Gated())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 0}, r"fusion\.dim: 0, expected >= 1"),
        ({"dropout": 1.0}, r"fusion\.dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"dims": {"text": 8}}, r"a gate between \['text'\], expected two modalities"),
        ({"dims": {"a": 8, "b": 8, "c": 8}}, "expected two modalities"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Gated(**options)  # type: ignore[arg-type]
