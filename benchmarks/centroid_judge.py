"""A second judge of clips with one handwritten digit, without a neural network: it follows the centroid of what is
bright, and a support vector machine reads the digit.

It shares neither code nor weights with kinetext's readers, and imports nothing of kinetext: arrays go in. What it measures is only
as good as it reads real clips; ``benchmarks/evolution.py`` measures that too.

How a clip is read:

1. Every frame is cut at a brightness. Specks are left out: pieces of less than ``SPECK`` of what is bright. What
   remains must fit into one box of a digit, or the frame shows no single thing.
2. Its brightness-weighted centroid is its place. A clip with too few good frames is unreadable.
3. Along one axis the place must vary, along the other it must not: that is the motion. How far it goes from frame to frame is
   reported, and not judged: a digit that skips a piece of its way still moves that way.
4. The good frames, shifted so that their centroids meet, are averaged; the mean picture, straightened, goes to the classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.svm import SVC

Array = NDArray[np.float32]

MOTIONS = ("left and right", "up and down")  # along x, along y
DIM = 0.25  # of full brightness: what is darker is background
SPECK = 0.08  # of what is bright in a frame
BOX = 30  # pixels: handwriting is 20 of 28, with room for a blurred edge
LEAST = 15  # bright pixels in a frame; a thin 1 has some 35
GOOD = 0.75  # share of the frames that must show one thing
JUMP = 12.0  # pixels from frame to frame; the world's speed is 7.2
MOVES, STANDS = 16.0, 6.0  # pixels between the ends of a track: more is moving, less is standing
CROP = 28  # pixels


@dataclass(frozen=True)
class Reading:
    """What was seen in a clip.

    Args:
        digit: 0 to 9, or None.
        motion: of ``MOTIONS``, or None.
        start: (x, y) of the first good frame, in pixels, or None.
        smooth: whether it never goes further than ``JUMP`` from frame to frame; False where there is no track.
        why: what made it unreadable, or "".
    """

    digit: int | None = None
    motion: str | None = None
    start: tuple[float, float] | None = None
    smooth: bool = False
    why: str = ""


@dataclass(frozen=True)
class Track:
    """One bright thing on its way through a clip.

    Args:
        place: ``(K, 2)`` centroids (x, y) of the good frames, in pixels.
        frame: ``(K,)`` which frames these are.
        picture: ``(28, 28)`` in [0, 1], the mean of the good frames with their centroids in the middle.
    """

    place: Array
    frame: NDArray[np.int64]
    picture: Array


def follow(clip: Array) -> Track | str:
    """The bright thing of a clip ``(T, H, W)`` in [0, 1], or why there is not one."""
    places, frames, crops = [], [], []
    for number, frame in enumerate(clip):
        found = _thing(frame)
        if found is not None:
            places.append(found[0])
            frames.append(number)
            crops.append(found[1])
    if len(places) < GOOD * len(clip):
        return "no single thing in too many frames"
    return Track(np.array(places, np.float32), np.array(frames), np.mean(crops, axis=0, dtype=np.float32))


def _thing(frame: Array) -> tuple[tuple[float, float], Array] | None:
    """Centroid (x, y) and crop ``(28, 28)`` of the only thing in a frame ``(H, W)``, or None."""
    bright = frame > DIM
    pieces, count = ndimage.label(bright, structure=np.ones((3, 3)))
    if not count:
        return None
    mass = ndimage.sum_labels(frame, pieces, np.arange(count + 1))
    mass[0] = 0.0
    kept = np.isin(pieces, np.flatnonzero(mass >= SPECK * mass.sum())) & bright
    rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
    if kept.sum() < LEAST or max(np.ptp(rows), np.ptp(columns)) >= BOX:
        return None
    ink = np.where(kept, frame, 0.0)
    y, x = ndimage.center_of_mass(ink)
    top, left = round(y) - CROP // 2, round(x) - CROP // 2
    crop = np.pad(ink, CROP)[top + CROP : top + 2 * CROP, left + CROP : left + 2 * CROP]
    return (float(x), float(y)), crop.astype(np.float32)


def motion_of(place: Array) -> str | None:
    """The motion of a track ``(K, 2)`` of (x, y); None where both axes vary, or neither."""
    x, y = np.ptp(place, axis=0)
    if x >= MOVES and y <= STANDS:
        return MOTIONS[0]
    if y >= MOVES and x <= STANDS:
        return MOTIONS[1]
    return None


def is_smooth(track: Track) -> bool:
    """Whether it never goes further than ``JUMP`` from frame to frame."""
    steps = np.abs(np.diff(track.place, axis=0)) / np.diff(track.frame)[:, None]
    return bool((steps <= JUMP).all())


def straightened(picture: Array) -> Array:
    """A picture ``(28, 28)`` sheared upright by its second moments, its brightest pixel 1."""
    y, x = np.mgrid[:CROP, :CROP].astype(np.float32)
    mass = picture.sum()
    middle_y, middle_x = (picture * y).sum() / mass, (picture * x).sum() / mass
    down = (picture * (y - middle_y) ** 2).sum()
    slant = (picture * (y - middle_y) * (x - middle_x)).sum() / max(down, 1e-6)
    upright = np.array([[1.0, 0.0], [slant, 1.0]])
    middle = np.array([middle_y, middle_x])
    shift = middle - upright @ np.array([(CROP - 1) / 2, (CROP - 1) / 2])
    made = ndimage.affine_transform(picture, upright, offset=shift, order=1)
    return (made / max(float(made.max()), 1e-6)).astype(np.float32)


class CentroidJudge:
    """Reads which digit moves how.

    Args:
        parts: principal components that the support vector machine sees.
        penalty: its C.
    """

    def __init__(self, parts: int = 50, penalty: float = 10.0) -> None:
        self.parts, self.penalty = parts, penalty
        self._model: Pipeline | None = None

    def fit(self, clips: Array, digits: NDArray[np.int64]) -> CentroidJudge:
        """Learns the digits from made clips.

        Args:
            clips: ``(N, T, H, W)`` in [0, 1]; those that are unreadable are left out. A frame of each is enough.
            digits: ``(N,)``.
        """
        seen = [(follow(clip), digit) for clip, digit in zip(clips, digits, strict=True)]
        kept = [(straightened(track.picture), digit) for track, digit in seen if isinstance(track, Track)]
        pictures = np.stack([picture.ravel() for picture, _ in kept])
        parts = min(self.parts, *pictures.shape)
        self._model = make_pipeline(PCA(parts, random_state=0), SVC(C=self.penalty, gamma="scale"))
        self._model.fit(pictures, np.array([digit for _, digit in kept]))
        return self

    def read(self, clips: Array) -> list[Reading]:
        """What is in clips ``(N, T, H, W)`` in [0, 1]."""
        if self._model is None:
            raise ValueError("fit: not called yet")
        found = [follow(clip) for clip in clips]
        tracks = [track for track in found if isinstance(track, Track)]
        digits = iter(())
        if tracks:
            pictures = np.stack([straightened(track.picture).ravel() for track in tracks])
            digits = iter(self._model.predict(pictures).tolist())
        return [_reading(one, next(digits)) if isinstance(one, Track) else Reading(why=one) for one in found]


def _reading(track: Track, digit: int) -> Reading:
    motion, (x, y) = motion_of(track.place), track.place[0].tolist()
    return Reading(digit, motion, (x, y), is_smooth(track), "" if motion else "moves along neither axis or along both")
