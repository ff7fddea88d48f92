"""Which frames a file has and when each is shown, read from its packets."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from threading import Lock

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinetext.video.containers import VideoError, check_length, opened
from kinetext.video.limits import Limits

_STILLS = frozenset({"png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe"})
# Containers that store when each frame is shown. The others (AVI, MPEG-PS, raw streams) store at best when it
# is decoded, so their frames are counted instead.
_TIMED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "gif", "apng", "mpegts", "flv", "asf", "ogg"})
_NONE = np.zeros(0, np.int64)
_REMEMBERED = 512
# an error for any flaw that a decoder sees, checksums among them (PNG has some, H.265 may)
STRICT = "explode+crccheck"


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
        headless: whether it begins with pictures that refer to others which are not in it.
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
    """Timelines of files, until these change: a training reads the same files over and over."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._lines: dict[tuple[object, ...], Timeline] = {}
        self.renew()

    def renew(self) -> None:
        """A lock of its own for a process that was forked while another thread held this one."""
        self._lock = Lock()

    def get(self, key: tuple[object, ...]) -> Timeline | None:
        """What is known of a file, by its ``key``."""
        return self._lines.get(key)

    def keep(self, key: tuple[object, ...], line: Timeline) -> None:
        """Remembers ``line``, and forgets the oldest one where there are too many."""
        with self._lock:
            self._lines[key] = line
            while len(self._lines) > self.most:
                del self._lines[next(iter(self._lines))]

    def forget(self) -> None:
        """Nothing is remembered any more."""
        with self._lock:
            self._lines.clear()

    def key(self, path: Path) -> tuple[object, ...]:
        """What tells a file, as it is now, from others and from itself when it has changed.

        Raises:
            VideoError: there is no such file.
        """
        try:
            stat = path.stat()
        except OSError as error:
            raise VideoError(f"{path}: {error.strerror or error}") from error
        return path.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


REMEMBERED = Remembered(_REMEMBERED)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=REMEMBERED.renew)


@dataclass(frozen=True)
class _Packet:
    pts: int | None
    duration: int
    key: bool


class Scan:
    """What the packets of a stream say, as they come by.

    Args:
        path: of the file.
        container, stream: open.
        limits: of its frames and seconds.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, limits: Limits) -> None:
        self.path, self.limits = path, limits
        self.header = Header(
            container.format.name,
            tuple(Track(one.type, one.codec_context.name if one.codec_context else "") for one in container.streams),
            stream.frames,
            stream.average_rate or Fraction(0),
            stream.sample_aspect_ratio or Fraction(1),
        )
        self.unit = stream.time_base or Fraction(1)
        self.alone = len(container.streams) == 1
        self.promised = (container.duration or 0) / av.time_base
        check_length(path, stream.frames, self.promised, limits)
        self.total = 0  # packets that hold something, or stand for a frame that is the one before
        self.cut = False
        self.headless = False
        self.reconfigured = False
        self.shown: list[_Packet] = []

    def see(self, packet: av.Packet[VideoStream]) -> None:
        """Takes note of the next packet."""
        self.headless |= not self.total and not packet.is_keyframe
        self.reconfigured |= self.total > 0 and packet.has_sidedata("new_extradata")
        self.total += 1
        self.cut |= packet.is_corrupt
        if packet.size and not packet.is_discard:
            if len(self.shown) >= self.limits.frames:
                check_length(self.path, len(self.shown) + 1, 0, self.limits)
            self.shown.append(_Packet(packet.pts, packet.duration or 0, packet.is_keyframe))

    def line(self) -> Timeline:
        """All of it.

        Raises:
            VideoError: there are no frames, fewer than the file promises, or more than the limits allow.
        """
        path, header, shown = self.path, self.header, self.shown
        if not shown:
            promise = f", though its header says {header.frames}" if header.frames else ""
            raise VideoError(f"{path}: no frames in it" + promise)
        if self.total < header.frames or self.cut:
            dropped = (
                " (or some were dropped when it was written)" if header.container == "avi" and not self.cut else ""
            )
            raise VideoError(f"{path}: truncated: {self.total} of {header.frames or 'its'} frames are there" + dropped)
        if header.container in _STILLS:
            return Timeline(np.zeros(1), _NONE, _NONE, Fraction(0), 0.0, header)
        pts = sorted({packet.pts for packet in shown if packet.pts is not None})
        if header.container not in _TIMED or len(pts) < len(shown):
            return replace(_counted(path, header, self.unit, self.limits), reconfigured=self.reconfigured)
        return self._timed(pts)

    def promise(self) -> Timeline:
        """What the header says or implies, before any packet is seen: an estimate."""
        rate = self.header.rate
        if self.header.container in _STILLS:
            return Timeline(np.zeros(1), _NONE, _NONE, Fraction(0), 0.0, self.header)
        count = self.header.frames or max(1, round(self.promised * rate))
        seconds = self.promised or (float(count / rate) if rate else 0.0)
        check_length(self.path, count, seconds, self.limits)
        return Timeline(np.linspace(0, seconds, count, endpoint=False), _NONE, _NONE, rate, seconds, self.header)

    def _timed(self, pts: list[int]) -> Timeline:
        unit, rate = self.unit, self.header.rate
        last = next(packet.duration for packet in self.shown if packet.pts == pts[-1])
        step = last or (Fraction(pts[-1] - pts[0], len(pts) - 1) if len(pts) > 1 else 1 / ((rate or 25) * unit))
        duration = (pts[-1] - pts[0] + step) * unit
        # where the last frame says how long it stays the end is exact, else it may well stay longer than the others
        slack = 0.75 * float(step * unit) if last else 0.1 * self.promised + 2 * float(step * unit)
        end = float(
            max(duration, (pts[-1] + step) * unit)
        )  # FLV's duration counts from 0, where its frames may begin later
        if self.alone and not self.header.frames and end < self.promised - slack:
            raise VideoError(f"{self.path}: truncated: {float(duration):.2f} of {self.promised:.2f} seconds are there")
        check_length(self.path, len(pts), float(duration), self.limits)
        fps = Fraction(len(pts)) / duration if duration else Fraction(0)
        if rate and abs(rate - fps) <= fps / 100:
            fps = rate  # Matroska rounds times to milliseconds; the rate in its header is exact
        keys = sorted(packet.pts for packet in self.shown if packet.key and packet.pts is not None)
        times = np.array([float((at - pts[0]) * unit) for at in pts])
        headless = self.headless and bool(keys)  # some containers mark no key frames at all
        numbers, seconds = np.searchsorted(pts, keys), float(duration)
        return Timeline(times, np.array(pts), numbers, fps, seconds, self.header, headless, self.reconfigured)


def packets_of(container: InputContainer, stream: VideoStream) -> Iterable[av.Packet[VideoStream]]:
    """Those that hold something, or stand for a frame that is the one before."""
    return (packet for packet in container.demux(stream) if packet.size or packet.dts is not None)


def strict(stream: VideoStream, limits: Limits) -> None:
    """Errors instead of frames patched up from their neighbours, or larger than allowed."""
    stream.codec_context.options = {"err_detect": STRICT, "max_pixels": str(limits.pixels)}


def _counted(path: Path, header: Header, unit: Fraction, limits: Limits) -> Timeline:
    """The timeline of a file whose packets do not tell it: decodes it once and counts, and takes times from frames if they have some."""
    pts: list[int | None] = []
    with opened(path, limits) as (container, stream):
        strict(stream, limits)
        try:
            for frame in container.decode(stream):
                pts.append(frame.pts)
                check_length(path, len(pts), 0, limits)
        except av.FFmpegError as error:
            raise broken(path, len(pts), max(len(pts) + 1, header.frames), error.strerror or str(error)) from error
    total, known = len(pts), [at for at in pts if at is not None]
    if not total:
        raise VideoError(f"{path}: no frames in it")
    if header.container in _TIMED and len(known) == total and known == sorted(known) and known[-1] > known[0]:
        times = np.array([float((at - known[0]) * unit) for at in known])
        length = (known[-1] - known[0]) * unit * Fraction(total, total - 1)  # the last one stays as long as others do
        rate = total / length
    else:
        rate = header.rate or Fraction(25)  # raw streams have no rate at all; 25 is FFmpeg's own reading of them
        times, length = np.arange(total) / float(rate), total / rate
    check_length(path, total, float(length), limits)
    return Timeline(times, _NONE, _NONE, rate, float(length), header)


def broken(path: Path, number: int, total: int, cause: str) -> VideoError:
    """The error for a frame that can't be decoded."""
    return VideoError(f"{path}: frame {number} of {total} can't be decoded ({cause})")
