"""Processes, some at a time and each after what it needs.

Part of ``benchmarks/evolution.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kinetext import runtime
from kinetext.checkpoint import write_text

PAUSE = 0.5  # seconds between two looks at what runs


def alone() -> bool:
    """Whether there is no accelerator."""
    return runtime.device().type == "cpu"


@dataclass
class Job:
    """A process to run, and what must be finished before."""

    name: str
    command: list[str]
    log: Path
    needs: tuple[str, ...] = ()
    usage: Path | None = None  # where its peak memory is noted


def work(jobs: Sequence[Job], at_once: int) -> list[str]:
    """Runs processes, ``at_once`` at a time and each after what it needs; names those that failed.

    Raises:
        KeyboardInterrupt: after all of them have stopped; trainings save first.
    """
    waiting, running, failed = list(jobs), dict[int, tuple[Job, subprocess.Popen[bytes]]](), list[str]()
    try:
        while waiting or running:
            busy = {job.name for job in waiting} | {job.name for job, _ in running.values()}
            for job in [job for job in waiting if not busy & set(job.needs)][: at_once - len(running)]:
                waiting.remove(job)
                if set(job.needs) & set(failed):
                    failed.append(job.name)
                    continue
                print(f"{job.name}: started, see {job.log}", flush=True)
                process = _start(job)
                running[process.pid] = (job, process)
            failed += _ended(running)
            time.sleep(PAUSE if running else 0)
    finally:
        for _, process in running.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        while running:
            _ended(running)
            time.sleep(PAUSE)
    return failed


def _start(job: Job) -> subprocess.Popen[bytes]:
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if alone() else {}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        # a group of its own: a terminal's Ctrl-C reaches this process alone, which then stops the others once
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, **one_thread},
        )  # fmt: skip


def _ended(running: dict[int, tuple[Job, subprocess.Popen[bytes]]]) -> list[str]:
    """Takes out the processes that have ended, and names those that failed."""
    failed = []
    for pid, (job, process) in list(running.items()):
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if not done:
            continue
        del running[pid]
        process.returncode = os.waitstatus_to_exitcode(status)
        if job.usage:
            before = json.loads(job.usage.read_text()) if job.usage.is_file() else {"peak_kb": 0}
            peak = usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
            write_text(job.usage, json.dumps({"peak_kb": max(before["peak_kb"], peak)}) + "\n")
        print(f"{job.name}: {'done' if process.returncode == 0 else f'ended with {process.returncode}'}", flush=True)
        if process.returncode:
            failed.append(job.name)
    return failed
