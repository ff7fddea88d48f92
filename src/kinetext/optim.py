"""Optimisers, the learning-rate schedule, the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from kinetext.types import RecipeError

OptimizerName = Literal["adamw", "muon"]
Decay = Literal["cosine", "linear", "constant"]


def build(
    module: nn.Module,
    parameters: Iterable[tuple[str, nn.Parameter]],
    name: OptimizerName,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.99),
) -> list[torch.optim.Optimizer]:
    """The optimisers of one player, who owns ``parameters`` of ``module``.

    "adamw" (Loshchilov & Hutter 2019) decays matrices but not vectors. "muon" (Jordan et al. 2024)
    orthogonalises the updates of hidden matrices, at AdamW's update size (Liu et al. 2025, "Muon is
    Scalable for LLM Training", section 2.2), and leaves embeddings, convolutions and vectors to AdamW, whose
    ``betas`` are the decays of its averages of gradients and of their squares.
    """
    named = list(parameters)
    if not named:
        raise RecipeError("task: nothing to train, every parameter is frozen")
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    hidden = [p for _, p in named if name == "muon" and p.ndim == 2 and id(p) not in embeddings]
    taken = {id(p) for p in hidden}
    decayed = [p for _, p in named if id(p) not in taken and p.ndim >= 2]
    plain = [p for _, p in named if id(p) not in taken and p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    built: list[torch.optim.Optimizer] = []
    if groups:
        built.append(torch.optim.AdamW(groups, lr=lr, betas=betas, foreach=True))
    if hidden:
        built.append(torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    return built


def rate(progress: float, step: int, *, lr: float, warmup: int, decay: Decay, decay_fraction: float) -> float:
    """The learning rate: linear warm-up over ``warmup`` steps, flat, then down over the last
    ``decay_fraction`` of the run.

    Args:
        progress: how much of the run is behind, in [0, 1].
        step: steps behind, >= 0.
    """
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if decay == "constant":
        return lr * up
    left = min(1.0, (1.0 - progress) / decay_fraction)
    return lr * up * (left if decay == "linear" else 0.5 * (1.0 - math.cos(math.pi * left)))


class Ema:
    """An exponential moving average of trainable weights, with copies of the buffers.

    The decay of update n is min(decay, (1 + n) / (10 + n)), so that early weights are forgotten.

    Args:
        module: whose weights are followed.
        decay: in [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._module = module
        self.shadow = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average toward the weights as they are now."""
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        trained = {name: p for name, p in self._module.named_parameters() if p.requires_grad}
        names = list(trained)
        torch._foreach_lerp_([self.shadow[n] for n in names], [trained[n].detach() for n in names], weight)
        for name, buffer in self._module.named_buffers():
            if name in self.shadow:
                self.shadow[name].copy_(buffer)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the module holds the average; after, its own weights again."""
        own = {name: tensor.detach().clone() for name, tensor in self._module.state_dict().items()}
        self._module.load_state_dict(self.shadow)
        try:
            yield
        finally:
            self._module.load_state_dict(own)

    def load(self, shadow: dict[str, Tensor], updates: int) -> None:
        """Continues from a saved average."""
        for name, tensor in shadow.items():
            self.shadow[name].copy_(tensor)
        self.updates = updates
