"""Multi-head attention with query-key normalisation, optional rotary positions and extra context."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.nn.norm import RMSNorm


class Attention(nn.Module):
    """Attention of a sequence to itself, to a context, or to both at once.

    Vaswani et al. 2017, "Attention Is All You Need"; queries and keys are RMS-normalised per head
    (Henry et al. 2020, "Query-Key Normalization").

    Args:
        dim: width of the sequence, a multiple of ``heads``.
        heads: number of heads.
        context_dim: width of an outside context; None means there is none.
        attend_self: whether the sequence's own positions are among the keys.
    """

    def __init__(self, dim: int, heads: int, *, context_dim: int | None = None, attend_self: bool = True) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim: {dim} is not a multiple of heads = {heads}")
        if not attend_self and context_dim is None:
            raise ValueError("attend_self: False needs a context_dim, or there is nothing to attend to")
        self.heads = heads
        self.attend_self = attend_self
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False) if attend_self else None
        self.context_kv = nn.Linear(context_dim, 2 * dim, bias=False) if context_dim is not None else None
        self.q_norm = RMSNorm(dim // heads)
        self.k_norm = RMSNorm(dim // heads)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(
        self,
        x_BLD: Tensor,
        mask_BL: Tensor | None = None,
        context_BMD: Tensor | None = None,
        context_mask_BM: Tensor | None = None,
        rope: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """``(B, L, D)`` -> ``(B, L, D)``; a query with no real key to attend to gets zeros."""
        q_BNLE = self.q_norm(self._split(self.q(x_BLD)))
        q_BNLE = q_BNLE if rope is None else rotate(q_BNLE, rope)
        keys, values, masks = [], [], []
        if self.kv is not None:
            k, v = map(self._split, self.kv(x_BLD).chunk(2, dim=-1))
            k = self.k_norm(k)
            keys.append(k if rope is None else rotate(k, rope))
            values.append(v)
            masks.append((mask_BL, x_BLD))
        if self.context_kv is not None:
            if context_BMD is None:
                raise ValueError("context_BMD: this attention was built with a context and got none")
            k, v = map(self._split, self.context_kv(context_BMD).chunk(2, dim=-1))
            keys.append(self.k_norm(k))
            values.append(v)
            masks.append((context_mask_BM, context_BMD))
        out = _attend(q_BNLE, keys, values, _joined_mask(masks))
        return self.out(out.transpose(1, 2).flatten(2))

    def _split(self, x_BLD: Tensor) -> Tensor:
        return x_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _joined_mask(masks: list[tuple[Tensor | None, Tensor]]) -> Tensor | None:
    if all(mask is None for mask, _ in masks):
        return None
    ones = [torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if m is None else m for m, x in masks]
    return torch.cat(ones, dim=1)


def _attend(q: Tensor, keys: list[Tensor], values: list[Tensor], mask_BM: Tensor | None) -> Tensor:
    k = torch.cat(keys, dim=2).to(q.dtype)
    v = torch.cat(values, dim=2)
    q, k = q.to(v.dtype), k.to(v.dtype)
    if mask_BM is None:
        return scaled_dot_product(q, k, v, None)
    some_B = mask_BM.any(dim=1)
    # softmax over nothing is NaN: such rows attend to everything, and the result is zeroed
    legal = (mask_BM | ~some_B[:, None])[:, None, None, :]
    # 0 * NaN is NaN, so what stands at masked positions is removed, not only weighted by zero
    k = k.masked_fill(~mask_BM[:, None, :, None], 0.0)
    v = v.masked_fill(~mask_BM[:, None, :, None], 0.0)
    return scaled_dot_product(q, k, v, legal)


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, legal: Tensor | None) -> Tensor:
    """``softmax(q k^T / sqrt(E)) v`` (Vaswani et al. 2017, eq. 1); ``legal`` is broadcast, True = attend.

    PyTorch's fused kernel, except in training on a processor: there its backward pass over short sequences
    is several times slower than two matrix products around a softmax (LOG.md, "Attention on a processor").
    """
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=legal)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if legal is not None:
        scores = scores.masked_fill(~legal, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


def rotate(x_BNLE: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021, RoFormer, eq. 34): pairs are (i, i + E/2)."""
    cos_LE, sin_LE = rope
    a, b = x_BNLE.chunk(2, dim=-1)
    return torch.cat([a * cos_LE - b * sin_LE, b * cos_LE + a * sin_LE], dim=-1).to(x_BNLE.dtype)
