"""The verbs that make clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kinetext.cli.options import Device, Guidance, Seed, Steps


def generate(
    prompt: Annotated[str, typer.Argument(help="What the clip should show.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Ends in .mp4, .webm, .apng or .gif; another clip is overwritten.")
    ] = Path("clip.mp4"),
    seed: Seed = 0,
    num: Annotated[int, typer.Option(help="How many; more than one are called clip-0.mp4, clip-1.mp4 ...")] = 1,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="In place of --seed and --num: a clip for each.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    negative: Annotated[str, typer.Option(help="A text to keep away from; with --guidance above 1.")] = "",
    image: Annotated[Path | None, typer.Option(help="A picture that is the first frame.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video that the clip begins with; see --keep, --mask.")] = None,
    keep: Annotated[int | None, typer.Option(help="How many frames of --video stay; all if not given.")] = None,
    change: Annotated[Path | None, typer.Option(help="A video to change; see --strength.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of --change may change, 0 to 1; 0.7.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="A picture: where it is white, --video or --change is made anew.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="How long; longer than the model's own is no problem.")] = None,
    history: Annotated[
        int | None, typer.Option(help="With --seconds: frames that a window knows from the last; half of them.")
    ] = None,
    batch: Annotated[int, typer.Option(help="How many clips are made at once.")] = 1,
    model: Annotated[
        str | None,
        typer.Option(
            help="A shipped model or a run folder; the shipped model that knows the prompt best if not given."
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second.")] = None,
    device: Device = None,
) -> None:
    """Make clips from a prompt, and from pictures and videos where they are given.

    Stopped or out of disk while a clip is written, the same command goes on from what was made of it.
    """
    from kinetext.apps import choosing, generating, terminal
    from kinetext.making import Request
    from kinetext.pipeline import Pipeline, outputs

    request = Request(
        num=num, seed=seed, seeds=_numbers(seeds), steps=steps, guidance=guidance, fps=fps, negative=negative,
        image=image, video=video, keep=keep, change=change, strength=strength, mask=mask, seconds=seconds,
        history=history, batch=batch,
    )  # fmt: skip
    paths = outputs(out, request.clips)
    chosen = model or choosing.maker_for(prompt)
    pipeline = Pipeline.load(chosen, device)
    with terminal.bar("windows") as progress:
        left = generating.generate(pipeline, prompt, paths, request, progress)
    if model is None:
        typer.echo(f"model: {chosen}", err=True)
    for path in left:
        typer.echo(f"{path}: was there already, made in the very same way; it stays as it is", err=True)
    for path in paths:
        typer.echo(path)


def interpolate(
    clip: Annotated[Path, typer.Argument(help="A video whose frame rate is to grow.")],
    factor: Annotated[int, typer.Option(help="How many times as many frames a second.")] = 2,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="An mp4; CLIP-x2.mp4 if not given.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A shipped model or a run folder; the one that made the clip, or digits.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What the clip shows; else what its file says, or nothing.")
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    device: Device = None,
) -> None:
    """Multiply the frame rate of a clip: frames are made between those that it has, which stay as they are."""
    from kinetext.apps import terminal
    from kinetext.apps.interpolating import interpolate

    with terminal.bar("windows") as progress:
        path = interpolate(
            clip, out, factor=factor, model=model, prompt=prompt, seed=seed, steps=steps, guidance=guidance,
            device=device, progress=progress,
        )  # fmt: skip
    typer.echo(path)


def reproduce(
    clip: Annotated[Path, typer.Argument(help="An mp4 made by kinetext generate or interpolate.")],
    model: Annotated[str | None, typer.Option(help="Where the model is now, if it has moved.")] = None,
    device: Device = None,
) -> None:
    """Make a clip again from what its file says, and compare the frames."""
    from kinetext.apps import terminal
    from kinetext.apps.reproducing import reproduce

    with terminal.bar("windows") as progress:
        found = reproduce(clip, model, device, progress)
    said = found.said
    typer.echo(f"{clip}: {said['prompt']!r}, seed {said['seed']}, clip {said['index']}, model {said['model']}")
    if found.difference == 0:
        typer.echo("identical: every frame is the same")
        return
    for note in found.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"different: pixels differ by up to {found.difference} of 255")
    raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("kinetext-demo"), device: Device = None
) -> None:
    """Make a clip for each of sixteen prompts, read it back, and write a page with all of them."""
    from kinetext.apps import demo, terminal

    with terminal.bar("clips") as progress:
        shown = demo.make(out, device, progress)
    rows = [(s.prompt, s.seen(), "right" if s.right else "wrong") for s in shown]
    terminal.table("", ("prompt", "the reader sees", ""), rows)
    right = sum(s.right for s in shown)
    typer.echo(f"{right} of {len(shown)} right. Open {out / 'index.html'} to watch them.")


def _numbers(text: str | None) -> tuple[int, ...]:
    """ "1,2,3" as numbers."""
    try:
        return () if text is None else tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(
            f"--seeds {text}: expected whole numbers with commas between, such as 1,2,3"
        ) from error
