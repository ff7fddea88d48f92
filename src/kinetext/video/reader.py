"""One open video file: what it holds, and any of its frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from kinetext.types import DataError, joined
from kinetext.video.containers import VideoError, opened
from kinetext.video.frames import VideoFile, open_file
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.pictures import are_pictures
from kinetext.video.shaping import TURNS, WHOLE, Fit, Pixels, Region, Shape, Shaper, stored_size, turn_of
from kinetext.video.timeline import REMEMBERED, Scan, Timeline, Track

Decoder = Literal["auto", "pyav", "torchcodec"]
DECODERS: tuple[Decoder, ...] = ("auto", "pyav", "torchcodec")
_SLACK = 1e-3  # seconds; tables often round times to milliseconds
# AVColorRange and what it means
_RANGES = {0: "unspecified", 1: "limited", 2: "full"}


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Args:
        path: the file.
        num_frames: frames that are shown, >= 1.
        fps: frames a second, the mean where it varies; 0 for an image.
        duration: seconds from the first frame to the end of the last; 0 for an image.
        width: pixels as displayed: pixel aspect and rotation applied.
        height: pixels as displayed.
        rotation: the clockwise turn that displaying takes, one of 0, 90, 180, 270 degrees; every reader here
            applies it.
        mirrored: whether frames are mirrored left-right before that turn.
        rate: ``fps`` exactly.
        counted: how ``num_frames`` came about: "packets" or "decoded", which are exact, or "estimated" from the header.
        header_frames: frames that the header promises, 0 where it says nothing; it may be wrong.
        stored_width, stored_height: pixels as stored.
        pixel_aspect: width of a stored pixel over its height.
        pix_fmt: FFmpeg's name of the pixel format, such as "yuv420p".
        color_range: "limited" (16 to 235), "full" or "unspecified".
        variable: whether some frames are shown for longer than others.
        codec: FFmpeg's name, such as "h264".
        tracks: all streams of the file, in its order.
    """

    path: Path
    num_frames: int
    fps: float
    duration: float
    width: int
    height: int
    rotation: int
    mirrored: bool = False
    rate: Fraction = Fraction(0)
    counted: str = "packets"
    header_frames: int = 0
    stored_width: int = 0
    stored_height: int = 0
    pixel_aspect: Fraction = Fraction(1)
    pix_fmt: str = ""
    color_range: str = "unspecified"
    variable: bool = False
    codec: str = ""
    tracks: tuple[Track, ...] = ()


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
    """An open video, or an image, which is a video of one frame.

    Args:
        path: the file.
        size: pixels, the side of square frames, >= 1; None is the size as displayed.
        fit: "crop" the middle square, "squash", or "pad" with black; only with ``size``.
        region: the part of the upright picture that is looked at: left, top, right, bottom in shares of its width and
            height, in [0, 1]; only with ``size``.
        channels: 3 (RGB) or 1 (luma, ITU-R BT.601).
        decoder: "pyav"; "torchcodec", which has to be installed, and refuses what it would show otherwise; "auto" is the one
            that docs/performance.md measured to be faster, "pyav".
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
        self._file = open_file(self.path, threads=threads, limits=limits)
        if decoder == "torchcodec" and not isinstance(self._file, VideoFile):
            raise DataError(f"decoder: 'torchcodec' does not read {self.path}; expected 'pyav'")
        self._shaper = Shaper(self.path, self.line, self.shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def close(self) -> None:
        """Releases the file and its decoder."""
        self._file.close()

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
        line = self.line
        _, frame = next(self._file.frames([0]))
        counted = "packets" if line.pts.size or line.duration == 0 else "decoded"
        return _info(self.path, line, frame, self._file.codec, counted)

    def frames_at(self, numbers: Sequence[int] | None = None, *, seconds: Sequence[float] | None = None) -> Frames:
        """Frames by number or by time, in any order, with repeats: each is decoded once, in one pass.

        Args:
            numbers: from 0; the frame -1 is an error.
            seconds: from the first frame: the frame on screen then.

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
        return self._made(self._numbered(begin + middles(float(until) - begin, fps)))

    def __iter__(self) -> Iterator[Pixels]:
        """Every frame ``(H, W, C)`` uint8, one after another, in constant memory."""
        for _, pixels in self.each(range(len(self.line))):
            yield pixels

    def each(self, numbers: Sequence[int]) -> Iterator[tuple[int, Pixels]]:
        """Frames by ascending numbers, in constant memory; a repeated one is decoded once.

        Raises:
            VideoError: one can't be decoded, when its turn comes.
        """
        repeats = [(number, len(list(same))) for number, same in groupby(numbers)]
        found = self._decoded([number for number, _ in repeats])
        for (_, frame), (number, times) in zip(found, repeats, strict=True):
            pixels = self._shaper(frame)
            for _ in range(times):
                yield number, pixels

    def _decoded(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        if self.decoder != "torchcodec":
            return self._file.frames(wanted)
        from kinetext.video import by_torchcodec

        assert isinstance(self._file, VideoFile)  # checked when it was opened
        found = by_torchcodec.frames(self._file, wanted, self.threads)
        self._shaper = Shaper(self.path, self.line, self.shape, by_torchcodec.TURN)
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
            if made.shape[1:] != planes.shape:
                raise VideoError(f"{self.path}: the frame size changes in mid-file, expected one size")
            for place in places[number]:
                made[place] = planes
        assert made is not None
        pixels, times = torch.from_numpy(made).permute(0, 2, 3, 1), torch.from_numpy(self.line.times[list(numbers)])
        return Frames(pixels, tuple(numbers), times)

    def _numbered(self, seconds: Sequence[float] | NDArray[np.float64] | None) -> list[int]:
        """The frames on screen at these times."""
        times = np.asarray(seconds, np.float64)
        end = self.line.duration
        for time in times:
            if not 0 <= time <= max(end, _SLACK):
                raise VideoError(f"{self.path}: {time:g} s, expected 0 up to its duration of {end:.3f} s")
        return [int(at) for at in np.searchsorted(self.line.times, times + 1e-9, side="right") - 1]


def probe(path: str | Path, *, count: bool = True, limits: Limits = LIMITS, isolated: bool = False) -> VideoInfo:
    """What a file holds; decodes its first frame.

    Args:
        count: read all packets, so that the number of frames, their rate and the duration are exact. Without it they are what
            the header says or implies, and so labelled: the time no longer grows with the file.
        limits, isolated: as of ``read_clip``.

    Raises:
        VideoError: the file is missing, broken, has no frame, or is larger than ``limits`` allow.
    """
    if isolated:
        from kinetext.video.isolated import call

        return call("probe", path, {"count": count, "limits": limits})
    if not (count or are_pictures(Path(path))):  # their number is known at once
        return _estimated(Path(path), limits)
    with VideoReader(path, limits=limits) as reader:
        return reader.probe()


def _estimated(path: Path, limits: Limits) -> VideoInfo:
    """What a file says of itself, and what its first frame shows."""
    with opened(path, limits) as (container, stream):
        line = Scan(path, container, stream, limits).promise()
        first = next(container.decode(stream), None)
        if first is None:
            raise VideoError(f"{path}: no frames in it")
        return _info(path, line, first, stream.codec_context.name, "estimated")


def _info(path: Path, line: Timeline, frame: VideoFrame, codec: str, counted: str) -> VideoInfo:
    turn = turn_of(path, line, frame)
    rotation, mirrored = TURNS[turn]
    width, height = stored_size(frame, line.aspect)
    if turn[0]:
        width, height = height, width
    return VideoInfo(
        path,
        len(line),
        line.fps,
        line.duration,
        width,
        height,
        rotation,
        mirrored,
        line.rate,
        counted,
        line.header.frames,
        frame.width,
        frame.height,
        line.aspect,
        frame.format.name,
        _RANGES.get(int(frame.color_range), "unspecified"),
        not line.is_steady,
        codec,
        line.header.tracks,
    )


def forget() -> None:
    """Nothing is remembered of files any more: the next reading of each looks at all its packets again."""
    REMEMBERED.forget()


def spread(low: int, high: int, num_frames: int) -> list[int]:
    """The middle ones of ``num_frames`` equal segments of the frames ``low`` to ``high`` - 1: number
    ``low`` + floor((i + 0.5) N / num_frames).
    """
    return [low + (2 * i + 1) * (high - low) // (2 * num_frames) for i in range(num_frames)]


def middles(seconds: float, fps: float) -> NDArray[np.float64]:
    """The middles of the stretches of 1 / fps seconds that begin within ``seconds``, at least one.

    Raises:
        DataError: ``fps`` is not more than 0.
    """
    if not 0 < fps < math.inf:
        raise DataError(f"fps: {fps}, expected more than 0")
    # the middle of the last stretch is still on screen; times in files are rounded
    count = max(1, math.ceil((seconds - 1e-3) * fps - 0.5))
    return np.arange(0.5, count) / fps


def frame_range(path: Path, line: Timeline, start: float | None, end: float | None) -> tuple[int, int]:
    """The numbers of the frames on screen in [start, end): first, and one past the last.

    Raises:
        VideoError: the file does not reach them.
    """
    frame = 1 / line.fps if line.fps else 0.0
    if start is not None and not 0 <= start <= max(line.duration - _SLACK, 0):
        raise VideoError(f"{path}: start {start} s, expected 0 up to its duration of {line.duration:.3f} s")
    if end is not None and not (start or 0) < end <= line.duration + frame + _SLACK:
        raise VideoError(f"{path}: end {end} s, expected after start, up to its duration of {line.duration:.3f} s")
    low = 0 if start is None else int(np.searchsorted(line.times, start + _SLACK, side="right")) - 1
    high = len(line) if end is None else int(np.searchsorted(line.times, end - _SLACK, side="left"))
    return low, max(high, low + 1)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], same layout."""
    return pixels.float() / 127.5 - 1.0
