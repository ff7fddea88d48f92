"""The recurrent text encoder: its equations, its ways, its masks."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from kinetext.contracts import check_encoder
from kinetext.encoders.lstm import LSTM
from kinetext.types import RecipeError

Pooling = Literal["none", "last", "mean", "max"]
POOLINGS: tuple[Pooling, ...] = ("none", "last", "mean", "max")
LENGTHS = (5, 2, 0, 1)


def small(pooling: Pooling = "none", *, depth: int = 1, bidirectional: bool = True, dropout: float = 0.0) -> LSTM:
    torch.manual_seed(0)
    return LSTM(vocab=20, dim=6, depth=depth, bidirectional=bidirectional, pooling=pooling, dropout=dropout).eval()


def texts() -> tuple[Tensor, Tensor]:
    x = torch.randint(20, (len(LENGTHS), 5), generator=torch.Generator().manual_seed(1))
    return x, torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def by_hand(tokens: Tensor, encoder: LSTM, way: str) -> Tensor:
    """One text ``(L,)`` through the one layer, step by step: Hochreiter & Schmidhuber's cell with a forget gate."""
    layer = encoder.layers
    w, u = getattr(layer, f"weight_ih_l0{way}"), getattr(layer, f"weight_hh_l0{way}")
    bias = getattr(layer, f"bias_ih_l0{way}") + getattr(layer, f"bias_hh_l0{way}")
    h = c = torch.zeros(u.shape[1])
    states = []
    for e in encoder.embedding.weight[tokens]:
        a_i, a_f, a_g, a_o = (w @ e + u @ h + bias).split(len(h))
        c = c / (1 + (-a_f).exp()) + a_g.tanh() / (1 + (-a_i).exp())
        h = c.tanh() / (1 + (-a_o).exp())
        states.append(h)
    return torch.stack(states)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_equations(bidirectional: bool) -> None:
    """The way back reads a text's last real token first, whatever the longest text of the batch is."""
    encoder, (x, mask) = small(bidirectional=bidirectional), texts()
    found = encoder(x, mask).x
    last = small("last", bidirectional=bidirectional)(x, mask).x
    for row, length in enumerate(LENGTHS):
        if length:
            expected = by_hand(x[row, :length], encoder, "")
            end = expected[-1]
            if bidirectional:
                back = by_hand(x[row, :length].flip(0), encoder, "_reverse")
                expected, end = torch.cat([expected, back.flip(0)], 1), torch.cat([end, back[-1]])
            torch.testing.assert_close(found[row, :length], expected)
            torch.testing.assert_close(last[row, 0], end)
        assert (found[row, length:] == 0).all()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_batch_equals_torchs_lstm_on_each_text_alone(depth: int, bidirectional: bool) -> None:
    x, mask = texts()
    torch.manual_seed(0)
    other = nn.LSTM(6, 3 if bidirectional else 6, depth, batch_first=True, bidirectional=bidirectional)
    found = {}
    for pooling in POOLINGS:
        encoder = small(pooling, depth=depth, bidirectional=bidirectional)
        encoder.layers.load_state_dict(other.state_dict())
        features = encoder(x, mask)
        assert torch.equal(features.mask, mask if pooling == "none" else mask.any(1, keepdim=True))
        found[pooling] = features.x
    for row, length in enumerate(LENGTHS):
        if not length:
            assert all((h[row] == 0).all() for h in found.values())
            continue
        states, (last, _) = other(encoder.embedding.weight[x[row : row + 1, :length]])
        torch.testing.assert_close(found["none"][row, :length], states[0])
        torch.testing.assert_close(found["mean"][row, 0], states[0].mean(0))
        torch.testing.assert_close(found["max"][row, 0], states[0].max(0).values)
        end = torch.cat([last[-2, 0], last[-1, 0]]) if bidirectional else last[-1, 0]
        torch.testing.assert_close(found["last"][row, 0], end)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_masked_tokens_change_nothing_forward_or_backward(pooling: Pooling) -> None:
    x, mask = texts()
    results = []
    for tokens in (x, torch.where(mask, x, -99)):
        encoder = small(pooling).train()
        features = encoder(tokens, mask)
        features.x.square().sum().backward()
        results.append([features.x.detach(), *(p.grad for p in encoder.parameters())])
    for clean, other in zip(*results, strict=True):
        assert clean is not None
        assert torch.equal(clean, other)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_holes_and_padding_in_front_are_not_read(pooling: Pooling) -> None:
    """Three tokens scattered over six places are the text of these three."""
    tokens = torch.tensor([[7, 11, 3]])
    scattered = torch.tensor([[0, 7, 9, 9, 11, 3]])
    mask = torch.tensor([[False, True, False, False, True, True]])
    encoder = small(pooling, depth=2)
    expected = encoder(tokens, torch.ones(1, 3, dtype=torch.bool))
    found = encoder(scattered, mask)
    torch.testing.assert_close(found.x[found.mask], expected.x[expected.mask])
    assert torch.equal(found.mask, mask if pooling == "none" else torch.tensor([[True]]))


def test_both_ways_know_what_follows_and_one_does_not() -> None:
    x, mask = torch.tensor([[3, 4, 5], [3, 4, 6]]), torch.ones(2, 3, dtype=torch.bool)
    for bidirectional in (False, True):
        first, second = small(bidirectional=bidirectional)(x, mask).x[:, 0]
        assert torch.equal(first, second) is not bidirectional


def test_a_batch_without_any_text() -> None:
    x, mask = texts()
    for pooling in POOLINGS:
        encoder = small(pooling)
        features = encoder(x, torch.zeros_like(mask))
        assert (features.x == 0).all()
        assert not features.mask.any()
        features.x.sum().backward()
        assert all(p.grad is not None and (p.grad == 0).all() for p in encoder.parameters())


def test_forget_gates_start_open() -> None:
    """At zero input the cell keeps about sigmoid(1) = 0.73 of what it held."""
    torch.manual_seed(0)
    encoder = LSTM(dim=64, depth=2)
    for name, bias in encoder.layers.named_parameters():
        if name.startswith("bias_ih"):
            gates = (bias + getattr(encoder.layers, name.replace("ih", "hh"))).sigmoid().chunk(4)
            assert gates[1].mean().item() == pytest.approx(0.731, abs=0.05)
            assert gates[0].mean().item() == pytest.approx(0.5, abs=0.08)


def test_dropout_is_for_training_alone() -> None:
    x, mask = texts()
    for depth in (1, 2):  # torch warns of dropout between the layers where there is one
        encoder = small(depth=depth, dropout=0.5)
        assert torch.equal(encoder(x, mask).x, encoder(x, mask).x)
        assert not torch.equal(encoder.train()(x, mask).x, encoder(x, mask).x)


def test_half_precision_reads_ragged_texts_too() -> None:
    x, mask = texts()
    encoder = small(depth=2)
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(x, mask).x.float()
    torch.testing.assert_close(half, encoder(x, mask).x, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_contract(pooling: Pooling) -> None:
    check_encoder(LSTM(dim=8, depth=2, pooling=pooling))


def test_contract_of_the_defaults() -> None:
    check_encoder(LSTM())


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(RecipeError, match=r"encoders\.text\.dim: 7, expected an even number >= 2"):
        LSTM(dim=7)
    assert LSTM(dim=7, bidirectional=False).dim == 7
    with pytest.raises(RecipeError, match=r"encoders\.text\.dim: 0, expected >= 1"):
        LSTM(dim=0, bidirectional=False)
    with pytest.raises(RecipeError, match=r"encoders\.text\.depth: 0, expected >= 1"):
        LSTM(depth=0)
    with pytest.raises(RecipeError, match=r"encoders\.text\.dropout: 1\.0, expected 0 <= dropout < 1"):
        LSTM(dropout=1.0)
