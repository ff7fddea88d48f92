"""Lists of annotations as well-known datasets ship them, each read into entries: which file, and what is said of it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kinetext.manifest.rows import MEANT, SPLITS, as_number
from kinetext.types import DataError, joined, suggest

_SPLITS: Mapping[str, str] = {split: split for split in SPLITS} | dict(MEANT) | {"validate": "val"}


@dataclass(frozen=True)
class Entry:
    """What a list says of one clip, or of a part of one.

    Args:
        where: line, row or name in the list, for messages.
        names: how the file may be called, without its suffix, each with the cells that hold if that is its name; with
            folders in front where the name alone does not tell it from others.
        cells: column -> cell.
        folder: a word that stands in the name of its folder, where several folders have files of that name.
    """

    where: str
    names: Mapping[str, Mapping[str, object]]
    cells: Mapping[str, object]
    folder: str = ""


@dataclass
class Listed:
    """Entries of a list, and how many it leaves out itself."""

    entries: list[Entry] = field(default_factory=list)
    left_out: int = 0


def kinetics(path: Path) -> Listed:
    """Kinetics 400 to 700: a csv of label, youtube_id, time_start, time_end, split; files ID_000010_000020.mp4, or whole
    videos ID.mp4. The test csv has no labels. What comes of one video is one group.
    """
    found = Listed()
    for number, row in _csv(path, ("youtube_id", "time_start", "time_end")):
        where = f"row {number}"
        start, end = (_number(path, where, name, row[name]) for name in ("time_start", "time_end"))
        video = row["youtube_id"]
        names = {f"{video}_{int(start):06}_{int(end):06}": {}, video: {"start": start, "end": end}}
        split = {"split": _split(path, where, row["split"])} if row.get("split") else {}
        found.entries.append(Entry(where, names, {"label": row.get("label"), "group": video, **split}))
    return found


def ucf101(path: Path) -> Listed:
    """UCF101: trainlist01.txt ("Class/v_Class_g08_c01.avi 1") names one of the three official splits; testlist01.txt and
    classInd.txt lie beside it. The number behind _g is who or where, within the class.
    """
    found = re.fullmatch(r"(?:train|test)list(\d+)\.txt", path.name)
    if not found:
        lists = sorted(p.name for p in path.glob("trainlist*.txt")) if path.is_dir() else []
        raise DataError(f"annotations: {path}, expected one of its lists: {joined(lists or ['trainlist01.txt'])}")
    pairs = [line.split(maxsplit=1) for _, line in _lines(path.with_name("classInd.txt"))]
    classes = {name: index for index, name in pairs}
    listed = Listed()
    for split in ("train", "test"):
        part = path.with_name(f"{split}list{found[1]}.txt")
        for number, line in _lines(part):
            file, _, index = line.partition(" ")
            clip = re.fullmatch(r"(\w+)/(v_\w+_(g\d+)_c\d+)\.\w+", file)
            if not clip or clip[1] not in classes or (index and index.strip() != classes[clip[1]]):
                raise DataError(
                    f"{part}: line {number} is {line!r}, expected Class/v_Class_g01_c01.avi and the number that "
                    "classInd.txt gives the class"
                )
            names: dict[str, dict[str, object]] = {f"{clip[1]}/{clip[2]}": {}, clip[2]: {}}
            cells = {"label": clip[1], "group": f"{clip[1]} {clip[3]}", "split": split}
            listed.entries.append(Entry(f"{part.name}, line {number}", names, cells))
    return listed


def hmdb51(path: Path) -> Listed:
    """HMDB51: brush_hair_test_split1.txt ("NAME.avi 1") names one of the three official splits, and stands for the files of
    all classes beside it; 1 is train, 2 test, and 0 in neither.
    """
    match = re.fullmatch(r"\w+_test_split(\d)\.txt", path.name)
    if not match:
        raise DataError(f"annotations: {path}, expected one of its lists, such as brush_hair_test_split1.txt")
    listed = Listed()
    for part in sorted(path.parent.glob(f"*_test_split{match[1]}.txt")):
        label = part.name.removesuffix(f"_test_split{match[1]}.txt")
        for number, line in _lines(part):
            file, _, flag = line.strip().rpartition(" ")
            if not file.strip() or flag not in ("0", "1", "2"):
                raise DataError(f"{part}: line {number} is {line!r}, expected a file and 0, 1 or 2")
            if flag == "0":
                listed.left_out += 1
                continue
            stem = file.strip().rpartition(".")[0]
            names: dict[str, dict[str, object]] = {f"{label}/{stem}": {}, stem: {}}
            cells = {"label": label, "split": "train" if flag == "1" else "test"}
            listed.entries.append(Entry(f"{part.name}, line {number}", names, cells))
    return listed


def msrvtt(path: Path) -> Listed:
    """MSR-VTT: one JSON of "videos" (video_id, category, split) and "sentences" (video_id, caption); files video0.mp4,
    which are cut already. Every sentence is a row.
    """
    raw = _json(path, ("videos", "sentences"))
    videos = {video["video_id"]: video for video in raw["videos"]}
    listed = Listed()
    for number, sentence in enumerate(raw["sentences"], 1):
        where = f"sentence {number}"
        video = videos.get(sentence["video_id"])
        if video is None:
            raise DataError(f"{path}: {where} is of {sentence['video_id']!r}, which is not among its videos")
        cells = {"text": sentence["caption"].strip(), "category": video.get("category")}
        cells["split"] = _split(path, where, video["split"])
        listed.entries.append(Entry(where, {sentence["video_id"]: {}}, cells))
    return listed


def activitynet(path: Path) -> Listed:
    """ActivityNet 1.2 and 1.3: a JSON whose "database" has of every video its subset and annotations (segment, label); or
    ActivityNet Captions, train.json, val_1.json: of every video its timestamps and sentences. Files v_ID.mp4 or ID.mp4. A
    segment is a row; a test video, which has none, is one row without a label.
    """
    raw = _json(path, ())
    if "database" in raw:
        return _activities(path, raw["database"])
    listed = Listed()
    part = next((split for split in ("train", "val", "test") if path.stem.startswith(split)), "")
    for name, video in raw.items():
        if not isinstance(video, dict) or not {"timestamps", "sentences"} <= set(video):
            raise DataError(f"{path}: {name!r} has no timestamps and sentences, and there is no database")
        pairs = list(zip(video["timestamps"], video["sentences"], strict=False))
        if len(pairs) != len(video["sentences"]):
            raise DataError(f"{path}: {name!r} has {len(video['sentences'])} sentences, but not as many timestamps")
        for number, ((start, end), sentence) in enumerate(pairs, 1):
            cells = {"text": sentence.strip(), "start": start, "end": end, **({"split": part} if part else {})}
            listed.entries.append(Entry(f"{name}, sentence {number}", _watched(name), cells))
    return listed


def _activities(path: Path, database: Mapping[str, Any]) -> Listed:
    listed = Listed()
    for name, video in database.items():
        split = {"split": _split(path, name, video["subset"])}
        for number, one in enumerate(video["annotations"], 1):
            start, end = one["segment"]
            cells = {"label": one["label"], "start": start, "end": end, **split}
            listed.entries.append(Entry(f"{name}, annotation {number}", _watched(name), cells))
        if not video["annotations"]:
            listed.entries.append(Entry(name, _watched(name), {"label": None, **split}))
    return listed


def _watched(name: str) -> dict[str, dict[str, object]]:
    bare = name.removeprefix("v_")
    return {f"v_{bare}": {}, bare: {}}


def meld(path: Path) -> Listed:
    """MELD: train_sent_emo.csv, dev_sent_emo.csv or test_sent_emo.csv, or a folder with all three; files dia0_utt0.mp4,
    which every part numbers anew: folders whose names hold train, dev and test tell them apart. A dialogue is a group.
    """
    parts = [path] if path.is_file() else [path / f"{part}_sent_emo.csv" for part in ("train", "dev", "test")]
    listed = Listed()
    for csv_file in parts:
        part = csv_file.name.partition("_")[0]
        split = _split(csv_file, "its name", part)
        for number, row in _csv(
            csv_file, ("Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID")
        ):
            dialogue, utterance = row["Dialogue_ID"], row["Utterance_ID"]
            cells = {
                "text": row["Utterance"], "emotion": row["Emotion"], "sentiment": row["Sentiment"],
                "speaker": row["Speaker"], "group": f"{part} dialogue {dialogue}", "split": split,
            }  # fmt: skip
            names: dict[str, dict[str, object]] = {f"dia{dialogue}_utt{utterance}": {}}
            listed.entries.append(Entry(f"{csv_file.name}, row {number}", names, cells, folder=part))
    return listed


def mosi(path: Path) -> Listed:
    """CMU-MOSI and MOSEI as MMSA ships them: label.csv of video_id, clip_id, text, label (-3 to 3), annotation (Negative,
    Neutral, Positive) and mode; files VIDEO_ID/CLIP_ID.mp4. A video, one speaker, is a group.
    """
    listed = Listed()
    for number, row in _csv(path, ("video_id", "clip_id", "text", "label", "annotation", "mode")):
        where = f"row {number}"
        names: dict[str, dict[str, object]] = {f"{row['video_id']}/{row['clip_id']}": {}}
        score = _number(path, where, "label", row["label"])
        cells = {"text": row["text"], "score": score, "label": row["annotation"], "group": row["video_id"]}
        listed.entries.append(Entry(where, names, {**cells, "split": _split(path, where, row["mode"])}))
    return listed


KINDS: Mapping[str, Callable[[Path], Listed]] = {
    "activitynet": activitynet,
    "hmdb51": hmdb51,
    "kinetics": kinetics,
    "meld": meld,
    "mosi": mosi,
    "msrvtt": msrvtt,
    "ucf101": ucf101,
}


def read(kind: str, path: Path) -> Listed:
    """Reads a list.

    Args:
        kind: one of ``KINDS``.

    Raises:
        DataError: there is no such kind, or the list is no such list.
    """
    if kind not in KINDS:
        raise DataError(f"kind: {kind!r}{suggest(kind, list(KINDS))}, expected one of {joined(list(KINDS))}")
    if not path.exists():
        raise DataError(f"annotations: there is no {path}")
    try:
        return KINDS[kind](path)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: no list of {kind} ({type(error).__name__}: {error})") from error


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the list as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or error})") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _csv(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows from 1, each by column."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        lacks = [name for name in needed if name not in (reader.fieldnames or ())]
        if lacks:
            raise DataError(f"{path}: no column {lacks[0]!r}; it has {joined(reader.fieldnames or ())}")
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise DataError(f"{path}: row {number} has not as many cells as the header")
            yield number, row
    except csv.Error as error:
        raise DataError(f"{path}: not a table ({error})") from error


def _json(path: Path, needed: Sequence[str]) -> Any:
    try:
        raw = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not JSON ({error})") from error
    if not isinstance(raw, dict) or not set(needed) <= set(raw):
        raise DataError(f"{path}: expected an object with {joined(needed) if needed else 'videos'}")
    return raw


def _split(path: Path, where: str, word: str) -> str:
    split = _SPLITS.get(word.strip().lower())
    if split is None:
        raise DataError(f"{path}: {where}: split {word!r}, expected one of {joined(list(_SPLITS))}")
    return split


def _number(path: Path, where: str, column: str, cell: str) -> float:
    value = as_number(cell)
    if value is None:
        raise DataError(f"{path}: {where}: {column} {cell!r}, expected a number")
    return value
