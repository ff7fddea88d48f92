"""Options that several verbs have."""

from __future__ import annotations

from typing import Annotated

import typer

RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or a shipped model such as digits.")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="What to change in the recipe.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:1; the accelerator if there is one.")]
Seed = Annotated[int, typer.Option(help="Another seed, another clip.")]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Sampler steps, the model's own if not given; more are slower, and finer unless it was taught few. Not of every method."
    ),
]
Guidance = Annotated[float | None, typer.Option(help="How much the prompt is exaggerated; 1 is as learned.")]
