"""How long tables of 1k, 10k and 100k rows take to read and check, with the files they name, and how much memory.

Run: python benchmarks/tables.py
Every number is the best of three runs in a fresh process each; the memory is what the process grew by at its peak (Linux).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from kinetext import manifest, runtime

ROWS = (1_000, 10_000, 100_000)
KINDS = ("csv", "jsonl", "parquet")
RUNS = 3


def write(root: Path, rows: int) -> None:
    """Empty files in folders of 1000, 20 clips a person, and the same table three times."""
    table = pd.DataFrame(
        {
            "file_name": [f"{i // 1000:03}/{i:06}.mp4" for i in range(rows)],
            "text": [f"a person does thing {i}" for i in range(rows)],
            "label": [f"class {i % 100}" for i in range(rows)],
            "start": [i % 7 * 0.5 for i in range(rows)],
            "end": [i % 7 * 0.5 + 4 for i in range(rows)],
            "group": [f"person {i // 20}" for i in range(rows)],
        }
    )
    for name in table["file_name"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    table.to_csv(root / "table.csv", index=False)
    table.to_json(root / "table.jsonl", orient="records", lines=True)
    table.to_parquet(root / "table.parquet")


def measure(root: Path, kind: str) -> dict[str, float]:
    """Seconds of each thing that is done with a table, and MiB at the peak, in this process."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024
    (root / "splits.csv").unlink(missing_ok=True)
    marks, worked = [time.perf_counter()], time.process_time()
    table = manifest.load(root, manifest=f"table.{kind}")
    worked = time.process_time() - worked
    marks.append(time.perf_counter())
    made = manifest.with_splits(table, seed=0)
    marks.append(time.perf_counter())
    manifest.with_splits(table, seed=0)
    marks.append(time.perf_counter())
    made.where("train"), made.classes("label")
    marks.append(time.perf_counter())
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    names = ("load", "split made", "split read", "where, classes")
    return {**{name: b - a for name, a, b in zip(names, marks, marks[1:], strict=False)}, "cpu": worked, "MiB": peak}


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
        return
    print(runtime.hardware())
    print(
        "| rows | table | load s | of the processor | s / 100k rows | split made s | split read s | where, classes s | MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for rows in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), rows)
            for kind in KINDS:
                runs = [
                    json.loads(subprocess.check_output([sys.executable, __file__, folder, kind])) for _ in range(RUNS)
                ]
                best = {name: min(run[name] for run in runs) for name in runs[0]}
                seconds, worked = best.pop("load"), best.pop("cpu")
                memory = best.pop("MiB")
                rest = " | ".join(f"{value:.3f}" for value in best.values())
                print(
                    f"| {rows:,} | {kind} | {seconds:.3f} | {worked:.3f} | {seconds * 1e5 / rows:.2f} | {rest} | {memory:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
