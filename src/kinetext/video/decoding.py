"""How decoders are set, which packets they get, and how their failures are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from kinetext.video.containers import VideoError
from kinetext.video.limits import Limits

# an error for any flaw that a decoder sees, checksums among them (PNG has some, H.265 may)
STRICT = "explode+crccheck"
# decoders that tell where a picture refers to one that is not there; others paint it grey
TELLING = frozenset({"h264", "hevc", "vp9", "libdav1d", "av1", "mpeg2video"})


def strict(stream: VideoStream, limits: Limits) -> None:
    """Errors instead of frames patched up from their neighbours, or larger than allowed."""
    stream.codec_context.options = {"err_detect": STRICT, "max_pixels": str(limits.pixels)}


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Those that hold something, or stand for a frame that is the one before."""
    return (packet for packet in container.demux(stream) if packet.size or packet.dts is not None)


def shows(packet: av.Packet[VideoStream], codec: str) -> bool:
    """Whether it holds a frame that is shown: not one that an edit list cuts off, and of VP8 not one that is only referred to."""
    if not packet.size or packet.is_discard:
        return False
    return codec != "vp8" or bool(memoryview(packet)[0] & 0x10)  # RFC 6386, 9.1, show_frame


def broken(path: Path, number: int, total: int, cause: str) -> VideoError:
    """The error for a frame that can't be decoded."""
    return VideoError(f"{path}: frame {number} of {total} can't be decoded ({cause})")
