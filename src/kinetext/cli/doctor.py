"""The verb that examines a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kinetext.cli.options import AsJson


def doctor(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with clips and a table, or such a table among its clips.")
    ],
    recipe: Annotated[
        Path | None, typer.Option(help="What the data is for: its columns, its steps are measured.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A page with everything and pictures, a new .html.")] = None,
    write: Annotated[Path | None, typer.Option(help="A cleaned table, a new .csv.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a dataset before it is trained on; exit code 1 where something is an error."""
    from kinetext.apps import doctoring, terminal

    try:
        found = doctoring.examine(source, doctoring.Asked(recipe, report, write), terminal.bar)
    except KeyboardInterrupt:
        typer.echo("kinetext: stopped; what was read is kept, and the same command goes on", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    else:
        for line in doctoring.lines(found):
            typer.echo(line)
        for written in (report, write):
            if written:
                typer.echo(written)
    if found.count("error"):
        raise typer.Exit(1)
