"""Cross-modal attention against torch's own multi-head attention on the same weights, and by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.fusion.attention import Attention
from kinetext.types import Features, RecipeError


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def reference(made: Attention, own: str, other: str, h: dict[str, Tensor]) -> Tensor:
    """One head at a time, one query at a time: softmax(q k / sqrt(E)) v with normalised q and k."""
    block = made.attend[own]
    q = F.linear(rms(h[own]), block.q.weight)
    k, v = F.linear(rms(h[other]), block.context_kv.weight).chunk(2, -1)
    heads = []
    for q_n, k_n, v_n in zip(*(t.chunk(2, -1) for t in (q, k, v)), strict=True):
        weight = (rms(q_n) @ rms(k_n).transpose(-1, -2) / q_n.shape[-1] ** 0.5).softmax(-1)
        heads.append(weight @ v_n)
    return h[own] + F.linear(torch.cat(heads, -1), block.out.weight)


def features() -> dict[str, Features]:
    rng = torch.Generator().manual_seed(2)
    sizes = {"text": (3, 6), "video": (2, 10)}
    return {
        name: Features(torch.randn(2, n, d, generator=rng), torch.ones(2, n, dtype=torch.bool))
        for name, (n, d) in sizes.items()
    }


def test_equals_cross_modal_attention_written_out() -> None:
    torch.manual_seed(0)
    made, given = Attention(dims={"text": 6, "video": 10}, dim=8, heads=2), features()
    h = {name: made.project[name](f.x) for name, f in given.items()}
    text = rms(reference(made, "text", "video", h)).mean(1)
    video = rms(reference(made, "video", "text", h)).mean(1)
    torch.testing.assert_close(made(given).x.squeeze(1), made.join(torch.cat([text, video], -1)))


def test_without_the_other_a_modality_stays_what_it_was() -> None:
    torch.manual_seed(0)
    made, given = Attention(dims={"text": 6, "video": 10}, dim=8, heads=2), features()
    torch.nn.init.normal_(made.absent["video"])
    given["video"] = Features(given["video"].x, torch.zeros(2, 2, dtype=torch.bool))
    alone = rms(made.project["text"](given["text"].x)).mean(1)
    expected = made.join(torch.cat([alone, made.absent["video"].expand(2, -1)], -1))
    torch.testing.assert_close(made(given).x.squeeze(1), expected)


def test_three_modalities_each_see_both_others() -> None:
    torch.manual_seed(0)
    made = Attention(dims={"a": 4, "b": 4, "c": 4}, dim=8, heads=2)
    given = {n: Features(torch.randn(1, 2, 4), torch.ones(1, 2, dtype=torch.bool)) for n in "abc"}
    h = {name: made.project[name](f.x) for name, f in given.items()}
    parts = []
    for own in "abc":
        others = torch.cat([h[other] for other in "abc" if other != own], 1)
        parts.append(rms(reference(made, own, "others", {own: h[own], "others": others})).mean(1))
    torch.testing.assert_close(made(given).x.squeeze(1), made.join(torch.cat(parts, -1)))


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(RecipeError, match=r"fusion\.dim: 10, expected a multiple of heads = 4"):
        Attention(dim=10)
    with pytest.raises(RecipeError, match="expected at least two modalities"):
        Attention(dims={"text": 8})
    with pytest.raises(RecipeError, match=r"fusion\.dropout: -0\.1, expected"):
        Attention(dropout=-0.1)
