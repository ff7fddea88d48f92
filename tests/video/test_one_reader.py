"""What one open reader bears: being closed, several threads, a fork, and another file in its place."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from kinetext import video
from kinetext.types import DataError
from kinetext.video import VideoError, VideoReader
from kinetext.video.frames import VideoFile


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    dice = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (40, 12, 16, 3), generator=dice, dtype=torch.uint8)
    video.write(tmp_path / "clip.mp4", small.repeat_interleave(8, 1).repeat_interleave(8, 2), fps=25)
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("known", [False, True], ids=["packets kept", "times known"])
def test_a_closed_reader_says_so(clip: Path, known: bool) -> None:
    if not known:
        video.forget()
    with VideoReader(clip) as reader:
        begun = iter(reader)
        next(begun)
    with pytest.raises(DataError, match=r"clip\.mp4: is closed"):
        next(begun)
    for read in (
        lambda: reader.frames_at([3]),
        lambda: reader.clip(num_frames=2),
        reader.probe,
        lambda: next(iter(reader)),
    ):
        with pytest.raises(DataError, match=r"clip\.mp4: is closed"):
            read()
    reader.close()  # twice is once


def test_closed_pictures_say_so_too(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    for number in range(3):
        video.write_png(tmp_path / "walk" / f"{number}.png", torch.zeros(3, 1, 8, 8))
    with VideoReader(tmp_path / "walk") as reader:
        begun = reader.each([0, 1, 2])
        next(begun)
    with pytest.raises(DataError, match="walk: is closed"):
        next(begun)


def test_an_interrupt_at_the_worst_moment(clip: Path) -> None:
    """Ctrl-C after the decoder was taken and before it is released: neither closing waits, nor is the reader lost."""
    with VideoReader(clip) as reader:
        file = reader._file
        assert isinstance(file, VideoFile)
        file._take(file._readings)  # and never released
        assert len(reader.frames_at([3])) == 1


def test_threads_are_refused_or_served_one_by_one(clip: Path) -> None:
    """Never two in one decoder, which would end the process."""
    with VideoReader(clip, size=16) as reader:
        right = reader.frames_at(range(40)).pixels

        def read(number: int) -> bool:
            try:
                return bool((reader.frames_at([number]).pixels[0] == right[number]).all())
            except DataError as error:
                return "two threads" in str(error) or "two places" in str(error)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, [number % 40 for number in range(1000)]))
        assert torch.equal(reader.frames_at(range(40)).pixels, right)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_does_not_read_what_was_opened_before(clip: Path) -> None:
    with VideoReader(clip, threads=2) as reader:
        reader.frames_at([3])
        hears, says = os.pipe()
        child = os.fork()
        if not child:
            try:
                reader.frames_at([5])
            except DataError as error:
                os.write(says, str(error).encode())
            finally:
                os._exit(0)
        os.close(says)
        said = os.read(hears, 1000).decode()
        os.close(hears)
        os.waitpid(child, 0)
        assert "was opened by another process" in said


@pytest.mark.parametrize("again", [0, 2], ids=["from the beginning", "from a key frame"])
def test_another_file_in_its_place(clip: Path, again: int) -> None:
    """Its frames never come out of the old reader; what was opened is either read on, or the change is said."""
    video.probe(clip)
    with VideoReader(clip) as reader:
        before = reader.frames_at([30]).pixels
        other = clip.with_name("other.mp4")
        video.write(other, torch.full((40, 96, 128, 3), 90, dtype=torch.uint8), fps=25)
        os.replace(other, clip)
        for number in (again, 30):
            try:
                got = reader.frames_at([number]).pixels
                assert float(got.float().std()) > 20, "of the new file, which is grey"
            except VideoError as error:
                assert "was changed while it was read" in str(error)
        assert float(before.float().std()) > 20
    with VideoReader(clip) as reader:
        assert float(reader.frames_at([0]).pixels.float().std()) < 2


def test_a_repeated_frame_is_a_picture_of_its_own(clip: Path) -> None:
    with VideoReader(clip) as reader:
        for _, pixels in reader.each([3, 3, 3]):
            assert pixels.any(), "what was done to the one before"
            pixels[:] = 0


def test_the_frame_size_may_not_change(tmp_path: Path) -> None:
    """Two raw streams of H.264, one behind the other: all frames at once or one after another, it is said."""
    joined = bytearray()
    for side in (64, 96):
        part = tmp_path / f"{side}.h264"
        with av.open(str(part), "w", format="h264") as container:
            stream = container.add_stream("libx264", rate=25)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
            for _ in range(5):
                image = np.full((side, side, 3), 90, np.uint8)
                container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        joined += part.read_bytes()
    (tmp_path / "joined.h264").write_bytes(joined)
    with VideoReader(tmp_path / "joined.h264") as reader:
        assert len(reader) == 10
        with pytest.raises(VideoError, match="the frame size changes in mid-file"):
            list(reader)
        with pytest.raises(VideoError, match="the frame size changes in mid-file"):
            reader.clip()
    with VideoReader(tmp_path / "joined.h264", size=16) as reader:
        assert len(list(reader)) == 10, "squares are of one size"
