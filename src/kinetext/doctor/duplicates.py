"""Clips that are there more than once: the same bytes, or the same pictures in another coding or size."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from kinetext.doctor.facts import Range
from kinetext.doctor.findings import Finding, counted, found
from kinetext.doctor.labels import same_name
from kinetext.doctor.looking import CELLS, TIMES, Look
from kinetext.doctor.splits import clips
from kinetext.doctor.subject import Subject, part
from kinetext.manifest import Row

Floats = NDArray[np.float32]
Words = NDArray[np.uint64]

_BLACK = 0.95
_PLAIN = 2.0  # of 255: pictures that vary less, such as one grey, are not compared
_BLOCK = 256  # clips that are held against all others at once
_PAIRS = 4096  # that are compared at once
_HASHED = (2, 5)  # frames whose hashes are compared first
_BITS = 14  # of 64 that may differ there; what was coded anew differs by 10 at most (docs/doctor.md)
_TURNS = 22  # bits of 64 that may differ in how two clips move; chance is 32
_STILL = 1.0  # mean change over time, of contrast 40; below, nothing can be said of how a clip moves
_LOOKS = 2.8  # how far the mean pictures may be apart, of contrast 40
_LOOKS_STILL = 2.0  # where nothing moves
_NOISE = 0.8  # of a codec, in how a clip moves
_MOVES = 0.25  # how far two clips may move differently, as a share of how much they move


def check(subject: Subject) -> list[Finding]:
    """Copies, and what looks like one."""
    exact = _exact(subject)
    near = _near(subject)
    return [
        *clips(subject, lambda row: content_of(subject, row)),
        *_copies(subject, exact),
        *_looking_alike(subject, near),
        *_conflicts(subject, exact, near),
    ]


def content_of(subject: Subject, row: Row) -> str | None:
    """What tells the file of a row from others: its content, or its name where it can't be read."""
    facts = subject.facts.get(row.file or "")
    return (facts.digest or row.file) if facts else row.file


def _exact(subject: Subject) -> list[list[Row]]:
    """Rows of the same stretch of the same content, where there are several."""
    places: dict[object, list[Row]] = defaultdict(list)
    for row in subject.rows:
        if content := content_of(subject, row):
            places[content, part(row)].append(row)
    return [rows for rows in places.values() if len(rows) > 1]


def _copies(subject: Subject, sets: Sequence[Sequence[Row]]) -> list[Finding]:
    """Copies inside a split; a clip may well have several texts, so rows of one file count where they say the same."""
    rows: dict[int, str] = {}
    for members in sets:
        if len({subject.split(row) for row in members}) > 1:
            continue
        said = {(row.text, tuple(sorted(row.labels.items()))) for row in members}
        if len({row.file for row in members}) > 1 or len(said) < len(members):
            rows |= {row.number: f"{row.file} = {_other(row, members).file}" for row in members}
    return found(
        "duplicate",
        "warning",
        f"{counted(len(rows), 'row shows', 'rows show')} a clip that is there more than once.",
        "Keep one of each: a copy counts twice in training, and a split made later could part them.",
        rows,
    )


def _other(row: Row, members: Sequence[Row]) -> Row:
    return next((one for one in members if one.file != row.file), next(one for one in members if one is not row))


def _near(subject: Subject) -> list[list[Row]]:
    """Rows of clips that look alike, in sets; copies count once."""
    first: dict[tuple[str, Range], list[Row]] = defaultdict(list)
    looks: dict[tuple[str, Range], Look] = {}
    for row in subject.rows:
        look, content = subject.look(row), content_of(subject, row)
        if look and look.black < _BLACK and content:
            first[content, part(row)].append(row)
            looks[content, part(row)] = look
    keys = list(first)
    # stretches of one file that overlap look alike without being copies
    sets = _joined(pairs_alike([looks[key] for key in keys], [content for content, _ in keys]))
    return [[row for place in members for row in first[keys[place]]] for members in sets]


def _looking_alike(subject: Subject, sets: Sequence[Sequence[Row]]) -> list[Finding]:
    across: dict[int, str] = {}
    within: dict[int, str] = {}
    for members in sets:
        first = {subject.split(row): row for row in reversed(members)}
        parted = len(first) > 1
        for row in members:
            other = next((one for split, one in first.items() if split != subject.split(row)), None) or _other(
                row, members
            )
            where = f", {subject.split(other)}" if parted else ""
            (across if parted else within)[row.number] = f"{row.file} ~ {other.file}{where}"
    return [
        *found(
            "near-duplicate-across-splits",
            "error",
            f"{counted(len(across), 'row shows', 'rows show')} nearly the same pictures as a row of another split "
            "(coded anew, resized or brightened): what is measured there was learned.",
            "Look at them; keep each clip in one split.",
            across,
        ),
        *found(
            "near-duplicate",
            "warning",
            f"{counted(len(within), 'row shows', 'rows show')} nearly the same pictures as another.",
            "Look at them, and keep one of each, or give them one group so that no split parts them.",
            within,
        ),
    ]


def _conflicts(subject: Subject, exact: Sequence[Sequence[Row]], near: Sequence[Sequence[Row]]) -> list[Finding]:
    findings = []
    for column in subject.columns:
        if column in subject.plan.multi:
            continue
        same, alike = _differing(subject, exact, column), _differing(subject, near, column)
        alike = {row: what for row, what in alike.items() if row not in same}
        findings += found(
            "label-conflict",
            "warning",
            f"{column}: {counted(len(same), 'row has', 'rows have')} another label than a row of the same clip.",
            "One of them is wrong; correct it, or leave these rows out.",
            same,
            column,
        )
        findings += found(
            "label-conflict-near",
            "warning",
            f"{column}: {counted(len(alike), 'row has', 'rows have')} another label than a row that looks the same.",
            "Look at them; correct the labels, or leave the copies out.",
            alike,
            column,
        )
    return findings


def _differing(subject: Subject, sets: Sequence[Sequence[Row]], column: str) -> dict[int, str]:
    """Rows whose label is another than that of a row of their set with the same text; another text may ask something else."""
    rows: dict[int, str] = {}
    for members in sets:
        asked: dict[str, dict[int, str]] = defaultdict(dict)
        for row in members:
            if label := row.labels.get(column):
                asked[(subject.text(row) or "").strip()][row.number] = label
        for labels in asked.values():
            if len(set(map(same_name, labels.values()))) > 1:
                rows |= labels
    return rows


def conflicting(subject: Subject, column: str) -> dict[int, str]:
    """Rows of the same clip that have different labels in ``column``, and which."""
    return _differing(subject, _exact(subject), column)


def pairs_alike(looks: Sequence[Look], contents: Sequence[object] = ()) -> list[tuple[int, int]]:
    """Places of clips that show nearly the same: hashes of two frames and of the movement say which to compare, in blocks of
    machine words; their small pictures decide.

    A copy keeps how a clip moves, which two clips of one camera do not share, though they look alike in the mean. What pairs
    have already joined is not compared again, so that a thousand pictures of one place are not a million pairs.

    Args:
        contents: of each clip; clips of the same content are not compared. () where each has its own.
    """
    if len(looks) < 2:
        return []
    own = np.unique([str(one) for one in contents], return_inverse=True)[1] if contents else np.arange(len(looks))
    hashes = np.array([[look.hashes[at] for at in _HASHED] for look in looks], dtype=np.uint64)
    pictures, turns, energy = _pictures(looks)
    means = pictures.mean(1).reshape(len(looks), -1)
    ready = energy >= 0
    sets = np.arange(len(looks))
    found: list[tuple[int, int]] = []
    for low in range(0, len(looks), _BLOCK):
        one, two = _candidates(hashes, slice(low, min(low + _BLOCK, len(looks))), sets)
        still = np.minimum(energy[one], energy[two]) < 2 * _STILL
        likely = ready[one] & ready[two] & (still | (np.bitwise_count(turns[one] ^ turns[two]) <= _TURNS))
        likely &= own[one] != own[two]
        one, two = one[likely], two[likely]
        near = _near_in_the_mean(means, one, two)
        one, two = one[near], two[near]
        for place in np.unique(one).tolist():
            others = two[np.searchsorted(one, place) : np.searchsorted(one, place, "right")]
            others = others[sets[others] != sets[place]]
            for start in range(0, len(others), _PAIRS):
                some = others[start : start + _PAIRS]
                same = some[_same(pictures[[place]], pictures[some], energy[[place]], energy[some])]
                if len(same):
                    sets[np.isin(sets, sets[same])] = sets[place]
                    found += [(place, other) for other in same.tolist()]
    return found


def _candidates(hashes: Words, block: slice, sets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a clip of ``block`` and a later one whose hashes are close and that are not in one set, in order."""
    first = np.bitwise_count(hashes[block, None, 0] ^ hashes[None, block.start :, 0]) <= _BITS
    one, two = np.nonzero(first)
    one, two = one + block.start, two + block.start
    later = (two > one) & (sets[one] != sets[two])
    one, two = one[later], two[later]
    close = np.bitwise_count(hashes[one, 1] ^ hashes[two, 1]) <= _BITS
    return one[close], two[close]


def _near_in_the_mean(means: Floats, one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pairs could be the same by their mean pictures ``(N, CELLS * CELLS)``: one product of matrices says it of many
    pairs, so that the others, of one camera in other light, are not looked at singly.
    """
    rows, columns = np.flatnonzero(np.bincount(one)), np.flatnonzero(np.bincount(two))
    left, right = means[rows], means[columns]
    apart = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
    most = 1.05 * _LOOKS**2 * means.shape[1]  # the product is rounded; ``_same`` decides
    near: NDArray[np.bool_] = apart[np.searchsorted(rows, one), np.searchsorted(columns, two)] <= most
    return near


def _same(one: Floats, two: Floats, moves_one: Floats, moves_two: Floats) -> NDArray[np.bool_]:
    """Which of two rows of pictures ``(P, TIMES, CELLS, CELLS)`` show nearly the same."""
    mean_one, mean_two = one.mean(1, keepdims=True), two.mean(1, keepdims=True)
    looks = np.sqrt(((mean_one - mean_two) ** 2).mean((1, 2, 3)))
    moves = np.sqrt(((one - mean_one - two + mean_two) ** 2).mean((1, 2, 3)))
    mean = (moves_one + moves_two) / 2
    still = (moves_one < _STILL) & (moves_two < _STILL)
    # of clips that hardly move, only the noise of codecs could differ
    moving = (looks <= _LOOKS) & (moves <= _NOISE * np.minimum(1, mean) + _MOVES * mean)
    same: NDArray[np.bool_] = np.where(still, looks <= _LOOKS_STILL, moving)
    return same


def _pictures(looks: Sequence[Look]) -> tuple[Floats, Words, Floats]:
    """Pictures without their brightness and contrast, 64 bits that say how each moves, and how much; -1 where it shows
    nothing.

    The bits are the signs of random projections of what is left when the mean picture is taken away: two clips differ in
    as many of them as the angle between them has of half a circle (Charikar 2002, section 3).
    """
    planes = np.random.default_rng(0).standard_normal((TIMES * CELLS * CELLS, 64)).astype(np.float32)
    pictures = np.zeros((len(looks), TIMES, CELLS, CELLS), np.float32)
    turns, energy = np.zeros(len(looks), np.uint64), np.full(len(looks), -1, np.float32)
    for place, look in enumerate(looks):
        pixels = look.pixels()
        spread = float(pixels.std())
        if spread < _PLAIN:
            continue
        pictures[place] = (pixels - pixels.mean()) / (spread + 4) * 40
        moving = (pictures[place] - pictures[place].mean(0)).ravel()
        energy[place] = np.sqrt((moving**2).mean())
        turns[place] = np.packbits(moving @ planes > 0).view(np.uint64)[0]
    return pictures, turns, energy


def _joined(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Sets of places that pairs join."""
    above: dict[int, int] = {}

    def top(place: int) -> int:
        while above.setdefault(place, place) != place:
            above[place] = place = above[above[place]]  # halves the way for whoever comes next
        return place

    for one, two in pairs:
        low, high = sorted((top(one), top(two)))
        above[high] = low
    sets: dict[int, list[int]] = defaultdict(list)
    for place in sorted(above):
        sets[top(place)].append(place)
    return list(sets.values())
