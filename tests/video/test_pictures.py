"""Animations and folders of pictures: every frame and its time, as Pillow has them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageSequence

from kinetext import video
from kinetext.types import DataError
from kinetext.video import VideoError
from kinetext.video.frames import timeline

SPANS = [40, 120, 20, 300, 70, 500]  # milliseconds


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 6, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


def animated(path: Path, pixels: NDArray[np.uint8], spans: list[int]) -> Path:
    first, *rest = (Image.fromarray(image) for image in pixels)
    first.save(path, save_all=True, append_images=rest, duration=spans, loop=0, lossless=True)
    return path


@pytest.mark.parametrize("suffix", [".webp", ".apng", ".png"])
def test_an_animation_has_its_frames_at_their_times(tmp_path: Path, pixels: NDArray[np.uint8], suffix: str) -> None:
    path = animated(tmp_path / f"a{suffix}", pixels, SPANS)
    info = video.probe(path)
    assert (info.num_frames, info.width, info.height, info.variable) == (6, 48, 32, True)
    assert info.duration == pytest.approx(sum(SPANS) / 1000)
    everything, _ = video.read_all(path)
    assert (everything.numpy() == pixels).all()
    with video.VideoReader(path) as reader:
        found = reader.frames_at(seconds=[1.0, 0.0, 0.038, 0.041, 0.17, 0.478, 0.481])
    assert found.numbers == (5, 0, 0, 1, 2, 3, 4)
    assert (found.pixels.numpy() == pixels[list(found.numbers)]).all()


def test_a_gif_disposes_of_frames_as_pillow_does(tmp_path: Path) -> None:
    """Frames that are drawn over the last one, cleared, or taken back, for uneven times."""
    frames = []
    for number in range(6):
        image = Image.new("RGBA", (40, 30), (0, 0, 0, 0) if number else (20, 90, 160, 255))
        colour = (250 - 40 * number, 40 * number, 90, 255)
        ImageDraw.Draw(image).rectangle((3 + 5 * number, 4, 12 + 5 * number, 20), fill=colour)
        frames.append(image)
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=SPANS, disposal=[1, 1, 3, 1, 2, 1], loop=0)
    with Image.open(path) as image:
        theirs = [np.asarray(frame.convert("RGBA")).astype(int) for frame in ImageSequence.Iterator(image)]
    everything, _ = video.read_all(path)
    assert len(everything) == len(theirs) == 6
    ours = everything.numpy().astype(int)
    assert np.abs(ours[:5] - np.stack(theirs)[:5, ..., :3]).max() <= 2
    cleared = np.zeros((30, 40), bool)
    # of the fifth picture, what the sixth does not cover: Pillow fills it, for us it is white
    cleared[4:21, 18:28] = True
    assert np.abs(ours[5] - theirs[5][..., :3])[~cleared].max() <= 2
    assert (ours[5][cleared] == 255).all()
    assert timeline(path).times == pytest.approx(np.cumsum([0, *SPANS[:-1]]) / 1000)
    assert video.probe(path).duration == pytest.approx(sum(SPANS) / 1000)


def test_frames_of_no_time_are_shown_as_browsers_do(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    for suffix in (".webp", ".gif"):
        path = animated(tmp_path / f"a{suffix}", pixels[:3], [0, 0, 50])
        assert timeline(path).times == pytest.approx([0, 0.1, 0.2])


def test_a_cut_webp_is_an_error(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    whole = animated(tmp_path / "whole.webp", pixels, SPANS).read_bytes()
    path = tmp_path / "cut.webp"
    for share in (0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(VideoError, match=r"cut\.webp: truncated: \d+ of \d+ bytes"):
            video.probe(path)
    damaged = bytearray(whole)
    damaged[len(whole) // 2 :] = bytes(len(whole) - len(whole) // 2)
    path.write_bytes(damaged)
    with pytest.raises(VideoError, match=r"cut\.webp: (frame \d|no frames)"):
        video.read_all(path)


def test_limits_hold_before_decoding(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = animated(tmp_path / "a.webp", pixels, SPANS)
    for limits, what in (
        (video.Limits(frames=5), "6 frames, expected at most 5"),
        (video.Limits(pixels=1000), r"1,536 pixels, expected at most 1,000"),
        (video.Limits(seconds=1.0), r"1.05 seconds, expected at most 1"),
        (video.Limits(bytes=100), r"bytes, expected at most 100"),
    ):
        with pytest.raises(VideoError, match=what):
            video.probe(path, limits=limits)


def test_a_folder_of_pictures_is_a_clip(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """In the order of its numbers, at 25 frames a second, or as fps.txt says."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, image in enumerate(np.concatenate([pixels, pixels[::-1]])):
        Image.fromarray(image).save(folder / f"frame_{number}.png")  # frame_10 comes after frame_9
    (folder / ".hidden.png").write_bytes(b"")
    info = video.probe(folder)
    assert (info.num_frames, info.fps, info.duration, info.codec) == (12, 25.0, 0.48, "png")
    everything, _ = video.read_all(folder)
    assert (everything.numpy() == np.concatenate([pixels, pixels[::-1]])).all()
    (folder / "fps.txt").write_text("30000/1001\n")
    assert video.probe(folder).fps == pytest.approx(29.97003)
    clip = video.read_clip(folder, num_frames=1, size=16, start=11 / 29.97, fit="squash")
    assert (clip == video.read_clip(folder / "frame_11.png", num_frames=1, size=16, fit="squash")).all()
    (folder / "fps.txt").write_text("fast")
    with pytest.raises(VideoError, match=r"fps\.txt: 'fast', expected a number more than 0"):
        video.probe(folder)


def test_pictures_of_a_folder_are_upright(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """As each of them is alone: cameras write how they were held."""
    folder = tmp_path / "clip"
    folder.mkdir()
    held = Image.Exif()
    held[0x0112] = 6
    for number in range(2):
        Image.fromarray(pixels[number]).save(folder / f"{number}.jpg", exif=held, quality=95)
    everything, _ = video.read_all(folder)
    alone, _ = video.read_all(folder / "1.jpg")
    assert alone.shape == (1, 48, 32, 3)
    assert (everything[1:] == alone).all()


def test_a_folder_that_is_no_clip_is_said(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(VideoError, match="no pictures in it, expected some that end in"):
        video.probe(tmp_path)
    Image.fromarray(pixels[0]).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    with pytest.raises(VideoError, match=r"1\.png"):
        video.read_all(tmp_path)
    Image.fromarray(pixels[0, :16]).save(tmp_path / "1.png")
    with pytest.raises(VideoError, match="the frame size changes"):
        video.read_all(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(VideoError, match="No such file"):
        video.probe(tmp_path)


def test_pictures_are_counted_at_once_and_not_by_torchcodec(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = animated(tmp_path / "a.webp", pixels, SPANS)
    assert video.probe(path, count=False) == video.probe(path)
    with pytest.raises(DataError, match="expected 'pyav'"):
        video.read_clip(path, num_frames=2, size=8, decoder="torchcodec")


def test_pictures_say_nothing_of_how_they_were_made(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """They are clips, but none that ``write`` makes."""
    assert video.read_provenance(animated(tmp_path / "a.webp", pixels, SPANS)) is None
    (tmp_path / "folder").mkdir()
    Image.fromarray(pixels[0]).save(tmp_path / "folder" / "0.png")
    assert video.read_provenance(tmp_path / "folder") is None
