"""Clips and texts in tar shards: packed by ``kinetext data pack``, or made by anyone in the WebDataset convention."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinetext import manifest as tables
from kinetext import video
from kinetext.interfaces import Dataset, Shape
from kinetext.manifest import packed, tars, webdataset
from kinetext.manifest.reading import PACK
from kinetext.runtime import rng
from kinetext.types import DataError, Sample

_PROBED = 16  # clips that say whether all are equally long
_ARRAY = "npy"  # the member with an exact clip, or with someone's features


class Shards(Dataset):
    """The samples of one split of tar shards, any of them at once: an index says where each begins, so that they are
    shuffled and a training is resumed as exactly as with files.

    A packed clip is augmented as the ``folder`` that it was packed from would be, its window is taken from the frames that
    were packed, and a byte that changed is an error that names its shard and sample. Other tars are indexed once, and
    what lies on the network is first copied to the cache, whole shard by shard.

    Args:
        root: a folder that was packed; or tars, as "data-{000000..000009}.tar" or "data-*.tar", or URLs of them. Of a
            sample's members, the first that is a video or pictures is its clip, "txt" its text, "cls" a label column of
            this name, and what stands in "json" are further columns: labels, ``text``, ``group``, ``split``, ``weight``.
        val: tars of the val split; "" takes what ``root`` has.
        test: tars of the test split.
        split: "train", "val" or "test"; where nothing says the split of a sample, one is made by group, 80 / 10 / 10.
        text: column that holds the text; "" for none.
        group: column that says who or where a sample is from; "" for none. Of a pack, "group": it has that of its folder.
        targets: label columns to learn.
        multi: which of ``targets`` may hold several classes, separated by "|" or in a list.
        numeric: which of ``targets`` hold numbers, for regression.
        num_frames: frames of a clip, >= 1.
        size: pixels, the side of a frame, >= 1; at most what was packed.
        channels: 3 (RGB) or 1 (luma).
        sampling: "uniform" over the window in the middle; "random": a random window in training.
        clip_seconds: length of the window, >= 0; 0 is the whole clip.
        fit: "crop" the middle square, "squash", or "pad" with black; of packed shards, what they were packed with.
        region: the part of every picture that is looked at, cut out before ``fit``; of packed shards, as above.
        flip: mirror half of the training clips left-right.
        crop_jitter: training crops a random square with a side of at least (1 - this) of the frame, in [0, 0.8].
        val_share: share of the train rows, by group, to hold out as val where there is none, in [0, 0.5].
        folds: hold out one of so many parts as val, whatever is said of splits; 0 takes the splits.
        fold: which of them, from 0.
        seed: of every random choice, and of the split or the folds that are made.
        cache: keep decoded clips in memory, up to 1 GiB that all workers of a loader share; random windows are always read anew.
        decoder: "pyav", "torchcodec" or "auto", as of ``folder``; of clips that were not packed.
        isolated: decode every file in a process of its own, as of ``folder``.
    """

    fixed_text = True

    def __init__(
        self,
        *,
        root: str = "shards",
        val: str = "",
        test: str = "",
        split: Literal["train", "val", "test"] = "train",
        text: str = "text",
        group: str = "group",
        targets: tuple[str, ...] = (),
        multi: tuple[str, ...] = (),
        numeric: tuple[str, ...] = (),
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
        decoder: video.Decoder = "auto",
        isolated: bool = False,
    ) -> None:
        self.look = video.Look(
            training=split == "train", num_frames=num_frames, size=size, channels=channels, sampling=sampling,
            clip_seconds=clip_seconds, fit=fit, region=region, flip=flip, crop_jitter=crop_jitter, decoder=decoder,
            isolated=isolated,
        )  # fmt: skip
        self.fixed, self.seed = self.look.fixed, seed
        self.packed = (Path(root) / PACK).is_file()
        side = 0
        self.latents: Mapping[str, Any] | None = None  # what made those that were packed beside the clips
        if self.packed:
            pack = packed.Pack.open(Path(root))
            _check_pack(root, pack, self.look, val or test, group)
            self.latents = pack.recipe.get("latents")
            table, self.index, paths, side = pack.table(multi), pack.index, pack.paths(), pack.recipe["options"]["size"]
        else:
            patterns: dict[tables.Split, str] = {"train": root, "val": val, "test": test}
            table, self.index, paths = webdataset.indexed(patterns, multi, video.SUFFIXES, group)
        self.pieces = tars.Pieces(paths)
        self.selected = tables.Selection(
            table, split, text=text, targets=targets, multi=multi, numeric=numeric, val_share=val_share,
            folds=folds, fold=fold, seed=seed,
        )  # fmt: skip
        self.rows, self.targets, self.splits = self.selected.rows, self.selected.targets, self.selected.splits
        self.video_shape: Shape | None = None
        if any(row.file for row in table.rows):
            self.video_shape = self.look.shape
        if self.packed:
            self._check_frames(root)
        self.fps = self._fps()
        self._kept = video.kept(len(self.rows), self.look, cache, side=side)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: int) -> Sample:
        index = draw % len(self.rows)
        if not self.rows[index].file:
            return self.still(index)
        dice = rng(self.seed, "folder", draw)  # as a folder's, so that its pack is augmented alike
        sample = self.still(index)
        try:
            clip = self._kept.clip(index, lambda: self._clip(self._place(index), dice))
        except DataError as error:
            raise DataError(f"{self._where(index)}: {sample.key}: {error}") from error
        return replace(sample, video=self.look.augmented(clip, dice))

    def still(self, index: int) -> Sample:
        """The sample of ``index`` without its clip, which is not read."""
        return self.selected.still(index)

    def fingerprint(self, index: int) -> str:
        """A hash of the bytes of a sample, and how they are read; "" where it has no clip, or not always the same one."""
        if not (self.rows[index].file and self.fixed):
            return ""
        content = hashlib.sha256(self._piece(self._place(index))).hexdigest()
        return f"{content} {self.look.told(None, None)} {self.look.size}"

    def latent(self, index: int) -> Tensor | None:
        """What the codec of ``latents`` made of a clip, a target ``(C', T', H', W')`` float32; None without a clip.

        Raises:
            DataError: it can't be read.
        """
        if not self.rows[index].file:
            return None
        try:
            data = _members(self._piece(self._place(index)))[packed.LATENT]
            return torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False).astype(np.float32))
        except (KeyError, ValueError, OSError, DataError) as error:
            raise DataError(f"{self._where(index)}: {self.still(index).key}: no latents ({error})") from error

    def texts(self) -> Iterator[str]:
        """The text of every sample of this split that has one."""
        return self.selected.texts()

    def counts(self, column: str) -> tuple[int, ...]:
        """How many samples of this split have each class of ``column``, in class order."""
        return self.selected.counts(column)

    def numbers(self, column: str) -> tuple[float, ...]:
        """What stands in ``column``, a column of numbers, in the samples of this split that have one."""
        return self.selected.numbers(column)

    def _place(self, index: int) -> int:
        """Where a sample of this split stands in the index."""
        return self.rows[index].number - 1

    def _where(self, index: int) -> str:
        """The shard of a sample."""
        return str(self.pieces.paths[self.index.shard[self._place(index)]])

    def _piece(self, place: int) -> bytes:
        at = self.index
        piece = self.pieces.read(int(at.shard[place]), int(at.start[place]), int(at.size[place]))
        packed.check_piece(piece, int(at.crc32[place]))
        return piece

    def _clip(self, place: int, dice: torch.Generator) -> Tensor:
        """The square clip of a sample, before augmentation."""
        files = _members(self._piece(place))
        if stored := _stored(files):
            numbers = self.look.chosen(_frames(stored), float(self.index.seconds[place]), dice)
            clip = video.restore(stored, numbers, channels=self.look.channels)
            height, width = clip.shape[2:]
            if height != width or height < self.look.read_size:
                raise DataError(f"frames of {width}x{height}, expected squares of {self.look.read_size} pixels or more")
            return clip
        return self.look.read(_file(files), None, None, dice)

    def _fps(self) -> float:
        """Frames a second of the clips where all are equally long, judged by up to 16 of those not packed; else 0."""
        places = np.array([row.number - 1 for row in self.rows if row.file], dtype=np.int64)
        if self.packed:
            return self.look.rate(self.index.seconds[places].tolist())
        some = places[:: max(1, len(places) // _PROBED)][:_PROBED]
        return self.look.rate([self._seconds(place) for place in some])

    def _seconds(self, place: int) -> float:
        """How long a clip is that was not packed; 0 where it is pictures."""
        try:
            files = _members(self._piece(place))
            return 0.0 if _stored(files) else video.probe(_file(files), isolated=self.look.isolated).duration
        except DataError as error:
            shard, key = self.pieces.paths[self.index.shard[place]], tables.key_of(self.selected.table.rows[place])
            raise DataError(f"{shard}: {key}: {error}") from error

    def _check_frames(self, root: str) -> None:
        """Refuses to show packed frames twice where the clip itself had more."""
        places = np.array([row.number - 1 for row in self.rows if row.file], dtype=np.int64)
        stored, had = (self._window(frames[places], places) for frames in (self.index.frames, self.index.source_frames))
        few = np.flatnonzero((stored < self.look.num_frames) & (stored < had))
        if len(few):
            key = self.selected.still(self.rows.index(self.selected.table.rows[places[few[0]]])).key
            raise DataError(
                f"num_frames: {self.look.num_frames}, but {root} has {stored[few[0]]} packed frames of {key}; pack it again "
                "with more --num-frames or --fps"
            )

    def _window(self, frames: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of so many frames of clips are in their windows."""
        seconds, asked = self.index.seconds[places], self.look.clip_seconds
        if not asked:
            return frames
        share = np.divide(asked, seconds, out=np.ones_like(seconds), where=seconds > 0)
        return np.clip(np.round(share * frames), 1, frames).astype(np.int64)


def _check_pack(root: str, pack: packed.Pack, look: video.Look, patterns: str, group: str) -> None:
    """Refuses what can't be had of clips that are packed already."""
    if patterns:
        raise DataError(f"val and test: {patterns!r}, but {root} is a pack, which has all of its splits; expected none")
    if group != "group":
        raise DataError(f"group: {group!r}, but {root} is a pack, which has its groups; expected 'group'")
    made = pack.recipe["options"]
    for name, asked in (("fit", look.fit), ("region", list(look.region))):
        if asked != made[name]:
            raise DataError(f"{name}: {asked!r}, but {root} was packed with {made[name]!r}")
    if look.channels > made["channels"]:
        raise DataError(f"channels: {look.channels}, but {root} was packed with {made['channels']}")
    if look.read_size > made["size"]:
        why = f" and crop_jitter {look.crop_jitter:g} take {look.read_size} pixels" if look.crop_jitter else ""
        raise DataError(
            f"size: {look.size}{why}, but {root} was packed with {made['size']}; pack it again with --size {look.read_size}"
        )


def _members(piece: bytes) -> dict[str, memoryview]:
    try:
        return tars.members(piece)
    except ValueError as error:
        raise DataError(f"no tar in its bytes ({error})") from error


def _first(files: Mapping[str, memoryview]) -> str:
    """The first video or picture among the members of a sample; an array is its clip only where there is neither."""
    named = [name for name in files if webdataset.is_clip(name, video.SUFFIXES)]
    return next((name for name in named if name != _ARRAY), _ARRAY)


def _stored(files: Mapping[str, memoryview]) -> dict[str, memoryview]:
    """The members that hold a clip in frames, or in an array; none where its clip is a file."""
    first = _first(files)
    if not video.is_stored(first):
        return {}
    return {name: data for name, data in files.items() if video.is_stored(name) and (name == first or name != _ARRAY)}


def _frames(stored: Mapping[str, memoryview]) -> int:
    try:
        return video.frames_of(stored)
    except ValueError as error:
        raise DataError(f"its frames can't be decoded ({error})") from error


def _file(files: Mapping[str, memoryview]) -> Path:
    """A file with the clip among the members of a sample."""
    name = _first(files)
    return video.as_file(files[name], f".{name.rpartition('.')[2]}")
