"""A second judge of clips with one coloured shape, without a neural network: it measures what is not background, and
random forests read shape, size and motion.

It shares neither code nor weights with kinetext's readers. Arrays go in; only ``main``, which measures how well it
reads real clips, knows of kinetext:

    python benchmarks/shapes_judge.py

How a clip is read:

1. The background is the median colour of the border, and is called as the nearest background of the training clips.
2. In every frame, what is far from that colour must be one piece; specks are left out. Its mean colour gives the name of the
   object's. How far a pixel's colour is on the way from background to object is how much of it is covered.
3. Shape and size: how its mass lies about its centroid (a histogram of distances, moments of order 3, 4 and 5), which does not
   change when it turns.
4. Motion: the track of the centroid, how the area changes, and whether the moments turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

Array = NDArray[np.floating]
Names = tuple[str, str, str, str, str]  # colour, shape, size, motion, background

FAR = 0.2  # of the distance from black to white in one channel: nearer to the background is background
SPECK = 0.1  # of what is not background in a frame
LEAST = 8  # pixels of a thing
MOST = 0.5  # of a frame: what is larger is no thing before a background, such as noise
GOOD = 0.75  # share of the frames that must show one thing
BINS = np.linspace(0, 2.2, 12)  # of distances from the centroid, in radii of a circle of the same area


@dataclass(frozen=True)
class Reading:
    """What was seen in a clip; names are "" where ``why`` says what made it unreadable."""

    colour: str = ""
    shape: str = ""
    size: str = ""
    motion: str = ""
    background: str = ""
    why: str = ""


@dataclass(frozen=True)
class Seen:
    """What was measured in a clip of T frames.

    Args:
        background: ``(3,)``.
        colour: ``(3,)`` of the thing.
        looks: what tells shapes and sizes.
        moves: what tells motions.
    """

    background: Array
    colour: Array
    looks: Array
    moves: Array


def measure(clip: Array) -> Seen | str:
    """The thing of a clip ``(T, H, W, 3)`` in [0, 1], or why there is not one."""
    border = np.concatenate([clip[:, [0, -1]].reshape(-1, 3), clip[:, :, [0, -1]].reshape(-1, 3)])
    background = np.median(border, axis=0)
    apart = clip - background
    masks = [_piece(np.linalg.norm(frame, axis=-1)) for frame in apart]
    good = [t for t, mask in enumerate(masks) if mask is not None]
    if len(good) < GOOD * len(clip):
        return "no single thing in too many frames"
    inner = np.concatenate([clip[t][_inner(masks[t])] for t in good])
    colour = np.median(inner, axis=0)
    towards = colour - background
    frames = []
    for t in good:
        covered = np.clip(apart[t] @ towards / max(float(towards @ towards), 1e-6), 0, 1)
        frames.append(_frame(np.where(ndimage.binary_dilation(masks[t], iterations=2), covered, 0.0)))
    x, y, area = (np.array([one[place] for one in frames]) for place in range(3))
    radial = np.array([one[3] for one in frames])
    turning = np.array([one[4] for one in frames])  # (K, 3) complex
    root = np.sqrt(area)
    largest = np.argsort(area)[-max(1, len(area) // 2) :]
    looks = np.concatenate([radial[largest].mean(0), np.abs(turning)[largest].mean(0), [root.max(), np.median(root)]])
    return Seen(background, colour, looks, _moves(np.array(good), x, y, root, turning))


def _piece(distance: Array) -> NDArray[np.bool_] | None:
    """The pixels of the only thing in a frame ``(H, W)``, or None."""
    pieces, count = ndimage.label(distance > FAR, structure=np.ones((3, 3)))
    if not count:
        return None
    sizes = ndimage.sum_labels(distance, pieces, np.arange(1, count + 1))
    largest = int(sizes.argmax())
    if sizes.sum() - sizes[largest] > SPECK * sizes.sum():
        return None
    mask = pieces == largest + 1
    return mask if LEAST <= mask.sum() <= MOST * mask.size else None


def _inner(mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Its pixels that have no neighbour outside, if there are any."""
    assert mask is not None
    inner: NDArray[np.bool_] = ndimage.binary_erosion(mask)
    return inner if inner.any() else mask


def _frame(covered: Array) -> tuple[float, float, float, Array, Array]:
    """Centroid (x, y), area, histogram of distances, and moments of order 3, 4, 5 of what is covered ``(H, W)``."""
    area = float(covered.sum())
    ys, xs = np.nonzero(covered)
    weight = covered[ys, xs] / area
    x, y = float((weight * xs).sum()), float((weight * ys).sum())
    away = ((xs - x) + 1j * (ys - y)) / np.sqrt(area / np.pi)
    radial = np.histogram(np.abs(away), BINS, weights=weight)[0]
    return x, y, area, radial, np.array([(weight * away**order).sum() for order in (3, 4, 5)])


def _moves(times: Array, x: Array, y: Array, root: Array, turning: Array) -> Array:
    """What tells one motion from another."""
    found = []
    for path in (x, y):
        steps = np.diff(path)
        line = np.polyval(np.polyfit(times, path, 1), times)
        found += [
            path[-1] - path[0],
            np.ptp(path),
            np.abs(path - line).max(),
            np.median(path) - (path.max() + path.min()) / 2,
        ]
        found += [(np.diff(np.sign(steps[np.abs(steps) > 0.2])) != 0).sum()]
    corners = np.stack([2 * x, 2 * y, np.ones(len(x))], 1)
    (a, b, c), *_ = np.linalg.lstsq(corners, x**2 + y**2, rcond=None)
    radius = np.sqrt(max(c + a * a + b * b, 0.0))
    found += [min(radius, 99.0), np.abs(np.hypot(x - a, y - b) - radius).max()]
    found += [np.polyfit(times, root / root.max(), 1)[0], root.min() / root.max()]
    size = np.abs(turning)
    phase = turning / np.maximum(size, 1e-9)
    found += [*np.abs(phase.mean(0)), *size.mean(0)]
    return np.array(found)


class ShapesJudge:
    """Reads the colour, shape, size and motion of one object, and the background.

    Args:
        trees: of each forest.
    """

    def __init__(self, trees: int = 200) -> None:
        self.colours: dict[str, Array] = {}
        self.backgrounds: dict[str, Array] = {}
        self.forests = {kind: RandomForestClassifier(trees, random_state=0) for kind in ("shape", "size", "motion")}

    def fit(self, clips: Iterable[tuple[Array, Names]]) -> ShapesJudge:
        """Learns from made clips ``(T, H, W, 3)`` in [0, 1] and what is in them; unreadable ones are left out."""
        measured = [(measure(clip), name) for clip, name in clips]
        pairs = [(one, name) for one, name in measured if isinstance(one, Seen)]
        for name in {said[0] for _, said in pairs}:
            self.colours[name] = np.mean([one.colour for one, said in pairs if said[0] == name], axis=0)
        for name in {said[4] for _, said in pairs}:
            self.backgrounds[name] = np.mean([one.background for one, said in pairs if said[4] == name], axis=0)
        for place, kind in ((1, "shape"), (2, "size"), (3, "motion")):
            features = [one.moves if kind == "motion" else one.looks for one, _ in pairs]
            self.forests[kind].fit(features, [said[place] for _, said in pairs])
        return self

    def read(self, clips: Sequence[Array]) -> list[Reading]:
        """What is in clips ``(T, H, W, 3)`` in [0, 1], of as many frames as those it learned from."""
        found = [measure(clip) for clip in clips]
        seen = [one for one in found if isinstance(one, Seen)]
        if not seen:
            return [Reading(why=str(one)) for one in found]
        said = {
            kind: iter(forest.predict([one.moves if kind == "motion" else one.looks for one in seen]))
            for kind, forest in self.forests.items()
        }
        return [
            Reading(
                _nearest(one.colour, self.colours), str(next(said["shape"])), str(next(said["size"])),
                str(next(said["motion"])), _nearest(one.background, self.backgrounds),
            )
            if isinstance(one, Seen)
            else Reading(why=one)
            for one in found
        ]  # fmt: skip


def _nearest(colour: Array, names: dict[str, Array]) -> str:
    return min(names, key=lambda name: float(np.linalg.norm(names[name] - colour)))


def main() -> None:
    """Prints how many real clips of one object the judge reads rightly, column by column."""
    from kinetext.datasets.shapes import Shapes, scene_of

    def some(split: str, seed: int, clips: int) -> tuple[list[Array], list[Names]]:
        samples = Shapes(split=split, seed=seed, objects=(1,), clips=clips).__getitems__(range(clips))  # type: ignore[arg-type]
        scenes = [scene for sample in samples if (scene := scene_of(sample.text or ""))]
        videos: list[Array] = [(s.video.permute(1, 2, 3, 0).numpy() + 1) / 2 for s in samples if s.video is not None]
        return videos, [(*scene.objects[0], scene.background) for scene in scenes]

    judge = ShapesJudge().fit(zip(*some("train", 77, 3000), strict=True))
    clips, names = some("val", 0, 1000)
    readings = judge.read(clips)
    right = np.array(
        [[a == b for a, b in zip((r.colour, r.shape, r.size, r.motion, r.background), said, strict=True)]
         for r, said in zip(readings, names, strict=True)]
    )  # fmt: skip
    for place, kind in enumerate(("colour", "shape", "size", "motion", "background")):
        print(f"{kind:<12}{100 * right[:, place].mean():6.1f} %")
    print(f"{'everything':<12}{100 * right.all(1).mean():6.1f} %")
    print(f"{'unreadable':<12}{100 * np.mean([r.why != '' for r in readings]):6.1f} %")


if __name__ == "__main__":
    main()
