"""Folders that are a dataset without a table: texts beside clips, or a folder for each class; split folders around either."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kinetext.manifest.rows import MEANT, SPLITS
from kinetext.types import DataError, joined

Layout = Literal["pairs", "classes"]
LAYOUTS = (
    "texts beside clips (a.mp4 and a.txt)",
    "a folder for each of two or more classes (wave/a.mp4)",
    "either in folders train, val, test (train/wave/a.mp4)",
)
LABEL = "label"  # the column that class folders make
# what counts as a clip, as of kinetext.video, which may not be imported here; a test holds them together
CLIPS = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif", ".apng",
    ".png", ".jpg", ".jpeg", ".bmp", ".webp",
)  # fmt: skip

_SPLITS: Mapping[str, str] = {split: split for split in SPLITS} | dict(MEANT)
_SHOWN = 5  # names that one message holds
_LONGEST = 2**20  # bytes of a text


@dataclass(frozen=True)
class Laid:
    """A folder read as a table.

    Args:
        layout: which it is.
        columns: their names: file_name, then text or label, then split where the folder has split folders.
        cells: of every column, those of all rows, in the order of the files' names.
    """

    layout: Layout
    columns: tuple[str, ...]
    cells: tuple[Sequence[str], ...]


@dataclass(frozen=True)
class _Files:
    """Clips and texts under a folder, as the names of the folders above them, and their own."""

    clips: tuple[tuple[str, ...], ...]
    texts: frozenset[tuple[str, ...]]


def has_pairs(root: Path) -> bool:
    """Whether a clip under a folder has a text beside it."""
    return _has_pairs(_files(root))


def clips(root: Path) -> list[str]:
    """The clips under a folder, by their paths below it; nothing whose name, or whose folder's, begins with a dot.

    Raises:
        DataError: a folder can't be read.
    """
    return ["/".join(clip) for clip in _files(root).clips]


def read(root: Path) -> Laid | None:
    """Reads a folder without a table as one; None where it has no texts beside clips, and less than two folders of clips.

    Files and folders whose names begin with a dot are not looked at.

    Raises:
        DataError: it is a mixture of layouts, a clip has no text, or a text no clip.
    """
    files = _files(root)
    pairs = _has_pairs(files)
    if not pairs and len(_classes(files)) < 2:
        return None
    _refuse_mixtures(root, files)
    table: dict[str, Sequence[str]] = {"file_name": ["/".join(clip) for clip in files.clips]}
    depth = _depth(files)
    if pairs:
        table["text"] = _texts(root, files)
    else:
        table[LABEL] = [clip[depth] for clip in files.clips]
    if depth:
        table["split"] = [_SPLITS[clip[0].lower()] for clip in files.clips]
    return Laid("pairs" if pairs else "classes", tuple(table), tuple(table.values()))


def _has_pairs(files: _Files) -> bool:
    beside = {_stem(clip) for clip in files.clips}
    return any(_stem(text) in beside for text in files.texts)


def _folders(files: _Files) -> set[str]:
    return {clip[0] for clip in files.clips if len(clip) > 1}


def _depth(files: _Files) -> int:
    """How many folders for splits are above the rest: 1, or 0 where there are none."""
    folders = _folders(files)
    return 1 if folders and all(folder.lower() in _SPLITS for folder in folders) else 0


def _classes(files: _Files) -> set[str]:
    depth = _depth(files)
    return {clip[depth] for clip in files.clips if len(clip) > depth + 1}


def _files(root: Path) -> _Files:
    there, texts = [], set()
    try:
        for parts in _walk(root, ()):
            suffix = os.path.splitext(parts[-1])[1].lower()
            if suffix in CLIPS:
                there.append(parts)
            elif suffix == ".txt":
                texts.add(parts)
    except OSError as error:
        raise DataError(f"{root}: can't be read ({error})") from error
    return _Files(tuple(sorted(there)), frozenset(texts))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):  # a link to a folder may lead around in a circle
                yield from _walk(Path(entry.path), (*above, entry.name))
            elif os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file():  # a link may lead to itself
                yield (*above, entry.name)


def _stem(parts: tuple[str, ...]) -> tuple[str, ...]:
    return (*parts[:-1], os.path.splitext(parts[-1])[0])


def _refuse_mixtures(root: Path, files: _Files) -> None:
    """Says why a folder is more than one layout at once."""
    folders, classes, depth = _folders(files), _classes(files), _depth(files)
    named = sorted(folder for folder in folders if folder.lower() in _SPLITS)
    if named and not depth:
        rest = sorted(folders - set(named))
        _refuse(root, f"folders for splits ({joined(named)}) beside others ({_some(rest)})")
    loose = [clip for clip in files.clips if len(clip) == 1]
    if loose and folders:
        _refuse(root, f"clips of its own ({_some(loose)}) beside folders of clips ({_some(sorted(folders))})")
    if classes and _has_pairs(files):
        _refuse(root, f"texts beside clips, in folders that may be classes ({_some(sorted(classes))})")
    deep = [clip for clip in files.clips if len(clip) > depth + 2]
    flat = [clip for clip in files.clips if len(clip) == depth + 1]
    if classes and (deep or flat):
        _refuse(root, f"clips in class folders, and others that lie elsewhere ({_some(deep or flat)})")


def _refuse(root: Path, mixture: str) -> None:
    raise DataError(
        f"{root}: has no table, and {mixture}, expected one layout: {'; '.join(LAYOUTS)}; "
        "or a metadata.csv that says what each clip is"
    )


def _texts(root: Path, files: _Files) -> list[str]:
    """What stands beside every clip, without the space around it."""
    beside = {_stem(text): text for text in files.texts}
    if len(beside) < len(files.texts):
        stem = next(stem for stem, count in Counter(map(_stem, files.texts)).items() if count > 1)
        two_texts = sorted(text for text in files.texts if _stem(text) == stem)
        raise DataError(f"{root}: {len(two_texts)} texts of one name, {_some(two_texts)}, expected one")
    alone = [clip for clip in files.clips if _stem(clip) not in beside]
    if alone:
        raise DataError(
            f"{root}: {len(alone)} of {len(files.clips)} clips have no text beside them: {_some(alone)}; an empty "
            f"{'/'.join(_stem(alone[0]))}.txt says that there is none"
        )
    known = [_stem(clip) for clip in files.clips]
    two = next((stem for stem, count in Counter(known).items() if count > 1), None)
    if two:
        raise DataError(f"{root}: two clips named {'/'.join(two)} beside one text, expected one")
    stray = sorted(beside[stem] for stem in beside.keys() - set(known))
    if stray:
        raise DataError(f"{root}: {len(stray)} texts have no clip beside them: {_some(stray)}; move or rename them")
    return [_text(root.joinpath(*beside[stem])) for stem in known]


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LONGEST:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes, expected a text of at most {_LONGEST:,}")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; save the text as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error})") from error
    return text.replace("\r\n", "\n").strip()


def _some(names: Sequence[str] | Sequence[tuple[str, ...]]) -> str:
    shown = [name if isinstance(name, str) else "/".join(name) for name in names[:_SHOWN]]
    return joined(shown) + (", ..." if len(names) > _SHOWN else "")
