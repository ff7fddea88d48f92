"""Tables and bars for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from kinetext.evaluate import Evaluation, side_by_side
from kinetext.types import Progress as Told

_MOST_CLASSES = 30  # of a column whose classes are listed one by one


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


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    made = Table(title=title or None, title_justify="left", title_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))  # what looks like markup in a user's text is text
    Console().print(made)


@contextmanager
def progress(what: str) -> Iterator[Told]:
    """A bar on stderr, for a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
