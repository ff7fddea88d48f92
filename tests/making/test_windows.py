"""Long clips: windows fit together without a seam, for every kind of codec, in memory that does not grow."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from torch import Tensor

from kinetext import codecs, train, video
from kinetext.config import Recipe
from kinetext.interfaces import Codec, Shape
from kinetext.making import Request
from kinetext.making.latents import Held
from kinetext.pipeline import Pipeline
from kinetext.runtime import rng
from kinetext.types import DataError, Progress

PROMPT = "the digit 3 is moving up and down"


class Records(Held):
    """Everything that was put."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def put(self, window: int, target: Tensor) -> None:
        assert window == len(self.seen)
        self.seen.append(target.clone())


def recorded(pipeline: Pipeline, request: Request) -> tuple[list[Tensor], list[Tensor]]:
    """The chunks of a stream, and the targets of its windows."""
    stream, records = pipeline.stream(PROMPT, request), Records()
    chunks = list(stream._maker.chunks(stream.plan, records))
    return chunks, records.seen


@pytest.fixture(scope="module")
def maker(runs: SimpleNamespace) -> Pipeline:
    return Pipeline.load(runs.maker, "cpu")


@pytest.fixture(scope="module")
def digits() -> Pipeline:
    return Pipeline.load("digits", "cpu")


@pytest.mark.parametrize("history", [None, 3, 13])
def test_a_window_begins_with_the_end_of_the_one_before(maker: Pipeline, history: int | None) -> None:
    chunks, targets = recorded(maker, Request(seconds=5, history=history))
    kept = history or 8
    for before, after in pairwise(targets):
        assert torch.equal(after[:, :kept], before[:, 16 - kept :])
        assert not torch.equal(after[:, kept:], before[:, kept:])
    assert [c.shape[1] for c in chunks[:-1]] == [16] + [16 - kept] * (len(chunks) - 2)
    assert sum(c.shape[1] for c in chunks) == 40
    # what is shown is what the targets say: overlapping frames once, from the first window that has them
    whole = torch.cat([targets[0], *(t[:, kept:] for t in targets[1:])], 1)[:, :40]
    shown = torch.cat([maker.task.decode(t[None, :, None])[0] for t in whole.unbind(1)], 1)  # type: ignore[operator]
    torch.testing.assert_close(torch.cat(chunks, 1), shown, atol=1e-4, rtol=0)


def test_a_longer_clip_begins_with_the_shorter_one(maker: Pipeline) -> None:
    plain = maker.generate(PROMPT, seed=3)[0].video
    short, long = (maker.generate(PROMPT, seed=3, seconds=s)[0].video for s in (1.25, 7))
    assert short.shape[1] == 10 and long.shape[1] == 56
    assert torch.equal(short, plain[:, :10])
    assert torch.equal(long[:, :16], plain)
    assert torch.equal(maker.generate(PROMPT, seed=3, seconds=5)[0].video, long[:, :40])
    other = maker.generate(PROMPT, seed=4, seconds=5)[0].video
    assert not torch.equal(other[:, 16:], long[:, 16:40])


def test_given_frames_may_be_longer_than_a_window(maker: Pipeline, tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (41, 64, 64, 1), generator=rng("given")).to(torch.uint8)
    video.write(tmp_path / "long.mp4", noise, fps=8, crf=0)
    calls: list[int] = []
    hook = maker.task.get_submodule("generator.network").register_forward_pre_hook(lambda *_: calls.append(1))
    chunks = list(maker.stream(PROMPT, Request(video=tmp_path / "long.mp4", seconds=7)))
    hook.remove()
    # windows 4 and 5 of 0 to 5 are made, the others are given; two steps of Heun's are three evaluations
    assert len(calls) == 2 * 3
    given = torch.stack(list(video.stream(tmp_path / "long.mp4", size=64, channels=1)), 1)
    assert torch.equal(torch.cat(chunks, 1)[:, :41], given)


def test_interpolation_windows_share_what_they_made(maker: Pipeline, tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (40, 64, 64, 1), generator=rng("given")).to(torch.uint8)
    video.write(tmp_path / "long.mp4", noise, fps=4, crf=0)
    stream, records = maker.interpolate(tmp_path / "long.mp4", factor=2), Records()
    chunks = list(stream._maker.chunks(stream.plan, records))
    assert [c.shape[1] for c in chunks] == [15, *[8] * 8]  # up to the last given frame of each window
    for before, after in pairwise(records.seen):
        assert torch.equal(after[:, :7], before[:, 8:15])


def centres(frames: Tensor) -> Tensor:
    """Where the light is in each of ``(1, T, H, W)`` frames, in pixels: ``(T, 2)``."""
    light = (frames[0] + 1).clamp(min=0.2) - 0.2
    along = torch.arange(64.0)
    total = light.sum((1, 2))
    return torch.stack([(light.sum(1) * along).sum(1) / total, (light.sum(2) * along).sum(1) / total], 1)


def test_no_seam_of_a_trained_model(digits: Pipeline) -> None:
    """A digit of the shipped model moves on over the border of windows as it moves within; without history it jumps."""
    borders = [16, 24, 32]
    for seed in range(3):
        frames = digits.generate(PROMPT, seed=seed, seconds=5)[0].video
        moved = (centres(frames)[1:] - centres(frames)[:-1]).norm(dim=1)
        at = moved[[border - 1 for border in borders]]
        assert float(at.max()) < 12 and float(at.min()) > 0.5, moved  # it goes 7.2 pixels a frame, or turns
    alone = [digits.generate(PROMPT, seed=seed)[0].video for seed in range(3)]
    jumps = [float((centres(b)[0] - centres(a)[-1]).norm()) for a, b in pairwise(alone)]
    assert max(jumps) > 15


class InGroups(Codec):
    """Frames of a group side by side as channels, whole pixels; the first alone where ``causal``."""

    kind: Literal["continuous", "tokens"] = "continuous"

    def __init__(self, *, channels: int = 1, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal

    def encode(self, video: Tensor) -> Tensor:
        if self.causal:
            video = torch.cat([video[:, :, :1], video], 2)
        small = torch.nn.functional.avg_pool3d(video, (1, 8, 8))
        return small.unflatten(2, (-1, 2)).transpose(2, 3).flatten(1, 2)

    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        small = target.unflatten(1, (-1, 2)).transpose(2, 3).flatten(2, 3)
        large = small.repeat_interleave(8, 3).repeat_interleave(8, 4)
        return large[:, :, -shape[2] :].clamp(-1, 1)

    def target_shape(self, shape: Shape) -> Shape:
        channels, frames, height, width = shape
        return (2 * channels, (frames + 1 + self.causal) // 2, height // 8, width // 8)


RECIPE = """
task = { name = "text_to_video", steps = 2 }
encoders.text = { name = "transformer", dim = 16, depth = 1 }
codec = CODEC
generator = { name = "flow", dim = 32, depth = 1, heads = 2 }
data = { name = "digits", clips = 8, num_frames = FRAMES }
train = { steps = 2, batch = 2, precision = "fp32", log_every = 1 }
"""


@dataclass(frozen=True)
class Joining:
    """A codec that joins frames, how many are a window, how many of them the window before has, and whether one alone is known."""

    codec: str
    window: int
    overlap: int
    one: bool


JOINING = {
    "in pairs": Joining('{ name = "in_groups" }', 8, 4, False),
    "the first one alone": Joining('{ name = "in_groups", causal = true }', 9, 3, True),
    "our own": Joining('{ name = "autoencoder", width = 8, temporal = "causal", time_levels = 1 }', 8, 4, False),
}


@pytest.mark.parametrize("case", JOINING)
def test_codecs_that_join_frames(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codecs.REGISTRY, "in_groups", InGroups)  # type: ignore[misc]
    kind = JOINING[case]
    recipe = RECIPE.replace("CODEC", kind.codec).replace("FRAMES", str(kind.window))
    joining = Pipeline.load(train.start(Recipe.parse(recipe), tmp_path / "run", quiet=True).path, "cpu")
    window, overlap = kind.window, kind.overlap
    chunks, targets = recorded(joining, Request(seconds=3))
    made = torch.cat(chunks, 1)
    assert [c.shape[1] for c in chunks[:3]] == [window, window - overlap, window - overlap]
    assert made.shape == (1, 24, 64, 64)
    # the known frames of every later window are the last ones of the clip so far, as the codec sees them
    codec = joining.task.get_submodule("codec")
    assert isinstance(codec, Codec)
    end = window
    for target in targets[1:]:
        past = made[None, :, end - overlap : end]
        with torch.no_grad():
            torch.testing.assert_close(target[:, :2], codec.encode(past)[0])
        end += window - overlap
    plain = joining.generate(PROMPT)[0].video
    assert torch.equal(plain, made[:, :window])

    given = torch.randint(0, 256, (6, 64, 64, 1), generator=rng("given")).to(torch.uint8)
    video.write(tmp_path / "given.mp4", given, fps=8, crf=0)
    given = torch.stack(list(video.stream(tmp_path / "given.mp4", size=64, channels=1)), 1)
    keep = 5 if kind.one else 6
    clip = joining.generate(PROMPT, video=tmp_path / "given.mp4", keep=keep)[0].video
    assert torch.equal(clip[:, :keep], given[:, :keep])
    assert not torch.equal(clip[:, keep:], plain[:, keep:])
    longer = joining.generate(PROMPT, video=tmp_path / "given.mp4", keep=keep, seconds=4)[0].video
    assert torch.equal(longer[:, :keep], given[:, :keep])
    with pytest.raises(DataError, match=rf"keep: {keep - 1}, but the codec of .* joins frames; expected one of "):
        joining.generate(PROMPT, video=tmp_path / "given.mp4", keep=keep - 1)

    video.write_png(tmp_path / "one.png", given[:, :1])
    if kind.one:
        clip = joining.generate(PROMPT, image=tmp_path / "one.png")[0].video
        assert torch.equal(clip[:, :1], given[:, :1]) and not torch.equal(clip[:, 1:], plain[:, 1:])
    else:
        with pytest.raises(DataError, match=r"image: 1 frames are given, and the codec of .* joins more into one"):
            joining.generate(PROMPT, image=tmp_path / "one.png")
    with pytest.raises(DataError, match="its codec joins frames, so single frames can't be given"):
        joining.interpolate(tmp_path / "given.mp4", factor=2)


def tensors() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    return sum(x.nbytes for x in gc.get_objects() if type(x) is Tensor)


def test_memory_does_not_grow_with_length(maker: Pipeline, tmp_path: Path) -> None:
    """Clips of 32 and of 136 frames: written, extended from a video, and interpolated. A frame is 16 KiB of floats."""

    def left(save: Callable[[Progress], None]) -> int:
        """Bytes of tensors when the last window is written: what piles up is highest then."""
        alive: list[int] = []
        save(lambda done, total: alive.append(tensors()) if done == total else None)
        return alive[0]

    found: list[list[int]] = []
    for seconds in (4, 17):
        first, second, third = (tmp_path / f"{name}{seconds}.mp4" for name in "abc")
        asked = Request(seconds=seconds, steps=1, guidance=1)
        extended = Request(seconds=seconds + 2, video=first, steps=1, guidance=1)

        def more(progress: Progress, first: Path = first, third: Path = third) -> None:
            maker.interpolate(first, factor=2, steps=1, guidance=1).save(third, progress)

        found.append(
            [
                left(lambda progress, f=first, a=asked: maker.write("3", [f], a, progress)),  # type: ignore[misc]
                left(lambda progress, s=second, e=extended: maker.write("3", [s], e, progress)),  # type: ignore[misc]
                left(more),
            ]
        )
    for short, long in zip(*found, strict=True):
        assert abs(long - short) < 300_000, found  # 104 frames more are 1.7 MB
