"""The verb that examines a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kinetext.cli.options import AsJson
from kinetext.cli.stopping import resumable


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
    with resumable():
        from kinetext.apps import doctoring, terminal

        found = doctoring.examine(source, doctoring.Asked(recipe, report, write), terminal.bar)
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False, indent=1))
    else:
        terminal.lines(doctoring.lines(found))
        for written in (report, write):
            if written and written.exists():
                typer.echo(written)
    if found.unwritten:
        from kinetext.types import DataError

        raise DataError(found.unwritten)
    if found.count("error"):
        raise typer.Exit(1)
