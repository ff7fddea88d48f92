"""The digits world: captioned bouncing handwritten digits, made on the fly from (seed, index).

The field's classic text-to-video benchmark: Mittal et al. 2017, "Sync-DRAW: Automatic Video
Generation using Deep Recurrent Attentive Architectures", section 4 (one and two bouncing digits
with captions; complementary digit x motion pairs held out); Pan et al. 2018, "To Create What You
Tell: Generating Videos from Captions" (TGANs-C; SBMG and TBMG: 16 frames of 64x64).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from kinetext.interfaces import Dataset, Shape
from kinetext.nn.dice import Dice
from kinetext.types import DataError, Sample, Target, check_between, joined

SIZE = 64  # pixels, the side of a frame
DIGIT = 28  # pixels, the side of a digit
FRAMES = 16
SPAN = SIZE - DIGIT  # how far a digit can go
UNTOLD = 1 / 5  # share of the roaming clips without text
RESTS = 1 / 3  # share of the roaming clips whose digit rests
SPEED = 7.2  # pixels a frame
FPS = 8.0

MOTIONS = ("left and right", "up and down")
OBJECTS = tuple(f"{digit} {motion}" for digit in range(10) for motion in MOTIONS)
PARTS = (Target("digit", tuple("0123456789")), Target("motion", MOTIONS))

# One phrase for every object, then how two are joined. {d} is the digit, {m} its motion. Captions that say less than all
# have no word that the full ones have not.
_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "full": {
        "en": (
            "the digit {d} is moving {m}",
            "digit {d} moves {m}",
            "a {d} moving {m}",
            "{d} bounces {m}",
            "the number {d} goes {m}",
        ),
        "zh": ("数字{d}{m}移动", "{d}在{m}移动", "数字{d}正在{m}运动", "一个{d}{m}移动"),
    },
    "digits": {
        "en": ("the digit {d}", "digit {d}", "a {d}", "{d}", "the number {d}"),
        "zh": ("数字{d}", "{d}", "一个{d}"),
    },
}
_MOTION_WORDS: dict[str, tuple[str, str]] = {"en": MOTIONS, "zh": ("左右", "上下")}
_JOINTS: dict[str, tuple[str, ...]] = {"en": (" and ", ", and ", " while "), "zh": ("，", "，同时", "和")}

Language = Literal["en", "zh"]
Captions = Literal["full", "digits"]
Images = NDArray[np.uint8]


def objects_of(caption: str) -> tuple[str, ...] | None:
    """The objects that a caption of this world names, in reading order; None if it names none.

    Example:
        >>> objects_of("数字3上下移动，数字7左右移动")
        ('3 up and down', '7 left and right')
    """
    found = re.findall(r"(\d)\D*?(left and right|up and down|左右|上下)", caption)
    digits = re.findall(r"\d", caption)
    if not found or len(digits) != len(found):
        return None
    motion = {"左右": MOTIONS[0], "上下": MOTIONS[1]}
    return tuple(f"{d} {motion.get(m, m)}" for d, m in found)


def is_held_out(obj: int | np.integer) -> bool:
    """Whether an object (index into ``OBJECTS``) is unseen in compositional training.

    Even digits train moving left and right, odd ones up and down; the complementary pairs are held
    out (Sync-DRAW, section 4.2).
    """
    digit, motion = divmod(int(obj), 2)
    return motion != digit % 2


class Digits(Dataset):
    """One or two digits, each moving left and right or up and down and bouncing off the walls.

    A sample is a pure function of (seed, split, index). Two digits of one clip are always two
    different objects, so that the labels tell them apart. With ``root=""`` the digit images are
    scikit-learn's ``load_digits`` (8x8, enlarged); otherwise ``root`` is a folder with the MNIST IDX
    files, plain or gzipped. Images of the train split are never used in the val split.

    Args:
        root: folder of MNIST IDX files, or "".
        split: "train" or "val".
        clips: number of samples, >= 1.
        digits: how many digits a clip may have, from {1, 2}.
        composition: "all" pairs of digit and motion everywhere; or "compositional": train sees half of
            them and val has only clips whose every pair is unseen.
        languages: of the captions, from {"en", "zh"}.
        captions: "full", or "digits" without motions, as of a picture: all that the text of a single frame could tell by a
            motion is which digits train with it.
        num_frames: frames of a clip, 1 to 16; 1 makes still images.
        stride: world frames between two frames of a clip, >= 1.
        roaming: share of the training clips, in [0, 1], each of one digit, that show no motion which has a name: two of three
            move at a slant, along both axes at once, and one rests. Their texts name the digit alone, or one of five has
            none, and their objects have no label. Among the others they teach what a digit's own words show, however it moves.
        parts: whether clips of one digit have two columns more, "digit" and "motion"; one that roams has a digit, too.
        builtin: share of the digits, in [0, 1], drawn as scikit-learn's although there is a ``root``, for
            models that should know both hands.
        seed: of the world.
    """

    fixed = True

    def __init__(
        self,
        *,
        root: str = "",
        split: Literal["train", "val"] = "train",
        clips: int = 1000,
        digits: tuple[int, ...] = (1, 2),
        composition: Literal["all", "compositional"] = "all",
        languages: tuple[Language, ...] = ("en", "zh"),
        captions: Captions = "full",
        num_frames: int = FRAMES,
        stride: int = 1,
        roaming: float = 0.0,
        parts: bool = False,
        builtin: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_between("clips", clips, 1, 2**40)
        check_between("num_frames", num_frames, 1, FRAMES)
        check_between("stride", stride, 1, FRAMES)
        if split not in ("train", "val"):
            raise DataError(
                f"split: {split!r}, expected train or val: every clip of this world is made, val as fresh as test"
            )
        if not digits or not set(digits) <= {1, 2}:
            raise DataError(f"digits: {list(digits)}, expected one or both of 1, 2")
        if not languages:
            raise DataError("languages: none, expected one or both of en, zh")
        if captions not in _PHRASES:
            raise DataError(f"captions: {captions!r}, expected one of {joined(list(_PHRASES))}")
        check_between("roaming", roaming, 0, 1)
        if roaming and set(digits) != {1}:
            raise DataError(f"roaming: {roaming:g}, expected 0 with two digits: they could cover each other all along")
        if parts and set(digits) != {1}:
            raise DataError("parts: true, expected false with two digits, which have no digit and motion of the clip")
        check_between("builtin", builtin, 0, 1)
        self.hands = [_Hand(*_images(root, split))]
        self.builtin = builtin
        if builtin:
            self.hands.append(_Hand(*_images("", split)))
        self.clips, self.digits, self.languages = clips, digits, languages
        self.captions, self.roaming = captions, roaming if split == "train" else 0.0
        self.num_frames, self.stride, self.seed, self.split = num_frames, stride, seed, split
        held_out = np.array([is_held_out(i) for i in range(len(OBJECTS))])
        keep = np.ones(20, bool) if composition == "all" else (held_out if split == "val" else ~held_out)
        self.objects = np.flatnonzero(keep)
        self.splits = ("train", "val")
        self.parts, self.targets = parts, (Target("objects", OBJECTS, multi=True), *(PARTS if parts else ()))
        self.video_shape: Shape = (1, num_frames, SIZE, SIZE)
        self.fps = FPS / stride

    def __len__(self) -> int:
        return self.clips

    def __getitem__(self, draw: int) -> Sample:
        return self.__getitems__([draw])[0]

    def still(self, index: int) -> Sample:
        return self.__getitems__([index], drawn=False)[0]

    def __getitems__(self, draws: Sequence[int], *, drawn: bool = True) -> list[Sample]:
        """Several samples at once, vectorised (torch's loader calls this for a batch); without clips if not ``drawn``."""
        indices = np.array([draw % self.clips for draw in draws], dtype=np.uint64)
        dice = Dice(f"{self.seed}/{self.split}", indices)
        objects, count = self._objects(dice)
        roams = dice.uniform("roams") < self.roaming
        untold = roams & (dice.uniform("untold") < UNTOLD)
        captions: list[Captions] = ["digits" if one else self.captions for one in roams]
        video: Sequence[torch.Tensor | None] = [None] * len(indices)
        if drawn:
            frames = torch.from_numpy(self._frames(dice, objects, count, roams))
            video = list((frames.float() / 127.5 - 1.0).unsqueeze(1))
        samples = []
        for row, index in enumerate(indices):
            named = objects[row, : count[row]]
            samples.append(
                Sample(
                    key=f"digits/{self.split}/{self.seed}/{index}",
                    video=video[row],
                    text=None if untold[row] else self._caption(dice, row, named, captions[row]),
                    labels=self._labels(named, bool(roams[row])),
                )
            )
        return samples

    def texts(self) -> Iterator[str]:
        """Every full phrasing of every object in the languages asked for, and every way to join two."""
        for language in self.languages:
            words = _MOTION_WORDS[language]
            for phrase in _PHRASES["full"][language]:
                yield from (phrase.format(d=d, m=m) for d in range(10) for m in words)
            yield from _JOINTS[language]

    def _labels(self, objects: NDArray[np.intp], roams: bool) -> dict[str, tuple[str, ...]]:
        digit, motion = divmod(int(objects[0]), 2)
        said: dict[str, tuple[str, ...]] = {"digit": (str(digit),)} if self.parts else {}
        if roams:
            return said
        if self.parts:
            said["motion"] = (MOTIONS[motion],)
        return said | {"objects": tuple(OBJECTS[i] for i in objects)}

    def _objects(self, dice: Dice) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Two distinct objects a row, and how many of them are shown."""
        pool = len(self.objects)
        first = dice.below("first", pool)
        second = (first + 1 + dice.below("second", pool - 1)) % pool
        count = np.array(self.digits)[dice.below("count", len(self.digits))]
        return self.objects[np.stack([first, second], 1)], count

    def _frames(
        self, dice: Dice, objects: NDArray[np.intp], count: NDArray[np.intp], roams: NDArray[np.bool_]
    ) -> Images:
        video = np.zeros((len(objects), self.num_frames, SIZE, SIZE), np.uint8)
        lanes = _lanes(dice, objects)
        for place in range(2):
            rows = np.flatnonzero(count > place)
            digit, motion = np.divmod(objects[:, place], 2)
            way, still = self._way(dice, f"{place}", SPEED), lanes[:, [place]]
            x, y = (np.where(motion[:, None] == axis, way, still) for axis in range(2))
            if roams.any():
                x, y = (np.where(roams[:, None], self._roaming(dice, axis), at) for axis, at in enumerate((x, y)))
            images = self._pick(dice, place, digit)[rows]
            _paste(video, rows, images, x[rows], y[rows])
        return video

    def _roaming(self, dice: Dice, axis: int) -> NDArray[np.intp]:
        """Places along one axis ``(N, T)`` of a digit that rests, or moves at a slant."""
        pace = SPEED * (0.5 + dice.uniform(f"pace{axis}"))
        rests = dice.uniform("rests") < RESTS
        return self._way(dice, f" along {axis}", np.where(rests, 0.0, pace)[:, None])

    def _way(self, dice: Dice, name: str, pace: float | NDArray[np.float64]) -> NDArray[np.intp]:
        """Places ``(N, T)``, in [0, SPAN], of what goes to and fro between the walls, ``pace`` pixels a frame of the world."""
        time = np.arange(self.num_frames) * self.stride
        path = (dice.uniform(f"phase{name}")[:, None] * 2 * SPAN + pace * time) % (2 * SPAN)
        return np.rint(np.where(path > SPAN, 2 * SPAN - path, path)).astype(np.intp)

    def _pick(self, dice: Dice, place: int, digits: NDArray[np.intp]) -> Images:
        """One handwritten image of each digit ``(N, 28, 28)``."""
        chosen = self.hands[0].pick(digits, dice.uniform(f"image{place}"))
        if not self.builtin:
            return chosen
        other = self.hands[1].pick(digits, dice.uniform(f"image{place}"))
        take = dice.uniform(f"hand{place}") < self.builtin
        return np.where(take[:, None, None], other, chosen)

    def _caption(self, dice: Dice, row: int, objects: NDArray[np.intp], captions: Captions) -> str:
        language = self.languages[dice.below("language", len(self.languages))[row]]
        phrases, joints = _PHRASES[captions][language], _JOINTS[language]
        phrase = phrases[dice.below("phrase", len(phrases))[row]]
        said = [phrase.format(d=o // 2, m=_MOTION_WORDS[language][o % 2]) for o in objects]
        return joints[dice.below("joint", len(joints))[row]].join(said)


class _Hand:
    """Handwritten images by class.

    Args:
        images: ``(N, 28, 28)`` uint8.
        classes: ``(N,)`` digits.
    """

    def __init__(self, images: Images, classes: NDArray[np.int64]) -> None:
        self.images = images
        self.places = [np.flatnonzero(classes == digit) for digit in range(10)]

    def pick(self, digits: NDArray[np.intp], uniform: NDArray[np.float64]) -> Images:
        """The image at ``uniform`` in [0, 1) of each digit's images."""
        pools = [self.places[digit] for digit in digits]
        chosen = [pool[int(u * len(pool))] for pool, u in zip(pools, uniform, strict=True)]
        return self.images[np.array(chosen, dtype=np.intp)]


def _lanes(dice: Dice, objects: NDArray[np.intp]) -> NDArray[np.intp]:
    """The coordinate that stays, for both digits ``(N, 2)``, in [0, SPAN].

    Two digits that move alike keep at least half a digit between their lanes: otherwise they could
    cover each other for the whole clip, and the caption would name what nobody can see.
    """
    places = SPAN + 1
    first, second = dice.below("still0", places), dice.below("still1", places)
    apart = DIGIT // 2
    shifted = (first + apart + dice.below("still1", places - 2 * apart + 1)) % places
    alike = objects[:, 0] % 2 == objects[:, 1] % 2
    return np.stack([first, np.where(alike, shifted, second)], 1)


def _paste(video: Images, rows: NDArray[np.intp], images: Images, x: NDArray[np.intp], y: NDArray[np.intp]) -> None:
    """Draws an image at (x, y) of every frame of its row; where digits overlap the brighter pixel stays."""
    side = np.arange(DIGIT)
    at = (
        rows[:, None, None, None],
        np.arange(x.shape[1])[None, :, None, None],
        y[:, :, None, None] + side[:, None],
        x[:, :, None, None] + side,
    )
    video[at] = np.maximum(video[at], images[:, None])


@cache
def _images(root: str, split: str) -> tuple[Images, NDArray[np.int64]]:
    """Digit images ``(N, 28, 28)`` uint8 and their classes ``(N,)``."""
    return _mnist(Path(root), split) if root else _scikit_learn(split)


def _scikit_learn(split: str) -> tuple[Images, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] / 16.0
    large = torch.nn.functional.interpolate(small, size=20, mode="bicubic", align_corners=False)
    padded = torch.nn.functional.pad(large.clamp(0, 1), (4, 4, 4, 4))  # MNIST too is 20 px in a box of 28
    images = (padded[:, 0] * 255).round().to(torch.uint8).numpy()
    # the set is written by writers in turn, so every fifth image is a fair sample of all of them
    chosen = (np.arange(len(images)) % 5 == 0) == (split == "val")
    return images[chosen], data.target[chosen].astype(np.int64)


def _mnist(root: Path, split: str) -> tuple[Images, NDArray[np.int64]]:
    part = "train" if split == "train" else "t10k"
    images = _idx(root, f"{part}-images-idx3-ubyte")
    classes = _idx(root, f"{part}-labels-idx1-ubyte")
    if images.ndim != 3 or images.shape[1:] != (DIGIT, DIGIT) or len(images) != len(classes):
        raise DataError(
            f"root: {root} has images {images.shape} and labels {classes.shape}, expected (N, 28, 28) and (N,)"
        )
    return images, classes.astype(np.int64)


def _idx(root: Path, name: str) -> Images:
    """An IDX file of bytes (LeCun's format: two zeros, the type 8, the rank, big-endian sizes, data)."""
    tried = [root / f"{name}.gz", root / name]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise DataError(f"root: no {name} or {name}.gz in {root}; expected the MNIST IDX files")
    try:
        data = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{found}: can't be read ({error})") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(f"{found}: not an IDX file of bytes (it starts with {data[:4].hex()}, expected 000008..)")
    rank = data[3]
    sizes = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    if len(data) != 4 + 4 * rank + int(np.prod(sizes)):
        raise DataError(f"{found}: {len(data)} bytes do not hold sizes {joined(sizes)}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(sizes)
