"""One open video file: what it holds, and any of its frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from kinetext.types import DataError, joined
from kinetext.video.containers import VideoError
from kinetext.video.frames import VideoFile, open_file
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.pictures import Pictures
from kinetext.video.probing import VideoInfo, probed
from kinetext.video.sampling import SLACK, frame_range, middles, on_screen, slack, spread
from kinetext.video.shaping import WHOLE, Fit, Pixels, Region, Shape, Shaper
from kinetext.video.timeline import REMEMBERED, Timeline

Decoder = Literal["auto", "pyav", "torchcodec"]
DECODERS: tuple[Decoder, ...] = ("auto", "pyav", "torchcodec")


@dataclass(frozen=True)
class Frames:
    """Some frames of a file.

    Args:
        pixels: ``(T, H, W, C)`` uint8; in memory the channels of a frame lie one after another.
        numbers: of each in the file, from 0.
        times: ``(T,)`` seconds from the first frame of the file, float64.
    """

    pixels: Tensor
    numbers: tuple[int, ...]
    times: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def video(self) -> Tensor:
        """``(C, T, H, W)`` float32 in [-1, 1]."""
        return to_float(self.pixels.permute(3, 0, 1, 2).contiguous())


class VideoReader:
    """An open video, or an image, which is a video of one frame. It is for one thread of one process at a time.

    Args:
        path: the file.
        size: pixels, the side of square frames, >= 1; None is the size as displayed.
        fit: "crop" the middle square, "squash", or "pad" with black; only with ``size``.
        region: the part of the upright picture that is looked at: left, top, right, bottom in shares of its width and
            height, in [0, 1]; only with ``size``.
        channels: 3 (RGB) or 1 (luma, ITU-R BT.601).
        decoder: "pyav"; "torchcodec", which has to be installed, refuses what it would show otherwise, but shows damaged
            frames without a word; "auto" is the one that docs/performance.md measured to be faster, "pyav".
        threads: of the decoder, >= 0; 0 is one, but for large H.265: other decoders miss damage on several (``VideoFile``).
        limits: what the file may hold.

    Raises:
        DataError: an argument is outside its range.
        VideoError: the file is missing, broken, without frames, or larger than ``limits`` allow.

    Example:
        >>> with VideoReader("clip.mp4", size=112) as reader:      # doctest: +SKIP
        ...     reader.frames_at(seconds=[0.5, 1.0]).pixels.shape
        torch.Size([2, 112, 112, 3])
    """

    def __init__(
        self,
        path: str | Path,
        *,
        size: int | None = None,
        fit: Fit = "crop",
        region: Region = WHOLE,
        channels: int = 3,
        decoder: Decoder = "auto",
        threads: int = 0,
        limits: Limits = LIMITS,
    ) -> None:
        if decoder not in DECODERS:
            raise DataError(f"decoder: {decoder!r}, expected one of {joined(DECODERS)}")
        if threads < 0:
            raise DataError(f"threads: {threads}, expected 0 or more")
        self.path, self.shape, self.decoder, self.threads = (
            Path(path),
            Shape(size, fit, region, channels),
            decoder,
            threads,
        )
        self._file, self._closed = open_file(self.path, threads=threads, limits=limits), False
        if decoder == "torchcodec" and not isinstance(self._file, VideoFile):
            raise DataError(f"decoder: 'torchcodec' does not read {self.path}; expected 'pyav'")
        self._shaper = Shaper(self.path, self.line, self.shape, limits=limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the file and its decoder; to read from it then is a DataError."""
        self._closed = True
        self._file.close()

    def _open(self) -> VideoFile | Pictures:
        """The file, where it is still open."""
        if self._closed:
            raise DataError(f"{self.path}: is closed, expected an open one")
        return self._file

    def __len__(self) -> int:
        return len(self.line)

    @property
    def line(self) -> Timeline:
        """When each frame is shown."""
        return self._file.line

    def probe(self) -> VideoInfo:
        """What the file holds; decodes its first frame.

        Raises:
            VideoError: it can't be decoded.
        """
        return probed(self._open())

    def frames_at(self, numbers: Sequence[int] | None = None, *, seconds: Sequence[float] | None = None) -> Frames:
        """Frames by number or by time, in any order, with repeats: each is decoded once, in one pass.

        Args:
            numbers: from 0; the frame -1 is an error.
            seconds: from the first frame: the frame on screen then, or the next where that begins within a millisecond (a quarter
                of a frame where that is less), since times that were written down are rounded.

        Raises:
            DataError: not just one of the two is given, or there are none in it.
            VideoError: the file has no such frame, or it can't be decoded.
        """
        if (numbers is None) == (seconds is None):
            raise DataError("frames_at: expected numbers or seconds, one of the two")
        chosen = self._numbered(seconds) if numbers is None else [int(number) for number in numbers]
        if not chosen:
            raise DataError(f"{'seconds' if numbers is None else 'numbers'}: empty, expected at least one")
        for number in chosen:
            if not 0 <= number < len(self.line):
                raise VideoError(f"{self.path}: frame {number}, expected 0 to {len(self.line) - 1}")
        return self._made(chosen)

    def clip(
        self,
        start: float | None = None,
        end: float | None = None,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
    ) -> Frames:
        """The frames on screen in [start, end).

        Args:
            start: seconds from the first frame, >= 0; None is the beginning.
            end: seconds, > ``start``; None is the end.
            num_frames: the middle ones of so many equal segments, >= 1, repeated where there are fewer.
            fps: those on screen in the middle of every stretch of 1 / fps seconds, > 0; not together with ``num_frames``.
                Neither gives all of them.

        Raises:
            DataError: an argument is outside its range.
            VideoError: the file does not reach ``end``, or a frame can't be decoded.
        """
        if num_frames is not None and fps is not None:
            raise DataError("num_frames and fps: both are given, expected one of them")
        if num_frames is not None and num_frames < 1:
            raise DataError(f"num_frames: {num_frames}, expected 1 or more")
        low, high = frame_range(self.path, self.line, start, end)
        if num_frames is not None:
            return self._made(spread(low, high, num_frames))
        if fps is None:
            return self._made(range(low, high))
        until = self.line.times[high] if high < len(self.line) else self.line.duration
        begin = float(self.line.times[low])
        found = on_screen(self.line, begin + middles(float(until) - begin, fps))
        return self._made(
            np.minimum(found, high - 1).tolist()
        )  # the middle of a stretch longer than the range lies behind it

    def __iter__(self) -> Iterator[Pixels]:
        """Every frame ``(H, W, C)`` uint8, one after another; one of them is in memory at a time."""
        for _, pixels in self.each(range(len(self.line))):
            yield pixels

    def each(self, numbers: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """Frames by ascending numbers, one in memory at a time; a repeated one is decoded once.

        Raises:
            VideoError: one can't be decoded, when its turn comes.
        """
        if len(numbers) and not 0 <= min(numbers) <= max(numbers) < len(self.line):
            raise VideoError(
                f"{self.path}: frames {min(numbers)} to {max(numbers)}, expected 0 to {len(self.line) - 1}"
            )
        if any(after < before for before, after in pairwise(numbers)):
            raise DataError("numbers: not ascending, expected each at least the one before")
        once = numbers if isinstance(numbers, range) else list(dict.fromkeys(numbers))
        times = Counter(numbers) if len(once) < len(numbers) else {}
        size: tuple[int, ...] = ()
        for number, frame in self._decoded(once):
            self._open()  # whoever decodes, nothing is read once it is closed
            pixels = self._shaper(frame)
            size = self._one_size(size or pixels.shape, pixels.shape)
            for _ in range(1, times.get(number, 1)):
                yield number, pixels.copy()  # who takes it may write in it
            yield number, pixels

    def _decoded(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        if self.decoder != "torchcodec":
            return self._open().frames(wanted)
        from kinetext.video import by_torchcodec

        file = self._open()
        assert isinstance(file, VideoFile)  # checked when it was opened
        found = by_torchcodec.frames(file, wanted, self.threads)
        self._shaper = Shaper(self.path, self.line, self.shape, by_torchcodec.TURN, file.limits)
        return found

    def _made(self, numbers: Sequence[int]) -> Frames:
        places: dict[int, list[int]] = {}
        for place, number in enumerate(numbers):
            places.setdefault(number, []).append(place)
        made: NDArray[np.uint8] | None = None  # (T, C, H, W), as frames come
        for number, frame in self._decoded(sorted(places)):
            planes = self._shaper(frame).transpose(2, 0, 1)
            if made is None:
                made = np.empty((len(numbers), *planes.shape), np.uint8)
            self._one_size(made.shape[1:], planes.shape)
            for place in places[number]:
                made[place] = planes
        assert made is not None
        pixels, times = torch.from_numpy(made).permute(0, 2, 3, 1), torch.from_numpy(self.line.times[list(numbers)])
        return Frames(pixels, tuple(numbers), times)

    def _one_size(self, first: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
        if size != first:
            raise VideoError(f"{self.path}: the frame size changes in mid-file, expected one size")
        return size

    def _numbered(self, seconds: Sequence[float] | None) -> list[int]:
        """The frames that these times mean."""
        times = np.asarray(seconds, np.float64)
        end = self.line.duration
        for time in times:
            if not 0 <= time <= max(end, SLACK):
                raise VideoError(f"{self.path}: {time:.9g} s, expected 0 up to its duration of {end:.9g} s")
        numbers: list[int] = on_screen(self.line, times, slack(self.line)).tolist()
        return numbers


def forget() -> None:
    """Nothing is remembered of files any more: the next reading of each looks at all its packets again."""
    REMEMBERED.forget()


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], same layout."""
    return pixels.float() / 127.5 - 1.0
