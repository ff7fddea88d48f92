"""How right the clips of a run are with other sampling settings: to choose these, with noise and, of shapes, texts that no benchmark uses.

    python benchmarks/evolution_settings.py runs/shapes --world shapes --clips 250 "" "generator.guidance_to=0.5" "task.guidance=2 task.steps=40"

A setting is changes to the run's recipe with spaces between them, "" its own. ``--benchmark`` takes the prompts and the noise of
``benchmarks/evolution.py``: for the one setting that was chosen. A line a setting, and a JSON line in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evolution_judging import Reader, by_kind
from evolution_sampling import SEED, make
from evolution_second import SECOND
from evolution_worlds import ROOT, WORLDS, World, draw, other_prompts
from kinetext import assemble, runtime
from kinetext.checkpoint import Run
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import KinetextError, RecipeError, Sample

OTHER_SEED = 31_000  # of the world and of the noise of clips by which settings are chosen
SAMPLING = (
    "task.steps", "task.guidance", "generator.guidance_from", "generator.guidance_to", "generator.late_from",
    "generator.temperature",
)  # fmt: skip


def with_setting(run: Run, setting: str) -> Run:
    """The run, sampled otherwise.

    Raises:
        RecipeError: a change to what does not belong to sampling.
    """
    changes = setting.split()
    for change in changes:
        if change.partition("=")[0] not in SAMPLING:
            raise RecipeError(f"setting {change!r}: expected a change to one of {', '.join(SAMPLING)}")
    return Run(run.path, assemble.resolve(run.recipe.changed(changes)), run.meta)


def clips_of(run: Run, prompts: Sequence[Sample], seed: int, batch: int, on: torch.device) -> tuple[Tensor, float]:
    """Clips ``(N, C, T, H, W)`` uint8, and the seconds that one took, by the clock of the benchmark."""
    task = assemble.restore(run).to(on)
    assert isinstance(task, TextToVideo), f"{run.path} makes no clips"
    ready, made, seconds = assemble.collate(run.recipe, run.meta), list[Tensor](), 0.0
    for first in range(0, len(prompts), batch):
        some = [replace(one, key=one.text or "") for one in prompts[first : first + batch]]
        clips, each = make(task, ready(some), run.recipe, first, on, seed=seed)
        made.append(clips)
        seconds += each * len(some)
    return torch.cat(made), seconds / len(prompts)


def line(row: Mapping[str, Any]) -> str:
    """One setting for a terminal."""
    parts = [row["setting"] or "its own", f"{row['seconds_per_clip']:.3f} s a clip"]
    for judge in ("reader", "second"):
        for kind, found in row.get(judge, {}).items():
            numbers = ", ".join(f"{name} {100 * share:.1f}" for name, share in found.items() if name != "interval")
            parts.append(f"{judge}, {kind}: {numbers}")
    return "; ".join(parts)


def prompts_of(world: World, run: Run, clips: int, *, benchmark: bool) -> list[Sample]:
    """``clips`` prompts of either kind: the benchmark's first, or those of the world of another seed."""
    if not benchmark:
        return other_prompts(world, run.recipe, clips, OTHER_SEED)
    sets = draw(world, run.recipe, clips, 0, 0, texts_only=True)
    return [*sets.seen.samples, *sets.unseen.samples]


def look(world: World, run: Run, asked: argparse.Namespace) -> None:
    """Prints what every setting gives."""
    on, runs = runtime.device(), [with_setting(run, setting) for setting in asked.settings or [""]]
    prompts = prompts_of(world, run, asked.clips, benchmark=asked.benchmark)
    reader = Reader(world, asked.reader or world.reader, run.meta)
    second = SECOND[world.name](world, run.recipe) if asked.second else None
    for setting, one in zip(asked.settings or [""], runs, strict=True):
        clips, seconds = clips_of(one, prompts, SEED if asked.benchmark else OTHER_SEED, asked.batch, on)
        row = {"run": asked.run, "setting": setting, "clips": asked.clips, "benchmark": asked.benchmark}
        row |= {"seconds_per_clip": seconds, "reader": by_kind(reader.read(prompts, clips).rights, asked.clips)}
        if second:
            row["second"] = by_kind(second.rights(clips, prompts)[0], asked.clips)
        print(line(row), flush=True)
        if asked.out:
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**row, "hardware": runtime.hardware()}) + "\n")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder or a shipped model")
    parser.add_argument("settings", nargs="*", help='such as "task.guidance=2 generator.guidance_to=0.5"')
    parser.add_argument("--world", choices=WORLDS, required=True)
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data", help="with mnist in it")
    parser.add_argument("--clips", type=int, default=100, help="of either kind")
    parser.add_argument("--batch", type=int, default=20, help="clips made at once")
    parser.add_argument("--reader", help="a shipped model or run folder; the world's own if not given")
    parser.add_argument("--second", action="store_true", help="ask the second judge, too")
    parser.add_argument("--benchmark", action="store_true", help="its prompts and its noise")
    parser.add_argument("--out", type=Path, help="where lines of JSON are added")
    asked = parser.parse_args(words)
    world = WORLDS[asked.world]
    try:
        run = assemble.open_run(asked.run)
        look(world, Run(run.path, assemble.with_data(run.recipe, world.here(asked.data)), run.meta), asked)
    except KinetextError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
