"""Decoding in another process: the same clips, and one error where the decoder crashes, swells or never ends."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from kinetext import video
from kinetext.types import DataError
from kinetext.video import VideoError, isolated
from kinetext.video.frames import VideoFile
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
            video.read_clip(path, **options)
        with pytest.raises(DataError) as there:
            isolated.call("read_clip", path, options)
        assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))


def test_an_error_names_the_file_as_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError) as here:
        video.probe("torn.mp4")
    with pytest.raises(VideoError) as there:
        video.probe("torn.mp4", isolated=True)
    assert str(here.value) == str(there.value) and str(here.value).startswith("torn.mp4: ")


def test_a_bomb_is_one_error(tmp_path: Path, clip: Path) -> None:
    bomb = png_of_zeros(tmp_path / "bomb.png", 4000)
    assert bomb.stat().st_size < 250_000
    options = {"num_frames": 1, "size": 16}
    with pytest.raises(video.VideoError, match=r"bomb.png: needs more than 16 MiB of memory to be read in isolation"):
        isolated.call("read_clip", bomb, options, Bounds(memory=16))
    assert torch.equal(isolated.call("read_clip", bomb, options, Bounds(memory=512)), -torch.ones(3, 1, 16, 16))
    assert isolated.call("probe", clip, {}, Bounds(memory=16)).num_frames == 12


def test_what_takes_too_long_is_one_error(long: Path) -> None:
    began = time.monotonic()
    with pytest.raises(video.VideoError, match=r"long.mp4: not read within 0.1 s in isolation, given up"):
        isolated.call("read_clip", long, ALL, Bounds(seconds=0.1))
    assert time.monotonic() - began < 5


def test_a_crash_is_one_error(long: Path, clip: Path) -> None:
    isolated.call("probe", clip, {})
    assert isolated._held
    waiting = isolated._held.pid

    def crash() -> None:
        while not (forks := children(waiting)):
            time.sleep(0.001)
        os.kill(forks[0], signal.SIGSEGV)

    killer = threading.Thread(target=crash)
    killer.start()
    with pytest.raises(video.VideoError, match=r"long.mp4: the decoder's process died of SIGSEGV"):
        isolated.call("read_clip", long, ALL)
    killer.join()
    assert isolated.call("probe", clip, {}) == video.probe(clip)
    assert isolated._held
    assert isolated._held.pid == waiting  # only the fork died
    assert len(list(Path(f"/proc/{waiting}/task").iterdir())) == 1  # forking is safe


def test_when_all_of_it_is_killed_the_next_call_starts_it_again(clip: Path) -> None:
    isolated.call("probe", clip, {})
    assert isolated._held
    os.kill(isolated._held.pid, signal.SIGKILL)
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


def test_a_process_forked_meanwhile_does_not_hold_an_answer_back(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the socket of the answer, whose end would not be heard until it ends itself."""
    isolated.call("probe", clip, {})
    crashing, forked, send = clip.with_name("none.mp4"), [], socket.send_fds

    def fork_first(*args: object) -> int:
        pid = os.fork()
        if pid == 0:
            time.sleep(20)
            os._exit(0)
        forked.append(pid)
        return send(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "send_fds", fork_first)
    began = time.monotonic()
    assert isolated.call("probe", clip, {}).num_frames == 12
    with pytest.raises(video.VideoError, match=r"none\.mp4"):
        isolated.call("probe", crashing, {})
    assert time.monotonic() - began < 15
    for pid in forked:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_waiting_process_that_does_not_answer_is_given_up(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolated.call("probe", clip, {})
    assert isolated._held
    os.kill(isolated._held.pid, signal.SIGSTOP)
    monkeypatch.setattr(isolated, "_PATIENCE", 0.1)
    with pytest.raises(video.VideoError, match="does not answer, given up"):
        isolated.call("probe", clip, {}, Bounds(seconds=0.2))
    monkeypatch.undo()
    assert isolated.call("probe", clip, {}).num_frames == 12


def test_nothing_outlives_who_asked(clip: Path, long: Path) -> None:
    """Not while it reads, and not with another process alive that was forked from who asked."""
    code = f"""
import os, time
from kinetext.video import VideoError, isolated
isolated.call("probe", {str(clip)!r}, {{}})
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(isolated._held.pid, child, flush=True)
isolated.call("read_clip", {str(long)!r}, {ALL})
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        waiting, child = map(int, asking.stdout.readline().split())
        while not (forks := children(waiting)):
            time.sleep(0.001)
        asking.kill()
    left, until = [waiting, *forks], time.monotonic() + 10
    while any(is_running(pid) for pid in left) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(is_running(pid) for pid in left)
    assert is_running(child)
    os.kill(child, signal.SIGKILL)


def children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_fork_dies_with_the_waiting_process(clip: Path, long: Path) -> None:
    isolated.call("probe", clip, {})
    assert isolated._held
    waiting, forks = isolated._held.pid, list[int]()

    def kill() -> None:
        while not forks:
            forks[:] = children(waiting)
        time.sleep(0.1)
        os.kill(waiting, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(video.VideoError, match="the process that decodes is gone"):
        isolated.call("read_clip", long, ALL)
    killer.join()
    until = time.monotonic() + 5
    while is_running(forks[0]) and time.monotonic() < until:
        time.sleep(0.02)
    assert not is_running(forks[0])


def test_numbers_of_numpy_are_numbers(clip: Path) -> None:
    isolated.call("probe", clip, {})
    held = isolated._held
    options = {"num_frames": np.int64(3), "size": np.int32(16), "start": np.float32(0.25), "channels": np.int64(1)}
    there = video.read_clip(clip, isolated=True, **options)  # type: ignore[arg-type]
    assert torch.equal(there, video.read_clip(clip, **options))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="what JSON can hold"):
        video.read_clip(clip, num_frames=3, size=16, start=object(), isolated=True)  # type: ignore[arg-type]
    assert isolated._held == held  # what is wrong before it was asked does not end it


def test_a_long_clip_takes_the_memory_of_its_bytes(clip: Path) -> None:
    """Floats are four times as many, and were there twice."""
    found = isolated.call("read_clip", clip, {"num_frames": 400, "size": 224}, Bounds(memory=150))
    assert torch.equal(found[:, :1], video.read_clip(clip, num_frames=400, size=224)[:, :1])


def test_too_many_open_files_are_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    isolated.call("probe", clip, {})
    monkeypatch.setattr(socket, "socketpair", none)
    with pytest.raises(video.VideoError, match=r"can't be asked \(Too many open files"):
        isolated.call("probe", clip, {})


def test_a_look_that_isolates_opens_nothing_here(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = video.Look(True, 3, 16, 3, "random", 0.4, "crop", video.WHOLE, False, 0.0)
    dice = torch.Generator()
    here = (
        look.fps([(clip, None, None)]),
        look.read(clip, 0.1, None, dice.manual_seed(0)),
        video.extent(clip, 0.2, 0.6),
    )

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("opened here")

    monkeypatch.setattr(VideoFile, "__init__", opened)
    look = replace(look, isolated=True)
    assert look.fps([(clip, None, None)]) == here[0] > 0
    assert torch.equal(look.read(clip, 0.1, None, dice.manual_seed(0)), here[1])
    assert video.extent(clip, 0.2, 0.6, isolated=True) == here[2]
    with pytest.raises(video.VideoError, match="end 99 s, expected more than 0"):
        video.extent(clip, None, 99.0, isolated=True)


def test_bounds_are_checked() -> None:
    with pytest.raises(DataError, match="memory: 0 MiB, expected 1 or more"):
        Bounds(memory=0)
    with pytest.raises(DataError, match="seconds: nan, expected a finite number more than 0"):
        Bounds(seconds=float("nan"))
