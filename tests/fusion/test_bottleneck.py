"""The bottleneck transformer against eqs. 8-9 written out for a single sample and the modalities it has."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.contracts import check_fusion
from kinetext.fusion.bottleneck import Bottleneck
from kinetext.types import Features, RecipeError

DIMS = {"text": 6, "video": 10}
# both, ragged; text only; video only; both, whole; neither
TEXT = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]]).bool()
VIDEO = torch.tensor([[0, 1], [0, 0], [1, 1], [1, 1], [0, 0]]).bool()


def shaken(**options: int) -> Bottleneck:
    """Off its starting point: norms are not one, learned tokens not small."""
    torch.manual_seed(0)
    made = Bottleneck(**({"dims": DIMS, "dim": 8, "heads": 2, "bottlenecks": 3} | options))  # type: ignore[arg-type]
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return made


def given(text: Tensor = TEXT, video: Tensor = VIDEO) -> dict[str, Features]:
    """Random features with NaN at masked positions."""
    rng = torch.Generator().manual_seed(1)
    made = {}
    for name, mask in (("text", text), ("video", video)):
        x = torch.randn(*mask.shape, DIMS[name], generator=rng)
        made[name] = Features(x.masked_fill(~mask[..., None], torch.nan), mask)
    return made


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def block(made: nn.Module, x: Tensor) -> Tensor:
    """Pre-norm attention, one head at a time, then SwiGLU; ``x (L, D)``."""
    attention = made.attention
    h = rms(x, made.norm1.weight)
    k, v = (h @ attention.kv.weight.T).chunk(2, -1)
    heads = []
    for q_n, k_n, v_n in zip(*(t.chunk(attention.heads, -1) for t in (h @ attention.q.weight.T, k, v)), strict=True):
        q_n, k_n = rms(q_n, attention.q_norm.weight), rms(k_n, attention.k_norm.weight)
        heads.append(F.softmax(q_n @ k_n.T / q_n.shape[-1] ** 0.5, -1) @ v_n)
    x = x + torch.cat(heads, -1) @ attention.out.weight.T
    gate, value = (rms(x, made.norm2.weight) @ made.mlp.up.weight.T).chunk(2, -1)
    return x + (gate * gate.sigmoid() * value) @ made.mlp.down.weight.T


def class_tokens(made: Bottleneck, features: dict[str, Features], row: int) -> dict[str, Tensor]:
    """The final class token of each modality that one sample has, from its real tokens alone."""
    z = {}
    for name, one in features.items():
        if one.mask[row].any():
            real = F.linear(one.x[row][one.mask[row]], made.project[name].weight, made.project[name].bias)
            z[name] = torch.cat([made.class_tokens[name][None], real])
    shared = made.bottlenecks
    for number, layer in enumerate(made.layers):
        if number < made.fusion_layer:
            z = {name: block(layer.blocks[name], x) for name, x in z.items()}
            continue
        both = {name: block(layer.blocks[name], torch.cat([x, shared])) for name, x in z.items()}  # eq. 8
        z = {name: x[: len(z[name])] for name, x in both.items()}
        shared = sum(x[-len(shared) :] for x in both.values()) / len(both)  # eq. 9
    return {name: rms(x[0], made.norm.weight) for name, x in z.items()}


@pytest.mark.parametrize(("depth", "fusion_layer"), [(2, 0), (3, 0), (3, 1)])
def test_logits_are_the_mean_of_those_of_the_class_tokens_there(depth: int, fusion_layer: int) -> None:
    made, features = shaken(depth=depth, fusion_layer=fusion_layer), given()
    head, out = nn.Linear(8, 5), made(features)
    assert out.mask.tolist() == [[True], [True], [True], [True], [False]]
    for row, there in enumerate([2, 1, 1, 2]):
        logits = [head(token) for token in class_tokens(made, features, row).values()]
        assert len(logits) == there
        torch.testing.assert_close(head(out.pooled())[row], sum(logits) / there, atol=1e-5, rtol=1e-4)
    assert (out.x[4] == 0).all()


@pytest.mark.parametrize(("row", "there"), [(1, "text"), (2, "video")])
def test_an_absent_modality_is_as_if_it_had_never_been(row: int, there: str) -> None:
    """Whatever stands in the absent one, however long it is, and whatever its weights are."""
    made, features = shaken().eval(), given()
    alone = class_tokens(made, {there: features[there]}, row)[there]
    torch.testing.assert_close(made(features).x[row, 0], alone, atol=1e-5, rtol=1e-4)
    other = next(name for name in DIMS if name != there)
    features[other] = Features(torch.full((5, 9, DIMS[other]), torch.inf), torch.zeros(5, 9, dtype=torch.bool))
    with torch.no_grad():
        for name, p in made.named_parameters():
            if f".{other}" in name:
                p.normal_()
    torch.testing.assert_close(made(features).x[row, 0], alone, atol=1e-5, rtol=1e-4)


def joint_effect(made: Bottleneck) -> float:
    """How far the result is from a sum of one part a modality: the mixed second difference."""
    yes = torch.ones(1, 2, dtype=torch.bool)
    rng = torch.Generator().manual_seed(2)
    texts, videos = ([torch.randn(1, 2, DIMS[name], generator=rng) for _ in range(2)] for name in DIMS)
    out = [[made({"text": Features(t, yes), "video": Features(v, yes)}).x for v in videos] for t in texts]
    return (out[0][0] - out[0][1] - out[1][0] + out[1][1]).abs().max().item()


def test_modalities_hear_each_other_from_the_second_fusion_layer_on() -> None:
    """Why a single fusion layer is refused: nothing would read what is in the bottleneck."""
    made = shaken(depth=2)
    assert joint_effect(made) > 0.01
    made.fusion_layer = 1
    assert joint_effect(made) < 1e-5


def test_three_modalities() -> None:
    dims = {"a": 4, "b": 5, "c": 6}
    made = shaken(dims=dims)  # type: ignore[arg-type]
    there = {"a": [[True, True], [False, False]], "b": [[True, False], [True, True]], "c": [[True, True]] * 2}
    features = {name: Features(torch.randn(2, 2, dim), torch.tensor(there[name])) for name, dim in dims.items()}
    for row, count in enumerate([3, 2]):
        expected = sum(class_tokens(made, features, row).values()) / count
        torch.testing.assert_close(made(features).x[row, 0], expected, atol=1e-5, rtol=1e-4)


def test_gradients_are_finite_and_stay_away_from_what_is_absent() -> None:
    made = shaken()
    made(given(video=torch.zeros_like(VIDEO))).x.square().sum().backward()
    grads = {name: p.grad for name, p in made.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    silent = {name for name, grad in grads.items() if not grad.any()}
    assert silent == {name for name in grads if ".video" in name}


def test_dropout_only_in_training() -> None:
    made, features = Bottleneck(dims=DIMS, dim=8, dropout=0.5), given()
    assert not torch.equal(made(features).x, made(features).x)
    made.eval()
    assert torch.equal(made(features).x, made(features).x)


def test_half_precision() -> None:
    made, features = shaken().eval(), given()
    with torch.autocast("cpu", torch.bfloat16):
        half = made(features).x.float()
    torch.testing.assert_close(half, made(features).x, atol=0.1, rtol=0.1)


def test_contract() -> None:
    check_fusion(Bottleneck())
    check_fusion(Bottleneck(depth=3, fusion_layer=1, bottlenecks=1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 10}, r"fusion\.dim: 10, expected a multiple of heads = 4"),
        ({"heads": 0}, r"fusion\.heads: 0, expected >= 1"),
        ({"depth": 1}, r"fusion\.depth: 1, expected >= 2"),
        ({"bottlenecks": 0}, r"fusion\.bottlenecks: 0, expected >= 1"),
        ({"fusion_layer": 1}, r"fusion\.fusion_layer: 1, expected 0 to depth - 2 = 0"),
        ({"fusion_layer": -1}, r"fusion\.fusion_layer: -1, expected 0 to depth - 2 = 0"),
        ({"dropout": 1.0}, r"fusion\.dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"dims": {"text": 8}}, "expected at least two modalities"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Bottleneck(**options)  # type: ignore[arg-type]
