"""The motions of a made world, by the geometry that they promise."""

from __future__ import annotations

import numpy as np
import pytest

from kinetext.nn.dice import Dice
from kinetext.nn.moving import MOTIONS, Track, arrange, track

ROWS, FRAMES = 200, 16


def moved(motion: str) -> Track:
    return track(np.full(ROWS, motion), Dice("seed", np.arange(ROWS, dtype=np.uint64)), "one", FRAMES)


def test_straight_lines() -> None:
    for motion, axis, sign in (("left", "x", -1), ("right", "x", 1), ("up", "y", -1), ("down", "y", 1)):
        found = moved(motion)
        path, still = (found.x, found.y) if axis == "x" else (found.y, found.x)
        assert (still == 0).all()
        steps = np.diff(path)
        assert np.allclose(steps, steps[:, :1])
        assert (sign * (path[:, -1] - path[:, 0]) >= 24).all()
        assert (sign * (path[:, -1] - path[:, 0]) < 32).all()


def test_bounces_are_parabolas_on_one_floor() -> None:
    found = moved("bounce")
    assert (found.x == 0).all()
    assert found.y.max() <= 0  # up is negative: never below the floor
    assert -20 <= found.y.min() < -18
    # a constant second difference in flight, 8 h / period^2; where it touches the floor another one, upwards
    second = np.diff(found.y, 2)
    gravity = second.max(1)
    assert ((np.isclose(second, gravity[:, None], atol=1e-9)).sum(1) >= 8).all()
    assert (second.min(1) < 0).all()
    assert gravity.min() > 8 * 14 / 8**2 - 1e-9
    assert gravity.max() < 8 * 20 / 6.5**2


def test_zigzags_are_triangle_waves_along_a_line() -> None:
    found = moved("zigzag")
    straight = np.isclose(np.diff(found.x, 2), 0).all(1)
    assert 0.3 < straight.mean() < 0.7  # sideways, or up and down
    along, across = (np.where(straight[:, None], a, b) for a, b in ((found.x, found.y), (found.y, found.x)))
    assert np.allclose(np.diff(along, 2), 0)
    span = np.abs(along[:, -1] - along[:, 0])
    assert span.min() >= 24
    assert span.max() < 32
    turns = (np.diff(np.sign(np.diff(across))) != 0).sum(1)
    assert turns.min() >= 3
    assert np.abs(across).max() < 8


def test_orbits_are_circles() -> None:
    found = moved("orbit")
    radius = np.hypot(found.x, found.y)
    assert np.allclose(radius, radius[:, :1])
    assert radius.min() >= 8
    assert radius.max() < 11
    turned = np.unwrap(np.arctan2(found.y, found.x))
    speed = np.diff(turned)
    assert np.allclose(speed, speed[:, :1])
    assert (np.abs(turned[:, -1] - turned[:, 0]) > 2 * np.pi * 15 / 16 - 1e-9).all()
    assert 0.3 < (speed[:, 0] > 0).mean() < 0.7


def test_growing_and_turning_stay_in_place() -> None:
    grown, turned = moved("grow"), moved("spin")
    for found in (grown, turned):
        assert not found.x.any()
        assert not found.y.any()
    assert np.allclose(grown.scale, 0.4 + 0.6 * np.arange(16) / 15)
    speed = np.abs(np.degrees(np.diff(turned.angle)))
    assert speed.min() >= 9 - 1e-9
    assert speed.max() < 14
    assert np.allclose(speed, speed[:, :1])
    for motion in MOTIONS:
        assert (moved(motion).scale == 1).all() != (motion == "grow")
        assert (moved(motion).angle == 0).all() != (motion == "spin")


def test_arranged_tracks_stay_inside_and_mostly_apart() -> None:
    dice = Dice("seed", np.arange(ROWS, dtype=np.uint64))
    motions = np.array(MOTIONS)[np.arange(ROWS) % len(MOTIONS)]
    tracks = [track(np.roll(motions, 2 * place), dice, f"{place}", FRAMES) for place in range(3)]
    reach, there = np.full((ROWS, 3), 9.0), np.ones((ROWS, 3), bool)
    there[:50, 1:] = False
    shape = [one.x - one.x[:, :1] for one in tracks]
    arrange(tracks, reach, there, dice, 64)
    for one, before in zip(tracks, shape, strict=True):
        assert np.allclose(one.x - one.x[:, :1], before)  # moved as a whole
        for path in (one.x, one.y):
            assert path.min() >= 9 - 1e-9
            assert path.max() <= 55 + 1e-9
    gaps = [np.hypot(a.x - b.x, a.y - b.y)[50:] for a, b in ((tracks[0], tracks[1]), (tracks[1], tracks[2]))]
    assert np.mean([gap >= 18 * 0.8 for gap in gaps]) > 0.9
    # random places alone would not do
    free = [track(np.roll(motions, 2 * place), dice, f"{place}", FRAMES) for place in range(3)]
    arrange(free, reach, np.eye(3, dtype=bool)[np.zeros(ROWS, int)], dice, 64)
    plain = np.hypot(free[0].x - free[1].x, free[0].y - free[1].y)[50:]
    assert np.mean(plain >= 18 * 0.8) < 0.8


def test_a_track_can_be_looked_at_now_and_then() -> None:
    found = moved("left")
    times = np.tile(np.array([1, 3, 5]), (ROWS, 1))
    some = found.at(np.array([4, 7]), times)
    assert np.array_equal(some.x, found.x[[4, 7]][:, [1, 3, 5]])
    assert some.scale.shape == (2, 3)


def test_one_frame_is_legal() -> None:
    assert np.isfinite(track(np.array(["left"]), Dice("a", np.zeros(1, np.uint64)), "x", 1).x).all()
    with pytest.raises(IndexError):
        moved("left").at(np.array([ROWS]), np.zeros((ROWS, 1), int))
