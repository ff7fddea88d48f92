"""Blocks of recurrent models of video: frames to vectors and back, a cell with a memory, attention to words, Gaussians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.nn.conv import ResidualConv, fold_frames, unfold_frames
from kinetext.types import Features, check_legal

State = tuple[Tensor, Tensor]


class LSTMCell(nn.Module):
    r"""One step of a long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000):

        (i, f, g, o) = W [x, h] + b,   c' = \sigma(f) c + \sigma(i) tanh(g),   h' = \sigma(o) tanh(c').

    Unlike ``torch.nn.LSTMCell`` it keeps its memory in float32 under autocast, and learns the state it begins with.
    Forget gates start open (Jozefowicz et al. 2015).
    """

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.gates = nn.Linear(inputs + dim, 4 * dim)
        with torch.no_grad():
            self.gates.bias.zero_()
            self.gates.bias[dim : 2 * dim] = 1.0
        self.first = nn.Parameter(torch.zeros(2, dim))

    def start(self, batch: int) -> State:
        """The state before the first step, of ``batch`` rows."""
        h, c = self.first.unsqueeze(1).expand(-1, batch, -1)
        return h, c

    def forward(self, x_BD: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = self.gates(torch.cat([x_BD, h.to(x_BD.dtype)], dim=1)).float().chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class StackedLSTM(nn.Module):
    """LSTM cells on top of each other, each fed with the state of the one below (Sutskever et al. 2014, section 2)."""

    def __init__(self, inputs: int, dim: int, depth: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(LSTMCell(size, dim) for size in (inputs, *[dim] * (depth - 1)))

    def start(self, batch: int) -> list[State]:
        """The states before the first step, of ``batch`` rows; the last is that of the topmost cell."""
        return [cell.start(batch) for cell in self._each()]

    def forward(self, x_BD: Tensor, states: Sequence[State]) -> list[State]:
        after: list[State] = []
        for cell, state in zip(self._each(), states, strict=True):
            after.append(cell(x_BD, state))
            x_BD = after[-1][0]
        return after

    def _each(self) -> list[LSTMCell]:
        return cast(list[LSTMCell], list(self.cells))


@dataclass(frozen=True)
class Words:
    """The words of a text as attention sees them.

    Args:
        values: ``(B, L, D)``, zeros where masked.
        keys: ``(B, L, E)``, already projected.
        mask: ``(B, L)`` bool, True = real.
    """

    values: Tensor
    keys: Tensor
    mask: Tensor


class BahdanauAttention(nn.Module):
    r"""Additive attention of one query to the words of a text (Bahdanau et al. 2015, eq. 5 and 6, appendix A.1.2):

        e_j = v^T tanh(W s + U k_j),   a = softmax(e),   context = \sum_j a_j k_j.

    Args:
        query: width of s.
        dim: width of a word k_j.
        hidden: width of v.
        heads: how many vectors v there are, each with a softmax of its own; their contexts stand side by side.
    """

    def __init__(self, query: int, dim: int, hidden: int, heads: int = 1) -> None:
        super().__init__()
        self.query = nn.Linear(query, hidden)
        self.key = nn.Linear(dim, hidden, bias=False)
        self.score = nn.Linear(hidden, heads, bias=False)
        self.dim = heads * dim

    def words(self, cond: Features) -> Words:
        """What needs to be computed but once a text."""
        # filled, not multiplied: what stands at masked positions may be NaN
        values = cond.x.masked_fill(~cond.mask.unsqueeze(-1), 0.0)
        return Words(values, self.key(values), cond.mask)

    def weights(self, query_BD: Tensor, words: Words) -> Tensor:
        """How much every head looks at every word, ``(B, heads, L)``; a text without words gets zeros."""
        scores_BLN = self.score(torch.tanh(self.query(query_BD).unsqueeze(1) + words.keys)).float()
        some_B11 = words.mask.any(1)[:, None, None]
        real_BL1 = words.mask.unsqueeze(-1)
        # softmax over nothing is NaN: such rows look everywhere, and the result is zeroed
        weights_BLN = scores_BLN.masked_fill(~real_BL1 & some_B11, -torch.inf).softmax(dim=1)
        return weights_BLN.masked_fill(~real_BL1, 0.0).transpose(1, 2)

    def forward(self, query_BD: Tensor, words: Words) -> Tensor:
        """``(B, query)`` -> ``(B, heads * dim)``."""
        weights = self.weights(query_BD, words).to(words.values.dtype)
        return (weights @ words.values).flatten(1)


def _grid(size: tuple[int, int], filters: int) -> tuple[int, tuple[int, int], list[int]]:
    """How often a frame is halved on its way to a vector, until a side is below 16 or odd; what it is then; and the
    channels after every halving, which double, twice at most.
    """
    check_legal("filters", filters, filters >= 8 and filters % 8 == 0, "a multiple of 8")
    (height, width), levels = size, 0
    while min(height, width) >= 16 and height % 2 == 0 and width % 2 == 0:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels, (height, width), [filters * 2 ** min(level, 2) for level in range(levels)]


class FrameEncoder(nn.Module):
    """Every frame of a clip -> a vector: three linear layers, as DRAW and its followers have them, on the frame itself
    where it is small, else on what convolutions with strides make of it. On small frames they learn faster than
    convolutions in the same time (LOG.md, "Linear layers or convolutions").

    Args:
        channels: of a frame.
        size: (height, width) of a frame.
        filters: channels of the first convolution, a multiple of 8; of no matter for frames that are not halved.
        hidden: width of the linear layers.
        dim: width of the vector.
    """

    def __init__(self, channels: int, size: tuple[int, int], filters: int, hidden: int, dim: int) -> None:
        super().__init__()
        _, (height, width), widths = _grid(size, filters)
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), ResidualConv(after)]
        self.convs = nn.Sequential(*layers)
        numbers = [channels, *widths][-1] * height * width
        self.linear = nn.Sequential(
            nn.Linear(numbers, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, dim)
        )

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` -> ``(B, T, dim)``."""
        frames = self.convs(fold_frames(video_BCTHW)).flatten(1)
        return self.linear(frames).unflatten(0, (len(video_BCTHW), -1))


class FrameDecoder(nn.Module):
    """A vector for every frame -> the frames of a clip: the way of ``FrameEncoder`` back.

    Args:
        channels, size, filters, hidden, dim: as there.
    """

    def __init__(self, channels: int, size: tuple[int, int], filters: int, hidden: int, dim: int) -> None:
        super().__init__()
        levels, grid, widths = _grid(size, filters)
        self.grid = ([channels, *widths][-1], *grid)
        self.linear = nn.Sequential(
            nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, 2 * hidden), nn.SiLU(),
            nn.Linear(2 * hidden, math.prod(self.grid)),
        )  # fmt: skip
        layers: list[nn.Module] = []
        for before, after in zip(widths[::-1], [*widths[-2::-1], filters][:levels], strict=True):
            # sub-pixel convolution: cheaper than a transposed one and free of checkerboards (Shi et al. 2016)
            layers += [ResidualConv(before), nn.Conv2d(before, 4 * after, 3, padding=1), nn.PixelShuffle(2)]
        if levels:
            layers += [nn.GroupNorm(8, filters), nn.SiLU(), nn.Conv2d(filters, channels, 3, padding=1)]
        self.convs = nn.Sequential(*layers)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """``(B, T, dim)`` -> ``(B, C, T, H, W)`` float32."""
        grid = self.linear(x_BTD).flatten(0, 1).unflatten(1, self.grid)
        frames = self.convs(grid.contiguous(memory_format=torch.channels_last))
        return unfold_frames(frames, len(x_BTD)).float()


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions: means and standard deviations of one shape."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, raw: Tensor) -> Gaussian:
        """From what a network says, ``(..., 2 D)``: of zeros a standard normal distribution, but for 1e-4."""
        mean, spread = raw.float().chunk(2, dim=-1)
        return cls(mean, F.softplus(spread + math.log(math.e - 1)) + 1e-4)

    @classmethod
    def standard(cls, like: Tensor) -> Gaussian:
        """Of mean 0 and deviation 1, in the shape of ``like``."""
        return cls(torch.zeros_like(like), torch.ones_like(like))

    def at(self, noise: Tensor) -> Tensor:
        """z = mu + sigma * eps (Kingma & Welling 2014, section 2.4)."""
        return self.mean + self.std * noise

    def kl(self, other: Gaussian) -> Tensor:
        r"""KL(self || other) of every number, in nats:
        log(s2 / s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2.
        """
        squares = self.std.square() + (self.mean - other.mean).square()
        return (other.std / self.std).log() + squares / (2 * other.std.square()) - 0.5


def check_frames(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuses, by a ValueError, targets (C, T, H, W) whose frames are not (C, H, W) as ``expected``."""
    got = (shape[0], *shape[2:])
    if got != expected:
        raise ValueError(f"target: frames (C, H, W) of {got}, expected {expected}")
