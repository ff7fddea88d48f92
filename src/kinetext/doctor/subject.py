"""What is examined: a table, what it is meant for, and what its files hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kinetext.doctor.facts import Facts, Range
from kinetext.doctor.looking import Look
from kinetext.manifest import RESERVED, Manifest, Row, is_classes
from kinetext.text import TokenizerName
from kinetext.video import Fit


@dataclass(frozen=True)
class Plan:
    """What the data is meant for: the part of a recipe that concerns it.

    Args:
        targets: label columns; None finds those that look like labels.
        multi: which of them hold several classes, separated by "|".
        numeric: which of them hold numbers.
        text: the column of texts, "" for none.
        tokenizer: how a text is cut into tokens; None where a pretrained tokeniser does that.
        max_tokens: the longest text that is read whole, 0 where nothing is decided.
        num_frames: frames that a clip is read as, 0 where nothing is decided.
        fit: how a frame becomes a square.
        own_splits: whether the table's own splits are used, and not folds.
        decided: whether a recipe says so.
    """

    targets: tuple[str, ...] | None = None
    multi: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    text: str = "text"
    tokenizer: TokenizerName | None = "word"
    max_tokens: int = 0
    num_frames: int = 0
    fit: Fit = "squash"
    own_splits: bool = True
    decided: bool = False


@dataclass(frozen=True)
class Subject:
    """A table and all that is known of it.

    Args:
        table: its rows, also broken ones.
        plan: what it is meant for.
        broken: row number -> what is wrong with a row on its own.
        facts: file -> what it holds; empty where files were not read.
    """

    table: Manifest
    plan: Plan
    broken: Mapping[int, str] = field(default_factory=dict)
    facts: Mapping[str, Facts] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in table order."""
        return self.table.rows

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of classes."""
        named = self.plan.targets
        known = [name for name in self.table.columns if name not in RESERVED and name != self.plan.text]
        if named is None:
            return tuple(name for name in known if name not in self.plan.numeric and self._has_classes(name))
        return tuple(name for name in named if name in known and name not in self.plan.numeric)

    def names(self, row: Row, column: str) -> tuple[str, ...]:
        """The classes of a row in a column; () where it is unlabelled."""
        return self.table.names(row, column)

    def text(self, row: Row) -> str | None:
        """The text of a row."""
        return row.text if self.plan.text == "text" else row.labels.get(self.plan.text)

    def split(self, row: Row) -> str:
        """The split of a row, "" where none is decided yet."""
        return row.split if self.plan.own_splits else ""

    def facts_of(self, row: Row) -> Facts | None:
        """What the file of a row holds, where it can be read."""
        facts = self.facts.get(row.file or "")
        return facts if facts and not facts.trouble else None

    def look(self, row: Row) -> Look | None:
        """What the clip of a row shows."""
        facts = self.facts_of(row)
        one = facts.looks.get(part(row)) if facts else None
        return one if isinstance(one, Look) else None

    def _has_classes(self, column: str) -> bool:
        """Whether a column looks like labels, and tells rows apart."""
        names = {name for row in self.rows for name in self.names(row, column)}
        return len(names) > 1 and is_classes(self.table, column)


def part(row: Row) -> Range:
    """The stretch of its file that a row names; a start of 0 is none."""
    return row.start or None, row.end
