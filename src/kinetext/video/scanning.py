"""The packets of a file, read once: which frames they hold, when each is shown, and whether the file is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from kinetext.video.containers import VideoError, check_length, opened, told
from kinetext.video.decoding import TELLING, broken, packets_of, shows, strict
from kinetext.video.limits import Limits
from kinetext.video.timeline import NONE, Header, Timeline, Track

# pictures, and how each begins: what follows one and begins otherwise is no picture
_STILLS = {
    "png_pipe": b"\x89PNG",
    "jpeg_pipe": b"\xff\xd8",
    "mjpeg": b"\xff\xd8",
    "webp_pipe": b"RIFF",
    "bmp_pipe": b"BM",
}
_COMPANIONS = b"MPF\0"  # in a JPEG (CIPA DC-007, 5.2): what follows is another view of it, or what its brightness is
_MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
# containers whose header says how long the longest of their streams is
_PROMISING = frozenset({_MP4, "matroska,webm", "flv", "asf"})
# Containers that store when each frame is shown. The others (AVI, MPEG-PS, raw streams) store at best when it
# is decoded, so their frames are counted instead.
_TIMED = _PROMISING | {"gif", "apng", "mpegts", "ogg"}
_NEAR = 3  # packets by which FFmpeg marks damage too early
_CELL = 188  # bytes of a packet of a transport stream, which is a part of a packet of ours (ISO/IEC 13818-1, 2.4.3.2)


class _Packet(NamedTuple):
    pts: int | None
    duration: int
    key: bool


class Scan:
    """What the packets of a file say, as they come by.

    Args:
        path: of the file.
        container, stream: open.
        limits: of its frames and seconds.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream, limits: Limits) -> None:
        self.path, self.container, self.stream, self.limits = path, container, stream, limits
        self.header = Header(
            container.format.name,
            tuple(Track(one.type, one.codec_context.name if one.codec_context else "") for one in container.streams),
            stream.frames,
            stream.average_rate or Fraction(0),
            stream.sample_aspect_ratio or Fraction(1),
        )
        self.unit = stream.time_base or Fraction(1)
        self.promised = (container.duration or 0) / av.time_base
        check_length(path, stream.frames, self.promised, limits)
        self.codec = stream.codec_context.name
        self.total = 0  # packets that hold something, or stand for a frame that is the one before
        self.headless = False
        self.reconfigured = False
        self.shown: list[_Packet] = []
        self._dts: int | None = None
        self._damaged: list[int] = []  # packets that are marked so, by their place
        self._joints: list[int] = []  # packets at which time goes back
        self._mark = _STILLS.get(self.header.container)
        self._pictures, self._has_companions = 0, False

    def packets(self) -> Iterator[av.Packet[VideoStream]]:
        """Those of the stream, each noted before it is given."""
        for packet in packets_of(self.container, self.stream):
            self._see(packet)
            yield packet

    def _see(self, packet: av.Packet[VideoStream]) -> None:
        self.headless |= not self.total and not packet.is_keyframe
        self.reconfigured |= self.total > 0 and packet.has_sidedata("new_extradata")
        if packet.is_corrupt:
            self._damaged.append(self.total)
        self._forgive(packet)
        dts = packet.dts
        if dts is not None:
            if self._dts is not None and dts < self._dts:
                self._joints.append(self.total)
            self._dts = dts
        self.total += 1
        if self._mark and packet.size:
            self._look(bytes(packet), self._mark)
        if shows(packet, self.codec):
            if len(self.shown) >= self.limits.frames:
                check_length(self.path, len(self.shown) + 1, 0, self.limits)
            self.shown.append(_Packet(packet.pts, packet.duration or 0, packet.is_keyframe))

    def _forgive(self, packet: av.Packet[VideoStream]) -> None:
        """Takes back the mark that comes of a joint, where one transport stream ends and another begins."""
        marked = self._damaged and self.total - self._damaged[-1] <= _NEAR
        if not (marked and packet.is_keyframe and self.header.container == "mpegts"):
            return
        if packet.pos is not None and _begins(self.path, packet.pos):
            self._damaged.pop()

    def _look(self, data: bytes, mark: bytes) -> None:
        """Counts pictures; what cameras store behind one for others to show it better is none."""
        if self._pictures == 0:
            self._has_companions = mark == b"\xff\xd8" and _COMPANIONS in data
        self._pictures += data.startswith(mark)

    def line(self) -> Timeline:
        """All of it.

        Raises:
            VideoError: there are no frames, fewer than the file promises, or more than the limits allow.
        """
        header = self.header
        if not self.shown:
            promise = f", though its header says {header.frames}" if header.frames else ""
            raise VideoError(f"{self.path}: no frames in it" + promise)
        self._check_count()
        if self._mark and (self._pictures < 2 or self._has_companions):
            return Timeline(np.zeros(1), NONE, NONE, Fraction(0), 0.0, header)
        pts = sorted({packet.pts for packet in self.shown if packet.pts is not None})
        if header.container in _TIMED and len(pts) == len(self.shown) and not self._is_joined:
            self._check_end(pts)
            if not self._is_unordered(pts):
                return self._timed(self._decodable(pts))
        return replace(_counted(self.path, header, self.unit, self.limits), reconfigured=self.reconfigured)

    def promise(self) -> Timeline | None:
        """What the header says or implies, before any packet is seen: an estimate; None where it says nothing."""
        rate = self.header.rate
        implied = round(self.promised * rate)
        count = self.header.frames or implied
        if implied:
            count = min(count, implied)  # an edit list may show fewer than are there
        seconds = self.promised or (float(count / rate) if rate else 0.0)
        if self._mark or not (count and seconds):
            return None
        check_length(self.path, count, seconds, self.limits)
        rate = rate or Fraction(count / seconds).limit_denominator(1001)
        return Timeline(np.linspace(0, seconds, count, endpoint=False), NONE, NONE, rate, seconds, self.header)

    @property
    def _is_joined(self) -> bool:
        """Whether it is several transport streams, one after the other."""
        return self.header.container == "mpegts" and bool(self._joints)

    def _is_unordered(self, pts: list[int]) -> bool:
        """Whether packets don't say when they are shown: ASF stores when H.264 is decoded, whose frames may change places."""
        reorders = self.header.container == "asf" and self.stream.codec_context.has_b_frames
        return reorders and pts == [packet.pts for packet in self.shown]

    def _check_count(self) -> None:
        """Refuses a file that has fewer packets than it says, or damaged ones."""
        path, header, found = self.path, self.header, self.total
        if header.container == "mpegts":
            # the counters of its parts begin anew where two are joined, so that nothing need be lost there
            marks, joints = self._damaged, self._joints
            lost = next((at for at in marks if not any(0 <= joint - at <= _NEAR for joint in joints)), None)
            if lost is not None:
                raise VideoError(f"{path}: damaged near frame {lost}: packets are lost there, or files were joined")
            return
        if found < header.frames and header.container == _MP4:
            found = _stored(path, self.limits)  # FFmpeg leaves out what an edit list does not show
        if found >= header.frames and not self._damaged:
            return
        # what is in fragments may be more than the head tells of
        promise, dropped = header.frames if found <= header.frames else "its", ""
        if header.container == "avi" and not self._damaged:
            dropped = " (or some were dropped when it was written)"
        raise VideoError(f"{path}: truncated: {found} of {promise} frames are there" + dropped)

    def _check_end(self, pts: list[int]) -> None:
        """Refuses a file that is shorter than it says."""
        alone, kind = len(self.header.tracks) == 1, self.header.container
        if kind == _MP4 and _is_cut(self.path):
            raise VideoError(f"{self.path}: truncated: it ends within one of its fragments")
        if self.header.frames or not (alone or kind in _PROMISING):
            return
        stays, step = self._step(pts)
        # FLV's duration counts from 0, where its frames may begin later
        end, frame = float((max(pts[-1] - pts[0], pts[-1]) + step) * self.unit), float(step * self.unit)
        # where the last packet says how long it stays the end is exact, else it may well stay longer than the others
        slack = 0.75 * frame if stays else 0.1 * self.promised + 2 * frame
        if kind == "asf" and self.stream.codec_context.has_b_frames:
            slack += frame  # its duration counts the delay by which frames are decoded ahead
        for begin in () if alone else (self.promised - 10, 0.0):
            if end < self.promised - slack:
                end = max(end, _heard(self.path, self.limits, begin))  # sound may go on for longer
        if end < self.promised - slack:
            raise VideoError(f"{self.path}: truncated: {end:.2f} of {self.promised:.2f} seconds are there")

    def _step(self, pts: list[int]) -> tuple[int, Fraction]:
        """For how long the last frame stays as it says, and then, where it says nothing, as others do; in units of time."""
        last = next(packet.duration for packet in self.shown if packet.pts == pts[-1])
        if last or len(pts) > 1:
            return last, Fraction(last) or Fraction(pts[-1] - pts[0], len(pts) - 1)
        return 0, 1 / ((self.header.rate or 25) * self.unit)

    def _decodable(self, pts: list[int]) -> list[int]:
        """Without the pictures at the beginning of a transport stream that refer to others before it, where a decoder tells.

        Such a stream may be cut anywhere; in other containers it is damage.
        """
        keys = [packet.pts for packet in self.shown if packet.key and packet.pts is not None]
        tells = self.codec in TELLING and self.header.container == "mpegts"
        if not (tells and keys and pts[0] < min(keys)):
            return pts
        first = _first(self.path, self.limits, min(keys))
        return [at for at in pts if at >= first]

    def _timed(self, pts: list[int]) -> Timeline:
        unit, rate = self.unit, self.header.rate
        duration = (pts[-1] - pts[0] + self._step(pts)[1]) * unit
        check_length(self.path, len(pts), float(duration), self.limits)
        fps = Fraction(len(pts)) / duration if duration else Fraction(0)
        if rate and abs(rate - fps) <= fps / 100:
            fps = rate  # Matroska rounds times to milliseconds; the rate in its header is exact
        keys = sorted(packet.pts for packet in self.shown if packet.key and packet.pts is not None)
        keys = [key for key in keys if key >= pts[0]]
        times = (np.array(pts) - pts[0]) * unit.numerator / unit.denominator
        # some containers mark no key frames at all
        headless = self.headless and bool(keys) and self.codec not in TELLING
        numbers, seconds = np.searchsorted(pts, keys), float(duration)
        return Timeline(times, np.array(pts), numbers, fps, seconds, self.header, headless, self.reconfigured)


def _stored(path: Path, limits: Limits) -> int:
    """Packets of an mp4 that are there whole, shown or not."""
    with opened(path, limits, {"ignore_editlist": "1"}) as (container, stream), told(path):
        return sum(not packet.is_corrupt for packet in packets_of(container, stream))


def _heard(path: Path, limits: Limits, begin: float) -> float:
    """Seconds at which the last packet ends from ``begin`` on, of sound or whatever; one that does not say how long stays for 0.1 s."""
    end = 0.0
    with opened(path, limits) as (container, _), told(path):
        if begin > 0:
            with suppress(av.FFmpegError):  # where it can't be sought, it is read from the beginning
                container.seek(int(begin * av.time_base))
        for packet in container.demux():
            if packet.pts is not None:
                stays = float(packet.duration * packet.time_base) if packet.duration else 0.1
                end = max(end, float(packet.pts * packet.time_base) + stays)
    return end


def _is_cut(path: Path) -> bool:
    """Whether the last fragment of an mp4 is longer than what is left of the file (ISO/IEC 14496-12, 4.2)."""
    at, end, kind, in_fragments = 0, path.stat().st_size, b"", False
    with path.open("rb") as file:
        while at < end:
            file.seek(at)
            head = file.read(16)
            size, kind = int.from_bytes(head[:4]), head[4:8]
            in_fragments |= kind == b"moof"
            if size == 1:
                size = int.from_bytes(head[8:])
            if not size:
                return False  # it goes on to the end
            at += max(size, 8)
    return at > end and in_fragments and kind in (b"moof", b"mdat")


def _begins(path: Path, at: int) -> bool:
    """Whether a transport stream begins before the picture at byte ``at``: all counters are 0 from its table of programs (PID 0) on.

    The picture before that must have all its counters: what is missing in it is lost.
    """
    start = max(at % _CELL, at - 1000 * _CELL)
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(at + _CELL - start)
    heads = [data[begin : begin + 4] for begin in range(0, len(data), _CELL)]
    *before, (kind, counter) = [(int.from_bytes(head[1:3]) & 0x1FFF, head[3] & 0xF) for head in heads]
    tables = [number for number, cell in enumerate(before) if cell == (0, 0)]
    if not tables or counter:
        return False
    last = []
    for number in reversed(range(tables[-1])):
        if before[number][0] == kind:
            last.append(before[number][1])
            if heads[number][1] & 0x40:  # it begins here
                break
    is_whole = all((after - count) % 16 < 2 for after, count in pairwise(last))  # those without data don't count
    first = dict(reversed(before[tables[-1] :]))
    return is_whole and kind not in first and not any(first.values())


def _first(path: Path, limits: Limits, key: int) -> int:
    """When the first picture is shown that can be decoded; all can from the first key frame on, which is shown at ``key``."""
    with opened(path, limits) as (container, stream), told(path):
        strict(stream, limits)
        stream.thread_type = "NONE"
        for packet in packets_of(container, stream):
            try:
                for frame in stream.codec_context.decode(packet):
                    if frame.pts is not None and not frame.is_corrupt:
                        return min(frame.pts, key)
            except av.FFmpegError:
                if packet.pts is not None and packet.pts >= key:
                    break  # damage, which is told when it is read
    return key


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
    if header.container == "asf":
        known.sort()  # they are when each is decoded, which takes as long as it is shown
    if header.container in _TIMED and len(set(known)) == total > 1 and known == sorted(known):
        times = np.array([float((at - known[0]) * unit) for at in known])
        length = (known[-1] - known[0]) * unit * Fraction(total, total - 1)  # the last one stays as long as others do
        rate = total / length
    else:
        rate = header.rate or Fraction(25)  # raw streams have no rate at all; 25 is FFmpeg's own reading of them
        times, length = np.arange(total) / float(rate), total / rate
    check_length(path, total, float(length), limits)
    return Timeline(times, NONE, NONE, rate, float(length), header)
