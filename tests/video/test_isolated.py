"""Decoding in another process: the same clips, and one error where the decoder crashes, swells or never ends."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
import zlib
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from kinetext import video
from kinetext.types import DataError
from kinetext.video import isolated
from kinetext.video.isolated import Bounds

ALL = {"num_frames": 3000, "size": 256}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    video.write(path, torch.rand(3, 12, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1, fps=12.5)
    return path


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "long.mp4"
    video.write(path, torch.zeros(3000, 64, 64, 3, dtype=torch.uint8), fps=50)
    return path


def png_of_zeros(path: Path, side: int) -> Path:
    """A picture of 3 bytes a pixel in a thousandth of that."""
    data = zlib.compress(bytes(side * (1 + 3 * side)), 1)
    chunks = ((b"IHDR", struct.pack(">2I5B", side, side, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def test_the_same_as_here(clip: Path) -> None:
    assert isolated.call("probe", clip, {}) == video.probe(clip)
    options = {"num_frames": 5, "size": 20, "channels": 1, "start": 0.1, "fit": "pad", "region": (0.1, 0.2, 0.9, 1.0)}
    assert torch.equal(isolated.call("read_clip", clip, options), video.read_clip(clip, **options))  # type: ignore[arg-type]


def test_the_reading_functions_take_it_with_limits(clip: Path) -> None:
    assert video.probe(clip, isolated=True) == video.probe(clip)
    here = video.read_clip(clip, num_frames=3, size=16)
    assert torch.equal(video.read_clip(clip, num_frames=3, size=16, isolated=True), here)
    for read in (
        lambda: video.probe(clip, limits=video.Limits(frames=11), isolated=True),
        lambda: video.read_clip(clip, num_frames=1, size=16, limits=video.Limits(frames=11), isolated=True),
    ):
        with pytest.raises(video.VideoError, match="12 frames, expected at most 11"):
            read()


def test_chance_goes_on_as_here(clip: Path) -> None:
    here, there = (torch.Generator().manual_seed(3) for _ in range(2))
    options = {"num_frames": 2, "size": 16, "sampling": "random", "clip_seconds": 0.3}
    for _ in range(4):
        made = video.read_clip(clip, rng=here, **options)  # type: ignore[arg-type]
        assert torch.equal(isolated.call("read_clip", clip, {**options, "rng": there}), made)
    assert torch.equal(here.get_state(), there.get_state())


def test_errors_are_those_of_here(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:-900])
    for path, options in (
        (clip, {"num_frames": 0, "size": 16}),
        (clip, {"num_frames": 2, "size": 16, "end": 99.0}),
        (tmp_path / "broken.mp4", {"num_frames": 2, "size": 16}),
        (tmp_path / "none.mp4", {"num_frames": 2, "size": 16}),
    ):
        with pytest.raises(DataError) as here:
            video.read_clip(path, **options)  # type: ignore[arg-type]
        with pytest.raises(DataError) as there:
            isolated.call("read_clip", path, options)
        assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))


def test_a_bomb_is_one_error(tmp_path: Path, clip: Path) -> None:
    bomb = png_of_zeros(tmp_path / "bomb.png", 4000)
    assert bomb.stat().st_size < 250_000
    options = {"num_frames": 1, "size": 16}
    with pytest.raises(video.VideoError, match=r"bomb.png: needs more than 16 MiB of memory to be read \(memory\)"):
        isolated.call("read_clip", bomb, options, Bounds(memory=16))
    assert torch.equal(isolated.call("read_clip", bomb, options, Bounds(memory=512)), -torch.ones(3, 1, 16, 16))
    assert isolated.call("probe", clip, {}, Bounds(memory=16)).num_frames == 12


def test_what_takes_too_long_is_one_error(long: Path) -> None:
    began = time.monotonic()
    with pytest.raises(video.VideoError, match=r"long.mp4: not read within 0.1 s \(seconds\), given up"):
        isolated.call("read_clip", long, ALL, Bounds(seconds=0.1))
    assert time.monotonic() - began < 5


def test_a_crash_is_one_error(long: Path, clip: Path) -> None:
    isolated.call("probe", clip, {})
    assert isolated._held
    waiting = isolated._held[1]

    def crash() -> None:
        while not (children := Path(f"/proc/{waiting}/task/{waiting}/children").read_text().split()):
            time.sleep(0.001)
        os.kill(int(children[0]), signal.SIGSEGV)

    killer = threading.Thread(target=crash)
    killer.start()
    with pytest.raises(video.VideoError, match=r"long.mp4: the decoder's process died of SIGSEGV"):
        isolated.call("read_clip", long, ALL)
    killer.join()
    assert isolated.call("probe", clip, {}) == video.probe(clip)
    assert isolated._held
    assert isolated._held[1] == waiting  # only the fork died
    assert len(list(Path(f"/proc/{waiting}/task").iterdir())) == 1  # forking is safe


def test_when_all_of_it_is_killed_the_next_call_starts_it_again(clip: Path) -> None:
    isolated.call("probe", clip, {})
    assert isolated._held
    os.kill(isolated._held[1], signal.SIGKILL)
    with pytest.raises(video.VideoError, match="the process that decodes is gone"):
        isolated.call("probe", clip, {})
    assert isolated.call("probe", clip, {}) == video.probe(clip)


def test_a_forked_process_has_its_own(clip: Path) -> None:
    """The workers of a loader must not talk with the decoder of their parent."""
    expected = isolated.call("probe", clip, {})

    def same() -> None:
        os._exit(0 if isolated.call("probe", clip, {}) == expected else 1)

    workers = [get_context("fork").Process(target=same) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert isolated.call("probe", clip, {}) == expected
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("head", "data"),
    [
        ({}, b""),
        ({"shape": [3, 1, 2, 2]}, b"123"),
        ({"shape": "no"}, b"123"),
        ({"shape": [10**9, 10**9]}, b"123"),
        ({"info": {"path": "x"}}, b""),
        ({"info": {"path": "x", "num_frames": "many"}}, b""),
    ],
)
def test_a_decoder_that_was_taken_over_makes_up_no_types(head: dict[str, object], data: bytes) -> None:
    with pytest.raises(video.VideoError, match="sent something that is no result"):
        isolated._result("clip.mp4", head, bytearray(data), None, Bounds())


def test_bounds_are_checked() -> None:
    with pytest.raises(DataError, match="memory: 0 MiB, expected 1 or more"):
        Bounds(memory=0)
    with pytest.raises(DataError, match="seconds: nan, expected more than 0"):
        Bounds(seconds=float("nan"))
