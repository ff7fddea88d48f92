"""Late fusion, by hand, and against the weighted logits of separate linear classifiers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from kinetext.contracts import check_fusion
from kinetext.fusion.late import Late
from kinetext.types import Features, RecipeError

DIMS = {"text": 3, "video": 2}


def given() -> dict[str, Features]:
    """Both, text only, video only, neither; ragged, with NaN at masked positions."""
    rng = torch.Generator().manual_seed(1)
    masks = {
        "text": torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0], [0, 0, 0]]).bool(),
        "video": torch.tensor([[0, 1], [0, 0], [1, 1], [0, 0]]).bool(),
    }
    x = {name: torch.randn(4, mask.shape[1], DIMS[name], generator=rng) for name, mask in masks.items()}
    return {name: Features(x[name].masked_fill(~mask[..., None], torch.nan), mask) for name, mask in masks.items()}


def pooled(features: dict[str, Features], name: str, row: int) -> Tensor:
    one = features[name]
    return one.x[row][one.mask[row]].mean(0)


def weighted(made: Late, weights: dict[str, float]) -> Late:
    with torch.no_grad():
        for name, weight in weights.items():
            made.weights[name].fill_(weight)
    return made


def test_worked_numbers() -> None:
    """Weights 3 : 1 (log 3 against 0): 0.75 (2 t + 0.5) + 0.25 (v0 - v1 - 1), and each alone."""
    made = weighted(Late(dims={"text": 1, "video": 2}, dim=1), {"text": math.log(3), "video": 0.0})
    values = {
        "project.text.weight": [[2.0]], "project.text.bias": [0.5],
        "project.video.weight": [[1.0, -1.0]], "project.video.bias": [-1.0],
    }  # fmt: skip
    made.load_state_dict(made.state_dict() | {name: torch.tensor(value) for name, value in values.items()})
    text = Features(
        torch.tensor([[[0.1], [0.5], [9.0]]]).repeat(4, 1, 1),
        torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]).bool(),
    )
    video = Features(torch.tensor([[[1.0, 0.4]]]).repeat(4, 1, 1), torch.tensor([[1], [0], [1], [0]]).bool())
    out = made({"text": text, "video": video})
    torch.testing.assert_close(out.x.flatten(), torch.tensor([0.75 * 1.1 + 0.25 * -0.4, 1.1, -0.4, 0.0]))
    assert out.mask.flatten().tolist() == [True, True, True, False]


def test_one_head_gives_the_weighted_logits_of_a_head_a_modality() -> None:
    """From fusion and head to classifiers: V_m = W P_m, b_m = W c_m + b."""
    torch.manual_seed(0)
    made, head, features = weighted(Late(dims=DIMS, dim=6), {"text": 0.7, "video": -0.4}), nn.Linear(6, 5), given()
    share = 1 / (1 + math.exp(-0.4 - 0.7))
    logits = {}
    for name, project in made.project.items():
        v, b = head.weight @ project.weight, head.weight @ project.bias + head.bias
        logits[name] = {row: v @ pooled(features, name, row) + b for row in range(3) if features[name].mask[row].any()}
    out = head(made(features).pooled())
    torch.testing.assert_close(out[0], share * logits["text"][0] + (1 - share) * logits["video"][0])
    torch.testing.assert_close(out[1], logits["text"][1])
    torch.testing.assert_close(out[2], logits["video"][2])


def test_any_classifiers_can_be_had_with_as_many_dimensions_as_classes() -> None:
    """From classifiers to fusion and head, by the choice that the docstring names."""
    torch.manual_seed(0)
    classes, dim, features = 4, 6, given()
    made, head = weighted(Late(dims=DIMS, dim=dim), {"text": 0.7, "video": -0.4}), nn.Linear(dim, classes)
    alone = {name: nn.Linear(width, classes) for name, width in DIMS.items()}
    with torch.no_grad():
        head.weight.copy_(torch.eye(classes, dim))
        head.bias.zero_()
        for name, one in alone.items():
            made.project[name].weight.zero_()[:classes] = one.weight
            made.project[name].bias.zero_()[:classes] = one.bias
    text, video = (alone[name](pooled(features, name, 0)) for name in DIMS)
    a = math.exp(0.7) / (math.exp(0.7) + math.exp(-0.4))
    torch.testing.assert_close(head(made(features).pooled())[0], a * text + (1 - a) * video)
    torch.testing.assert_close(head(made(features).pooled())[1], alone["text"](pooled(features, "text", 1)))


def test_with_fewer_dimensions_than_classes_the_classifiers_share_them() -> None:
    torch.manual_seed(0)
    made, head = Late(dims=DIMS, dim=2), nn.Linear(2, 4)
    together = torch.cat([head.weight @ project.weight for project in made.project.values()], dim=1)
    assert together.shape == (4, 5)
    assert torch.linalg.matrix_rank(together) == 2


@pytest.mark.parametrize("weight", [-30.0, 0.0, 200.0])
def test_alone_a_modality_counts_whole_whatever_its_weight(weight: float) -> None:
    torch.manual_seed(0)
    made, features = weighted(Late(dims=DIMS, dim=4), {"text": weight}), given()
    out = made(features).x[:, 0]
    torch.testing.assert_close(out[1], made.project["text"](pooled(features, "text", 1)))
    torch.testing.assert_close(out[2], made.project["video"](pooled(features, "video", 2)))
    assert (out[3] == 0).all()


def test_three_modalities_are_weighted_among_those_there() -> None:
    torch.manual_seed(0)
    made = weighted(Late(dims={"a": 1, "b": 1, "c": 1}, dim=2), {"a": math.log(5), "b": math.log(3), "c": math.log(2)})
    x, yes, no = torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    says = {name: made.project[name](x[0, 0]) for name in "abc"}
    everything = made({name: Features(x, yes) for name in "abc"}).x[0, 0]
    torch.testing.assert_close(everything, 0.5 * says["a"] + 0.3 * says["b"] + 0.2 * says["c"])
    without_a = made({"a": Features(x, no), "b": Features(x, yes), "c": Features(x, yes)}).x[0, 0]
    torch.testing.assert_close(without_a, 0.6 * says["b"] + 0.4 * says["c"])


def test_gradients_are_finite_and_weights_learn_from_rows_with_both_only() -> None:
    torch.manual_seed(0)
    made = Late(dims=DIMS, dim=4)
    made(given()).x.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in made.parameters())
    made.zero_grad()
    made({name: Features(f.x[1:], f.mask[1:]) for name, f in given().items()}).x.square().sum().backward()
    assert not any(p.grad.any() for p in made.weights.values())
    assert all(p.grad is not None and p.grad.any() for p in made.project.parameters())


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    made = weighted(Late(dims=DIMS, dim=2).double(), {"text": 0.7, "video": -0.4})
    masks = {name: f.mask for name, f in given().items()}

    def run(text: Tensor, video: Tensor, *_: Tensor) -> Tensor:
        return made({"text": Features(text, masks["text"]), "video": Features(video, masks["video"])}).x

    inputs = [torch.randn(*masks[name].shape, DIMS[name], dtype=torch.double, requires_grad=True) for name in DIMS]
    assert torch.autograd.gradcheck(run, [*inputs, *made.weights.values()])


def test_dropout_only_in_training() -> None:
    made, features = Late(dims=DIMS, dim=8, dropout=0.5), given()
    assert not torch.equal(made(features).x, made(features).x)
    made.eval()
    assert torch.equal(made(features).x, made(features).x)


def test_half_precision() -> None:
    torch.manual_seed(0)
    made, features = Late(dims=DIMS, dim=8), given()
    with torch.autocast("cpu", torch.bfloat16):
        half = made(features).x.float()
    torch.testing.assert_close(half, made(features).x, atol=0.02, rtol=0.02)


def test_contract() -> None:
    check_fusion(Late())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 0}, r"fusion\.dim: 0, expected >= 1"),
        ({"dropout": 1.0}, r"fusion\.dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"dims": {"text": 8}}, "expected at least two modalities"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Late(**options)  # type: ignore[arg-type]
