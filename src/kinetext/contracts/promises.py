"""Promises that every role makes: learning reaches everything, the state dict holds everything, rng decides."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from kinetext.interfaces import Generator, Shape, Task
from kinetext.runtime import rng
from kinetext.types import Features, Losses

M = TypeVar("M", bound=nn.Module)
ATOL = 1e-4  # how far two ways to the same float32 number may be apart


class ContractError(AssertionError):
    """A component breaks its role's contract. The message names the component and the promise."""


def require(holds: bool, who: object, message: str) -> None:
    if not holds:
        raise ContractError(f"{type(who).__name__}: {message}")


def close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=ATOL, atol=ATOL)


def finite(features: Features) -> bool:
    return bool(features.x[features.mask].isfinite().all() and features.pooled().isfinite().all())


def total_of(x: Tensor | Features) -> Tensor:
    """A scalar in which every number counts differently, so that no gradient cancels."""
    flat = (x.x[x.mask] if isinstance(x, Features) else x).float().flatten()
    return (flat * torch.randn(len(flat), generator=rng(0, "projection"))).sum()


def still_copy(module: M) -> M:
    """A copy in evaluation mode."""
    return copy.deepcopy(module).eval()


def shaken_copy(module: M) -> M:
    """A copy in training mode whose weights are moved a little: a gate that starts at zero is opened, so that
    gradients can be seen behind it.
    """
    other = copy.deepcopy(module).train()
    noise = rng(0, "shaken")
    with torch.no_grad():
        for tensor in other.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand(tensor.shape, generator=noise))
    return other


def check_learning(module: M, total: Callable[[M], Tensor]) -> None:
    shaken = shaken_copy(module)
    gradients_reach(module, [(n, p) for n, p in shaken.named_parameters() if p.requires_grad], total(shaken))


def gradients_reach(who: object, named: Sequence[tuple[str, nn.Parameter]], total: Tensor) -> None:
    if not named:
        return
    require(total.requires_grad, who, "the loss has no gradient")
    grads = torch.autograd.grad(total, [p for _, p in named], allow_unused=True)
    lost = [name for (name, _), grad in zip(named, grads, strict=True) if grad is None or not grad.any()]
    require(not lost, who, f"no gradient reaches {', '.join(lost)}")
    wild = [
        name for (name, _), grad in zip(named, grads, strict=True) if grad is not None and not grad.isfinite().all()
    ]
    require(not wild, who, f"the gradient of {', '.join(wild)} is not finite")


@torch.no_grad()
def check_state(module: M, run: Callable[[M], Tensor]) -> None:
    """Other weights, then the saved ones, through the very format of the run folder."""
    expected = run(still_copy(module))
    other = shaken_copy(module)
    try:
        state = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
        other.load_state_dict(safetensors.torch.load(safetensors.torch.save(state)))
    except (RuntimeError, ValueError) as error:
        raise ContractError(f"{type(module).__name__}: the state dict can't be saved and loaded ({error})") from error
    same = torch.equal(run(other.eval()), expected)
    require(same, module, "gives another result after its state dict went to disk and back")


def check_players(who: Generator | Task) -> None:
    """Players share no parameter, and leave none out."""
    require(len(who.players) > 0 and len(set(who.players)) == len(who.players), who, f"players are {who.players}")
    owner: dict[int, str] = {}
    for player in who.players:
        for name, parameter in who.parameters_of(player):
            before = owner.setdefault(id(parameter), player)
            require(before == player, who, f"{name} belongs to both {before} and {player}")
    lost = [name for name, p in who.named_parameters() if p.requires_grad and id(p) not in owner]
    require(not lost, who, f"no player trains {', '.join(lost)}")


def check_loss(who: object, players: Sequence[str], run: Callable[[str, int], Losses], *, random: bool) -> None:
    """``run(player, seed)`` is a pure function of both, and finite; ``random`` says whether the seed must matter: some
    other seed of twenty, since all that is random may be which few rows see no text.
    """
    for player in players:
        torch.manual_seed(1)
        first = run(player, 0)
        torch.manual_seed(2)
        second = run(player, 0)
        require(bool(first.total.isfinite()), who, f"the loss of {player} is {first.total.item()}")
        attached = [name for name, part in first.parts.items() if part.requires_grad]
        require(not attached, who, f"losses.parts still carry gradients: {', '.join(attached)}")
        require(torch.equal(first.total, second.total), who, f"two losses of {player} with the same rng differ")
        heeded = not random or any(not torch.equal(first.total, run(player, seed).total) for seed in range(1, 21))
        require(heeded, who, f"the loss of {player} ignores its rng")


def some_tokens(vocab: int) -> tuple[Tensor, Tensor]:
    """Three texts: of 6 tokens, of 3, and none."""
    x = torch.randint(vocab, (3, 6), generator=rng(0, "tokens"))
    return x, torch.arange(6) < torch.tensor([6, 3, 0])[:, None]


def some_clips(shape: Shape) -> tuple[Tensor, Tensor]:
    """Three clips: whole, short of its last frame, and none."""
    x = torch.rand((3, *shape), generator=rng(0, "clips")) * 2 - 1
    return x, torch.arange(shape[1]) < torch.tensor([shape[1], shape[1] - 1, 0])[:, None]


def some_features(dim: int, place: int) -> Features:
    """Four rows of features, of 5, 4, 3 and 2 real positions."""
    x = torch.randn(4, 5, dim, generator=rng(0, "features", place))
    return Features(x, torch.arange(5) < torch.tensor([5, 4, 3, 2])[:, None])
