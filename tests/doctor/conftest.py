"""A small dataset without a flaw, and the same with flaws planted in it, made once a session. Never change them: copy."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from kinetext import video

COLUMNS = ("file_name", "text", "label", "level", "start", "end", "group", "split", "weight")
LABELS = ("run", "jump", "wave")
Pixels = NDArray[np.uint8]


def moving(seed: int, frames: int = 12, height: int = 48, width: int = 64) -> Pixels:
    """Two discs that go their ways over a background of waves, all drawn by ``seed``: ``(T, H, W, 3)``."""
    dice = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = dice.uniform(-12, 12, (3, 2))
    back = [100 + 60 * np.sin(a * x + b * y + dice.uniform(0, 6)) for a, b in waves]
    clip = np.repeat(np.stack(back, -1)[None], frames, 0)
    for _ in range(2):
        at, speed, colour = dice.uniform(0.1, 0.6, 2), dice.uniform(-0.5, 0.5, 2), dice.uniform(0, 255, 3)
        for number in range(frames):
            place = at + speed * number / max(1, frames - 1)
            clip[number][(x - place[0]) ** 2 + (y - place[1]) ** 2 < 0.012] = colour
    return clip.clip(0, 255).astype(np.uint8)


def save(path: Path, pixels: Pixels, crf: int = 12) -> None:
    video.write(path, torch.from_numpy(pixels), fps=8.0, crf=crf)


@dataclass
class Table:
    """A dataset that is being made: rows go in, their numbers come out."""

    root: Path
    rows: list[dict[str, str]] = field(default_factory=list)
    seeds: int = 1000

    def clip(self, name: str = "", pixels: Pixels | None = None, crf: int = 12) -> str:
        self.seeds += 1
        name = name or f"clips/{self.seeds}.mp4"
        save(self.root / name, moving(self.seeds) if pixels is None else pixels, crf)
        return name

    def add(self, file: str, **cells: str) -> int:
        """A row that is right in all that ``cells`` does not say otherwise; its number."""
        number = len(self.rows) + 1
        own = {
            "file_name": file,
            "text": f"somebody moves about in place {number}",
            "label": LABELS[number % 3],
            "level": str(number % 3),
            "group": f"own {number}",
            "split": "train",
        }
        self.rows.append({**dict.fromkeys(COLUMNS, ""), **own, **cells})
        return number

    def write(self, extra: dict[int, str] | None = None) -> None:
        with (self.root / "metadata.csv").open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out)
            table.writerow(COLUMNS)
            for number, row in enumerate(self.rows, 1):
                more = [extra[number]] if extra and number in extra else []
                table.writerow([*(row[name] for name in COLUMNS), *more])


@dataclass(frozen=True)
class Broken:
    """A dataset with flaws, and the rows of each: code -> row numbers."""

    root: Path
    expected: dict[str, set[int]]


def sound(root: Path) -> Table:
    """48 rows of twelve groups; every class is in every split."""
    (root / "clips").mkdir(parents=True)
    made = Table(root)
    for number in range(48):
        group = number // 4
        split = "train" if group < 8 else "val" if group < 10 else "test"
        file = made.clip(pixels=moving(number))
        made.add(file, group=f"person {group}", split=split)
    made.write()
    return made


@pytest.fixture(scope="session")
def clean_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound(tmp_path_factory.mktemp("clean") / "set").root


@pytest.fixture(scope="session")
def broken_set(tmp_path_factory: pytest.TempPathFactory, clean_set: Path) -> Broken:
    root = tmp_path_factory.mktemp("broken") / "set"
    shutil.copytree(clean_set, root)
    with (root / "metadata.csv").open(encoding="utf-8", newline="") as file:
        made = Table(root, list(csv.DictReader(file)), seeds=5000)
    found: dict[str, set[int]] = {}
    _plant_files(made, found)
    _plant_shapes(made, found)
    _plant_copies(made, found)
    _plant_labels(made, found)
    _plant_texts(made, found)
    ragged = made.add(made.clip())
    found["row-broken"].add(ragged)
    made.write({ragged: "one too many"})
    return Broken(root, found)


def _plant_files(made: Table, found: dict[str, set[int]]) -> None:
    clips = made.root / "clips"
    found["file-missing"] = {made.add("clips/gone.mp4")}
    (clips / "empty.mp4").touch()
    found["file-empty"] = {made.add("clips/empty.mp4")}
    (clips / "noise.mp4").write_bytes(b"this is not a video" * 99)
    found["file-unreadable"] = {made.add("clips/noise.mp4")}
    whole = (made.root / made.clip("clips/cut.mp4", moving(9001, 40))).read_bytes()
    (clips / "cut.mp4").write_bytes(whole[: len(whole) * 3 // 5])
    found["file-truncated"] = {made.add("clips/cut.mp4")}
    write_sound(clips / "sound.mp4")
    found["file-audio-only"] = {made.add("clips/sound.mp4")}
    found["range-empty"] = {made.add(made.clip(), start="1.0", end="1.0")}
    found["range-outside"] = {made.add(made.clip(), start="0.5", end="9")}
    found["row-broken"] = {made.add(made.clip(), weight="heavy"), made.add(made.clip(), split="trian")}
    made.clip("clips/nobody_names_me.mp4")


def _plant_shapes(made: Table, found: dict[str, set[int]]) -> None:
    clips = made.root / "clips"
    found["black"] = {made.add(made.clip(pixels=np.zeros((12, 48, 64, 3), np.uint8)))}
    found["frozen"] = {made.add(made.clip(pixels=np.repeat(moving(9002)[:1], 12, 0)))}
    found["short"] = {made.add(made.clip(pixels=moving(9003, 4)))}
    found["small"] = {made.add(made.clip(pixels=moving(9004, 12, 24, 32)))}
    found["elongated"] = {made.add(made.clip(pixels=moving(9005, 12, 40, 200)))}
    encode(clips / "odd.mp4", moving(9006, 12, 49, 65), range(12), "yuv444p")
    found["odd-size"] = {made.add("clips/odd.mp4")}
    encode(clips / "uneven.mp4", moving(9007), [0, 1, 2, 3, 7, 8, 9, 10, 17, 18, 19, 20])
    found["variable-rate"] = {made.add("clips/uneven.mp4")}
    encode(
        clips / "parts.mp4", moving(9009), range(12), options={"movflags": "frag_keyframe"}
    )  # the first part's header
    found["frame-count"] = {made.add("clips/parts.mp4")}
    turned = bytearray((made.root / made.clip("clips/turned.mp4")).read_bytes())
    matrix = turned.index(b"tkhd") + 4 + 40  # of version 0: ISO/IEC 14496-12, 8.3.2
    quarter = [0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30]
    turned[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in quarter)
    (clips / "turned.mp4").write_bytes(turned)
    found["turned"] = {made.add("clips/turned.mp4")}


def _plant_copies(made: Table, found: dict[str, set[int]]) -> None:
    rows, clips = made.rows, made.root / "clips"
    shutil.copy(made.root / rows[0]["file_name"], clips / "copy of 1.mp4")
    same = {"label": rows[0]["label"], "level": rows[0]["level"]}
    found["duplicate-across-splits"] = {1, made.add("clips/copy of 1.mp4", split="val", **same)}
    save(clips / "again 6.mp4", moving(5).repeat(2, 1).repeat(2, 2), 28)  # row 6 was drawn by seed 5
    same = {"label": rows[5]["label"], "level": rows[5]["level"]}
    found["near-duplicate-across-splits"] = {6, made.add("clips/again 6.mp4", split="test", **same)}
    one = made.add(made.clip(), label="run", level="1")
    shutil.copy(made.root / rows[one - 1]["file_name"], clips / "twice.mp4")
    found["duplicate"] = {one, made.add("clips/twice.mp4", label="run", level="1")}
    one = made.add(made.clip(pixels=moving(77)), label="jump", level="0")
    bright = (moving(77) * 0.8 + 30).astype(np.uint8)
    found["near-duplicate"] = {one, made.add(made.clip(pixels=bright, crf=26), label="jump", level="0")}
    found["group-across-splits"] = {1, 2, 3, 4, made.add(made.clip(), group="person 0", split="test")}
    long = made.clip(pixels=moving(9008, 32))
    found["file-across-splits"] = {
        made.add(long, start="0", end="1.5", group="a", split="train"),
        made.add(long, start="2.5", end="4", group="b", split="val"),
    }
    clip = made.clip()
    asked = {"text": "what is done here?", "level": "0"}
    found["label-conflict"] = {made.add(clip, label="run", **asked), made.add(clip, label="wave", **asked)}


def _plant_labels(made: Table, found: dict[str, set[int]]) -> None:
    found["label-missing"] = {made.add(made.clip(), label="")}
    found["label-spaces"] = {made.add(made.clip(), label="wave ")}
    found["label-variants"] = {made.add(made.clip(), label="ＲＵＮ")}
    found["label-multi"] = {made.add(made.clip(), label="run|jump")}
    found["label-index"] = {made.add(made.clip(), level="3")}
    rare = {made.add(made.clip(), label="fly") for _ in range(2)}
    # a name that is written another way is a class of its own, and a rare one
    others = ("label-spaces", "label-variants", "label-multi", "label-index")
    found["label-rare"] = rare.union(*(found[code] for code in others))
    found["label-one-group"] = {made.add(made.clip(), label="climb", group="the rock") for _ in range(5)}
    found["label-unseen"] = {made.add(made.clip(), label="swim", split="val") for _ in range(5)}


def _plant_texts(made: Table, found: dict[str, set[int]]) -> None:
    found["text-empty"] = {made.add(made.clip(), text="")}
    western = "a café in the rain — at night".encode().decode("latin-1")
    chinese = "一个人在公园里慢慢地走着路".encode().decode("gb18030", errors="replace")
    found["text-garbled"] = {made.add(made.clip(), text=western), made.add(made.clip(), text=chinese)}
    found["text-language"] = {made.add(made.clip(), text="一个人在公园里走路"), max(found["text-garbled"])}
    found["text-long"] = {made.add(made.clip(), text=" ".join(f"word{number}" for number in range(33)))}
    found["text-conflict"] = {
        made.add("", text="this is said twice", label="run", level="1"),
        made.add("", text="this is said twice", label="jump", level="1"),
    }
    found["text-across-splits"] = {
        made.add(made.clip(), text="here and there", label="run", level="1"),
        made.add(made.clip(), text="here and there", label="run", level="1", split="test"),
    }


def encode(
    path: Path,
    pixels: Pixels,
    times: range | list[int],
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> None:
    """An mp4 with a key frame in every four, whose frames are shown at ``times``, in eighths of a second."""
    with av.open(str(path), "w", format="mp4", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=8, options={"g": "4"})
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = pix_fmt, Fraction(1, 8)
        for image, at in zip(pixels, times, strict=True):
            frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        tone = np.sin(np.arange(4096) / 5).astype(np.float32)[None]
        frame = AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
