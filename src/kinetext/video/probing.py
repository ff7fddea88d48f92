"""What a file holds."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.video.frame import VideoFrame

from kinetext.video.containers import VideoError, opened, told
from kinetext.video.decoding import strict
from kinetext.video.frames import VideoFile, open_file
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.pictures import Pictures, are_pictures
from kinetext.video.scanning import Scan
from kinetext.video.shaping import TURNS, stored_size, turn_of
from kinetext.video.timeline import Timeline, Track

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


def probe(path: str | Path, *, count: bool = True, limits: Limits = LIMITS, isolated: bool = False) -> VideoInfo:
    """What a file holds; decodes its first frame.

    Args:
        count: read all packets, so that the number of frames, their rate and the duration are exact. Without it they are what
            the header says or implies, and so labelled: the time no longer grows with the file. Where it says nothing, they
            are counted all the same.
        limits, isolated: as of ``read_clip``.

    Raises:
        VideoError: the file is missing, broken, has no frame, or is larger than ``limits`` allow.
    """
    if isolated:
        from kinetext.video.isolated import call

        return call("probe", path, {"count": count, "limits": limits})
    estimate = None if count or are_pictures(Path(path)) else _estimated(Path(path), limits)
    if estimate:
        return estimate
    with open_file(Path(path), limits=limits) as file:
        return probed(file)


def probed(file: VideoFile | Pictures) -> VideoInfo:
    """What an open file holds.

    Raises:
        VideoError: its first frame can't be decoded.
    """
    line = file.line
    _, first = next(file.frames([0]))
    counted = "packets" if line.pts.size or line.duration == 0 else "decoded"
    return _info(file.path, line, first, file.codec, counted)


def _estimated(path: Path, limits: Limits) -> VideoInfo | None:
    """What a file says of itself, and what its first frame shows; None if it does not say how many frames it has."""
    with opened(path, limits) as (container, stream):
        line = Scan(path, container, stream, limits).promise()
        if line is None:
            return None
        strict(stream, limits)
        with told(path):
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
        path=path,
        num_frames=len(line),
        fps=line.fps,
        duration=line.duration,
        width=width,
        height=height,
        rotation=rotation,
        mirrored=mirrored,
        rate=line.rate,
        counted=counted,
        header_frames=line.header.frames,
        stored_width=frame.width,
        stored_height=frame.height,
        pixel_aspect=line.aspect,
        pix_fmt=frame.format.name,
        color_range=_RANGES.get(int(frame.color_range), "unspecified"),
        variable=not line.is_steady,
        codec=codec,
        tracks=line.header.tracks,
    )
