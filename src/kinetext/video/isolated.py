"""Files from strangers, decoded in a process of their own, with limits on memory and time.

A process that has imported everything is started once and waits (``forking``); for each file it forks. What comes back is
JSON and bytes, which are checked (``answers``): a decoder that was taken over can make up frames here.
It is no sandbox: what the user may read or reach, such a decoder may, too.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from math import inf, prod
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kinetext.types import DataError
from kinetext.video import answers
from kinetext.video.containers import VideoError
from kinetext.video.forking import READY, exactly
from kinetext.video.probing import VideoInfo
from kinetext.video.reader import to_float

Name = Literal["probe", "extent", "read_clip"]
_PATIENCE = 30.0  # seconds that the waiting process may take beyond those of the file
_START = 300.0  # seconds to import everything, from a slow disk


@dataclass(frozen=True)
class Bounds:
    """What reading one file may take.

    Args:
        memory: MiB beyond what the waiting process has, >= 1.
        seconds: > 0.
    """

    memory: int = 1024
    seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise DataError(f"memory: {self.memory} MiB, expected 1 or more")
        if not 0 < self.seconds < inf:
            raise DataError(f"seconds: {self.seconds}, expected a finite number more than 0")


@overload
def call(
    name: Literal["probe"], path: str | Path, options: Mapping[str, Any], bounds: Bounds | None = None
) -> VideoInfo: ...
@overload
def call(
    name: Literal["extent"], path: str | Path, options: Mapping[str, Any], bounds: Bounds | None = None
) -> tuple[int, float]: ...
@overload
def call(
    name: Literal["read_clip"], path: str | Path, options: Mapping[str, Any], bounds: Bounds | None = None
) -> Tensor: ...
def call(
    name: Name, path: str | Path, options: Mapping[str, Any], bounds: Bounds | None = None
) -> VideoInfo | tuple[int, float] | Tensor:
    """What ``probe``, ``extent`` or ``read_clip`` gives of a file, made in another process. Linux only.

    Args:
        name: which of them.
        path: the file.
        options: its keyword arguments: what JSON can hold, ``limits``, and ``rng``, which goes on as if it had been used here.
        bounds: the default is 1 GiB and a minute.

    Raises:
        DataError: an argument is outside its range.
        VideoError: as the function raises; or the decoder crashed, or needed more memory or time than it may.
    """
    bounds = bounds or Bounds()
    rng = options.get("rng")
    plain = {key: value for key, value in options.items() if key != "rng"}
    if "limits" in plain:
        plain["limits"] = asdict(plain["limits"])
    if rng is not None:
        plain["rng"] = answers.state(rng)
    asked = {"name": name, "path": os.path.abspath(path), "options": plain, **asdict(bounds)}
    line = json.dumps(asked, default=_plain).encode()
    shape: tuple[int, ...] = ()
    if name == "read_clip":
        size = int(options["size"])
        shape = (int(options["num_frames"]), int(options.get("channels", 3)), size, size)
    try:
        head, pixels = _asked(path, line, shape, bounds)
        if told := answers.error(path, head, bounds.memory):
            raise told
        if name == "probe":
            return answers.info(path, head)
        if name == "extent":
            return answers.reach(head)
        if pixels.shape != shape:
            raise ValueError("no pixels as they were asked for")
        if rng is not None:
            answers.go_on(rng, head.get("rng"))
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise VideoError(f"{path}: the decoder's process sent something that is no result ({error})") from error
    return to_float(torch.from_numpy(pixels).permute(1, 0, 2, 3).contiguous())


def _plain(value: object) -> object:
    """A number of NumPy as JSON has it."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r}, expected what JSON can hold")


def _asked(
    path: str | Path, line: bytes, shape: tuple[int, ...], bounds: Bounds
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    """The JSON that a fork answers, and its bytes in this shape; empty where it sent no such thing."""
    with _LOCK, _waiting() as control:
        until = time.monotonic() + bounds.seconds + _PATIENCE
        _hurry(control, until)
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(control, [len(line).to_bytes(8, "little")], [theirs.fileno()])
                control.sendall(line)
            found = _received(ours, control, shape, until)
            ours.shutdown(socket.SHUT_RDWR)  # closing is not enough: processes that were forked meanwhile have it, too
        _hurry(control, until)
        ended = json.loads(exactly(control, int.from_bytes(exactly(control, 8), "little")))
    _check_end(path, ended, bounds)
    return found


def _received(
    ours: socket.socket, control: socket.socket, shape: tuple[int, ...], until: float
) -> tuple[dict[str, Any], NDArray[np.uint8]]:
    nothing: NDArray[np.uint8] = np.empty(0, np.uint8)
    start = bytearray(answers.LENGTHS)
    if not _filled(ours, control, memoryview(start), until):
        return {}, nothing
    length, size = answers.lengths(start)
    if length > answers.HEAD or (size and size != prod(shape)):
        return {}, nothing
    line, pixels = bytearray(length), np.empty(shape, np.uint8) if size else nothing
    if not all(_filled(ours, control, one, until) for one in (memoryview(line), pixels.reshape(-1).data)):
        return {}, nothing
    try:
        return answers.parsed(line), pixels
    except ValueError:
        return {}, nothing


def _filled(ours: socket.socket, control: socket.socket, room: memoryview, until: float) -> bool:
    """Receives as many bytes as there is room for; False where the fork has ended before, of which control tells: processes
    that were forked while ``theirs`` was open keep it, so that its end may never be heard here.

    Raises:
        TimeoutError: neither comes.
    """
    watch = select.poll()
    for sock in (ours, control):
        watch.register(sock, select.POLLIN)
    while room:
        if not watch.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError
        try:
            got = ours.recv_into(room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:  # so it was control, and all that the fork sent has been read
            return False
        if not got:
            return False
        room = room[got:]
    return True


def _hurry(sock: socket.socket, until: float) -> None:
    sock.settimeout(max(0.01, until - time.monotonic()))


def _check_end(path: str | Path, ended: Mapping[str, Any], bounds: Bounds) -> None:
    if ended["late"]:
        raise VideoError(f"{path}: not read within {bounds.seconds:g} s in isolation, given up")
    if number := ended["signal"]:
        raise VideoError(f"{path}: the decoder's process died of {signal.Signals(number).name}, reading this file")
    if ended["code"]:
        raise VideoError(f"{path}: the decoder's process ended by itself (code {ended['code']}), reading this file")


class _Waiting(NamedTuple):
    """The waiting process of this one, and the socket that controls it."""

    pid: int
    control: socket.socket


_LOCK = threading.Lock()
_held: _Waiting | None = None


def _forgotten() -> None:
    """What a process that was forked from this one forgets: the lock may be held by a thread it does not have, and the waiting
    process would outlive this one with its control still open elsewhere."""
    global _LOCK, _held
    _LOCK = threading.Lock()
    if _held is not None:
        _held.control.close()
        _held = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forgotten)


@contextmanager
def _waiting() -> Iterator[socket.socket]:
    """The control socket of a process that waits for files; if anything goes wrong, another one is started next time."""
    global _held
    if sys.platform != "linux":
        raise VideoError("isolated: works on Linux only")
    try:
        if _held is None:
            ours, theirs = socket.socketpair()
            with theirs:
                _held = _Waiting(0, ours)
                _held = _Waiting(_started(theirs), ours)
            ours.settimeout(_START)
            exactly(ours, len(READY))
        yield _held.control
    except BaseException as error:
        _end()
        if isinstance(error, TimeoutError):
            raise VideoError("isolated: the process that decodes does not answer, given up") from error
        if isinstance(error, ConnectionError):
            raise VideoError(f"isolated: the process that decodes is gone ({error})") from error
        if isinstance(error, OSError):
            raise VideoError(f"isolated: the process that decodes can't be asked ({error.strerror})") from error
        raise


def _started(theirs: socket.socket) -> int:
    """The number of a new waiting process, controlled by this socket."""
    code = "from kinetext.video.forking import serve; serve()"
    # one thread: a fork has only the thread that forked, and others may hold locks
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    there = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-c", code],
        {**os.environ, **threads, "PYTHONPATH": there},
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
    )


@atexit.register
def _end() -> None:
    """Ends the waiting process, and so whatever it forked."""
    global _held
    if _held is None:
        return
    (pid, control), _held = _held, None
    control.close()
    with suppress(OSError):  # another may have waited for it
        if pid and os.waitpid(pid, os.WNOHANG) == (0, 0):
            os.kill(pid, signal.SIGKILL)  # its fork dies with it
            os.waitpid(pid, 0)
