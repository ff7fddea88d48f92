"""How often a caption names exactly the digits of a clip and how they move, whatever the phrase and language.

python benchmarks/digits_captions.py runs/digits_captions data.root=../shared/data/mnist
"""

from __future__ import annotations

import sys

from kinetext import assemble
from kinetext.datasets.digits import objects_of
from kinetext.pipeline import Pipeline

CLIPS = 500


def main(name: str, overrides: list[str]) -> None:
    pipeline = Pipeline.load(name, "cpu")
    recipe = assemble.with_data(pipeline.run.recipe, overrides)
    data = assemble.dataset(recipe, "val")
    samples = [data[index] for index in range(min(CLIPS, len(data)))]
    texts = pipeline.caption([sample.video for sample in samples])
    for count in (1, 2):
        rows = [(s, t) for s, t in zip(samples, texts, strict=True) if len(s.labels["objects"]) == count]
        right = [set(objects_of(text) or ()) == set(sample.labels["objects"]) for sample, text in rows]
        if right:
            print(
                f"{count} digit{'s' * (count > 1)}: {sum(right)} of {len(right)} right ({sum(right) / len(right):.1%})"
            )
    for sample, text in list(zip(samples, texts, strict=True))[:8]:
        print(f"  {text}   ({sample.text})")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
