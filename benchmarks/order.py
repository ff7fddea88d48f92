"""What the order of a training costs: its first batch, and one in its thousandth epoch, as a resumed run asks for.

    python benchmarks/order.py

Beside a ``randperm`` of all rows, which earlier versions drew in every epoch. Memory is the most that Python allocated
meanwhile; milliseconds are the best of five.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import torch

from kinetext import runtime
from kinetext.datasets.loader import Draws

ROWS = (1_000, 100_000, 10_000_000, 1_000_000_000)
BATCH, TIMES = 16, 5


def first_batch(rows: int, epoch: int) -> list[int]:
    """The first batch of an epoch."""
    return next(iter(Draws(rows, BATCH, seed=0, start=epoch * rows // BATCH)))


def milliseconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(TIMES):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return 1e3 * best


def kilobytes(work: Callable[[], object]) -> float:
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 1e3


def main() -> None:
    print(f"{runtime.hardware()}\n\n| rows | first batch | a batch in epoch 1000 | randperm |\n|---|---|---|---|")
    for rows in ROWS:
        cells = []
        for epoch in (0, 1000):
            work = partial(first_batch, rows, epoch)
            cells.append(f"{milliseconds(work):.2f} ms, {kilobytes(work):.0f} kB")
        drawn = f"{milliseconds(partial(torch.randperm, rows)):.2f} ms, " if rows <= 10**7 else ""
        print(f"| {rows:,} | {' | '.join(cells)} | {drawn}{8 * rows / 1e3:,.0f} kB |", flush=True)


if __name__ == "__main__":
    main()
