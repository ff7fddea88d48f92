"""Which frames a file has and when each is shown."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from kinetext.video.containers import VideoError

NONE = np.zeros(0, np.int64)
_REMEMBERED = 2**21  # frames of all files together, at 16 to 24 bytes each
_FILE = 100  # frames whose memory a file takes besides that of its own


@dataclass(frozen=True)
class Track:
    """One stream of a file: its kind ("video", "audio", "subtitle", "data" or "attachment") and its codec's name."""

    kind: str
    codec: str


@dataclass(frozen=True)
class Header:
    """What a file says of itself, before any of it is decoded.

    Args:
        container: FFmpeg's name of the format, such as "matroska,webm".
        tracks: all of them; the one that is read is the best video.
        frames: of the video, as its header says; 0 where it says nothing.
        rate: frames a second as the header says; 0 where it says nothing.
        aspect: width of a stored pixel over its height.
    """

    container: str
    tracks: tuple[Track, ...]
    frames: int
    rate: Fraction
    aspect: Fraction


@dataclass(frozen=True)
class Timeline:
    """The frames of a file in the order shown.

    Args:
        times: ``(N,)`` seconds from the first frame, N >= 1.
        pts: ``(N,)`` presentation times in the container's own unit; ``(0,)`` where frames have to be counted.
        keys: ``(M,)`` frame numbers at which decoding may start.
        rate: frames a second, the mean where it varies; 0 for an image.
        duration: seconds from the first frame to the end of the last; 0 for an image.
        header: what the file says of itself.
        headless: whether it begins with pictures that refer to others which are not in it, and its decoder paints these grey.
        reconfigured: whether a packet after the first brings the decoder another configuration (parameter sets of H.264, say).
    """

    times: NDArray[np.float64]
    pts: NDArray[np.int64]
    keys: NDArray[np.int64]
    rate: Fraction
    duration: float
    header: Header
    headless: bool = False
    reconfigured: bool = False

    def __len__(self) -> int:
        return len(self.times)

    @property
    def fps(self) -> float:
        """``rate`` as a float."""
        return float(self.rate)

    @property
    def aspect(self) -> Fraction:
        """Width of a stored pixel over its height."""
        return self.header.aspect

    @property
    def is_steady(self) -> bool:
        """Whether every frame is shown for as long as the others, but for the rounding of its times."""
        gaps = np.diff(self.times)
        return len(gaps) == 0 or float(np.ptp(gaps)) <= max(2e-3, 0.05 * float(gaps.mean()))

    def key_before(self, number: int) -> int:
        """The frame at which decoding has to start for ``number``."""
        at = int(np.searchsorted(self.keys, number, side="right")) - 1
        return int(self.keys[at]) if at >= 0 else 0


class Remembered:
    """Timelines of files, until these change: a training reads the same files over and over.

    Args:
        most: frames of all of them together, where a file counts as 100 more than it has; the last one is kept whatever it has.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lines: dict[tuple[object, ...], Timeline] = {}
        self._frames = 0
        self.renew()

    def __len__(self) -> int:
        return len(self._lines)

    def renew(self) -> None:
        """A lock of its own for a process that was forked while another thread held this one."""
        self._lock = Lock()
        self._frames = sum(len(line) + _FILE for line in self._lines.values())

    def get(self, key: tuple[object, ...]) -> Timeline | None:
        """What is known of a file, by its ``key``."""
        with self._lock:
            line = self._lines.pop(key, None)
            if line is not None:
                self._lines[key] = line  # behind those that were asked for less lately
        return line

    def keep(self, key: tuple[object, ...], line: Timeline) -> None:
        """Remembers ``line``, and forgets the ones that were longest not asked for; that of a still is as quick to find."""
        if len(line) < 2:
            return
        with self._lock:
            self._drop(key)
            self._lines[key] = line
            self._frames += len(line) + _FILE
            while self._frames > self.most and len(self._lines) > 1:
                self._drop(next(iter(self._lines)))

    def forget(self) -> None:
        """Nothing is remembered any more."""
        with self._lock:
            self._lines.clear()
            self._frames = 0

    def _drop(self, key: tuple[object, ...]) -> None:
        line = self._lines.pop(key, None)
        if line is not None:
            self._frames -= len(line) + _FILE

    def key(self, path: Path) -> tuple[object, ...]:
        """What tells a file, as it is now, from others and from itself when it has changed.

        Raises:
            VideoError: there is no such file.
        """
        try:
            stat = path.stat()
        except (OSError, ValueError) as error:  # a NUL in its name
            raise VideoError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        return path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


REMEMBERED = Remembered(_REMEMBERED)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=REMEMBERED.renew)
