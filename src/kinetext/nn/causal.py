"""The network of autoregression: token ids and a condition in, the logits of every next id out, with a memory of keys
and values, so that one more token costs itself alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kinetext.nn.attention import scaled_dot_product
from kinetext.nn.embedding import rope_3d
from kinetext.nn.transformer import SwiGLU, hidden_of
from kinetext.types import Features

Rope = tuple[Tensor, Tensor]


class KeyValues:
    """What one attention keeps of all that it has seen, in room that is made once.

    Args:
        k_BNME, v_BNME: of the context, which is there from the beginning.
        room: for how many positions.
    """

    def __init__(self, k_BNME: Tensor, v_BNME: Tensor, room: int) -> None:
        batch, heads, self.filled, width = k_BNME.shape
        self.k = k_BNME.new_empty(batch, heads, self.filled + room, width)
        self.v = torch.empty_like(self.k)
        self.k[:, :, : self.filled], self.v[:, :, : self.filled] = k_BNME, v_BNME

    def add(self, k_BNLE: Tensor, v_BNLE: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps L more positions; the keys and values of everything so far."""
        end = self.filled + k_BNLE.shape[2]
        self.k[:, :, self.filled : end], self.v[:, :, self.filled : end] = k_BNLE, v_BNLE
        self.filled = end
        return self.k[:, :, :end], self.v[:, :, :end]


class CausalAttention(nn.Module):
    """Attention of a sequence to a context and to its own past.

    As ``nn.attention.Attention``, but queries and keys are layer-normalised (Dehghani et al. 2023, "Scaling Vision
    Transformers to 22 Billion Parameters", section 2) and made together: one token at a time is a matter of how many
    operations there are, and on a processor PyTorch has layer norm in one and RMS norm in eight.

    Args:
        dim: width of the sequence, a multiple of ``heads``.
        heads: number of heads.
        context_dim: width of the context.
    """

    def __init__(self, dim: int, heads: int, *, context_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.context_kv = nn.Linear(context_dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(dim // heads, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BLD: Tensor, context: Tensor | KeyValues, legal: Tensor | None, rope: Rope) -> Tensor:
        """``(B, L, D)`` -> ``(B, L, D)``.

        Args:
            context: ``(B, M, C)``; or what is kept of it and of the positions before x, which is added to.
            legal: ``(B or 1, 1, L, K)`` bool, True = attend, over the context and then all positions; None is all.
            rope: cos and sin, each ``(2, 1, 1, L, E)``: where queries and where keys stand.
        """
        made_3BNLE = self._split(self.qkv(x_BLD), 3)
        q, k = turned(self.norm(made_3BNLE[:2]), rope)
        v = made_3BNLE[2]
        if isinstance(context, KeyValues):
            k, v = context.add(k, v)
        else:
            context_k, context_v = self.of(context)
            k, v = torch.cat([context_k.to(k.dtype), k], dim=2), torch.cat([context_v, v], dim=2)
        out = scaled_dot_product(q.to(v.dtype), k.to(v.dtype), v, legal)
        return self.out(out.transpose(1, 2).flatten(2))

    def of(self, context_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a context, ``(B, N, M, E)``."""
        k, v = self._split(self.context_kv(context_BMD), 2)
        return self.norm(k), v

    def _split(self, x_BLD: Tensor, parts: int) -> Tensor:
        """``(B, L, parts * D)`` -> ``(parts, B, N, L, E)``."""
        return x_BLD.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4)


def turned(x_BNLE: Tensor, rope: Rope) -> Tensor:
    """``nn.attention.rotate`` in three operations: cosines twice in a row, sines once negated and once as they are."""
    cos, sin = rope
    return torch.addcmul(x_BNLE * cos, x_BNLE.roll(x_BNLE.shape[-1] // 2, -1), sin)


class CausalBlock(nn.Module):
    """``nn.transformer.ModulatedBlock`` over a sequence that sees its past alone, with one modulation a row and with
    layer norm, as in the paper.

    The gates begin at 1, as in a plain transformer: there is no noise here that a block had better let through.
    """

    def __init__(self, dim: int, heads: int, *, context_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, elementwise_affine=False)
        self.attention = CausalAttention(dim, heads, context_dim=context_dim)
        self.norm2 = nn.LayerNorm(dim, elementwise_affine=False)
        self.mlp = SwiGLU(dim, hidden_of(dim))
        self.dropout = nn.Dropout(dropout)
        self.offset = nn.Parameter(torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])[:, None].repeat(1, dim))

    def signals(self, modulation_B6D: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of the attention, then of the feed-forward, each ``(B, 1, D)``."""
        return (modulation_B6D + self.offset).unsqueeze(2).unbind(1)

    def forward(
        self,
        x_BLD: Tensor,
        signals: tuple[Tensor, ...],
        context: Tensor | KeyValues,
        legal: Tensor | None,
        rope: Rope,
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = signals
        h = self.attention(torch.addcmul(shift1, self.norm1(x_BLD), scale1), context, legal, rope)
        x_BLD = torch.addcmul(x_BLD, gate1, self.dropout(h))
        h = self.mlp(torch.addcmul(shift2, self.norm2(x_BLD), scale2))
        return torch.addcmul(x_BLD, gate2, self.dropout(h))


@dataclass(frozen=True)
class Route:
    """What all blocks are told of a condition and of the cells of a target: N cells, one slot for each.

    Args:
        context: ``(B, M, C)``: no text, and the text.
        told: ``(B, M)`` bool, which of it are there.
        signals: of every block.
        where: ``(N, D)``, the place of the cell that a slot speaks of, as a vector.
        rope: ``(2, 1, 1, N, E)``: the place of the cell that a slot speaks of, for queries; of the cell whose id it
            holds, for keys.
    """

    context: Tensor
    told: Tensor
    signals: list[tuple[Tensor, ...]]
    where: Tensor
    rope: Rope


@dataclass
class Memory:
    """A target on its way: what the network keeps of the slots that it has run.

    Args:
        kept: keys and values, of every block.
        seen: ``(B, M + N)`` bool, which keys are there, of the context and then of the slots.
        slots: how many were run.
        gaps: whether a key among them, of the context or of a slot, is absent.
    """

    route: Route
    kept: list[KeyValues]
    seen: Tensor
    slots: int = 0
    gaps: bool = False

    def add(self, ids_BL: Tensor) -> tuple[int, int]:
        """Notes that slots are run: one for each id, and before the first of all one for the start.

        Returns:
            The first of them, and the one after the last.
        """
        begin, end = self.slots, self.slots + ids_BL.shape[1] + (self.slots == 0)
        absent_BL = ids_BL < 0
        if absent_BL.any():
            self.gaps = True
            last = self.seen.shape[1] - len(self.route.where) + end
            self.seen[:, last - ids_BL.shape[1] : last] = ~absent_BL
        self.slots = end
        return begin, end

    def legal(self, begin: int, end: int) -> Tensor | None:
        """Which keys the slots ``begin`` to ``end - 1``, the newest, may attend to; None is all."""
        if end - begin == 1 and not self.gaps:
            return None
        keys = self.seen.shape[1] - len(self.route.where) + end
        past = torch.ones(end - begin, keys, dtype=torch.bool, device=self.seen.device).tril(keys - (end - begin))
        return past & self.seen[:, None, None, :keys]


class CausalTransformer(nn.Module):
    """``(ids, text) -> logits``: the cells of all frames in one sequence, frame by frame, row by row.

    Slot i holds the id of cell i - 1, slot 0 a learned start, and says the logits of cell i from slots 0 to i. Queries
    stand, by 3-D rotary positions, where the cell is that they speak of, keys where the cell is whose id they hold. The
    condition gives keys to every attention, beside a learned one that stands for no text, and its mean modulates every
    norm; how far it is padded does not matter. An id below 0 is absent: its slot holds nothing, and no slot attends to it.

    Args:
        vocab: ids, >= 1.
        size: (T, H, W) of the largest target.
    """

    def __init__(
        self, vocab: int, size: tuple[int, int, int], cond_dim: int, dim: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.embed = _table(vocab, dim)
        self.start = nn.Parameter(torch.randn(dim) * 0.5)
        self.frame, self.row, self.column = (_table(places, dim) for places in size)
        self.no_text_key = nn.Parameter(torch.randn(cond_dim) * 0.02)
        self.text = nn.Linear(cond_dim, dim)
        modulation = nn.Linear(dim, 6 * dim)
        nn.init.normal_(modulation.weight, std=0.02)
        nn.init.zeros_(modulation.bias)
        self.modulation = nn.Sequential(nn.SiLU(), modulation)
        self.blocks = nn.ModuleList(
            CausalBlock(dim, heads, context_dim=cond_dim, dropout=dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, bias=False)
        self.out = nn.Linear(dim, vocab)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, ids_BTHW: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        """Ids ``(B, T, H, W)`` -> logits ``(B, T*H*W, vocab)``, those of a cell from the cells before it.

        ``frames_T`` are the frames' positions in the clip, 0 to T - 1 where None.
        """
        frames, rows, columns = ids_BTHW.shape[1:]
        route = self._route(cond, (frames, rows, columns), frames_T)
        held = ids_BTHW.flatten(1)[:, :-1]
        x = self._slots(held, 0) + route.where
        slots, context = x.shape[1], route.context.shape[1]
        past = torch.ones(slots, context + slots, dtype=torch.bool, device=x.device).tril(context)
        # the start is always there
        seen = torch.cat([route.told, torch.nn.functional.pad(held >= 0, (1, 0), value=True)], dim=1)
        legal = past & seen[:, None, None]
        for block, signals in zip(self._each(), route.signals, strict=True):
            x = block(x, signals, route.context, legal, route.rope)
        logits: Tensor = self.out(self.norm(x))
        return logits

    def begin(self, cond: Features, grid: tuple[int, int, int]) -> Memory:
        """What ``following`` remembers of a condition, for targets of ``grid`` = (T, H, W) yet to be made."""
        route = self._route(cond, grid, None)
        cells = len(route.where)
        kept = [KeyValues(*block.attention.of(route.context), cells) for block in self._each()]
        seen = torch.nn.functional.pad(route.told, (0, cells), value=True)
        return Memory(route, kept, seen, gaps=not bool(route.told.all()))

    def following(self, ids_BL: Tensor, memory: Memory) -> Tensor:
        """The logits of the next cell, ``(B, vocab)`` float32, after L more ids; L may be 0 in the first call."""
        begin, end = memory.add(ids_BL)
        route = memory.route
        x = self._slots(ids_BL, begin) + route.where[begin:end]
        legal = memory.legal(begin, end)
        rope = (route.rope[0][..., begin:end, :], route.rope[1][..., begin:end, :])
        for block, signals, kept in zip(self._each(), route.signals, memory.kept, strict=True):
            # not called but run: a compiled call would be compiled anew for every length
            x = block.forward(x, signals, kept, legal, rope)
        with torch.autocast(x.device.type, enabled=False):
            logits: Tensor = self.out(self.norm(x[:, -1].float()))
        return logits

    def _slots(self, ids_BL: Tensor, begin: int) -> Tensor:
        """Slots that hold these ids, after the start where they are the first; ``(B, L or L + 1, D)``."""
        x = self.embed(ids_BL.clamp(min=0)).masked_fill((ids_BL < 0).unsqueeze(-1), 0.0)
        return x if begin else torch.cat([self.start.to(x.dtype).expand(len(x), 1, -1), x], dim=1)

    def _each(self) -> list[CausalBlock]:
        return cast("list[CausalBlock]", list(self.blocks))

    def _route(self, cond: Features, grid: tuple[int, int, int], frames_T: Tensor | None) -> Route:
        on = cond.x.device
        if frames_T is None:
            frames_T = torch.arange(grid[0], device=on)
        # before the text stands a learned vector, so that "no text" is a text too
        no_text = self.no_text_key.to(cond.x.dtype)
        context = torch.cat([no_text.expand(len(cond.x), 1, -1), cond.x.masked_fill(~cond.mask.unsqueeze(-1), 0.0)], 1)
        told = torch.nn.functional.pad(cond.mask, (1, 0), value=True)
        pooled = torch.where(cond.mask.any(1, keepdim=True), cond.pooled(), no_text)
        modulation = self.modulation(self.text(pooled)).unflatten(-1, (6, -1))
        rows, columns = (torch.arange(n, device=on) for n in grid[1:])
        where = self.frame(frames_T)[:, None, None] + self.row(rows)[:, None] + self.column(columns)
        signals = [block.signals(modulation) for block in self._each()]
        return Route(context, told, signals, where.flatten(0, 2), self._rope(frames_T, grid[1:]))

    def _rope(self, frames_T: Tensor, grid: tuple[int, int]) -> Rope:
        cos, sin = rope_3d(frames_T, grid, self.head_dim)
        # the start stands before the first frame
        first_cos, first_sin = rope_3d(torch.full((1,), -1, device=frames_T.device), (1, 1), self.head_dim)
        cos = torch.stack([cos, torch.cat([first_cos, cos[:-1]])])
        sin = torch.stack([sin, torch.cat([first_sin, sin[:-1]])])
        return torch.cat([cos, cos], dim=-1)[:, None, None], torch.cat([-sin, sin], dim=-1)[:, None, None]


def _table(places: int, dim: int) -> nn.Embedding:
    made = nn.Embedding(places, dim)
    nn.init.normal_(made.weight, std=0.5)
    return made
