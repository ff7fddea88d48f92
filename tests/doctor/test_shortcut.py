"""The shortcut test against what scikit-learn says of the same numbers, and against what was planted."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from kinetext.doctor import Plan, shortcut
from kinetext.doctor.facts import WHOLE, Facts
from kinetext.doctor.looking import Look
from kinetext.doctor.subject import Subject
from kinetext.manifest import Manifest, Row

COLOUR = (1.0, 2.0, 3.0)
PICTURE = base64.b64encode(bytes(8 * 16 * 16)).decode()


def subject(
    sizes: list[tuple[int, int]], labels: list[str], groups: list[str], frames: list[int] | None = None
) -> Subject:
    """Clips that differ in width, height and length only."""
    rows, facts = [], {}
    for number, (size, label, group) in enumerate(zip(sizes, labels, groups, strict=True), 1):
        count = frames[number - 1] if frames else 16
        name = f"{number}.mp4"
        rows.append(Row(number, name, None, None, None, group, "", 1.0, {"label": label}))
        shown = Look(count, 0.0, 9.0, COLOUR, COLOUR, PICTURE, (0,) * 8)
        width, height = size
        facts[name] = Facts(
            name, 1000, num_frames=count, fps=8.0, seconds=count / 8, width=width, height=height, looks={WHOLE: shown}
        )
    table = Manifest(Path(), Path("metadata.csv"), ("file_name", "group", "label"), (), tuple(rows))
    return Subject(table, Plan(targets=("label",), num_frames=8), facts=facts)


def drawn(seed: int, leak: bool) -> Subject:
    dice = np.random.default_rng(seed)
    labels = [f"class {number % 3}" for number in range(90)]
    told = [int(label[-1]) if leak else int(dice.integers(3)) for label in labels]
    sizes = [(64 + 32 * one + 2 * int(dice.integers(4)), 64) for one in told]
    return subject(sizes, labels, [f"group {number // 9}" for number in range(90)])


def test_a_leak_is_named_and_the_square_ends_it() -> None:
    found = {one.way: one for one in shortcut.test(drawn(0, leak=True))}
    files = found["as files"]
    assert files.chance == pytest.approx(1 / 3)
    assert files.together is not None
    assert files.together.accuracy == 1.0
    assert set(files.leaks()) == {"resolution", "aspect"}
    for way in ("squash", "crop"):
        assert found[way].together is None, "nothing differs between clips of one size, length and colour"
        assert found[way].leaks() == ()
    assert set(found["pad"].leaks()) == {"bars", "mean colour"}, "the bars are as wide as the clip was narrow"
    (said,) = shortcut.findings(list(found.values()))
    assert (said.code, said.severity) == ("shortcut", "warning") and "squash" in said.advice
    (said,) = shortcut.findings(list(found.values()), decided=True)  # a recipe reads so: there is nothing to be done
    assert (said.code, said.severity) == ("shortcut", "note") and "keep that" in said.advice


@pytest.mark.parametrize("seed", range(3))
def test_no_leak_where_there_is_none(seed: int) -> None:
    assert shortcut.findings(shortcut.test(drawn(seed, leak=False))) == []


def test_repeated_frames_are_still_seen() -> None:
    """Clips of 4 or 16 frames, read as 8: a model sees which ones stand still in between."""
    labels = ["short", "long"] * 30
    made = subject([(64, 64)] * 60, labels, [f"g{n // 6}" for n in range(60)], [4, 16] * 30)
    found = {one.way: one for one in shortcut.test(made)}
    assert found["squash"].leaks() == ("repeated frames",)
    assert {one.code for one in shortcut.findings(list(found.values()))} == {"shortcut", "shortcut-as-read"}


def test_scores_are_those_of_scikit_learn() -> None:
    """The same forest, asked by scikit-learn's own cross-validation: one group is held out at a time."""
    made = drawn(3, leak=False)
    (files,) = [one for one in shortcut.test(made) if one.way == "as files"]
    x = np.array([[made.facts[row.file].width, made.facts[row.file].height] for row in made.rows if row.file], float)
    y = np.array([row.labels["label"] for row in made.rows])
    groups = [row.group for row in made.rows]
    forest = ExtraTreesClassifier(shortcut._TREES_OF_ONE, min_samples_leaf=2, random_state=0)
    guessed = cross_val_predict(forest, x, y, groups=groups, cv=LeaveOneGroupOut())
    assert files.alone["resolution"].accuracy == pytest.approx((guessed == y).mean())
    per_class = [(guessed[y == name] == name).mean() for name in sorted(set(y))]
    assert files.alone["resolution"].balanced == pytest.approx(np.mean(per_class))
    assert files.alone["resolution"].low <= (guessed == y).mean() <= files.alone["resolution"].high


def test_groups_are_never_divided() -> None:
    """Width tells the group, and the group the label: a split by rows would learn it, one by groups can't."""
    labels = [f"class {number // 6 % 2}" for number in range(120)]
    groups = [f"group {number // 6}" for number in range(120)]
    widths = np.random.default_rng(0).permutation(20) * 16 + 64
    made = subject([(int(widths[number // 6]), 64) for number in range(120)], labels, groups)
    (files,) = [one for one in shortcut.test(made) if one.way == "as files"]
    assert files.groups == 20
    assert files.leaks() == ()


@pytest.mark.parametrize(("count", "rows"), [(3, 20), (5, 8)])
def test_few_groups_of_noise(count: int, rows: int) -> None:
    """Numbers that have nothing to do with the label: of 8 sets of eight such numbers, hardly one may be told to leak."""
    told = 0
    for seed in range(8):
        dice = np.random.default_rng(seed)
        held = [f"g{group}" for group in range(count) for _ in range(rows)]
        asked = shortcut._Guesses([f"class {one}" for one in dice.integers(0, 3, len(held))], held)
        told += any(asked.score(dice.normal(size=(len(held), 1)), 4).leaks for _ in range(8))
    assert told <= 1


def test_few_groups_with_a_leak() -> None:
    labels = [f"class {number % 3}" for number in range(60)]
    made = subject([(64 + 32 * int(one[-1]), 64) for one in labels], labels, [f"g{n // 20}" for n in range(60)])
    (files,) = [one for one in shortcut.test(made) if one.way == "as files"]
    assert files.groups == 3
    assert set(files.leaks()) == {"resolution", "aspect"}


def test_many_rows_of_few_groups_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cameras with more rows each than are looked at: some of each, and the leak is found."""
    monkeypatch.setattr(shortcut, "_MOST", 100)
    labels = [f"class {number % 3}" for number in range(600)]
    held = ["a"] * 20 + [f"camera {number % 3}" for number in range(580)]
    made = subject([(64 + 32 * int(one[-1]), 64) for one in labels], labels, held)
    (files,) = [one for one in shortcut.test(made) if one.way == "as files"]
    assert (files.rows, files.groups) == (100, 4)
    assert set(files.leaks()) == {"resolution", "aspect"}
    looked_at = Counter(
        row.group for row in shortcut._rows(made, "label", {row.number: row.group for row in made.rows})
    )
    assert looked_at["a"] == 20
    assert max(looked_at.values()) - sorted(looked_at.values())[1] <= 1


def test_what_is_too_little_is_said() -> None:
    labels = ["short", "long"] * 30
    made = subject([(64, 64)] * 60, labels, [f"g{n // 30}" for n in range(60)], [4, 16] * 30)
    tested = shortcut.test(made)
    assert tested == []
    (said,) = shortcut.untested(made, tested)
    assert (said.code, said.severity) == ("shortcut-untested", "note")
    assert "60 labelled clips of 2 groups" in said.text
    enough = drawn(0, leak=False)
    assert shortcut.untested(enough, shortcut.test(enough)) == []


def test_classes_of_four_rows_in_as_many_groups_as_rows() -> None:
    """Fewer rows of every class than folds: fewer folds, and no stack trace."""
    labels = [name for name in "abcdef" for _ in range(4)]
    folds = shortcut._folds(np.array(labels), np.array([str(row) for row in range(24)]))
    assert len(folds) == 4
    assert sorted(int(row) for _, guessed in folds for row in guessed) == list(range(24))
