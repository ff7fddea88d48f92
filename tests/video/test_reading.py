"""Reading: the frames asked for, at the right times, the right way up, well resized."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps
from torch import Tensor

from kinetext import video
from kinetext.runtime import rng
from kinetext.types import DataError
from kinetext.video import VideoError
from kinetext.video.frames import open_file, timeline


def counted(num_frames: int, height: int = 32, width: int = 32) -> Tensor:
    """Frame i is all 4 i + 8, uint8 (T, H, W, 3)."""
    grey = (torch.arange(num_frames) * 4 + 8).to(torch.uint8)
    return grey[:, None, None, None].expand(num_frames, height, width, 3).contiguous()


def numbers(clip: Tensor) -> list[int]:
    """The frame numbers that a clip of ``counted`` shows, from its middle pixel."""
    middle = clip.shape[-1] // 2
    grey = (clip[0, :, middle, middle] + 1) * 127.5
    return [round(float(level - 8) / 4) for level in grey]


def mux(
    path: Path,
    *,
    kind: str,
    codec: str,
    images: Sequence[np.ndarray] | None = None,
    num_frames: int = 40,
    pts: Sequence[int] | None = None,
    gop: int = 10,
    matrix: Sequence[int] | None = None,
    pixel: Fraction | None = None,
) -> None:
    """Writes a video with PyAV alone: 25 fps, B-frames, a key frame every ``gop``."""
    images = list(counted(num_frames).numpy()) if images is None else images
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 8_000_000
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = 2
        if codec == "libx265":
            stream.codec_context.options = {"x265-params": "log-level=none"}
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if pixel is not None:
            stream.codec_context.sample_aspect_ratio = pixel
        for number, image in enumerate(images):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def clip40(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    video.write(path, counted(40), fps=10)
    return path


@pytest.mark.parametrize("asked", [1, 3, 8, 40, 55])
def test_uniform_takes_the_middle_of_equal_segments(clip40: Path, asked: int) -> None:
    clip = video.read_clip(clip40, num_frames=asked, size=32)
    assert clip.shape == (3, asked, 32, 32)
    assert clip.dtype == torch.float32
    assert numbers(clip) == [math.floor((i + 0.5) * 40 / asked) for i in range(asked)]


def test_a_range_begins_with_the_frame_on_screen_and_ends_before_its_end(clip40: Path) -> None:
    assert numbers(video.read_clip(clip40, num_frames=3, size=8, start=1.0, end=1.3)) == [10, 11, 12]
    assert numbers(video.read_clip(clip40, num_frames=2, size=8, start=1.04, end=1.11)) == [10, 11]
    assert numbers(video.read_clip(clip40, num_frames=1, size=8, start=1.04, end=1.06)) == [10]
    assert numbers(video.read_clip(clip40, num_frames=2, size=8, start=3.8)) == [38, 39]
    assert numbers(video.read_clip(clip40, num_frames=2, size=8, end=0.2)) == [0, 1]
    thirds = video.read_clip(clip40, num_frames=1, size=8, start=0.9999, end=1.1001)  # rounded to milliseconds
    assert numbers(thirds) == [10]


@pytest.mark.parametrize(
    ("start", "end", "field"), [(4.0, None, "start"), (-1.0, None, "start"), (2.0, 1.0, "end"), (None, 4.2, "end")]
)
def test_a_range_outside_the_clip_is_an_error(clip40: Path, start: float | None, end: float | None, field: str) -> None:
    with pytest.raises(VideoError, match=rf"clip\.mp4: {field} .* 4 s"):
        video.read_clip(clip40, num_frames=2, size=8, start=start, end=end)


def test_an_end_lies_at_most_a_tenth_of_a_second_beyond(tmp_path: Path) -> None:
    """Of a talk, a slide may be shown for minutes; the duration of a table is never that far off."""
    video.write(tmp_path / "slides.mp4", torch.zeros(4, 16, 16, 3, dtype=torch.uint8), fps=0.02)
    assert video.read_clip(tmp_path / "slides.mp4", num_frames=1, size=8, end=200.1).shape[1] == 1
    with pytest.raises(VideoError, match=r"end 200\.2 s, expected more than 0, up to its duration of 200 s"):
        video.read_clip(tmp_path / "slides.mp4", num_frames=1, size=8, end=200.2)


def test_a_time_just_before_a_frame_is_that_of_the_frame(clip40: Path) -> None:
    """Whoever rounded it: in a range and by itself."""
    with video.VideoReader(clip40) as reader:
        for seconds, number in ((0.2995, 3), (0.2985, 2), (0.3005, 3), (3.9995, 39)):
            assert reader.frames_at(seconds=[seconds]).numbers == (number,)
            assert reader.clip(start=seconds).numbers[0] == number


def test_a_window_lies_in_the_middle(clip40: Path) -> None:
    assert numbers(video.read_clip(clip40, num_frames=10, size=8, clip_seconds=1.0)) == list(range(15, 25))
    assert numbers(video.read_clip(clip40, num_frames=10, size=8, fps=10)) == list(range(15, 25))
    assert numbers(video.read_clip(clip40, num_frames=5, size=8, fps=5)) == [16, 18, 20, 22, 24]
    assert numbers(video.read_clip(clip40, num_frames=4, size=8, clip_seconds=99)) == [5, 15, 25, 35]


def test_random_windows_are_whole_cover_everything_and_repeat(clip40: Path) -> None:
    def read(seed: int) -> Tensor:
        options = {"num_frames": 6, "size": 4, "start": 1.0, "end": 2.1}
        return video.read_clip(clip40, sampling="random", clip_seconds=0.6, rng=rng(seed), **options)  # type: ignore[arg-type]

    assert torch.equal(read(0), read(0))
    seen = set()
    for seed in range(40):
        at = numbers(read(seed))
        assert at == list(range(at[0], at[0] + 6))
        seen.add(at[0])
    assert seen == set(range(10, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames: 0"),
        ({"size": 0}, "size: 0"),
        ({"channels": 2}, "channels: 2, expected one of 1, 3"),
        ({"fit": "stretch"}, "fit: 'stretch'"),
        ({"sampling": "dense"}, "sampling: 'dense'"),
        ({"sampling": "random"}, "needs clip_seconds or fps, and rng"),
        ({"clip_seconds": 0.0}, r"clip_seconds: 0\.0"),
        ({"clip_seconds": 1.0, "fps": 5.0}, "both are given"),
    ],
)
def test_arguments_out_of_range_are_named(clip40: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        video.read_clip(clip40, **{"num_frames": 2, "size": 8} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "libx265"),
        ("mp4", "libsvtav1"),
        ("matroska", "libx264"),
        ("webm", "libvpx-vp9"),
        ("mpegts", "libx264"),
        ("avi", "libx264"),
        ("avi", "mpeg4"),
        ("h264", "libx264"),
        ("mpeg", "mpeg1video"),
    ],
)
def test_every_container_gives_the_frames_asked_for(tmp_path: Path, kind: str, codec: str) -> None:
    path = tmp_path / f"clip.{kind}"
    images = list(counted(40, 64, 64).numpy())
    mux(path, kind=kind, codec=codec, images=images)
    info = video.probe(path)
    assert (info.num_frames, info.fps, info.width, info.height) == (40, 25.0, 64, 64)
    assert info.duration == pytest.approx(1.6, abs=0.002)
    everything, fps = video.read_all(path)
    assert fps == 25.0
    assert numbers(video.to_float(everything).permute(3, 0, 1, 2)) == list(range(40))
    for wanted in ([0], [39], [9, 10, 11], [5, 33], [21], [19, 20, 38]):
        with open_file(path) as file:
            got = {n: f.to_ndarray(format="rgb24") for n, f in file.frames(wanted)}
        assert list(got) == wanted
        for number in wanted:  # decoding from a key frame in the middle is decoding from the start
            assert np.abs(got[number].astype(int) - everything[number].numpy()).max() <= 3


def test_variable_rate_keeps_its_times(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    mux(path, kind="mp4", codec="libx264", num_frames=6, pts=[0, 1, 2, 25, 26, 50])
    assert timeline(path).times.tolist() == pytest.approx([0, 0.04, 0.08, 1.0, 1.04, 2.0])
    assert numbers(video.read_clip(path, num_frames=2, size=8, start=0.9, end=1.02)) == [2, 3]
    assert video.probe(path).fps == pytest.approx(6 / video.probe(path).duration, rel=0.01)
    assert not video.is_steady(path)
    mux(path, kind="mp4", codec="libx264", num_frames=6)
    assert video.is_steady(path)


# The stored picture has red at its top left, green at its top right; the corners after turning, clockwise from
# the top left, follow from the definition of the display matrix (x', y') = (a x + c y, b x + d y).
ONE = 1 << 16
TURNS = {
    "none": ((ONE, 0, 0, ONE), 0, False, "RGWB"),
    "90 clockwise": ((0, ONE, -ONE, 0), 90, False, "BRGW"),
    "180": ((-ONE, 0, 0, -ONE), 180, False, "WBRG"),
    "270 clockwise": ((0, -ONE, ONE, 0), 270, False, "GWBR"),
    "mirrored": ((-ONE, 0, 0, ONE), 0, True, "GRBW"),
    "upside down": ((ONE, 0, 0, -ONE), 180, True, "BWGR"),
    "transposed": ((0, ONE, ONE, 0), 270, True, "RBWG"),
    "anti-transposed": ((0, -ONE, -ONE, 0), 90, True, "WGRB"),
}


def quarters() -> np.ndarray:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32], image[:16, 32:], image[16:, :32], image[16:, 32:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 255
    return image


def corners(clip: Tensor) -> str:
    """The letters of the four corner colours of the first frame (C, T, H, W), clockwise from the top left."""
    names = {(1, 0, 0): "R", (0, 1, 0): "G", (0, 0, 1): "B", (1, 1, 1): "W"}
    first = clip[:, 0]
    at = [(4, 4), (4, -5), (-5, -5), (-5, 4)]
    shown = [first[:, y, x].gt(0).int().tolist() for y, x in at]
    return "".join(names[red, green, blue] for red, green, blue in shown)


@pytest.mark.parametrize("name", TURNS)
def test_display_matrices_are_honoured(tmp_path: Path, name: str) -> None:
    (a, b, c, d), rotation, mirrored, expected = TURNS[name]
    path = tmp_path / "clip.mp4"
    mux(path, kind="mp4", codec="libx264", images=[quarters()] * 3, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    info = video.probe(path)
    assert (info.rotation, info.mirrored) == (rotation, mirrored)
    assert (info.width, info.height) == ((32, 64) if rotation in (90, 270) else (64, 32))
    everything, _ = video.read_all(path)
    assert everything.shape[1:3] == (info.height, info.width)
    for fit in ("squash", "crop"):
        assert corners(video.read_clip(path, num_frames=1, size=32, fit=fit)) == expected


def test_a_turn_by_45_degrees_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    half = round(ONE / math.sqrt(2))
    mux(path, kind="mp4", codec="libx264", num_frames=2, matrix=(half, half, 0, -half, half, 0, 0, 0, 1 << 30))
    with pytest.raises(VideoError, match="no turn by a multiple of 90 degrees"):
        video.probe(path)


def test_the_three_fits(tmp_path: Path) -> None:
    image = np.full((40, 120, 3), 255, np.uint8)
    image[:, :40], image[:, 80:] = (255, 0, 0), (0, 0, 255)
    path = tmp_path / "wide.mp4"
    mux(path, kind="mp4", codec="libx264", images=[image] * 2)
    crop, squash, pad = (
        video.read_clip(path, num_frames=1, size=60, fit=fit)[:, 0] for fit in ("crop", "squash", "pad")
    )
    assert crop[:, 4:-4, 4:-4].min() > 0.9  # the white middle, all of it
    assert squash[:, 30, 5].gt(0).tolist() == [True, False, False]
    assert squash[:, 30, -5].gt(0).tolist() == [False, False, True]
    assert squash[:, 30, 24:36].min() > 0.9
    assert pad[:, :18].max() == -1 and pad[:, 42:].max() == -1
    assert pad[:, 30, 5].gt(0).tolist() == [True, False, False]


def test_stretched_pixels_are_shown_square(tmp_path: Path) -> None:
    path = tmp_path / "dvd.mp4"
    mux(path, kind="mp4", codec="libx264", images=[np.full((32, 32, 3), 255, np.uint8)] * 2, pixel=Fraction(2, 1))
    info = video.probe(path)
    assert (info.width, info.height) == (64, 32)
    padded = video.read_clip(path, num_frames=1, size=64, fit="pad")
    assert padded[0, 0, :14].max() == -1 and padded[0, 0, 18:46].min() > 0.9


def test_shrinking_is_bicubic_with_anti_aliasing(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (1, 96, 128, 3), generator=rng("noise")).to(torch.uint8)
    path = tmp_path / "noise.png"
    video.write_png(path, noise)
    ours = video.read_clip(path, num_frames=1, size=48, fit="squash")[:, 0]
    other = torch.nn.functional.interpolate(
        noise.permute(0, 3, 1, 2).float(), size=(48, 48), mode="bicubic", antialias=True, align_corners=False
    )[0]
    assert (ours - (other.clamp(0, 255) / 127.5 - 1)).abs().mean() < 0.03  # nearest neighbour: 0.4


def test_one_channel_is_luma(tmp_path: Path) -> None:
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 200, 200]], dtype=torch.uint8)
    path = tmp_path / "colours.png"
    video.write_png(path, colours.repeat_interleave(8, 0)[None, None].expand(1, 32, 32, 3))
    clip = video.read_clip(path, num_frames=2, size=32, channels=1)
    assert clip.shape == (1, 2, 32, 32)
    assert video.to_bytes(clip[0, 0, 16, [4, 12, 20, 28]]).tolist() == [76, 150, 29, 200]  # BT.601 by hand


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_an_image_is_a_video_of_one_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image%03d.{suffix}"  # FFmpeg would take the name for a numbered sequence
    Image.new("RGB", (20, 30), (200, 100, 50)).save(path)
    info = video.probe(path)
    assert (info.num_frames, info.fps, info.duration, info.width, info.height) == (1, 0.0, 0.0, 20, 30)
    clip = video.read_clip(path, num_frames=4, size=16, clip_seconds=2.0)
    assert (video.to_bytes(clip).float() - torch.tensor([200.0, 100.0, 50.0])[:, None, None, None]).abs().max() <= 4
    with pytest.raises(VideoError, match=r"start 1 s, expected 0 in an image"):
        video.read_clip(path, num_frames=1, size=8, start=1.0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_photograph_is_turned_by_its_exif(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"photo.{suffix}"
    image = Image.fromarray(quarters())
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, quality=95)
    right = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    ours, _ = video.read_all(path)
    assert np.abs(ours[0].numpy().astype(int) - right).max() < 60  # chroma edges differ a little
    assert corners(video.read_clip(path, num_frames=1, size=32, fit="squash")) == corners(
        video.to_float(torch.from_numpy(right.copy())).permute(2, 0, 1)[:, None]
    )


def test_too_many_frames_are_refused(clip40: Path) -> None:
    with pytest.raises(VideoError, match="40 frames, expected at most 39"):
        video.read_all(clip40, max_frames=39)


def test_a_region_is_cut_out_before_it_is_resized(tmp_path: Path) -> None:
    """Quarters of a picture in four greys: each region sees its own."""
    picture = torch.zeros(1, 1, 40, 80)
    for place, grey in enumerate((-1.0, -0.5, 0.0, 0.5)):
        top, left = 20 * (place // 2), 40 * (place % 2)
        picture[:, :, top : top + 20, left : left + 40] = grey
    video.write_png(tmp_path / "a.png", picture)
    corners = {
        (0.0, 0.0, 0.5, 0.5): -1.0,
        (0.5, 0.0, 1.0, 0.5): -0.5,
        (0.0, 0.5, 0.5, 1.0): 0.0,
        (0.5, 0.5, 1.0, 1.0): 0.5,
    }
    for region, grey in corners.items():
        for fit in ("crop", "squash"):
            clip = video.read_clip(tmp_path / "a.png", num_frames=1, size=16, channels=1, region=region, fit=fit)  # type: ignore[arg-type]
            assert clip.mean() == pytest.approx(grey, abs=0.01)
            assert clip.std() < 0.01
    whole = video.read_clip(tmp_path / "a.png", num_frames=1, size=16, channels=1, fit="squash")
    assert torch.equal(
        whole, video.read_clip(tmp_path / "a.png", num_frames=1, size=16, channels=1, fit="squash", region=video.WHOLE)
    )
    padded = video.read_clip(
        tmp_path / "a.png", num_frames=1, size=16, channels=1, fit="pad", region=(0.5, 0.5, 1.0, 1.0)
    )
    assert padded[0, 0, 8, 8] == pytest.approx(0.5, abs=0.01)
    assert padded[0, 0, 0, 0] == -1
    for wrong in ((0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.1, 1.0), (-0.1, 0.0, 1.0, 1.0)):
        with pytest.raises(DataError, match=r"region: .*expected left < right"):
            video.read_clip(tmp_path / "a.png", num_frames=1, size=16, region=wrong)
