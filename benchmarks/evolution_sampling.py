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

from evolution_worlds import ROOT, WORLDS, draw
from kinetext import assemble, runtime
from kinetext.checkpoint import Run, write_text
from kinetext.config import Recipe
from kinetext.making.settings import settings_of
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import Batch, KinetextError, RecipeError, Sample
from kinetext.video import to_bytes

SEED = 20_000  # of the noise of judged clips
LENGTHS = (8, 16, 32, 64)  # frames, to measure what one more costs
ENOUGH = 5.0  # seconds: what takes longer is timed once


@dataclass(frozen=True)
class ClipPlan:
    """What clips are made; those of another plan are thrown away.

    Args:
        weights, texts, recipe: hashes of the run's weights, of the prompts, and of what the recipe says of sampling.
        clips: how many.
        batch: made at once.
        seed: of the noise.
    """

    weights: str
    texts: str
    recipe: str
    steps: int
    guidance: float
    clips: int
    batch: int
    seed: int = SEED

    @classmethod
    def of(cls, run: Run, prompts: Sequence[Sample], batch: int) -> ClipPlan:
        """That of a run's clips of ``prompts``.

        Raises:
            KinetextError: the run makes no clips, or has no weights yet.
        """
        task = run.recipe.task
        if task.name != "text_to_video":
            raise KinetextError(f"{run.path}: makes no clips (its task is {task.name}), expected text_to_video")
        texts = _hash("\n".join(one.text or "" for one in prompts))
        steps, guidance = task.args["steps"], task.args["guidance"]
        return cls(
            run.weights_hash(),
            texts,
            _hash(settings_of(run.recipe) + run.recipe.train.precision),
            steps,
            guidance,
            len(prompts),
            batch,
        )

    def files(self, folder: Path) -> list[Path]:
        """The pieces in ``folder``, in order."""
        return [folder / f"{first:06}.npz" for first in range(0, self.clips, self.batch)]

    def is_of(self, folder: Path) -> bool:
        """Whether the clips in ``folder`` are made by it; what their own plan says nothing of is taken to be the same."""
        path = folder / "plan.json"
        if not path.is_file():
            return False
        noted = json.loads(path.read_text(encoding="utf-8"))
        return all(noted.get(name, value) == value for name, value in asdict(self).items())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_made(folder: Path, plan: ClipPlan) -> bool:
    """Whether ``folder`` has all clips of the plan, and what they cost."""
    files = [folder / "costs.json", *plan.files(folder)]
    return plan.is_of(folder) and all(path.is_file() for path in files)


def begin(folder: Path, plan: ClipPlan) -> None:
    """Makes the folder ready; what belongs to another plan goes."""
    if not plan.is_of(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    write_text(folder / "plan.json", json.dumps(asdict(plan)) + "\n")  # whole, where an older one said less


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
    clips = to_bytes(made.cpu())  # the copy waits for the accelerator, so that the time is true
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


def work(asked: argparse.Namespace) -> None:
    """Makes the clips that are asked for, and measures what they cost."""
    world, opened, on = WORLDS[asked.world], assemble.open_run(asked.run), runtime.device()
    run = Run(opened.path, assemble.with_data(opened.recipe, world.here(asked.data)), opened.meta)
    prompts = draw(world, run.recipe, asked.clips, asked.prompts, asked.times, texts_only=True).prompts()
    begin(asked.folder, ClipPlan.of(run, prompts, asked.batch))
    task = assemble.restore(run).to(on)
    assert isinstance(task, TextToVideo)
    sample(run, task, prompts, asked.folder, asked.batch, on)
    if not (asked.folder / "costs.json").is_file():
        write_text(asked.folder / "costs.json", json.dumps(costs(run, prompts[0], on)) + "\n")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data", help="with mnist in it")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    asked = parser.parse_args(words)
    try:
        work(asked)
    except KinetextError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
