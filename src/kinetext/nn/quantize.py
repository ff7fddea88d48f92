"""Vector quantisers: a codebook that follows averages, and finite scalars without one."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.types import check_legal


class Quantized(NamedTuple):
    """What a quantiser makes of vectors: ``x (N, D)`` with straight-through gradients, their codes ``ids (N,)`` int64, and
    what it adds to the loss (a scalar).
    """

    x: Tensor
    ids: Tensor
    loss: Tensor


class EmaCodebook(nn.Module):
    r"""K vectors e_i, each the moving average of what is quantised to it.

    Van den Oord et al. 2017 ("Neural Discrete Representation Learning", VQ-VAE), eq. 1-3 and appendix A.1. A vector z
    becomes the nearest e_i; its gradient passes straight through, and with the weight beta it is drawn to its code,

        L = beta |z - sg(e_i)|^2 (a mean over all numbers),

        N_i <- g N_i + (1 - g) n_i,   m_i <- g m_i + (1 - g) sum z,   e_i = m_i / N_i,

    where n_i vectors of the batch, whose sum is "sum z", went to code i. The codes begin as vectors of the first batch. One
    that is hardly used any more begins again, as a vector of the batch at hand (Dhariwal et al. 2020, "Jukebox", section 3.1).

    Codes move in training mode where gradients are on: a pass without them, say to show a discriminator what comes
    out, leaves them alone.

    Args:
        codes: K, >= 2.
        dim: of the vectors.
        decay: g, in [0, 1).
        commitment: beta, >= 0.
        restart: a code begins again when N_i falls below this share of the mean of all, in [0, 1); 0 = never.
    """

    def __init__(
        self, codes: int, dim: int, *, decay: float = 0.99, commitment: float = 0.25, restart: float = 0.03
    ) -> None:
        super().__init__()
        check_legal("codes", codes, codes >= 2, ">= 2")
        check_legal("decay", decay, 0 <= decay < 1, "in [0, 1)")
        check_legal("commitment", commitment, commitment >= 0, ">= 0")
        check_legal("restart", restart, 0 <= restart < 1, "in [0, 1)")
        self.vocab, self.decay, self.commitment, self.restart = codes, decay, commitment, restart
        codebook = torch.randn(codes, dim)
        self.codebook_KD: Tensor
        self.sums_KD: Tensor
        self.counts_K: Tensor
        self.ready: Tensor
        self.register_buffer("codebook_KD", codebook)
        self.register_buffer("sums_KD", codebook.clone())
        self.register_buffer("counts_K", torch.ones(codes))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def ids(self, x_ND: Tensor) -> Tensor:
        """The nearest code of every vector, ``(N,)`` int64."""
        with torch.autocast(x_ND.device.type, enabled=False):
            square_K = self.codebook_KD.square().sum(1)
            # pieces: the distances of all at once would fill the memory
            pieces = x_ND.detach().float().split(2**14)
            return torch.cat([(square_K - 2 * piece @ self.codebook_KD.T).argmin(1) for piece in pieces])

    def vectors(self, ids: Tensor) -> Tensor:
        """Codes of any shape -> ``(..., D)``."""
        return F.embedding(ids, self.codebook_KD)

    def forward(self, x_ND: Tensor, *, rng: Rng) -> Quantized:
        x_ND = x_ND.float()
        learns = self.training and torch.is_grad_enabled()
        if learns and not self.ready:
            self._begin(x_ND.detach(), rng)
        ids_N = self.ids(x_ND)
        near_ND = self.vectors(ids_N)
        if learns:
            self._follow(x_ND.detach(), ids_N, rng)
        loss = self.commitment * F.mse_loss(x_ND, near_ND)
        return Quantized(x_ND + (near_ND - x_ND).detach(), ids_N, loss)

    @torch.no_grad()
    def _begin(self, x_ND: Tensor, rng: Rng) -> None:
        self.codebook_KD.copy_(self._drawn(x_ND, rng))
        self.sums_KD.copy_(self.codebook_KD)
        self.ready.fill_(True)

    def _drawn(self, x_ND: Tensor, rng: Rng) -> Tensor:
        """K vectors of the batch."""
        return x_ND[torch.randint(len(x_ND), (self.vocab,), generator=rng, device=rng.device).to(x_ND.device)]

    @torch.no_grad()
    def _follow(self, x_ND: Tensor, ids_N: Tensor, rng: Rng) -> None:
        used_K = torch.bincount(ids_N, minlength=self.vocab).to(x_ND.dtype)
        self.counts_K.lerp_(used_K, 1 - self.decay)
        self.sums_KD.lerp_(torch.zeros_like(self.sums_KD).index_add_(0, ids_N, x_ND), 1 - self.decay)
        # m_i / N_i stays as it is where nothing was added, but for rounding
        moved_K1 = (used_K > 0)[:, None]
        self.codebook_KD.copy_(torch.where(moved_K1, self.sums_KD / self.counts_K[:, None], self.codebook_KD))
        mean = self.counts_K.mean()
        dead_K = self.counts_K < self.restart * mean
        # drawn whether needed or not, so that what follows is not shifted by it
        self.codebook_KD.copy_(torch.where(dead_K[:, None], self._drawn(x_ND, rng), self.codebook_KD))
        self.counts_K.copy_(torch.where(dead_K, mean, self.counts_K))
        self.sums_KD.copy_(torch.where(dead_K[:, None], mean * self.codebook_KD, self.sums_KD))


class FiniteScalars(nn.Module):
    r"""Few numbers, each rounded to one of few levels: every combination is a code, and there is no codebook to learn.

    Mentzer et al. 2023 ("Finite Scalar Quantization: VQ-VAE Made Simple", FSQ), section 3 and appendix A.1. With L_i levels
    of number i, h_i = (L_i - 1) / 2, and s_i = 0 for odd, 1/2 for even L_i,

        f(z_i) = h_i tanh(z_i + atanh(s_i / h_i)) - s_i,   q_i = round(f(z_i)) / floor(L_i / 2),

    whose gradient passes straight through the rounding. (h_i is a thousandth smaller, so that nothing is rounded to a level
    beyond the last; the appendix writes tan for atanh, which would not keep 0 at 0.) The code is

        sum_i (q_i + 1) floor(L_i / 2) L_1 ... L_{i-1}.

    A linear map makes the numbers from vectors, another makes vectors of them again. There is nothing to add to the loss.

    Args:
        levels: L_i, >= 3 each; their product is the number of codes.
        dim: of the vectors.
    """

    def __init__(self, levels: Sequence[int], dim: int) -> None:
        super().__init__()
        check_legal("codes", list(levels), len(levels) > 0 and min(levels) >= 3, "a list of levels, each >= 3")
        self.vocab = prod(levels)
        self.down, self.up = nn.Linear(dim, len(levels)), nn.Linear(len(levels), dim)
        places = [prod(levels[:i]) for i in range(len(levels))]
        self.levels_D: Tensor
        self.places_D: Tensor
        self.register_buffer("levels_D", torch.tensor(levels), persistent=False)
        self.register_buffer("places_D", torch.tensor(places), persistent=False)

    def bounded(self, z: Tensor) -> Tensor:
        """f: numbers ``(..., D)`` -> what is rounded."""
        most = (self.levels_D - 1) * (1 - 1e-3) / 2
        shift = torch.where(self.levels_D % 2 == 1, 0.0, 0.5)
        return (z + (shift / most).atanh()).tanh() * most - shift

    def rounded(self, z: Tensor) -> Tensor:
        """q: numbers ``(..., D)`` -> their levels, in [-1, 1], with straight-through gradients."""
        bounded = self.bounded(z)
        return (bounded + (bounded.round() - bounded).detach()) / (self.levels_D // 2)

    def codes_of(self, q: Tensor) -> Tensor:
        """Levels ``(..., D)`` in [-1, 1] -> codes ``(...)`` int64."""
        return (((q + 1) * (self.levels_D // 2)).round().long() * self.places_D).sum(-1)

    def levels_of(self, ids: Tensor) -> Tensor:
        """Codes ``(...)`` -> levels ``(..., D)`` in [-1, 1]: row ``ids`` of the implicit codebook."""
        half_D = self.levels_D // 2
        return (ids[..., None] // self.places_D % self.levels_D - half_D) / half_D

    def ids(self, x_ND: Tensor) -> Tensor:
        """The code of every vector, ``(N,)`` int64."""
        with torch.autocast(x_ND.device.type, enabled=False):
            return self.codes_of(self.rounded(self.down(x_ND.float())))

    def vectors(self, ids: Tensor) -> Tensor:
        """Codes of any shape -> ``(..., dim)``."""
        with torch.autocast(ids.device.type, enabled=False):
            made: Tensor = self.up(self.levels_of(ids))
        return made

    def forward(self, x_ND: Tensor, *, rng: Rng) -> Quantized:
        with torch.autocast(x_ND.device.type, enabled=False):
            q_ND = self.rounded(self.down(x_ND.float()))
            return Quantized(self.up(q_ND), self.codes_of(q_ND.detach()), q_ND.new_zeros(()))


def perplexity(ids: Tensor, vocab: int) -> Tensor:
    """exp of the entropy of how often each of ``vocab`` codes occurs in ``ids``: 1 if always the same, ``vocab`` if all alike."""
    share = torch.bincount(ids.flatten(), minlength=vocab).float() / ids.numel()
    return (-torch.special.xlogy(share, share).sum()).exp()
