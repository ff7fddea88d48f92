"""Recurrent blocks against torch's own cells and distributions, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from kinetext.nn.recurrent import BahdanauAttention, FrameDecoder, FrameEncoder, Gaussian, LSTMCell, StackedLSTM
from kinetext.types import Features


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_cell_is_torchs_own_with_the_same_weights() -> None:
    cell, other = LSTMCell(5, 7), nn.LSTMCell(5, 7)
    with torch.no_grad():
        other.weight_ih.copy_(cell.gates.weight[:, :5])
        other.weight_hh.copy_(cell.gates.weight[:, 5:])
        other.bias_ih.copy_(cell.gates.bias)
        other.bias_hh.zero_()
    state = mine = (torch.randn(3, 7, generator=rng(1)), torch.randn(3, 7, generator=rng(2)))
    for step in range(4):
        x = torch.randn(3, 5, generator=rng(step))
        mine, state = cell(x, mine), other(x, state)
    torch.testing.assert_close(mine, state)
    h, c = cell.start(3)
    assert h.shape == c.shape == (3, 7)
    torch.testing.assert_close(cell.gates.bias.chunk(4)[1], torch.ones(7))  # forget gates start open


def test_stacked_cells_are_torchs_own_layers() -> None:
    stack, other = StackedLSTM(5, 7, 2), nn.LSTM(5, 7, 2, batch_first=True)
    with torch.no_grad():
        for layer, cell in enumerate(stack.cells):
            getattr(other, f"weight_ih_l{layer}").copy_(cell.gates.weight[:, :-7])
            getattr(other, f"weight_hh_l{layer}").copy_(cell.gates.weight[:, -7:])
            getattr(other, f"bias_ih_l{layer}").copy_(cell.gates.bias)
            getattr(other, f"bias_hh_l{layer}").zero_()
    x = torch.randn(3, 4, 5, generator=rng())
    states, tops = stack.start(3), []
    for x_BD in x.unbind(1):
        states = stack(x_BD, states)
        tops.append(states[-1][0])
    torch.testing.assert_close(torch.stack(tops, dim=1), other(x)[0])


def test_attention_by_hand() -> None:
    """e = v tanh(W s + U k), softmax over the words that are there, and their mean by these weights."""
    attention = BahdanauAttention(2, 2, 1)
    with torch.no_grad():
        attention.query.weight.copy_(torch.tensor([[1.0, 0.0]]))
        attention.query.bias.zero_()
        attention.key.weight.copy_(torch.tensor([[0.0, 1.0]]))
        attention.score.weight.copy_(torch.tensor([[2.0]]))
    words = torch.tensor([[[5.0, 0.5], [6.0, -1.0], [7.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    scores = [2 * math.tanh(0.3 + 0.5), 2 * math.tanh(0.3 - 1.0)]
    first = math.exp(scores[0]) / (math.exp(scores[0]) + math.exp(scores[1]))
    seen = attention.words(Features(words, mask))
    query = torch.tensor([[0.3, 4.0]])
    torch.testing.assert_close(attention.weights(query, seen), torch.tensor([[[first, 1 - first, 0.0]]]))
    context = torch.tensor([[5 * first + 6 * (1 - first), 0.5 * first - 1.0 * (1 - first)]])
    torch.testing.assert_close(attention(query, seen), context)


def test_heads_look_apart_and_nothing_real_gives_zeros() -> None:
    attention = BahdanauAttention(4, 3, 8, heads=2)
    x = torch.randn(2, 5, 3, generator=rng())
    mask = torch.tensor([[True, True, True, False, False], [False] * 5])
    hidden = torch.where(mask[..., None], x, float("nan"))
    query = torch.randn(2, 4, generator=rng(1))
    words = attention.words(Features(hidden, mask))
    weights = attention.weights(query, words)
    assert weights.shape == (2, 2, 5)
    torch.testing.assert_close(weights[0].sum(1), torch.ones(2))
    assert not torch.allclose(weights[0, 0], weights[0, 1])
    assert not weights[1].any() and not weights[0, :, 3:].any()
    context = attention(query, words)
    assert context.shape == (2, attention.dim) == (2, 6) and not context[1].any()
    one = torch.cat([weights[0, 0] @ words.values[0], weights[0, 1] @ words.values[0]])
    torch.testing.assert_close(context[0], one)


@pytest.mark.parametrize(
    ("channels", "height", "width", "grid"),
    [(4, 8, 8, (8, 8)), (1, 64, 64, (8, 8)), (3, 16, 24, (8, 12)), (2, 17, 34, (17, 34)), (1, 2, 2, (2, 2))],
)
def test_frames_of_any_size_become_vectors_and_come_back(
    channels: int, height: int, width: int, grid: tuple[int, int]
) -> None:
    encoder = FrameEncoder(channels, (height, width), 8, 6, 5)
    decoder = FrameDecoder(channels, (height, width), 8, 6, 5)
    video = torch.randn(2, channels, 3, height, width, generator=rng())
    vectors = encoder(video)
    assert vectors.shape == (2, 3, 5) and decoder.grid[1:] == grid
    torch.testing.assert_close(vectors[1, 2], encoder(video[1:, :, 2:])[0, 0], atol=1e-5, rtol=1e-4)  # frame by frame
    made = decoder(vectors)
    assert made.shape == video.shape
    torch.testing.assert_close(made[1:, :, 2:], decoder(vectors[1:, 2:]), atol=1e-5, rtol=1e-4)


def test_bad_filters_are_refused() -> None:
    for block in (FrameEncoder, FrameDecoder):
        with pytest.raises(ValueError, match="filters: 12, expected a multiple of 8"):
            block(1, (8, 8), 12, 6, 4)


def test_kl_is_that_of_torch_distributions() -> None:
    p, q = (Gaussian.of(3 * torch.randn(50, 8, generator=rng(seed))) for seed in (1, 2))
    expected = kl_divergence(Normal(p.mean, p.std), Normal(q.mean, q.std))
    torch.testing.assert_close(p.kl(q), expected)
    assert (p.kl(q) > 0).all()
    torch.testing.assert_close(p.kl(p), torch.zeros_like(p.mean))


def test_zeros_are_a_standard_normal_and_draws_have_its_moments() -> None:
    standard = Gaussian.of(torch.zeros(1, 6))
    torch.testing.assert_close(standard.mean, torch.zeros(1, 3))
    torch.testing.assert_close(standard.std, torch.ones(1, 3), atol=2e-4, rtol=0)
    raw = torch.tensor([0.5, -2.0, 1.0, -1.0], requires_grad=True)
    other = Gaussian.of(raw)
    drawn = other.at(torch.randn(200_000, 2, generator=rng()))
    torch.testing.assert_close(drawn.mean(0), other.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), other.std, atol=0.01, rtol=0)
    drawn.sum().backward()  # gradients go through the draw
    assert raw.grad is not None and raw.grad[:2].tolist() == [200_000, 200_000] and raw.grad[2:].isfinite().all()
