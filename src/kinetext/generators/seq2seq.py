"""Sequence to sequence: words in, frame after frame out, each made from the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.interfaces import Ability, Generator, Shape
from kinetext.nn.annealing import Ramp
from kinetext.nn.mixture import MixtureHead
from kinetext.nn.noise import normal, uniform
from kinetext.nn.recurrent import BahdanauAttention, FrameDecoder, FrameEncoder, StackedLSTM, State, Words, check_frames
from kinetext.types import DataError, Features, Known, Losses, Start, check_legal


class Seq2Seq(Generator):
    r"""Translates a text into a clip, as one translates it into another language: a frame is a word.

    An encoder-decoder (Sutskever et al. 2014, eq. 1) whose encoder is the recipe's text encoder, and whose decoder is an
    LSTM with attention to the words (Bahdanau et al. 2015, eq. 4 to 6). A frame x is the word y(x), a vector of ``code``
    numbers of mean 0 and variance 1 that an encoder and a decoder of frames learn beside it:

        c_t = attention(s_{t-1}, words),   s_t = LSTM(s_{t-1}, [y_{t-1}, c_t]),
        y_t ~ p(y_t | s_t, c_t, y_{t-1}),   x_t = decoder(y_t).

    A network that answered one frame would answer the mean of all frames that may come, a blur; so p is a density, a
    mixture of Gaussians over one piece of y_t after the other (Graves 2013, section 4; ``nn/mixture.py``). Its loss is

        -log p(y_t | ...) / code + |x_t - decoder(y_t)|^2 / numbers of a frame,   y_t = y(x_t) + noise e,

    where the first term teaches the LSTM, the attention and the text encoder but not the vectors, and the second the
    vectors; the noise e ~ N(0, 1) lets the decoder of frames forgive small errors, and keeps the density finite.

    In training the LSTM is fed with real frames (teacher forcing), or, with a probability that rises over the first
    training calls, with what it would have made itself: scheduled sampling (Bengio et al. 2015, section 2.4, a linear
    schedule). The calls are counted in a buffer, so that resuming is exact; in evaluation all frames fed are real, so
    that the loss is a likelihood. Frames that a target does not hold are always the network's own.

    A sample is made frame by frame. Its first frames may be given ("known frames"), then it goes on from them. A later
    frame may be given too and is kept, but the frames before it do not know it.

    Args:
        channels, height, width: of the target (decided by the assembly).
        cond_dim: width of the text features (decided by the assembly).
        dim: width of the LSTM's state, a multiple of ``pieces``.
        depth: layers of the LSTM, >= 1.
        code: numbers that stand for a frame, a multiple of ``pieces``.
        pieces: of a frame's numbers that are drawn one after the other, >= 1.
        components: Gaussians of each piece's mixture, >= 1.
        filters: channels of the convolutions of frames, a multiple of 8; frames of less than 16 x 16 have none.
        heads: of the attention, >= 1.
        noise: standard deviation of the noise on a frame's numbers, > 0.
        own: the highest probability that the LSTM is fed with its own frame, in [0, 1]; 0 is pure teacher forcing.
        own_calls: training calls (batches) over which it rises from 0 in a straight line, >= 0; 0 is at once.
        temperature: of the density when sampling, in (0, 1].
    """

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
        depth: int = 1,
        code: int = 16,
        pieces: int = 4,
        components: int = 4,
        filters: int = 16,
        heads: int = 1,
        noise: float = 0.1,
        own: float = 0.1,
        own_calls: int = 1000,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        for name, count in {"dim": dim, "depth": depth, "code": code, "heads": heads}.items():
            check_legal(name, count, count >= 1, ">= 1")
        check_legal("noise", noise, noise > 0, "> 0")
        check_legal("own", own, 0 <= own <= 1, "in [0, 1]")
        check_legal("own_calls", own_calls, own_calls >= 0, ">= 0")
        check_legal("temperature", temperature, 0 < temperature <= 1, "in (0, 1]")
        self.frame_shape = (channels, height, width)
        self.noise, self.own, self.temperature = noise, own, temperature
        self.ramp = Ramp(own_calls)
        self.encoder = FrameEncoder(channels, (height, width), filters, dim, code)
        self.norm = nn.BatchNorm1d(code, affine=False, momentum=0.01, eps=1e-8)
        self.decoder = FrameDecoder(channels, (height, width), filters, dim, code)
        self.begin = nn.Parameter(torch.zeros(code))
        self.attention = BahdanauAttention(dim, cond_dim, max(8, dim // 4), heads)
        self.lstm = StackedLSTM(code + self.attention.dim, dim, depth)
        state = dim + self.attention.dim + code
        self.head = MixtureHead(state, code, pieces=pieces, components=components, hidden=dim)

    def check(self, shape: Shape) -> None:
        """Channels, height and width must be those it was built for; any number of frames will do."""
        check_frames(shape, self.frame_shape)

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """How unlikely the frames that are there are, and how badly they come back from their numbers.

        Raises:
            DataError: one frame of one clip in training: the numbers of frames are normalised over the batch.
        """
        if self.training and len(target) * target.shape[2] < 2:
            raise DataError("batch: one frame of one clip, expected two frames or more to learn from")
        places = torch.arange(target.shape[2]) if frames is None else frames.cpu()
        length = int(places[-1]) + 1
        code_BTZ = self._codes(target)
        code_BTZ = code_BTZ + self.noise * normal(tuple(code_BTZ.shape), rng, target.device)
        reconstruction = (self.decoder(code_BTZ) - target).square().mean()
        real_BTZ = code_BTZ.new_zeros(len(target), length, code_BTZ.shape[2])
        real_BTZ[:, places] = code_BTZ.detach()
        fed_BT = uniform((len(target), length), rng, target.device) >= self._own()
        absent_T = torch.ones(length, dtype=torch.bool).index_fill(0, places, False)
        fed_BT = fed_BT & ~absent_T.to(target.device)
        _, seen_BTD = self._write(cond, real_BTZ, fed_BT, self._dice(len(target), length, rng, target.device))
        nats = -self.head.log_prob(real_BTZ[:, places], seen_BTD[:, places]).sum(1).mean()
        total = reconstruction + nats / real_BTZ[0, places].numel()
        return Losses(total, {"reconstruction": reconstruction.detach(), "code": nats.detach()})

    def _own(self) -> Tensor | float:
        """The probability of feeding its own frame."""
        return self.own * self.ramp() if self.training else 0.0

    def _codes(self, target: Tensor) -> Tensor:
        """The numbers that stand for every frame, ``(B, T, Z)``."""
        raw: Tensor = self.encoder(target).float()
        codes: Tensor = self.norm(raw.flatten(0, 1))
        return codes.unflatten(0, raw.shape[:2])

    def _dice(self, batch: int, frames: int, rng: Rng | Sequence[Rng], on: torch.device) -> tuple[Tensor, Tensor]:
        """Which components, and the noise, of frames that it makes itself."""
        chance = uniform((batch, frames, self.head.pieces), rng, on)
        return chance, normal((batch, frames, self.head.size), rng, on)

    def _write(
        self,
        cond: Features,
        real_BTZ: Tensor,
        fed_BT: Tensor,
        dice: tuple[Tensor, Tensor],
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Goes through the frames, each fed with the one before: the real one where ``fed_BT``, else its own.

        Returns:
            What it was fed with, or would be, after every frame ``(B, T, Z)``, and what the density knew at it.
        """
        words = self.attention.words(cond)
        states = self.lstm.start(len(real_BTZ))
        code = self.begin.expand(len(real_BTZ), -1)
        written, seen = [], []
        for real, fed, chance, noise in zip(*(x.unbind(1) for x in (real_BTZ, fed_BT, *dice)), strict=True):
            known, states = self._step(code, states, words)
            code = real
            if not fed.all():
                with torch.no_grad():
                    own = self.head.sample(known, chance, noise, temperature)
                code = torch.where(fed[:, None], real, own)
            written.append(code)
            seen.append(known)
        return torch.stack(written, dim=1), torch.stack(seen, dim=1)

    def _step(self, code_BZ: Tensor, states: list[State], words: Words) -> tuple[Tensor, list[State]]:
        """What the density of the next frame knows, and the next states."""
        text = self.attention(states[-1][0], words).float()
        after: list[State] = self.lstm(torch.cat([code_BZ, text], dim=1), states)
        return torch.cat([after[-1][0], text, code_BZ], dim=1), after

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
        """Writes frame after frame; it takes one step a frame, not ``steps``."""
        self.refuse(guidance, known, start, negative, late)
        dice = self._dice(shape[0], shape[2], rng, cond.x.device)
        real_BTZ = torch.zeros_like(dice[1])
        fed_BT = torch.zeros(shape[0], shape[2], dtype=torch.bool, device=real_BTZ.device)
        if known is not None:
            fed_BT = known.frames()
            real_BTZ = self._codes(known.target.masked_fill(~known.cells(), 0.0))  # what is not given may be anything
        written, _ = self._write(cond, real_BTZ, fed_BT, dice, self.temperature)
        made: Tensor = self.decoder(written)
        return made if known is None else torch.where(known.cells(), known.target, made)
