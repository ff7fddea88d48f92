"""The rows of one split as samples without clips: what every dataset that has a table shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from kinetext.manifest.rows import RESERVED, SPLITS, Row, Split
from kinetext.manifest.splits import groups, with_fold, with_splits, with_val
from kinetext.manifest.table import Manifest, numbers
from kinetext.types import DataError, Sample, Target, check_between, joined, suggest


class Selection:
    """The rows of one split of a table: texts, labels, weights and groups of its samples. Every split has the classes of
    the whole table; an empty label cell means unlabelled.

    Args:
        table: all rows.
        split: which of them. A table without a ``split`` column is split by group, 80 / 10 / 10, and the split is written
            down beside it.
        text: column that holds the text; "" for none.
        targets: label columns to learn.
        multi: which of ``targets`` may hold several classes.
        numeric: which of ``targets`` hold numbers.
        val_share: share of the train rows, by group, to hold out as val, in [0, 0.5].
        folds: divide the rows by group into this many parts and hold out number ``fold``, from 0, as val; 0 takes the
            table's splits.
        fold: see ``folds``.
        seed: of the split or the folds that are made.

    Raises:
        DataError: an option that does not fit the table.
    """

    def __init__(
        self,
        table: Manifest,
        split: Split,
        *,
        text: str,
        targets: tuple[str, ...],
        multi: tuple[str, ...],
        numeric: tuple[str, ...],
        val_share: float,
        folds: int,
        fold: int,
        seed: int,
    ) -> None:
        if split not in SPLITS:
            raise DataError(f"split: {split!r}, expected one of {joined(SPLITS)}")
        check_between("val_share", val_share, 0, 0.5)
        _check_columns(targets, multi, numeric)
        table = with_fold(table, fold, folds, seed=seed) if folds else with_splits(table, seed=seed)
        self.table = table = with_val(table, val_share, seed=seed) if val_share else table
        check_optional("text", table.path, [name for name in table.columns if name not in RESERVED], text)
        self.text = text
        self.rows = table.where(split)
        self.splits = _splits(table, split)
        self.targets = tuple(_target(table, name, multi, numeric) for name in targets)
        self._numbers = {name: numbers(table, name) for name in numeric}
        self._groups = dict(zip([row.number for row in table.rows], groups(table.rows), strict=True))

    def __len__(self) -> int:
        return len(self.rows)

    def still(self, index: int) -> Sample:
        """The sample of ``index`` without its clip."""
        row = self.rows[index]
        labels = {target.name: self.table.names(row, target.name) for target in self.targets}
        return Sample(
            key=key_of(row),
            text=self._text(row),
            labels={name: names for name, names in labels.items() if names},
            weight=row.weight,
            group=self._groups[row.number],
        )

    def texts(self) -> Iterator[str]:
        """The text of every row that has one."""
        for row in self.rows:
            text = self._text(row)
            if text is not None:
                yield text

    def counts(self, column: str) -> tuple[int, ...]:
        """How many rows have each class of ``column``, in class order."""
        seen = Counter(name for row in self.rows for name in self.table.names(row, column))
        return tuple(seen[name] for name in self.table.classes(column))

    def numbers(self, column: str) -> tuple[float, ...]:
        """What stands in ``column``, a column of numbers, in the rows that have one."""
        return tuple(self._numbers[column][row.number] for row in self.rows if row.number in self._numbers[column])

    def _text(self, row: Row) -> str | None:
        return row.text if self.text == "text" else row.labels.get(self.text)


def key_of(row: Row) -> str:
    """The file, with its part as a media fragment (W3C, Media Fragments URI 1.0); or the row's number."""
    if row.file is None:
        return f"row {row.number}"
    if row.start is None and row.end is None:
        return row.file
    return f"{row.file}#t={row.start or 0:g}" + ("" if row.end is None else f",{row.end:g}")


def _check_columns(targets: tuple[str, ...], multi: tuple[str, ...], numeric: tuple[str, ...]) -> None:
    for option, names in (("multi", multi), ("numeric", numeric)):
        stray = [name for name in names if name not in targets]
        if stray:
            raise DataError(f"{option}: {stray[0]!r} is not one of targets ({joined(targets)})")
    both = [name for name in numeric if name in multi]
    if both:
        raise DataError(f"numeric: {both[0]!r} is also in multi; a column holds numbers or classes")


def check_optional(option: Literal["text", "group"], source: object, columns: Sequence[str], name: str) -> None:
    """Refuses a column that ``source`` does not have; texts and groups are optional, but one that is asked for by name has to
    be there.
    """
    if name not in ("", option, *columns):
        near = suggest(name, columns)
        raise DataError(f"{option}: {source} has no {option} column {name!r}{near}; it has {joined(columns)}")


def _target(table: Manifest, name: str, multi: tuple[str, ...], numeric: tuple[str, ...]) -> Target:
    if name in numeric:
        return Target(name, numeric=True)
    return Target(name, table.classes(name), multi=name in multi)


def _splits(table: Manifest, asked: Split) -> tuple[str, ...]:
    """The splits that have rows; the one that is asked for has to be among them."""
    has = {name: len(table.where(name)) for name in SPLITS}
    if not has[asked]:
        hint = "; data.val_share takes some of the train rows" if asked == "val" else ""
        raise DataError(f"split: {table.path} has no {asked} rows; it has {has}{hint}")
    return tuple(name for name in SPLITS if has[name])
