"""Tensors -> video files: mp4 with provenance, GIF, PNG."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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
from numpy.typing import NDArray
from torch import Tensor

from kinetext.runtime import whole_file
from kinetext.video.frames import VideoError

Pixels = NDArray[np.uint8]

_BT601 = 6  # FFmpeg's number of the colour matrix, primaries and transfer that we write (SMPTE 170M)
_LIMITED = 1  # FFmpeg's number of the range 16..235


def to_bytes(video: Tensor) -> Tensor:
    """float in [-1, 1] -> uint8 0..255, same layout; undoes ``to_float`` exactly."""
    return ((video.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


class Writer:
    """Writes an mp4 (H.264, yuv420p) as its frames come, in constant memory; the same frames give the same bytes.

    The file appears whole where the block ends well; where it does not, what was there before stays.

    Args:
        path: ends in .mp4.
        fps: frames a second, more than 0, at most 1000; kept exactly.
        provenance: how the clip was made, a JSON object or its text; kept in the container's comment.
        crf: 0 (best) to 51; 12 keeps frames of 64x64 good enough for a classifier.

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
        crf: int = 12,
    ) -> None:
        self.path = _named(path, ".mp4")
        if not 0 <= crf <= 51:
            raise VideoError(f"{self.path}: crf {crf}, expected 0 to 51")
        self._rate, self._crf, self._comment = frame_rate(fps), crf, _comment(self.path, provenance)
        self._opened = ExitStack()
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> Self:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with _said(self.path), ExitStack() as opening:
            temporary = opening.enter_context(whole_file(self.path))
            self._container = opening.enter_context(av.open(str(temporary), "w", format="mp4", options=options))
            if self._comment:
                self._container.metadata["comment"] = self._comment
            self._opened = opening.pop_all()
        return self

    def write(self, video: Tensor) -> None:
        """Adds frames.

        Args:
            video: float ``(C, T, H, W)`` in [-1, 1] or uint8 ``(T, H, W, C)``; C is 1 or 3, T >= 1; H and W are even,
                because 4:2:0 halves them, and the same in every call.

        Raises:
            ValueError: ``video`` has another shape, dtype or range.
            VideoError: an odd size, another size than before, a full disk.
        """
        pixels = _pixels(video)
        assert self._container is not None, "a writer is opened by `with`"
        height, width = pixels.shape[1:3]
        if self._stream is None:
            self._stream = self._begin(self._container, height, width)
        wide, high = self._stream.width, self._stream.height
        if (height, width) != (high, wide):
            raise VideoError(f"{self.path}: frames of {width}x{height}, expected {wide}x{high} as those before")
        with _said(self.path):
            for image in pixels:
                self._container.mux(self._stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))

    def _begin(self, container: OutputContainer, height: int, width: int) -> VideoStream:
        if width % 2 or height % 2:
            raise VideoError(f"{self.path}: frames of {width}x{height}, expected an even width and height")
        # with macroblock-tree rate control, small frames (64x64) come out a little different from call to call in
        # x264's assembly (build 165); without it, the same frames give the same bytes
        settings = {"crf": str(self._crf), "preset": "medium", "flags": "+bitexact", "x264-params": "no-mbtree=1"}
        stream = container.add_stream("libx264", rate=self._rate, options=settings)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT601
        codec.color_range = _LIMITED
        codec.thread_count = 1  # x264's output depends on the number of threads
        return stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            with suppress(av.FFmpegError, OSError):  # closing what is thrown away; the first error is the one to see
                self._opened.__exit__(kind, error, trace)
            return
        with _said(self.path), self._opened:
            if self._container is None or self._stream is None:
                raise VideoError(f"{self.path}: no frames, expected at least one")
            self._container.mux(self._stream.encode())


def write(
    path: str | Path,
    video: Tensor,
    *,
    fps: float,
    provenance: Mapping[str, object] | str | None = None,
    crf: int = 12,
) -> None:
    """Writes a whole clip as a ``Writer`` does.

    Args:
        video: float ``(C, T, H, W)`` in [-1, 1] or uint8 ``(T, H, W, C)``; C is 1 or 3, T >= 1; H and W are
            even, because 4:2:0 halves them.
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
    pixels = _pixels(video)
    path = _named(path, ".gif")
    if not 0 < fps <= 50:
        raise VideoError(f"{path}: fps {fps}, expected more than 0, at most 50 in a GIF")
    tick = Fraction(1, 100)
    starts = [round(number * 100 / fps) for number in range(len(pixels) + 1)]
    # the muxer learns how long a frame stays from the next one; the last has none
    options = {"final_delay": str(starts[-1] - starts[-2])}
    with _writing(path) as temporary, av.open(str(temporary), "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=100)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = "pal8", tick
        for number, frame in enumerate(_with_palette(pixels)):
            frame.pts, frame.time_base = starts[number], tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


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
    with _writing(path) as temporary:
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


def _named(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise VideoError(f"{path}: expected a name that ends in {suffix}")
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
def _writing(path: Path) -> Iterator[Path]:
    """A temporary file that becomes ``path``; every failure to write is a ``VideoError``."""
    with _said(path), whole_file(path) as temporary:
        yield temporary


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """What the system or FFmpeg refuses inside becomes a ``VideoError``."""
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: can't be written ({error.strerror or error}); nothing was left behind") from error
