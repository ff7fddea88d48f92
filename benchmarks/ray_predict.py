"""`kinetext predict --ray` with 1 and 2 workers against one process: rows a second, and whether the tables are equal.

Clips of 240x240 are written to a temporary folder, and a reader of them is trained for two steps. A cluster's start
(seconds) is told apart: the rates are between the first and the last rows that arrive. On a machine that is busy with other
things only the second rate says something: rows a second of processor that the workers were given; where it is the same
for one worker and two, they scale with the processors that they get.

    python benchmarks/ray_predict.py [rows]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from kinetext import train, video
from kinetext.apps import predicting
from kinetext.config import Recipe
from kinetext.pipeline import Pipeline

FILES = 32
RECIPE = """
task.name = "classification"
encoders.video = { name = "frame_cnn", dim = 64, width = 32, depth = 1 }
data = { name = "folder", targets = ["shade"], num_frames = 8, size = 112, folds = 4 }
train = { steps = 2, batch = 2, precision = "fp32" }
"""


def make(folder: Path, rows: int) -> None:
    noise = torch.Generator().manual_seed(0)
    for number in range(FILES):
        small = torch.rand(3, 32, 30, 30, generator=noise) * 2 - 1
        video.write(folder / f"{number}.mp4", small.repeat_interleave(8, 2).repeat_interleave(8, 3), fps=16.0)
    lines = [f"{n % FILES}.mp4,{'dark' if n % 2 else 'light'},{n % FILES}" for n in range(rows)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,shade,group", *lines]) + "\n")


def spent(workers: int) -> float:
    """Seconds of processor that this process has had, or the workers."""
    if not workers:
        return time.process_time()
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            if (process / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def timed(pipeline: Pipeline, source: Path, out: Path, workers: int) -> tuple[float, float, float]:
    """Rows a second, rows a second of processor, and seconds before the first rows came; 0 workers is this process."""
    began, seen = time.perf_counter(), []

    def note(done: int, total: int) -> None:
        seen.append((done, time.perf_counter(), spent(workers)))

    predicting.predict(pipeline, source, out, note, ray=workers > 0, workers=workers or None)
    # when the first chunk of each worker has come, they all run; at the last they may be gone
    (first, start, used), (last, end, all_used) = seen[workers], seen[-2]
    return (last - first) / (end - start), (last - first) / (all_used - used), seen[0][1] - began


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    torch.set_num_threads(1)  # as a worker of Ray's has
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clips"
        folder.mkdir()
        make(folder, rows)
        run = train.start(Recipe.parse(RECIPE, [f"data.root={folder}"]), Path(name) / "run", quiet=True).path
        pipeline = Pipeline.load(run)
        print(f"{rows} rows, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
        speeds, shares, tables = {}, {}, {}
        for workers in (0, 1, 2):
            out = Path(name) / f"{workers}.csv"
            speeds[workers], shares[workers], start = timed(pipeline, folder, out, workers)
            tables[workers] = out.read_bytes()
            who = f"Ray, {workers} worker{'s' * (workers > 1)}" if workers else "one process"
            equal = "the same table" if tables[workers] == tables[0] else "ANOTHER TABLE"
            rates = f"{speeds[workers]:6.1f} rows/s, {shares[workers]:6.1f} rows/s of processor"
            print(f"{who:16} {rates}, first rows after {start:4.1f} s, {equal}", flush=True)
        print(f"2 workers over 1: {speeds[2] / speeds[1]:.2f}; 1 worker over one process: {speeds[1] / speeds[0]:.2f}")
        print(f"by processor time: {shares[2] / shares[1]:.2f} and {shares[1] / shares[0]:.2f} (1 is no loss)")


if __name__ == "__main__":
    main()
