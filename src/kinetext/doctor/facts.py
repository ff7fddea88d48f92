"""What is known of a file, and how it is kept as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from kinetext.doctor.looking import Look

Range = tuple[float | None, float | None]
Trouble = Literal["", "missing", "empty", "audio-only", "truncated", "unreadable"]
WHOLE: Range = (None, None)


@dataclass(frozen=True)
class Facts:
    """What a file holds.

    Args:
        digest: SHA-256 of its content, of a folder of pictures that of ``video.digest``; "" where it is missing or empty.
        size: bytes, of a folder those of all its files.
        trouble: why it can't be read, "" if it can.
        why: the same in words.
        num_frames: frames that were decoded; 0 where it can't be read.
        header_frames: frames that its header says it has, 0 where it says nothing.
        fps: frames a second, the mean where it varies; 0 for an image.
        seconds: from the first frame to the end of the last; 0 for an image.
        width: pixels as displayed.
        height: pixels as displayed.
        rotation: the clockwise turn that displaying takes, in degrees.
        mirrored: whether displaying takes a mirror.
        steady: whether every frame is shown for as long as the others.
        looks: start and end in seconds -> what is shown between them, or why nothing is.
    """

    digest: str
    size: int
    trouble: Trouble = ""
    why: str = ""
    num_frames: int = 0
    header_frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    width: int = 0
    height: int = 0
    rotation: int = 0
    mirrored: bool = False
    steady: bool = True
    looks: Mapping[Range, Look | str] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text that ``from_json`` reads."""
        looks = [[start, end, one if isinstance(one, str) else asdict(one)] for (start, end), one in self.looks.items()]
        return json.dumps({**asdict(self), "looks": looks}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Reads what ``to_json`` wrote.

        Raises:
            ValueError: it is something else.
        """
        raw: dict[str, Any] = json.loads(text)
        looks = {(start, end): one if isinstance(one, str) else _look(one) for start, end, one in raw.pop("looks")}
        return cls(**raw, looks=looks)


def _look(raw: dict[str, Any]) -> Look:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()}
    return Look(**values)
