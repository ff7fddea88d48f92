"""Causal attention against PyTorch's own, and the memory of keys and values against doing without."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.nn.attention import rotate
from kinetext.nn.causal import CausalAttention, CausalTransformer, turned
from kinetext.nn.embedding import rope_3d
from kinetext.types import Features

SIZE = (3, 2, 4)
CELLS = 24


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_text(batch: int = 2) -> Features:
    return Features(torch.randn(batch, 3, 10, generator=rng(9)), torch.tensor([[True, True, False]]).expand(batch, 3))


@pytest.fixture
def network() -> CausalTransformer:
    torch.manual_seed(0)
    made = CausalTransformer(5, SIZE, 10, 24, 2, 2, 0.0)
    with torch.no_grad():  # so that no part of it is near nothing
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return made


def some_ids(batch: int = 2) -> Tensor:
    return torch.randint(5, (batch, *SIZE), generator=rng(1))


def still(width: int, length: int) -> tuple[Tensor, Tensor]:
    """Rotary positions that turn nothing."""
    return torch.ones(2, 1, 1, length, width), torch.zeros(2, 1, 1, length, width)


def test_without_norms_it_is_pytorchs_multi_head_attention() -> None:
    torch.manual_seed(0)
    ours = CausalAttention(8, 2, context_dim=8)
    ours.norm = torch.nn.Identity()  # type: ignore[assignment]
    theirs = torch.nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.out_proj.weight.copy_(ours.out.weight)
        ours.context_kv.weight.copy_(ours.qkv.weight[8:])
    context, x = torch.randn(3, 2, 8), torch.randn(3, 5, 8)
    everything = torch.cat([context, x], 1)
    legal = torch.ones(5, 7, dtype=torch.bool).tril(2)
    expected, _ = theirs(x, everything, everything, attn_mask=~legal)
    torch.testing.assert_close(ours(x, context, legal, still(4, 5)), expected)


def test_queries_and_keys_are_layer_normalised() -> None:
    torch.manual_seed(0)
    attention = CausalAttention(8, 2, context_dim=6)
    x, context = torch.randn(3, 5, 8), torch.randn(3, 2, 6)
    before = attention(x, context, None, still(4, 5))
    with torch.no_grad():  # their length and their mean must not matter
        attention.qkv.weight[:16] *= 7
        attention.context_kv.weight[:8] *= 7
    torch.testing.assert_close(attention(x, context, None, still(4, 5)), before, atol=1e-4, rtol=1e-4)


def test_three_operations_turn_as_the_definition_does() -> None:
    cos, sin = rope_3d(torch.tensor([0, 5, 7]), (2, 2), 12)
    x = torch.randn(2, 3, 12, 12, generator=rng())
    whole = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    torch.testing.assert_close(turned(x, whole), rotate(x, (cos, sin)))


def test_queries_stand_where_they_speak_of_and_keys_where_their_id_is(network: CausalTransformer) -> None:
    frames = torch.tensor([1, 4])
    cos, sin = network._rope(frames, (2, 4))
    x = torch.randn(1, 1, 16, 12, generator=rng())
    plain_cos, plain_sin = rope_3d(frames, (2, 4), 12)
    queries = rotate(x, (plain_cos, plain_sin))
    torch.testing.assert_close(turned(x, (cos[0], sin[0])), queries)
    keys = turned(x, (cos[1], sin[1]))
    before = rotate(x[:, :, 1:], (plain_cos[:-1], plain_sin[:-1]))
    torch.testing.assert_close(keys[:, :, 1:], before)
    start = rotate(x[:, :, :1], rope_3d(torch.tensor([-1]), (1, 1), 12))
    torch.testing.assert_close(keys[:, :, :1], start)


def test_a_later_token_never_changes_an_earlier_logit(network: CausalTransformer) -> None:
    ids, cond = some_ids(1), some_text(1)
    before = network(ids, cond)
    for cell in range(CELLS):
        other = ids.flatten(1).clone()
        other[0, cell] = (other[0, cell] + 1) % 5
        changed = (network(other.view_as(ids), cond) - before).abs().amax(-1)[0]
        assert changed[: cell + 1].max() == 0
        assert (changed[cell + 1 :] > 1e-5).all()


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("first", [0, 1, 7, CELLS - 1])
def test_with_the_memory_of_keys_and_values_or_without(network: CausalTransformer, first: int, absent: bool) -> None:
    """Whether told all at once, or so many first and then one by one, the logits are the same."""
    ids, cond = some_ids(), some_text()
    if absent:
        ids[0, 1, 0, 2] = ids[1, 0, 0, 1] = -1
    flat = ids.flatten(1)
    with torch.no_grad():
        whole = network(ids, cond)
        memory = network.begin(cond, SIZE)
        said = [network.following(flat[:, :first], memory)]
        said += [network.following(flat[:, place : place + 1], memory) for place in range(first, CELLS - 1)]
    torch.testing.assert_close(torch.stack(said, 1), whole[:, first:], atol=1e-5, rtol=1e-5)


def test_nobody_sees_an_absent_token(network: CausalTransformer) -> None:
    """The slot that would hold it has no way to any other logit than its own."""
    ids, absent = some_ids(1), 9
    ids.view(-1)[absent] = -1
    inputs: list[Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs.append(args[0].detach().requires_grad_())
        return inputs[0], *args[1:]

    network.blocks[0].register_forward_pre_hook(keep)
    logits = network(ids, some_text(1))
    reached = [float(torch.autograd.grad(row.sum(), inputs[0], retain_graph=True)[0][0, absent + 1].abs().sum())
               for row in logits[0]]  # fmt: skip
    assert [place for place, size in enumerate(reached) if size > 0] == [absent + 1]


def test_frames_say_where_the_block_stands(network: CausalTransformer) -> None:
    ids, cond = some_ids()[:, :2], some_text()
    first, gap, moved = (network(ids, cond, torch.tensor(frames)) for frames in ([0, 1], [0, 2], [1, 2]))
    torch.testing.assert_close(network(ids, cond), first)
    torch.testing.assert_close(first[:, :8], gap[:, :8])  # the first frame does not know what comes
    assert (first[:, 8:] - gap[:, 8:]).abs().max() > 1e-3
    assert (first[:, 0] - moved[:, 0]).abs().max() > 1e-3


def test_no_text_is_a_text_too(network: CausalTransformer) -> None:
    ids, cond = some_ids(), some_text()
    nothing = Features(torch.full_like(cond.x, float("nan")), torch.zeros_like(cond.mask))
    before = network(ids, nothing)
    assert (before - network(ids, cond)).abs().max() > 1e-3
    with torch.no_grad():
        network.no_text_key.neg_()
    assert (network(ids, nothing) - before).abs().max() > 1e-3


def test_how_far_a_condition_is_padded_does_not_matter(network: CausalTransformer) -> None:
    """A caption must not depend on how long the others of its batch are."""
    ids, cond = some_ids(), some_text()
    longer = Features(F.pad(cond.x, (0, 0, 0, 7), value=float("nan")), F.pad(cond.mask, (0, 7), value=False))
    torch.testing.assert_close(network(ids, longer), network(ids, cond))
    first, again = (network.following(ids.flatten(1)[:, :5], network.begin(one, SIZE)) for one in (cond, longer))
    torch.testing.assert_close(again, first)
    whole = network(ids, cond)
    torch.testing.assert_close(first, whole[:, 5])


def test_half_precision_keeps_its_place(network: CausalTransformer) -> None:
    """Under autocast the memory holds 16 bits a number, and logits are float32 all the same."""
    ids, cond = some_ids(), some_text()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = network(ids, cond).float()
        memory = network.begin(cond, SIZE)
        said = network.following(ids.flatten(1)[:, :5], memory)
        again = network.following(ids.flatten(1)[:, 5:6], memory)
    assert memory.kept[0].k.dtype == torch.bfloat16 and said.dtype == again.dtype == torch.float32
    assert F.cosine_similarity(said, whole[:, 5], dim=-1).min() > 0.995
    assert F.cosine_similarity(again, whole[:, 6], dim=-1).min() > 0.995
