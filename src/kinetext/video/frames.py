"""The decoding of some frames of a file: from key frames, and of no frame that none of them needs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av
from av.container import InputContainer
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from kinetext.types import DataError
from kinetext.video.containers import VideoError, opened, told
from kinetext.video.decoding import TELLING, broken, packets_of, shows, strict
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.pictures import Pictures, are_pictures
from kinetext.video.scanning import Scan
from kinetext.video.shaping import UPRIGHT, Shape, Shaper, turn_of
from kinetext.video.timeline import REMEMBERED, Timeline

if TYPE_CHECKING:
    Packet = av.Packet[VideoStream]

_SMALL = 640 * 480  # pixels; below this, starting decoder threads costs more than it saves
# decoders that tell as much of damage on several threads as on one; others give some frames away before they know: of 130 files
# of H.264 with flipped bits 3 passed on several threads and none on one, of 145 of VP9 11 more, of 457 of MPEG-4 19 more
_THREADED = frozenset({"hevc"})
_KEPT = 2**26  # bytes of packets that are kept in memory, so that they are read from the file once
_PACKET = 2**10  # bytes that a packet takes besides its own


def timeline(path: Path, limits: Limits = LIMITS) -> Timeline:
    """When each frame of a file is shown; remembered until the file changes.

    Raises:
        VideoError: the file is missing, not a video, truncated, without frames, or larger than ``limits`` allow.
    """
    with open_file(path, limits=limits) as file:
        return file.line


def open_file(path: Path, *, threads: int = 0, limits: Limits = LIMITS) -> VideoFile | Pictures:
    """A file or a folder of pictures, by what it is.

    Raises:
        VideoError: as ``VideoFile`` and ``Pictures``.
    """
    if are_pictures(path):
        return Pictures(path, _picture, limits)
    return VideoFile(path, threads=threads, limits=limits)


def _picture(path: Path, limits: Limits) -> VideoFrame:
    """The one frame of a picture, turned as its EXIF says."""
    with VideoFile(path, limits=limits) as file:
        _, frame = next(file.frames([0]))
        if turn_of(path, file.line, frame) == UPRIGHT:
            return frame
        return VideoFrame.from_ndarray(Shaper(path, file.line, Shape())(frame), format="rgb24")


class VideoFile:
    """An open file. What is not known of it yet is read from its packets, which are then kept to be decoded.

    It has one decoder: two threads can't read at once, nor can a process that was forked after it was opened.

    Args:
        path: of a video or an image.
        threads: of the decoder; 0 is FFmpeg's choice for large frames of H.265, one for others; with several, decoders of H.264,
            VP9 and MPEG-4 let some damage pass that one tells of.
        limits: what the file may hold.

    Raises:
        VideoError: the file is missing, not a video, truncated, without frames, or larger than ``limits`` allow.
    """

    def __init__(self, path: Path, *, threads: int = 0, limits: Limits = LIMITS) -> None:
        self.path, self.threads, self.limits = path, threads, limits
        self._open, self._busy, self._process, self._closed = ExitStack(), RLock(), os.getpid(), False
        self._key = REMEMBERED.key(path)
        self.container, self.stream = self._open.enter_context(_unchanged(self.path, self.limits, self._key))
        known = REMEMBERED.get(self._key) if limits == LIMITS else None
        self._packets: list[Packet] | None = None
        self._used = False  # whether the container stands elsewhere than at its beginning
        self._readings = 0  # that have begun; each takes the decoder from the one before
        if known is None:
            with self._open.pop_all() as opening:  # closed by whatever goes wrong
                known = self._scanned()
                self._open = opening.pop_all()
            if limits == LIMITS:
                REMEMBERED.keep(self._key, known)
        self.line = known
        self._strict(self.stream)
        self._skips = self._may_skip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the file and its decoder; what is read from it then is an error."""
        if self._process != os.getpid():
            return  # they are the other process's
        with self._busy:  # until another thread has its frame
            self._closed, self._packets = True, None
            self._readings += 1
            self._open.close()

    def _take(self, reading: int) -> None:
        """Takes the decoder, which is to be released again. Where Ctrl-C comes in between, this thread still has it.

        Raises:
            DataError: another reading has begun since ``reading``, or has it; or the file is closed.
        """
        if self._process != os.getpid():
            raise DataError(f"{self.path}: was opened by another process; open it in this one, too")
        if not self._busy.acquire(blocking=False):
            raise DataError(f"{self.path}: read by two threads at once; open it twice for that")
        if self._closed or reading != self._readings:
            self._busy.release()
            why = (
                "is closed, expected an open one"
                if self._closed
                else "read from two places at once; open it twice for that"
            )
            raise DataError(f"{self.path}: {why}")

    @property
    def codec(self) -> str:
        """FFmpeg's name of it."""
        return self.stream.codec_context.name

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames (ascending, without repeats) with their numbers.

        Decoding starts at the last key frame before each, where going on from the frame before would take longer; pictures
        that no other refers to are left out unless they are wanted.

        Raises:
            VideoError: one of them can't be decoded, or only with flaws.
        """
        if self.line.headless and wanted and wanted[0] < self.line.keys[0]:
            raise broken(self.path, wanted[0], len(self.line), "no key frame before it")
        for run in self._runs(wanted):
            yield from self._run(run, self._key_before(run[0]))

    def _scanned(self) -> Timeline:
        """Reads all packets; they are kept where they are few bytes."""
        scan, kept, size = Scan(self.path, self.container, self.stream, self.limits), [], 0
        with told(self.path):
            for packet in scan.packets():
                size += packet.size + _PACKET
                if size <= _KEPT:
                    kept.append(packet)
                else:
                    kept.clear()
        self._used, line = True, scan.line()
        self._packets = kept if size <= _KEPT and not line.reconfigured else None
        return line

    def _strict(self, stream: VideoStream) -> None:
        """The decoder as ``strict`` has it, with its threads."""
        strict(stream, self.limits)
        codec = stream.codec_context
        several = codec.name in _THREADED and codec.width * codec.height > _SMALL
        codec.thread_count = self.threads
        stream.thread_type = "AUTO" if self.threads > 1 or (several and not self.threads) else "NONE"

    def _may_skip(self) -> bool:
        """Whether the decoder can be told to leave out pictures that no other refers to.

        In H.264 these are marked as such (ITU-T H.264, 7.4.1, nal_ref_idc). In H.265 the mark holds within a temporal
        sub-layer only (ITU-T H.265, 7.4.2.2), so there may be but one.
        """
        if not self.line.pts.size or self.line.reconfigured:
            return False
        codec = self.stream.codec_context
        said = codec.extradata or b""
        # a configuration record (ISO/IEC 14496-15, 8.3.3.1) whose lengths of units have four bytes
        if codec.name == "hevc" and self._packets and len(said) > 21 and said[0] == 1 and said[21] & 3 == 3:
            return all(_sublayer(packet) == 0 for packet in self._packets)
        return codec.name == "h264"

    def _key_before(self, number: int) -> int:
        """Where decoding starts for a frame. A decoder that gets another configuration on its way never goes back to the
        first by itself, so then it starts at the beginning.
        """
        return 0 if self.line.reconfigured else self.line.key_before(number)

    def _runs(self, wanted: Sequence[int]) -> Iterator[Sequence[int]]:
        """Wanted frames in groups that are decoded in one go: a gap without a key frame does not end a group."""
        begin = 0
        for at in range(1, len(wanted)):
            if self._key_before(wanted[at]) > wanted[at - 1] + 1:
                yield wanted[begin:at]
                begin = at
        if len(wanted):
            yield wanted[begin:]

    def _run(self, wanted: Sequence[int], key: int) -> Iterator[tuple[int, VideoFrame]]:
        """Wanted frames from a key frame on.

        After a key frame of an open group (H.264) pictures may name references before it that they do not use, which is an
        error where these are missing; and a container may call a picture a key frame that is none, which some decoders do
        not tell. Then decoding begins a group earlier.
        """
        done, found = 0, None
        for begin in self._beginnings(key):
            try:
                for number, frame in self._attempt(wanted[done:], begin):
                    done += 1
                    yield number, frame
                return
            except VideoError as error:
                found = found or error
        assert found is not None
        raise found

    def _beginnings(self, key: int) -> list[int]:
        """Where decoding may begin for what follows a key frame, nearest first."""
        if self.codec in TELLING and self.codec != "h264":
            return [key]
        before = [int(one) for one in self.line.keys if one < key]
        return list(dict.fromkeys([key, *before[-1:], *before[-2:-1], *before[:1]]))

    def _attempt(self, wanted: Sequence[int], begin: int) -> Iterator[tuple[int, VideoFrame]]:
        line = self.line
        with ExitStack() as fresh:
            stream, packets, reading = self._begun(begin, fresh)
            decoded = enumerate(self._decoded(stream, packets, wanted, begin))
            marked = int(line.pts[begin]) if begin and self.codec not in TELLING else None
            for number in wanted:
                while True:
                    self._take(reading)
                    try:
                        count, frame = next(decoded)
                    except StopIteration:
                        cause = "the decoder gives fewer frames than the file has packets"
                        raise broken(self.path, number, len(line), cause) from None
                    except av.FFmpegError as error:
                        raise broken(self.path, number, len(line), error.strerror or str(error)) from error
                    finally:
                        self._busy.release()
                    if marked is not None and frame.pts == marked and frame.pict_type != PictureType.I:
                        raise broken(
                            self.path, number, len(line), f"frame {begin} is no key frame, though marked as one"
                        )
                    if frame.pts == line.pts[number] if line.pts.size else count == number:
                        break
                if frame.is_corrupt:
                    raise broken(self.path, number, len(line), "the decoder marks it as damaged")
                yield number, frame

    def _decoded(
        self, stream: VideoStream, packets: Iterable[Packet], wanted: Sequence[int], begin: int
    ) -> Iterator[VideoFrame]:
        """Frames of these packets, which begin with frame ``begin``, until the last that is wanted."""
        codec, timed = stream.codec_context, bool(self.line.pts.size)
        first = int(self.line.pts[begin]) if timed else 0
        left = {int(self.line.pts[number]) for number in wanted} if timed else set()
        for packet in packets:
            # pictures that are shown before it refer to others before it, which are missing; none of them is wanted
            leads = timed and packet.pts is not None and packet.pts < first
            if self._skips:
                needed = packet.pts is None or packet.pts in left
                codec.skip_frame = "DEFAULT" if needed else "NONREF"
            try:
                yield from codec.decode(packet)
            except av.FFmpegError:
                if not leads:
                    raise
            if timed and packet.pts is not None and shows(packet, codec.name):
                left.discard(packet.pts)
                if not left:
                    break  # all that is wanted is in the decoder
        yield from codec.decode(None)

    def _begun(self, begin: int, fresh: ExitStack) -> tuple[VideoStream, Iterable[Packet], int]:
        """A reading from frame ``begin`` on: the stream, its packets, and the reading's number."""
        self._take(self._readings)
        try:
            with told(self.path):
                return *self._from(begin, fresh), self._readings
        finally:
            self._busy.release()

    def _from(self, key: int, fresh: ExitStack) -> tuple[VideoStream, Iterable[Packet]]:
        """The packets from that of a key frame on, in the order of decoding, and the stream whose decoder takes them."""
        self._readings += 1
        if self.line.reconfigured:
            container, stream = fresh.enter_context(_unchanged(self.path, self.limits, self._key))
            self._strict(stream)
            return stream, packets_of(container, stream)
        self.stream.codec_context.flush_buffers()
        pts = int(self.line.pts[key]) if self.line.pts.size else None
        if self._packets is not None:
            starts = (i for i, packet in enumerate(self._packets) if packet.is_keyframe and packet.pts == pts)
            at = next(starts, 0) if key else 0
            return self.stream, self._packets[at:]
        begins, self._used = not self._used, True
        if (begins and not key) or (key and _sought(self.container, self.stream, pts or 0)):
            return self.stream, packets_of(self.container, self.stream)
        container, stream = fresh.enter_context(_unchanged(self.path, self.limits, self._key))
        self._strict(stream)
        return stream, packets_of(container, stream)


@contextmanager
def _unchanged(path: Path, limits: Limits, key: tuple[object, ...]) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file, which must be the very one that was opened first, or has taken its place before that."""
    with opened(path, limits) as found:
        if REMEMBERED.key(path) != key:
            raise VideoError(f"{path}: was changed while it was read; open it again")
        yield found


def _sought(container: InputContainer, stream: VideoStream, pts: int) -> bool:
    """Goes to the key frame at ``pts`` or an earlier one; False if the container can't (edit lists mislead it)."""
    try:
        container.seek(pts, stream=stream)
        first = next(container.demux(stream))
        container.seek(pts, stream=stream)
    except av.FFmpegError:
        return False
    return first.is_keyframe and first.pts is not None and first.pts <= pts


def _sublayer(packet: Packet) -> int:
    """The temporal sub-layer of a picture of H.265 in an mp4 or Matroska file (ITU-T H.265, 7.3.1.2); -1 if it is not seen."""
    data, at = memoryview(packet), 0
    while at + 6 <= len(data):
        if data[at + 4] >> 1 & 63 < 32:  # a slice of a picture
            return (data[at + 5] & 7) - 1
        at += 4 + int.from_bytes(data[at : at + 4])
    return -1
