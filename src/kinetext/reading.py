"""What tasks that read text and video share: encoders side by side, their fusion, columns and absence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kinetext.interfaces import Encoder, Fusion
from kinetext.types import MODALITIES, Batch, Features, Modality, RecipeError, Target, joined


def encode(encoders: nn.ModuleDict, batch: Batch) -> dict[Modality, Features]:
    """Every encoder on its modality; what a frozen one made before is taken as it is."""
    found: dict[Modality, Features] = {}
    for modality in MODALITIES:
        if modality not in encoders:
            continue
        encoder = encoders[modality]
        found[modality] = (
            batch.encoded[modality] if modality in batch.encoded else encoder(*_input(encoder, modality, batch))
        )
    return found


def _input(encoder: nn.Module, modality: Modality, batch: Batch) -> tuple[Tensor, Tensor]:
    if encoder.reads_vectors:
        return batch.vectors[modality].x, batch.vectors[modality].mask
    return (batch.tokens, batch.token_mask) if modality == "text" else (batch.video, batch.video_mask)


def joint(encoders: nn.ModuleDict, fusion: Fusion | None, batch: Batch) -> Features:
    """The features of the only encoder, or those of all of them fused."""
    features = encode(encoders, batch)
    return next(iter(features.values())) if fusion is None else fusion(features)


def width(encoders: Mapping[str, Encoder], fusion: Fusion | None) -> int:
    """The width of what ``joint`` gives."""
    return next(iter(encoders.values())).dim if fusion is None else fusion.dim


def freeze(encoders: Mapping[str, Encoder], names: Iterable[str]) -> None:
    """Takes the gradients from the encoders called ``names``; ``still`` keeps them as they are in training.

    Raises:
        RecipeError: a name without an encoder.
    """
    for name in names:
        if name not in encoders:
            raise RecipeError(f"task.frozen: {name!r} is not encoded, expected names from: {joined(list(encoders))}")
        encoders[name].requires_grad_(False)


def still(encoders: nn.ModuleDict, names: Iterable[str]) -> None:
    """Frozen encoders stay in evaluation mode: no dropout, no new batch statistics."""
    for name in names:
        encoders[name].eval()


def check_parts(encoders: Mapping[str, Encoder], fusion: Fusion | None, modality_dropout: float) -> None:
    """Refuses encoders and a fusion that don't belong together.

    Raises:
        RecipeError: no encoder, one in another's place, two without a fusion, or one with something to join.
    """
    if not encoders or not set(encoders) <= set(MODALITIES):
        raise RecipeError(f"encoders: {joined(list(encoders))}, expected one or both of {joined(MODALITIES)}")
    for name, encoder in encoders.items():
        if encoder.modality != name:
            raise RecipeError(f"encoders.{name}: {type(encoder).__name__} reads {encoder.modality}, expected {name}")
    if len(encoders) > 1 and fusion is None:
        raise RecipeError(f"fusion: none, expected one to join {' and '.join(encoders)}")
    if len(encoders) == 1 and fusion is not None:
        raise RecipeError(
            f"fusion: {joined(list(encoders))} alone has nothing to join, expected two encoders or no fusion"
        )
    if len(encoders) == 1 and modality_dropout > 0:
        raise RecipeError(f"task.modality_dropout: {modality_dropout}, expected 0 with {joined(list(encoders))} alone")


def check_share(name: str, value: float) -> None:
    """Refuses a share that is not in [0, 1)."""
    if not 0 <= value < 1:
        raise RecipeError(f"task.{name}: {value}, expected 0 <= {name} < 1")


def chosen(columns: Sequence[Target], names: Sequence[str], *, numeric: bool) -> tuple[Target, ...]:
    """The columns called ``names``, in that order; all of the kind for ().

    Args:
        numeric: columns of numbers, or of classes.

    Raises:
        RecipeError: for a name that is not such a column, twice the same, no column at all, or a column with too
            few classes to tell apart.
    """
    kind = "column of numbers" if numeric else "label column"
    known = {column.name: column for column in columns if column.numeric == numeric}
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        what = f"{unknown[0]!r} is not a {kind}" if unknown else f"{list(names)} names a column twice"
        raise RecipeError(f"task.targets: {what}, expected names from: {joined(list(known))}")
    picked = tuple(known[name] for name in names or known)
    if not picked:
        raise RecipeError(f"task.targets: the data has no {kind}, expected at least one")
    for column in picked:
        least = 0 if numeric else 1 if column.multi else 2
        if len(column.classes) < least:
            raise RecipeError(f"task.targets: {column.name!r} has {len(column.classes)} classes, expected >= {least}")
    return picked


def drop_modality(batch: Batch, probability: float, rng: torch.Generator) -> Batch:
    """Takes one modality from a random share of the samples that have both."""
    dice = torch.rand(2, len(batch), generator=rng, device=rng.device).to(batch.weight.device)
    both = batch.has("text") & batch.has("video")
    drop = both & (dice[0] < probability)
    text = drop & (dice[1] < 0.5)
    return batch.drop("text", text).drop("video", drop & ~text)


def mean(values: Tensor, weights: Tensor, real: Tensor) -> Tensor:
    """The sum of ``values`` over that of ``weights``, real rows only; 0, with gradients, if there are none."""
    total = (weights * real).sum()
    return (values * real).sum() / torch.where(total > 0, total, 1.0)
