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
from torch import Tensor

from kinetext.doctor.files import frames_of
from kinetext.doctor.findings import Finding, counted
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
_LEAST_GROUPS = 3
_MOST = 4000  # rows that are looked at, as many of each group as it has
_ONE_OUT = 10  # groups up to which each is held out once
_FOLDS = 5  # of more groups
_TREES, _TREES_OF_ONE = 64, 8
_LEVEL = 0.99  # of an interval: some ten features are tried a column
_FEW_GROUPS = 8  # resamples of fewer are too much alike for an interval; labels are shuffled inside them, too
_SHUFFLES = 999


@dataclass(frozen=True)
class Score:
    """How often labels are guessed right in held-out groups.

    Args:
        accuracy: in [0, 1].
        balanced: the mean over classes of how often each is guessed right.
        low: the lower end of the 99 % interval of ``accuracy``, from resamples by group.
        high: its upper end.
        leaks: whether the labels are told above chance: see ``_Guesses``.
    """

    accuracy: float
    balanced: float
    low: float
    high: float
    leaks: bool


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
        found = [name for name, score in self.alone.items() if score.leaks]
        if self.together and self.together.leaks and not found:
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
    """Rows with a look and a label; of very many, as many of each group as fit, drawn."""
    rows = [row for row in subject.rows if row.labels.get(column) and subject.look(row)]
    if len(rows) <= _MOST:
        return rows
    drawn = np.random.default_rng(0).permutation(len(rows)).tolist()
    before: Counter[str] = Counter()
    turns = {}  # a row's place -> how many of its group were drawn before it
    for place in drawn:
        name = names[rows[place].number]
        turns[place] = before[name]
        before[name] += 1
    return [rows[place] for place in sorted(sorted(drawn, key=lambda place: turns[place])[:_MOST])]


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
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold

    count = len(set(held.tolist()))
    if count <= _ONE_OUT:
        return list(LeaveOneGroupOut().split(labels, labels, held))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of classes with fewer rows than folds, which are guessed wrong then
        folds = min(_FOLDS, count, max(Counter(labels.tolist()).values()))
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(labels, labels, held))


class _Guesses:
    """Labels to be guessed, in folds that keep groups whole.

    They are told above chance where the 99 % interval of how much more often guesses are right than the majority class,
    from resamples by group, begins above ``MARGIN``. Of few groups that interval is too narrow; then guesses must also be
    right more often than with labels shuffled inside their groups, in all but 1 of 200 shuffles.
    """

    def __init__(self, labels: Sequence[str], held: Sequence[str]) -> None:
        self.labels, self.held = np.array(labels), np.array(held)
        self.counts, self.groups = Counter(labels), len(set(held))
        self.folds = _folds(self.labels, self.held) if self.are_enough() else []
        self._known: dict[tuple[bytes, int], Score] = {}

    def are_enough(self) -> bool:
        """Whether anything can be said of them."""
        several = len(self.counts) > 1 and max(self.counts.values()) > 1
        return len(self.labels) >= _FEWEST and several and self.groups >= _LEAST_GROUPS

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
        # imported here: processes that read files, and every training, start a second sooner without
        from sklearn.ensemble import ExtraTreesClassifier

        guessed = np.empty_like(self.labels)
        for learned, asked in self.folds:
            forest = ExtraTreesClassifier(trees, min_samples_leaf=2, random_state=0, n_jobs=1)
            forest.fit(x[learned], self.labels[learned])
            guessed[asked] = forest.predict(x[asked])
        right = guessed == self.labels
        balanced = float(np.mean([right[self.labels == name].mean() for name in self.counts]))
        majority = self.labels == self.counts.most_common(1)[0][0]
        columns = torch.from_numpy(np.stack([right, majority, np.ones_like(right)], 1).astype(np.float64))

        def of(weight: Tensor) -> dict[str, float]:
            hits, often, rows = (weight @ columns).tolist()
            return {"accuracy": hits / rows, "gain": (hits - often) / rows}

        ends = intervals(self.held.tolist(), of, level=_LEVEL)
        leaks = ends["gain"][0] > MARGIN and (self.groups >= _FEW_GROUPS or self._beats_shuffles(guessed))
        return Score(float(right.mean()), balanced, *ends["accuracy"], leaks)

    def _beats_shuffles(self, guessed: NDArray[np.str_]) -> bool:
        """Whether so many guesses are right by chance in less than 1 of 200 shuffles of the labels inside each group
        (a permutation test; Good 2005, chapter 3). Guesses of a group don't depend on its own labels.
        """
        dice = np.random.default_rng(0)
        members = [np.flatnonzero(self.held == name) for name in dict.fromkeys(self.held.tolist())]
        right = int((guessed == self.labels).sum())
        as_many = 0
        for _ in range(_SHUFFLES):
            hits = sum(int((guessed[rows] == self.labels[dice.permutation(rows)]).sum()) for rows in members)
            as_many += hits >= right
        return (as_many + 1) / (_SHUFFLES + 1) < (1 - _LEVEL) / 2


def findings(shortcuts: Sequence[Shortcut], *, decided: bool = False) -> list[Finding]:
    """What leaks as files, and whether it still does as read.

    Args:
        decided: whether clips are read as a recipe says, and not as would be advised.
    """
    said = []
    for one in shortcuts:
        if one.way != "as files":
            continue
        read = next((other for other in shortcuts if other.column == one.column and other.recommended), None)
        if one.leaks():
            ended = decided and read is not None and not read.leaks()
            said.append(
                Finding(
                    "shortcut",
                    "note" if ended else "warning",
                    f"{one.column}: {_told(one)}. {_afterwards(read)}",
                    "The recipe reads clips so that it can't be seen; keep that."
                    if ended
                    else 'Read clips as squares of one size, with fit = "squash" and as many frames of each; a score without '
                    "that is not believable.",
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


def untested(subject: Subject, tested: Sequence[Shortcut]) -> list[Finding]:
    """Columns of which too few clips or groups have a label for anything to be said."""
    names = dict(zip([row.number for row in subject.rows], groups(subject.rows), strict=True))
    said = []
    for column in subject.columns:
        if column in subject.plan.multi or any(one.column == column for one in tested):
            continue
        held = [names[row.number] for row in subject.rows if row.labels.get(column) and subject.look(row)]
        if held:
            text = (
                f"{column}: {counted(len(held), 'labelled clip')} of {counted(len(set(held)), 'group')} are too few, or of one "
                "class, so that shortcuts were not looked for."
            )
            advice = f"From {_FEWEST} clips of {_LEAST_GROUPS} groups on, something can be said; see the column group."
            said.append(Finding("shortcut-untested", "note", text, advice, column=column))
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
    if read.leaks():
        return f"{how}, some of it is still there."
    score = read.together
    if score is None:
        return f"{how}, clips differ in none of it."
    return f"{how}, it is not above chance: {score.accuracy:.1%} [{score.low:.1%}, {score.high:.1%}]."
