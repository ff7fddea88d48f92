"""Clips and texts in a Hugging Face dataset, from the hub or on disk; the clips are decoded by us."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kinetext import manifest as tables
from kinetext import video as clips
from kinetext.interfaces import Dataset, Shape
from kinetext.manifest import packed
from kinetext.manifest.rows import MEANT, PROTOCOLS, cell, is_elsewhere
from kinetext.manifest.selection import check_optional
from kinetext.runtime import cache_folder, rng
from kinetext.types import DataError, Sample, joined

_PROBED = 16  # clips that say whether all are equally long
_OWN = ("file_name", "split")  # columns of ours, whatever the dataset calls so
_CHUNK = 1000  # rows that are looked at together
_ENDS = 2**16  # bytes


class Hub(Dataset):
    """The rows of one split of a dataset of the library ``datasets``: a clip, a text, or both, with labels.

    Clips are those of a Video column, as files or as bytes in the table. Every other column of texts, numbers, classes
    or lists of texts can be the text or a label; ``start`` and ``end`` (seconds) and ``weight`` mean what they mean in a
    table beside a folder. All else is as of ``folder``.

    Args:
        source: "user/name" on the hub; or a folder that ``save_to_disk`` wrote, one of parquet or arrow files, or one such file.
        config: which of its configurations; "" is the only one.
        revision: of the hub's repository: a commit, tag or branch; "" is the newest.
        train: its split that is trained on; "" finds "train" or "training". A dataset without splits is split by group,
            80 / 10 / 10.
        val: its split for validation; "" finds "validation", "valid", "val", "dev" or "eval".
        test: its split for testing; "" finds "test" or "testing".
        split: "train", "val" or "test".
        video: the column with clips; "" for none.
        text: column that holds the text; "" for none.
        group: column that says who or where a row is from.
        targets: label columns to learn.
        multi: which of ``targets`` may hold several classes, in a list or separated by "|".
        numeric: which of ``targets`` hold numbers, for regression.
        num_frames: frames of a clip, >= 1.
        size: pixels, the side of a frame, >= 1.
        channels: 3 (RGB) or 1 (luma).
        sampling: "uniform" over the window in the middle; "random": a random window in training.
        clip_seconds: length of the window, >= 0; 0 is the whole clip.
        fit: "crop" the middle square, "squash", or "pad" with black.
        region: the part of every picture that is looked at, cut out before ``fit``.
        flip: mirror half of the training clips left-right.
        crop_jitter: training crops a random square with a side of at least (1 - this) of the frame, in [0, 0.8].
        val_share: share of the train rows, by group, to hold out as val where there is none, in [0, 0.5].
        folds: hold out one of so many parts as val, whatever the splits; 0 takes the splits.
        fold: which of them, from 0.
        seed: of every random choice, and of the split or the folds that are made.
        cache: keep decoded clips in memory, up to 1 GiB that all workers of a loader share; random windows are always read anew.
        decoder: "pyav", "torchcodec" or "auto", as of ``folder``.
        isolated: decode every file in a process of its own, as of ``folder``.
    """

    fixed_text = True

    def __init__(
        self,
        *,
        source: str = "clips",
        config: str = "",
        revision: str = "",
        train: str = "",
        val: str = "",
        test: str = "",
        split: Literal["train", "val", "test"] = "train",
        video: str = "video",
        text: str = "text",
        group: str = "group",
        targets: tuple[str, ...] = (),
        multi: tuple[str, ...] = (),
        numeric: tuple[str, ...] = (),
        num_frames: int = 16,
        size: int = 64,
        channels: int = 3,
        sampling: clips.Sampling = "uniform",
        clip_seconds: float = 0.0,
        fit: clips.Fit = "crop",
        region: clips.Region = clips.WHOLE,
        flip: bool = False,
        crop_jitter: float = 0.0,
        val_share: float = 0.0,
        folds: int = 0,
        fold: int = 0,
        seed: int = 0,
        cache: bool = True,
        decoder: clips.Decoder = "auto",
        isolated: bool = False,
    ) -> None:
        self.look = clips.Look(
            training=split == "train", num_frames=num_frames, size=size, channels=channels, sampling=sampling,
            clip_seconds=clip_seconds, fit=fit, region=region, flip=flip, crop_jitter=crop_jitter, decoder=decoder,
            isolated=isolated,
        )  # fmt: skip
        self.fixed, self.seed, self.source, self.video = self.look.fixed, seed, source, video
        parts = _named(source, _loaded(source, config, revision), {"train": train, "val": val, "test": test})
        if video:
            parts = {name: _with_files(source, part, video) for name, part in parts.items()}
        known = list(dict.fromkeys(name for part in parts.values() for name in part.features))
        check_optional("text", source, known, text)
        check_optional("group", source, known, group)
        for part in parts.values() if video else ():
            _check_files(source, part, video)
        rows, self._places = _rows(source, parts, video, {"text": text, "group": group}, multi)
        self.parts = parts
        self.selected = tables.Selection(
            _table(source, rows, multi), split, text="text" if text else "", targets=targets, multi=multi, numeric=numeric,
            val_share=val_share, folds=folds, fold=fold, seed=seed,
        )  # fmt: skip
        self.rows, self.targets, self.splits = self.selected.rows, self.selected.targets, self.selected.splits
        has_clips = any(row.file for row in self.selected.table.rows)
        self.video_shape: Shape | None = self.look.shape if has_clips else None
        self.fps = self._fps()
        self._kept = clips.kept(len(self.rows), self.look, cache and has_clips)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw: int) -> Sample:
        index = draw % len(self.rows)
        if not self.rows[index].file:
            return self.still(index)
        dice = rng(self.seed, "folder", draw)  # as of a folder with the same rows
        try:
            clip = self._kept.clip(index, lambda: self._clip(index, dice))
        except DataError as error:
            raise DataError(f"{self._where(index)}: {error}") from error
        return replace(self.still(index), video=self.look.augmented(clip, dice))

    def still(self, index: int) -> Sample:
        """The sample of ``index`` without its clip, which is not read."""
        return self.selected.still(index)

    def fingerprint(self, index: int) -> str:
        """A hash of the clip's content, and how it is read; "" where the row has none, or not always the same one."""
        row = self.rows[index]
        if not (row.file and self.fixed):
            return ""
        return f"{clips.digest(self._file(index))} {self.look.told(row.start, row.end)}"

    def texts(self) -> Iterator[str]:
        """The text of every row of this split that has one."""
        return self.selected.texts()

    def counts(self, column: str) -> tuple[int, ...]:
        """How many rows of this split have each class of ``column``, in class order."""
        return self.selected.counts(column)

    def numbers(self, column: str) -> tuple[float, ...]:
        """What stands in ``column``, a column of numbers, in the rows of this split that have one."""
        return self.selected.numbers(column)

    def _file(self, index: int) -> Path:
        """A file with the clip of a row."""
        part, place = self._places[self.rows[index].number - 1]
        found: Mapping[str, Any] = self.parts[part][place][self.video]
        path = str(found["path"] or "")
        if found["bytes"] is not None:
            return clips.as_file(found["bytes"], Path(path).suffix or ".mp4")
        return tables.fetch(path) if is_elsewhere(path) else Path(path)

    def _clip(self, index: int, dice: torch.Generator) -> Tensor:
        row = self.rows[index]
        return self.look.read(self._file(index), row.start, row.end, dice)

    def _fps(self) -> float:
        """Frames a second of the clips where all are equally long, judged by up to 16 of them; else 0."""
        with_clips = [index for index, row in enumerate(self.rows) if row.file]
        some = with_clips[:: max(1, len(with_clips) // _PROBED)][:_PROBED]
        return self.look.rate([self._seconds(index) for index in some])

    def _seconds(self, index: int) -> float:
        """How long the clip of a row is."""
        try:
            return self.look.seconds(self._file(index), self.rows[index].start, self.rows[index].end)
        except DataError as error:
            raise DataError(f"{self._where(index)}: {error}") from error

    def _where(self, index: int) -> str:
        """Where a row of this split is, for messages: the rows of a split count from 1."""
        part, place = self._places[self.rows[index].number - 1]
        return f"{self.source}: {part or 'row'} {place + 1}"


def _library() -> Any:
    """``datasets``, which ships no type information."""
    try:
        return import_module("datasets")
    except ImportError as error:
        raise DataError("data hub needs the library datasets; pip install 'kinetext[hub]'") from error


def _loaded(source: str, config: str, revision: str) -> dict[str, Any]:
    """The splits of a dataset by name; one without splits is called ""."""
    datasets, path = _library(), Path(source)
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            found = datasets.load_from_disk(source)
        elif path.is_file():
            if path.suffix not in (".parquet", ".arrow"):
                raise ValueError(f"a file {path.suffix!r}, expected .parquet or .arrow")
            made = str(cache_folder() / "datasets")
            found = datasets.load_dataset(path.suffix[1:], data_files=source, cache_dir=made, split="train")
        else:
            # what is made of files here is ours to keep, what is fetched lies where the library's other users find it
            place = str(cache_folder() / "datasets") if path.is_dir() else None
            found = datasets.load_dataset(source, config or None, revision=revision or None, cache_dir=place)
    except Exception as error:  # the library has no error of its own: what the network, a format or a disk says
        said = str(error).splitlines() or [""]
        raise DataError(f"source: {source!r} can't be loaded ({type(error).__name__}: {said[0]})") from error
    return dict(found) if isinstance(found, dict) else {"": found}


def _named(source: str, found: Mapping[str, Any], asked: Mapping[tables.Split, str]) -> dict[str, Any]:
    """The splits by our names; those that nothing asks for are left out."""
    if "" in found:
        return {"": found[""]}
    named: dict[str, Any] = {}
    for split, name in asked.items():
        usual = [other for other in found if other == split or MEANT.get(other.lower()) == split]
        if name and name not in found:
            raise DataError(f"{split}: {source} has no split {name!r}; it has {joined(list(found))}")
        if name or usual:
            named[split] = found[name or usual[0]]
    if not named:
        raise DataError(
            f"train: {source} has no split of a usual name, expected the one to train on; it has {joined(list(found))}"
        )
    return named


def _with_files(source: str, part: Any, column: str) -> Any:
    """The dataset with clips as files or bytes, not decoded."""
    datasets = _library()
    kind = part.features.get(column)
    if not isinstance(kind, datasets.Video):
        known = [name for name, feature in part.features.items() if isinstance(feature, datasets.Video)]
        raise DataError(f"video: {source} has no Video column {column!r}; it has {joined(known)}")
    return part.cast_column(column, datasets.Video(decode=False))


def _rows(
    source: str, parts: Mapping[str, Any], video: str, called: Mapping[str, str], multi: tuple[str, ...]
) -> tuple[list[dict[str, str]], list[tuple[str, int]]]:
    """The rows of all splits as cells, and where each comes from: split, and place in it."""
    rows: list[dict[str, str]] = []
    places: list[tuple[str, int]] = []
    names = _Names()
    for split, part in parts.items():
        readers = {name: _reader(feature) for name, feature in part.features.items() if name not in (video, *_OWN)}
        columns = [name for name, read in readers.items() if read]
        there = list(_clips(part, video, split or "rows", names)) if video else [""] * len(part)
        plain = part.select_columns(columns)
        for first in range(0, len(part), _CHUNK):
            chunk = plain[first : first + _CHUNK]
            for at in range(first, min(first + _CHUNK, len(part))):
                found: list[str] = []
                row = {name: _cell(name, readers[name](chunk[name][at - first]), multi, found) for name in columns}
                if found:
                    raise DataError(f"{source}: {split or 'row'} {at + 1}: {found[0]}")
                row |= {ours: row.get(theirs, "") for ours, theirs in called.items()}
                row |= {"file_name": there[at]} if there[at] else {}
                rows.append(row | ({"split": split} if split else {}))
                places.append((split, at))
    return rows, places


def _clips(part: Any, video: str, split: str, names: _Names) -> Iterator[str]:
    """A name for the clip of every row, that of the first row with this clip, so that its rows stay together; "" for none."""
    column = part.select_columns([video]).with_format("arrow")
    for first in range(0, len(part), _CHUNK):
        for at, clip in enumerate(column[first : first + _CHUNK][video], first):
            content, path = (clip[field] for field in ("bytes", "path")) if clip.is_valid else (clip, clip)
            if content.is_valid:
                yield names.of_bytes(content.as_buffer(), _Place(column, video, at), f"{split}/{at:06}")
            else:
                yield names.of_file(path.as_py(), f"{split}/{at:06}") if path.is_valid else ""


def _check_files(source: str, part: Any, video: str) -> None:
    """Refuses a dataset that names files which are not its own: whoever wrote it must not choose what is read here."""
    homes = _homes(source)
    column = part.select_columns([video]).with_format("arrow")
    for first in range(0, len(part), _CHUNK):
        at = first
        for cells in column[first : first + _CHUNK][video].chunks:  # joined, their bytes would be copied
            without = cells.field("bytes").is_null().to_pylist()
            for path, alone in zip(cells.field("path").to_pylist(), without, strict=True):
                at += 1
                if not (path and alone) or is_elsewhere(path):
                    continue
                if not any(Path(path).resolve().is_relative_to(home) for home in homes):
                    raise DataError(
                        f"{video}: row {at} of {source} names the file {path!r}, expected bytes, a URL "
                        f"({joined(PROTOCOLS)}), or a file below {joined([str(home) for home in homes])}"
                    )


def _homes(source: str) -> list[Path]:
    """The folders below which a dataset may name files: itself, or those in which what is fetched is kept."""
    path = Path(source)
    if path.exists():
        homes = [path if path.is_dir() else path.parent, cache_folder() / "datasets"]
    else:
        config, hub = _library().config, import_module("huggingface_hub.constants")
        homes = [Path(place) for place in (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, hub.HF_HUB_CACHE)]
    return list(dict.fromkeys(home.resolve() for home in homes))


@dataclass(frozen=True)
class _Place:
    """Where the bytes of a clip are."""

    column: Any
    video: str
    row: int

    def bytes(self) -> Any:
        (clip,) = self.column[self.row : self.row + 1][self.video]
        return clip["bytes"].as_buffer()


class _Names:
    """Names of clips: each has that of the first row with the very same bytes, or file.

    Most clips are told from others by their number of bytes and both ends; to read all of them would be to read the whole
    dataset. Where these come again, as in films without compression that begin and end in black, every byte counts.
    """

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._first: dict[tuple[int, bytes], tuple[_Place, str] | None] = {}  # None: it stands in what follows
        self._whole: dict[bytes, str] = {}

    def of_file(self, path: str, name: str) -> str:
        return self._files.setdefault(path, name)

    def of_bytes(self, content: Any, place: _Place, name: str) -> str:
        ends = content.size, hashlib.sha256(bytes(content[:_ENDS]) + bytes(content[-_ENDS:])).digest()
        if ends not in self._first:
            self._first[ends] = place, name
            return name
        if first := self._first[ends]:
            self._whole[hashlib.sha256(first[0].bytes()).digest()] = first[1]
            self._first[ends] = None
        return self._whole.setdefault(hashlib.sha256(content).digest(), name)


def _reader(feature: Any) -> Any:
    """How a value of a column becomes what a cell may hold, classes by their names; None for columns that can't be cells."""
    datasets = _library()
    if isinstance(feature, datasets.ClassLabel):
        return lambda value: None if value is None or value < 0 else feature.int2str(value)
    if isinstance(feature, datasets.Value) and feature.dtype not in ("binary", "large_binary"):
        return lambda value: value
    if isinstance(feature, datasets.List) and not isinstance(feature.feature, datasets.List):
        one = _reader(feature.feature)
        return one and (lambda value: [cell("", one(item), (), []) for item in value or ()])
    return None


def _cell(name: str, value: object, multi: tuple[str, ...], found: list[str]) -> str:
    """A value as ``rows.cell`` makes it; a list that nobody learns from is one text, whatever stands in it."""
    if isinstance(value, list) and name not in multi:
        value = tables.SEPARATOR.join(value)
    return cell(name, value or None if isinstance(value, list) else value, multi, found)


def _table(source: str, rows: list[dict[str, str]], multi: tuple[str, ...]) -> tables.Manifest:
    """The rows as a table, checked like any other; it is written to the cache, and a split that is made beside it."""
    if not rows:
        raise DataError(f"source: {source} has no rows")
    told = hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
    folder = cache_folder() / "hub" / told[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / packed.ROWS).is_file():
            packed.write_rows(folder / packed.ROWS, rows)
    except OSError as error:
        raise DataError(f"{folder}: can't be written ({error}); set KINETEXT_CACHE to a folder with room") from error
    return tables.load(folder, manifest=packed.ROWS, multi=multi, whole=False)
