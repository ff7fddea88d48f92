"""Precomputed vectors in the place of a text or a clip."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import Block
from kinetext.types import Features, Modality, RecipeError


class PrecomputedFeatures(Encoder):
    """Vectors from files (``data.text_vectors``, ``data.video_vectors``), brought to one scale and width.

    Args:
        modality: that they stand for (decided by the assembly).
        vector_dim: their width, >= 1 (decided by the assembly).
        dim: width of the features, an even multiple of ``heads`` where there are blocks; 0 leaves the vectors as
            wide as they are, without a projection.
        scale: "batch" brings every number of the vectors to mean 0 and variance 1 over the training data (batch
            normalisation without weights, Ioffe & Szegedy 2015), "layer" every vector by itself, "none" neither.
        depth: transformer blocks over the positions of a sequence of vectors, >= 0.
        heads: of these blocks.
        dropout: on the scaled vectors and inside the blocks, in [0, 1).

    Raises:
        RecipeError: when an option is outside its range.
    """

    modality: Modality = "video"
    reads_vectors: ClassVar[bool] = True

    def __init__(
        self,
        *,
        modality: Modality = "video",
        vector_dim: int = 32,
        dim: int = 64,
        scale: Literal["batch", "layer", "none"] = "batch",
        depth: int = 0,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        where = f"encoders.{modality}"
        if dim < 0 or depth < 0:
            raise RecipeError(f"{where}: dim {dim} and depth {depth}, expected both >= 0")
        if not 0 <= dropout < 1:
            raise RecipeError(f"{where}.dropout: {dropout}, expected 0 <= dropout < 1")
        self.modality, self.dim = modality, dim or vector_dim
        if depth and (heads < 1 or self.dim % (2 * heads)):
            raise RecipeError(f"{where}.dim: {self.dim}, expected an even multiple of heads = {heads}")
        self.vector_dim, self.scale = vector_dim, scale
        self.batch_norm = nn.BatchNorm1d(vector_dim, affine=False) if scale == "batch" else None
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(vector_dim, dim) if dim else nn.Identity()
        self.blocks = nn.ModuleList(Block(self.dim, heads, dropout=dropout) for _ in range(depth))
        self.norm = RMSNorm(self.dim) if depth else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Vectors ``(B, L, vector_dim)`` and mask ``(B, L)`` -> Features ``(B, L, dim)``."""
        if x.shape[2] != self.vector_dim:
            raise ValueError(f"{self.modality} vectors: width {x.shape[2]}, expected {self.vector_dim}")
        h = self._scaled(x.masked_fill(~mask.unsqueeze(-1), 0.0), mask)
        h = self.project(self.dropout(h))
        for block in self.blocks:
            h = block(h, mask)
        return Features(self.norm(h).masked_fill(~mask.unsqueeze(-1), 0.0), mask)

    def _scaled(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.scale == "layer":
            return nn.functional.layer_norm(x, x.shape[2:])
        # one vector has no variance: a batch norm in training needs two
        if self.batch_norm is None or not mask.any() or (self.training and mask.sum() < 2):
            return x
        # only what is real enters the statistics
        return x.index_put((mask,), self.batch_norm(x[mask]).to(x.dtype))
