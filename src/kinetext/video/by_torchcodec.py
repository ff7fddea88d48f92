"""Frames decoded by torchcodec, where it is installed and shows what PyAV shows.

It can't be told to refuse damage: what a decoder patches up from other frames, it gives as if it were sound, and ``limits.pixels``
hold for the header and for frames once they are decoded. Files that may be damaged, or that strangers made, are for "pyav".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from av.video.frame import VideoFrame

from kinetext.types import DataError
from kinetext.video.containers import VideoError, told
from kinetext.video.frames import VideoFile
from kinetext.video.shaping import TURNS, UPRIGHT, turn_of

TURN = UPRIGHT  # torchcodec has turned frames already
_AT_ONCE = 16  # frames that are in memory together


def frames(file: VideoFile, wanted: Sequence[int], threads: int) -> Iterator[tuple[int, VideoFrame]]:
    """The wanted frames (ascending, without repeats) with their numbers, RGB and upright.

    Raises:
        DataError: torchcodec is not installed, or finds no FFmpeg.
        VideoError: it counts other frames than the file has, can't show one, or would show it turned or stretched otherwise.
    """
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined, import-not-found, unused-ignore]
    except (ImportError, RuntimeError, OSError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(
            f"decoder: 'torchcodec' can't be used ({cause}); pip install 'kinetext[torchcodec]' and FFmpeg, or take 'pyav'"
        ) from error
    path, line = file.path, file.line
    if not line.pts.size:
        raise VideoError(f"{path}: stores no times of frames, which torchcodec goes by; use decoder='pyav'")
    _, first = next(file.frames([0]))
    turn = turn_of(path, line, first)
    if TURNS[turn][1]:
        raise VideoError(f"{path}: it is mirrored, which torchcodec does not undo; use decoder='pyav'")
    if turn[0] and line.aspect != 1:  # it turns frames before anyone can make their pixels square
        raise VideoError(
            f"{path}: it is turned and its pixels are not square, which torchcodec mixes up; use decoder='pyav'"
        )
    with told(path), path.open("rb") as opened:  # not its name, which FFmpeg may take for a protocol or a pattern
        yield from _decoded(VideoDecoder, opened, file, wanted, threads)


def _decoded(
    decoders: Any, opened: BinaryIO, file: VideoFile, wanted: Sequence[int], threads: int
) -> Iterator[tuple[int, VideoFrame]]:
    path, line = file.path, file.line
    try:
        decoder = decoders(
            opened, stream_index=file.stream.index, dimension_order="NHWC", num_ffmpeg_threads=threads or 1
        )
        if len(decoder) != len(line):
            raise VideoError(
                f"{path}: {len(decoder)} frames by torchcodec, {len(line)} by its packets and edit lists; use decoder='pyav'"
            )
        for begin in range(0, len(wanted), _AT_ONCE):
            some = list(wanted[begin : begin + _AT_ONCE])
            for number, image in zip(some, decoder.get_frames_at(some).data, strict=True):
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(image.numpy()), format="rgb24")
                yield number, frame
    except (RuntimeError, ValueError, IndexError) as error:
        raise VideoError(f"{path}: torchcodec can't decode it ({str(error).splitlines()[0]})") from error
