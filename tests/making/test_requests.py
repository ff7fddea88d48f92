"""What can be asked for together, and what a file says of how it was made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kinetext.making import File, Plan, Request
from kinetext.making.requests import frames_in
from kinetext.types import DataError

PLAIN: dict[str, Any] = {
    "prompt": "3", "seed": 1, "index": 2, "steps": 4, "guidance": 2.0, "fps": 8.0, "precision": "fp32", "num_frames": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num": 0}, "num: 0, expected 1 to 10000"),
        ({"batch": 0}, "batch: 0, expected 1 to 1024"),
        ({"seeds": (1, 2), "num": 2}, "seeds: 2 are given, which says how many clips; leave num and seed out"),
        ({"seeds": (1, 2), "seed": 3}, "leave num and seed out"),
        ({"seeds": (1, -2)}, "seeds 1,-2: -2, expected 0 to 9223372036854775807"),
        ({"seconds": 0.0}, "seconds: 0.0, expected more than 0"),
        ({"seconds": float("nan")}, "seconds: nan"),
        ({"seconds": 1e6}, "seconds: 1000000.0, expected more than 0, at most 86400"),
        ({"history": 4}, "history: 4, expected with seconds"),
        ({"seconds": 9.0, "batch": 2}, "batch: 2, expected 1 with seconds"),
        ({"image": "a.png", "video": "a.mp4"}, "image and video: both are given"),
        ({"video": "a.mp4", "change": "b.mp4"}, "video and change: both are given"),
        ({"mask": "a.png"}, "mask: expected with video or change"),
        ({"mask": "a.png", "image": "b.png"}, "mask: expected with video or change"),
        ({"keep": 4}, "keep: 4, expected with video"),
        ({"keep": 0, "video": "a.mp4"}, "keep: 0, expected 1 to"),
        ({"keep": 4, "video": "a.mp4", "mask": "a.png"}, "keep: 4, expected without mask"),
        ({"strength": 0.5}, "strength: 0.5, expected with change"),
        ({"strength": 0.0, "change": "a.mp4"}, "strength: 0.0, expected more than 0, at most 1"),
        ({"strength": 1.5, "change": "a.mp4"}, "strength: 1.5, expected more than 0, at most 1"),
    ],
)
def test_what_cannot_be_together_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        Request(**asked)
    assert message in str(error.value)


def test_how_many_clips() -> None:
    assert (Request().clips, Request(num=3).clips, Request(seeds=(4, 4, 5)).clips) == (1, 3, 3)


def test_seconds_are_frames() -> None:
    assert [frames_in(s, 8) for s in (2, 2.05, 2.07, 0.1)] == [16, 16, 17, 1]
    with pytest.raises(DataError, match=r"seconds: 0\.05, expected at least 0\.125, one frame at 8 a second"):
        frames_in(0.05, 8)


def test_a_plan_says_what_is_not_as_always_and_is_read_back() -> None:
    plan = Plan(**PLAIN)
    assert plan.said() == PLAIN
    full = Plan(**PLAIN, history=4, negative="5", change=File("a.mp4", "00"), strength=0.5, batch=4, row=3)
    assert set(full.said()) - set(PLAIN) == {"history", "negative", "change", "strength", "batch", "row"}
    for one in (plan, full):
        assert Plan.read({**json.loads(json.dumps(one.said())), "model": "digits"}) == one


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"seed": -1}, "seed: -1"),
        ({"steps": 0}, "steps: 0, expected 1 to 1000"),
        ({"steps": "many"}, "steps: input should be a valid integer"),
        ({"guidance": float("nan")}, "guidance: nan"),
        ({"fps": 0.0}, "fps: 0.0"),
        ({"precision": "fp8"}, "precision: input should be 'bf16' or 'fp32'"),
        ({"num_frames": 10**9}, "num_frames: 1000000000"),
        ({"strength": 2.0}, "strength: 2.0"),
        ({"batch": 2, "row": 2}, "row: 2, expected 0 to 1"),
        ({"negative": "5", "guidance": 1.0}, "negative: expected with guidance above 1, and it is 1"),
        ({"image": {"path": "a.png"}}, "image.sha256: field required"),
    ],
)
def test_provenance_is_not_trusted(said: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        Plan.read({**PLAIN, **said})
    assert message in str(error.value)


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(DataError, match=r"image: .*a\.png can't be read \(No such file"):
        File.of("image", path)
    path.write_bytes(b"abc")
    file = File.of("image", path)
    assert file.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    file.check("image")
    path.write_bytes(b"abd")
    with pytest.raises(
        DataError, match=r"image: .*a\.png has changed since: its SHA-256 was ba7816bf8f01, is a52d159f262b"
    ):
        file.check("image")


@pytest.mark.parametrize(
    ("said", "lies"),
    [
        ("a.png", "sub/a.png"),  # beside the clip
        ("pics/a.png", "pics/a.png"),  # as seen from a folder above the clip's, where it was made
        ("../pics/a.png", "pics/a.png"),  # as seen from the clip's folder
        ("gone/pics/a.png", "sub/a.png"),  # it came along with the clip
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_is_found_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, lies: str, absolute: bool
) -> None:
    for name in ("there/sub", "there/pics", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    clip = Path("../there/sub/clip.mp4")
    there = tmp_path / "there" / lies
    there.write_bytes(b"abc")
    file = replace(File.of("image", there), path=str(tmp_path / "gone" / there.name if absolute else said))
    if absolute and lies != "sub/a.png":
        assert file.near(clip) == file
        return
    file.near(clip).check("image")
    assert Path(file.near(clip).path).samefile(there)
    Path("a.png").write_bytes(b"abd")  # another file of that name is not taken
    assert Path(file.near(clip).path).samefile(there)
    there.write_bytes(b"abd")
    assert file.near(clip) == file
