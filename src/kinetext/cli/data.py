"""The verbs of datasets: kinetext data make, show ..."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinetext.cli.options import AsJson
from kinetext.cli.stopping import resumable

Source = Annotated[Path, typer.Argument(metavar="DIR", help="A folder with clips and a table; or a table.")]

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
    source: Source,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A PNG; FOLDER.png beside the folder if not given.")
    ] = None,
    num: Annotated[int, typer.Option(help="How many clips to show.")] = 12,
) -> None:
    """Write a contact sheet of a dataset, and list what is on it."""
    from kinetext.apps import folders, terminal

    folder = (source.parent if source.is_file() else source).resolve()
    sheet = out or folder.with_name(f"{folder.name}.png")
    rows = folders.show(source, sheet, num)
    terminal.table(str(source), ("file", "text", "labels", "split"), rows)
    if any(file for file, *_ in rows):
        typer.echo(sheet)


@verbs.command("pack")
def pack(
    source: Source,
    out: Annotated[Path, typer.Argument(help="A new folder; or an unfinished pack, which goes on.")],
    size: Annotated[
        int | None, typer.Option(help="Pixels, the side of the frames: that of the training; 128 if not given.")
    ] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames of every clip, spread over all of it; 16 if no --fps.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second instead, for random windows.")] = None,
    channels: Annotated[int | None, typer.Option(help="3 (RGB) or 1 (luma); 3 if not given.")] = None,
    fit: Annotated[str, typer.Option(help="crop, squash or pad.")] = "crop",
    region: Annotated[
        tuple[float, float, float, float], typer.Option(help="Left, top, right, bottom: the part that is looked at.")
    ] = (0.0, 0.0, 1.0, 1.0),
    exact: Annotated[bool, typer.Option("--exact", help="Keep every bit; three times as large.")] = False,
    quality: Annotated[int, typer.Option(help="Of the JPEG frames, 1 to 100.")] = 95,
    shard_mb: Annotated[int, typer.Option(help="Megabytes of a shard.")] = 256,
    workers: Annotated[int, typer.Option(help="Processes that read clips.")] = 0,
    run: Annotated[
        str | None, typer.Option(help="Pack what this run's codec makes of the clips, too; they are then as the run's.")
    ] = None,
    manifest: Annotated[str | None, typer.Option(help="The table, if not metadata.*.")] = None,
) -> None:
    """Write a dataset as training-ready tar shards; an interrupted pack goes on when it is asked for again."""
    from kinetext.apps import packing, terminal

    made = packing.Packing.asked(
        size=size, num_frames=num_frames, fps=fps, channels=channels, fit=fit, region=region, exact=exact,
        quality=quality, shard_mb=shard_mb, run=run,
    )  # fmt: skip
    with resumable(), terminal.bar("samples") as progress:
        shards = packing.pack(
            source, out, made, run=run or "", table=manifest or "", workers=workers, progress=progress
        )
    typer.echo(f"{out}: {shards} shard{'s' if shards > 1 else ''}")


@verbs.command("verify")
def verify(folder: Annotated[Path, typer.Argument(help="What kinetext data pack wrote.")]) -> None:
    """Compare every byte of packed shards with their checksums; exit code 1 where one has changed."""
    from kinetext.apps import packing, terminal

    with terminal.bar("shards") as progress:
        damaged = packing.verify(folder, progress)
    for line in damaged:
        typer.echo(line, err=True)
    if damaged:
        raise typer.Exit(1)
    typer.echo(f"{folder}: every byte is as it was packed")


@verbs.command("split")
def split(
    source: Source,
    out: Annotated[Path, typer.Option("-o", "--out", help="A new table, .csv, .jsonl or .parquet.")],
    by: Annotated[str, typer.Option(help="group, time or hash; groups are never divided.")] = "group",
    fractions: Annotated[
        str, typer.Option(help="Of the rows, for train, val and test; 0 leaves one out.")
    ] = "0.8,0.1,0.1",
    stratify: Annotated[str, typer.Option(help="By group: a column whose classes have like shares everywhere.")] = "",
    time: Annotated[str, typer.Option(help="By time: a column of numbers or dates; the newest go to test.")] = "",
    seed: Annotated[int, typer.Option(help="Another seed, another split; not by time.")] = 0,
) -> None:
    """Write a table again with a column that says train, val or test, and count what is where."""
    from kinetext.apps import tables, terminal

    try:
        parts = [float(part) for part in fractions.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--fractions {fractions}: expected three numbers, such as 0.8,0.1,0.1") from error
    made = tables.split(source, out, by=by, fractions=parts, stratify=stratify, time=time, seed=seed)
    typer.echo(made.path)
    terminal.table("", made.columns, made.rows)


@verbs.command("stats")
def stats(
    source: Source,
    probe: Annotated[bool, typer.Option("--probe", help="Open every file, too: lengths, rates, sizes.")] = False,
    as_json: AsJson = False,
    most: Annotated[int, typer.Option(help="How many classes, sizes and so on are shown; --json has all.")] = 20,
) -> None:
    """Count what stands in a table: rows, splits, classes, texts; with --probe, what its clips are."""
    from kinetext.apps import tables, terminal

    with terminal.bar("files") as progress:
        found = tables.stats(source, probe=probe, progress=progress)
    if as_json:
        _json(found)
        return
    for title, columns, rows in tables.stats_tables(found):
        terminal.table(title, columns, rows, most)


@verbs.command("diff")
def diff(
    a: Annotated[Path, typer.Argument(help="A folder with clips and a table; or a table.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    as_json: AsJson = False,
    most: Annotated[int, typer.Option(help="How many of each kind of difference are shown; --json has all.")] = 20,
) -> None:
    """Say how two tables and their files differ; exit code 1 if they do."""
    from kinetext.apps import comparing, terminal

    with terminal.bar("files") as progress:
        found = comparing.diff(a, b, progress)
    if as_json:
        _json(found.as_json())
    else:
        for title, columns, rows in comparing.diff_tables(found):
            terminal.table(title, columns, rows, most)
    if found.any():
        raise typer.Exit(1)
    if not as_json:
        typer.echo(f"{a} and {b}: no difference")


@verbs.command("import")
def convert(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="activitynet hmdb51 kinetics meld mosi msrvtt ucf101.")],
    annotations: Annotated[Path, typer.Argument(help="The list, as the dataset ships it.")],
    videos: Annotated[Path, typer.Option(help="The folder with its files.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A new table; VIDEOS/metadata.csv if not given.")
    ] = None,
    missing: Annotated[str, typer.Option(help="Entries without a file: error, or skip.")] = "error",
) -> None:
    """Write a table from the annotations of a well-known dataset."""
    from kinetext.apps import importing, terminal

    done = importing.convert(kind, annotations, videos, out, missing=missing)
    typer.echo(done.path)
    terminal.table("", tuple(done.rows), [tuple(map(str, done.rows.values()))])
    for note in done.notes:
        typer.echo(note, err=True)


@verbs.command("export")
def export(
    source: Source,
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    kind: Annotated[str, typer.Option("--format", help="fiftyone.")] = "fiftyone",
) -> None:
    """Write a dataset for another program; clips stay where they are."""
    from kinetext.apps import exporting, terminal

    with terminal.bar("files") as progress:
        done = exporting.export(source, out, kind, progress)
    typer.echo(f"{done.path}: {done.samples} samples")
    if done.texts:
        typer.echo(f"left out, without a file: {done.texts} rows", err=True)
    if done.others:
        shown = ", ".join(done.others[:5])
        typer.echo(f"left out, no videos by their names to FiftyOne: {len(done.others)} files ({shown})", err=True)


def _json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
