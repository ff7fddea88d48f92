"""A recurrent variational autoencoder that draws a clip frame after frame while it reads the caption."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.interfaces import Ability, Generator, Shape
from kinetext.nn.annealing import Ramp
from kinetext.nn.noise import normal
from kinetext.nn.recurrent import (
    BahdanauAttention,
    FrameDecoder,
    FrameEncoder,
    Gaussian,
    LSTMCell,
    State,
    Words,
    check_frames,
)
from kinetext.types import Features, Known, Losses, Start, check_legal, check_one_of

Seen = tuple[Tensor, Tensor]  # encoding of a frame (B, D), and in which rows it is there (B,)


class RecurrentVAE(Generator):
    r"""Learns to draw a clip as a sequence of small random decisions.

    After Sync-DRAW (Mittal, Marwah & Balasubramanian 2017, section 3) and the attentive captions of the same authors
    (Marwah et al. 2017, section 3), which carry DRAW (Gregor et al. 2015, eq. 1 to 13) from images to captioned video.
    Frame t is drawn in R refinements; in each a decoder LSTM with state h looks at the words of the text, makes a
    decision z and writes to the frame's canvas:

        a = attention(h, words),   z ~ p(z | h, a),   h' = LSTM(h, [z, a]),   canvas_t = \sum_r [h', z]_{t,r},
        p(x_t | z, text) = N(decoder(canvas_t), sigma^2).

    In training z comes from an inference network that sees the frame, z = mu + sigma eps ~ q(z | h, a, encoder(x_t)), and

        loss = -log p(x | z) + w sum_t KL(q || p)      (Kingma & Welling 2014, eq. 10)

    is minimised, in nats, divided by how many numbers a target has. The prior p is N(0, 1), as in DRAW, or is learned: a
    function of the past, which is in h, and of the text (Chung et al. 2015, VRNN, eq. 5; Denton & Fergus 2018, SVG-LP).
    w rises over the first training calls (Bowman et al. 2016, section 3.1): they are counted in a buffer, so that
    resuming is exact; in evaluation w is always ``kl_weight``. Each dimension of z has some nats a clip for free,
    max(free_bits, KL_j) with KL_j the mean of a batch over all frames of the clip (Kingma et al. 2016, IAF, appendix C.8).

    A sample is the mean of the last Gaussian. Its first frames may be given ("known frames"): these are read by the
    inference network, as in training, and the rest goes on from them. A later frame may be given too and is kept, but
    the frames before it do not know it.

    Args:
        channels, height, width: of the target (decided by the assembly).
        cond_dim: width of the text features (decided by the assembly).
        dim: width of the LSTM's state, >= 1.
        latent: dimensions of one decision z, >= 1.
        refinements: decisions a frame, >= 1.
        filters: channels of the convolutions of frames, a multiple of 8; frames of less than 16 x 16 have none.
        heads: of the attention, >= 1.
        prior: of the decisions.
        sigma: standard deviation of the likelihood, in units of the target; 0 takes the best one, sigma^2 = the mean
            squared error: of the batch in training, and its moving average in evaluation (Rybkin et al. 2021, "Simple
            and Effective VAE Training with Calibrated Decoders", the optimal sigma-VAE).
        kl_weight: the highest w, > 0; 1 is a bound on the likelihood.
        kl_calls: training calls (batches) over which w rises, >= 0.
        free_bits: nats, >= 0.
        temperature: of the prior when sampling, in (0, 1]: its standard deviations are multiplied by it.
    """

    variance: Tensor
    kind: Literal["continuous", "tokens"] = "continuous"
    abilities: ClassVar[frozenset[Ability]] = frozenset({"known frames"})

    def __init__(
        self,
        *,
        channels: int = 1,
        height: int = 8,
        width: int = 8,
        cond_dim: int = 64,
        dim: int = 64,
        latent: int = 16,
        refinements: int = 1,
        filters: int = 16,
        heads: int = 1,
        prior: Literal["learned", "standard"] = "learned",
        sigma: float = 0.0,
        kl_weight: float = 1.0,
        kl_calls: int = 1000,
        free_bits: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        for name, count in {"dim": dim, "latent": latent, "refinements": refinements, "heads": heads}.items():
            check_legal(name, count, count >= 1, ">= 1")
        for name, value in {"sigma": sigma, "kl_calls": kl_calls, "free_bits": free_bits}.items():
            check_legal(name, value, value >= 0, ">= 0")
        check_legal("kl_weight", kl_weight, kl_weight > 0, "> 0")
        check_one_of("prior", prior, "learned", "standard")
        check_legal("temperature", temperature, 0 < temperature <= 1, "in (0, 1]")
        self.frame_shape = (channels, height, width)
        self.latent, self.refinements, self.temperature = latent, refinements, temperature
        self.kl_weight, self.free_bits = kl_weight, free_bits
        self.ramp = Ramp(kl_calls)
        self.encoder = FrameEncoder(channels, (height, width), filters, dim, dim)
        self.attention = BahdanauAttention(dim, cond_dim, max(8, dim // 4), heads)
        seen = dim + self.attention.dim
        self.inference = _decider(seen + dim, dim, latent, spread=-2.0)  # narrow, so that the decoder hears it
        self.prior = _decider(seen, dim, latent, spread=0.0) if prior == "learned" else None
        self.cell = LSTMCell(latent + self.attention.dim, dim)
        self.decoder = FrameDecoder(channels, (height, width), filters, dim, dim + latent)
        self.sigma = sigma
        self.register_buffer("variance", torch.tensor(float(sigma) ** 2 or 1.0))

    def check(self, shape: Shape) -> None:
        """Channels, height and width must be those it was built for; any number of frames will do."""
        check_frames(shape, self.frame_shape)

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """The negative bound on the log-likelihood of the frames that are there.

        Decisions of frames that are not there come from the prior: then it is a bound on the likelihood of the others.
        """
        places = list(range(target.shape[2])) if frames is None else frames.tolist()
        noise = self._noise(len(target), places[-1] + 1, rng, target.device)
        there = torch.ones(len(target), dtype=torch.bool, device=target.device)
        read = self.encoder(target).unbind(1)
        mean, kl_BTZ = self._draw(cond, noise, {t: (x, there) for t, x in zip(places, read, strict=True)})
        size = target[0].numel()
        reconstruction = self._nats(target, mean[:, :, places]).mean()
        kl_Z = kl_BTZ.sum(dim=1).mean(dim=0)
        weight = self.kl_weight * self.ramp()
        total = (reconstruction + weight * kl_Z.clamp(min=self.free_bits).sum()) / size
        return Losses(total, {"reconstruction": reconstruction.detach(), "kl": kl_Z.detach().sum()})

    def _nats(self, target: Tensor, mean: Tensor) -> Tensor:
        """-log N(target; mean, sigma^2) of every clip, ``(B,)``."""
        squares_B = (target - mean).square().flatten(1).sum(1)
        numbers, variance = target[0].numel(), self.variance
        if self.sigma == 0 and self.training:
            # with gradients: those of the best sigma are those of sigma held fixed, since the loss is flat there
            variance = squares_B.mean() / numbers
            with torch.no_grad():
                self.variance.lerp_(variance, 0.01)
        return squares_B / (2 * variance) + numbers * torch.log(2 * math.pi * variance) / 2

    def _noise(self, batch: int, frames: int, rng: Rng | Sequence[Rng], on: torch.device) -> Tensor:
        return normal((batch, frames, self.refinements, self.latent), rng, on)

    def _draw(
        self, cond: Features, noise_BTRZ: Tensor, seen: Mapping[int, Seen], heat: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Draws clips; the inference network decides the frames that are ``seen``, the prior, at temperature ``heat``, the
        others.

        Returns:
            Their means ``(B, C, T, H, W)``, and the KL of what was seen, ``(B, T, Z)`` in nats.
        """
        words = self.attention.words(cond)
        state = self.cell.start(len(noise_BTRZ))
        canvases, costs = [], []
        for t, noise_BRZ in enumerate(noise_BTRZ.unbind(1)):
            writes, cost_BZ = [], torch.zeros_like(noise_BRZ[:, 0])
            for noise_BZ in noise_BRZ.unbind(1):
                state, z_BZ, cost = self._decide(state, words, noise_BZ, seen.get(t), heat)
                writes.append(torch.cat([state[0], z_BZ], dim=1))
                cost_BZ = cost_BZ + cost
            canvases.append(torch.stack(writes).sum(0))
            costs.append(cost_BZ)
        return self.decoder(torch.stack(canvases, dim=1)), torch.stack(costs, dim=1)

    def _decide(
        self, state: State, words: Words, noise_BZ: Tensor, seen: Seen | None, heat: float
    ) -> tuple[State, Tensor, Tensor]:
        """One refinement: the next state, the decision, and what it costs ``(B, Z)`` in nats."""
        text = self.attention(state[0], words)
        past = torch.cat([state[0], text], dim=1)
        prior = Gaussian.of(self.prior(past)) if self.prior else Gaussian.standard(noise_BZ)
        z_BZ, cost_BZ = prior.at(heat * noise_BZ), torch.zeros_like(noise_BZ)
        if seen is not None:
            frame_BD, there_B = seen
            posterior = Gaussian.of(self.inference(torch.cat([past, frame_BD], dim=1)))
            z_BZ = torch.where(there_B[:, None], posterior.at(noise_BZ), z_BZ)
            cost_BZ = posterior.kl(prior)
        return self.cell(torch.cat([z_BZ, text], dim=1), state), z_BZ, cost_BZ

    @torch.no_grad()
    def sample(
        self,
        shape: Shape,
        cond: Features,
        *,
        rng: Rng | Sequence[Rng],
        steps: int,
        guidance: float,
        known: Known | None = None,
        start: Start | None = None,
        negative: Features | None = None,
        late: Features | None = None,
    ) -> Tensor:
        """Draws frame after frame; it takes its own refinements, not ``steps``."""
        self.refuse(guidance, known, start, negative, late)
        noise = self._noise(shape[0], shape[2], rng, cond.x.device)
        seen: dict[int, Seen] = {}
        if known is not None:
            given_BT = known.frames()
            read = self.encoder(known.target.masked_fill(~known.cells(), 0.0))  # what is not given may be anything
            seen = {t: (read[:, t], given_BT[:, t]) for t in range(shape[2]) if given_BT[:, t].any()}
        made, _ = self._draw(cond, noise, seen, self.temperature)
        return made if known is None else torch.where(known.cells(), known.target, made)


def _decider(inputs: int, dim: int, latent: int, spread: float) -> nn.Sequential:
    """What says a ``Gaussian``; ``spread`` is where its standard deviations begin."""
    last = nn.Linear(dim, 2 * latent)
    with torch.no_grad():
        last.bias[latent:] = spread
    return nn.Sequential(nn.Linear(inputs, dim), nn.SiLU(), last)
