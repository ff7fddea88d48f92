"""The shapes world: captioned clips of coloured shapes that move, in many phrasings, made on the fly from (seed, index).

Moving shapes with free captions, as text-to-video has used them since Mittal et al. 2017 ("Sync-DRAW"); pairs of
attributes are held out as there (section 4.2) and in Johnson et al. 2017, "CLEVR", section 4.7 (CoGenT).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kinetext.interfaces import Dataset, Shape
from kinetext.nn.dice import Dice
from kinetext.nn.drawing import REACH, SHAPES, paint
from kinetext.nn.moving import MOTIONS, arrange, track
from kinetext.types import DataError, Sample, Target, check_between

SIZE = 64  # pixels, the side of a frame
FRAMES = 16
FPS = 8.0

# names and their colours, sRGB
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (230, 35, 40), "orange": (255, 140, 0), "yellow": (255, 228, 50), "green": (55, 200, 75),
    "blue": (50, 105, 255), "purple": (170, 55, 215), "white": (245, 245, 245),
}  # fmt: skip
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 12), "white": (238, 238, 238), "grey": (105, 105, 105), "blue": (20, 35, 120),
    "green": (12, 75, 40), "brown": (85, 55, 30),
}  # fmt: skip
SIZES = {"small": 5.5, "large": 9.5}  # pixels, the radius of a circle
# of a shape as large as a circle of radius 1: what ``coverage`` calls its radius
_RADIUS = {"circle": 1.0, "square": 0.85, "triangle": 1.35, "star": 1.4}
_JITTER = 10  # of each channel of a colour, at most
_MOST = 3  # objects of a clip

Language = Literal["en", "zh"]
T = TypeVar("T")


class Object(NamedTuple):
    """What a caption says of one object."""

    colour: str
    shape: str
    size: str
    motion: str

    @property
    def held_out(self) -> bool:
        """Whether compositional training never sees its pair of colour and shape, or that of motion and shape.

        With every colour and with every motion one of the four shapes is held out.
        """
        colours, motions = list(COLOURS).index(self.colour), MOTIONS.index(self.motion)
        return SHAPES.index(self.shape) in ((colours + 1) % len(SHAPES), (motions + 1) % len(SHAPES))


class Scene(NamedTuple):
    """What a caption says: its objects, in reading order, and the background."""

    objects: tuple[Object, ...]
    background: str

    def labels(self) -> dict[str, tuple[str, ...]]:
        """Column -> classes: "red", "red circle", "red large", "red bounce", and the background."""
        return {
            "colour": tuple(o.colour for o in self.objects),
            "shape": tuple(f"{o.colour} {o.shape}" for o in self.objects),
            "size": tuple(f"{o.colour} {o.size}" for o in self.objects),
            "motion": tuple(f"{o.colour} {o.motion}" for o in self.objects),
            "background": (self.background,),
        }


# a circle that turns looks like one that does not
OBJECTS = tuple(
    Object(colour, shape, size, motion)
    for colour in COLOURS
    for shape in SHAPES
    for size in SIZES
    for motion in MOTIONS
    if (shape, motion) != ("circle", "spin")
)
TARGETS = (
    Target("colour", tuple(COLOURS), multi=True),
    Target("shape", tuple(f"{c} {s}" for c in COLOURS for s in SHAPES), multi=True),
    Target("size", tuple(f"{c} {s}" for c in COLOURS for s in SIZES), multi=True),
    Target("motion", tuple(f"{c} {m}" for c in COLOURS for m in MOTIONS), multi=True),
    Target("background", tuple(BACKGROUNDS)),
)

# What every attribute is called. English motions are "moves/moving left": he does it, he is doing it.
_WORDS: dict[Language, dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {
        "colour": {
            "red": ("red",), "orange": ("orange",), "yellow": ("yellow",), "green": ("green",), "blue": ("blue",),
            "purple": ("purple", "violet"), "white": ("white",), "black": ("black",), "grey": ("grey", "gray"),
            "brown": ("brown",),
        },
        "shape": {
            "circle": ("circle", "disc", "ball"), "square": ("square", "block"), "triangle": ("triangle",),
            "star": ("star",),
        },
        "size": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
        "motion": {
            "left": ("moves/moving left", "moves/moving to the left", "slides/sliding left", "drifts/drifting to the left"),
            "right": (
                "moves/moving right", "moves/moving to the right", "slides/sliding right", "drifts/drifting to the right",
            ),
            "up": ("moves/moving up", "rises/rising", "goes/going upwards", "climbs/climbing"),
            "down": ("moves/moving down", "falls/falling", "goes/going downwards", "sinks/sinking"),
            "zigzag": ("zigzags/zigzagging", "moves/moving in a zigzag", "goes/going in zigzags"),
            "bounce": ("bounces/bouncing", "hops/hopping", "jumps/jumping up and down"),
            "orbit": ("orbits/orbiting", "moves/moving in a circle", "goes/going round and round"),
            "grow": ("grows/growing", "gets/getting bigger", "expands/expanding"),
            "spin": ("spins/spinning", "rotates/rotating", "turns/turning around"),
        },
    },
    "zh": {
        "colour": {
            "red": ("红色",), "orange": ("橙色", "橘色"), "yellow": ("黄色",), "green": ("绿色",), "blue": ("蓝色",),
            "purple": ("紫色",), "white": ("白色",), "black": ("黑色",), "grey": ("灰色",), "brown": ("棕色", "褐色"),
        },
        "shape": {
            "circle": ("圆形", "圆球", "圆"), "square": ("正方形", "方块", "方形"), "triangle": ("三角形",),
            "star": ("星星", "五角星"),
        },
        "size": {"small": ("小", "很小", "微小"), "large": ("大", "很大", "巨大")},
        "motion": {
            "left": ("向左移动", "往左移动", "向左滑动", "往左边移动"),
            "right": ("向右移动", "往右移动", "向右滑动", "往右边移动"),
            "up": ("向上移动", "往上移动", "上升", "往上升"),
            "down": ("向下移动", "往下移动", "下降", "下落"),
            "zigzag": ("沿之字形移动", "走之字形", "曲折移动"),
            "bounce": ("弹跳", "跳动", "上下弹跳"),
            "orbit": ("绕圈", "绕圈移动", "做圆周运动"),
            "grow": ("变大", "慢慢变大", "长大"),
            "spin": ("旋转", "转动", "原地旋转"),
        },
    },
}  # fmt: skip
# {plain}: the first word for a size; {one}: the Chinese "a" with the noun's measure word
_NOUNS: dict[Language, tuple[str, ...]] = {
    "en": ("a {size} {colour} {shape}", "a {size}, {colour} {shape}", "one {size} {colour} {shape}", "a {size} {shape} in {colour}"),
    "zh": ("{one}{colour}的{plain}{shape}", "{one}{colour}{plain}{shape}", "{colour}的{plain}{shape}", "{one}{size}的{colour}{shape}"),
}  # fmt: skip
# a clause, and how several of its kind are joined
_CLAUSES: dict[Language, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "en": (
        ("{noun} {does}", (" and ", ", and ", " while ")),
        ("{noun} is {doing}", (" and ", ", and ", " while ")),
        ("{noun} {doing}", (" and ", ", and ")),
        ("there is {noun} {doing}", (" and ", ", and ")),
    ),
    "zh": (
        ("{noun}{doing}", ("，", "，同时", "，而")),
        ("{noun}在{doing}", ("，", "，同时", "，而")),
        ("{noun}正在{doing}", ("，", "，同时", "，而")),
    ),
}
_SENTENCES: dict[Language, tuple[str, ...]] = {
    "en": (
        "{said} over a {back} background", "{said} on a {back} background", "{said} against a {back} background",
        "{said} in front of a {back} background", "over a {back} background, {said}", "on a {back} background, {said}",
    ),
    "zh": ("{said}，背景是{back}", "{said}，背景为{back}", "{back}背景上，{said}", "在{back}的背景前，{said}"),
}  # fmt: skip
# of one object alone
_ALONE: dict[Language, tuple[str, ...]] = {
    "en": ("{noun} on a {back} background {does}", "{noun} over a {back} background is {doing}"),
    "zh": (
        "{noun}在{back}背景上{doing}", "{noun}在{back}的背景上{doing}", "{back}背景上有{noun}在{doing}",
        "{back}的背景上，有{noun}正在{doing}",
    ),
}  # fmt: skip
_BACKGROUND = re.compile(r"(\w+) background|([\u4e00-\u9fff]色)的?背景|背景[是为]([\u4e00-\u9fff]色)")


def _forms(word: str) -> tuple[str, str]:
    """ "moves/moving left" -> "moves left", "moving left"; any other word -> itself, twice."""
    verbs, space, rest = word.partition(" ")
    does, _, doing = verbs.partition("/")
    return does + space + rest, (doing or does) + space + rest


# every phrase -> the attribute that it tells, and its value
_MEANING = {
    phrase: (kind, value)
    for words in _WORDS.values()
    for kind, values in words.items()
    for value, said in values.items()
    for one in said
    for phrase in _forms(one)
}
_PHRASE = re.compile(
    "|".join(rf"\b{p}\b" if p.isascii() else p for p in sorted(_MEANING, key=lambda phrase: -len(phrase)))
)


def scene_of(caption: str) -> Scene | None:
    """What a caption of this world says; None if it does not say all of it.

    Example:
        >>> scene_of("a large red circle bounces over a blue background")
        Scene(objects=(Object(colour='red', shape='circle', size='large', motion='bounce'),), background='blue')
    """
    plain = caption.lower()
    backgrounds = list(_BACKGROUND.finditer(plain))
    if len(backgrounds) != 1:
        return None
    _, background = _MEANING.get(next(filter(None, backgrounds[0].groups())), ("", ""))
    objects, told = [], dict[str, str]()
    for match in _PHRASE.finditer(_BACKGROUND.sub(" ", plain)):
        kind, value = _MEANING[match[0]]
        if kind in told:
            return None
        told[kind] = value
        if kind == "motion":  # it stands last
            if len(told) < 4 or told["colour"] not in COLOURS:
                return None
            objects.append(Object(**told))
            told = {}
    if told or not objects or background not in BACKGROUNDS:
        return None
    return Scene(tuple(objects), background)


class Shapes(Dataset):
    """One to three shapes of different colours, each with a size and a motion, over a plain background.

    What is shown is a pure function of (seed, split, index); how it is said, of (seed, split, draw), so that every epoch
    says it differently. A colour of an object is never that of the background. Objects never leave the frame; several
    are placed so that they cover each other as little as may be. A clip of fewer than 16 world frames begins at a
    random one.

    Args:
        split: "train" or "val".
        clips: number of samples, >= 1.
        objects: how many a clip may have, from {1, 2, 3}.
        composition: "all" objects everywhere; or "compositional": train never shows the held-out pairs of colour and
            shape, and of motion and shape (one shape of four with every colour and every motion), and every object
            of val has at least one of them.
        languages: of the captions, from {"en", "zh"}.
        num_frames: frames of a clip, 1 to 16; 1 makes still images.
        stride: world frames between two frames of a clip, >= 1; all of them within 16 world frames.
        seed: of the world.
    """

    fixed = True

    def __init__(
        self,
        *,
        split: Literal["train", "val"] = "train",
        clips: int = 1000,
        objects: tuple[int, ...] = (1, 2, 3),
        composition: Literal["all", "compositional"] = "all",
        languages: tuple[Language, ...] = ("en", "zh"),
        num_frames: int = FRAMES,
        stride: int = 1,
        seed: int = 0,
    ) -> None:
        check_between("clips", clips, 1, 2**40)
        check_between("num_frames", num_frames, 1, FRAMES)
        check_between("stride", stride, 1, FRAMES)
        self.span = (num_frames - 1) * stride + 1
        if self.span > FRAMES:
            raise DataError(
                f"stride: {stride}, expected at most {(FRAMES - 1) // (num_frames - 1)}, to end in {FRAMES} frames"
            )
        if split not in ("train", "val"):
            raise DataError(f"split: {split!r}, expected train or val: every clip is made, val as fresh as test")
        if not objects or not set(objects) <= set(range(1, _MOST + 1)):
            raise DataError(f"objects: {list(objects)}, expected some of 1, 2, 3")
        if not languages:
            raise DataError("languages: none, expected one or both of en, zh")
        self.clips, self.objects, self.languages = clips, objects, languages
        self.num_frames, self.stride, self.seed, self.split = num_frames, stride, seed, split
        shown = [o for o in OBJECTS if composition == "all" or o.held_out == (split == "val")]
        self.pools = [[o for o in shown if o.colour == colour] for colour in COLOURS]
        self.targets, self.fps, self.splits = TARGETS, FPS / stride, ("train", "val")
        self.video_shape: Shape = (3, num_frames, SIZE, SIZE)

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
        words = Dice(f"{self.seed}/{self.split}/words", np.array(draws, dtype=np.uint64))
        languages, scenes = words.below("language", len(self.languages)), self._scenes(dice)
        video = torch.from_numpy(self._frames(dice, scenes)) if drawn else [None] * len(scenes)
        return [
            Sample(
                key=f"shapes/{self.split}/{self.seed}/{index}",
                video=video[row],
                text=_say(scene, self.languages[languages[row]], words, row),
                labels=scene.labels(),
            )
            for row, (index, scene) in enumerate(zip(indices, scenes, strict=True))
        ]

    def texts(self) -> Iterator[str]:
        """Captions with every word of the languages asked for, in every kind of sentence, but not every combination."""
        for language in self.languages:
            words = Dice("texts", np.arange(2 * len(OBJECTS), dtype=np.uint64))
            for number in range(2 * len(OBJECTS)):
                some = (number // 2, 37 * number)[: 1 + number % 2]
                objects = tuple(OBJECTS[place % len(OBJECTS)] for place in some)
                order = np.roll(list(BACKGROUNDS), number)
                yield _say(Scene(objects, _unlike(objects, order)), language, words, number)

    def _scenes(self, dice: Dice) -> list[Scene]:
        count = np.array(self.objects)[dice.below("count", len(self.objects))]
        colours = dice.several("colours", len(COLOURS)).argsort(1)
        which = dice.several("which", _MOST)
        backgrounds = np.array(list(BACKGROUNDS))[dice.several("backgrounds", len(BACKGROUNDS)).argsort(1)]
        scenes = []
        for row in range(len(count)):
            pools = [self.pools[colour] for colour in colours[row, : count[row]]]
            objects = tuple(pool[int(u * len(pool))] for pool, u in zip(pools, which[row], strict=False))
            scenes.append(Scene(objects, _unlike(objects, backgrounds[row])))
        return scenes

    def _frames(self, dice: Dice, scenes: Sequence[Scene]) -> NDArray[np.float32]:
        """``(N, 3, T, 64, 64)`` in [-1, 1]."""
        video = np.empty((len(scenes), 3, self.num_frames, SIZE, SIZE), np.float32)
        video[:] = _shade(dice, "background", [BACKGROUNDS[s.background] for s in scenes])[:, :, None, None, None]
        times = dice.below("start", FRAMES - self.span + 1)[:, None] + np.arange(self.num_frames) * self.stride
        there = np.array([[place < len(s.objects) for place in range(_MOST)] for s in scenes])
        # a place that a clip has not is filled with its first object, which is not drawn
        places = [[s.objects[place if place < len(s.objects) else 0] for s in scenes] for place in range(_MOST)]
        radius = np.stack([_radius(dice, place, some) for place, some in enumerate(places)], 1)
        reach = radius * [[REACH[some[row].shape] for some in places] for row in range(len(scenes))] + 1.0
        motions = [np.array([o.motion for o in some]) for some in places]
        tracks = [track(some, dice, f"track{place}", FRAMES) for place, some in enumerate(motions)]
        arrange(tracks, reach, there, dice, SIZE)
        for place, some in enumerate(places):
            colour = _shade(dice, f"colour{place}", [COLOURS[o.colour] for o in some])
            for kind in {(o.shape, o.size) for o in some}:  # together, so that no window is larger than it need be
                rows = np.flatnonzero(there[:, place] & [(o.shape, o.size) == kind for o in some])
                if len(rows):
                    paint(video, rows, kind[0], radius[rows, place], tracks[place].at(rows, times), colour[rows])
        return video


def _unlike(objects: Sequence[Object], backgrounds: Iterable[str]) -> str:
    """The first background that is called otherwise than every object's colour."""
    return next(str(name) for name in backgrounds if name not in {o.colour for o in objects})


def _radius(dice: Dice, place: int, objects: Sequence[Object]) -> NDArray[np.float64]:
    """What ``paint`` calls the radius of every object, ``(N,)`` pixels."""
    return np.array([SIZES[o.size] * _RADIUS[o.shape] for o in objects]) * dice.between(f"radius{place}", 0.95, 1.05)


def _shade(dice: Dice, name: str, colours: Sequence[tuple[int, int, int]]) -> NDArray[np.float32]:
    """Colours ``(N, 3)``, each a little changed, in [-1, 1]."""
    changed = np.array(colours) + _JITTER * (2 * dice.several(name, 3) - 1)
    return (changed.clip(0, 255) / 127.5 - 1).astype(np.float32)


def _say(scene: Scene, language: Language, words: Dice, row: int) -> str:
    """A caption of ``scene``; which of its phrasings, row ``row`` of ``words`` says."""

    def one_of(name: str, choices: Sequence[T]) -> T:
        return choices[words.below(name, len(choices))[row]]

    clause, joints = one_of("clause", _CLAUSES[language])
    alone = _ALONE[language] if len(scene.objects) == 1 else ()
    sentence = one_of("sentence", (*_SENTENCES[language], *alone))
    joint, said = one_of("joint", joints), []
    for place, obj in enumerate(scene.objects):
        known = _WORDS[language]
        word = {
            kind: one_of(f"{kind}{place}", known[kind][value]) for kind, value in zip(Object._fields, obj, strict=True)
        }
        does, doing = _forms(word["motion"])
        one = "一颗" if word["shape"] in ("星星", "五角星") else "一个"
        noun = one_of(f"noun{place}", _NOUNS[language]).format(one=one, plain=known["size"][obj.size][0], **word)
        said.append({"noun": noun, "does": does, "doing": doing})
    back = one_of("back", _WORDS[language]["colour"][scene.background])
    if sentence in alone:
        return sentence.format(back=back, **said[0])
    clauses = [clause.format(**parts) for parts in said]
    listed = (", " if language == "en" else "，").join(clauses[:-1])
    return sentence.format(back=back, said=joint.join([*([listed] if listed else []), clauses[-1]]))
