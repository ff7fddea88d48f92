"""Video files -> tensors: sampling in time, turning, resizing."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from av.buffer import Buffer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kinetext.types import DataError, joined
from kinetext.video.frames import Timeline, VideoError, frames, opened, timeline

# what files of clips and pictures are called
SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif",
    ".png", ".jpg", ".jpeg", ".bmp", ".webp",
)  # fmt: skip
Fit = Literal["crop", "squash", "pad"]
Sampling = Literal["uniform", "random"]
Region = tuple[float, float, float, float]  # left, top, right, bottom, in shares of the picture
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
Pixels = NDArray[np.uint8]

# swscale widens its bicubic filter when it shrinks, so this is anti-aliased
_QUALITY = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
_LONGEST = 16_384  # pixels, of the long side after resizing
_SLACK = 1e-3  # seconds; tables often round times to milliseconds
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

# (transposed, flipped in x, flipped in y) -> clockwise turn in degrees, and whether mirrored left-right before it
_TURNS: dict[tuple[bool, bool, bool], tuple[int, bool]] = {
    (False, False, False): (0, False),
    (True, True, False): (90, False),
    (False, True, True): (180, False),
    (True, False, True): (270, False),
    (False, True, False): (0, True),
    (True, True, True): (90, True),
    (False, False, True): (180, True),
    (True, False, False): (270, True),
}
# EXIF's Orientation 1 to 8 (CIPA DC-008, 4.6.5) as the same three steps
_EXIF = (
    (False, False, False),
    (False, True, False),
    (False, True, True),
    (False, False, True),
    (True, False, False),
    (True, True, False),
    (True, True, True),
    (True, False, True),
)
_ORIENTATION = 0x0112


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
    """

    path: Path
    num_frames: int
    fps: float
    duration: float
    width: int
    height: int
    rotation: int
    mirrored: bool = False


def probe(path: str | Path) -> VideoInfo:
    """What a file holds; decodes its first frame.

    Raises:
        VideoError: the file is missing, broken, or has no frame.
    """
    path = Path(path)
    line = timeline(path)
    _, frame = next(frames(path, line, [0]))
    turn = _turn(path, line, frame)
    rotation, mirrored = _TURNS[turn]
    width, height = _displayed(frame, line.aspect, turn[0])
    return VideoInfo(path, len(line), line.fps, line.duration, width, height, rotation, mirrored)


def read_clip(
    path: str | Path,
    *,
    num_frames: int,
    size: int,
    channels: int = 3,
    start: float | None = None,
    end: float | None = None,
    sampling: Sampling = "uniform",
    clip_seconds: float | None = None,
    fps: float | None = None,
    fit: Fit = "crop",
    region: Region = WHOLE,
    rng: torch.Generator | None = None,
) -> Tensor:
    """A clip of exactly ``num_frames`` square frames, ``(C, T, size, size)`` float32 in [-1, 1].

    The range [start, end) begins with the frame on screen at ``start``. A window is placed in it: all of it, or
    ``clip_seconds`` long, or ``num_frames / fps`` seconds long; in the middle ("uniform") or anywhere ("random").
    Frame i of the clip is the middle one of the i-th of ``num_frames`` equal segments of the window's N frames,
    number floor((i + 0.5) N / num_frames); where N is smaller than ``num_frames``, frames repeat by the same
    formula. A window longer than the range is the range.

    Args:
        path: a video, or an image, which is a video of one frame.
        num_frames: >= 1.
        size: pixels, >= 1.
        channels: 3 (RGB) or 1 (luma, ITU-R BT.601).
        start: seconds from the first frame, >= 0; None is the beginning.
        end: seconds, > start; None is the end.
        sampling: "uniform" takes the middle window, "random" any with equal chance.
        clip_seconds: > 0; not together with ``fps``.
        fps: > 0; not together with ``clip_seconds``.
        fit: "crop" the middle square, "squash" to a square whatever the aspect, or "pad" with black.
        region: the part of the upright picture that is looked at, cut out before ``fit``: left, top, right and bottom
            in shares of its width and height, in [0, 1].
        rng: for "random", which also needs ``clip_seconds`` or ``fps``.

    Raises:
        DataError: an argument is outside its range.
        VideoError: the file is missing or broken, or does not reach ``end``.
    """
    check_options(num_frames, size, channels, sampling, fit)
    check_region(region)
    seconds = _seconds(num_frames, clip_seconds, fps)
    if sampling == "random" and (seconds is None or rng is None):
        raise DataError("sampling: 'random' needs clip_seconds or fps, and rng")
    path = Path(path)
    line = timeline(path)
    low, high = frame_range(path, line, start, end)
    if seconds is not None:
        low, high = _window(line, low, high, seconds, rng if sampling == "random" else None)
    numbers = [low + (2 * i + 1) * (high - low) // (2 * num_frames) for i in range(num_frames)]
    scale = VideoReformatter()
    made = {
        number: shaped(path, line, frame, scale, size, fit, region, channels)
        for number, frame in frames(path, line, sorted(set(numbers)))
    }
    clip = torch.from_numpy(np.stack([made[number] for number in numbers]))
    return to_float(clip.permute(3, 0, 1, 2).contiguous())


def read_all(path: str | Path, *, channels: int = 3, max_frames: int = 4096) -> tuple[Tensor, float]:
    """Every frame at its displayed size, uint8 ``(T, H, W, C)``, and the frames a second (0 for an image).

    Raises:
        VideoError: the file is missing or broken, changes its size, or has more than ``max_frames`` frames.
    """
    _one_of("channels", channels, (1, 3))
    path = Path(path)
    line = timeline(path)
    if len(line) > max_frames:
        raise VideoError(f"{path}: {len(line)} frames, expected at most {max_frames} (max_frames)")
    scale = VideoReformatter()
    made = [
        shaped(path, line, frame, scale, None, "squash", WHOLE, channels)
        for _, frame in frames(path, line, range(len(line)))
    ]
    if len({frame.shape for frame in made}) > 1:
        raise VideoError(f"{path}: the frame size changes in mid-file, expected one size")
    return torch.from_numpy(np.stack(made)), line.fps


def read_provenance(path: str | Path) -> dict[str, object] | None:
    """How a clip was made, as ``write`` stored it; None where the file says nothing of the kind.

    Raises:
        VideoError: the file is missing or is no video.
    """
    with opened(Path(path)) as (container, _):
        comment = container.metadata.get("comment", "")
    try:
        found = json.loads(comment)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def to_float(pixels: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], same layout."""
    return pixels.float() / 127.5 - 1.0


def shaped(
    path: Path,
    line: Timeline,
    frame: VideoFrame,
    scale: VideoReformatter,
    size: int | None,
    fit: Fit,
    region: Region,
    channels: int,
) -> Pixels:
    """A decoded frame ``(H, W, C)`` as every reader gives it: upright; with ``size``, ``region`` of it, square."""
    if size is None:
        return _grey(_upright(path, line, frame, scale, None, "squash"), channels)
    return _grey(_square(_part(path, line, frame, scale, size, fit, region), size, fit), channels)


def check_options(num_frames: int, size: int, channels: int, sampling: str, fit: str) -> None:
    for name, value in (("num_frames", num_frames), ("size", size)):
        if value < 1:
            raise DataError(f"{name}: {value}, expected 1 or more")
    _one_of("channels", channels, (1, 3))
    _one_of("sampling", sampling, ("uniform", "random"))
    _one_of("fit", fit, ("crop", "squash", "pad"))


def _one_of(name: str, value: object, legal: tuple[object, ...]) -> None:
    if value not in legal:
        raise DataError(f"{name}: {value!r}, expected one of {joined(legal)}")


def _seconds(num_frames: int, clip_seconds: float | None, fps: float | None) -> float | None:
    """How long the window is, None for all of the range."""
    for name, value in (("clip_seconds", clip_seconds), ("fps", fps)):
        if value is not None and not 0 < value < math.inf:
            raise DataError(f"{name}: {value}, expected more than 0")
    if clip_seconds is not None and fps is not None:
        raise DataError("clip_seconds and fps: both are given, expected one of them")
    return num_frames / fps if fps is not None else clip_seconds


def frame_range(path: Path, line: Timeline, start: float | None, end: float | None) -> tuple[int, int]:
    """The numbers of the frames on screen in [start, end): first, and one past the last."""
    frame = 1 / line.fps if line.fps else 0.0
    if start is not None and not 0 <= start <= max(line.duration - _SLACK, 0):
        raise VideoError(f"{path}: start {start} s, expected 0 up to its duration of {line.duration:.3f} s")
    if end is not None and not (start or 0) < end <= line.duration + frame + _SLACK:
        raise VideoError(f"{path}: end {end} s, expected after start, up to its duration of {line.duration:.3f} s")
    low = 0 if start is None else int(np.searchsorted(line.times, start + _SLACK, side="right")) - 1
    high = len(line) if end is None else int(np.searchsorted(line.times, end - _SLACK, side="left"))
    return low, max(high, low + 1)


def _window(line: Timeline, low: int, high: int, seconds: float, rng: torch.Generator | None) -> tuple[int, int]:
    """``seconds`` of the range, in its middle or, with ``rng``, anywhere."""
    until = line.times[high] if high < len(line) else line.duration
    total, length = high - low, float(until - line.times[low])
    count = min(total, max(1, round(seconds * total / length))) if length else total
    spare = total - count
    first = low + (spare // 2 if rng is None else int(torch.randint(spare + 1, (), generator=rng)))
    return first, first + count


def _turn(path: Path, line: Timeline, frame: VideoFrame) -> tuple[bool, bool, bool]:
    """Whether displaying takes a transposition, a flip in x, a flip in y, in this order.

    A display matrix (a b; c d) sends the stored point (x, y) to (a x + c y, b x + d y) (ISO/IEC 14496-12, 6.2.2).
    """
    if line.duration == 0:
        return _exif_turn(path)
    try:  # declared as a TypedDict of one other key; it is a mapping of all side data
        data = cast("Mapping[str, Buffer]", frame.side_data).get("DISPLAYMATRIX")
    except ValueError as error:  # PyAV 18 knows no name for some kinds of side data, and then lists none
        if frame.rotation == 0:
            return False, False, False
        raise VideoError(f"{path}: it is rotated, and PyAV can't read how ({error})") from error
    if data is None:
        return False, False, False
    a, b, _, c, d = struct.unpack("9i", bytes(data))[:5]
    if b == c == 0 and a and d:
        return False, a < 0, d < 0
    if a == d == 0 and b and c:
        return True, c < 0, b < 0
    raise VideoError(f"{path}: its display matrix ({a} {b}; {c} {d}) is no turn by a multiple of 90 degrees")


def _exif_turn(path: Path) -> tuple[bool, bool, bool]:
    """The same for an image, from its EXIF."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for broken files
        raise VideoError(f"{path}: its EXIF can't be read ({error})") from error
    # values outside 1 to 8 are reserved; viewers show such images as they are
    return _EXIF[orientation - 1] if orientation in range(1, 9) else _EXIF[0]


def _displayed(frame: VideoFrame, aspect: Fraction, transposed: bool) -> tuple[int, int]:
    """Width and height of the upright frame with square pixels."""
    width, height = max(1, round(frame.width * aspect)), frame.height
    return (height, width) if transposed else (width, height)


def _upright(
    path: Path, line: Timeline, frame: VideoFrame, scale: VideoReformatter, size: int | None, fit: Fit
) -> Pixels:
    """The frame as RGB ``(H, W, 3)``, turned as displayed; with ``size``, resized for ``fit``."""
    transposed, flip_x, flip_y = _turn(path, line, frame)
    width, height = _displayed(frame, line.aspect, transposed)
    if size is not None:
        side = {"crop": min(width, height), "pad": max(width, height), "squash": 0}[fit]
        resized = [max(1, round(length * size / side)) if side else size for length in (width, height)]
        if max(resized) > _LONGEST:
            raise VideoError(f"{path}: {width}x{height} is too long for fit='{fit}'; use fit='squash'")
        width, height = resized
    if transposed:
        width, height = height, width
    image = scale.reformat(
        frame, width=width, height=height, format="rgb24", interpolation=_QUALITY, threads=1
    ).to_ndarray()
    if transposed:
        image = image.transpose(1, 0, 2)
    image = image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return np.ascontiguousarray(image, dtype=np.uint8)


def _part(
    path: Path, line: Timeline, frame: VideoFrame, scale: VideoReformatter, size: int, fit: Fit, region: Region
) -> Pixels:
    """A region of the upright frame, resized for ``fit``."""
    if region == WHOLE:
        return _upright(path, line, frame, scale, size, fit)
    image = _upright(path, line, frame, scale, None, fit)
    height, width = image.shape[:2]
    left, right = (min(width - 1, int(region[0] * width)), max(1, round(region[2] * width)))
    top, bottom = (min(height - 1, int(region[1] * height)), max(1, round(region[3] * height)))
    part = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    lengths = part.shape[1], part.shape[0]
    side = {"crop": min(lengths), "pad": max(lengths), "squash": 0}[fit]
    wide, tall = (max(1, round(length * size / side)) if side else size for length in lengths)
    return np.asarray(Image.fromarray(part).resize((wide, tall), Image.Resampling.BICUBIC))


def check_region(region: Region) -> None:
    """Refuses, by a DataError, a region that is none."""
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise DataError(f"region: {joined(region)}, expected left < right and top < bottom, all in [0, 1]")


def _square(image: Pixels, size: int, fit: Fit) -> Pixels:
    """The middle ``size`` x ``size`` of an image, or the image in the middle of black."""
    height, width = image.shape[:2]
    if fit == "pad":
        canvas = np.zeros((size, size, 3), np.uint8)
        top, left = (size - height) // 2, (size - width) // 2
        canvas[top : top + height, left : left + width] = image
        return canvas
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


def _grey(image: Pixels, channels: int) -> Pixels:
    """RGB as it is, or its luma ``(H, W, 1)``."""
    if channels == 3:
        return image
    luma: Pixels = np.rint(image.astype(np.float32) @ _LUMA).astype(np.uint8)[..., None]
    return luma
