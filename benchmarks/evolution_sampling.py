"""Makes the clips of one run that are judged, and measures what a clip costs; a process of its own, so that its memory is its own.

    python benchmarks/evolution_sampling.py RUN FOLDER --world digits

Part of ``benchmarks/evolution.py``, which starts it. Clips are kept in pieces, so that a stopped one goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evolution_worlds import WORLDS, as_bytes, draw
from kinetext import assemble, runtime
from kinetext.checkpoint import Run, write_text
from kinetext.config import Recipe
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import Batch, RecipeError, RunError, Sample

SEED = 20_000  # of the noise of judged clips
LENGTHS = (8, 16, 32, 64)  # frames, to measure what one more costs
ENOUGH = 5.0  # seconds: what takes longer is timed once


@dataclass(frozen=True)
class Plan:
    """What clips are made; those of another plan are thrown away."""

    weights: str
    texts: str
    steps: int
    guidance: float
    batch: int
    seed: int = SEED


def is_made(folder: Path, run: Path | str) -> bool:
    """Whether ``folder`` has all clips of this very run, and what they cost."""
    if not ((folder / "costs.json").is_file() and (folder / "plan.json").is_file()):
        return False
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    try:
        return bool(plan["weights"] == assemble.open_run(str(run)).weights_hash())
    except RunError:
        return False  # it is gone, or has no weights yet


def begin(folder: Path, plan: Plan) -> None:
    """Makes the folder ready; what belongs to another plan goes."""
    path, said = folder / "plan.json", json.dumps(asdict(plan)) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != said:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(path, said)


def clock(on: torch.device) -> float:
    """Seconds of this process's work on a processor, which a busy machine does not change; on an accelerator those on the wall."""
    return time.process_time() if on.type == "cpu" else time.perf_counter()


def peak_memory(on: torch.device) -> float:
    """The most memory that this process has held, in MB: of the accelerator where it works on one."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def make(
    task: TextToVideo, batch: Batch, recipe: Recipe, first: int, on: torch.device, *, seed: int = SEED
) -> tuple[Tensor, float]:
    """Clips ``(B, C, T, H, W)`` uint8 and the seconds that one took; the noise of clip i is a function of (seed, i)."""
    rngs = [runtime.rng(seed, "clip", first + row) for row in range(len(batch))]
    began = clock(on)
    with runtime.autocast(recipe.train.precision, on):
        made = task.predict(batch.to(on), rng=rngs).video
    assert made is not None
    clips = as_bytes(made.cpu())  # the copy waits for the accelerator, so that the time is true
    return clips, (clock(on) - began) / len(batch)


def sample(run: Run, task: TextToVideo, prompts: Sequence[Sample], folder: Path, batch: int, on: torch.device) -> None:
    """Makes the clips that ``folder`` lacks, a file a batch."""
    ready = assemble.collate(run.recipe, run.meta)
    for first in range(0, len(prompts), batch):
        path = folder / f"{first:06}.npz"
        if path.is_file():
            continue
        texts = [replace(one, key=one.text or "") for one in prompts[first : first + batch]]
        clips, seconds = make(task, ready(texts), run.recipe, first, on)
        with runtime.whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, video=clips.numpy(), seconds=seconds, memory=peak_memory(on))
        print(f"{first + len(texts)} of {len(prompts)} clips, {seconds:.3f} s each", flush=True)


def pieces(folder: Path) -> list[Path]:
    """The files of clips, in order."""
    return sorted(folder.glob("[0-9]*.npz"))


def made_clips(folder: Path) -> Tensor:
    """All clips of a folder ``(N, C, T, H, W)`` uint8."""
    return torch.cat([torch.from_numpy(np.load(path)["video"]) for path in pieces(folder)])


def made_costs(folder: Path) -> tuple[float, float]:
    """Median seconds a clip over the batches, and the peak memory in MB."""
    each = [np.load(path) for path in pieces(folder)]
    return float(np.median([one["seconds"] for one in each])), max(float(one["memory"]) for one in each)


def costs(run: Run, text: Sample, on: torch.device) -> dict[str, float | str]:
    """Frames of a clip -> seconds that one takes, or why there is none.

    What a clip costs does not hang on the weights, so models of other lengths are built with fresh ones.
    """
    channels, _, height, width = run.meta.video_shape or (0, 0, 0, 0)
    found: dict[str, float | str] = {}
    for length in LENGTHS:
        meta = replace(run.meta, video_shape=(channels, length, height, width))
        try:
            task = assemble.task(run.recipe, meta).to(on).eval()
        except RecipeError as error:
            found[str(length)] = str(error)
            continue
        assert isinstance(task, TextToVideo)
        batch = assemble.collate(run.recipe, meta)([text])
        seconds = [make(task, batch, run.recipe, 0, on)[1]]
        while sum(seconds) < ENOUGH and len(seconds) < 4:
            seconds.append(make(task, batch, run.recipe, 0, on)[1])
        found[str(length)] = min(seconds)
        print(f"{length} frames: {found[str(length)]:.3f} s", flush=True)
    return found


def slope(times: Mapping[str, float | str]) -> float | None:
    """Seconds that one more frame costs, by least squares over the lengths that were measured."""
    measured = [(int(length), seconds) for length, seconds in times.items() if not isinstance(seconds, str)]
    if len(measured) < 2:
        return None
    lengths, seconds = np.array(measured).T
    return float(np.polyfit(lengths, seconds, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    asked = parser.parse_args()
    run, on = assemble.open_run(asked.run), runtime.device()
    task = assemble.restore(run).to(on)
    assert isinstance(task, TextToVideo), f"{asked.run} makes no clips"
    world = WORLDS[asked.world]
    prompts = draw(world, run.recipe, asked.clips, asked.prompts, asked.times, texts_only=True).prompts()
    texts = hashlib.sha256("\n".join(one.text or "" for one in prompts).encode()).hexdigest()
    begin(asked.folder, Plan(run.weights_hash(), texts, task.steps, task.guidance, asked.batch))
    sample(run, task, prompts, asked.folder, asked.batch, on)
    if not (asked.folder / "costs.json").is_file():
        write_text(asked.folder / "costs.json", json.dumps(costs(run, prompts[0], on)) + "\n")


if __name__ == "__main__":
    main()
