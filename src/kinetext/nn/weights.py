"""Pretrained weights from files, loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kinetext.types import RecipeError

_SHOWN = 8  # keys that one message names


def read_file(field: str, path: Path | str) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pt or .pth file, by name; never unpickles code.

    A file that holds its state under "state_dict" or "model", as training scripts write it, is opened there.

    Args:
        field: the option that names the file, for messages.

    Raises:
        RecipeError: no such file, or it holds no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{field}: no file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load trips over foreign bytes in many ways
        raise RecipeError(f"{field}: {path} can't be read as weights ({error})") from error
    for name in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise RecipeError(f"{field}: {path} holds no named tensors, expected a state dict")
    return dict(found)


def load_strictly(field: str, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies ``weights`` into ``module``; every key and shape has to fit.

    Args:
        field: the option that names the weights, for messages.

    Raises:
        RecipeError: listing the missing and the unexpected keys, and those of another shape.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f"{name} {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    wrong = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    found = [f"{len(names)} keys {what}: {_some(names)}" for what, names in wrong if names]
    if found:
        raise RecipeError(f"{field}: the weights do not fit: {'; '.join(found)}")
    module.load_state_dict(dict(weights))


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
