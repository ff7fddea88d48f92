"""VideoReader: any frame of any file is the one that decoding from the beginning gives, and nothing larger than allowed is read."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation
from av.video.stream import VideoStream

from kinetext import video
from kinetext.types import DataError
from kinetext.video import VideoError, VideoReader, frames, isolated

FRAMES = 40


def pictures(count: int = FRAMES, height: int = 48, width: int = 64) -> np.ndarray:
    """A square that moves over a fixed texture, uint8 (T, H, W, 3): no two frames are alike."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.integers(60, 160, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    made = np.repeat(ground[None], count, 0)
    for number, image in enumerate(made):
        left, top = number % (width - 12), (number * 3) % (height - 12)
        image[top : top + 12, left : left + 12] = (255, 6 * number % 256, 255 - 6 * number % 256)
    return made


def mux(path: Path, codec: str, options: dict[str, str], *, pts: list[int] | None = None, kind: str = "mp4") -> Path:
    """Writes ``pictures`` with PyAV alone, 25 frames a second."""
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number, image in enumerate(pictures(len(pts) if pts else FRAMES)):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def b_frames(folder: Path) -> Path:
    return mux(folder / "b.mp4", "libx264", {"g": "20", "bf": "3", "x264-params": "b-adapt=0:scenecut=0"})


def open_gop(folder: Path) -> Path:
    params = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0"}
    return mux(folder / "open.mp4", "libx264", params)


def open_gop_h265(folder: Path) -> Path:
    params = "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0:scenecut=0:log-level=none"
    return mux(folder / "open5.mp4", "libx265", {"x265-params": params})


def sublayers_h265(folder: Path) -> Path:
    """Pictures of sub-layer 0 that others of sub-layer 1 refer to, though they are marked as not referred to within theirs."""
    params = "temporal-layers=3:keyint=20:min-keyint=20:bframes=7:b-adapt=0:scenecut=0:log-level=none"
    return mux(folder / "layers.mp4", "libx265", {"x265-params": params})


def uneven(folder: Path) -> Path:
    pts = [number + 7 * (number // 5) for number in range(FRAMES)]
    return mux(folder / "uneven.mkv", "libx264", {"g": "8", "bf": "2"}, pts=pts, kind="matroska")


def vp9(folder: Path) -> Path:
    return mux(folder / "clip.webm", "libvpx-vp9", {"g": "16", "lag-in-frames": "12", "auto-alt-ref": "1"}, kind="webm")


def edited(folder: Path) -> Path:
    """An mp4 whose edit list begins in the middle of a group of pictures: written with times before 0."""
    return mux(folder / "edit.mp4", "libx264", {"g": "20", "bf": "2"}, pts=list(range(-7, FRAMES - 7)))


FILES = [b_frames, open_gop, open_gop_h265, sublayers_h265, uneven, vp9, edited]


def in_order(path: Path) -> np.ndarray:
    """All frames by the plainest loop of PyAV, as planes of YUV side by side."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray() for frame in container.decode(video=0)])


@pytest.mark.parametrize("make", FILES)
@pytest.mark.parametrize("warm", [False, True], ids=["packets kept", "times known"])
def test_a_frame_that_is_sought_is_that_of_decoding_in_order(
    tmp_path: Path, make: Callable[[Path], Path], warm: bool
) -> None:
    path = make(tmp_path)
    plain = in_order(path)
    for wanted in (
        [0],
        [1],
        [11],
        [19, 20, 21],
        [9, 29],
        [5, 6, 17, 31],
        [len(plain) - 1],
        list(range(0, len(plain), 3)),
    ):
        if not warm:
            video.forget()
        with frames.open_file(path) as file:
            got = dict(file.frames(wanted))
        assert list(got) == wanted
        for number, frame in got.items():
            assert np.array_equal(frame.to_ndarray(), plain[number]), (wanted, number)


@pytest.mark.parametrize("make", [b_frames, open_gop_h265])
def test_pictures_that_none_refers_to_are_left_out(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Seen from outside: a damaged picture that neither is wanted nor is referred to does no harm."""
    path = make(tmp_path)
    with av.open(str(path)) as container:
        packets = [(packet.pos or 0, packet.size, packet.pts) for packet in container.demux(video=0) if packet.size]
        base = container.streams.video[0].time_base
    assert base is not None
    line = frames.timeline(path)
    data = bytearray(path.read_bytes())
    at, size, pts = min(packets[1:18], key=lambda packet: packet[1])  # the smallest are B-frames that none refers to
    data[at + 6 : at + size] = bytes(size - 6)  # its head stays, and says what it is
    path.write_bytes(bytes(data))
    number = int(np.searchsorted(line.pts, pts))
    with VideoReader(path, threads=1) as reader:
        others = [other for other in range(18) if other != number]
        assert len(reader.frames_at([others[-1]])) == 1
    with pytest.raises(VideoError, match=rf"frame \d+ of {FRAMES} can't be decoded"), VideoReader(path) as reader:
        reader.frames_at([number])


def test_sublayers_are_not_skipped(tmp_path: Path) -> None:
    assert not frames.VideoFile(sublayers_h265(tmp_path))._skips
    assert frames.VideoFile(open_gop_h265(tmp_path))._skips


def test_frames_come_in_the_order_asked_for_with_repeats(tmp_path: Path) -> None:
    with VideoReader(b_frames(tmp_path)) as reader:
        every = reader.clip().pixels
        got = reader.frames_at([7, 3, 3, 39])
        assert got.numbers == (7, 3, 3, 39)
        assert torch.equal(got.pixels, every[[7, 3, 3, 39]])
        assert got.times.tolist() == pytest.approx([0.28, 0.12, 0.12, 1.56])
        again = reader.frames_at(seconds=[0.28, 0.158, 0.1195, 1.6])  # the frame on screen then, to a millisecond
        assert again.numbers == (7, 3, 3, 39)
        assert [int(at) for at in (reader.clip(0.4, 0.6).times * 25).round()] == [10, 11, 12, 13, 14]
        assert reader.clip(0.4, 0.6, fps=12.5).numbers == (11, 13)
        assert reader.clip(num_frames=4).numbers == (5, 15, 25, 35)
        assert torch.equal(torch.from_numpy(np.stack(list(reader))), every)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda reader: reader.frames_at([40]), r"frame 40, expected 0 to 39"),
        (lambda reader: reader.frames_at([-1]), r"frame -1, expected 0 to 39"),
        (lambda reader: reader.frames_at([]), r"numbers: empty"),
        (lambda reader: reader.frames_at(), r"numbers or seconds"),
        (lambda reader: reader.frames_at(seconds=[1.7]), r"1\.7 s, expected 0 up to its duration of 1\.6 s"),
        (lambda reader: reader.clip(num_frames=2, fps=3), r"both are given"),
        (lambda reader: reader.clip(fps=0), r"fps: 0"),
        (lambda reader: reader.clip(num_frames=0), r"num_frames: 0"),
        (lambda reader: reader.clip(2.0), r"start 2 s, expected 0 or more, less than its duration of 1\.6 s"),
    ],
)
def test_what_a_file_does_not_have_is_named(tmp_path: Path, ask: Callable[[VideoReader], object], message: str) -> None:
    with VideoReader(b_frames(tmp_path)) as reader, pytest.raises(DataError, match=message):
        ask(reader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "decord"}, "decoder: 'decord', expected one of auto, pyav, torchcodec"),
        ({"threads": -1}, "threads: -1"),
        ({"size": 0}, "size: 0"),
        ({"fit": "pad"}, "only with a size"),
        ({"channels": 4}, "channels: 4"),
    ],
)
def test_options_out_of_range_are_named(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        VideoReader(b_frames(tmp_path), **options)  # type: ignore[arg-type]


def test_probe_says_all_of_it(tmp_path: Path) -> None:
    info = video.probe(b_frames(tmp_path))
    assert (info.rate, info.fps, info.counted, info.num_frames, info.header_frames) == (25, 25.0, "packets", 40, 40)
    assert (info.codec, info.pix_fmt, info.pixel_aspect, info.variable) == ("h264", "yuv420p", 1, False)
    assert (info.stored_width, info.stored_height) == (64, 48)
    assert info.color_range in ("unspecified", "limited")
    assert [(track.kind, track.codec) for track in info.tracks] == [("video", "h264")]
    with VideoReader(info.path) as reader:
        assert reader.probe() == info
    assert video.probe(uneven(tmp_path)).variable
    raw = mux(tmp_path / "clip.h264", "libx264", {"g": "8"}, kind="h264")
    assert (video.probe(raw).counted, video.probe(raw).num_frames) == ("decoded", 40)


def test_what_the_header_says_is_an_estimate(tmp_path: Path) -> None:
    whole = b_frames(tmp_path)
    quick = video.probe(whole, count=False)
    assert (quick.counted, quick.num_frames, quick.rate, quick.width, quick.height) == ("estimated", 40, 25, 64, 48)
    assert quick.duration == pytest.approx(1.6, abs=0.01)
    lying = mux(tmp_path / "uneven.webm", "libvpx-vp9", {}, pts=[0, 1, 2, 100], kind="webm")
    assert (video.probe(lying).num_frames, video.probe(lying).counted) == (4, "packets")
    assert video.probe(lying, count=False).num_frames == 101  # 4.04 s at 25 frames a second


def test_ntsc_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "ntsc.mp4"
    video.write(path, torch.from_numpy(pictures(30)), fps=30000 / 1001)
    assert video.probe(path).rate == Fraction(30000, 1001)


def test_cutting_before_resizing_is_cutting_after_it(tmp_path: Path) -> None:
    """FFmpeg's own careful resizing of the cut picture, by PyAV's reformatter on the cut pixels."""
    path = b_frames(tmp_path)
    with VideoReader(path) as whole, VideoReader(path, size=24) as small:
        pixels = whole.frames_at([8]).pixels[0, :, 8:56].numpy()  # the middle 48 x 48
        careful = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
        resized = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
            width=24, height=24, interpolation=careful, format="rgb24"
        )
        ours = small.frames_at([8]).pixels[0].numpy().astype(int)
        assert np.abs(ours - resized.to_ndarray()).mean() < 6  # chroma is resized from half the resolution


def test_readers_release_files(tmp_path: Path) -> None:
    path = b_frames(tmp_path)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:-2000])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with VideoReader(path) as reader:
            reader.frames_at([20])
        next(iter(video.stream(path)))
        with pytest.raises(VideoError):
            video.read_clip(broken, num_frames=40, size=8)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_isolated_gives_the_same(tmp_path: Path) -> None:
    path = b_frames(tmp_path)
    here, there = (video.read_clip(path, num_frames=3, size=16, isolated=apart) for apart in (False, True))
    assert torch.equal(here, there)
    assert isolated.call("probe", path, {}) == video.probe(path)
    with pytest.raises(DataError, match="isolated: expected without"):
        video.read_clip(path, num_frames=3, size=16, isolated=True, decoder="torchcodec")
    with pytest.raises(VideoError, match="No such file"):
        video.read_clip(tmp_path / "none.mp4", num_frames=3, size=16, isolated=True)


@pytest.mark.parametrize("make", FILES)
def test_torchcodec_shows_the_same_frames(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:  # without FFmpeg it can't be imported
        pytest.skip(f"no torchcodec here: {str(error).splitlines()[0]}")
    path = make(tmp_path)
    wanted = [0, 3, 11, 20, 21, 32]
    with VideoReader(path, decoder="pyav") as one, VideoReader(path, decoder="torchcodec") as other:
        ours = one.frames_at(wanted).pixels.int()
        theirs = other.frames_at(wanted).pixels.int()
        every = one.clip().pixels.int()
    for place, number in enumerate(wanted):
        away = (every - theirs[place]).abs().float().mean(dim=(1, 2, 3))
        assert int(away.argmin()) == number  # that very frame, and no neighbour
    assert (ours - theirs).abs().float().mean() < 4  # their FFmpeg rounds colours otherwise, and interpolates them less


def test_torchcodec_refuses_what_it_would_show_otherwise(tmp_path: Path) -> None:
    pytest.importorskip("torchcodec", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
    path = mux(tmp_path / "clip.h264", "libx264", {"g": "8"}, kind="h264")
    with pytest.raises(VideoError, match="use decoder='pyav'"):
        video.read_clip(path, num_frames=2, size=8, decoder="torchcodec")


def test_two_readings_of_one_reader_do_not_mix(tmp_path: Path) -> None:
    """An iteration whose decoder another reading took ends in an error, not in that one's frames."""
    for path in (vp9(tmp_path), b_frames(tmp_path)):
        with VideoReader(path) as reader:
            every = iter(reader)
            next(every)
            reader.probe()
            with pytest.raises(DataError, match="two places at once"):
                list(every)
            assert len(list(reader)) == FRAMES


# Ogg stores when frames of VP8 end, from which FFmpeg makes when they begin: the frame before the gap is the one that waits
@pytest.mark.parametrize(
    ("codec", "kind", "waits"), [("wmv2", "asf", 9), ("libvpx", "ogg", 10), ("libx264", "matroska", 9)]
)
def test_a_gap_in_time_stays_one(tmp_path: Path, codec: str, kind: str, waits: int) -> None:
    pts = [*range(10), *range(30, 40)]
    path = mux(tmp_path / f"gap.{kind}", codec, {}, pts=pts, kind=kind)
    info = video.probe(path)
    assert (info.num_frames, info.variable) == (20, True)
    assert info.duration == pytest.approx(1.6, abs=0.05)
    with VideoReader(path) as reader:
        assert reader.frames_at(seconds=[0.8]).numbers == (waits,)


@pytest.mark.parametrize(
    "region", [(0.25, 0.25, 0.75, 0.75), (3 / 64, 5 / 48, 35 / 64, 37 / 48), (0, 0, 1 / 64, 1 / 48)]
)
def test_a_region_is_cut_at_that_very_pixel(tmp_path: Path, region: video.Region) -> None:
    """Grey has no chroma to interpolate, so that the cut is that of the whole picture."""
    images = np.random.default_rng(0).integers(16, 235, (1, 48, 64, 1), np.uint8).repeat(3, 3)
    path = tmp_path / "grey.mp4"
    video.write(path, torch.from_numpy(images), fps=25, crf=0)
    with VideoReader(path) as reader:
        whole = reader.frames_at([0]).pixels[0].int()
    left, top, right, bottom = (round(edge * side) for edge, side in zip(region, (64, 48, 64, 48), strict=True))
    expected = whole[top:bottom, left:right]
    if expected.shape[0] != expected.shape[1]:
        expected = expected[:, (expected.shape[1] - expected.shape[0]) // 2 :][:, : expected.shape[0]]
    with VideoReader(path, size=expected.shape[0], region=region) as reader:
        assert (reader.frames_at([0]).pixels[0].int() - expected).abs().max() <= 1


def test_pictures_before_the_first_key_frame_are_refused(tmp_path: Path) -> None:
    """MPEG-4 decoders paint them grey, and say nothing."""
    whole, cut = mux(tmp_path / "whole.mkv", "mpeg4", {"g": "12"}, kind="matroska"), tmp_path / "cut.mkv"
    with av.open(str(whole)) as source, av.open(str(cut), "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number >= 7:
                packet.stream = stream
                target.mux(packet)
    with VideoReader(cut) as reader:
        with pytest.raises(VideoError, match="frame 0 of 33 can't be decoded \\(no key frame before it\\)"):
            reader.frames_at([0])
        assert len(reader.frames_at([5, 32])) == 2


def test_errors_of_others_stay_theirs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), VideoReader(b_frames(tmp_path)):
        (tmp_path / "none").read_bytes()


def test_a_thousand_frames_a_second(tmp_path: Path) -> None:
    path = tmp_path / "fast.mp4"
    video.write(path, torch.from_numpy(pictures(20)), fps=1000)
    with VideoReader(path) as reader:
        assert reader.clip(0.005, 0.010).numbers == (5, 6, 7, 8, 9)


def test_isolated_reads_the_file_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("one", 4), ("two", 9)):
        (tmp_path / name).mkdir()
        video.write(tmp_path / name / "c.mp4", torch.from_numpy(pictures(count)), fps=8)
        monkeypatch.chdir(tmp_path / name)
        assert isolated.call("probe", "c.mp4", {}) == video.probe("c.mp4")


def test_frames_are_freed_as_they_are_read(tmp_path: Path) -> None:
    """PyAV's side data are in a cycle with their frame: asked for of every frame, they keep all until a collection."""
    path = b_frames(tmp_path)
    gc.collect()
    gc.disable()
    try:
        with VideoReader(path, size=16) as reader:
            reader.clip()
        left = sum(type(one) is VideoFrame for one in gc.get_objects())
    finally:
        gc.enable()
    assert left <= 3
