"""Tables and long lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kinetext.evaluate import Evaluation, side_by_side
from kinetext.progress import bar

__all__ = ["bar", "lines", "measured", "table"]  # the command line's own layer may not reach the bar

_MOST_CLASSES = 30  # of a column whose classes are listed one by one
_UNDER = 8  # columns that a broken line's rest is indented by


def measured(title: str, found: Evaluation) -> None:
    titles, rows, rest = side_by_side(found)
    if rows:
        table(title, ("measured", *titles), [(name, *cells) for name, cells in rows.items()])
        title = ""
    if rest:
        table(title, ("measured", "value"), [(name, f"{value:.4g}") for name, value in rest.items()])
    for column, scores in found.classes.items():
        if len(scores) <= _MOST_CLASSES:
            cells = [(s.name, f"{s.precision:.3f}", f"{s.recall:.3f}", f"{s.f1:.3f}", str(s.support)) for s in scores]
            table(column, ("class", "precision", "recall", "F1", "rows"), cells)


def lines(texts: Iterable[str]) -> None:
    """Lines on stdout: a terminal shows them broken between words, under their own indent; a file has them whole."""
    console = Console()
    for text in texts:
        plain = text.lstrip()
        indent = len(text) - len(plain)
        under = indent or _UNDER
        parts = Text(plain).wrap(console, max(20, console.width - under)) if console.is_terminal else [plain]
        for number, part in enumerate(parts):
            typer.echo(f"{' ' * (under if number else indent)}{str(part).rstrip()}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], most: int | None = None) -> None:
    """A table on stdout: all of it, or ``most`` rows and a line that says how many more there are."""
    made = Table(title=title or None, title_justify="left", title_style="bold", show_header=any(columns))
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows[:most]:
        made.add_row(*map(Text, row))  # what looks like markup in a user's text is text
    if most is not None and len(rows) > most:
        made.add_row(f"and {len(rows) - most} more")
    Console().print(made)
