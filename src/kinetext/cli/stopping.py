"""Ctrl-C in a verb that goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C inside says that nothing is lost, and ends the command with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("kinetext: stopped; what is done is kept, and the same command goes on", err=True)
        raise typer.Exit(130) from None
