"""The command line: one short function a verb. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TextIO

import typer

import kinetext
from kinetext.cli import data, making
from kinetext.cli.doctor import doctor
from kinetext.cli.options import AsJson, Changes, Device, RunName
from kinetext.cli.stopping import resumable

if TYPE_CHECKING:
    from kinetext.evaluate import Evaluation

app = typer.Typer(
    help="Models that go between text and video: make clips from text, read clips into labels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.verbs, name="data")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if show:
        typer.echo(f"kinetext {kinetext.__version__}")
        raise typer.Exit


app.command()(making.generate)
app.command()(making.interpolate)
app.command()(making.reproduce)


@app.command()
def predict(
    run: RunName,
    source: Annotated[
        Path | None, typer.Argument(help="A folder of clips, a folder with metadata.csv, or such a table; with --out.")
    ] = None,
    video: Annotated[Path | None, typer.Option(help="A clip or picture.")] = None,
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Of a source: a table that ends in .csv, .jsonl or .parquet.")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Spread a source over a Ray cluster, or this machine.")] = False,
    workers: Annotated[
        int | None, typer.Option(help="With --ray: how many; as many as processors if not given.")
    ] = None,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Classify a clip, a text, both together, or every row of a table; stopped, the same command goes on."""
    from kinetext.apps import terminal
    from kinetext.pipeline import Pipeline

    if (source is None) != (out is None) or (source is not None and (video or text)):
        raise typer.BadParameter("expected --video, --text or both; or a source and --out")
    if source is not None and as_json:
        raise typer.BadParameter("--json: of a source, --out said.jsonl writes JSON")
    if (ray and source is None) or (workers is not None and not ray):
        raise typer.BadParameter("--ray: only of a source; --workers: only with --ray")
    pipeline = Pipeline.load(run, device)
    if source is not None and out is not None:
        from kinetext.apps import predicting

        with resumable(), terminal.bar("rows") as progress:
            done = predicting.predict(pipeline, source, out, progress, ray=ray, workers=workers)
        typer.echo(done.path)
        if done.failed:
            _say(f"{done.failed} of {done.rows} rows could not be read; the column {done.why} says why")
            raise typer.Exit(1)
        return
    answer = pipeline.predict(text, video)[0]
    if as_json:
        _json(answer)
        return
    for column, said in answer.items():
        if isinstance(said, float):
            typer.echo(f"{column}: {said:.6g}")
            continue
        best = sorted(said.items(), key=lambda pair: -pair[1])[:10]
        terminal.table(column, ("class", "probability"), [(name, f"{p:.1%}") for name, p in best])


@app.command()
def embed(
    run: RunName,
    video: Annotated[Path | None, typer.Option(help="A clip or picture.")] = None,
    text: Annotated[str | None, typer.Option(help="A text.")] = None,
    device: Device = None,
) -> None:
    """Print the vectors of a clip, a text, or both, in JSON."""
    from kinetext.pipeline import Pipeline

    _json({name: x.tolist() for name, x in Pipeline.load(run, device).embed(text, video)[0].items()})


@app.command()
def caption(
    run: RunName,
    video: Annotated[Path, typer.Option(help="A clip or picture.")],
    num: Annotated[int, typer.Option(help="How many texts; several need a --temperature above 0.")] = 1,
    seed: Annotated[int, typer.Option(help="Another seed, other texts.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="0 is the likeliest text, 1 one as learned.")] = None,
    device: Device = None,
) -> None:
    """Say in words what a clip shows."""
    from kinetext.pipeline import Pipeline

    for text in Pipeline.load(run, device).caption(video, num=num, seed=seed, temperature=temperature):
        typer.echo(text)


@app.command()
def train(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe, a TOML file.")] = None,
    changes: Changes = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE if not given.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")] = None,
) -> None:
    """Train a recipe, or go on with a run."""
    from kinetext import train
    from kinetext.apps import terminal
    from kinetext.config import Recipe
    from kinetext.report import finish

    if (recipe is None) == (resume is None):
        raise typer.BadParameter("expected a recipe, or --resume RUN")
    try:
        if resume is not None:
            if changes or out:
                raise typer.BadParameter("a run goes on as it began: --resume takes no changes and no --out")
            run = train.resume(resume)
        else:
            assert recipe is not None
            run = train.start(Recipe.load(recipe, changes or ()), out or Path("runs") / recipe.stem)
    except train.Interrupted as stopped:
        if train.is_first():
            _say(str(stopped))
        raise typer.Exit(130) from stopped
    if not train.is_first():
        return  # one process of several reports
    with terminal.bar("clips") as progress:
        found = finish(run, progress)
    terminal.measured(str(run.path), found)
    typer.echo(f"report: {run.path / 'report.html'}")


@app.command()
def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run folder, or a shipped model such as digits; with --folds also a recipe."
        ),
    ],
    changes: Changes = None,
    samples: Annotated[int | None, typer.Option(help="How many held-out samples; 0 is all.")] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            help="Train the recipe anew once a fold: a number of parts of the groups, or group (leave one out)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Of the folds; RUN/folds, or runs/RECIPE-folds.")] = None,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Measure a model on held-out data, and note the numbers in its card; or cross-validate its recipe by group."""
    overrides = [*(changes or ()), *([] if samples is None else [f"evaluate.samples={samples}"])]
    if folds is not None:
        if device is not None:
            raise typer.BadParameter("--device: folds are trained where accelerate puts them; leave it out")
        _cross_validate(run, overrides, folds, out, as_json)
        return
    if out is not None:
        raise typer.BadParameter("--out: only with --folds; an evaluation is noted in the run itself")
    from kinetext.apps import terminal
    from kinetext.report import judge

    with terminal.bar("clips") as progress:
        found, kept = judge(run, overrides, device, progress)
    if as_json:
        _json(_as_json(found))
        return
    terminal.measured(run, found)
    _say(f"noted in {kept}" if kept else "the model's own card is left as it is")


def _cross_validate(name: str, changes: Sequence[str], folds: str, out: Path | None, as_json: bool) -> None:
    from kinetext import train
    from kinetext.apps import terminal
    from kinetext.apps.folds import cross_validate
    from kinetext.config import Recipe

    if folds != "group" and not folds.isdigit():
        raise typer.BadParameter(f"--folds {folds}: expected a number, or group")
    path = Path(name)
    if path.suffix == ".toml":
        recipe, where = Recipe.load(path, changes), out or Path("runs") / f"{path.stem}-folds"
    else:
        recipe, where = Recipe.load(path / "recipe.toml", changes), out or path / "folds"
    try:
        done = cross_validate(recipe, "group" if folds == "group" else int(folds), where, _say)
    except train.Interrupted as stopped:
        _say("stopped and saved; the same command goes on")
        raise typer.Exit(130) from stopped
    if as_json:
        _json({**_as_json(done.found), "folds": done.folds})
        return
    terminal.measured(f"{where}, {len(done.folds)} folds", done.found)
    typer.echo(f"report: {where / 'report.html'}")


def _as_json(found: Evaluation) -> dict[str, object]:
    return {**found.numbers, **{f"{name} (95 %)": list(ends) for name, ends in found.intervals.items()}}


@app.command("list")
def list_components(
    role: Annotated[str | None, typer.Argument(help="Such as encoders.")] = None,
    name: Annotated[str | None, typer.Argument(help="Such as transformer.")] = None,
) -> None:
    """Show the components of recipes, with their options and defaults."""
    from kinetext.apps import catalog, terminal

    if role is None:
        terminal.table("", ("role", "component", "what it is"), catalog.components())
        return
    if name is None:
        terminal.table(role, ("component", "what it is", "options"), catalog.with_options(role))
        return
    terminal.table(f"{role} {name}", ("option", "values", "default"), catalog.options_of(role, name))


app.command()(making.demo)
app.command()(doctor)


@app.command()
def pack(
    run: RunName,
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    changes: Changes = None,
    full: Annotated[bool, typer.Option("--full", help="Keep full precision instead of 16 bits.")] = False,
) -> None:
    """Write a small copy of a run, to share or to ship: best weights, recipe, card.

    Changes to the sections data and evaluate go into the copy's recipe: data.root="" forgets a folder of yours.
    """
    from kinetext.report import pack

    typer.echo(pack(run, folder, changes or (), half=not full))


def main() -> None:
    """Runs the command line; what a user can mend is one line on stderr and exit code 2."""
    warnings.showwarning = _show_warning
    try:
        app()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        _fail(str(error))
    except Exception as error:
        types = sys.modules.get("kinetext.types")  # not loaded: then the error can't be one of ours
        if types is None or not isinstance(error, types.KinetextError):
            raise
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    _say(message)
    sys.exit(2)


def _say(message: str) -> None:
    typer.echo(f"kinetext: {message}", err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if category.__module__.startswith("kinetext."):
        _say(f"warning: {message}")
    else:
        typer.echo(warnings.formatwarning(message, category, filename, lineno), err=True, nl=False)


def _json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, ensure_ascii=False, indent=1))
