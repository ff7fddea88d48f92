"""Whether readers of clips live on what leaks: the size and shape of a file's picture, or what stands still in it.

    python benchmarks/leaks.py FOLDS [FOLDS ...]

FOLDS is a folder that `kinetext evaluate ... --folds` wrote. Every fold's model judges the clips that it has not seen: as they are;
with a margin of 8 % cut off each side, so that the crop is another one; and as stills, their first frame all along,
which have the size, shape and scene of the clip, and no action.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kinetext import assemble
from kinetext.config import Recipe
from kinetext.evaluate import Tally
from kinetext.interfaces import Dataset
from kinetext.runtime import hardware
from kinetext.types import Sample

VIEWS = {"as they are": (), "another crop": ("data.region=[0.08, 0.08, 0.92, 0.92]",), "stills": ()}


class Stills:
    """A dataset's clips with their first frame all along."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, draws: list[int]) -> list[Sample]:
        samples = self.data.__getitems__(draws)
        return [
            Sample(s.key, s.video[:, :1].expand_as(s.video).contiguous(), s.text, s.labels, s.weight, s.group)
            for s in samples
            if s.video is not None
        ]


def main() -> None:
    print(hardware())
    print("| folds | view | accuracy | 95 % of resamples by group | majority |\n|---|---|---|---|---|")
    for folder in map(Path, sys.argv[1:]):
        for view, changes in VIEWS.items():
            tally = None
            for path in sorted(folder.glob("fold-*")):
                run = assemble.open_path(path)
                recipe: Recipe = assemble.with_data(run.recipe, changes)
                data = assemble.dataset(recipe, "val")
                task = assemble.restore(run)
                tally = tally or Tally(task, recipe, "val")
                tally.add(task, run.meta, Stills(data) if view == "stills" else data)  # type: ignore[arg-type]
            assert tally is not None
            found = tally.found()
            name = next(n for n in found.numbers if n.endswith("/accuracy"))
            low, high = found.intervals[name]
            majority = found.numbers[name.replace("/accuracy", "/majority_accuracy")]
            print(
                f"| {folder} | {view} | {100 * found.numbers[name]:.1f} | {100 * low:.0f} to {100 * high:.0f} | {100 * majority:.1f} |"
            )


if __name__ == "__main__":
    main()
