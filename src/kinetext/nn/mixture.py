"""Densities of vectors as mixtures of Gaussians, one piece of the vector after the other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.types import check_legal

LEAST = math.log(0.02)  # of the logarithm of a standard deviation: a density must not grow without bound


class MixtureHead(nn.Module):
    r"""p(y | s) of a vector y in P pieces, each a mixture of K Gaussians that knows s and the pieces before it:

        p(y | s) = \prod_j \sum_k w_jk(s, y_<j) N(y_j; m_jk(s, y_<j), diag(s_jk(s, y_<j))^2).

    Mixture density network (Bishop 1994; in a recurrent network: Graves 2013, section 4.1), made
    autoregressive over the pieces (Uria et al. 2013, RNADE) by masked layers (Germain et al. 2015, MADE,
    section 3), so that the density of all pieces takes one pass, and a sample one a piece.

    Args:
        state: width of s.
        size: of y, a multiple of ``pieces``.
        pieces: P >= 1.
        components: K >= 1.
        hidden: units, a multiple of ``pieces``.
    """

    before: Tensor
    upto: Tensor
    out_upto: Tensor

    def __init__(self, state: int, size: int, *, pieces: int, components: int, hidden: int) -> None:
        super().__init__()
        for name, value in {"pieces": pieces, "components": components}.items():
            check_legal(name, value, value >= 1, ">= 1")
        check_legal("pieces", pieces, size % pieces == 0, f"a divisor of the code's size {size}")
        check_legal("pieces", pieces, hidden % pieces == 0, f"a divisor of the hidden width {hidden}")
        self.size, self.pieces, self.components = size, pieces, components
        self.given = nn.Sequential(nn.Linear(state, hidden), nn.SiLU(), nn.Linear(hidden, 2 * hidden))
        self.first = nn.Linear(size, hidden, bias=False)
        self.second = nn.Linear(hidden, hidden, bias=False)
        each = components * (1 + 2 * size // pieces)
        self.out = nn.Linear(hidden, pieces * each)
        y, h, o = (torch.arange(pieces).repeat_interleave(n // pieces) for n in (size, hidden, pieces * each))
        # what belongs to piece j sees the pieces before j; layers hand on what belongs to j or to a piece before
        self.register_buffer("before", (y[None] < h[:, None]).float(), persistent=False)
        self.register_buffer("upto", (h[None] <= h[:, None]).float(), persistent=False)
        self.register_buffer("out_upto", (h[None] <= o[:, None]).float(), persistent=False)

    def _mixture(self, y: Tensor, given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-weights ``(..., P, K)``, means and log standard deviations ``(..., P, K, size / P)``."""
        h = F.silu(given[0] + F.linear(y, self.first.weight * self.before))
        h = F.silu(given[1] + F.linear(h, self.second.weight * self.upto))
        raw = F.linear(h, self.out.weight * self.out_upto, self.out.bias).float().unflatten(-1, (self.pieces, -1))
        weights, rest = raw[..., : self.components], raw[..., self.components :]
        means, spreads = rest.unflatten(-1, (self.components, -1)).chunk(2, dim=-1)
        return weights.log_softmax(-1), means, spreads.clamp(min=LEAST)

    def _given(self, state: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.given(state).chunk(2, dim=-1)
        return a, b

    def log_prob(self, y: Tensor, state: Tensor) -> Tensor:
        """log p(y | s) in nats: ``(..., size)``, ``(..., state)`` -> ``(...)``."""
        weights, means, spreads = self._mixture(y, self._given(state))
        z = (y.unflatten(-1, (self.pieces, 1, -1)) - means) * torch.exp(-spreads)
        each = -(z.square() / 2 + spreads + math.log(2 * math.pi) / 2).sum(-1)
        return (weights + each).logsumexp(-1).sum(-1)

    def sample(self, state: Tensor, chance: Tensor, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """A vector for every row.

        Args:
            state: ``(..., state)``.
            chance: ``(..., P)`` uniform in [0, 1), which component a piece takes.
            noise: ``(..., size)`` standard normal.
            temperature: > 0; below 1 likelier components and narrower ones (Ha & Eck 2018, "A Neural Representation of
                Sketch Drawings", eq. 8, with the temperature itself on standard deviations).
        """
        y = torch.zeros_like(noise)
        given = self._given(state)
        part = self.size // self.pieces
        for piece in range(self.pieces):
            weights, means, spreads = (
                x.select(dim, piece) for x, dim in zip(self._mixture(y, given), (-2, -3, -3), strict=True)
            )
            ends = (weights / temperature).softmax(-1).cumsum(-1)
            # rounding may leave the last end below 1
            chosen = (chance[..., piece, None] >= ends).sum(-1).clamp(max=self.components - 1)[..., None, None]
            mean, spread = (x.gather(-2, chosen.expand(*chosen.shape[:-1], part)).squeeze(-2) for x in (means, spreads))
            place = slice(piece * part, (piece + 1) * part)
            drawn = mean + temperature * spread.exp() * noise[..., place]
            y = torch.cat([y[..., : place.start], drawn, y[..., place.stop :]], dim=-1)
        return y
