"""A recurrent text encoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kinetext.interfaces import Encoder
from kinetext.types import Features, Modality, RecipeError


class LSTM(Encoder):
    """Token embeddings through long short-term memory, one way or both.

    Hochreiter & Schmidhuber 1997, with forget gates (Gers et al. 2000) that start open (Jozefowicz et al. 2015, "An
    Empirical Exploration of Recurrent Network Architectures"); both ways: Graves & Schmidhuber 2005.
    Only real tokens are read, whatever stands between or behind them: the way back begins at a text's last real token.

    Args:
        vocab: number of token ids (decided by the assembly).
        dim: width of the embeddings and of the features, >= 1; even where ``bidirectional``, since each way gives half.
        depth: layers, >= 1.
        bidirectional: read from the end as well.
        pooling: "none" gives one vector a token; "mean" and "max" one a text, over its tokens; "last" the state after
            all of the text, of either way where ``bidirectional``.
        dropout: on the embeddings and between layers, in [0, 1).

    Raises:
        RecipeError: when ``dim``, ``depth`` or ``dropout`` is outside its range.
    """

    modality: Modality = "text"

    def __init__(
        self,
        *,
        vocab: int = 32,
        dim: int = 64,
        depth: int = 1,
        bidirectional: bool = True,
        pooling: Literal["none", "last", "mean", "max"] = "none",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        ways = 2 if bidirectional else 1
        if dim < 1 or dim % ways:
            expected = "an even number >= 2, half of it for each way" if bidirectional else ">= 1"
            raise RecipeError(f"encoders.text.dim: {dim}, expected {expected}")
        if depth < 1:
            raise RecipeError(f"encoders.text.depth: {depth}, expected >= 1")
        if not 0 <= dropout < 1:
            raise RecipeError(f"encoders.text.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim, self.ways, self.pooling = dim, ways, pooling
        self.embedding = nn.Embedding(vocab, dim)
        nn.init.normal_(self.embedding.weight, std=0.5)
        self.dropout = nn.Dropout(dropout)
        between = dropout if depth > 1 else 0.0
        self.layers = nn.LSTM(dim, dim // ways, depth, batch_first=True, bidirectional=bidirectional, dropout=between)
        for name, parameter in self.layers.named_parameters():
            if name.startswith("bias_ih"):
                # the gates stand in the order input, forget, cell, output
                nn.init.constant_(parameter.chunk(4)[1], 1.0)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Tokens ``(B, L)`` int64 and mask ``(B, L)`` -> Features ``(B, L or 1, dim)``."""
        order_BL = (~mask).long().argsort(dim=1, stable=True)  # real tokens to the front
        tokens = x.masked_fill(~mask, 0).gather(1, order_BL)
        # packing takes no empty texts: one reads a token that is masked below
        lengths = mask.sum(1).clamp(min=1).cpu()
        packed = pack_padded_sequence(
            self.dropout(self.embedding(tokens)), lengths, batch_first=True, enforce_sorted=False
        )
        outputs, (last_NBH, _) = self.layers(packed)
        present = mask.any(1, keepdim=True)
        if self.pooling == "last":
            pooled = last_NBH[-self.ways :].transpose(0, 1).flatten(1)
            return Features(pooled.masked_fill(~present, 0.0).unsqueeze(1), present)
        h, _ = pad_packed_sequence(outputs, batch_first=True, total_length=mask.shape[1])
        h = h.gather(1, order_BL.argsort(dim=1).unsqueeze(-1).expand_as(h))  # and back to their places
        if self.pooling == "none":
            return Features(h.masked_fill(~mask.unsqueeze(-1), 0.0), mask)
        if self.pooling == "mean":
            pooled = Features(h, mask).pooled()
        else:
            pooled = h.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1).masked_fill(~present, 0.0)
        return Features(pooled.unsqueeze(1), present)
