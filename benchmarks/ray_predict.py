"""`kinetext predict --ray` with 1 and 2 workers against one process: rows a second, and whether the tables are equal.

Clips of 240x240 are written to a temporary folder, and a reader of them is trained for two steps. A cluster's start
(seconds) is told apart: the rates are between the first and the last rows that arrive.

    python benchmarks/ray_predict.py [rows]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
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


def timed(pipeline: Pipeline, source: Path, out: Path, workers: int) -> tuple[float, float]:
    """Rows a second, and seconds before the first rows came; 0 workers is this process."""
    began, seen = time.perf_counter(), []

    def note(done: int, total: int) -> None:
        seen.append((done, time.perf_counter()))

    predicting.predict(pipeline, source, out, note, ray=workers > 0, workers=workers or None)
    (first, start), (last, end) = seen[workers], seen[-1]  # when the first chunk of each worker has come, they all run
    return (last - first) / (end - start), seen[0][1] - began


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
        speeds, tables = {}, {}
        for workers in (0, 1, 2):
            out = Path(name) / f"{workers}.csv"
            speeds[workers], start = timed(pipeline, folder, out, workers)
            tables[workers] = out.read_bytes()
            who = f"Ray, {workers} worker{'s' * (workers > 1)}" if workers else "one process"
            equal = "the same table" if tables[workers] == tables[0] else "ANOTHER TABLE"
            print(f"{who:16} {speeds[workers]:6.1f} rows/s, first rows after {start:4.1f} s, {equal}", flush=True)
        print(f"2 workers over 1: {speeds[2] / speeds[1]:.2f}; 1 worker over one process: {speeds[1] / speeds[0]:.2f}")


if __name__ == "__main__":
    main()
