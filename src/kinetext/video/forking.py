"""The process that decodes files of strangers: it has imported everything, waits, and forks for each file.

A fork reads, sends what it read and ends, so what one file does to a decoder, it does to no other, and a fork costs
milliseconds where a start costs seconds. ``isolated`` starts and asks it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import select
import signal
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from kinetext.video import answers
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.looking import extent
from kinetext.video.probing import probe
from kinetext.video.reader import VideoReader
from kinetext.video.sampling import Choice

READY = b"!"
_MIB = 1 << 20
_REFUSED = (errno.ENOMEM, errno.EAGAIN)  # memory; a thread, for want of memory for its stack
_SHAPE = ("size", "channels", "fit", "region")  # what read_clip takes of a reader; the rest chooses frames
_PARENT_DIES = 1  # prctl's PR_SET_PDEATHSIG


def serve() -> None:
    """The life of the waiting process: control comes by its standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for who asks
    control = socket.socket(fileno=0)
    with suppress(OSError):  # who asks is gone
        control.sendall(READY)
        while True:
            length, handles, _, _ = socket.recv_fds(control, 8, 1)
            if not length:
                return
            asked = json.loads(exactly(control, int.from_bytes(length, "little")))
            line = json.dumps(_forked(control, handles[0], asked)).encode()
            control.sendall(len(line).to_bytes(8, "little") + line)


def exactly(sock: socket.socket, length: int) -> bytes:
    """So many bytes.

    Raises:
        ConnectionError: the other end was closed before.
    """
    data = bytearray()
    while len(data) < length:
        block = sock.recv(length - len(data))
        if not block:
            raise ConnectionError("the other end is closed")
        data += block
    return bytes(data)


def _forked(control: socket.socket, handle: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Reads one file in a fork, and says how that ended."""
    alive, dying = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        _read(handle, asked, parent)
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


def _read(handle: int, asked: Mapping[str, Any], parent: int) -> NoReturn:
    """What the fork does."""
    code = 1
    try:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # who asked has given up
        os.close(0)  # what the waiting process hears and says is not this one's
        ctypes.CDLL(None).prctl(_PARENT_DIES, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(code)
        _limit(asked["memory"] * _MIB, asked["seconds"])
        head, data = _answer(asked)
        with socket.socket(fileno=handle) as sock:
            sock.sendall(answers.packed(head, len(data)))
            if data:  # who asked may have closed after all of it, and sending nothing is an error then, too
                sock.sendall(data)
        code = 0
    finally:
        os._exit(code)  # nothing of what the waiting process has open or registered is this one's to close


def _answer(asked: Mapping[str, Any]) -> tuple[dict[str, Any], memoryview]:
    path, options = Path(asked["path"]), dict(asked["options"])
    if "limits" in options:
        options["limits"] = Limits(**options["limits"])
    try:
        if asked["name"] == "probe":
            return {"info": asdict(probe(path, **options))}, memoryview(b"")
        if asked["name"] == "extent":
            return {"reach": extent(path, **options)}, memoryview(b"")
        return _clip(path, options)
    except Exception as error:
        if _is_memory(error):
            return {"memory": True}, memoryview(b"")
        known = type(error).__name__ in answers.KINDS
        return {"error": type(error).__name__, "text": str(error) if known else f"{path}: {error!r}"}, memoryview(b"")


def _clip(path: Path, options: dict[str, Any]) -> tuple[dict[str, Any], memoryview]:
    """The bytes of a clip's frames ``(T, C, H, W)``, and where chance stands after."""
    rng, begin = torch.Generator(), options.pop("rng", None)
    if begin is not None:
        answers.go_on(rng, begin)
    shape = {name: options.pop(name) for name in _SHAPE if name in options}
    if "region" in shape:
        shape["region"] = tuple(shape["region"])
    limits = options.pop("limits", LIMITS)
    choice = Choice(**options)
    choice.check(None if begin is None else rng)
    with VideoReader(path, limits=limits, **shape) as reader:
        pixels = reader.frames_at(choice.numbers(path, reader.line, rng)).pixels
    # as they lie in memory, so that nothing is copied; floats would be four times as many bytes
    return {"rng": answers.state(rng)}, pixels.permute(0, 3, 1, 2).contiguous().numpy().reshape(-1).data


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
    """No more than ``memory`` bytes beyond what there is, no files, no core, and no more time than all processors have."""
    import resource  # Unix only

    with open("/proc/self/status", encoding="ascii") as status:
        base = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    cpu = math.ceil(seconds + 1) * (os.cpu_count() or 1)
    for kind, most in (("DATA", base + memory), ("FSIZE", 0), ("CORE", 0), ("CPU", cpu)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))
