"""The contracts of encoders and fusions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from kinetext.contracts.promises import (
    check_learning,
    check_state,
    close,
    finite,
    require,
    some_clips,
    some_features,
    some_tokens,
    still_copy,
    total_of,
)
from kinetext.interfaces import Encoder, Fusion, Shape
from kinetext.types import MODALITIES, Features


def check_encoder(encoder: Encoder, *, vocab: int = 32, shape: Shape = (3, 4, 64, 64), vector_dim: int = 32) -> None:
    """Checks an encoder.

    Args:
        vocab: token ids that a text encoder was built for.
        vector_dim: width of the precomputed vectors that an encoder of such was built for.
        shape: (C, T, H, W) that a video encoder was built for; T >= 2.

    Raises:
        ContractError: shapes or masks are wrong, masked positions or other rows of the batch matter, a
            parameter gets no gradient, or the state dict does not hold everything.
    """
    require(encoder.modality in MODALITIES, encoder, f"modality is {encoder.modality!r}, expected one of {MODALITIES}")
    if encoder.reads_vectors:
        given = some_features(vector_dim, 0)
        x, mask = given.x[:3], given.mask[:3].clone()
        mask[2] = False
    else:
        x, mask = some_tokens(vocab) if encoder.modality == "text" else some_clips(shape)
    with torch.random.fork_rng(devices=[]):
        _check_features(encoder, lambda module, x, mask: module(x, mask), x, mask)
        if encoder.reads_vectors:
            garbage = torch.where(mask[..., None], x, float("nan"))
        elif encoder.modality == "text":
            garbage = torch.where(mask, x, (x + 1) % vocab)
        else:
            garbage = torch.where(mask[:, None, :, None, None], x, float("nan"))
        still = still_copy(encoder)
        _same_features(encoder, still(x, mask), still(garbage, mask), "what stands at masked positions")
        if encoder.modality == "video" and not encoder.reads_vectors:
            image = still(x[:, :, :1], torch.ones(len(x), 1, dtype=torch.bool))
            require(finite(image), encoder, "an image, a video of one frame, gives numbers that are not finite")


def check_fusion(fusion: Fusion, *, dims: Mapping[str, int] | None = None) -> None:
    """Checks a fusion.

    Args:
        dims: modality -> width that the fusion was built for; 32 each by default.

    Raises:
        ContractError: as for an encoder, or the order of the modalities matters.
    """
    dims = dims or dict.fromkeys(MODALITIES, 32)
    names = list(dims)
    given = {name: some_features(dim, place) for place, (name, dim) in enumerate(dims.items())}
    # row 0 has everything, row 1 lacks the first, row 2 lacks the rest, row 3 has nothing
    for place, name in enumerate(names):
        given[name].mask[1 if place == 0 else 2] = False
        given[name].mask[3] = False

    def fuse(module: nn.Module, *parts: Tensor) -> Features:
        pairs = zip(names, parts[::2], parts[1::2], strict=True)
        joint: Features = module({name: Features(x, mask) for name, x, mask in pairs})
        return joint

    parts = [t for name in names for t in (given[name].x, given[name].mask)]
    with torch.random.fork_rng(devices=[]):
        still = still_copy(fusion)
        joint = still(given)
        require(joint.x.shape[0] == 4, fusion, f"gives {joint.x.shape[0]} rows for a batch of 4")
        require(joint.x.shape[2] == fusion.dim, fusion, f"gives width {joint.x.shape[2]}, and says dim = {fusion.dim}")
        require(finite(joint), fusion, "gives numbers that are not finite where a modality is absent")
        require(bool(joint.mask[:3].any(1).all()), fusion, "masks a row that has a modality")
        garbage = {n: Features(torch.where(f.mask[..., None], f.x, float("nan")), f.mask) for n, f in given.items()}
        _same_features(fusion, joint, still(garbage), "what stands at masked positions")
        backwards = {name: given[name] for name in reversed(names)}
        _same_features(fusion, joint, still(backwards), "the order of the modalities")
        for row, name in ((1, names[-1]), (2, names[0])):
            other = {**given, name: Features(given[name].x + 1, given[name].mask)}
            moved = not close(joint.pooled()[row], still(other).pooled()[row])
            require(moved, fusion, f"ignores {name} where it is the only modality")
        _check_alone(fusion, fuse, parts)
        check_learning(fusion, lambda module: total_of(fuse(module, *parts)))
        check_state(fusion, lambda module: fuse(module, *parts).pooled())


def _check_features(encoder: Encoder, run: Callable[..., Features], x: Tensor, mask: Tensor) -> None:
    found = run(still_copy(encoder), x, mask)
    rows, _, width = found.x.shape
    require(rows == len(x), encoder, f"gives {rows} rows for a batch of {len(x)}")
    require(width == encoder.dim, encoder, f"gives width {width}, and says dim = {encoder.dim}")
    require(not found.mask[2].any(), encoder, "says that a missing modality has features")
    require(bool(found.mask[:2].any(1).all()), encoder, "says that a present modality has no features")
    require(finite(found), encoder, "gives numbers that are not finite")
    _check_alone(encoder, run, [x, mask])
    check_learning(encoder, lambda module: total_of(run(module, x, mask)))
    check_state(encoder, lambda module: run(module, x, mask).pooled())


def _same_features(who: object, a: Features, b: Features, what: str) -> None:
    same = torch.equal(a.mask, b.mask) and close(a.x[a.mask], b.x[b.mask]) and close(a.pooled(), b.pooled())
    require(same, who, f"{what} changes the features")


def _check_alone(module: nn.Module, run: Callable[..., Features], parts: Sequence[Tensor]) -> None:
    still = still_copy(module)
    together = run(still, *parts).pooled()
    for row in range(len(together)):
        alone = run(still, *(part[row : row + 1] for part in parts)).pooled()
        require(close(alone[0], together[row]), module, f"row {row} changes with the other rows of its batch")
