"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kinetext.evaluate import Evaluation, side_by_side
from kinetext.progress import bar

__all__ = ["bar", "measured", "table"]  # the command line's own layer may not reach the bar

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
