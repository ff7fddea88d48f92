"""Frames that are sought in files whose packets mislead: other parameter sets on the way, keys that are none, damage between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinetext import video
from kinetext.video import VideoError
from kinetext.video.frames import VideoFile


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """A square that moves over a fixed texture, uint8 (T, 48, 64, 3)."""
    ground = np.kron(np.random.default_rng(seed).integers(60, 160, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    made = np.repeat(ground[None], count, 0)
    for number, image in enumerate(made):
        left, top = number % 52, number * 3 % 36
        image[top : top + 12, left : left + 12] = (255, 6 * number % 256, 255 - 6 * number % 256)
    return made


def mux(path: Path, codec: str, options: dict[str, str], kind: str, *, count: int = 40, seed: int = 0) -> Path:
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for image in pictures(count, seed):
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def in_order(path: Path) -> list[np.ndarray]:
    """All frames by the plainest loop of PyAV."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def tags(path: Path) -> Iterator[tuple[int, bytes]]:
    """Time in milliseconds and body of the video tags of an FLV (Adobe, Flash Video File Format 10.1, annex E.4.1)."""
    data, at = path.read_bytes(), 13
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4])
        body = data[at + 11 : at + 11 + size]
        if data[at] == 9 and not (body[0] & 15 == 7 and body[1] == 2):  # but for the mark of the end
            yield int.from_bytes(data[at + 4 : at + 7]), body
        at += 11 + size + 4


def reconfigured(folder: Path) -> Path:
    """Twenty frames of H.264 with one entropy coder, twenty with the other: two sequence headers in one FLV."""
    first = mux(folder / "a.flv", "libx264", {"g": "10", "bf": "0"}, "flv", count=20)
    options = {"g": "10", "bf": "0", "profile": "baseline", "x264-params": "cabac=0:ref=1:8x8dct=0"}
    second = mux(folder / "b.flv", "libx264", options, "flv", count=20, seed=3)
    made = bytearray(first.read_bytes()[:13])
    for path, later in ((first, 0), (second, 800)):
        for time, body in tags(path):
            made += b"\x09" + len(body).to_bytes(3) + (time + later).to_bytes(3) + bytes(4) + body
            made += (11 + len(body)).to_bytes(4)
    (folder / "two.flv").write_bytes(made)
    return folder / "two.flv"


@pytest.mark.parametrize("known", [False, True], ids=["packets kept", "times known"])
def test_another_configuration_on_the_way(tmp_path: Path, known: bool) -> None:
    path = reconfigured(tmp_path)
    plain = in_order(path)
    assert len(plain) == 40
    if known:
        video.probe(path)
    else:
        video.forget()
    with VideoFile(path) as file:
        for wanted in ([35], [5], [25, 29], [5, 35], [0, 19, 20]):
            for number, frame in file.frames(wanted):
                assert np.array_equal(frame.to_ndarray(), plain[number]), (wanted, number)


def test_a_key_frame_that_is_none(tmp_path: Path) -> None:
    """A table of key frames that lies: MPEG-4 paints on what it has, without a word."""
    honest = mux(tmp_path / "honest.mov", "mpeg4", {"g": "20"}, "mov")
    with av.open(str(honest)) as source, av.open(str(tmp_path / "lying.mov"), "w", format="mov") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                packet.stream = stream
                packet.is_keyframe = number in (0, 13, 20, 31)
                target.mux(packet)
    plain = in_order(honest)
    with VideoFile(tmp_path / "lying.mov") as file:
        assert file.line.keys.tolist() == [0, 13, 20, 31]
        for wanted in ([13], [15], [39], [22, 33], [31]):
            for number, frame in file.frames(wanted):
                assert np.array_equal(frame.to_ndarray(), plain[number]), (wanted, number)


def test_damage_before_a_point_of_recovery_counts(tmp_path: Path) -> None:
    """A clip that is refreshed bit by bit has key frames that need pictures before them."""
    options = {"x264-params": "intra-refresh=1:keyint=20:min-keyint=20:bframes=0:scenecut=0"}
    path = mux(tmp_path / "refresh.mp4", "libx264", options, "mp4", count=60)
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    plain, whole = in_order(path), path.read_bytes()
    for damaged in range(1, 20, 3):
        at, size = packets[damaged]
        path.write_bytes(whole[: at + size // 2] + bytes(size - size // 2) + whole[at + size :])
        video.forget()
        try:
            with VideoFile(path) as file:
                list(file.frames(range(40)))
        except VideoError:
            with VideoFile(path) as file:
                for number in range(20, 30):
                    try:
                        (got,) = (frame for _, frame in file.frames([number]))
                        assert np.array_equal(got.to_ndarray(), plain[number]), (damaged, number)
                    except VideoError:
                        continue
