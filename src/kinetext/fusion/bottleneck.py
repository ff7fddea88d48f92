"""Joins modalities that speak to each other through a few shared tokens only."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kinetext.interfaces import Fusion
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import Block
from kinetext.types import Features, RecipeError

TOY_DIMS: Mapping[str, int] = {"text": 32, "video": 32}


class Bottleneck(Fusion):
    """The Multimodal Bottleneck Transformer: each modality has its own transformer and class token, and all that
    passes between modalities passes through a few bottleneck tokens.

    Nagrani et al. 2021, "Attention Bottlenecks for Multimodal Fusion", section 3.2, eqs. 8-9: in every fusion layer a
    modality's block sees its own tokens and the bottleneck tokens, and what the blocks made of the bottleneck tokens
    is averaged; section 3.3: earlier layers are of one modality each. The paper averages the logits that one linear
    head gives the modalities' class tokens. Heads are linear here too, so it is the normalised class tokens that
    are averaged, and the logits are the same. Both means are over the modalities that a sample has: an absent one
    counts for nothing.

    Args:
        dims: modality -> width of its features, at least two (decided by the assembly).
        dim: width inside and of the result, a multiple of ``heads``.
        depth: transformer blocks of each modality, >= 2.
        heads: attention heads, >= 1.
        bottlenecks: shared tokens, >= 1.
        fusion_layer: the first layer with bottleneck tokens, 0 to ``depth - 2``: what one layer puts into them,
            the next one reads, so a single fusion layer would join nothing.
        dropout: on the projected tokens and inside the blocks, in [0, 1).

    Raises:
        RecipeError: when an option is outside its range.
    """

    def __init__(
        self,
        *,
        dims: Mapping[str, int] = TOY_DIMS,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        bottlenecks: int = 4,
        fusion_layer: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(dims) < 2:
            raise RecipeError(f"fusion: a bottleneck between {list(dims)}, expected at least two modalities")
        if heads < 1:
            raise RecipeError(f"fusion.heads: {heads}, expected >= 1")
        if dim < 1 or dim % heads:
            raise RecipeError(f"fusion.dim: {dim}, expected a multiple of heads = {heads}")
        if depth < 2:
            raise RecipeError(f"fusion.depth: {depth}, expected >= 2")
        if bottlenecks < 1:
            raise RecipeError(f"fusion.bottlenecks: {bottlenecks}, expected >= 1")
        if not 0 <= fusion_layer <= depth - 2:
            raise RecipeError(f"fusion.fusion_layer: {fusion_layer}, expected 0 to depth - 2 = {depth - 2}")
        if not 0 <= dropout < 1:
            raise RecipeError(f"fusion.dropout: {dropout}, expected 0 <= dropout < 1")
        self.dim = dim
        self.fusion_layer = fusion_layer
        self.project = nn.ModuleDict({name: nn.Linear(width, dim) for name, width in dims.items()})
        # learned tokens start small (Devlin et al. 2019, BERT), so that what is seen is heard from the first step on
        self.class_tokens = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in dims})
        self.bottlenecks = nn.Parameter(0.02 * torch.randn(bottlenecks, dim))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(list(dims), dim, heads, dropout) for _ in range(depth))
        self.norm = RMSNorm(dim)

    def forward(self, features: Mapping[str, Features]) -> Features:
        """Features of every modality of ``dims`` -> Features ``(B, 1, dim)``; masked where all are absent."""
        present = torch.stack([features[name].mask.any(1) for name in self.project], dim=1)
        tokens: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for name, project in self.project.items():
            one = features[name]
            # what stands at masked positions may be anything, NaN too
            h = self.dropout(project(one.x.masked_fill(~one.mask.unsqueeze(-1), 0.0)))
            tokens[name] = torch.cat([self.class_tokens[name].expand(len(h), 1, -1), h], dim=1)
            masks[name] = torch.cat([torch.ones_like(present[:, :1]), one.mask], dim=1)
        shared = self.bottlenecks.expand(len(present), -1, -1)
        for number, layer in enumerate(self.layers):
            if number < self.fusion_layer:
                tokens, _ = layer(tokens, masks, shared[:, :0], present)
            else:
                tokens, shared = layer(tokens, masks, shared, present)
        classes = torch.stack([self.norm(tokens[name][:, 0]) for name in self.project], dim=1)
        return Features(Features(classes, present).pooled().unsqueeze(1), present.any(1, keepdim=True))


class Layer(nn.Module):
    """One block a modality, over its own tokens and the shared ones."""

    def __init__(self, names: list[str], dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({name: Block(dim, heads, dropout=dropout) for name in names})

    def forward(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], shared: Tensor, present: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """New tokens of every modality, and the mean of what those ``present (B, M)`` made of ``shared (B, K, D)``;
        with K = 0 every modality stays by itself.
        """
        seen: dict[str, Tensor] = {}
        made: list[Tensor] = []
        always = torch.ones(shared.shape[:2], dtype=torch.bool, device=shared.device)
        for name, block in self.blocks.items():
            both = block(torch.cat([tokens[name], shared], dim=1), torch.cat([masks[name], always], dim=1))
            seen[name], own = both.split([tokens[name].shape[1], shared.shape[1]], dim=1)
            made.append(own)
        share = (present / present.sum(1, keepdim=True).clamp(min=1)).to(shared.dtype)
        return seen, (torch.stack(made, dim=1) * share[:, :, None, None]).sum(1)
