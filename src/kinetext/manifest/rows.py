"""One row of a table: what it holds, and whether its cells are legal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from posixpath import normpath
from typing import Literal

from kinetext.types import joined, suggest

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
RESERVED = ("file_name", "text", "start", "end", "group", "split", "weight")
SEPARATOR = "|"  # between the classes of a multi-label cell
# what a file elsewhere may begin with; "memory" is fsspec's own, which reaches no disk and no network
PROTOCOLS = ("http", "https", "s3", "gs", "az", "hf", "memory")

_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes of a file's name, and characters of all of its path: no disk has more
_SHOWN = 40  # characters of a cell that is too long for a message
_ELSEWHERE = tuple(f"{protocol}://" for protocol in PROTOCOLS)
MEANT: Mapping[str, str] = {
    "validation": "val", "valid": "val", "dev": "val", "eval": "val", "training": "train", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    Args:
        number: in the table, from 1; the header is not counted.
        file: path under the root, a URL of a file elsewhere, or None for a row of text only.
        text: or None.
        start: seconds from the first frame, >= 0, or None for the beginning.
        end: seconds, > start, or None for the end.
        group: rows of one group are never in two splits; "" where the table gives none.
        split: "" where the table gives none.
        weight: >= 0.
        labels: every other column that has a value here, as written.
    """

    number: int
    file: str | None
    text: str | None
    start: float | None
    end: float | None
    group: str
    split: Split | Literal[""]
    weight: float
    labels: Mapping[str, str]

    def moved(self, split: Split) -> Row:
        """The row in another split; ``dataclasses.replace`` takes several times as long."""
        return Row(self.number, self.file, self.text, self.start, self.end, self.group, split, self.weight, self.labels)


def check_row(number: int, raw: Mapping[str, object], multi: Sequence[str], problems: list[str]) -> Row:
    """A row of raw cells checked on its own; what is wrong is added to ``problems``.

    Args:
        number: of the row, from 1.
        raw: column -> cell, every column of the table.
        multi: columns whose cells hold several classes.
    """
    found: list[str] = []
    cells = {name: cell(name, value, multi, found) for name, value in raw.items()}
    start, end, weight = (_number(name, cells.get(name, ""), found) for name in ("start", "end", "weight"))
    file, text, split = cells.get("file_name", ""), cells.get("text", ""), cells.get("split", "")
    if file:
        wrong = escapes(file)
        found += wrong
        file = file if wrong else plain(file)
    elif not text:
        found.append("has neither file_name nor text")
    elif start is not None or end is not None:
        found.append("has start or end, but no file_name")
    if start is not None and end is not None and start >= end:
        found.append(f"start {start:g} s, expected less than end {end:g} s")
    if "split" in cells and split not in SPLITS:
        hint = suggest(MEANT.get(split.lower(), split.lower()), SPLITS)
        found.append(f"split {split!r}, expected one of {joined(SPLITS)}{hint}")
    problems += [f"row {number}: {what}" for what in found]
    labels = {name: cell for name, cell in cells.items() if cell and name not in RESERVED}
    legal: Split | Literal[""] = next((known for known in SPLITS if known == split), "")
    weight = 1.0 if weight is None else weight
    return Row(number, file or None, text or None, start, end, cells.get("group", ""), legal, weight, labels)


def cell(name: str, value: object, multi: Sequence[str], found: list[str]) -> str:
    """A raw cell as text; "" where nothing stands in it. What is wrong with it is added to ``found``."""
    if is_empty(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and name in multi and all(isinstance(v, str) and SEPARATOR not in v for v in value):
        value = SEPARATOR.join(value)
    if isinstance(value, list | dict | tuple | bytes):
        found.append(f"{name} is a {type(value).__name__}, expected text or a number")
        return ""
    text = str(value)
    if not is_encodable(text):
        found.append(f"{name} {text[:_SHOWN]!r} has half a character (a surrogate alone), expected whole ones")
    if name in multi and text:
        parts = text.split(SEPARATOR)
        if "" in parts or len(set(parts)) < len(parts):
            found.append(f"{name} {text!r}, expected different classes separated by {SEPARATOR!r}")
    return text


def is_empty(value: object) -> bool:
    """Whether nothing stands in a raw cell: pandas writes a missing number as one that is none."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_encodable(text: str) -> bool:
    """Whether a text can be written down; JSON may hold one of the two halves of a character, which can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_number(cell: str) -> float | None:
    """The finite number that stands in a cell; None where there is none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _number(name: str, cell: str, found: list[str]) -> float | None:
    """A number >= 0, or None where there is none."""
    if not cell:
        return None
    value = as_number(cell)
    if value is not None and value >= 0:
        return value
    found.append(f"{name} {cell!r}, expected a number, 0 or more")
    return None


def is_elsewhere(file: str) -> bool:
    """Whether a file is named by a URL that kinetext fetches."""
    return file.startswith(_ELSEWHERE)


def escapes(file: str) -> list[str]:
    """A file outside the root is refused, also where it exists: a table must not reach into other folders, and a URL
    not into the machine's own files.
    """
    if len(file) < 64 and ".." not in file and "://" not in file and "\0" not in file and file[:1] not in ("/", "."):
        return []  # nearly all, fast
    if "\0" in file:
        return [f"file_name {file!r} has a zero byte"]
    if is_elsewhere(file):
        return []
    if len(file) > _LONGEST_PATH or any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in file.split("/")):
        return [
            f"file_name {file[:_SHOWN] + '...'!r} is longer than a file's name can be, {_LONGEST_NAME} bytes; are two columns "
            "in each other's place?"
        ]
    protocol, mark, _ = file.partition("://")
    if mark and "/" not in protocol:
        return [f"file_name {file!r} begins with {protocol}://, expected a path or one of {joined(_ELSEWHERE)}"]
    depth = 0
    for part in file.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0 or file.startswith("/"):
            return [f"file_name {file!r} leads out of the root, expected a path inside it"]
    if ".." in file.split("/"):  # what it means depends on whether the folder before it is a link
        return [f"file_name {file!r} goes back by '..', expected a path without it"]
    if plain(file) == ".":
        return [f"file_name {file!r} is the root itself, expected a path inside it"]
    return []


def plain(file: str) -> str:
    """The one name of a file, for one that ``escapes`` nothing: "./a.mp4" and ".//a.mp4" are "a.mp4"; a URL is as it is."""
    return normpath(file) if is_roundabout(file) and not is_elsewhere(file) else file


def is_roundabout(file: str) -> bool:
    """Whether a path may have another spelling; true of URLs, too."""
    return "./" in file or "//" in file or file.endswith(("/", "/."))
