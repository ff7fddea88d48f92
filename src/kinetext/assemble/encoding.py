"""Frozen encoders run once a clip: what they make is kept on disk, and taken from there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import cast

import safetensors.torch
import torch
from torch import Tensor

import kinetext
from kinetext import runtime
from kinetext.assemble.loading import collate, tokenizer
from kinetext.checkpoint import Meta
from kinetext.config import Recipe
from kinetext.datasets.encoded import Encoded, WithLatents
from kinetext.datasets.shards import Shards
from kinetext.interfaces import Codec, Dataset, Encoder, Task
from kinetext.reading import encode
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import Modality, Progress, RecipeError, Sample


def encoded(
    recipe: Recipe, meta: Meta, built: Task, data: Dataset, device: torch.device, progress: Progress | None = None
) -> tuple[Dataset, dict[Modality, int]]:
    """``data`` with what the frozen encoders of ``built`` make of it, or its codec made of it when it was packed.

    Clips that are not the same in every epoch (random crops, mirrored), and data without files behind its clips, are
    encoded in every step, as are precomputed vectors, whose encoder is small.

    Returns:
        The data as it is trained on, and modality -> width of what is kept.
    """
    latents = _latents(recipe, built.plain(), data, device)
    if latents:
        return latents
    frozen = {modality: cast(Encoder, built.plain().get_submodule(f"encoders.{modality}")) for modality in built.frozen}
    kept: dict[Modality, Encoder] = {
        modality: encoder for modality, encoder in frozen.items() if _once(modality, encoder, data)
    }
    if not kept:
        return data, {}
    module = torch.nn.ModuleDict()
    for modality, encoder in kept.items():
        module[modality] = encoder
    module.to(device).eval()
    ready = collate(recipe, meta)

    @torch.no_grad()
    def make(samples: Sequence[Sample]) -> Mapping[Modality, list[Tensor]]:
        with runtime.autocast(recipe.train.precision, device):
            found = encode(module, ready(samples).to(device))
        return {
            modality: [x[mask].float().cpu() for x, mask in zip(one.x, one.mask, strict=True)]
            for modality, one in found.items()
        }

    names = {modality: _name(recipe, meta, modality, encoder, device) for modality, encoder in kept.items()}
    dims = {modality: encoder.dim for modality, encoder in kept.items()}
    return Encoded(data, names, make, runtime.cache_folder() / "encoded", progress), dims


def _latents(
    recipe: Recipe, task: Task, data: Dataset, device: torch.device
) -> tuple[Dataset, dict[Modality, int]] | None:
    """``data`` with the targets that were packed beside its clips, where the task keeps targets and they are its own."""
    if not (isinstance(task, TextToVideo) and task.cache_targets and isinstance(data, Shards) and data.latents):
        return None
    made = data.latents
    if made["codec"] != codec_name(recipe, task.codec):
        raise RecipeError(
            "task.cache_targets: true, but the latents of data.root were packed with another codec than this one; name "
            "that run in init.codec, or pack again with --run"
        )
    if made["video_shape"] != list(data.video_shape or ()) or data.look.clip_seconds:
        raise RecipeError(
            f"task.cache_targets: true, but the latents of data.root are of whole clips (C, T, H, W) {made['video_shape']}, "
            f"and this recipe asks for {list(data.video_shape or ())} of {data.look.clip_seconds or 'all'} seconds"
        )
    return WithLatents(data, data.latent), {"video": task.target_size[0]}


def codec_name(recipe: Recipe, codec: Codec) -> str:
    """What tells a codec from all others: its options and weights."""
    assert recipe.codec is not None
    weights = {name: tensor.cpu().contiguous() for name, tensor in codec.state_dict().items()}
    digest = hashlib.sha256(safetensors.torch.save(weights)).hexdigest()
    told = repr((recipe.codec.name, sorted(recipe.codec.args.items()), digest))
    return hashlib.sha256(told.encode()).hexdigest()


def _once(modality: Modality, encoder: Encoder, data: Dataset) -> bool:
    """Whether what an encoder makes of a sample is always the same, and can be found again."""
    if encoder.reads_vectors:
        return False
    if modality == "text":
        return data.fixed_text
    return data.fixed and any(data.fingerprint(index) for index in range(len(data)))


def _name(recipe: Recipe, meta: Meta, modality: Modality, encoder: Encoder, device: torch.device) -> str:
    """What tells an encoder from all others: its options, its weights, and how it is fed."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    digest = hashlib.sha256(safetensors.torch.save(weights)).hexdigest()
    words = tokenizer(recipe, meta) if modality == "text" else None
    fed = (recipe.text, words.vocabulary) if words else meta.video_shape
    options = sorted(recipe.encoders[modality].args.items())
    in_16_bits = recipe.train.precision == "bf16" or (
        recipe.train.precision == "auto" and runtime.has_fast_bf16(device)
    )
    return repr((recipe.encoders[modality].name, options, digest, fed, in_16_bits, device.type, _versions()))


def _versions() -> list[str]:
    """Of everything whose change may change features."""
    found = [f"kinetext {kinetext.__version__}"]
    for library in ("torch", "torchvision", "transformers", "av"):
        with suppress(PackageNotFoundError):
            found.append(f"{library} {version(library)}")
    return found
