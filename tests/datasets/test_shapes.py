"""The shapes world: its captions, its labels, its splits, and what its pictures show."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

from kinetext.datasets.shapes import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZE,
    SIZES,
    TARGETS,
    Object,
    Scene,
    Shapes,
    scene_of,
)
from kinetext.text import Tokenizer
from kinetext.types import DataError, Sample

RED = Object("red", "circle", "large", "bounce")
STAR = Object("yellow", "star", "small", "spin")


def scene(sample: Sample) -> Scene:
    found = scene_of(sample.text or "")
    assert found is not None, sample.text
    return found


def seen(sample: Sample, colour: tuple[int, int, int]) -> np.ndarray:
    """How much of each pixel has ``colour``, ``(T, H, W)``, by how near it is to it; a clip of one object."""
    assert sample.video is not None
    pixels = (sample.video.numpy() + 1) * 127.5
    background = pixels[:, :1, :1, :1]  # the corner of the first frame
    towards = np.array(colour)[:, None, None, None] - background
    share = ((pixels - background) * towards).sum(0) / (towards**2).sum()
    return share.clip(0, 1)


def alone(motion: str, *, clips: int = 1500) -> list[tuple[Object, np.ndarray]]:
    """Clips of one object that moves so, and where it is seen."""
    samples = Shapes(clips=clips, objects=(1,), languages=("en",)).__getitems__(range(clips // 5))
    found = [(scene(sample).objects[0], sample) for sample in samples]
    return [(obj, seen(sample, COLOURS[obj.colour])) for obj, sample in found if obj.motion == motion]


def centres(share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and area of what is seen, a number a frame."""
    solid = np.where(share > 0.3, share, 0)
    area = solid.sum((1, 2))
    ys, xs = np.indices(share.shape[1:]) + 0.5
    return (solid * xs).sum((1, 2)) / area, (solid * ys).sum((1, 2)) / area, area


@pytest.mark.parametrize("split", ["train", "val"])
def test_captions_say_what_the_labels_say(split: str) -> None:
    data = Shapes(clips=3000, split=split, num_frames=1)  # type: ignore[arg-type]
    samples = data.__getitems__(range(3000))
    for sample in samples:
        found = scene(sample)
        assert found.labels() == sample.labels
        assert len({o.colour for o in found.objects}) == len(found.objects)
        assert found.background not in {o.colour for o in found.objects}
        for target in TARGETS:
            assert set(sample.labels[target.name]) <= set(target.classes)
    counts = Counter(len(sample.labels["colour"]) for sample in samples)
    assert all(850 < counts[n] < 1150 for n in (1, 2, 3))
    chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in sample.text or "") for sample in samples)
    assert 1350 < chinese < 1650
    assert len({sample.text for sample in samples}) > 2900


def test_every_value_occurs_about_as_often() -> None:
    objects = [o for s in Shapes(clips=3000, num_frames=1).__getitems__(range(3000)) for o in scene(s).objects]
    for kind, values in (("colour", COLOURS), ("shape", SHAPES), ("size", SIZES), ("motion", MOTIONS)):
        counts = Counter(getattr(o, kind) for o in objects)
        assert set(counts) == set(values)
        # a circle never spins, so spins and circles are a little rarer
        assert min(counts.values()) > 0.65 * len(objects) / len(values)
        assert max(counts.values()) < 1.25 * len(objects) / len(values)
    assert not [o for o in objects if (o.shape, o.motion) == ("circle", "spin")]


@pytest.mark.parametrize(
    ("caption", "objects", "background"),
    [
        ("a large red circle bounces over a blue background", (RED,), "blue"),
        ("On a blue background, one big ball in red is hopping", (RED,), "blue"),
        ("一个红色的大圆形在蓝色背景上弹跳", (RED,), "blue"),
        ("在蓝色的背景前，一个巨大的红色圆球正在上下弹跳", (RED,), "blue"),
        ("there is a huge, red disc jumping up and down, and there is a tiny yellow star rotating against a gray background",
         (RED, STAR), "grey"),
        ("一颗很小的黄色星星在旋转，而红色的大圆在跳动，背景是灰色", (STAR, RED), "grey"),
        ("a little violet block moves in a circle while a big green triangle gets bigger on a black background",
         (Object("purple", "square", "small", "orbit"), Object("green", "triangle", "large", "grow")), "black"),
        ("褐色背景上，一个橘色小方形做圆周运动，一个白色大三角形走之字形，同时一颗小的蓝色五角星慢慢变大",
         (Object("orange", "square", "small", "orbit"), Object("white", "triangle", "large", "zigzag"),
          Object("blue", "star", "small", "grow")), "brown"),
    ],
)  # fmt: skip
def test_reading_captions(caption: str, objects: tuple[Object, ...], background: str) -> None:
    assert scene_of(caption) == Scene(objects, background)


@pytest.mark.parametrize(
    "caption",
    [
        "a cat",
        "a large red circle bounces",
        "a red circle bounces over a blue background",
        "a large red circle over a blue background",
        "a large red blue circle bounces over a black background",
        "a large black circle bounces over a blue background",
        "a large red circle bounces over a red background and a blue background",
        "a large red circle bounces over a pretty background",
        "a large red circle bounces and a small star over a blue background",
        "",
    ],
)
def test_what_does_not_say_all_of_it_is_no_caption(caption: str) -> None:
    assert scene_of(caption) is None


def test_labels_name_the_colour_they_belong_to() -> None:
    assert Scene((RED, STAR), "blue").labels() == {
        "colour": ("red", "yellow"),
        "shape": ("red circle", "yellow star"),
        "size": ("red large", "yellow small"),
        "motion": ("red bounce", "yellow spin"),
        "background": ("blue",),
    }


@pytest.mark.parametrize("languages", [("en",), ("zh",), ("en", "zh")])
def test_texts_have_the_whole_vocabulary(languages: tuple[str, ...]) -> None:
    data = Shapes(clips=2000, languages=languages, num_frames=1)  # type: ignore[arg-type]
    tokenizer = Tokenizer.train(data.texts(), "word", max_tokens=64)
    lengths: dict[int, int] = {}
    for sample in data.__getitems__(range(2000)):
        assert tokenizer.unknown(sample.text or "") == []
        count = len(sample.labels["colour"])
        lengths[count] = max(lengths.get(count, 0), tokenizer.length(sample.text or ""))
    assert lengths[1] <= 32  # what recipes/evolution_shapes_flow.toml allows
    assert lengths[3] <= 64
    other = Shapes(clips=5, languages=languages, seed=3, objects=(1,), composition="compositional")  # type: ignore[arg-type]
    assert list(other.texts()) == list(data.texts())  # so that weights can be continued on another part of the world
    assert all(scene_of(text) for text in data.texts())


def test_a_sample_is_a_function_of_its_draw_alone() -> None:
    data = Shapes(clips=50)
    together = data.__getitems__([7, 3, 57])
    for sample, draw in zip(together, (7, 3, 57), strict=True):
        assert sample.text == data[draw].text
        assert sample.video is not None
        torch.testing.assert_close(sample.video, data[draw].video, rtol=0, atol=0)
    # an epoch later: the same clip, said in other words
    assert together[0].labels == together[2].labels
    torch.testing.assert_close(together[0].video, together[2].video, rtol=0, atol=0)
    assert sum(data[i].text != data[i + 50].text for i in range(50)) > 40
    for other in (Shapes(clips=50, seed=1), Shapes(clips=50, split="val")):
        assert any(other[i].labels != data[i].labels for i in range(5))


def test_held_out_pairs() -> None:
    def some(split: str, composition: str) -> list[Object]:
        data = Shapes(clips=1500, split=split, composition=composition, num_frames=1)  # type: ignore[arg-type]
        return [o for s in data.__getitems__(range(1500)) for o in scene(s).objects]

    trained, judged, free = some("train", "compositional"), some("val", "compositional"), some("val", "all")
    assert not [o for o in trained if o.held_out]
    assert all(o.held_out for o in judged)
    assert 0.3 < np.mean([o.held_out for o in free]) < 0.6
    looks, ways = {(o.colour, o.shape) for o in trained}, {(o.motion, o.shape) for o in trained}
    assert len(looks) == 7 * 3  # three shapes of four with every colour
    assert len(ways) == 9 * 3 - 1  # and with every motion, but that circles do not spin
    for o in judged:
        assert (o.colour, o.shape) not in looks or (o.motion, o.shape) not in ways
    assert not RED.held_out
    assert Object("red", "square", "small", "up").held_out
    assert Object("blue", "circle", "small", "down").held_out


def test_colours_are_far_apart() -> None:
    """Two objects, or an object and a background of another name, never look alike."""
    for a, b in combinations(COLOURS, 2):
        assert np.abs(np.subtract(COLOURS[a], COLOURS[b])).sum() > 100, (a, b)
    for colour, background in ((c, b) for c in COLOURS for b in BACKGROUNDS if c != b):
        assert np.abs(np.subtract(COLOURS[colour], BACKGROUNDS[background])).max() > 90, (colour, background)


@pytest.mark.parametrize("motion", ["left", "right", "up", "down"])
def test_it_moves_the_way_it_is_said(motion: str) -> None:
    clips = alone(motion)
    assert len(clips) > 10
    for _, share in clips:
        x, y, _ = centres(share)
        gone = (x[-1] - x[0], y[-1] - y[0])
        along = gone[motion in ("up", "down")] * (-1 if motion in ("left", "up") else 1)
        assert 23.5 < along < 32.5
        assert abs(gone[motion in ("left", "right")]) < 0.3


def test_bounces_orbits_and_zigzags() -> None:
    for _, share in alone("bounce"):
        x, y, _ = centres(share)
        assert np.ptp(x) < 0.3
        assert 11 < np.ptp(y) < 20.5
        assert (np.diff(np.sign(np.diff(y))) != 0).sum() >= 3
    for _, share in alone("orbit"):
        x, y, _ = centres(share)
        # the circle through its points, by least squares: x^2 + y^2 = 2 a x + 2 b y + c
        (a, b, c), *_ = np.linalg.lstsq(np.stack([2 * x, 2 * y, np.ones(16)], 1), x**2 + y**2, rcond=None)
        radius = np.sqrt(c + a * a + b * b)
        assert 7.8 < radius < 11.2
        assert np.abs(np.hypot(x - a, y - b) - radius).max() < 0.3
    for _, share in alone("zigzag"):
        x, y, _ = centres(share)
        assert min(np.ptp(x), np.ptp(y)) > 9
        assert 22 < max(abs(x[-1] - x[0]), abs(y[-1] - y[0])) < 32.5


def test_growing_and_spinning() -> None:
    for _, share in alone("grow"):
        x, y, area = centres(share)
        assert max(np.ptp(x), np.ptp(y)) < 0.6
        assert np.sqrt(area[0] / area[-1]) == pytest.approx(0.4, abs=0.07)
    for obj, share in alone("spin"):
        x, y, area = centres(share)
        assert max(np.ptp(x), np.ptp(y)) < 0.8
        assert np.ptp(area) < 0.2 * area.mean()
        assert obj.shape != "circle"
        assert np.abs(np.diff(share, axis=0)).max(0).max() > 0.4


def test_large_is_larger_than_small_and_nothing_leaves_the_frame() -> None:
    areas: dict[tuple[str, str], list[float]] = {}
    for sample in Shapes(clips=300, objects=(1,), languages=("en",)).__getitems__(range(300)):
        (obj,) = scene(sample).objects
        share = seen(sample, COLOURS[obj.colour])
        # the border is background, but for the blur of a tip
        assert max(share[:, [0, -1]].max(), share[:, :, [0, -1]].max()) < 0.3
        areas.setdefault((obj.shape, obj.size), []).append(centres(share)[2][-1])
    for shape in SHAPES:
        assert min(areas[shape, "large"]) > 2 * max(areas[shape, "small"])


def test_circles_and_squares_have_their_areas() -> None:
    for sample in Shapes(clips=200, objects=(1,), languages=("en",)).__getitems__(range(200)):
        (obj,) = scene(sample).objects
        area = seen(sample, COLOURS[obj.colour]).sum((1, 2))[-1]
        radius = SIZES[obj.size]
        if obj.shape == "circle":
            assert 0.85 < area / (np.pi * radius**2) < 1.15
        if obj.shape == "square":
            assert 0.85 < area / (2 * 0.85 * radius) ** 2 < 1.15


def test_several_objects_hide_each_other_briefly_at_most() -> None:
    hidden = []
    for sample in Shapes(clips=300, objects=(3,)).__getitems__(range(120)):
        assert sample.video is not None
        pixels = (sample.video.numpy() + 1) * 127.5
        for obj in scene(sample).objects:
            if obj.motion != "grow":
                gap = np.abs(pixels - np.array(COLOURS[obj.colour])[:, None, None, None]).max(0)
                area = (gap < 14).sum((1, 2))
                assert (area > area.max() / 2).sum() >= 10
                hidden.append(area < 0.8 * area.max())
    assert np.mean(hidden) < 0.08


def test_clips_of_fewer_frames_begin_at_any_time() -> None:
    still = Shapes(clips=3, num_frames=1)
    assert still.video_shape == (3, 1, SIZE, SIZE)
    whole = Shapes(clips=40).__getitems__(range(40))
    begun = []
    for sample, half in zip(whole, Shapes(clips=40, num_frames=8, stride=2).__getitems__(range(40)), strict=True):
        assert sample.video is not None
        assert half.video is not None
        assert half.labels == sample.labels
        begun.append([torch.equal(sample.video[:, start::2], half.video) for start in (0, 1)])
    assert all(any(one) for one in begun)
    assert {one[0] for one in begun} == {True, False}
    assert Shapes(clips=3, num_frames=8, stride=2).fps == 4.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 17}, "num_frames: 17, expected 1 to 16"),
        ({"num_frames": 8, "stride": 3}, "stride: 3, expected at most 2"),
        ({"objects": (4,)}, r"objects: \[4\], expected some of 1, 2, 3"),
        ({"objects": ()}, r"objects: \[\], expected some of 1, 2, 3"),
        ({"languages": ()}, "languages: none"),
        ({"clips": 0}, "clips: 0"),
        ({"split": "test"}, "split: 'test', expected train or val"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Shapes(**options)  # type: ignore[arg-type]


def test_without_its_clip_a_sample_is_the_same() -> None:
    data = Shapes(clips=5)
    for index in (0, 3, 8):
        whole, still = data[index], data.still(index)
        assert still.video is None and whole.video is not None
        assert (still.key, still.text, still.labels) == (whole.key, whole.text, whole.labels)
