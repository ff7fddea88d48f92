"""What a file may hold to be read at all, decided before a frame of it is given."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from kinetext.types import DataError


@dataclass(frozen=True)
class Limits:
    """The most that a file may have; the defaults keep out mistakes, a service sets its own against strangers.

    A file's index is read before its frames are counted, and may by itself take gigabytes: files of strangers want
    ``isolated`` as well, which bounds memory and time.

    Args:
        pixels: of a stored frame, width times height, >= 1.
        frames: >= 1.
        seconds: from the first frame to the end of the last, > 0.
        streams: video, sound, subtitles and others together, >= 1.
        bytes: of the file, >= 1.

    Raises:
        DataError: one of them is outside its range.
    """

    pixels: int = 2**26  # 8192 x 8192
    frames: int = 10_000_000  # two days at 60 a second
    seconds: float = 172_800.0
    streams: int = 64
    bytes: int = 2**40

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seconds":
                if not 0 < value < math.inf:
                    raise DataError(f"limits.seconds: {value}, expected a finite number more than 0")
            elif not 1 <= value < math.inf or value != int(value):
                raise DataError(f"limits.{field.name}: {value}, expected a whole number, 1 or more")


LIMITS = Limits()
