"""Which frames odd but whole files have, and which files are not whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from kinetext.video.frames import timeline

NOISE = torch.randint(0, 256, (40, 48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def encode(
    path: Path,
    pixels: Tensor = NOISE,
    codec: str = "libx264",
    kind: str | None = None,
    form: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """25 frames a second, a key frame at least every 10."""
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25, options={"g": "10"} | (options or {}))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = form
        for image in pixels.numpy():
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def tags(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, milliseconds and body of each tag of an FLV file."""
    at = 13
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4])
        yield data[at], int.from_bytes(data[at + 4 : at + 7]), data[at + 11 : at + 11 + size]
        at += 11 + size + 4


def test_a_decoder_that_is_configured_anew_in_mid_file_is_told(tmp_path: Path) -> None:
    plain = {"bf": "0", "x264-params": "cabac=0:ref=1:weightp=0"}
    one = encode(tmp_path / "one.flv", NOISE[:20], options={**plain, "qp": "10"})
    other = encode(tmp_path / "other.flv", NOISE[20:], options={**plain, "qp": "40"})
    joined, late = bytearray(one.read_bytes()), 20 * 40
    for kind, time, body in tags(other.read_bytes()):
        if kind == 9:
            head = bytes([9]) + len(body).to_bytes(3) + (time + late).to_bytes(3) + bytes(4)
            joined += head + body + (11 + len(body)).to_bytes(4)
    (tmp_path / "both.flv").write_bytes(joined)
    both = timeline(tmp_path / "both.flv")
    assert len(both) == 40 and both.reconfigured
    assert timeline(tmp_path / "both.flv").reconfigured  # remembered
    assert not timeline(one).reconfigured
