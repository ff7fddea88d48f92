"""Files with flaws: every one has its error, and no wrong frame comes out."""

from __future__ import annotations

import csv
import io
import struct
from pathlib import Path

import av
import pytest
import torch
from av.video.frame import VideoFrame
from torch import Tensor

from kinetext import video
from kinetext.runtime import rng
from kinetext.video import VideoError
from kinetext.video.frames import VideoFile

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd_media"


def counted(num_frames: int, height: int = 32, width: int = 32) -> Tensor:
    """Frame i is all 4 i + 8, uint8 (T, H, W, 3)."""
    grey = (torch.arange(num_frames) * 4 + 8).to(torch.uint8)
    return grey[:, None, None, None].expand(num_frames, height, width, 3).contiguous()


@pytest.mark.parametrize("share", [0.5, 0.8, 0.97])
@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi"])
def test_a_truncated_file_is_an_error(tmp_path: Path, kind: str, share: float) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    noise = torch.randint(0, 256, (30, 32, 32, 3), generator=rng("cut")).to(torch.uint8)
    if kind == "mp4":
        video.write(whole, noise, fps=25)  # moov first: the header of a cut file still promises every frame
    else:
        encode(whole, kind, noise)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VideoError, match=r"cut\.\w+: (truncated|frame \d+ of|not a video)"):
        video.read_clip(cut, num_frames=30, size=32)


def encode(path: Path, kind: str, pixels: Tensor, rate: int = 25) -> None:
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "4"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in pixels.numpy():
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_an_flv_that_begins_late_is_whole(tmp_path: Path) -> None:
    """Its B-frames put off the first frame; its duration counts from 0 all the same."""
    path = tmp_path / "clip.flv"
    noise = torch.randint(0, 256, (12, 32, 32, 3), generator=rng("flv")).to(torch.uint8)
    encode(path, "flv", noise, rate=10)
    info = video.probe(path)
    assert (info.num_frames, info.fps, info.duration) == (12, 10.0, pytest.approx(1.2))


def test_where_seeking_fails_decoding_begins_at_the_beginning(tmp_path: Path) -> None:
    """The table of key frames names one that there is not: FFmpeg then seeks nowhere. Found by fuzzing."""
    path = tmp_path / "clip.mp4"
    encode(path, "mp4", counted(12).repeat_interleave(2, 1), rate=10)
    data = bytearray(path.read_bytes())
    at = data.index(b"stss") + 12
    data[at : at + 4] = b"\xcf\x21\x13\x85"
    path.write_bytes(data)
    whole = video.read_clip(path, num_frames=12, size=32, fit="squash")
    for number in (11, 4):
        alone = video.read_clip(path, num_frames=1, size=32, fit="squash", start=number / 10, end=number / 10 + 0.1)
        assert torch.equal(alone[:, 0], whole[:, number])


def test_several_threads_are_only_for_decoders_that_tell_all_the_same(tmp_path: Path) -> None:
    """H.264's gives frames away before it knows of their damage, where it has several."""
    video.write(tmp_path / "large.mp4", counted(2, 720, 1280), fps=5)
    with VideoFile(tmp_path / "large.mp4") as file, VideoFile(tmp_path / "large.mp4", threads=2) as asked:
        assert (file.stream.codec_context.thread_type.name, asked.stream.codec_context.thread_type.name) == (
            "NONE",
            "AUTO",
        )


def test_checksums_of_pictures_are_checked(tmp_path: Path) -> None:
    """H.265 may carry one for each; without them, most damage of its pictures can't be told from pictures."""
    path = tmp_path / "a.mp4"
    noise = torch.randint(0, 256, (8, 8, 8, 3), generator=rng("hash")).to(torch.uint8)
    large = noise.repeat_interleave(8, 1).repeat_interleave(8, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:hash=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for image in large.numpy():
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    good, _ = video.read_all(path)
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size]
    for at, size in packets:
        changed = bytearray(data)
        changed[at + size // 2] ^= 16
        path.write_bytes(changed)
        try:
            assert torch.equal(video.read_all(path)[0], good)
        except VideoError as error:
            assert "can't be decoded" in str(error)


def test_damage_in_the_middle_is_an_error_only_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    noise = torch.randint(0, 256, (40, 32, 32, 3), generator=rng("damage")).to(torch.uint8)
    video.write(path, noise, fps=10)
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    at = places[30] or 0
    data[at + 4 : at + 200] = struct.pack("196x")
    path.write_bytes(bytes(data))
    assert video.read_clip(path, num_frames=10, size=32, end=1.0).shape == (3, 10, 32, 32)
    with pytest.raises(VideoError, match=r"frame \d+ of 40 can't be decoded"):
        video.read_clip(path, num_frames=40, size=32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "not a video"),
        (b"hello\n" * 50, "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n", "not a video"),
        (b"ffconcat version 1.0\nfile 'other.mp4'\n", "not a video"),
    ],
    ids=["missing", "empty", "text", "playlist", "concat"],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    for read in (video.probe, video.read_all, video.read_provenance):
        with pytest.raises(VideoError, match=rf"clip\.mp4: .*{message}"):
            read(path)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    import wave

    path, buffer = tmp_path / "sound.mp4", io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16_000))
    buffer.seek(0)
    with av.open(buffer, "r") as source, av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000)
        for frame in source.decode(audio=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match=r"sound\.mp4: no video stream"):
        video.probe(path)


def test_a_codec_that_nobody_knows_is_said(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    video.write(path, counted(5), fps=5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    with pytest.raises(VideoError, match=r"clip\.mp4: no decoder for its video"):
        video.probe(path)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    video.write(path, counted(5), fps=5)
    assert video.probe(path).num_frames == 5
    video.write(path, counted(9), fps=5)
    assert video.probe(path).num_frames == 9


def odd_media() -> list[dict[str, str]]:
    if not (ODD / "expected.csv").is_file():
        return []
    with (ODD / "expected.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not odd_media(), reason="no ../shared/data/odd_media here")
@pytest.mark.parametrize("row", odd_media(), ids=lambda row: row["file_name"])
def test_odd_media_are_read_right_or_refused(row: dict[str, str]) -> None:
    path = ODD / row["file_name"]
    # frames marked damaged from the first to the last: the table counts them, we refuse them
    if row["error"] or row["decoded_pyav18"] in ("", "0") or "flagged corrupt" in row["why"]:
        with pytest.raises(VideoError, match=row["file_name"]):
            video.read_clip(path, num_frames=64, size=16)
        return
    info = video.probe(path)
    assert info.num_frames == int(row["decoded_pyav18"])
    turned = abs(int(row["rotation"])) == 90
    assert (info.width, info.height) == tuple(int(row[k]) for k in (("h", "w") if turned else ("w", "h")))
    few = video.read_clip(path, num_frames=3, size=16, end=min(info.duration, 0.2))
    assert few.shape == (3, 3, 16, 16) and few.abs().max() <= 1
