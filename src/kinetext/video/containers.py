"""The opening of files: which containers, which stream, and how FFmpeg's complaints are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from kinetext.types import DataError
from kinetext.video.limits import LIMITS, Limits

# The demuxers that are allowed. Playlists (hls, dash, concat) are not: they can name other files.
_FORMATS = (
    "mov,matroska,gif,apng,mpegts,flv,avi,mpeg,mpegvideo,asf,ogg,ivf,h264,hevc,m4v,mjpeg,yuv4mpegpipe,"
    "png_pipe,jpeg_pipe,webp_pipe,bmp_pipe"
)
_BUFFER = 2**18  # bytes that are read at a time


class VideoError(DataError):
    """A video file that can't be read or written; the message names the file and the cause."""


class _Nameless:
    """An open file without its name: to FFmpeg, names like "a%03d.png" and "concat:x" have a meaning of their own."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def opened(
    path: Path, limits: Limits = LIMITS, options: Mapping[str, str] | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its main video stream.

    Args:
        options: of FFmpeg's demuxer, besides ours.

    Raises:
        VideoError: the file is missing, no video, or larger than ``limits`` allow.
    """
    # decoders refuse larger pictures than that by themselves, also where the header says less
    ours = {"format_whitelist": _FORMATS, "max_pixels": str(limits.pixels)} | dict(options or {})
    with ExitStack() as stack:
        with told(path):
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise VideoError(f"{path}: neither a file nor a folder")  # a pipe would be waited for without end
            if "\0" in str(path):
                raise VideoError(f"{path}: its name has a NUL, expected none")
            file = stack.enter_context(path.open("rb"))
            check(path, "bytes", file.seek(0, 2), limits.bytes)
            file.seek(0)
            container = stack.enter_context(
                av.open(_Nameless(file), "r", options=ours, metadata_errors="replace", buffer_size=_BUFFER)
            )
            stream = _main(path, container, limits)
        yield container, stream


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What FFmpeg or the system complains of inside becomes a ``VideoError`` that names the file."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: not a video that can be read ({error.strerror or error})") from error


def check_length(path: Path, frames: int, seconds: float, limits: Limits) -> None:
    """Refuses, by a VideoError, a file with more frames or seconds than ``limits`` allow."""
    check(path, "frames", frames, limits.frames)
    check(path, "seconds", seconds, limits.seconds)


def _main(path: Path, container: InputContainer, limits: Limits) -> VideoStream:
    check(path, "streams", len(container.streams), limits.streams)
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise VideoError(f"{path}: no video stream in it")
    best = container.streams.best("video")
    main = next((stream for stream in streams if stream is best), streams[0])
    if main.codec_context is None:
        raise VideoError(f"{path}: no decoder for its video")
    # as stored, and as displayed: a pixel may be said to be thousands of times as wide as it is high
    shown = main.width * max(1, main.sample_aspect_ratio or 1)
    check(path, "pixels", int(shown * main.height), limits.pixels)
    return main


def check(path: Path, what: str, found: float, most: float) -> None:
    """Refuses, by a VideoError, a file with more of something than ``limits`` allow."""
    if found > most:
        raise VideoError(f"{path}: {found:,.10g} {what}, expected at most {most:,.10g} (limits.{what})")
