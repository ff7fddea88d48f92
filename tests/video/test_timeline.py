"""Which frames odd but whole files have, and which files are not whole."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kinetext import video
from kinetext.video import VideoError, frames
from kinetext.video.frames import VideoFile, timeline
from kinetext.video.timeline import Header, Remembered, Timeline

NOISE = torch.randint(0, 256, (40, 48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def encode(
    path: Path,
    pixels: Tensor = NOISE,
    codec: str = "libx264",
    kind: str | None = None,
    *,
    first: int = 0,
    sound: tuple[str, float] | None = None,
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
) -> Path:
    """25 frames a second from number ``first`` on, a key frame at least every 10, with so many seconds of sound by a codec."""
    with av.open(str(path), "w", format=kind, options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=25, options={"g": "10"} | (options or {}))
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if sound:
            voice = container.add_stream(sound[0], rate=48_000, layout="mono")
            silence = AudioFrame.from_ndarray(np.zeros((1, int(sound[1] * 48_000)), np.float32), "fltp", "mono")
            silence.sample_rate, silence.pts, silence.time_base = 48_000, first * 1920, Fraction(1, 48_000)
            container.mux([*voice.encode(silence), *voice.encode()])
        for number, image in enumerate(pixels.numpy(), first):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def plain(path: Path) -> list[tuple[int | None, NDArray[np.uint8]]]:
    """What FFmpeg decodes, from the beginning to the end."""
    with av.open(str(path)) as container:
        return [(frame.pts, frame.to_ndarray()) for frame in container.decode(video=0)]


def check(path: Path) -> Timeline:
    """All frames together, and each alone, are those that FFmpeg shows, and there are no others."""
    theirs = plain(path)
    video.forget()
    with VideoFile(path) as file:
        ours = [frame.to_ndarray() for _, frame in file.frames(range(len(theirs)))]
        assert len(file.line) == len(theirs) == video.probe(path).num_frames
        assert all(np.array_equal(mine, other) for mine, (_, other) in zip(ours, theirs, strict=True))
        for number in (*range(0, len(theirs), 3), len(theirs) - 1):
            _, alone = next(file.frames([number]))
            assert np.array_equal(alone.to_ndarray(), theirs[number][1]), number
        return file.line


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


def with_edits(path: Path, edits: Sequence[tuple[int, int]]) -> Path:
    """Another edit list in an mp4 whose samples come before its tables: milliseconds each, and where it begins in units of 1/12800 s."""
    data = bytearray(path.read_bytes())
    at = data.index(b"edts") - 4
    size = int.from_bytes(data[at : at + 4])
    entries = b"".join(length.to_bytes(4) + begin.to_bytes(4) + b"\0\1\0\0" for length, begin in edits)
    elst = (16 + len(entries)).to_bytes(4) + b"elst" + bytes(4) + len(edits).to_bytes(4) + entries
    data[at : at + size] = (8 + len(elst)).to_bytes(4) + b"edts" + elst
    for name in (b"moov", b"trak"):
        box = data.index(name) - 4
        data[box : box + 4] = (int.from_bytes(data[box : box + 4]) + 8 + len(elst) - size).to_bytes(4)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("edits", "count"),
    [
        ([(800, 1024)], 20),
        ([(400, 1024)], 10),
        ([(520, 1024 + 27 * 512)], 13),
        ([(400, 1024), (400, 1024 + 25 * 512)], 20),
    ],
    ids=["tail", "more", "head", "two"],
)
def test_what_an_edit_list_cuts_off_is_not_lost(tmp_path: Path, edits: Sequence[tuple[int, int]], count: int) -> None:
    """FFmpeg leaves such packets out, though the header counts them."""
    line = check(with_edits(encode(tmp_path / "clip.mp4", options={"bf": "2"}), edits))
    assert len(line) == count
    assert line.times == pytest.approx(np.arange(count) / 25)


def test_what_begins_before_time_is_cut_off(tmp_path: Path) -> None:
    line = check(encode(tmp_path / "head.mp4", first=-27, options={"bf": "2"}))
    assert len(line) == 13 and line.duration == pytest.approx(0.52)
    estimate = video.probe(tmp_path / "head.mp4", count=False)
    assert (estimate.num_frames, estimate.header_frames, estimate.counted) == (13, 40, "estimated")


def test_a_cut_is_seen_behind_an_edit_list(tmp_path: Path) -> None:
    path = encode(tmp_path / "head.mp4", first=-27, muxing={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(VideoError, match=r"truncated: 3\d of 40 frames are there"):
        video.probe(path)


@pytest.mark.parametrize("kept", [2**26, 0])
def test_pictures_of_vp8_that_are_not_shown_are_no_frames(
    tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two passes of libvpx make some to refer to; here, some of those that are shown become such."""
    monkeypatch.setattr(frames, "_KEPT", kept)
    path = encode(tmp_path / "clip.webm", codec="libvpx")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for number in (5, 17, 30):
        data[data.index(packets[number])] &= 0xEF
    path.write_bytes(data)
    line = check(path)
    assert len(line) == 37 and line.times[5] == pytest.approx(0.24)


@pytest.mark.parametrize("seconds", [1.2, 1.6, 4.0])
@pytest.mark.parametrize(("name", "codec", "sound"), [("a.mkv", "libx264", "aac"), ("a.webm", "libvpx", "libopus"), ("a.flv", "libx264", "aac"), ("a.mp4", "libx264", "aac")])  # fmt: skip
def test_files_with_sound_are_whole_or_truncated(
    tmp_path: Path, name: str, codec: str, sound: str, seconds: float
) -> None:
    """Sound that is shorter or longer than the picture is no flaw."""
    fragments = {"movflags": "frag_keyframe+empty_moov"} if name == "a.mp4" else {}
    path = encode(tmp_path / name, codec=codec, sound=(sound, seconds), muxing=fragments)
    assert len(timeline(path)) == 40
    data = path.read_bytes()
    for share in (0.5, 0.8, 0.95):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(VideoError, match=r"truncated|can't be decoded"):
            video.read_all(path)


def test_a_fragment_that_lacks_its_last_byte(tmp_path: Path) -> None:
    """All pictures are there of which the file tells; those that followed are not."""
    path = encode(tmp_path / "a.mp4", sound=("aac", 1.6), muxing={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    second = data.index(b"moof", data.index(b"moof") + 4) - 4
    path.write_bytes(data[: second - 1])
    with pytest.raises(VideoError, match="truncated: it ends within one of its fragments"):
        video.probe(path)


@pytest.mark.parametrize("kept", [16, 5000])
def test_a_file_whose_head_tells_of_its_first_fragment_only(tmp_path: Path, kept: int) -> None:
    """A cut behind the first fragment leaves more than that head promises, or as much."""
    path = encode(tmp_path / "a.mp4", muxing={"movflags": "frag_keyframe"})
    assert 0 < video.probe(path).header_frames < len(check(path)) == 40
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moof", data.index(b"moof") + 4) + kept])
    with pytest.raises(VideoError, match=r"truncated: (it ends within one of its|\d+ of its frames are there)"):
        video.probe(path)


@pytest.mark.parametrize("options", [{"bf": "0"}, {"bf": "2"}, {"x264-params": "bframes=7:b-pyramid=normal:ref=5"}])
def test_asf_with_frames_that_change_places(tmp_path: Path, options: dict[str, str]) -> None:
    path = encode(tmp_path / "clip.wmv", kind="asf", options=options)
    line = check(path)
    assert line.times == pytest.approx(np.arange(40) / 25)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(VideoError, match=r"truncated|can't be decoded"):
        video.read_all(path)


def test_transport_streams_that_were_joined(tmp_path: Path) -> None:
    """Time begins anew in the middle, and so do the counters of its packets."""
    path = encode(tmp_path / "one.ts", NOISE[:20], kind="mpegts", options={"bf": "2"})
    both = tmp_path / "both.ts"
    both.write_bytes(path.read_bytes() * 2)
    assert len(check(both)) == 40 and video.probe(both).fps == 25


def parts(folder: Path, codec: str = "libx264", sound: tuple[str, float] | None = None) -> list[bytes]:
    """Four transport streams whose times go on from one to the next, each with counters of its own."""
    options = {"bf": "2", "x265-params": "log-level=none"}
    made = [
        encode(folder / f"{first}.ts", NOISE[first : first + 10], codec, first=first + 10, sound=sound, options=options)
        for first in range(0, 40, 10)
    ]
    return [path.read_bytes() for path in made]


@pytest.mark.parametrize("sound", [None, ("aac", 0.4)])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_transport_streams_that_were_joined_and_whose_times_go_on(
    tmp_path: Path, codec: str, sound: tuple[str, float] | None
) -> None:
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts(tmp_path, codec, sound)))
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))  # as if packets were lost there
    line = check(path)
    assert line.times == pytest.approx(np.arange(40) / 25) and len(line.pts) == 40


def test_what_is_lost_near_a_joint_is_damage(tmp_path: Path) -> None:
    """A joint accounts for one mark, and only where all counters begin anew."""
    path, (first, second, *_) = tmp_path / "joined.ts", parts(tmp_path)
    with av.open(io.BytesIO(first)) as container:
        places = sorted(packet.pos for packet in container.demux(video=0) if packet.pos is not None)
    path.write_bytes(first[: places[-1] + 188] + second)  # without the end of the last picture
    with pytest.raises(VideoError, match=r"damaged near frame|can't be decoded"):
        video.read_all(path)
    for number in (-2, -1):
        hole = places[number] + 188
        path.write_bytes(first[:hole] + first[hole + 188 :] + second)
        with pytest.raises(VideoError, match=f"damaged near frame {9 + number}"):
            video.probe(path)
    began = next(at for at in range(0, len(second), 188) if second[at + 1 : at + 3] == b"\x41\0")
    path.write_bytes(first + second[:began] + second[began + 188 :])  # without the head of its first picture
    with pytest.raises(VideoError, match="damaged near frame 8"):
        video.probe(path)


def test_a_transport_stream_with_a_hole(tmp_path: Path) -> None:
    path = encode(tmp_path / "hole.ts", kind="mpegts", options={"bf": "0"})
    data = path.read_bytes()
    middle = len(data) // 188 // 2 * 188
    path.write_bytes(data[:middle] + data[middle + 5 * 188 :])
    with pytest.raises(VideoError, match=r"damaged near frame \d+: packets are lost there, or files were joined"):
        video.probe(path)


@pytest.mark.parametrize("is_open", [False, True], ids=["in mid-group", "at an open group"])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_transport_stream_that_begins_late(tmp_path: Path, codec: str, is_open: bool) -> None:
    """It has the frames from the first on that refers to none before its key frame: FFmpeg shows no others."""
    closed = {"bf": "0", "x264-params": "scenecut=0", "x265-params": "log-level=none:bframes=0"}
    length = 12 if codec == "libx264" else 11  # so that pictures of both lead the second key frame
    opened = f"open-gop=1:keyint={length}:min-keyint={length}:scenecut=0:b-adapt=0"
    options = {"bf": "2", "x264-params": opened, "x265-params": f"log-level=none:bframes=2:{opened}"}
    path, late = tmp_path / "whole.ts", tmp_path / "late.ts"
    encode(path, moving(), codec, "mpegts", options=options if is_open else closed)
    with av.open(str(path)) as source, av.open(str(late), "w", format="mpegts") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = [packet for packet in source.demux(video=0) if packet.size]
        second = next(number for number, packet in enumerate(packets) if number and packet.is_keyframe)
        leading = sum((packet.pts or 0) < (packets[second].pts or 0) for packet in packets[second:])
        for packet in packets[second if is_open else 7 :]:
            packet.stream = stream
            target.mux(packet)
    assert bool(leading) == is_open
    count = len(check(late))
    assert count == 40 - second - leading
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(plain(path)[-count:], plain(late), strict=True))


def test_a_first_frame_that_is_damaged_is_not_passed_over(tmp_path: Path) -> None:
    """It no longer looks like a key frame; only transport streams may begin without one. Found by fuzzing."""
    path = encode(tmp_path / "clip.mkv", moving(), options={"bf": "0", "x264-params": "scenecut=0"})
    with av.open(str(path)) as container:
        first = bytes(next(container.demux(video=0)))
    data = bytearray(path.read_bytes())
    at = data.index(first)
    data[at - 1] &= 0x7F  # of its block: no key frame
    data[at + len(first) // 2 : at + len(first)] = bytes(len(first) - len(first) // 2)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert not next(container.demux(video=0)).is_keyframe
    with pytest.raises(VideoError, match="frame 0 of 40 can't be decoded"):
        video.probe(path)


def moving() -> Tensor:
    """A square that goes down to the right, so that pictures refer to each other."""
    pixels = torch.full((40, 48, 64, 3), 120, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        image[number % 36 : number % 36 + 12, number : number + 12] = torch.tensor([255, 6 * number, 0])
    return pixels


def picture(number: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE[number].numpy()).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_several_pictures_in_one_file_are_counted(tmp_path: Path, kind: str, count: int) -> None:
    path = tmp_path / f"clip.{kind.lower()}"
    path.write_bytes(b"".join(picture(number, kind) for number in range(count)))
    pixels, fps = video.read_all(path)
    assert len(pixels) == count == video.probe(path).num_frames
    assert fps == (25 if count > 1 else 0)
    assert (pixels[-1].float() - NOISE[count - 1]).abs().mean() < (60 if kind in ("JPEG", "WEBP") else 1)


def test_what_is_behind_a_picture_is_none(tmp_path: Path) -> None:
    """Other data, and what cameras keep for better displays or for another eye."""
    (tmp_path / "a.png").write_bytes(picture(0, "PNG") + b"PK\3\4" + bytes(300))
    first, second = (Image.fromarray(NOISE[number].numpy()) for number in range(2))
    first.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[second.resize((16, 12))])
    for name in ("a.png", "b.jpg"):
        assert video.read_all(tmp_path / name)[0].shape == (1, 48, 64, 3)


def live(path: Path) -> Path:
    return encode(path, codec="libvpx", muxing={"live": "1"})


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: encode(folder / "a.h264", kind="h264"),
        lambda folder: encode(folder / "a.m2v", codec="mpeg2video", kind="mpeg2video"),
        lambda folder: live(folder / "live.webm"),
    ],
    ids=["h264", "m2v", "live"],
)
def test_where_nothing_is_promised_frames_are_counted_all_the_same(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    info = video.probe(make(tmp_path), count=False)
    assert (info.num_frames, info.fps, info.duration) == (40, 25, pytest.approx(1.6))
    assert info.counted != "estimated"


def of(count: int) -> Timeline:
    none = np.zeros(0, np.int64)
    return Timeline(
        np.arange(count) / 25, none, none, Fraction(25), count / 25, Header("x", (), 0, Fraction(25), Fraction(1))
    )


def test_what_is_remembered_is_bounded_by_frames() -> None:
    memory = Remembered(1000)
    for number in range(5):
        memory.keep((number,), of(200))
    assert [number for number in range(5) if memory.get((number,))] == [2, 3, 4]
    assert memory.get((2,)) is not None  # asked for again, so that another one goes
    memory.keep((5,), of(200))
    assert [number for number in range(6) if memory.get((number,))] == [2, 4, 5]
    memory.keep((5,), of(100))  # instead of what it was
    memory.keep((6,), of(150))
    assert [number for number in range(7) if memory.get((number,))] == [4, 5, 6]
    memory.keep((7,), of(5000))
    assert [number for number in range(8) if memory.get((number,))] == [7]
    memory.forget()
    assert not len(memory)


def test_stills_are_not_remembered(tmp_path: Path) -> None:
    memory = Remembered(1000)
    memory.keep((0,), of(200))
    for number in range(1, 50):
        memory.keep((number,), of(1))
    assert memory.get((0,)) is not None and len(memory) == 1
