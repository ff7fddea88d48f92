"""The legend: every shape, range and unit that crosses a border in kinetext.

B batch, C channels, T frames, H W pixels, L tokens, D width, N heads, K classes or codes.
Video is float32 in [-1, 1], ``(B, C, T, H, W)``; an image is a video of one frame. A missing
modality is a mask whose row is all False; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Literal

import torch
from torch import Tensor

Modality = Literal["text", "video"]
Progress = Callable[[int, int], None]  # how many are done, of how many
MODALITIES: tuple[Modality, ...] = ("text", "video")


class KinetextError(Exception):
    """Something the user can mend. The message names the field, the value and what is legal."""


class RecipeError(KinetextError):
    """A recipe that can't be read, or that asks for something that can't work."""


class DataError(KinetextError):
    """A dataset, manifest, clip or text that can't be used."""


class RunError(KinetextError):
    """A run folder that can't be read, written or continued."""


def _check(name: str, tensor: Tensor, rank: int, dtype: torch.dtype, batch: int | None) -> None:
    if tensor.ndim != rank:
        raise ValueError(f"{name}: rank {tensor.ndim} {tuple(tensor.shape)}, expected rank {rank}")
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: dtype {tensor.dtype}, expected {dtype}")
    if batch is not None and len(tensor) != batch:
        raise ValueError(f"{name}: {len(tensor)} rows, expected the batch size {batch}")


@dataclass(frozen=True)
class Target:
    """A label column: its name, its class names in index order, and whether several may hold at once; or a
    column of numbers, which has no classes.
    """

    name: str
    classes: tuple[str, ...] = ()
    multi: bool = False
    numeric: bool = False


@dataclass(frozen=True)
class Sample:
    """One clip, one text, or both, with labels.

    Args:
        key: names the sample in messages, predictions and reports (a file name, say).
        video: ``(C, T, H, W)`` float32 in [-1, 1], or None.
        text: the caption, transcript or title, or None.
        labels: column -> class names; one for a single-label column, any number for a multi-label
            one; of a column of numbers, the number as text. A column that is absent is unlabelled.
        weight: how much the sample counts in a loss, >= 0.
        group: who or where it is from; resampling keeps a group together. "" is a group of its own.
        vectors: modality -> ``(L, D)`` float32, precomputed vectors that stand for it.
        encoded: modality -> what a frozen encoder made of it.
    """

    key: str
    video: Tensor | None = None
    text: str | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weight: float = 1.0
    group: str = ""
    vectors: Mapping[Modality, Tensor] = field(default_factory=dict)
    encoded: Mapping[Modality, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.video is not None:
            _check(f"video of {self.key!r}", self.video, 4, torch.float32, None)
        for kind, given in (("vectors", self.vectors), ("encoded", self.encoded)):
            for modality, x in given.items():
                _check(f"{kind}.{modality} of {self.key!r}", x, 2, torch.float32, None)
        if self.weight < 0:
            raise ValueError(f"weight of {self.key!r}: {self.weight}, expected >= 0")


@dataclass(frozen=True)
class Batch:
    """Samples side by side.

    Args:
        keys: B names.
        video: ``(B, C, T, H, W)`` float32 in [-1, 1]; zeros where a sample has none.
        video_mask: ``(B, T)`` bool, True = real frame.
        text: B raw strings, "" where a sample has none.
        tokens: ``(B, L)`` int64.
        token_mask: ``(B, L)`` bool, True = real token.
        labels: column -> ``(B,)`` int64 class index, -1 unlabelled; or for a multi-label column
            ``(B, K)`` float32 in {0, 1}, a row of NaN where unlabelled; or for a column of numbers ``(B,)``
            float32, NaN where unlabelled.
        weight: ``(B,)`` float32, >= 0.
        groups: B names, "" where a sample is a group of its own.
        vectors: modality -> precomputed vectors that stand for it.
        encoded: modality -> what a frozen encoder made of it, which then is not run again.
    """

    keys: tuple[str, ...]
    video: Tensor
    video_mask: Tensor
    text: tuple[str, ...]
    tokens: Tensor
    token_mask: Tensor
    labels: Mapping[str, Tensor]
    weight: Tensor
    groups: tuple[str, ...] = ()
    vectors: Mapping[Modality, Features] = field(default_factory=dict)
    encoded: Mapping[Modality, Features] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.keys)
        if not self.groups:
            object.__setattr__(self, "groups", ("",) * size)
        _check("video", self.video, 5, torch.float32, size)
        _check("video_mask", self.video_mask, 2, torch.bool, size)
        _check("tokens", self.tokens, 2, torch.int64, size)
        _check("token_mask", self.token_mask, 2, torch.bool, size)
        _check("weight", self.weight, 1, torch.float32, size)
        for what, strings in (("text", self.text), ("groups", self.groups)):
            if len(strings) != size:
                raise ValueError(f"{what}: {len(strings)} strings, expected the batch size {size}")
        for name, label in self.labels.items():
            several = label.ndim == 2
            number = several or label.dtype == torch.float32
            _check(f"labels.{name}", label, 2 if several else 1, torch.float32 if number else torch.int64, size)
        for modality, given in (*self.vectors.items(), *self.encoded.items()):
            _check(f"features of {modality}", given.x, 3, given.x.dtype, size)

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> Batch:
        """The same batch with every tensor on ``device``."""
        return replace(
            self,
            video=self.video.to(device, non_blocking=True),
            video_mask=self.video_mask.to(device, non_blocking=True),
            tokens=self.tokens.to(device, non_blocking=True),
            token_mask=self.token_mask.to(device, non_blocking=True),
            labels={k: v.to(device, non_blocking=True) for k, v in self.labels.items()},
            weight=self.weight.to(device, non_blocking=True),
            vectors={k: v.to(device) for k, v in self.vectors.items()},
            encoded={k: v.to(device) for k, v in self.encoded.items()},
        )

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop - 1``."""
        part = slice(start, stop)
        return Batch(
            keys=self.keys[part],
            video=self.video[part],
            video_mask=self.video_mask[part],
            text=self.text[part],
            tokens=self.tokens[part],
            token_mask=self.token_mask[part],
            labels={k: v[part] for k, v in self.labels.items()},
            weight=self.weight[part],
            groups=self.groups[part],
            vectors={k: Features(v.x[part], v.mask[part]) for k, v in self.vectors.items()},
            encoded={k: Features(v.x[part], v.mask[part]) for k, v in self.encoded.items()},
        )

    def must_have_video(self, why: str) -> None:
        """Refuses a batch in which a clip, or a frame of one, is absent.

        Raises:
            DataError: naming the first such sample.
        """
        whole = self.video_mask.all(dim=1)
        if not whole.all():
            first = self.keys[whole.tolist().index(False)]
            raise DataError(f"{first}: no video, or not all of its frames, and {why}; leave such rows out of the data")

    def without(self, modality: Modality) -> Batch:
        """The same batch with one modality absent from every sample."""
        return self.drop(modality, torch.ones_like(self.weight, dtype=torch.bool))

    def drop(self, modality: Modality, rows: Tensor) -> Batch:
        """The same batch with one modality absent from the samples of ``rows (B,)`` bool."""
        keep = ~rows[:, None]
        vectors, encoded = (
            {k: Features(v.x, v.mask & keep) if k == modality else v for k, v in given.items()}
            for given in (self.vectors, self.encoded)
        )
        dropped = replace(self, vectors=vectors, encoded=encoded)
        if modality == "text":
            return replace(dropped, token_mask=self.token_mask & keep)
        return replace(dropped, video_mask=self.video_mask & keep)

    def has(self, modality: Modality) -> Tensor:
        """``(B,)`` bool: which samples have it, in whatever form."""
        found = (self.token_mask if modality == "text" else self.video_mask).any(1)
        for given in (self.vectors, self.encoded):
            if modality in given:
                found = found | given[modality].mask.any(1)
        return found


@dataclass(frozen=True)
class Features:
    """What every encoder and fusion returns.

    Args:
        x: ``(B, L, D)`` floating point.
        mask: ``(B, L)`` bool, True = real; an all-False row is a missing modality.
    """

    x: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        _check("features.x", self.x, 3, self.x.dtype, None)
        _check("features.mask", self.mask, 2, torch.bool, len(self.x))
        if self.mask.shape != self.x.shape[:2]:
            raise ValueError(f"features.mask: {tuple(self.mask.shape)}, expected {tuple(self.x.shape[:2])}")

    def to(self, device: torch.device) -> Features:
        """The same features on ``device``."""
        return Features(self.x.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))

    def pooled(self) -> Tensor:
        """The mean over real positions, ``(B, D)``; zeros where nothing is real."""
        real = self.mask.unsqueeze(-1)
        # filled, not multiplied: what stands at masked positions may be NaN
        return self.x.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1).to(self.x.dtype)


@dataclass(frozen=True)
class Losses:
    """A scalar to minimise and named numbers to log (detached scalars)."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.total.ndim != 0:
            raise ValueError(f"losses.total: shape {tuple(self.total.shape)}, expected a scalar")


@dataclass(frozen=True)
class Known:
    """Part of a target that is given: generation keeps it and fills the rest.

    Args:
        target: ``(B, C, T, H, W)`` in the codec's target space.
        mask: bool, True = this is given: whole frames ``(B, T)``, or cells of the target ``(B, 1, T, H, W)``.
        pace: how far neighbouring frames stand apart in time, in (0, 1]: 1 as in the clips that were learned from, and a
            half where there are twice as many a second.
    """

    target: Tensor
    mask: Tensor
    pace: float = 1.0

    def __post_init__(self) -> None:
        check_legal("known.pace", self.pace, 0 < self.pace <= 1, "in (0, 1]")
        _check("known.target", self.target, 5, self.target.dtype, None)
        whole = self.mask.ndim == 2
        _check("known.mask", self.mask, 2 if whole else 5, torch.bool, len(self.target))
        expected = (self.target.shape[2],) if whole else (1, *self.target.shape[2:])
        if tuple(self.mask.shape[1:]) != expected:
            raise ValueError(f"known.mask: {tuple(self.mask.shape)}, expected {(len(self.target), *expected)}")

    def frames(self) -> Tensor:
        """``(B, T)`` bool: which frames are given as a whole."""
        return self.mask if self.mask.ndim == 2 else self.mask.flatten(3).all(3)[:, 0]

    def places(self) -> Tensor | None:
        """Where frames stand in time, ``(T,)``, the distance of learned ones being 1; None is 0 to T - 1."""
        if self.pace == 1:
            return None
        return self.pace * torch.arange(self.target.shape[2], device=self.target.device)

    def cells(self) -> Tensor:
        """``(B, 1, T, H, W)`` bool: which cells of the target are given."""
        if self.mask.ndim == 5:
            return self.mask
        return self.mask[:, None, :, None, None].expand(-1, 1, -1, *self.target.shape[3:])


@dataclass(frozen=True)
class Start:
    """A target that generation changes, instead of beginning from nothing.

    Args:
        target: ``(B, C, T, H, W)`` in the codec's target space.
        strength: how much of it may change, in (0, 1]; 1 keeps nothing of it.
    """

    target: Tensor
    strength: float

    def __post_init__(self) -> None:
        _check("start.target", self.target, 5, self.target.dtype, None)
        if not 0 < self.strength <= 1:
            raise ValueError(f"start.strength: {self.strength}, expected more than 0, at most 1")


@dataclass(frozen=True)
class Prediction:
    """What a task answers for a batch; fields that a task does not make are empty.

    Args:
        probabilities: column -> ``(B, K)`` float32 in [0, 1].
        numbers: column -> ``(B,)`` float32, in the column's own unit.
        embeddings: modality -> ``(B, D)`` float32 of length 1 in the space that modalities share; zeros where a
            sample has none.
        video: ``(B, C, T, H, W)`` float32 in [-1, 1].
        text: B strings.
        codes: ``(B, 1, T', H', W')`` int64, the tokens that a codec made of the clips.
    """

    probabilities: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    embeddings: Mapping[Modality, Tensor] = field(default_factory=dict)
    video: Tensor | None = None
    text: tuple[str, ...] = ()
    codes: Tensor | None = None


def joined(values: Sequence[object]) -> str:
    """Legal values as a message shows them."""
    return ", ".join(str(v) for v in values) or "(none)"


def suggest(name: str, legal: Iterable[str]) -> str:
    """What a message adds where a legal name is near: ", did you mean 'steps'?"."""
    near = get_close_matches(name, list(legal), 1)
    return f", did you mean {near[0]!r}?" if near else ""


def check_legal(name: str, value: object, holds: bool, legal: str) -> None:
    """Refuses an option of a constructor, by a ValueError that names it."""
    if not holds:
        raise ValueError(f"{name}: {value}, expected {legal}")


def check_one_of(name: str, value: str, *legal: str) -> None:
    """Refuses a word that is not among those that are legal, by a ValueError that names it."""
    check_legal(name, value, value in legal, f"one of {joined(legal)}")


def check_between(name: str, value: float, low: float, high: float) -> None:
    """Refuses a number that is not in [low, high], by a DataError that names it."""
    if not low <= value <= high:
        raise DataError(f"{name}: {value}, expected {low} to {high}")
