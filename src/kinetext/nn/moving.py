"""How the shapes of a made world move: tracks of position, scale and angle, and an arrangement in a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kinetext.nn.dice import Dice

Floats = NDArray[np.float64]

MOTIONS = ("left", "right", "up", "down", "zigzag", "bounce", "orbit", "grow", "spin")
_PLACES = 24  # arrangements that are tried


@dataclass
class Track:
    """What several shapes do, each row its own.

    Args:
        x, y: ``(N, T)``, pixels from an origin of its own, y points down.
        scale: ``(N, T)``, of the size that is told, in (0, 1].
        angle: ``(N, T)``, radians.
    """

    x: Floats
    y: Floats
    scale: Floats
    angle: Floats

    def at(self, rows: NDArray[np.intp], times: NDArray[np.intp]) -> Track:
        """Of ``rows (M,)``, the frames that ``times (N, T')`` names."""
        some = (np.take_along_axis(path[rows], times[rows], 1) for path in (self.x, self.y, self.scale, self.angle))
        return Track(*some)


def track(motions: NDArray[np.str_], dice: Dice, name: str, frames: int) -> Track:
    r"""Moves along the ways that ``motions (N,)`` names, for ``frames`` frames.

    left, right, up, down: a straight line of 24 to 32 pixels. zigzag: such a line, and across it a triangle wave of 13 to 16
    pixels and 6.5 to 8 frames. bounce: parabolas $h (1 - (2u - 1)^2)$ of 14 to 20 pixels and 6.5 to 8 frames. orbit: a
    circle with a radius of 8 to 11 pixels, once in 12 to 16 frames. grow: from 0.4 of the size to all of it. spin: 9 to 14
    degrees a frame. Which way the last four go, and where they begin, is random; "" stays.

    Args:
        name: of the throws of ``dice``.
    """
    time = np.arange(frames)
    part = time / max(1, frames - 1)

    def between(what: str, low: float, high: float) -> Floats:
        return dice.between(f"{name}/{what}", low, high)[:, None]

    def says(*ways: str) -> NDArray[np.bool_]:
        return np.isin(motions, ways)[:, None]

    way = np.where(between("way", 0, 1) < 0.5, -1.0, 1.0)
    begin = between("begin", 0, 1)
    line = between("line", 24, 32) * (part - 0.5)
    beat = (time / between("beat", 6.5, 8) + begin) % 1
    wave = between("wave", 6.5, 8) * (4 * np.abs(beat - 0.5) - 1)
    hop = -between("hop", 14, 20) * (1 - (2 * beat - 1) ** 2)
    turn = way * 2 * np.pi * (time / between("round", 12, 16) + begin)
    radius = between("radius", 8, 11)
    across = between("across", 0, 1) < 0.5  # zig-zags that go up or down
    zigzag = says("zigzag")
    x = [(says("right"), line), (says("left"), -line), (zigzag & ~across, way * line), (zigzag & across, wave),
         (says("orbit"), radius * np.cos(turn))]  # fmt: skip
    y = [(says("down"), line), (says("up"), -line), (zigzag & ~across, wave), (zigzag & across, way * line),
         (says("bounce"), hop), (says("orbit"), radius * np.sin(turn))]  # fmt: skip
    return Track(
        x=sum((np.where(chosen, path, 0.0) for chosen, path in x), np.zeros((len(motions), frames))),
        y=sum((np.where(chosen, path, 0.0) for chosen, path in y), np.zeros((len(motions), frames))),
        scale=np.where(says("grow"), 0.4 + 0.6 * part, 1.0),
        angle=np.where(says("spin"), way * np.radians(between("speed", 9, 14)) * time + 2 * np.pi * begin, 0.0),
    )


def arrange(tracks: list[Track], reach: Floats, there: NDArray[np.bool_], dice: Dice, size: int) -> None:
    """Moves tracks to random places where they stay in a frame of ``size`` pixels, and on each other as little as may be.

    Of 24 random arrangements each row takes the one where the circles about its shapes overlap least, in
    pixels summed over frames and pairs.

    Args:
        tracks: P of them, of N rows, changed in place.
        reach: ``(N, P)``, the radius of those circles in pixels.
        there: ``(N, P)``, which shapes a row has.
    """
    spots = []
    for place, one in enumerate(tracks):
        free = [(reach[:, place] - path.min(1), size - reach[:, place] - path.max(1)) for path in (one.x, one.y)]
        thrown = [dice.several(f"{axis}{place}", _PLACES) for axis in "xy"]
        spots.append(
            [low[:, None] + u * (high - low)[:, None] for (low, high), u in zip(free, thrown, strict=True)]
        )  # of x and y: (N, PLACES)
    overlap = np.zeros((len(reach), _PLACES))
    several = np.flatnonzero(there.sum(1) > 1)
    for a in range(len(tracks)):
        for b in range(a):
            rows = several[there[several, a] & there[several, b]]
            gaps = [
                (spots[a][axis] - spots[b][axis])[rows, :, None] + (path_a - path_b)[rows, None, :]
                for axis, path_a, path_b in ((0, tracks[a].x, tracks[b].x), (1, tracks[a].y, tracks[b].y))
            ]
            need = reach[rows, a, None] * tracks[a].scale[rows] + reach[rows, b, None] * tracks[b].scale[rows]
            overlap[rows] += np.maximum(0, need[:, None, :] - np.hypot(*gaps)).sum(2)
    best = overlap.argmin(1)[:, None]
    for one, (x, y) in zip(tracks, spots, strict=True):
        one.x = one.x + np.take_along_axis(x, best, 1)
        one.y = one.y + np.take_along_axis(y, best, 1)
