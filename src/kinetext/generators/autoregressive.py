"""Autoregression: one token after the other, each drawn from what a causal transformer expects after all before it."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor

from kinetext.interfaces import Ability, Generator, Shape
from kinetext.nn.causal import CausalTransformer
from kinetext.nn.guidance import dropped, mixed, sides
from kinetext.nn.noise import uniform
from kinetext.types import Features, Known, Losses, Start, check_legal


class Autoregressive(Generator):
    r"""Learns how likely every token is after those before it, and draws them one by one.

    VideoGPT (Yan et al. 2021, section 3.2) and GODIVA (Wu et al. 2021, section 3) on the codes of a clip, frame by
    frame, row by row; on the tokens of a text it is a language model, and with a video as its condition it captions.
    With tokens x_1 ... x_n and condition y,

        log p(x | y) = sum_i log p(x_i | x_1 ... x_{i-1}, y),

    and the loss is its mean a token, negated, in nats. Condition tokens join every attention as keys and their mean
    modulates every norm. Tokens below 0 are absent: no other sees them, and nothing is learned from them.

    Sampling keeps the keys and values of what was drawn, so a token costs itself alone. The logits are divided by the
    temperature, cut to the ``top_k`` likeliest (Fan et al. 2018, section 5.4), then to the fewest that hold ``top_p`` of
    the probability (Holtzman et al. 2020, section 3.1), and drawn from by the inverse of their distribution function,
    with one uniform number a token. Guidance w mixes logits, l = l_none + w (l_text - l_none) (Gafni et al. 2022,
    "Make-A-Scene", section 3.4). There are no sampler steps: ``steps`` has no effect. What is known is fed in in its
    place, exactly; only the tokens after it can heed it.

    Args:
        num_frames, height, width: of the largest target (decided by the assembly).
        vocab: ids, >= 1 (decided by the assembly).
        cond_dim: width of the condition (decided by the assembly).
        dim: width, an even multiple of ``heads``.
        depth: number of blocks, >= 1.
        heads: attention heads, >= 1.
        dropout: in [0, 1).
        cond_dropout: share of training clips, in [0, 1], that see no condition (for guidance).
        temperature: of the draws, >= 0; 0 takes the likeliest, 1 draws as learned.
        top_k: draw from so many of the likeliest, >= 0; 0 is all.
        top_p: draw from the fewest that hold this much of the probability, in (0, 1]; 1 is all.
    """

    kind: Literal["continuous", "tokens"] = "tokens"
    writes_text = True
    abilities: ClassVar[frozenset[Ability]] = frozenset({"known frames", "known cells", "guidance", "negative"})

    def __init__(
        self,
        *,
        num_frames: int = 4,
        height: int = 8,
        width: int = 8,
        vocab: int = 16,
        cond_dim: int = 64,
        dim: int = 64,
        depth: int = 2,
        heads: int = 2,
        dropout: float = 0.0,
        cond_dropout: float = 0.1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> None:
        super().__init__()
        check_legal("heads", heads, heads >= 1, ">= 1")
        check_legal("dim", dim, dim > 0 and dim % (2 * heads) == 0, f"an even multiple of heads = {heads}")
        check_legal("depth", depth, depth >= 1, ">= 1")
        check_legal("vocab", vocab, vocab >= 1, ">= 1")
        check_legal("dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
        check_legal("cond_dropout", cond_dropout, 0 <= cond_dropout <= 1, "in [0, 1]")
        check_legal("temperature", temperature, temperature >= 0, ">= 0")
        check_legal("top_k", top_k, top_k >= 0, ">= 0")
        check_legal("top_p", top_p, 0 < top_p <= 1, "in (0, 1]")
        self.size = (num_frames, height, width)
        self.network = CausalTransformer(vocab, self.size, cond_dim, dim, depth, heads, dropout)
        self.cond_dropout, self.temperature, self.top_k, self.top_p = cond_dropout, temperature, top_k, top_p

    def check(self, shape: Shape) -> None:
        """One id a cell, and no more frames, rows or columns than it was built for."""
        if shape[0] != 1 or any(asked > most for asked, most in zip(shape[1:], self.size, strict=True)):
            most = ", ".join(map(str, self.size))
            raise ValueError(f"target: (C, T, H, W) is {tuple(shape)}, expected C = 1 and T, H, W of at most {most}")

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """Mean cross-entropy a token that is there; "bits_per_token" is the same in bits."""
        self.check(tuple(target.shape[1:]))
        logits = self.network(target[:, 0], dropped(cond, self.cond_dropout, rng), frames)
        ids = target.flatten().clamp(min=-1)
        entropy = F.cross_entropy(logits.flatten(0, 1).float(), ids, ignore_index=-1, reduction="sum")
        loss = entropy / (ids >= 0).sum().clamp(min=1)
        return Losses(loss, {"bits_per_token": loss.detach() / log(2)})

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
        temperature: float | None = None,
    ) -> Tensor:
        """Draws the tokens that are not known, in their order; a negative text takes the place of none in the guidance.

        Args:
            temperature: instead of the constructor's; None is that.
        """
        self.refuse(guidance, known, start, negative, late)
        self.check(tuple(shape[1:]))
        heat = self.temperature if temperature is None else temperature
        check_legal("temperature", heat, heat >= 0, ">= 0")
        on, cells = cond.x.device, shape[2] * shape[3] * shape[4]
        dice_BN = uniform((shape[0], cells), rng, on)
        ids_BN = torch.zeros(shape[0], cells, dtype=torch.int64, device=on)
        kept_BN = torch.zeros_like(ids_BN, dtype=torch.bool)
        if known is not None:
            kept_BN = known.cells().flatten(1)
            ids_BN = known.target.flatten(1).where(kept_BN, ids_BN)
        memory = self.network.begin(cond if guidance == 1 else sides(cond, negative), (shape[2], shape[3], shape[4]))
        # what every row knows of the beginning is taken in at once
        begin = int(kept_BN.all(0).long().cumprod(0).sum())
        told = ids_BN[:, :begin]
        for place in range(begin, cells):
            logits = self.network.following(told.repeat(1 if guidance == 1 else 2, 1), memory)
            if guidance != 1:
                logits = mixed(logits, guidance, len(cond.x))
            drawn_B = draw(logits, dice_BN[:, place], heat, self.top_k, self.top_p)
            ids_BN[:, place] = ids_BN[:, place].where(kept_BN[:, place], drawn_B)
            told = ids_BN[:, place : place + 1]
        return ids_BN.reshape(shape)


def likeliest(logits_BV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """The logits that may be drawn from, -inf for others, and their ids, both ``(B, K)``, the largest first where any
    are cut; the first is never cut.
    """
    if top_k == 0 and top_p == 1:
        return logits_BV, torch.arange(logits_BV.shape[1], device=logits_BV.device).expand_as(logits_BV)
    logits_BK, ids_BK = logits_BV.topk(min(top_k, logits_BV.shape[1]) if top_k else logits_BV.shape[1])
    if top_p < 1:
        shares = logits_BK.softmax(-1)
        before = shares.cumsum(-1) - shares
        before[:, 0] = 0.0  # exactly
        logits_BK = logits_BK.masked_fill(before >= top_p, float("-inf"))
    return logits_BK, ids_BK


def draw(logits_BV: Tensor, dice_B: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """One id a row, ``(B,)``: the first whose distribution function exceeds ``dice`` in [0, 1)."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BK, ids_BK = likeliest(logits_BV / temperature, top_k, top_p)
    function_BK = logits_BK.softmax(-1).cumsum(-1)
    # a little below 1, so that rounding can't lead beyond the last id that has any probability
    mark_B1 = dice_B.clamp(max=1 - 2.0**-22)[:, None] * function_BK[:, -1:]
    return ids_BK.gather(1, torch.searchsorted(function_BK, mark_B1, right=True))[:, 0]
