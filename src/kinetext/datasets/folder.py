"""Clips and texts of your own: a folder with a table beside the files (the VideoFolder layout)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from kinetext import manifest as tables
from kinetext import video
from kinetext.interfaces import Dataset, Shape
from kinetext.manifest import Row
from kinetext.runtime import rng
from kinetext.types import DataError, Modality, Sample, Target, joined

CACHE_BYTES = 2**30  # of decoded clips that one process keeps
_PROBED = 16  # clips that say whether all are equally long


class Folder(Dataset):
    """The rows of one split of a table: a clip, a text, or both, with labels.

    Training may read a random window of each clip, mirror it and crop it at random; all of these are pure functions
    of (seed, draw). Val and test always see the middle window, as it is. Every split has the classes of the whole
    table. An empty label cell means unlabelled.

    Args:
        root: folder with the clips and metadata.csv, .jsonl or .parquet.
        split: "train", "val" or "test". A table without a ``split`` column is split by group, 80 / 10 / 10, and the
            split is written to splits.csv beside it.
        manifest: the table, relative to ``root`` or absolute; "" finds it.
        text: column that holds the text; "" for none.
        targets: label columns to learn.
        multi: which of ``targets`` may hold several classes, separated by "|".
        numeric: which of ``targets`` hold numbers, for regression.
        text_vectors: precomputed vectors that stand for the text (encoder ``features``): a column whose cells name files
            under ``root``, "a.npy" or "a.npz:KEY", of shape (D,) or (L, D); or one file for all rows, "FILE.npy",
            "FILE.npz:KEY" or "FILE.parquet:COLUMN", of shape (N, D) or (N, L, D). "" is none.
        video_vectors: as ``text_vectors``, for the video; clips are then not read.
        vectors_row: with one file for all rows, the column with each row's place in it, from 0; "" is the table's order.
        num_frames: frames of a clip, >= 1.
        size: pixels, the side of a frame, >= 1.
        channels: 3 (RGB) or 1 (luma).
        sampling: "uniform" over the window in the middle; "random": a random window in training.
        clip_seconds: length of the window, >= 0; 0 is the whole clip.
        fit: "crop" the middle square, "squash", or "pad" with black.
        region: the part of every picture that is looked at, cut out before ``fit``: left, top, right, bottom in shares of its
            width and height, in [0, 1]; for cameras that stand still.
        flip: mirror half of the training clips left-right; not where left and right mean something.
        crop_jitter: training crops a random square with a side of at least (1 - this) of the frame, in [0, 0.8].
        val_share: share of the train rows, by group, to hold out as val where the table's own splits have none, in [0, 0.5].
        folds: divide the rows by group into this many parts and hold out number ``fold``, from 0, as val, whatever the
            table says of splits; 0 takes the table's splits. ``kinetext evaluate --folds`` sets both.
        fold: see ``folds``.
        seed: of every random choice, and of the split or the folds that are made.
        cache: keep decoded clips in memory, up to 1 GiB a process; random windows are always read anew.
    """

    def __init__(
        self,
        *,
        root: str = "clips",
        split: Literal["train", "val", "test"] = "train",
        manifest: str = "",
        text: str = "text",
        targets: tuple[str, ...] = (),
        multi: tuple[str, ...] = (),
        numeric: tuple[str, ...] = (),
        text_vectors: str = "",
        video_vectors: str = "",
        vectors_row: str = "",
        num_frames: int = 16,
        size: int = 64,
        channels: int = 3,
        sampling: video.Sampling = "uniform",
        clip_seconds: float = 0.0,
        fit: video.Fit = "crop",
        region: video.Region = video.WHOLE,
        flip: bool = False,
        crop_jitter: float = 0.0,
        val_share: float = 0.0,
        folds: int = 0,
        fold: int = 0,
        seed: int = 0,
        cache: bool = True,
    ) -> None:
        _check(split, targets, multi, num_frames, size, channels, sampling, clip_seconds, fit, crop_jitter, val_share)
        _check_numeric(targets, multi, numeric)
        video.check_region(region)
        table = tables.load(root, manifest=manifest or None, multi=multi)
        table = tables.with_fold(table, fold, folds, seed=seed) if folds else tables.with_splits(table, seed=seed)
        table = tables.with_val(table, val_share, seed=seed) if val_share else table
        _check_text(table, text)
        self.table, self.root, self.text = table, Path(root), text
        self.rows = table.where(split)
        self._groups = dict(zip([row.number for row in table.rows], tables.groups(table.rows), strict=True))
        self.splits = _splits(table, split)
        self.num_frames, self.size, self.channels = num_frames, size, channels
        self.clip_seconds, self.fit, self.region, self.seed = clip_seconds, fit, region, seed
        training = split == "train"
        self.random_window = training and sampling == "random"
        self.flip, self.crop_jitter = training and flip, crop_jitter if training else 0.0
        self.fixed_text = True
        self.fixed = not (self.random_window or self.flip or self.crop_jitter)
        self.cache = cache and not self.random_window
        self.targets = tuple(_target(table, name, multi, numeric) for name in targets)
        self._numbers = {name: tables.numbers(table, name) for name in numeric}
        self.vectors = _vectors(table, {"text": text_vectors, "video": video_vectors}, vectors_row)
        self.vector_dims = {modality: vectors.dim for modality, vectors in self.vectors.items()}
        self.video_shape: Shape | None = None
        self.reads_clips = not video_vectors and any(row.file for row in table.rows)
        if self.reads_clips:
            self.video_shape = (channels, num_frames, size, size)
        self.fps = self._fps() if self.reads_clips else 0.0
        self._kept: dict[int, Tensor] = {}
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: int) -> Sample:
        index = draw % len(self.rows)
        row = self.rows[index]
        if not (self.reads_clips and row.file):
            return self.still(index)
        dice = rng(self.seed, "folder", draw)
        return replace(self.still(index), video=self._augmented(self._clip(index, row, dice), dice))

    def still(self, index: int) -> Sample:
        """The sample of ``index`` without its clip, which is not read."""
        row = self.rows[index]
        labels = {target.name: self.table.names(row, target.name) for target in self.targets}
        vectors = {modality: vectors.of(row) for modality, vectors in self.vectors.items()}
        return Sample(
            key=_key(row),
            text=self._text(row),
            labels={name: names for name, names in labels.items() if names},
            weight=row.weight,
            group=self._groups[row.number],
            vectors={modality: one for modality, one in vectors.items() if one is not None},
        )

    def fingerprint(self, index: int) -> str:
        """A hash of the file's content, and how it is read; "" where the row has no clip, or not always the same one."""
        row = self.rows[index]
        if not (self.reads_clips and row.file and self.fixed):
            return ""
        with (self.root / row.file).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        how = (self.num_frames, self._read_size(), self.channels, self.fit, self.region)
        return f"{content} {how} {row.start} {row.end} {self.clip_seconds}"

    def numbers(self, column: str) -> tuple[float, ...]:
        """What stands in ``column``, a column of numbers, in the rows of this split that have one."""
        return tuple(self._numbers[column][row.number] for row in self.rows if row.number in self._numbers[column])

    def texts(self) -> Iterator[str]:
        """The text of every row of this split that has one."""
        for row in self.rows:
            text = self._text(row)
            if text is not None:
                yield text

    def counts(self, column: str) -> tuple[int, ...]:
        """How many rows of this split have each class of ``column``, in class order."""
        seen = Counter(name for row in self.rows for name in self.table.names(row, column))
        return tuple(seen[name] for name in self.table.classes(column))

    def _text(self, row: Row) -> str | None:
        return row.text if self.text == "text" else row.labels.get(self.text)

    def _clip(self, index: int, row: Row, dice: torch.Generator) -> Tensor:
        """The square clip of a row, before augmentation."""
        if index in self._kept:
            return video.to_float(self._kept[index])
        assert row.file is not None
        clip = video.read_clip(
            self.root / row.file,
            num_frames=self.num_frames,
            size=self._read_size(),
            channels=self.channels,
            start=row.start,
            end=row.end,
            sampling="random" if self.random_window else "uniform",
            clip_seconds=self.clip_seconds or None,
            fit=self.fit,
            region=self.region,
            rng=dice,
        )
        if self.cache and self._kept_bytes + clip.numel() <= CACHE_BYTES:
            self._kept[index] = video.to_bytes(clip)
            self._kept_bytes += clip.numel()
        return clip

    def _read_size(self) -> int:
        """Pixels to read, so that the smallest random crop has ``size`` of them and none is enlarged."""
        return round(self.size / (1 - self.crop_jitter))

    def _augmented(self, clip: Tensor, dice: torch.Generator) -> Tensor:
        if self.crop_jitter:
            whole = clip.shape[-1]
            side = int(torch.randint(self.size, whole + 1, (), generator=dice))
            top, left = (int(v) for v in torch.randint(whole - side + 1, (2,), generator=dice))
            crop = clip[:, :, top : top + side, left : left + side]
            clip = interpolate(crop, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        if self.flip and torch.rand((), generator=dice) < 0.5:
            clip = clip.flip(-1)
        return clip

    def _fps(self) -> float:
        """Frames a second of the sampled clips where all are equally long, judged by up to 16 of them; else 0."""
        rows = [row for row in self.rows if row.file]
        seconds = [self._seconds(row) for row in rows[:: max(1, len(rows) // _PROBED)][:_PROBED]]
        if not seconds or min(seconds) <= 0 or max(seconds) > 1.01 * min(seconds):
            return 0.0
        # thousandths: what a container can keep exactly
        return round(self.num_frames / (sum(seconds) / len(seconds)), 3)

    def _seconds(self, row: Row) -> float:
        """How long the part of a clip is that its frames come from."""
        assert row.file is not None
        info = video.probe(self.root / row.file)
        span = (info.duration if row.end is None else min(row.end, info.duration)) - (row.start or 0.0)
        return min(span, self.clip_seconds or span)


def _key(row: Row) -> str:
    """The file, with its part as a media fragment (W3C, Media Fragments URI 1.0); or the row's number."""
    if row.file is None:
        return f"row {row.number}"
    if row.start is None and row.end is None:
        return row.file
    return f"{row.file}#t={row.start or 0:g}" + ("" if row.end is None else f",{row.end:g}")


def _check(
    split: str,
    targets: tuple[str, ...],
    multi: tuple[str, ...],
    num_frames: int,
    size: int,
    channels: int,
    sampling: str,
    clip_seconds: float,
    fit: str,
    crop_jitter: float,
    val_share: float,
) -> None:
    for name, value, legal in (
        ("split", split, tables.SPLITS),
        ("channels", channels, (1, 3)),
        ("sampling", sampling, ("uniform", "random")),
        ("fit", fit, ("crop", "squash", "pad")),
    ):
        if value not in legal:
            raise DataError(f"{name}: {value!r}, expected one of {joined(legal)}")
    for name, number, low, high in (
        ("num_frames", num_frames, 1, 2**20),
        ("size", size, 1, 2**14),
        ("clip_seconds", clip_seconds, 0, 1e6),
        ("crop_jitter", crop_jitter, 0, 0.8),
        ("val_share", val_share, 0, 0.5),
    ):
        if not low <= number <= high:
            raise DataError(f"{name}: {number}, expected {low} to {high:g}")
    if sampling == "random" and clip_seconds == 0:
        raise DataError("sampling: 'random' needs clip_seconds, the length of the window; it is 0, the whole clip")
    stray = [name for name in multi if name not in targets]
    if stray:
        raise DataError(f"multi: {stray[0]!r} is not one of targets ({joined(targets)})")


def _target(table: tables.Manifest, name: str, multi: tuple[str, ...], numeric: tuple[str, ...]) -> Target:
    if name in numeric:
        return Target(name, numeric=True)
    return Target(name, table.classes(name), multi=name in multi)


def _vectors(table: tables.Manifest, sources: Mapping[Modality, str], row: str) -> dict[Modality, tables.Vectors]:
    return {
        modality: tables.Vectors(table, source, index=row, field=f"data.{modality}_vectors")
        for modality, source in sources.items()
        if source
    }


def _splits(table: tables.Manifest, asked: tables.Split) -> tuple[str, ...]:
    """The splits that have rows; the one that is asked for has to be among them."""
    has = {name: len(table.where(name)) for name in tables.SPLITS}
    if not has[asked]:
        hint = "; data.val_share takes some of the train rows" if asked == "val" else ""
        raise DataError(f"split: {table.path} has no {asked} rows; it has {has}{hint}")
    return tuple(name for name in tables.SPLITS if has[name])


def _check_numeric(targets: tuple[str, ...], multi: tuple[str, ...], numeric: tuple[str, ...]) -> None:
    stray = [name for name in numeric if name not in targets]
    if stray:
        raise DataError(f"numeric: {stray[0]!r} is not one of targets ({joined(targets)})")
    both = [name for name in numeric if name in multi]
    if both:
        raise DataError(f"numeric: {both[0]!r} is also in multi; a column holds numbers or classes")


def _check_text(table: tables.Manifest, text: str) -> None:
    """Texts are optional, but a column that is asked for by name has to be there."""
    if text in ("", "text", *(name for name in table.columns if name not in tables.RESERVED)):
        return
    near = get_close_matches(text, table.columns, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise DataError(f"text: {table.path} has no text column {text!r}{hint}; it has {joined(table.columns)}")
