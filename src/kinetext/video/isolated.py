"""Files from strangers, decoded in a process of their own, with limits on memory and time.

A process that has imported everything is started once and waits. For each file it forks: the fork reads, sends what it
read and ends, so what one file does to a decoder, it does to no other, and a fork costs milliseconds where a start costs
seconds. What comes back is JSON and bytes, which are checked: a decoder that was taken over can make up frames here.
It is no sandbox: what the user may read or reach, such a decoder may, too.
"""

from __future__ import annotations

import atexit
import base64
import errno
import json
import math
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints, overload

import numpy as np
import torch
from torch import Tensor

from kinetext.types import DataError
from kinetext.video.containers import VideoError
from kinetext.video.limits import Limits
from kinetext.video.probing import VideoInfo, probe
from kinetext.video.reader import to_float
from kinetext.video.reading import read_clip
from kinetext.video.writing import to_bytes

Name = Literal["probe", "read_clip"]
_MIB = 1 << 20
_HEAD = 1 << 20  # bytes of JSON at most
_LENGTH = 8  # bytes that say how long the JSON is
_BLOCK = 1 << 18
_REFUSED = (errno.ENOMEM, errno.EAGAIN)  # memory; a thread, for want of memory for its stack
_KINDS: dict[str, type[DataError]] = {"DataError": DataError, "VideoError": VideoError}


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
        if not 0 < self.seconds < math.inf:
            raise DataError(f"seconds: {self.seconds}, expected more than 0")


@overload
def call(
    name: Literal["probe"], path: str | Path, options: Mapping[str, Any], bounds: Bounds | None = None
) -> VideoInfo: ...
@overload
def call(
    name: Literal["read_clip"], path: str | Path, options: Mapping[str, Any], bounds: Bounds | None = None
) -> Tensor: ...
def call(name: Name, path: str | Path, options: Mapping[str, Any], bounds: Bounds | None = None) -> VideoInfo | Tensor:
    """What ``probe`` or ``read_clip`` gives of a file, made in another process. Linux only.

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
        plain["rng"] = base64.b64encode(bytes(rng.get_state().numpy())).decode()
    asked = {"name": name, "path": os.path.abspath(path), "options": plain, **asdict(bounds)}
    with _LOCK, _waiting() as control:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                line = json.dumps(asked).encode()
                socket.send_fds(control, [len(line).to_bytes(_LENGTH, "little")], [theirs.fileno()])
                control.sendall(line)
            head, data = _received(ours, bounds)
        ended = json.loads(_exactly(control, int.from_bytes(_exactly(control, _LENGTH), "little")))
    _check_end(path, ended, bounds)
    size = options.get("size", 0)
    shape = [options.get("channels", 3), options.get("num_frames", 0), size, size] if name == "read_clip" else []
    return _result(path, head, data, rng, bounds, shape)


def _check_end(path: str | Path, ended: Mapping[str, Any], bounds: Bounds) -> None:
    if ended["late"]:
        raise VideoError(f"{path}: not read within {bounds.seconds:g} s (seconds), given up")
    if number := ended["signal"]:
        raise VideoError(f"{path}: the decoder's process died of {signal.Signals(number).name}, reading this file")
    if ended["code"]:
        raise VideoError(f"{path}: the decoder's process ended by itself (code {ended['code']}), reading this file")


def _received(sock: socket.socket, bounds: Bounds) -> tuple[dict[str, Any], bytearray]:
    """The JSON and the bytes that a fork sends before it ends; empty where it ends before."""
    data, most = bytearray(), bounds.memory * _MIB + _HEAD
    while block := sock.recv(_BLOCK):
        data += block
        if len(data) > most:
            break  # more than it could have made; closing the socket ends it
    length = int.from_bytes(data[:_LENGTH], "little")
    try:
        head = json.loads(data[_LENGTH : _LENGTH + length])
    except (ValueError, RecursionError):
        return {}, bytearray()
    return head if isinstance(head, dict) else {}, data[_LENGTH + length :]


def _result(
    path: str | Path,
    head: Mapping[str, Any],
    data: bytearray,
    rng: torch.Generator | None,
    bounds: Bounds,
    shape: Sequence[int] = (),
) -> VideoInfo | Tensor:
    if kind := head.get("error"):
        raise _KINDS.get(str(kind), VideoError)(str(head.get("text", f"{path}: can't be read")))
    if head.get("memory"):
        raise VideoError(f"{path}: needs more than {bounds.memory} MiB of memory to be read (memory), given up")
    try:
        if "info" in head:
            found = _typed(VideoInfo, head["info"])
            assert isinstance(found, VideoInfo)
            return replace(found, path=Path(path))
        pixels = torch.frombuffer(data, dtype=torch.uint8).reshape([int(length) for length in head["shape"]])
        if shape and list(pixels.shape) != list(shape):
            raise ValueError(f"{list(pixels.shape)}, expected {list(shape)}")
        if rng is not None:
            rng.set_state(torch.frombuffer(bytearray(base64.b64decode(head["rng"])), dtype=torch.uint8))
        return to_float(pixels)
    except (ValueError, TypeError, KeyError, RuntimeError, AssertionError) as error:
        raise VideoError(f"{path}: the decoder's process sent something that is no result ({error})") from error


def _typed(kind: Any, value: Any) -> Any:
    """What JSON made of a dataclass of plain values, as it was."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{field.name: _typed(hints[field.name], value[field.name]) for field in fields(kind)})
    if get_origin(kind) is tuple:
        return tuple(_typed(get_args(kind)[0], one) for one in value)
    if kind in (Fraction, Path):
        return kind(value)
    if kind in (int, float, str, bool) and type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{value!r} where {kind.__name__} belongs")
    return value


# The waiting process of this one: its control socket, and who started it.
_LOCK = threading.Lock()
_held: tuple[int, int, socket.socket] | None = None


def _renewed() -> None:
    """A lock of its own for a process that was forked while another thread held this one."""
    global _LOCK
    _LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renewed)


@contextmanager
def _waiting() -> Iterator[socket.socket]:
    """The control socket of a process that waits for files; if anything goes wrong, another one is started next time."""
    global _held
    if sys.platform != "linux":
        raise VideoError("isolated: works on Linux only")
    if _held is not None and _held[0] != os.getpid():
        _end()  # what the process has that this one was forked from
    if _held is None:
        _held = _started()
    try:
        yield _held[2]
    except BaseException as error:
        _end()
        if isinstance(error, OSError):
            raise VideoError(f"isolated: the process that decodes is gone ({error})") from error
        raise


def _started() -> tuple[int, int, socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        code = "from kinetext.video.isolated import serve; serve()"
        # one thread: a fork has only the thread that forked, and others may hold locks
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        there = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-c", code],
            {**os.environ, **threads, "PYTHONPATH": there},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
        )
    return os.getpid(), pid, ours


@atexit.register
def _end() -> None:
    """Ends the waiting process, and so whatever it forked."""
    global _held
    if _held is None:
        return
    parent, pid, control = _held
    _held = None
    if parent == os.getpid():
        with suppress(OSError):  # it may be gone
            control.shutdown(socket.SHUT_RDWR)  # closing is not enough: processes that were forked have it, too
            os.waitpid(pid, 0)
    control.close()


def serve() -> None:
    """The life of the waiting process: control comes by its standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for who asks
    control = socket.socket(fileno=0)
    with suppress(OSError):  # who asks is gone
        while True:
            length, handles, _, _ = socket.recv_fds(control, _LENGTH, 1)
            if not length:
                return
            asked = json.loads(_exactly(control, int.from_bytes(length, "little")))
            line = json.dumps(_forked(control, handles[0], asked)).encode()
            control.sendall(len(line).to_bytes(_LENGTH, "little") + line)


def _forked(control: socket.socket, handle: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Reads one file in a fork, and says how that ended."""
    alive, dying = os.pipe()
    pid = os.fork()
    if pid == 0:
        _read(handle, asked)
    os.close(handle)
    os.close(dying)
    ended, _, _ = select.select([alive, control.fileno()], [], [], asked["seconds"])
    if alive not in ended:  # too late, or who asked is gone
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(alive)
    killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0
    return {"late": alive not in ended, "signal": killed, "code": code}


def _read(handle: int, asked: Mapping[str, Any]) -> NoReturn:
    """What the fork does."""
    code = 1
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who asked has given up
        os.close(0)  # what the waiting process hears and says is not this one's
        _limit(asked["memory"] * _MIB, asked["seconds"])
        head, data = _answer(asked)
        line = json.dumps(head, default=str).encode()
        with socket.socket(fileno=handle) as sock:
            sock.sendall(len(line).to_bytes(_LENGTH, "little") + line)
            sock.sendall(data)
        code = 0
    finally:
        os._exit(code)  # nothing of what the waiting process has open or registered is this one's to close


def _answer(asked: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    options = dict(asked["options"])
    rng = torch.Generator()
    if "rng" in options:
        rng.set_state(torch.frombuffer(bytearray(base64.b64decode(options["rng"])), dtype=torch.uint8))
        options["rng"] = rng
    if "limits" in options:
        options["limits"] = Limits(**options["limits"])
    if "region" in options:
        options["region"] = tuple(options["region"])
    try:
        if asked["name"] == "probe":
            return {"info": asdict(probe(asked["path"], **options))}, b""
        clip = to_bytes(read_clip(asked["path"], **options)).contiguous()
        state = base64.b64encode(bytes(rng.get_state().numpy())).decode()
        return {"shape": list(clip.shape), "rng": state}, np.ascontiguousarray(clip.numpy()).tobytes()
    except Exception as error:
        if _is_memory(error):
            return {"memory": True}, b""
        known = type(error).__name__ in _KINDS
        return {"error": type(error).__name__, "text": str(error) if known else f"{asked['path']}: {error!r}"}, b""


def _is_memory(error: BaseException | None) -> bool:
    """Whether memory was refused, to Python, to FFmpeg or to torch, anywhere in the chain of errors."""
    while error is not None:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _REFUSED:
            return True
        if isinstance(error, RuntimeError) and "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _limit(memory: int, seconds: float) -> None:
    """No more than ``memory`` bytes beyond what there is, no files, no core, and an end if the waiting process is killed."""
    import resource  # Unix only

    with open("/proc/self/status", encoding="ascii") as status:
        base = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    cpu = math.ceil(seconds + 1) * (os.cpu_count() or 1)
    for kind, most in (("DATA", base + memory), ("FSIZE", 0), ("CORE", 0), ("CPU", cpu)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))


def _exactly(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        block = sock.recv(length - len(data))
        if not block:
            raise ConnectionError("the other end is closed")
        data += block
    return bytes(data)
