"""Copies in another coding are found, and clips of one camera are not taken for copies."""

from __future__ import annotations

import base64
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch

from kinetext import video
from kinetext.doctor.duplicates import _joined, pairs_alike
from kinetext.doctor.looking import SIDE, Look, look, phash


def scene(seed: int, walker: int, frames: int = 16, side: int = 64) -> torch.Tensor:
    """A place drawn by ``seed``, in which somebody drawn by ``walker`` goes about: uint8 ``(T, H, W, 3)``."""
    place, who = np.random.default_rng(seed), np.random.default_rng(walker + 1000)
    rough = torch.from_numpy(place.uniform(0, 255, (1, 3, 8, 8)))
    back = torch.nn.functional.interpolate(rough, size=(side, side), mode="bilinear")[0].permute(1, 2, 0)
    clip = back.repeat(frames, 1, 1, 1)
    at, speed = who.uniform(8, side - 24, 2), who.uniform(-2, 2, 2)
    for number in range(frames):
        top, left = (int(v) for v in (at + speed * number).clip(0, side - 16))
        clip[number, top : top + 16, left : left + 8] = torch.from_numpy(who.uniform(0, 255, 3))
    return clip.round().clamp(0, 255).to(torch.uint8)


def looked(path: Path, clip: torch.Tensor, crf: int = 12) -> Look:
    video.write(path, clip, fps=8.0, crf=crf)
    return look(video.stream(path, size=SIDE, fit="squash"), len(clip), clip.shape[2] / clip.shape[1])


def test_the_hash_is_that_of_imagehash() -> None:
    """imagehash.phash: scipy's transform along both axes, the 8 x 8 lowest frequencies above their median, row by row."""
    for seed in range(20):
        picture = np.random.default_rng(seed).uniform(0, 255, (SIDE, SIDE)).astype(np.float32)
        low = scipy.fft.dct(scipy.fft.dct(picture.astype(np.float64), axis=0), axis=1)[:8, :8]
        bits = (low > np.median(low)).flatten()
        assert phash(picture) == sum(1 << (63 - place) for place in range(64) if bits[place])


def test_the_hash_does_not_know_contrast() -> None:
    picture = np.random.default_rng(0).uniform(50, 200, (SIDE, SIDE)).astype(np.float32)
    assert phash(picture) == phash(picture * 0.5)
    # brightness is the first frequency alone
    assert bin(phash(picture) ^ phash(picture - 40)).count("1") <= 2


@pytest.mark.parametrize("change", ["coded anew", "half the size", "twice the size", "brighter"])
def test_a_copy_is_found(tmp_path: Path, change: str) -> None:
    clips = [scene(seed, seed) for seed in range(6)]
    looks = [looked(tmp_path / f"{place}.mp4", clip) for place, clip in enumerate(clips)]
    copy = clips[2]
    if change == "half the size":
        small = torch.nn.functional.interpolate(copy.permute(0, 3, 1, 2).float(), scale_factor=0.5, mode="area")
        copy = small.permute(0, 2, 3, 1).to(torch.uint8)
    if change == "twice the size":
        copy = copy.repeat_interleave(2, 1).repeat_interleave(2, 2)
    if change == "brighter":
        copy = (copy.float() * 0.85 + 30).to(torch.uint8)
    looks.append(looked(tmp_path / "copy.mp4", copy, 28))
    assert pairs_alike(looks) == [(2, 6)]


def test_one_camera_is_no_copy(tmp_path: Path) -> None:
    """The same room, with somebody else about in it: alike in the mean, and no copies."""
    looks = [looked(tmp_path / f"{walker}.mp4", scene(7, walker)) for walker in range(8)]
    assert pairs_alike(looks) == []


def test_plain_clips_are_not_compared() -> None:
    grey = [torch.full((3, SIDE, SIDE), value) for value in (-0.2, 0.0, 0.2)]
    assert pairs_alike([look([one] * 8, 8, 1.0) for one in grey]) == []


def test_blocks_find_what_pair_by_pair_would() -> None:
    """700 clips, several blocks: clip i and i + 350 are one, with a little noise."""
    dice = np.random.default_rng(0)
    pictures = dice.uniform(0, 255, (350, 8, 16, 16))
    hashes = [[phash(np.kron(frame, np.ones((2, 2))).astype(np.float32)) for frame in one] for one in pictures]
    looks = [_made(one, own) for one, own in zip(pictures, hashes, strict=True)]
    looks += [_made(one + dice.normal(0, 1, one.shape), own) for one, own in zip(pictures, hashes, strict=True)]
    assert sorted(pairs_alike(looks)) == [(place, place + 350) for place in range(350)]
    some = [*looks[:12], *looks[350:362]]
    alone = [(a, b) for a, b in combinations(range(24), 2) if pairs_alike([some[a], some[b]])]
    assert sorted(pairs_alike(some)) == alone


def _made(picture: np.ndarray, hashes: list[int]) -> Look:
    small = picture.round().clip(0, 255).astype(np.uint8)
    colour = (0.0, 0.0, 0.0)
    return Look(8, 0.0, 99.0, colour, colour, base64.b64encode(small.tobytes()).decode(), tuple(hashes))


def test_pictures_of_one_camera_take_no_pairs() -> None:
    """3,000 stills of one place, a third of them in other light: two sets, where all pairs would be four million."""
    dice = np.random.default_rng(2)
    place = np.kron(dice.uniform(60, 200, (4, 4)), np.ones((4, 4)))
    dark = place + np.kron(dice.normal(0, 25, (4, 4)), np.ones((4, 4)))
    stills = [np.repeat((dark if number % 3 == 0 else place)[None], 8, 0) for number in range(3000)]
    hashes = [phash(np.kron(place, np.ones((2, 2))).astype(np.float32))] * 8
    looks = [_made(one + dice.normal(0, 1, (1, 16, 16)), hashes) for one in stills]
    began = time.process_time()
    pairs = pairs_alike(looks)
    assert time.process_time() - began < 5
    assert sorted(map(sorted, _joined(pairs))) == [list(range(0, 3000, 3)), [n for n in range(3000) if n % 3]]
    assert len(pairs) == 2998


def test_sets_are_those_of_every_pair() -> None:
    """Stills in slowly changing light, each like some others, and clips of one content that are not held against each other."""
    dice = np.random.default_rng(3)
    place = np.kron(dice.uniform(60, 200, (4, 4)), np.ones((4, 4)))
    lights = [np.kron(dice.normal(0, 2.4, (4, 4)), np.ones((4, 4))) for _ in range(40)]
    hashes = [phash(np.kron(place, np.ones((2, 2))).astype(np.float32))] * 8
    looks = [_made(np.repeat((place + light)[None], 8, 0), hashes) for light in lights]
    contents = [number % 11 for number in range(40)]
    alone = [
        pair
        for pair in combinations(range(40), 2)
        if contents[pair[0]] != contents[pair[1]] and pairs_alike([looks[pair[0]], looks[pair[1]]])
    ]
    found = pairs_alike(looks, contents)
    assert set(found) < set(alone)
    assert sorted(map(sorted, _joined(found))) == sorted(map(sorted, _joined(alone)))
    assert 1 < len(_joined(alone)) < 20


def test_many_clips_take_seconds() -> None:
    """10,000 clips are 50 million pairs; pair by pair in Python they would take minutes."""
    dice = np.random.default_rng(1)
    words = dice.integers(0, 2**63, (10_000, 8)).tolist()
    picture = dice.uniform(0, 255, (8, 16, 16))
    began = time.process_time()
    assert pairs_alike([_made(picture, own) for own in words]) == []
    assert time.process_time() - began < 20
