"""What the process that decodes answers: how it is sent, and how much of it is believed by who asked."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch

from kinetext.types import DataError
from kinetext.video.containers import VideoError
from kinetext.video.probing import VideoInfo

HEAD = 1 << 20  # bytes of JSON at most
LENGTHS = 16  # bytes that say how long the JSON is, and what follows it
KINDS: dict[str, type[DataError]] = {"DataError": DataError, "VideoError": VideoError}
_TEXT = 2000  # characters of an error's text
_FRACTION = re.compile(r"\d{1,19}(/\d{1,19})?")  # of 64 bits at most; "1e30000000" would be one of 12 MB


def packed(head: Mapping[str, Any], data: int) -> bytes:
    """An answer up to its data, which are so many bytes."""
    line = json.dumps(head, default=str).encode()
    return len(line).to_bytes(8, "little") + data.to_bytes(8, "little") + line


def lengths(start: bytes | bytearray) -> tuple[int, int]:
    """How long an answer's JSON and its data are, from its first 16 bytes."""
    return int.from_bytes(start[:8], "little"), int.from_bytes(start[8:], "little")


def parsed(line: bytes | bytearray) -> dict[str, Any]:
    """The JSON of an answer.

    Raises:
        ValueError: it is no object of JSON.
    """
    try:
        head = json.loads(line)
    except RecursionError:
        raise ValueError("JSON in too many levels") from None
    if not isinstance(head, dict):
        raise ValueError("no object of JSON")
    return head


def error(path: str | Path, head: Mapping[str, Any], memory: int) -> DataError | None:
    """The error that an answer tells of; it names the file as it was asked for."""
    if kind := head.get("error"):
        text = str(head.get("text", f"{path}: can't be read"))[:_TEXT]
        return KINDS.get(str(kind), VideoError)(text.replace(os.path.abspath(path), str(path)))
    if head.get("memory"):
        return VideoError(f"{path}: needs more than {memory} MiB of memory to be read in isolation, given up")
    return None


def info(path: str | Path, head: Mapping[str, Any]) -> VideoInfo:
    """What a file holds, as ``probe`` gives it.

    Raises:
        ValueError: an answer that ``probe`` can't give.
    """
    found = _typed(VideoInfo, head.get("info"))
    assert isinstance(found, VideoInfo)
    counts = (found.num_frames, found.width, found.height, found.stored_width, found.stored_height)
    sound = min(counts) >= 1 and found.header_frames >= 0 and found.rotation in (0, 90, 180, 270)
    if not (sound and found.rate >= 0 and found.pixel_aspect > 0 and _is_span(found.fps) and _is_span(found.duration)):
        raise ValueError("numbers out of range")
    return replace(found, path=Path(path))


def reach(head: Mapping[str, Any]) -> tuple[int, float]:
    """How many frames a range has and how many seconds they are on screen, as ``extent`` gives it.

    Raises:
        ValueError: an answer that ``extent`` can't give.
    """
    found = _typed(tuple[float, ...], head.get("reach"))
    if len(found) != 2 or type(found[0]) is not int or found[0] < 1 or not _is_span(found[1]):
        raise ValueError("numbers out of range")
    return found[0], float(found[1])


def state(rng: torch.Generator) -> str:
    """Where a generator stands, as text."""
    return base64.b64encode(bytes(rng.get_state().numpy())).decode()


def go_on(rng: torch.Generator, state: object) -> None:
    """Sets a generator to where another stands.

    Raises:
        ValueError, RuntimeError: it is no such state.
    """
    rng.set_state(torch.from_numpy(np.frombuffer(base64.b64decode(str(state)), np.uint8).copy()))


def _is_span(value: float) -> bool:
    return 0 <= value < math.inf


def _typed(kind: Any, value: Any) -> Any:
    """What JSON made of a dataclass of plain values, as it was."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or set(value) != set(hints):
            raise ValueError(f"no {kind.__name__}")
        return kind(**{field.name: _typed(hints[field.name], value[field.name]) for field in fields(kind)})
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError("no list")
        return tuple(_typed(get_args(kind)[0], one) for one in value)
    if kind is Fraction and isinstance(value, str) and _FRACTION.fullmatch(value) and not value.endswith("/0"):
        return Fraction(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind not in (int, float, str, bool) or (type(value) is not kind and not (kind is float and type(value) is int)):
        raise ValueError(f"{str(value)[:40]!r} where {kind.__name__} belongs")
    return value
