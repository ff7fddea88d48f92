"""The verbs of datasets: kinetext data make, show ..."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

verbs = typer.Typer(help="Make and look at datasets.", no_args_is_help=True)


@verbs.command("make")
def make(
    name: Annotated[str, typer.Argument(metavar="DATASET", help="Such as digits.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options; see: kinetext list data digits")
    ] = None,
    clips: Annotated[int, typer.Option(help="How many in all; a fifth of them is the val split.")] = 2000,
) -> None:
    """Write a made-up dataset as a real folder: mp4 files and metadata.csv."""
    from kinetext.apps import folders, terminal

    with terminal.bar("clips") as progress:
        folders.make(name, folder, clips, options or (), progress)
    typer.echo(folder)


@verbs.command("show")
def show(
    folder: Annotated[Path, typer.Argument(help="A folder with metadata.csv and clips.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A PNG; FOLDER.png if not given.")] = None,
    num: Annotated[int, typer.Option(help="How many clips to show.")] = 12,
) -> None:
    """Write a contact sheet of a dataset, and list what is on it."""
    from kinetext.apps import folders, terminal

    sheet = out or folder.with_name(f"{folder.resolve().name}.png")
    rows = folders.show(folder, sheet, num)
    terminal.table(str(folder), ("file", "text", "labels", "split"), rows)
    if any(file for file, *_ in rows):
        typer.echo(sheet)
