"""Plain shapes as anti-aliased coverage, from their signed distance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kinetext.nn.moving import Track

Floats = NDArray[np.float32]

# Shape -> how many lines bound it, the direction of the first one's outward normal (radians, y points down), how far
# the lines are from the centre, in units of the radius, and of how many lines a point may be outside.
_LINES: dict[str, tuple[int, float, float, int]] = {
    "square": (4, 0.0, 1.0, 0),
    "triangle": (3, np.pi / 2, 0.5, 0),
    "star": (5, -np.pi / 2, float(np.cos(2 * np.pi / 5)), 1),
}
SHAPES = ("circle", *_LINES)
REACH = {"circle": 1.0, "square": 2**0.5, "triangle": 1.0, "star": 1.0}  # of the farthest point, in units of the radius


def coverage(shape: str, x: Floats, y: Floats, radius: Floats, angle: Floats) -> Floats:
    r"""How much of each pixel a shape covers, in [0, 1]: ``clip(1/2 - d)``, with d the signed distance to its edge.

    A circle has d = \|p\| - r. A polygon of lines with normals n_k has d = max_k (p n_k) - h. The five lines of a
    pentagram leave its points outside of one line at most, so a star has the second largest in place of the maximum.
    ``radius`` is that of the circle, half the side of the square, the distance of the tips of triangle and star.

    Args:
        shape: circle, square, triangle or star.
        x, y: ``(N, W)``, pixel centres relative to the centre of the shape, in pixels; y points down.
        radius: ``(N,)`` in pixels, > 0.
        angle: ``(N,)`` in radians, by which it is turned; at 0 a square lies flat, a triangle and a star point up.

    Returns:
        ``(N, W, W)``, rows by y.
    """
    across, down = x[:, None, :], y[:, :, None]
    if shape == "circle":
        inside = radius[:, None, None] - np.sqrt(across * across + down * down)
        return np.clip(inside + np.float32(0.5), 0, 1)
    count, first, apothem, spare = _LINES[shape]
    most: Floats | None = None
    second: Floats | None = None
    for k in range(count):
        turned = (angle + np.float32(first + 2 * np.pi * k / count))[:, None, None]
        line = across * np.cos(turned) + down * np.sin(turned)
        if most is None:
            most = line
            continue
        if spare:
            lesser = np.minimum(most, line)
            second = lesser if second is None else np.maximum(second, lesser, out=second)
        most = np.maximum(most, line, out=None if spare else most)
    edge = second if second is not None else most
    assert edge is not None
    return np.clip(apothem * radius[:, None, None] + np.float32(0.5) - edge, 0, 1, dtype=np.float32)


def paint(
    video: Floats, rows: NDArray[np.intp], shape: str, radius: NDArray[np.float64], track: Track, colour: Floats
) -> None:
    """Draws one shape into every frame of some clips, over what is there.

    Args:
        video: ``(N, C, T, H, W)``, changed in place.
        rows: ``(M,)``, which clips, each once.
        shape: of all of them.
        radius: ``(M,)``, as ``coverage`` takes it, at scale 1.
        track: of M rows and T frames, where the centres are; (0, 0) is the corner of the first pixel.
        colour: ``(M, C)``.
    """
    channels, frames, height, width = video.shape[1:]
    side = min(2 * int(np.ceil(radius.max() * REACH[shape] + 1)) + 1, height, width)
    left, top = (
        np.clip(np.floor(place - side / 2).astype(np.intp), 0, most - side)
        for place, most in ((track.x, width), (track.y, height))
    )
    steps = np.arange(side)
    across, down = left[..., None] + steps, top[..., None] + steps  # (M, T, W)
    covered = coverage(
        shape,
        (across + 0.5 - track.x[..., None]).reshape(-1, side).astype(np.float32),
        (down + 0.5 - track.y[..., None]).reshape(-1, side).astype(np.float32),
        (radius[:, None] * track.scale).ravel().astype(np.float32),
        track.angle.ravel().astype(np.float32),
    )
    frame = rows[:, None] * (channels * frames) + np.arange(frames)
    at = ((frame[..., None] * height + down)[..., None] * width + across[:, :, None, :]).ravel()
    part, flat = covered.reshape(len(rows), -1), video.reshape(-1)
    for channel in range(channels):
        here = at + channel * frames * height * width
        old = flat[here].reshape(len(rows), -1)
        flat[here] = (old + part * (colour[:, channel, None] - old)).ravel()
