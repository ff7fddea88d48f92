"""The machine: device, precision, seeds, hardware, signals, whole files. A no-op on one process."""

from __future__ import annotations

import hashlib
import os
import platform
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]
END = bytes(1)  # no signal has this number


def device(name: str | None = None) -> torch.device:
    """The device of that name; by default the accelerator if there is one, else the processor.

    Raises:
        ValueError: no such device here.
    """
    if name is None:
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        found = torch.device(name)
        torch.empty(1, device=found).sum().item()  # "meta" and a card that is not there fail here
    except (
        RuntimeError,
        AssertionError,
        ImportError,
    ) as error:  # unknown or absent; torch built without it; its plugin missing
        here = torch.accelerator.current_accelerator(check_available=True)
        count = torch.accelerator.device_count() if here else 0
        legal = ", ".join(["cpu", *(f"{here}:{number}" for number in range(count))])
        raise ValueError(
            f"device: {name!r}, expected one of {legal} on this machine ({str(error).splitlines()[0]})"
        ) from error
    return found


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that is a pure function of ``parts``: (seed, "step", 12) for instance."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(*parts: int | str, on: torch.device | None = None) -> torch.Generator:
    """A random generator seeded by ``parts``, on the processor unless told."""
    return torch.Generator(device=on or "cpu").manual_seed(seed_of(*parts))


def seed_global(seed: int, on: torch.device) -> None:
    """Seeds the global generators that dropout on device ``on`` draws from.

    ``torch.manual_seed`` would do, but where CUDA is built in and absent it formats a stack trace on
    every call: milliseconds a training step.
    """
    torch.default_generator.manual_seed(seed)
    if on.type != "cpu":
        torch.get_device_module(on).manual_seed(seed)


def has_fast_bf16(on: torch.device) -> bool:
    """Whether bfloat16 matrix products are native there (AVX-512 BF16, AMX, Ampere or later)."""
    if on.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if on.type != "cpu":
        return False
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def cpu_name() -> str:
    """The processor's own name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def hardware() -> str:
    """One line for reports: processor or accelerator, cores, torch and Python versions."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"{cpu_name()}, {cores} cores"
    if torch.cuda.is_available():
        where = f"{torch.cuda.get_device_name()} ({torch.cuda.device_count()}), {where}"
    return f"{where}, torch {torch.__version__}, Python {sys.version.split()[0]}"


@contextmanager
def autocast(precision: Precision, on: torch.device) -> Iterator[None]:
    """Runs the inside in bfloat16 where asked for and possible.

    Args:
        precision: "bf16" always, "fp32" never, "auto" where the hardware has bfloat16 products.
    """
    use = precision == "bf16" or (precision == "auto" and has_fast_bf16(on))
    with torch.autocast(on.type, torch.bfloat16, enabled=use):
        yield


def compile_blocks(module: torch.nn.Module) -> None:
    """Compiles repeated blocks and convolution stacks in place: most of the gain of compiling the whole,
    at a fraction of the compile time.
    """
    # modules share the compiled versions of their calls: a rewarded step needs some 25 for its kinds and shapes
    torch._dynamo.config.recompile_limit = max(32, torch._dynamo.config.recompile_limit)
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            for block in child:
                block.compile(dynamic=False)
        elif isinstance(child, torch.nn.Sequential):
            child.compile(dynamic=False)
        else:
            compile_blocks(child)


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a wish that the loop grants after its step."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Inside, signals ask; a second Ctrl-C interrupts at once. Only the main thread may listen."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {number: signal.signal(number, self._ask) for number in numbers}
        except ValueError:  # not the main thread: signals go to whoever is
            before = {}
        try:
            with _sparing_children() if before else nullcontext():
                yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _sparing_children() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C, which a terminal sends to all of them: a compiler that it
    ended would fail the step, and leave half a library in its cache.

    They inherit that this thread does not hear it. Another one does, says so at once, and wakes this one, which may
    wait for them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    with ExitStack() as undone:
        heard, hears = os.pipe()
        undone.callback(os.close, heard)
        undone.callback(os.close, hears)
        os.set_blocking(hears, False)
        listener = threading.Thread(target=_answer, args=(heard, threading.get_ident()), daemon=True)
        listener.start()  # it hears, having been started before the mask is set
        undone.callback(listener.join)
        undone.callback(os.write, hears, END)  # closing it is not enough: workers that were forked have it, too
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        undone.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        undone.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(hears, warn_on_full_buffer=False))
        yield


def _answer(heard: int, waiting: int) -> None:
    """Tells the first Ctrl-C of those whose numbers come out of a pipe, until the end does, and wakes the thread ``waiting``
    at each: by a signal that it does hear, and that asks for no more than the first Ctrl-C did.
    """
    told = False
    while (number := os.read(heard, 1)) != END:
        if number[0] != signal.SIGINT:
            continue
        if not told:
            os.write(2, b"\nstopping after this step, and saving; Ctrl-C again stops at once\n")
            told = True
        signal.pthread_kill(waiting, signal.SIGTERM)


def cache_folder() -> Path:
    """Where is kept what can be made again: $KINETEXT_CACHE, else kinetext in $XDG_CACHE_HOME, else in ~/.cache."""
    if own := os.environ.get("KINETEXT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinetext"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and goes away when it does not.

    Raises:
        OSError: the folder can't be written; callers say what that means for the user.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        with suppress(OSError):  # the file is in its place; some network disks can't flush a folder
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk: a power cut must not leave a new name on old bytes."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
