"""The machine: device, precision, seeds, hardware. A no-op on one process."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

import torch


def device() -> torch.device:
    """The accelerator if there is one, else the processor."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that is a pure function of ``parts``: (seed, "step", 12) for instance."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng(*parts: int | str, on: torch.device | None = None) -> torch.Generator:
    """A random generator seeded by ``parts``, on the processor unless told."""
    return torch.Generator(device=on or "cpu").manual_seed(seed_of(*parts))


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
