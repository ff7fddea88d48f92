"""torchvision's classifiers as trunks: found by name, loaded strictly, their head taken off."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.nn.weights import load_strictly, read_file
from kinetext.types import RecipeError, joined, suggest

_WEIGHTS = "encoders.video.weights"
_SUFFIXES = (".pth", ".pt", ".safetensors")
# These refuse a state without torchvision's version numbers, which a run's safetensors file does not hold.
_LEFT_OUT = frozenset({"mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"})
_VISION_TRANSFORMERS = frozenset({"vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"})
# Both undo the statistics of their transforms inside, whenever torchvision builds them for its weights.
_OPTIONS: Mapping[str, Mapping[str, bool]] = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}  # classifiers half way up


class Pixels(nn.Module):
    """Frames as a pretrained network expects them.

    Args:
        mean: of each of the 3 channels, of pixels in [0, 1].
        std: likewise.
        side: that frames are brought to, in pixels (bilinear, antialiased); nothing happens to those that have it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """``(N, 1 or 3, H, W)`` in [-1, 1] -> ``(N, 3, side, side)``, standardised; one channel is seen as three."""
        frames = (frames + 1) / 2
        if frames.shape[2:] != (self.side, self.side):
            frames = F.interpolate(frames, (self.side, self.side), mode="bilinear", antialias=True)
        return (frames - self.mean) / self.std


@dataclass(frozen=True)
class Trunk:
    """A torchvision classifier without its head.

    Args:
        network: clips or frames -> what its last linear layer (or the 1x1 convolution in its place) read. A dropout
            right before that goes with it. Its parameters have torchvision's names.
        dim: width of that.
        side: of the square frames that its weights were trained with, in pixels.
        smallest: side that torchvision says it takes.
        fixed: whether it takes ``side`` only.
        mean: of the pixels in [0, 1] that its weights were trained with, by channel.
        std: likewise.
        licence: what its weights come under; "" where they are random.
    """

    network: nn.Module
    dim: int
    side: int
    smallest: int
    fixed: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str

    def pixels(self, channels: int, side: int) -> Pixels:
        """What makes frames of ``channels`` into such of ``side`` pixels that the network knows.

        Raises:
            RecipeError: neither 1 nor 3 channels.
        """
        if channels not in (1, 3):
            raise RecipeError(f"encoders.video.channels: {channels}, expected 3, or 1 that is seen as three")
        return Pixels(self.mean, self.std, side)


def image_models() -> list[str]:
    """Names of torchvision's classifiers of pictures, but for mnasnet, whose state can't be read from safetensors."""
    from torchvision import models  # type: ignore[import-untyped]

    return [name for name in models.list_models(module=models) if name not in _LEFT_OUT]


def trunk(field: str, name: str, legal: Collection[str], weights: str, *, kept: bool = False) -> Trunk:
    """A classifier of torchvision, without its head.

    Args:
        field: the option that names it, for messages.
        name: as torchvision's ``list_models`` says it.
        legal: names to choose from.
        weights: the name of torchvision's own for it ("DEFAULT", "KINETICS400_V1", ...), fetched once into torch's
            cache; or a file with the state of the whole classifier; "" is random.
        kept: reads and fetches no weights, since others follow; all else is as with them.

    Raises:
        RecipeError: no such model or weights, weights that can't be fetched, do not fit, or are not finite.
    """
    from torchvision import models

    if name not in legal:
        raise RecipeError(f"{field}: no model {name!r}{suggest(name, legal)}; expected one of {joined(sorted(legal))}")
    known = models.get_model_weights(name)
    chosen = _chosen(known.__members__, weights)
    trained = known.DEFAULT if chosen is None or isinstance(chosen, Path) else chosen
    preset = trained.transforms()
    side = int(preset.crop_size[0])
    options: dict[str, Any] = dict(_OPTIONS.get(name, {}))
    if name in _VISION_TRANSFORMERS:
        options["image_size"] = side  # that of some weights is another than most
    network: Any = models.get_model(name, weights=None, **options)
    if chosen is not None and not kept:
        _load(network, chosen)
    for part in _AUXILIARY.get(name, ()):
        network.aux_logits = False
        setattr(network, part, None)
    dim = _take_off_head(network)
    if chosen is not None and not kept:
        _check_finite(network, weights)
    smallest = int(trained.meta["min_size"][0])
    fixed = name in _VISION_TRANSFORMERS or name == "maxvit_t"
    return Trunk(network, dim, side, smallest, fixed, tuple(preset.mean), tuple(preset.std), _licence(name, chosen))


def _chosen(known: Mapping[str, Any], weights: str) -> Any | Path | None:
    """The member of the model's enum, the file, or None for random weights."""
    if not weights:
        return None
    if weights in known:
        return known[weights]
    if Path(weights).suffix in _SUFFIXES:
        return Path(weights)
    raise RecipeError(
        f"{_WEIGHTS}: {weights!r}{suggest(weights, known)}; expected one of {joined(sorted(known))}, "
        f'a file ({joined(_SUFFIXES)}), or "" for random ones'
    )


def _load(network: nn.Module, chosen: Any | Path) -> None:
    found = read_file(_WEIGHTS, chosen) if isinstance(chosen, Path) else _fetched(chosen)
    if not any(name.endswith("num_batches_tracked") for name in found):
        # written before PyTorch 0.4.1, whose batch norm had no such counter
        found |= {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    load_strictly(_WEIGHTS, network, found)


def _fetched(member: Any) -> dict[str, Tensor]:
    """torchvision's own weights; what is in torch's cache is not fetched again."""
    try:
        found = member.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # no network, a broken file in the cache
        raise RecipeError(
            f"{_WEIGHTS}: {member.name} can't be fetched and read ({error}); get {member.url} in another way, and name "
            f"the file here"
        ) from error
    # densenet's files are from a time when names of modules could hold a dot
    return {re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): v for name, v in found.items()}


def _take_off_head(network: nn.Module) -> int:
    """Replaces the last linear or convolutional layer, and a dropout right before it, and says what it read."""
    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    last = max(i for i, (_, module) in enumerate(leaves) if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d))
    name, head = leaves[last]
    network.set_submodule(name, nn.Identity())
    before, dropout = leaves[last - 1]
    if isinstance(dropout, nn.Dropout):
        network.set_submodule(before, nn.Identity())
    return head.in_features if isinstance(head, nn.Linear) else int(head.in_channels)


def _check_finite(network: nn.Module, weights: str) -> None:
    """Some of torchvision's files hold the lower layers alone, and NaN for the others."""
    wild = [k for k, v in network.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    if wild:
        raise RecipeError(f"{_WEIGHTS}: {weights} has numbers that are not finite: {joined(wild[:8])}")


def _licence(name: str, chosen: Any | Path | None) -> str:
    if chosen is None:
        return ""
    if isinstance(chosen, Path):
        return f"torchvision {name}: code BSD-3-Clause, started from the weights in {chosen.name} (their own licence)"
    data = joined(list(chosen.meta["_metrics"]))
    terms = chosen.meta.get("license", "research terms of that set")
    return f"torchvision {name} {chosen.name}: code BSD-3-Clause, weights trained on {data} ({terms})"
