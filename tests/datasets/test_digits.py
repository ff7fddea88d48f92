"""The digits world: its geometry, its captions, its splits, its files."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kinetext.datasets.digits import DIGIT, OBJECTS, SIZE, Digits, is_held_out, objects_of
from kinetext.text import Tokenizer
from kinetext.types import DataError, Sample


def write_idx(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, *, zipped: bool) -> None:
    for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
        data = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)


@pytest.fixture
def squares(tmp_path: Path) -> str:
    """An MNIST folder whose digit d is a full square of gray 25 * d + 20: position and class can be read off a frame."""
    labels = np.arange(20, dtype=np.uint8) % 10
    images = np.ones((20, DIGIT, DIGIT), np.uint8) * (25 * labels + 20)[:, None, None].astype(np.uint8)
    write_idx(tmp_path, "train", images, labels, zipped=True)
    write_idx(tmp_path, "t10k", images, labels, zipped=False)
    return str(tmp_path)


def corner(frame: torch.Tensor) -> tuple[int, int]:
    ys, xs = torch.nonzero(frame > -1, as_tuple=True)
    return int(ys.min()), int(xs.min())


def test_a_digit_moves_7_2_pixels_a_frame_and_bounces_off_the_walls(squares: str) -> None:
    data = Digits(root=squares, clips=40, digits=(1,))
    for sample in data.__getitems__(range(40)):
        assert sample.video is not None and sample.video.shape == (1, 16, SIZE, SIZE)
        path = np.array([corner(frame) for frame in sample.video[0]])
        (name,) = sample.labels["objects"]
        moving, still = (path[:, 1], path[:, 0]) if "left" in name else (path[:, 0], path[:, 1])
        assert (still == still[0]).all()
        assert moving.min() >= 0 and moving.max() <= SIZE - DIGIT
        gray = sample.video.max()
        assert float(gray) == pytest.approx((25 * int(name[0]) + 20) / 127.5 - 1, abs=1e-5)
        # unfolded by reflection, the path is a line of slope 7.2, to rounding
        steps = np.abs(np.diff(moving))
        assert steps.max() <= 8 and np.isin(steps[steps > 0], range(9)).all()
        inside = (np.minimum(moving[:-1], moving[1:]) > 8) & (np.maximum(moving[:-1], moving[1:]) < SIZE - DIGIT - 8)
        assert np.isin(steps[inside], (7, 8)).all()


def test_captions_say_what_the_labels_say_in_both_languages() -> None:
    samples = Digits(clips=400).__getitems__(range(400))
    assert {len(s.labels["objects"]) for s in samples} == {1, 2}
    chinese = [s for s in samples if s.text and any("\u4e00" <= c <= "\u9fff" for c in s.text)]
    assert 120 < len(chinese) < 280
    for sample in samples:
        assert sample.text is not None and objects_of(sample.text) == sample.labels["objects"]
        assert len(set(sample.labels["objects"])) == len(sample.labels["objects"])
    assert len({s.text for s in samples}) > 300


def test_captions_may_leave_out_the_motions() -> None:
    """Of the same clips, in words that full captions have too."""
    full, digits = Digits(clips=200), Digits(clips=200, captions="digits")
    words = Tokenizer.train(full.texts(), "word")
    for a, b in zip(*(world.__getitems__(range(200)) for world in (full, digits)), strict=True):
        assert a.labels == b.labels and a.video is not None and b.video is not None and torch.equal(a.video, b.video)
        assert b.text and re.findall(r"\d", b.text) == [name[0] for name in b.labels["objects"]]
        assert not re.search("left|right|up|down|左右|上下|mov|go|bounc|移动|运动", b.text)
        assert not words.unknown(b.text)
    assert list(digits.texts()) == list(full.texts()), "what is learned from one kind goes on with another"


def test_some_clips_roam_and_their_texts_name_no_motion() -> None:
    plain = Digits(clips=200, digits=(1,)).__getitems__(range(200))
    mixed = Digits(clips=200, digits=(1,), roaming=0.5).__getitems__(range(200))
    ways = {"rests": 0, "slants": 0, "named": 0, "untold": 0}
    for before, after in zip(plain, mixed, strict=True):
        assert before.text and before.video is not None and after.video is not None
        if after.labels:
            assert (before.text, before.labels) == (after.text, after.labels)
            assert torch.equal(before.video, after.video)
            ways["named"] += 1
            continue
        if after.text is None:
            ways["untold"] += 1
        else:
            assert re.findall(r"\d", after.text) == re.findall(r"\d", before.text)
            assert objects_of(after.text) is None
        left, top = (_first_lit(after.video[0], axis) for axis in (1, 2))
        assert (len(set(left)) == 1) == (len(set(top)) == 1), "along both axes or none"
        ways["rests" if len(set(left)) == 1 else "slants"] += 1
    assert 80 <= ways["named"] <= 120 and 10 <= ways["untold"] <= 30 and 1.3 < ways["slants"] / ways["rests"] < 3


def _first_lit(frames: torch.Tensor, axis: int) -> list[int]:
    """The first column (axis 1) or row (axis 2) of every frame that shows something."""
    return [int((frame > -1).any(axis - 1).nonzero()[0]) for frame in frames]


def test_parts_of_the_label_are_columns_too_and_what_roams_has_a_digit_alone() -> None:
    plain = Digits(clips=60, digits=(1,), roaming=0.5).__getitems__(range(60))
    data = Digits(clips=60, digits=(1,), roaming=0.5, parts=True)
    assert [(target.name, target.multi) for target in data.targets] == [
        ("objects", True),
        ("digit", False),
        ("motion", False),
    ]
    for before, after in zip(plain, data.__getitems__(range(60)), strict=True):
        (digit,) = after.labels["digit"]
        assert after.text is None or re.findall(r"\d", after.text) == [digit]
        if before.labels:
            (motion,) = after.labels["motion"]
            assert after.labels["objects"] == (f"{digit} {motion}",)
        else:
            assert after.labels.keys() == {"digit"}


@pytest.mark.parametrize(
    ("option", "message"),
    [({"roaming": 0.5}, "roaming: 0.5, expected 0"), ({"parts": True}, "parts: true, expected false")],
)
def test_two_digits_neither_roam_nor_have_parts(option: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"{message} with two digits"):
        Digits(**option)


def test_reading_captions() -> None:
    english = "the digit 3 is moving up and down and the digit 7 is moving left and right"
    assert objects_of(english) == ("3 up and down", "7 left and right")
    assert objects_of("数字3上下移动，数字7左右移动") == ("3 up and down", "7 left and right")
    assert objects_of("a cat") is None and objects_of("the digit 3 and 4 moving up and down") is None


def test_a_sample_is_a_function_of_seed_split_and_index_alone() -> None:
    data = Digits(clips=50)
    together = data.__getitems__([7, 3, 57])
    assert together[0].text == data[7].text == together[2].text
    assert together[0].video is not None and data[7].video is not None
    torch.testing.assert_close(together[0].video, data[7].video, rtol=0, atol=0)
    for other in (Digits(clips=50, seed=1), Digits(clips=50, split="val")):
        assert any(other[i].text != data[i].text for i in range(5))


def test_two_digits_that_move_alike_keep_apart(squares: str) -> None:
    checked = 0
    for sample in Digits(root=squares, clips=200, digits=(2,)).__getitems__(range(200)):
        first, second = sample.labels["objects"]
        if first[2:] != second[2:] or sample.video is None:
            continue
        lit = sample.video[0] > -1
        lanes = lit.any(2).any(0) if "left" in first else lit.any(1).any(0)  # rows or columns that were ever covered
        assert int(lanes.sum()) >= DIGIT + DIGIT // 2
        checked += 1
    assert checked > 50


def test_compositional_split_trains_on_half_of_the_pairs_and_tests_on_the_other() -> None:
    held = {OBJECTS[i] for i in range(20) if is_held_out(i)}
    assert len(held) == 10 and {name[0] for name in held} == set("0123456789")
    seen = {
        o for s in Digits(clips=300, composition="compositional").__getitems__(range(300)) for o in s.labels["objects"]
    }
    unseen = {
        o
        for s in Digits(clips=300, composition="compositional", split="val").__getitems__(range(300))
        for o in s.labels["objects"]
    }
    assert unseen == held and seen == set(OBJECTS) - held


def test_images_and_stride() -> None:
    still = Digits(clips=3, num_frames=1)
    assert still.video_shape == (1, 1, 64, 64)
    whole, half = Digits(clips=3)[1], Digits(clips=3, num_frames=8, stride=2)[1]
    assert whole.video is not None and half.video is not None
    torch.testing.assert_close(whole.video[:, ::2], half.video)


def test_validation_images_are_never_trained_on() -> None:
    train, val = Digits(), Digits(split="val")
    trained, held_out = train.hands[0].images, val.hands[0].images
    as_bytes = {image.tobytes() for image in trained}
    assert sum(image.tobytes() in as_bytes for image in held_out) == 0
    assert len(trained) + len(held_out) == 1797


def test_two_hands_are_mixed_in_the_share_asked_for(squares: str) -> None:
    samples = Digits(root=squares, clips=300, digits=(1,), num_frames=1, builtin=0.25).__getitems__(range(300))
    flat = [s for s in samples if s.video is not None and len(s.video.unique()) == 2]  # a square: black and one gray
    assert 0.68 < len(flat) / 300 < 0.82
    same = Digits(root=squares, clips=300, digits=(1,), num_frames=1)
    assert [s.text for s in same.__getitems__(range(9))] == [s.text for s in samples[:9]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 17}, "num_frames: 17, expected 1 to 16"),
        ({"digits": (3,)}, "digits: \\[3\\], expected one or both of 1, 2"),
        ({"languages": ()}, "languages: none"),
        ({"clips": 0}, "clips: 0"),
        ({"captions": "none"}, "captions: 'none', expected one of full, digits"),
        ({"builtin": 1.5}, "builtin: 1.5, expected 0 to 1"),
        ({"roaming": -0.5}, "roaming: -0.5, expected 0 to 1"),
        ({"root": "/nowhere"}, "no train-images-idx3-ubyte"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Digits(**options)  # type: ignore[arg-type]


def test_a_broken_idx_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"hello")
    with pytest.raises(DataError, match="not an IDX file"):
        Digits(root=str(tmp_path))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]))
    with pytest.raises(DataError, match="do not hold sizes"):
        Digits(root=str(tmp_path))
    packed = bytearray(gzip.compress(bytes(range(256)) * 20))
    packed[12:14] = b"\xff\xff"
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"idx3-ubyte.gz: can't be read"):
        Digits(root=str(tmp_path))


def test_samples_are_legal(squares: str) -> None:
    sample = Digits(root=squares, split="val")[0]
    assert isinstance(sample, Sample) and sample.video is not None
    assert float(sample.video.abs().max()) <= 1


def test_without_its_clip_a_sample_is_the_same() -> None:
    data = Digits(clips=5)
    for index in (0, 3, 8):
        whole, still = data[index], data.still(index)
        assert still.video is None and whole.video is not None
        assert (still.key, still.text, still.labels) == (whole.key, whole.text, whole.labels)
