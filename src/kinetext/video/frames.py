"""Which frames a file has, when each is shown, and the decoding of some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kinetext.types import DataError

# The demuxers that are allowed. Playlists (hls, dash, concat) are not: they can name other files.
_FORMATS = (
    "mov,matroska,gif,apng,mpegts,flv,avi,mpeg,mpegvideo,asf,ogg,ivf,h264,hevc,m4v,mjpeg,yuv4mpegpipe,"
    "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe"
)
_STILLS = frozenset({"png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe"})
# Containers that store when each frame is shown. The others (AVI, MPEG-PS, raw streams) store at best when it
# is decoded, so their frames are counted instead.
_TIMED = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "gif", "apng", "mpegts", "flv"})
_NONE = np.zeros(0, np.int64)
_SMALL = 640 * 480  # pixels; below this, starting decoder threads costs more than it saves


class VideoError(DataError):
    """A video file that can't be read or written; the message names the file and the cause."""


@dataclass(frozen=True)
class Timeline:
    """The frames of a file in the order shown.

    Args:
        times: ``(N,)`` seconds from the first frame, N >= 1.
        pts: ``(N,)`` presentation times in the container's own unit; ``(0,)`` where frames have to be counted.
        keys: ``(M,)`` frame numbers at which decoding may start.
        fps: frames a second, the mean where it varies; 0 for an image.
        duration: seconds from the first frame to the end of the last; 0 for an image.
        aspect: width of a stored pixel over its height.
    """

    times: NDArray[np.float64]
    pts: NDArray[np.int64]
    keys: NDArray[np.int64]
    fps: float
    duration: float
    aspect: Fraction

    def __len__(self) -> int:
        return len(self.times)


@dataclass(frozen=True)
class _Packet:
    pts: int | None
    duration: int
    size: int
    key: bool
    hidden: bool
    cut: bool


def timeline(path: Path) -> Timeline:
    """When each frame of a file is shown; remembered until the file changes.

    Raises:
        VideoError: the file is missing, not a video, truncated or without frames.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror or error}") from error
    return _timeline(path.absolute(), stat.st_size, stat.st_mtime_ns)


class _Nameless:
    """An open file without its name: to FFmpeg, names like "a%03d.png" and "concat:x" have a meaning of their own."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its main video stream; whatever FFmpeg complains of inside becomes a ``VideoError``."""
    options = {"format_whitelist": _FORMATS}
    try:
        with (
            path.open("rb") as file,
            av.open(_Nameless(file), "r", options=options, metadata_errors="replace") as container,
        ):
            covers = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & covers]
            if not streams:
                raise VideoError(f"{path}: no video stream in it")
            best = container.streams.best("video")
            yield container, next((stream for stream in streams if stream is best), streams[0])
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: not a video that can be read ({error.strerror or error})") from error


def frames(path: Path, line: Timeline, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
    """The wanted frames (ascending, without repeats) with their numbers.

    Decoding starts at the last key frame before each, where going on from the frame before would take longer.

    Raises:
        VideoError: one of them can't be decoded, or only with flaws.
    """
    with opened(path) as (container, stream):
        _strict(stream)
        for run in _runs(line, wanted):
            start = _key_before(line, run[0])
            if start == 0 or _sought(container, stream, int(line.pts[start])):
                yield from _run(path, line, container.decode(stream), run)
                continue
            with opened(path) as (again, fresh):
                _strict(fresh)
                yield from _run(path, line, again.decode(fresh), run)


def _sought(container: InputContainer, stream: VideoStream, pts: int) -> bool:
    """Goes to the key frame at ``pts`` or an earlier one; False if the container can't (edit lists mislead it)."""
    container.seek(pts, stream=stream)
    first = next(container.demux(stream))
    container.seek(pts, stream=stream)
    return first.is_keyframe and first.pts is not None and first.pts <= pts


def _runs(line: Timeline, wanted: Sequence[int]) -> list[list[int]]:
    """Wanted frames in groups that are decoded in one go: a gap without a key frame does not end a group."""
    runs: list[list[int]] = []
    for number in wanted:
        start = _key_before(line, number)
        if runs and start <= runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def _key_before(line: Timeline, number: int) -> int:
    at = int(np.searchsorted(line.keys, number, side="right")) - 1
    return int(line.keys[at]) if at >= 0 else 0


def _run(
    path: Path, line: Timeline, decoder: Iterator[VideoFrame], wanted: Sequence[int]
) -> Iterator[tuple[int, VideoFrame]]:
    decoded = enumerate(decoder)
    for number in wanted:
        while True:
            try:
                count, frame = next(decoded)
            except StopIteration:
                cause = "the decoder gives fewer frames than the file has packets"
                raise _broken(path, number, len(line), cause) from None
            except av.FFmpegError as error:
                raise _broken(path, number, len(line), error.strerror or str(error)) from error
            if frame.pts == line.pts[number] if line.pts.size else count == number:
                break
        if frame.is_corrupt:
            raise _broken(path, number, len(line), "the decoder marks it as damaged")
        yield number, frame


def _broken(path: Path, number: int, total: int, cause: str) -> VideoError:
    return VideoError(f"{path}: frame {number} of {total} can't be decoded ({cause})")


def _strict(stream: VideoStream) -> None:
    """Errors instead of frames patched up from their neighbours."""
    stream.codec_context.options = {"err_detect": "explode"}
    large = stream.codec_context.width * stream.codec_context.height > _SMALL
    stream.thread_type = "AUTO" if large else "NONE"


@lru_cache(maxsize=512)
def _timeline(path: Path, size: int, mtime_ns: int) -> Timeline:
    with opened(path) as (container, stream):
        packets = [_packet(packet) for packet in container.demux(stream) if packet.size or packet.dts is not None]
        timed, still = container.format.name in _TIMED, container.format.name in _STILLS
        header, promised = stream.frames, (container.duration or 0) / av.time_base
        unit, rate = stream.time_base or Fraction(1), stream.average_rate
        aspect, alone = stream.sample_aspect_ratio or Fraction(1), len(container.streams) == 1
    shown = [packet for packet in packets if packet.size and not packet.hidden]
    if not shown:
        raise VideoError(f"{path}: no frames in it" + (f", though its header says {header}" if header else ""))
    if len(packets) < header or any(packet.cut for packet in packets):
        raise VideoError(f"{path}: truncated: {len(packets)} of {header or 'its'} frames are there")
    pts = sorted({packet.pts for packet in shown if packet.pts is not None})
    if still:
        return Timeline(np.zeros(1), _NONE, _NONE, 0.0, 0.0, aspect)
    if not timed or len(pts) < len(shown):
        return _counted(path, header, rate, aspect)
    last = next(packet.duration for packet in shown if packet.pts == pts[-1])
    step = last or (Fraction(pts[-1] - pts[0], len(pts) - 1) if len(pts) > 1 else 1 / ((rate or 25) * unit))
    duration = (pts[-1] - pts[0] + step) * unit
    # where the last frame says how long it stays the end is exact, else it may well stay longer than the others
    slack = 0.75 * float(step * unit) if last else 0.1 * promised + 2 * float(step * unit)
    if alone and not header and float(duration) < promised - slack:
        raise VideoError(f"{path}: truncated: {float(duration):.2f} of {promised:.2f} seconds are there")
    fps = Fraction(len(pts)) / duration if duration else Fraction(0)
    if rate and abs(rate - fps) <= fps / 100:
        fps = rate  # Matroska rounds times to milliseconds; the rate in its header is exact
    keys = sorted(packet.pts for packet in shown if packet.key and packet.pts is not None)
    times = np.array([float((at - pts[0]) * unit) for at in pts])
    return Timeline(times, np.array(pts), np.searchsorted(pts, keys), float(fps), float(duration), aspect)


def _packet(packet: av.Packet[VideoStream]) -> _Packet:
    """What a timeline needs of a packet; its data may go."""
    return _Packet(
        packet.pts, packet.duration or 0, packet.size, packet.is_keyframe, packet.is_discard, packet.is_corrupt
    )


def _counted(path: Path, header: int, rate: Fraction | None, aspect: Fraction) -> Timeline:
    """The timeline of a file that stores no times: decodes it once and counts."""
    total = 0
    with opened(path) as (container, stream):
        _strict(stream)
        try:
            for _ in container.decode(stream):
                total += 1
        except av.FFmpegError as error:
            raise _broken(path, total, max(total + 1, header), error.strerror or str(error)) from error
    if not total:
        raise VideoError(f"{path}: no frames in it")
    fps = rate or Fraction(25)  # raw streams have no rate at all; 25 is FFmpeg's own reading of them
    times = np.arange(total) / float(fps)
    return Timeline(times, _NONE, _NONE, float(fps), float(total / fps), aspect)
