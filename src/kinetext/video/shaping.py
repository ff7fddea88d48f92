"""Decoded frames -> pixels: upright, with square pixels, cut and resized to a square."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import RLock
from typing import Literal, cast, get_args

import numpy as np
from av.buffer import Buffer
from av.filter import Graph
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from kinetext.types import DataError, joined
from kinetext.video.containers import VideoError, check, told
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.timeline import Timeline

Fit = Literal["crop", "squash", "pad"]
Region = tuple[float, float, float, float]  # left, top, right, bottom, in shares of the picture
CHANNELS = (1, 3)  # luma, RGB
WHOLE: Region = (0.0, 0.0, 1.0, 1.0)
Pixels = NDArray[np.uint8]
Turn = tuple[bool, bool, bool]  # transposed, then flipped in x, then in y
UPRIGHT: Turn = (False, False, False)

# swscale widens its bicubic filter when it shrinks, so this is anti-aliased; planes of colours (gbrp) are the very pixels that it
# gives side by side (rgb24), in half the time
_FLAGS = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601

# (transposed, flipped in x, flipped in y) -> clockwise turn in degrees, and whether mirrored left-right before it
TURNS: dict[Turn, tuple[int, bool]] = {
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
_EXIF: tuple[Turn, ...] = (
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
class Shape:
    """What frames are made into.

    Args:
        size: pixels, the side of square frames, >= 1; None is the size as displayed.
        fit: "crop" the middle square, "squash" to a square whatever the aspect, or "pad" with black; only with ``size``.
        region: the part of the upright picture that is looked at, cut out before ``fit``: left, top, right and bottom in
            shares of its width and height, in [0, 1]; only with ``size``.
        channels: 3 (RGB) or 1 (luma, ITU-R BT.601).

    Raises:
        DataError: one of them is outside its range.
    """

    size: int | None = None
    fit: Fit = "crop"
    region: Region = WHOLE
    channels: int = 3

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DataError(f"size: {self.size}, expected 1 or more")
        for name, value, legal in (("channels", self.channels, CHANNELS), ("fit", self.fit, get_args(Fit))):
            if value not in legal:
                raise DataError(f"{name}: {value!r}, expected one of {joined(legal)}")
        check_region(self.region)
        if self.size is None and (self.fit != "crop" or self.region != WHOLE):
            raise DataError("fit and region: only with a size")


@dataclass(frozen=True)
class _Cut:
    """What is cut out of a stored frame, (left, top, width, height), and the size it gets, in stored orientation."""

    box: tuple[int, int, int, int]
    wide: int
    tall: int


class Shaper:
    """Makes frames of one file into pixels ``(H, W, C)``.

    Cutting comes first, so that nothing is resized in vain.

    Args:
        path: for messages.
        line: its timeline.
        shape: what to make.
        turn: how frames are turned; None reads it from them.
        limits: of the pixels of a frame as displayed.
    """

    def __init__(
        self, path: Path, line: Timeline, shape: Shape, turn: Turn | None = None, limits: Limits = LIMITS
    ) -> None:
        self.path, self.line, self.shape, self.turn, self.limits = path, line, shape, turn, limits
        self._read: tuple[Turn, int] | None = None  # the turn of the last frame, and its rotation as FFmpeg has it
        self._seen: tuple[object, ...] = ()
        self._graph: Graph | None = None
        self._busy = RLock()  # a graph of filters is for one thread at a time

    def __call__(self, frame: VideoFrame) -> Pixels:
        with self._busy:
            return self._shaped(frame)

    def _shaped(self, frame: VideoFrame) -> Pixels:
        transposed, flip_x, flip_y = turn = self._turn(frame) if self.turn is None else self.turn
        seen = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, turn)
        if seen != self._seen:
            with told(self.path):
                self._graph, self._seen = _graph(frame, self._cut(frame, turn)), seen
        assert self._graph is not None
        with told(self.path):
            self._graph.push(frame)
            image = _rgb(cast("VideoFrame", self._graph.pull()))
        if transposed:
            image = image.transpose(1, 0, 2)
        image = image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
        if self.shape.fit == "pad" and self.shape.size is not None:
            image = _padded(image, self.shape.size)
        return image if self.shape.channels == 3 else grey(image)

    def _turn(self, frame: VideoFrame) -> Turn:
        """How a frame is turned; asked anew only where its rotation is another, since PyAV's side data keep a frame alive
        until Python looks for cycles, and FFmpeg has to find new memory for the next."""
        if self._read is None or self._read[1] != frame.rotation:
            self._read = turn_of(self.path, self.line, frame), frame.rotation
        return self._read[0]

    def _cut(self, frame: VideoFrame, turn: Turn) -> _Cut:
        width, height, aspect = frame.width, frame.height, self.line.aspect
        size = self.shape.size
        if size is None:
            wide, tall = stored_size(frame, aspect)
            check(self.path, "pixels", wide * tall, self.limits.pixels)  # frames may be larger than the header says
            return _Cut((0, 0, width, height), wide, tall)
        left, top, right, bottom = _stored(self.shape.region, turn)
        x, y = min(width - 1, round(left * width)), min(height - 1, round(top * height))
        wide, tall = max(1, round(right * width) - x), max(1, round(bottom * height) - y)
        shown = wide * aspect  # its width in square pixels as tall as stored ones
        if self.shape.fit == "crop":
            side = min(shown, Fraction(tall))
            across, down = max(1, round(side / aspect)), max(1, round(side))
            return _Cut((x + (wide - across) // 2, y + (tall - down) // 2, across, down), size, size)
        if self.shape.fit == "squash":
            return _Cut((x, y, wide, tall), size, size)
        scale = size / max(shown, Fraction(tall))
        return _Cut((x, y, wide, tall), max(1, round(shown * scale)), max(1, round(tall * scale)))


def stored_size(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height of a frame with square pixels, before it is turned."""
    return max(1, round(frame.width * aspect)), frame.height


def turn_of(path: Path, line: Timeline, frame: VideoFrame) -> Turn:
    """Whether displaying takes a transposition, a flip in x, a flip in y, in this order.

    A display matrix (a b; c d) sends the stored point (x, y) to (a x + c y, b x + d y) (ISO/IEC 14496-12, 6.2.2).
    """
    if line.duration == 0:
        return _exif_turn(path)
    try:  # declared as a TypedDict of one other key; it is a mapping of all side data
        data = cast("Mapping[str, Buffer]", frame.side_data).get("DISPLAYMATRIX")
    except ValueError as error:  # PyAV 18 knows no name for some kinds of side data, and then lists none
        if frame.rotation == 0:
            return UPRIGHT
        raise VideoError(f"{path}: it is rotated, and PyAV can't read how ({error})") from error
    if data is None:
        return UPRIGHT
    a, b, _, c, d = struct.unpack("9i", bytes(data))[:5]
    if b == c == 0 and a and d:
        return False, a < 0, d < 0
    if a == d == 0 and b and c:
        return True, c < 0, b < 0
    raise VideoError(f"{path}: its display matrix ({a} {b}; {c} {d}) is no turn by a multiple of 90 degrees")


def check_region(region: Region) -> None:
    """Refuses, by a DataError, a region that is none."""
    left, top, right, bottom = region
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise DataError(f"region: {joined(region)}, expected left < right and top < bottom, all in [0, 1]")


def _exif_turn(path: Path) -> Turn:
    """The same for an image, from its EXIF."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, 1)
    except Image.DecompressionBombError as error:  # a bound of its own
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        cause = f"Pillow, which reads it, takes pictures of up to {most:,} pixels, twice PIL.Image.MAX_IMAGE_PIXELS"
        raise VideoError(f"{path}: its EXIF can't be read; {cause}") from error
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for broken files
        raise VideoError(f"{path}: its EXIF can't be read ({error})") from error
    # values outside 1 to 8 are reserved; viewers show such images as they are
    return _EXIF[orientation - 1] if orientation in range(1, 9) else UPRIGHT


def _stored(region: Region, turn: Turn) -> Region:
    """A region of the upright picture in shares of the stored one: the steps of ``turn`` taken back."""
    left, top, right, bottom = region
    transposed, flip_x, flip_y = turn
    if flip_y:
        top, bottom = 1 - bottom, 1 - top
    if flip_x:
        left, right = 1 - right, 1 - left
    return (top, left, bottom, right) if transposed else (left, top, right, bottom)


def _graph(frame: VideoFrame, cut: _Cut) -> Graph:
    """FFmpeg's filters that cut, resize and convert frames like this one."""
    graph = Graph()
    graph.threads = 1
    kind = frame.format.name
    x, y, wide, tall = cut.box
    steps = [
        (
            "buffer",
            f"video_size={frame.width}x{frame.height}:pix_fmt={kind}:time_base=1/1000:pixel_aspect=1/1"
            f":colorspace={frame.colorspace}:range={frame.color_range}",
        )
    ]
    if (wide, tall) != (frame.width, frame.height):
        steps.append(("crop", f"{wide}:{tall}:{x}:{y}:exact=1"))  # also between pixels of chroma
    steps += [("scale", f"{cut.wide}:{cut.tall}:{_FLAGS}"), ("format", "gbrp"), ("buffersink", "")]
    nodes = [graph.add(name, args) for name, args in steps]
    graph.link_nodes(*nodes).configure()
    return graph


def _rgb(frame: VideoFrame) -> Pixels:
    """The pixels ``(H, W, 3)`` of a frame of planes green, blue and red."""
    planes = np.empty((3, frame.height, frame.width), np.uint8)
    for channel, plane in zip((1, 2, 0), frame.planes, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        planes[channel] = rows[: frame.height, : frame.width]
    return planes.transpose(1, 2, 0)  # as tensors want them: channels apart in memory


def _padded(image: Pixels, size: int) -> Pixels:
    """An image in the middle of a black square."""
    height, width = image.shape[:2]
    canvas = np.zeros((size, size, 3), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def grey(image: Pixels) -> Pixels:
    """The luma ``(..., 1)`` of RGB ``(..., 3)``."""
    luma: Pixels = np.rint(image.astype(np.float32) @ _LUMA).astype(np.uint8)[..., None]
    return luma
