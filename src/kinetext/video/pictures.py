"""Clips that FFmpeg does not read as such: animated WebP files, and folders of numbered pictures."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from av.video.frame import VideoFrame
from PIL import Image

from kinetext.video.containers import VideoError, check, check_length, told
from kinetext.video.decoding import broken
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.timeline import Header, Timeline, Track

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
RATE = "fps.txt"  # in a folder of pictures: frames a second
_USUAL = Fraction(25)  # without it, as FFmpeg has it
_ANIMATED = 0x02  # among the flags of a WebP's VP8X chunk
_SHORT, _SHOWN = 10, 100  # milliseconds: frames of at most so many are shown for so many, as browsers do
# of one picture, its path and the limits
One = Callable[[Path, Limits], VideoFrame]


def is_animated_webp(path: Path) -> bool:
    """Whether a file says so in its first bytes; False where it can't be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            start = file.read(21)
    except OSError:
        return False
    return start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8X" and len(start) == 21 and bool(start[20] & _ANIMATED)


def are_pictures(path: Path) -> bool:
    """Whether a clip is one of ``Pictures``: a folder, or an animated WebP."""
    return path.is_dir() or is_animated_webp(path)


def digest(path: Path) -> str:
    """The sha256 of a clip's content: of a file, or of a folder's pictures, their names and its fps.txt.

    Raises:
        OSError: it can't be read.
        VideoError: there are no pictures in the folder.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = [*_pictures(path), *(one for one in [path / RATE] if one.is_file())]
    return hashlib.sha256("".join(f"{one.name} {digest(one)}\n" for one in files).encode()).hexdigest()


class Pictures:
    """A clip of pictures, with what ``VideoFile`` has.

    Args:
        path: an animated WebP, or a folder of pictures. Its pictures (.png, .jpg, .jpeg, .bmp, .webp) are the frames, in
            the order of the numbers in their names, at 25 frames a second, or as many as its fps.txt says.
        one: reads a picture of a folder.
        limits: what the clip may hold.

    Raises:
        VideoError: there are no frames, the file is truncated, or larger than ``limits`` allow.
    """

    def __init__(self, path: Path, one: One, limits: Limits = LIMITS) -> None:
        self.path, self.limits, self._one = path, limits, one
        self._files = _pictures(path) if path.is_dir() else []
        self.codec = self._files[0].suffix.lower().lstrip(".") if self._files else "webp"
        self.line = self._folder() if self._files else _webp(path, limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open between frames."""

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames (ascending, without repeats) with their numbers.

        Raises:
            VideoError: one of them can't be decoded.
        """
        if self._files:
            yield from ((number, self._one(self._files[number], self.limits)) for number in wanted)
            return
        number = 0
        try:
            with Image.open(self.path, formats=["WEBP"]) as image:
                for number in wanted:
                    image.seek(number)
                    yield number, VideoFrame.from_ndarray(np.array(image.convert("RGB")), format="rgb24")
        except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise broken(self.path, number, len(self.line), str(error) or type(error).__name__) from error

    def _folder(self) -> Timeline:
        count, rate = len(self._files), _rate(self.path)
        check_length(self.path, count, float(count / rate), self.limits)
        header = Header("folder", (Track("video", self.codec),), count, rate, Fraction(1))
        order = np.arange(count)
        return Timeline(order / float(rate), order, order, rate, float(count / rate), header)


def _pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of the numbers in their names."""
    with told(folder):
        inside = list(folder.iterdir())
    found = [path for path in inside if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    if not found:
        raise VideoError(f"{folder}: no pictures in it, expected some that end in {', '.join(PICTURES)}")
    # odd places of the split are numbers, so that like is compared with like
    return sorted(
        found, key=lambda path: [int(x) if n % 2 else x for n, x in enumerate(re.split("([0-9]+)", path.name))]
    )


def _rate(folder: Path) -> Fraction:
    """Frames a second of a folder of pictures."""
    path = folder / RATE
    if not path.is_file():
        return _USUAL
    with told(path), path.open("rb") as file:
        text = file.read(32).decode("utf-8", "replace").strip()
    try:
        rate = Fraction(text) if re.fullmatch(r"\d+(\.\d+)?(/\d+)?", text) else Fraction(0)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise VideoError(
            f"{path}: {text[:20]!r}, expected a number more than 0, at most 1000, such as 12.5 or 30000/1001"
        )
    return rate


def _webp(path: Path, limits: Limits) -> Timeline:
    """The times of an animated WebP, from its chunks (RFC 9649, 2.7)."""
    spans: list[int] = []
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            check(path, "bytes", end, limits.bytes)
            file.seek(4)
            whole = 8 + int.from_bytes(file.read(4), "little")
            if whole > end:
                raise VideoError(f"{path}: truncated: {end} of {whole} bytes are there")
            at = 12
            while at + 8 <= whole:
                file.seek(at)
                name, size = file.read(4), int.from_bytes(file.read(4), "little")
                body = file.read(16) if name in (b"VP8X", b"ANMF") else b""
                if name == b"VP8X":
                    wide, tall = (1 + int.from_bytes(body[i : i + 3], "little") for i in (4, 7))
                    check(path, "pixels", wide * tall, limits.pixels)
                elif name == b"ANMF":
                    spans.append(int.from_bytes(body[12:15], "little"))
                    check_length(path, len(spans), 0, limits)
                at += 8 + size + size % 2
    except OSError as error:
        raise VideoError(f"{path}: not a video that can be read ({error.strerror or error})") from error
    if not spans:
        raise VideoError(f"{path}: no frames in it")
    spans = [_SHOWN if span <= _SHORT else span for span in spans]
    starts = np.array([0, *accumulate(spans)])
    check_length(path, len(spans), starts[-1] / 1000, limits)
    header = Header("webp", (Track("video", "webp"),), 0, Fraction(0), Fraction(1))
    rate = Fraction(1000 * len(spans), int(starts[-1]))
    return Timeline(starts[:-1] / 1000, starts[:-1], np.zeros(1, np.int64), rate, float(starts[-1] / 1000), header)
