"""Tensors -> video files that say how they were made: mp4, WebM, animated PNG and GIF; and PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from torch import Tensor

from kinetext.runtime import whole_file
from kinetext.types import joined
from kinetext.video import comments
from kinetext.video.containers import VideoError
from kinetext.video.shaping import Pixels

_BT601 = 6  # FFmpeg's number of the colour matrix, primaries and transfer that we write (SMPTE 170M)
_LIMITED = 1  # FFmpeg's number of the range 16..235


def to_bytes(video: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8 0..255, same layout; undoes ``to_float`` exactly."""
    return ((video.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class _Kind:
    """How frames become a file.

    Args:
        container, codec, pix_fmt: FFmpeg's names.
        muxing, coding: FFmpeg's options.
        lossy: whether it takes a ``crf``, and halves width and height for its colours.
        comments: whether FFmpeg writes them into the container.
    """

    container: str
    codec: str
    pix_fmt: str
    muxing: Mapping[str, str]
    coding: Mapping[str, str]
    lossy: bool
    comments: bool


_KINDS = {
    # with macroblock-tree rate control, small frames (64x64) come out a little different from call to call in
    # x264's assembly (build 165); without it, the same frames give the same bytes
    ".mp4": _Kind(
        "mp4", "libx264", "yuv420p", {"movflags": "+faststart", "fflags": "+bitexact"},
        {"preset": "medium", "flags": "+bitexact", "x264-params": "no-mbtree=1"}, True, True,
    ),
    # b=0: the quality is constant
    ".webm": _Kind(
        "webm", "libvpx-vp9", "yuv420p", {"fflags": "+bitexact"},
        {"b": "0", "deadline": "good", "cpu-used": "2", "flags": "+bitexact"}, True, True,
    ),
    ".apng": _Kind("apng", "apng", "rgb24", {"plays": "0", "fflags": "+bitexact"}, {}, False, False),
    ".gif": _Kind("gif", "gif", "pal8", {}, {}, False, False),
}  # fmt: skip
WRITTEN = tuple(_KINDS)


class Writer:
    """Writes a clip as its frames come; the same frames give the same bytes. The suffix says what kind:

    ======= =================== ============================================================================
    .mp4    H.264, yuv420p      in constant memory
    .webm   VP9, yuv420p        in constant memory; times are rounded to milliseconds
    .apng   lossless            the packed file is held once in memory, at its end
    .gif    256 colours         frames are held in memory: they share a palette; times are rounded to hundredths
    ======= =================== ============================================================================

    The file appears whole where the block ends well; where it does not, what was there before stays.

    Args:
        path: ends in one of those.
        fps: frames a second, more than 0, at most 1000; at most 50 in a GIF (browsers slow down what is faster).
        provenance: how the clip was made, a JSON object or its text; kept in the file's comment.
        crf: of mp4 and webm, 0 (best) to 51, 12 if not given: it keeps frames of 64x64 good enough for a classifier.

    Raises:
        VideoError: the clip can't be written as asked (full disk, no such folder); nothing half written stays.

    Example:
        >>> with Writer("clip.mp4", fps=8) as file:      # doctest: +SKIP
        ...     file.write(torch.zeros(1, 16, 64, 64))
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float,
        provenance: Mapping[str, object] | str | None = None,
        crf: int | None = None,
    ) -> None:
        self.path = _named(path, *WRITTEN)
        self._suffix = self.path.suffix.lower()
        self._kind = _KINDS[self._suffix]
        if crf is not None and not (self._kind.lossy and 0 <= crf <= 51):
            legal = "0 to 51" if self._kind.lossy else f"none: {self._suffix} has no such setting"
            raise VideoError(f"{self.path}: crf {crf}, expected {legal}")
        if self._suffix == ".gif" and not 0 < fps <= 50:
            raise VideoError(f"{self.path}: fps {fps}, expected more than 0, at most 50 in a GIF")
        self._rate, self._crf, self._comment = (
            frame_rate(fps),
            12 if crf is None else crf,
            _comment(self.path, provenance),
        )
        self._held: list[Pixels] = []  # of a GIF
        self._opened = ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> Self:
        kind, options = self._kind, dict(self._kind.muxing)
        with _said(self.path), ExitStack() as opening:
            temporary = opening.enter_context(whole_file(self.path))
            if self._comment and not kind.comments:
                opening.enter_context(_commented(temporary, self._comment))
            self._container = opening.enter_context(
                av.open(str(temporary.absolute()), "w", format=kind.container, options=options)
            )
            if self._comment and kind.comments:
                self._container.metadata["comment"] = self._comment
            self._stream, self._held = None, []
            self._opened = opening.pop_all()
        return self

    def write(self, video: Tensor) -> None:
        """Adds frames.

        Args:
            video: float ``(C, T, H, W)`` in [-1, 1] or uint8 ``(T, H, W, C)``; C is 1 or 3, T >= 1; H and W are the same
                in every call, and even in mp4 and webm, because 4:2:0 halves them.

        Raises:
            ValueError: ``video`` has another shape, dtype or range.
            VideoError: an odd size, another size than before, a full disk.
        """
        pixels = _pixels(video)
        if self._container is None:
            raise VideoError(f"{self.path}: not open, expected to be written to within its `with` block")
        height, width = pixels.shape[1:3]
        if self._stream is None:
            self._stream = self._begin(self._container, height, width)
        wide, high = self._stream.width, self._stream.height
        if (height, width) != (high, wide):
            raise VideoError(f"{self.path}: frames of {width}x{height}, expected {wide}x{high} as those before")
        if self._suffix == ".gif":
            self._held.append(pixels)
            return
        with _said(self.path):
            for image in pixels:
                self._container.mux(self._stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))

    def _begin(self, container: OutputContainer, height: int, width: int) -> VideoStream:
        kind = self._kind
        if kind.lossy and (width % 2 or height % 2):
            raise VideoError(f"{self.path}: frames of {width}x{height}, expected an even width and height")
        settings = {"crf": str(self._crf)} if kind.lossy else {}
        # GIF's times are hundredths of a second
        rate = 100 if self._suffix == ".gif" else self._rate
        stream = container.add_stream(kind.codec, rate=rate, options={**settings, **kind.coding})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, kind.pix_fmt
        codec = stream.codec_context
        if kind.lossy:
            codec.colorspace = codec.color_primaries = codec.color_trc = _BT601
            codec.color_range = _LIMITED
        codec.thread_count = 1  # what encoders write depends on the number of threads
        return stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        container, self._container = self._container, None
        if error is not None:
            with suppress(av.FFmpegError, OSError):  # closing what is thrown away; the first error is the one to see
                self._opened.__exit__(kind, error, trace)
            return
        with _said(self.path), self._opened:
            if container is None or self._stream is None:
                raise VideoError(f"{self.path}: no frames, expected at least one")
            if self._held:
                self._mux_gif(container, self._stream, np.concatenate(self._held))
            container.mux(self._stream.encode())

    def _mux_gif(self, container: OutputContainer, stream: VideoStream, pixels: Pixels) -> None:
        starts = [round(number * 100 / self._rate) for number in range(len(pixels) + 1)]
        for number, frame in enumerate(_with_palette(pixels)):
            frame.pts, frame.time_base = starts[number], Fraction(1, 100)
            for packet in stream.encode(frame):
                # the muxer learns how long a frame stays from the next one; the last has none
                packet.duration = starts[number + 1] - starts[number]
                container.mux(packet)


def write(
    path: str | Path,
    video: Tensor,
    *,
    fps: float,
    provenance: Mapping[str, object] | str | None = None,
    crf: int | None = None,
) -> None:
    """Writes a whole clip as a ``Writer`` does.

    Args:
        video: as of ``Writer.write``.
        path, fps, provenance, crf: as of ``Writer``.

    Raises:
        ValueError: ``video`` has another shape, dtype or range.
        VideoError: the clip can't be written as asked (odd size, full disk, no such folder); nothing half
            written stays.
    """
    with Writer(path, fps=fps, provenance=provenance, crf=crf) as file:
        file.write(video)


def write_gif(path: str | Path, video: Tensor, *, fps: float) -> None:
    """Writes an endless GIF with a palette of its own; times are rounded to GIF's hundredths of a second.

    Args:
        path: ends in .gif.
        video: as for ``write``, of any size.
        fps: frames a second, more than 0, at most 50 (browsers slow down what is faster).

    Raises:
        ValueError: as for ``write``.
        VideoError: as for ``write``.
    """
    write(_named(path, ".gif"), video, fps=fps)


def write_png(path: str | Path, image: Tensor) -> None:
    """Writes one frame as a PNG.

    Args:
        path: ends in .png.
        image: float ``(C, 1, H, W)`` in [-1, 1] or uint8 ``(1, H, W, C)``.

    Raises:
        ValueError: as for ``write``.
        VideoError: as for ``write``.
    """
    pixels = _pixels(image)
    path = _named(path, ".png")
    if len(pixels) != 1:
        raise VideoError(f"{path}: {len(pixels)} frames, expected one")
    codec = av.VideoCodecContext.create("png", "w")
    codec.height, codec.width = pixels.shape[1:3]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1, 25)
    packets = [*codec.encode(VideoFrame.from_ndarray(pixels[0], format="rgb24")), *codec.encode(None)]
    with _said(path), whole_file(path) as temporary:
        temporary.write_bytes(b"".join(bytes(packet) for packet in packets))


def _with_palette(pixels: Pixels) -> Iterator[VideoFrame]:
    """The frames in the 256 colours that suit all of them best."""
    graph = av.filter.Graph()
    height, width = pixels.shape[1:3]
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1, 100))
    split, palette, use = graph.add("split"), graph.add("palettegen"), graph.add("paletteuse")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    for number, image in enumerate(pixels):
        frame = VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 100)
        source.push(frame)
    source.push(None)
    for _ in pixels:
        coloured = sink.pull()
        assert isinstance(coloured, VideoFrame)
        yield coloured


def _pixels(video: Tensor) -> Pixels:
    """Any video we take, as RGB ``(T, H, W, 3)``."""
    if video.ndim != 4:
        raise ValueError(f"video: rank {video.ndim} {tuple(video.shape)}, expected rank 4")
    video = video.detach().cpu()
    if video.is_floating_point():
        low, high = (float(edge) for edge in torch.aminmax(video)) if video.numel() else (0.0, 0.0)
        if not (low >= -1.001 and high <= 1.001):  # NaN is neither
            raise ValueError(f"video: values from {low:.3g} to {high:.3g}, expected -1 to 1")
        video = to_bytes(video).permute(1, 2, 3, 0)
    elif video.dtype != torch.uint8:
        raise ValueError(f"video: dtype {video.dtype}, expected float (C, T, H, W) or uint8 (T, H, W, C)")
    if video.shape[3] not in (1, 3) or not video.numel():
        raise ValueError(f"video: (T, H, W, C) is {tuple(video.shape)}, expected 1 or 3 channels and no size of 0")
    return np.ascontiguousarray(video.expand(*video.shape[:3], 3).numpy(), dtype=np.uint8)


def _named(path: str | Path, *suffixes: str) -> Path:
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise VideoError(f"{path}: expected a name that ends in {joined(suffixes)}")
    if "\0" in str(path):
        raise VideoError(f"{str(path)!r}: expected a name without NUL")
    return path


def frame_rate(fps: float) -> Fraction:
    """The fraction that ``fps`` stands for: 29.97002997 is 30000/1001.

    Raises:
        VideoError: it is not more than 0 and at most 1000, or no container keeps it exactly.
    """
    if not 0 < fps <= 1000:
        raise VideoError(f"fps: {fps}, expected more than 0, at most 1000")
    for largest in (1001, 65_535):
        rate = Fraction(fps).limit_denominator(largest)
        if rate and math.isclose(rate, fps, rel_tol=1e-12):
            return rate
    raise VideoError(f"fps: {fps} can't be kept exactly, expected a fraction with a denominator up to 65535")


def _comment(path: Path, provenance: Mapping[str, object] | str | None) -> str:
    if provenance is None:
        return ""
    if not isinstance(provenance, str):
        return json.dumps(dict(provenance), ensure_ascii=False)
    try:
        valid = isinstance(json.loads(provenance), dict)
    except ValueError:
        valid = False
    if not valid:
        raise VideoError(f"{path}: provenance {provenance[:40]!r}, expected the text of a JSON object")
    return provenance


@contextmanager
def _commented(path: Path, comment: str) -> Iterator[None]:
    """Puts a comment into a file once it is written."""
    yield
    comments.insert(path, json.dumps(json.loads(comment)))  # in ASCII, as GIF wants it


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """What the system or FFmpeg refuses inside becomes a ``VideoError``."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: can't be written ({error.strerror or error}); nothing was left behind") from error
