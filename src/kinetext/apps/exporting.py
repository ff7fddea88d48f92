"""A dataset for other programs: kinetext data export, so far for FiftyOne.

What is written is what ``fiftyone.Dataset.from_dir(OUT, dataset_type=fiftyone.types.FiftyOneDataset)`` reads: its JSON
format without a version, which FiftyOne 1.22.1 takes (``LegacyFiftyOneDatasetImporter`` in its
``utils/data/importers.py``). Clips stay where they are, and FiftyOne need not be installed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kinetext
from kinetext import manifest, video
from kinetext.checkpoint import write_text
from kinetext.manifest import Manifest, Row
from kinetext.types import DataError, Progress, joined

FORMATS = ("fiftyone",)
# names that FiftyOne keeps for itself
_TAKEN = frozenset({
    "created_at", "dataset_id", "filepath", "frames", "group", "id", "last_modified_at", "media_type", "metadata", "rand",
    "sample_id", "support", "tags",
})  # fmt: skip
# files that become samples of a dataset of videos, and what they say of themselves. FiftyOne decides by the name alone, by what
# Python's mimetypes makes of it where FiftyOne runs (``get_media_type`` in its core/media.py): there .ts is a translation and
# .3gp is sound, and GIF, APNG and WebP are pictures. What is exported does not depend on the machine that exports.
_VIDEOS: Mapping[str, str] = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".mkv": "video/x-matroska", ".webm": "video/webm",
    ".avi": "video/x-msvideo", ".mpg": "video/mpeg", ".mpeg": "video/mpeg", ".wmv": "video/x-ms-wmv", ".flv": "video/x-flv",
}  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """What was written: the folder, its samples, rows without a file, and files that FiftyOne takes for no video and that
    were left out.
    """

    path: Path
    samples: int
    texts: int
    others: tuple[str, ...]


def export(source: Path, out: Path, kind: str = "fiftyone", progress: Progress | None = None) -> Exported:
    """Writes ``out``: a sample of every file, its split as a tag, its labels as fields.

    A label column becomes a Classification, Classifications where a cell or several rows of one file name several classes,
    TemporalDetections where rows are parts of files, a number, or plain words where most rows have their own; the text becomes ``text``, ``texts`` where a file has
    several, or TemporalDetections ``captions`` where rows are parts.

    Args:
        source: a folder with a table, or by its layout; or a table.
        out: a new folder.
        kind: "fiftyone".
        progress: of files, which are opened for their frame rate.

    Raises:
        DataError: ``out`` is there, or a file can't be read.
    """
    if kind not in FORMATS:
        raise DataError(f"format: {kind!r}, expected one of {joined(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and is not an empty folder; choose another")
    table = manifest.with_stored_splits(manifest.open_source(source))
    files: dict[str, list[Row]] = {}
    for row in table.rows:
        if row.file:
            files.setdefault(row.file, []).append(row)
    clips = {file: rows for file, rows in files.items() if _suffix(file) in _VIDEOS}
    if not clips:
        raise DataError(
            f"{table.path}: names no video, of which FiftyOne would make samples; it has {len(files)} files"
        )
    fields = _Fields(table, list(clips.values()))
    samples = []
    for file, rows in clips.items():
        path = manifest.place(table.root, file)
        samples.append(fields.sample(path, video.probe(path), rows))
        if progress:
            progress(len(samples), len(clips))
    _write(out, table, samples)
    others = tuple(file for file in files if file not in clips)
    return Exported(out, len(samples), sum(row.file is None for row in table.rows), others)


def _suffix(file: str) -> str:
    """What the name of a file ends in; that of a URL, before what stands behind "?"."""
    return Path(re.split(r"[?#]", file)[0] if manifest.is_elsewhere(file) else file).suffix.lower()


class _Fields:
    """How the columns of a table become fields of FiftyOne: the same way for every file."""

    def __init__(self, table: Manifest, files: Sequence[Sequence[Row]]) -> None:
        self.table = table
        self.parts = any(row.start is not None or row.end is not None for rows in files for row in rows)
        self.several = any(len(rows) > 1 for rows in files)
        columns = [name for name in table.columns if name not in manifest.RESERVED]
        self.numeric = [name for name in columns if not manifest.is_classes(table, name) and _all_numbers(table, name)]
        self.plain = [name for name in columns if name not in self.numeric and _mostly_different(table, name)]
        self.names: dict[str, str] = {}
        for name in columns:
            self.names[name] = _legal(
                name, {"text", "texts", "captions", "group_name", "weight", "rows", *self.names.values()}
            )

    def sample(self, path: Path, info: video.VideoInfo, rows: Sequence[Row]) -> dict[str, Any]:
        """A file and what its rows say."""
        found: dict[str, Any] = {
            "filepath": str(path.resolve()),
            "tags": list(dict.fromkeys(row.split for row in rows if row.split)),
            "frames": "frames.json",
            "metadata": _metadata(path, info),
            "rows": [row.number for row in rows],
            **self._text(info, rows),
        }
        if groups := [row.group for row in rows if row.group]:
            found["group_name"] = groups[0]
        if "weight" in self.table.columns:
            found["weight"] = max(row.weight for row in rows)
        for column, name in self.names.items():
            found[name] = self._label(column, info, rows)
        return found

    def _text(self, info: video.VideoInfo, rows: Sequence[Row]) -> dict[str, Any]:
        said = [(row, row.text) for row in rows if row.text]
        if self.parts:
            return {"captions": _detections([(row, text) for row, text in said], info)} if said else {}
        if self.several:
            return {"texts": [text for _, text in said]}
        return {"text": said[0][1]} if said else {}

    def _label(self, column: str, info: video.VideoInfo, rows: Sequence[Row]) -> Any:
        named = [(row, name) for row in rows for name in self.table.names(row, column)]
        if not named:
            return None
        if column in self.numeric:
            return float(named[0][1]) if not self.several else [float(cell) for _, cell in named]
        if column in self.plain:
            return named[0][1] if not self.several else [cell for _, cell in named]
        if self.parts:
            return _detections(named, info)
        classes = [{"_cls": "Classification", "label": name} for name in dict.fromkeys(name for _, name in named)]
        if self.several or column in self.table.multi:
            return {"_cls": "Classifications", "classifications": classes}
        return classes[0]


def _detections(named: Sequence[tuple[Row, str]], info: video.VideoInfo) -> dict[str, Any]:
    """Names with the frames that they hold for, from 1, the last included."""
    detections = [
        {
            "_cls": "TemporalDetection",
            "label": name,
            "support": support(row, info),
            "tags": [row.split] if row.split else [],
        }
        for row, name in named
    ]
    return {"_cls": "TemporalDetections", "detections": detections}


def support(row: Row, info: video.VideoInfo) -> list[int]:
    """The frames of a row's part, from 1, the last included: those shown at a time in [start, end)."""
    first = min(info.num_frames, 1 + _ceil((row.start or 0.0) * info.fps))
    last = info.num_frames if row.end is None else min(info.num_frames, _ceil(row.end * info.fps))
    return [first, max(first, last)]


def _ceil(value: float) -> int:
    return -int(-(value - 1e-6) // 1)  # a time that is written in decimals may lie just above its frame


def _metadata(path: Path, info: video.VideoInfo) -> dict[str, Any]:
    return {
        "_cls": "VideoMetadata",
        "size_bytes": path.stat().st_size,
        "mime_type": _VIDEOS[path.suffix.lower()],
        "frame_width": info.width,
        "frame_height": info.height,
        "frame_rate": info.fps,
        "total_frame_count": info.num_frames,
        "duration": info.duration,
    }


def _all_numbers(table: Manifest, column: str) -> bool:
    try:
        manifest.numbers(table, column)
    except DataError:
        return False
    return True


def _mostly_different(table: Manifest, column: str) -> bool:
    """Whether a column holds words of its own in most rows, as instructions or addresses do, and no classes."""
    cells = [row.labels[column] for row in table.rows if column in row.labels]
    return len(set(cells)) > max(2, len(cells) / 2)


def _legal(name: str, taken: set[str]) -> str:
    """A column's name as FiftyOne takes it: letters, digits and "_", another letter first, and not one of its own."""
    made = re.sub(r"\W", "_", name).lstrip("_") or "column"
    made = f"column_{made}" if made[0].isdigit() else made
    while made in taken or made in _TAKEN:
        made += "_"
    return made


def _write(out: Path, table: Manifest, samples: Sequence[Mapping[str, Any]]) -> None:
    made_by = f"kinetext {kinetext.__version__}"
    info = {"made_by": made_by, "source": str(table.path.resolve())}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "frames.json", json.dumps({"frames": {}}) + "\n")
        write_text(out / "metadata.json", json.dumps({"media_type": "video", "info": info}, ensure_ascii=False) + "\n")
        # last: without it there is nothing to read
        write_text(out / "samples.json", json.dumps({"samples": samples}, ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(f"{out}: can't be written ({error})") from error
