"""Clips and texts of your own: a folder with a table beside the files (the VideoFolder layout)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kinetext import manifest as tables
from kinetext import video
from kinetext.interfaces import Dataset, Shape
from kinetext.manifest import Row
from kinetext.runtime import rng
from kinetext.types import Modality, Sample

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
        cache: keep decoded clips in memory, up to 1 GiB that all workers of a loader share; random windows are always read anew.
        decoder: "pyav"; "torchcodec", which has to be installed; "auto" is the faster one (docs/performance.md).
        isolated: decode every file in a process of its own, with limits on memory and time: for files of strangers; Linux only.
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
        decoder: video.Decoder = "auto",
        isolated: bool = False,
    ) -> None:
        self.look = video.Look(
            training=split == "train", num_frames=num_frames, size=size, channels=channels, sampling=sampling,
            clip_seconds=clip_seconds, fit=fit, region=region, flip=flip, crop_jitter=crop_jitter, decoder=decoder,
            isolated=isolated,
        )  # fmt: skip
        self.selected = tables.Selection(
            tables.load(root, manifest=manifest or None, multi=multi), split, text=text, targets=targets, multi=multi,
            numeric=numeric, val_share=val_share, folds=folds, fold=fold, seed=seed,
        )  # fmt: skip
        self.table, self.rows, self.root = self.selected.table, self.selected.rows, Path(root)
        self.targets, self.splits = self.selected.targets, self.selected.splits
        self.fixed_text, self.fixed, self.seed = True, self.look.fixed, seed
        self.vectors = _vectors(self.table, {"text": text_vectors, "video": video_vectors}, vectors_row)
        self.vector_dims = {modality: vectors.dim for modality, vectors in self.vectors.items()}
        self.video_shape: Shape | None = None
        self.reads_clips = not video_vectors and any(row.file for row in self.table.rows)
        if self.reads_clips:
            self.video_shape = self.look.shape
        self.fps = self._fps() if self.reads_clips else 0.0
        self._kept = video.kept(len(self.rows), self.look, cache and self.reads_clips)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: int) -> Sample:
        index = draw % len(self.rows)
        row = self.rows[index]
        if not (self.reads_clips and row.file):
            return self.still(index)
        dice = rng(self.seed, "folder", draw)
        return replace(self.still(index), video=self.look.augmented(self._clip(index, row, dice), dice))

    def still(self, index: int) -> Sample:
        """The sample of ``index`` without its clip, which is not read."""
        row = self.rows[index]
        vectors = {modality: vectors.of(row) for modality, vectors in self.vectors.items()}
        return replace(
            self.selected.still(index),
            vectors={modality: one for modality, one in vectors.items() if one is not None},
        )

    def fingerprint(self, index: int) -> str:
        """A hash of the file's content, and how it is read; "" where the row has no clip, or not always the same one."""
        row = self.rows[index]
        if not (self.reads_clips and row.file and self.fixed):
            return ""
        return f"{video.digest(tables.place(self.root, row.file))} {self.look.told(row.start, row.end)}"

    def numbers(self, column: str) -> tuple[float, ...]:
        """What stands in ``column``, a column of numbers, in the rows of this split that have one."""
        return self.selected.numbers(column)

    def texts(self) -> Iterator[str]:
        """The text of every row of this split that has one."""
        return self.selected.texts()

    def counts(self, column: str) -> tuple[int, ...]:
        """How many rows of this split have each class of ``column``, in class order."""
        return self.selected.counts(column)

    def _clip(self, index: int, row: Row, dice: torch.Generator) -> Tensor:
        """The square clip of a row, before augmentation."""
        file = row.file
        assert file is not None
        return self._kept.clip(index, lambda: self.look.read(tables.place(self.root, file), row.start, row.end, dice))

    def _fps(self) -> float:
        """Frames a second of the sampled clips where all are equally long, judged by up to 16 of them; else 0."""
        rows = [row for row in self.rows if row.file]
        some = rows[:: max(1, len(rows) // _PROBED)][:_PROBED]
        return self.look.fps([(tables.place(self.root, row.file), row.start, row.end) for row in some if row.file])


def _vectors(table: tables.Manifest, sources: Mapping[Modality, str], row: str) -> dict[Modality, tables.Vectors]:
    return {
        modality: tables.Vectors(table, source, index=row, field=f"data.{modality}_vectors")
        for modality, source in sources.items()
        if source
    }
