"""Attention, norms and rotary positions against PyTorch's own and against their definitions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from kinetext.nn.attention import Attention, rotate, scaled_dot_product
from kinetext.nn.embedding import rope_3d, sinusoidal
from kinetext.nn.norm import RMSNorm


def test_both_ways_of_attending_agree_with_pytorch() -> None:
    q, k, v = torch.randn(3, 2, 4, 5, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    legal = torch.rand(2, 1, 1, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    for mask in (None, legal):
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        torch.testing.assert_close(scaled_dot_product(q, k, v, mask), expected)
        with torch.no_grad():
            torch.testing.assert_close(scaled_dot_product(q, k, v, mask), expected)


def test_one_head_without_norms_is_pytorchs_multi_head_attention() -> None:
    torch.manual_seed(0)
    ours = Attention(8, 2)
    theirs = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    assert ours.kv is not None
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.out_proj.weight.copy_(ours.out.weight)
    ours.q_norm = ours.k_norm = torch.nn.Identity()  # type: ignore[assignment]
    x = torch.randn(3, 6, 8)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask), expected)


def test_masked_positions_change_nothing_and_nothing_to_see_gives_zeros() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, context_dim=6, attend_self=False)
    x, context = torch.randn(2, 3, 8), torch.randn(2, 4, 6)
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    before = attention(x, None, context, mask)
    context[~mask] = float("nan")
    torch.testing.assert_close(attention(x, None, context, mask), before)
    assert before[1].abs().max() == 0


def test_rms_norm_is_pytorchs() -> None:
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    ours, theirs = RMSNorm(7), torch.nn.RMSNorm(7, eps=1e-6)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        theirs.weight.copy_(ours.weight)
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours(x.bfloat16()).dtype == torch.bfloat16


def test_rotary_scores_depend_on_offsets_alone() -> None:
    cos, sin = rope_3d(torch.arange(3), (4, 4), 24)
    q, k = torch.randn(2, 24, generator=torch.Generator().manual_seed(0)).unbind(0)
    at = lambda x, t, h, w: rotate(x[None], (cos[[t * 16 + h * 4 + w]], sin[[t * 16 + h * 4 + w]]))[0]  # noqa: E731
    torch.testing.assert_close(at(q, 0, 1, 2) @ at(k, 1, 0, 3), at(q, 1, 2, 0) @ at(k, 2, 1, 1))
    assert not torch.allclose(at(q, 0, 0, 0) @ at(k, 1, 0, 0), at(q, 0, 0, 0) @ at(k, 0, 1, 0))
    torch.testing.assert_close(at(q, 2, 3, 1).norm(), q.norm())


def test_sinusoidal_has_the_papers_values() -> None:
    row = sinusoidal(torch.tensor([3.0]), 4)[0]
    expected = torch.tensor([3.0, 3.0 / 100.0])
    torch.testing.assert_close(row, torch.cat([expected.cos(), expected.sin()]))
