"""The joint transformer against one written out for a single sample, over the tokens that are really there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.contracts import check_fusion
from kinetext.fusion.joint_attention import JointAttention
from kinetext.types import Features, RecipeError

DIMS = {"text": 6, "video": 10}
# both, ragged; text only; video only; both, whole; neither
TEXT = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]]).bool()
VIDEO = torch.tensor([[0, 1], [0, 0], [1, 1], [1, 1], [0, 0]]).bool()


def shaken(**options: int) -> JointAttention:
    """Off its starting point: norms are not one, learned tokens not small."""
    torch.manual_seed(0)
    made = JointAttention(**({"dims": DIMS, "dim": 8, "heads": 2, "depth": 2} | options))  # type: ignore[arg-type]
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    return made


def given(masks: dict[str, Tensor]) -> dict[str, Features]:
    """Random features with NaN at masked positions."""
    rng = torch.Generator().manual_seed(1)
    x = {name: torch.randn(*mask.shape, DIMS[name], generator=rng) for name, mask in masks.items()}
    return {name: Features(x[name].masked_fill(~mask[..., None], torch.nan), mask) for name, mask in masks.items()}


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def block(made: nn.Module, x: Tensor) -> Tensor:
    """Pre-norm attention, one head and one query at a time, then SwiGLU; ``x (L, D)``."""
    attention = made.attention
    h = rms(x, made.norm1.weight)
    k, v = (h @ attention.kv.weight.T).chunk(2, -1)
    heads = []
    for q_n, k_n, v_n in zip(*(t.chunk(attention.heads, -1) for t in (h @ attention.q.weight.T, k, v)), strict=True):
        q_n, k_n = rms(q_n, attention.q_norm.weight), rms(k_n, attention.k_norm.weight)
        heads.append(torch.stack([F.softmax(k_n @ q / len(q) ** 0.5, 0) @ v_n for q in q_n]))
    x = x + torch.cat(heads, -1) @ attention.out.weight.T
    gate, value = (rms(x, made.norm2.weight) @ made.mlp.up.weight.T).chunk(2, -1)
    return x + (gate * gate.sigmoid() * value) @ made.mlp.down.weight.T


def reference(made: JointAttention, features: dict[str, Features], row: int) -> Tensor:
    """The class token after a transformer over nothing but the real tokens of one sample."""
    tokens = [made.class_token[None]]
    for name, one in features.items():
        real = one.x[row][one.mask[row]]
        tokens.append(real @ made.project[name].weight.T + made.modality[name])
    x = torch.cat(tokens)
    for each in made.blocks:
        x = block(each, x)
    return rms(x[0], made.norm.weight)


def test_every_sample_equals_a_transformer_over_the_tokens_it_has() -> None:
    made, features = shaken(), given({"text": TEXT, "video": VIDEO})
    out = made(features)
    assert out.mask.tolist() == [[True], [True], [True], [True], [False]]
    for row in range(4):
        torch.testing.assert_close(out.x[row, 0], reference(made, features, row), atol=1e-5, rtol=1e-4)
    assert (out.x[4] == 0).all()


@pytest.mark.parametrize(("row", "there"), [(1, "text"), (2, "video")])
def test_an_absent_modality_is_as_if_it_had_never_been(row: int, there: str) -> None:
    """Whatever stands in the absent one, and however long it is."""
    made = shaken().eval()
    features = given({"text": TEXT, "video": VIDEO})
    alone = {there: features[there]}
    torch.testing.assert_close(made(features).x[row, 0], reference(made, alone, row), atol=1e-5, rtol=1e-4)
    other = next(name for name in DIMS if name != there)
    longer = Features(torch.full((5, 9, DIMS[other]), torch.inf), torch.zeros(5, 9, dtype=torch.bool))
    torch.testing.assert_close(made({there: features[there], other: longer}).x[row], made(features).x[row])


def test_the_vector_of_a_modality_tells_equal_tokens_apart() -> None:
    torch.manual_seed(0)
    made = JointAttention(dims={"text": 4, "video": 4}, dim=8, heads=2)
    x, yes, no = torch.randn(1, 2, 4), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    made.project["video"].load_state_dict(made.project["text"].state_dict())
    as_text = made({"text": Features(x, yes), "video": Features(x, no)}).x
    as_video = made({"text": Features(x, no), "video": Features(x, yes)}).x
    assert (as_text - as_video).abs().max() > 1e-3
    with torch.no_grad():
        made.modality["video"].copy_(made.modality["text"])
    torch.testing.assert_close(made({"text": Features(x, no), "video": Features(x, yes)}).x, as_text)


def test_three_modalities() -> None:
    made = shaken(dims={"a": 4, "b": 5, "c": 6})  # type: ignore[arg-type]
    made.double()
    features = {
        n: Features(torch.randn(1, 2, d).double(), torch.ones(1, 2).bool())
        for n, d in zip("abc", (4, 5, 6), strict=True)
    }
    torch.testing.assert_close(made(features).x[0, 0], reference(made, features, 0))


def test_gradients_are_finite_and_stay_away_from_what_is_absent() -> None:
    made = shaken()
    features = given({"text": TEXT, "video": torch.zeros_like(VIDEO)})
    made(features).x.square().sum().backward()
    grads = {name: p.grad for name, p in made.named_parameters()}
    assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
    silent = {name for name, grad in grads.items() if not grad.any()}
    assert silent == {"project.video.weight", "modality.video"}


def test_dropout_only_in_training() -> None:
    made, features = JointAttention(dims=DIMS, dim=8, dropout=0.5), given({"text": TEXT, "video": VIDEO})
    assert not torch.equal(made(features).x, made(features).x)
    made.eval()
    assert torch.equal(made(features).x, made(features).x)


def test_half_precision() -> None:
    made, features = shaken().eval(), given({"text": TEXT, "video": VIDEO})
    with torch.autocast("cpu", torch.bfloat16):
        half = made(features).x.float()
    torch.testing.assert_close(half, made(features).x, atol=0.1, rtol=0.1)


def test_contract() -> None:
    check_fusion(JointAttention())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 10}, r"fusion\.dim: 10, expected a multiple of heads = 4"),
        ({"dim": 0}, r"fusion\.dim: 0, expected a multiple of heads = 4"),
        ({"heads": 0}, r"fusion\.heads: 0, expected >= 1"),
        ({"depth": 0}, r"fusion\.depth: 0, expected >= 1"),
        ({"dropout": 1.0}, r"fusion\.dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"dims": {"text": 8}}, "expected at least two modalities"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        JointAttention(**options)  # type: ignore[arg-type]
