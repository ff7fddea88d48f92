"""The shortcut test: how well does what has nothing to do with a clip's content give its label away?

File size, resolution, length, rate and mean colour alone predict each label column, in folds that keep groups together.
What is predicted above the majority class is a leak: a model can learn it instead of what is shown. The same is done with
what a model would still see of these after reading (frames of one square size, as many of each clip).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

from kinetext.doctor.files import frames_of
from kinetext.doctor.findings import Finding
from kinetext.doctor.subject import Subject
from kinetext.manifest import Row, groups
from kinetext.resampling import intervals
from kinetext.types import Progress, joined
from kinetext.video import Fit

Table = NDArray[np.float64]

TOGETHER = "these together"
FITS: tuple[Fit, ...] = ("squash", "crop", "pad")
MARGIN = 0.02  # above the majority class; less may be true, and does not matter
_FEWEST = 20  # labelled clips; below, nothing can be said
_MOST = 4000  # rows that are looked at, whole groups
_ONE_OUT = 10  # groups up to which each is held out once
_FOLDS = 5  # of more groups
_TREES, _TREES_OF_ONE = 64, 8
_LEVEL = 0.99  # of an interval: some ten features are tried a column


@dataclass(frozen=True)
class Score:
    """How often labels are guessed right in held-out groups.

    Args:
        accuracy: in [0, 1].
        balanced: the mean over classes of how often each is guessed right.
        low: the lower end of the 99 % interval of ``accuracy``, from resamples by group.
        high: its upper end.
    """

    accuracy: float
    balanced: float
    low: float
    high: float


@dataclass(frozen=True)
class Shortcut:
    """What predicts a label column without a look at the content.

    Args:
        column: of labels.
        way: "as files", or how frames are made squares: "squash", "crop" or "pad".
        recommended: whether this is how the recipe reads, or would be told to.
        chance: the share of the majority class.
        rows: with a label and a clip that can be read.
        groups: that were held out, at some time.
        together: of all features at once; None where none of them differs between clips.
        alone: feature -> its score.
    """

    column: str
    way: str
    recommended: bool
    chance: float
    rows: int
    groups: int
    together: Score | None
    alone: Mapping[str, Score]

    def leaks(self) -> tuple[str, ...]:
        """Features that predict the label above chance, best first; ``TOGETHER`` where only they do."""
        found = [name for name, score in self.alone.items() if score.low > self.chance + MARGIN]
        if self.together and self.together.low > self.chance + MARGIN and not found:
            return (TOGETHER,)
        return tuple(sorted(found, key=lambda name: -self.alone[name].accuracy))


def test(subject: Subject, progress: Progress | None = None) -> list[Shortcut]:
    """The shortcut test of every label column, as files and as read."""
    names = dict(zip([row.number for row in subject.rows], groups(subject.rows), strict=True))
    columns = [column for column in subject.columns if column not in subject.plan.multi]
    ways: list[Fit | None] = [None, *FITS]
    found, done = [], 0
    for column in columns:
        rows = _rows(subject, column, names)
        asked = _Guesses([row.labels[column] for row in rows], [names[row.number] for row in rows])
        for way in ways:
            if asked.are_enough():
                found.append(_test(subject, column, rows, asked, way))
            done += 1
            if progress:
                progress(done, len(columns) * len(ways))
    return found


def _rows(subject: Subject, column: str, names: Mapping[int, str]) -> list[Row]:
    """Rows with a look and a label; of very many, as many groups as fit."""
    rows = [row for row in subject.rows if row.labels.get(column) and subject.look(row)]
    if len(rows) <= _MOST:
        return rows
    sizes = Counter(names[row.number] for row in rows)
    order = list(sizes)
    np.random.default_rng(0).shuffle(order)
    taken: set[str] = set()
    left = _MOST
    for name in order:
        if sizes[name] <= left:
            left -= sizes[name]
            taken.add(name)
    return [row for row in rows if names[row.number] in taken]


def _test(subject: Subject, column: str, rows: Sequence[Row], asked: _Guesses, way: Fit | None) -> Shortcut:
    table = {name: np.array(values, dtype=np.float64) for name, values in _features(subject, rows, way).items()}
    table = {name: np.reshape(values, (len(rows), -1)) for name, values in table.items()}
    table = {name: values for name, values in table.items() if np.ptp(values, axis=0).max() > 0}
    few = _TREES if len(table) == 1 else _TREES_OF_ONE
    alone = {name: asked.score(values, few) for name, values in table.items()}
    together = next(iter(alone.values()), None)
    if len(table) > 1:
        together = asked.score(np.hstack(list(table.values())), _TREES)
    here = subject.plan.fit == way
    return Shortcut(column, way or "as files", here, asked.chance, len(rows), asked.groups, together, alone)


def _features(subject: Subject, rows: Sequence[Row], way: Fit | None) -> dict[str, list[object]]:
    """Name -> a number or several of each row; what is the same of every clip tells nothing, and is left out later."""
    table: dict[str, list[object]] = {}
    for row in rows:
        facts, look = subject.facts_of(row), subject.look(row)
        assert facts is not None and look is not None
        frames, aspect = frames_of(row, facts), facts.width / facts.height
        share = min(aspect, 1 / aspect)
        seconds = frames / facts.fps if facts.fps else 0.0
        if way is None:
            told: dict[str, object] = {
                "file size": facts.size,
                "resolution": (facts.width, facts.height),
                "aspect": aspect,
                "frames": frames,
                "seconds": seconds,
                "fps": facts.fps,
                "bit rate": facts.size / facts.seconds if facts.seconds else facts.size,
                "mean colour": look.colour,
            }
        else:
            colour = look.middle if way == "crop" else look.colour
            told = {"mean colour": tuple(share * v for v in colour) if way == "pad" else colour}
            if way == "pad":
                told["bars"] = aspect
            if subject.plan.num_frames:
                # of a clip that is too short, frames come twice, which can be seen
                told["repeated frames"] = min(frames, subject.plan.num_frames)
        for name, value in told.items():
            table.setdefault(name, []).append(value)
    return table


Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


def _folds(labels: NDArray[np.str_], held: NDArray[np.str_]) -> list[Fold]:
    """Rows to learn from and rows to guess, groups never divided."""
    count = len(set(held.tolist()))
    if count <= _ONE_OUT:
        return list(LeaveOneGroupOut().split(labels, labels, held))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of classes with fewer rows than folds, which are guessed wrong then
        return list(StratifiedGroupKFold(min(_FOLDS, count), shuffle=True, random_state=0).split(labels, labels, held))


class _Guesses:
    """Labels to be guessed, in folds that keep groups whole."""

    def __init__(self, labels: Sequence[str], held: Sequence[str]) -> None:
        self.labels, self.held = np.array(labels), np.array(held)
        self.counts, self.groups = Counter(labels), len(set(held))
        self.folds = _folds(self.labels, self.held) if self.are_enough() else []
        self._known: dict[tuple[bytes, int], Score] = {}

    def are_enough(self) -> bool:
        """Whether anything can be said of them."""
        return len(self.labels) >= _FEWEST and len(self.counts) > 1 and self.groups > 2

    @property
    def chance(self) -> float:
        """The share of the majority class."""
        return max(self.counts.values()) / len(self.labels)

    def score(self, x: Table, trees: int) -> Score:
        """How well ``x (N, D)`` tells them; features in the same order say the same, and are tried once."""
        places = np.stack([np.unique(values, return_inverse=True)[1] for values in x.T])
        key = (np.unique(places, axis=0).tobytes(), trees)
        if key not in self._known:
            self._known[key] = self._tried(x, trees)
        return self._known[key]

    def _tried(self, x: Table, trees: int) -> Score:
        guessed = np.empty_like(self.labels)
        for learned, asked in self.folds:
            forest = ExtraTreesClassifier(trees, min_samples_leaf=2, random_state=0, n_jobs=1)
            forest.fit(x[learned], self.labels[learned])
            guessed[asked] = forest.predict(x[asked])
        right = guessed == self.labels
        balanced = float(np.mean([right[self.labels == name].mean() for name in self.counts]))
        hits = torch.from_numpy(right.astype(np.float64))
        ends = intervals(
            self.held.tolist(), lambda weight: {"accuracy": float((weight * hits).sum() / weight.sum())}, level=_LEVEL
        )
        low, high = ends["accuracy"]
        return Score(float(right.mean()), balanced, low, high)


def findings(shortcuts: Sequence[Shortcut]) -> list[Finding]:
    """What leaks as files, and whether it still does as read."""
    said = []
    for one in shortcuts:
        if one.way != "as files":
            continue
        read = next((other for other in shortcuts if other.column == one.column and other.recommended), None)
        if one.leaks():
            said.append(
                Finding(
                    "shortcut",
                    "warning",
                    f"{one.column}: {_told(one)}. {_afterwards(read)}",
                    'Read clips as squares of one size, with fit = "squash" and as many frames of each; a score without that '
                    "is not believable.",
                    column=one.column,
                )
            )
        if read and read.leaks():
            said.append(
                Finding(
                    "shortcut-as-read",
                    "warning",
                    f'{one.column}: also as read (fit = "{read.way}"), {_told(read)}.',
                    "Look at clips of single classes; if mean colour tells, collect other places, or compare with what it reaches.",
                    column=one.column,
                )
            )
    return said


def _told(one: Shortcut) -> str:
    """Which features tell, and how well all of them do."""
    assert one.together is not None
    names = [name for name in one.leaks() if name != TOGETHER]
    which = (
        f"{joined(names)} alone tell{'s' if len(names) == 1 else ''}"
        if names
        else f"{joined(list(one.alone))} together tell"
    )
    score = one.together
    return (
        f"{which} the label: from all such features, {score.accuracy:.1%} [{score.low:.1%}, {score.high:.1%}] of the clips of "
        f"held-out groups are guessed right, where the majority class has {one.chance:.1%}"
    )


def _afterwards(read: Shortcut | None) -> str:
    if read is None:
        return ""
    how = f'Read as squares of one size (fit = "{read.way}")'
    return f"{how}, some of it is still there." if read.leaks() else f"{how}, that is gone."
