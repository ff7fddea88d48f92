"""Anti-aliased shapes: their areas and points in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from kinetext.nn.drawing import REACH, SHAPES, coverage, paint
from kinetext.nn.moving import Track

# of a radius of 1; a pentagram of circumradius 1 has ten triangles of height h = cos 72 about its centre, less the overlap
AREAS = {
    "circle": np.pi,
    "square": 4.0,
    "triangle": 3 * 3**0.5 / 4,
    "star": 10 * 0.5 * (np.cos(2 * np.pi / 5) / np.cos(np.pi / 5)) * np.sin(np.pi / 5),
}


def drawn(shape: str, radius: float, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    grid = np.arange(64, dtype=np.float32)[None] + 0.5 - 32
    sizes = (np.array([radius], np.float32), np.array([angle], np.float32))
    return coverage(shape, grid - np.float32(shift[0]), grid - np.float32(shift[1]), *sizes)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
def test_areas(shape: str, angle: float) -> None:
    for radius in (9.0, 15.0):
        covered = drawn(shape, radius, angle, (0.3, -0.2))
        assert covered.dtype == np.float32
        assert covered.min() >= 0
        assert covered.max() == 1
        # the tips of a star are thinner than a pixel, where coverage by distance is a little off
        assert covered.sum() == pytest.approx(AREAS[shape] * radius**2, rel=0.03 if shape == "star" else 0.01)


def test_circle_and_square_are_exact_where_they_must() -> None:
    square = drawn("square", 5.25)
    assert square[27:37, 27:37].min() == 1
    quarters = [square[32, 26], square[32, 37], square[26, 32], square[37, 32]]  # of a pixel
    assert quarters == pytest.approx([0.25] * 4, abs=1e-5)
    circle = drawn("circle", 10.0)
    assert np.allclose(circle, circle.T)
    assert circle[34, 41] == pytest.approx(0.5 - (np.hypot(9.5, 2.5) - 10), abs=1e-5)


@pytest.mark.parametrize(("shape", "tips"), [("triangle", 3), ("star", 5)])
def test_tips_point_up_and_stand_evenly(shape: str, tips: int) -> None:
    covered = drawn(shape, 20.0)
    ys, xs = np.nonzero(covered > 0.2)
    away, direction = np.hypot(xs - 31.5, ys - 31.5), np.arctan2(ys - 31.5, xs - 31.5)
    assert away.max() <= 20.0 * REACH[shape] + 1
    for k in range(tips):
        want = -np.pi / 2 + 2 * np.pi * k / tips
        gap = np.abs((direction - want + np.pi) % (2 * np.pi) - np.pi)
        assert away[gap < 0.15].max() > 18
        between = np.abs((direction - want - np.pi / tips + np.pi) % (2 * np.pi) - np.pi)
        assert away[between < 0.12].max() < 12  # the middle of a side, or an inner corner


def test_turning_by_the_symmetry_changes_nothing() -> None:
    for shape, fold in (("square", 4), ("triangle", 3), ("star", 5)):
        assert np.allclose(drawn(shape, 9.0), drawn(shape, 9.0, 2 * np.pi / fold), atol=1e-4)
        assert not np.allclose(drawn(shape, 9.0), drawn(shape, 9.0, np.pi / fold), atol=0.3)


def test_paint_draws_one_clip_of_several() -> None:
    video = np.full((3, 2, 4, 32, 32), 0.25, np.float32)
    still = np.full((1, 4), 0.0)
    places = Track(still + 10.5, still + 20.5, still + 1, still)
    paint(video, np.array([1]), "circle", np.array([6.0]), places, np.array([[1.0, -1.0]], np.float32))
    assert (video[[0, 2]] == 0.25).all()
    assert np.allclose(video[1, 0, :, 20, 10], 1)
    assert np.allclose(video[1, 1, :, 20, 10], -1)
    share = (video[1, 0, 0] - 0.25) / 0.75
    assert share.sum() == pytest.approx(np.pi * 36, rel=0.01)
    ys, xs = np.indices((32, 32)) + 0.5
    assert (share * xs).sum() / share.sum() == pytest.approx(10.5, abs=0.01)
    assert (share * ys).sum() / share.sum() == pytest.approx(20.5, abs=0.01)


def test_what_is_painted_later_lies_above() -> None:
    video = np.zeros((1, 1, 1, 32, 32), np.float32)
    place = Track(*(np.full((1, 1), value) for value in (16.0, 16.0, 1.0, 0.0)))
    for shape, radius, colour in (("square", 8.0, 1.0), ("circle", 4.0, -1.0)):
        paint(video, np.array([0]), shape, np.array([radius]), place, np.array([[colour]], np.float32))
    assert video[0, 0, 0, 16, 16] == -1
    assert video[0, 0, 0, 10, 10] == 1
