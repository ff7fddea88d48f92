"""A failed decode costs no second sampling: latents are stored before, and found again."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kinetext import video
from kinetext.making import LatentsWarning, Request
from kinetext.making.latents import Stored
from kinetext.pipeline import Pipeline
from kinetext.types import RunError

PROMPT = "the digit 3 is moving up and down"


@pytest.fixture(scope="module")
def maker(runs: SimpleNamespace) -> Pipeline:
    return Pipeline.load(runs.maker, "cpu")


@contextmanager
def counted(pipeline: Pipeline) -> Iterator[list[int]]:
    """How often the generator's network runs inside."""
    calls: list[int] = []
    hook = pipeline.task.get_submodule("generator.network").register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


@contextmanager
def broken_decoder(pipeline: Pipeline, after: int = 0) -> Iterator[None]:
    """A decoder that gives up after so many windows."""
    calls: list[int] = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) > after:
            raise MemoryError("the decoder gave up")

    hook = pipeline.task.get_submodule("codec.decoder").register_forward_pre_hook(fail)
    yield
    hook.remove()


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow over ``size`` bytes inside: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_decode_leaves_the_latents_and_the_next_try_only_decodes(maker: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    out.write_bytes(b"before")
    with broken_decoder(maker), pytest.raises(MemoryError, match="gave up"):
        maker.write(PROMPT, [out], Request(seed=4))
    assert names(tmp_path) == ["clip.latents.safetensors", "clip.mp4"]
    assert out.read_bytes() == b"before"
    with counted(maker) as calls:
        maker.write(PROMPT, [out], Request(seed=4))
    assert calls == []
    assert names(tmp_path) == ["clip.mp4"]
    maker.generate(PROMPT, seed=4)[0].save(tmp_path / "other.mp4")
    assert out.read_bytes() == (tmp_path / "other.mp4").read_bytes()


def test_a_full_disk_too(maker: Pipeline, tmp_path: Path) -> None:
    """The untrained model's noise takes more room as a video than as latents."""
    out = tmp_path / "clip.mp4"
    with disk_of(20_000), pytest.raises(video.VideoError, match="can't be written"):
        maker.write(PROMPT, [out])
    assert names(tmp_path) == ["clip.latents.safetensors"]
    with counted(maker) as calls:
        maker.write(PROMPT, [out])
    assert (calls, names(tmp_path)) == ([], ["clip.mp4"])
    with disk_of(100), pytest.raises(RunError, match=r"clip\.latents\.safetensors: could not be written"):
        maker.write(PROMPT, [out], Request(seed=1))
    assert names(tmp_path) == ["clip.mp4"]


def test_latents_of_another_clip_are_not_taken(maker: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    with broken_decoder(maker), pytest.raises(MemoryError):
        maker.write(PROMPT, [out], Request(seed=4))
    with counted(maker) as calls, pytest.warns(LatentsWarning, match=r"clip\.latents\.safetensors: of another clip"):
        maker.write(PROMPT, [out], Request(seed=5))
    assert calls
    maker.generate(PROMPT, seed=5)[0].save(tmp_path / "other.mp4")
    assert out.read_bytes() == (tmp_path / "other.mp4").read_bytes()

    out.unlink()
    (tmp_path / "clip.latents.safetensors").write_bytes(b"torn")
    with counted(maker) as calls, pytest.warns(LatentsWarning, match="unreadable"):
        maker.write(PROMPT, [out], Request(seed=5))
    assert calls
    assert names(tmp_path) == ["clip.mp4", "other.mp4"]


def test_a_long_clip_goes_on_where_it_was(maker: Pipeline, tmp_path: Path) -> None:
    out, request = tmp_path / "clip.mp4", Request(seconds=6, guidance=1)
    with broken_decoder(maker, after=3), pytest.raises(MemoryError):
        maker.write(PROMPT, [out], request)
    assert names(tmp_path) == [
        "clip.latents-1.safetensors",
        "clip.latents-2.safetensors",
        "clip.latents-3.safetensors",
        "clip.latents.safetensors",
    ]
    with counted(maker) as calls:
        maker.write(PROMPT, [out], request)
    with counted(maker) as all_calls:
        maker.write(PROMPT, [tmp_path / "other.mp4"], request)
    assert len(calls) * 5 == len(all_calls)  # one window of five was left
    assert names(tmp_path) == ["clip.mp4", "other.mp4"]
    assert out.read_bytes() == (tmp_path / "other.mp4").read_bytes()


def test_batches_are_stored_as_a_whole(maker: Pipeline, tmp_path: Path) -> None:
    paths = [tmp_path / f"clip-{i}.mp4" for i in range(3)]
    request = Request(num=3, batch=3)
    with broken_decoder(maker, after=1), pytest.raises(MemoryError):
        maker.write(PROMPT, paths, request)
    assert names(tmp_path) == ["clip-0.latents.safetensors", "clip-0.mp4", *names(tmp_path)[2:]]
    assert names(tmp_path)[2:] == ["clip-1.latents.safetensors", "clip-2.latents.safetensors"]
    with counted(maker) as calls:
        maker.write(PROMPT, paths, request)
    assert not calls, "what was made is not made again"
    assert names(tmp_path) == [path.name for path in paths]
    for path, clip in zip(paths, maker.generate(PROMPT, num=3, batch=3), strict=True):
        clip.save(tmp_path / "other.mp4")
        assert path.read_bytes() == (tmp_path / "other.mp4").read_bytes()


def test_clips_that_are_there_stay_as_they_are(maker: Pipeline, tmp_path: Path) -> None:
    """A batch that was stopped goes on where it was; a clip made in another way is made anew."""
    paths = [tmp_path / f"clip-{i}.mp4" for i in range(3)]
    with broken_decoder(maker, after=2), pytest.raises(MemoryError):
        maker.write(PROMPT, paths, Request(num=3))
    assert names(tmp_path) == ["clip-0.mp4", "clip-1.mp4", "clip-2.latents.safetensors"]
    before = [path.stat().st_mtime_ns for path in paths[:2]]
    heard: list[tuple[int, int]] = []
    with counted(maker) as calls:
        maker.write(PROMPT, paths, Request(num=3), lambda done, total: heard.append((done, total)))
    assert not calls and [path.stat().st_mtime_ns for path in paths[:2]] == before
    assert heard == [(1, 3), (2, 3), (3, 3)] and names(tmp_path) == [path.name for path in paths]

    (tmp_path / "clip-0.latents.safetensors").write_bytes(b"left by a kill")
    with counted(maker) as calls:
        maker.write(PROMPT, paths, Request(num=3))
        assert not calls and names(tmp_path) == [path.name for path in paths]
        maker.write(PROMPT, paths, Request(num=3, guidance=2.5))
    assert calls and all(path.stat().st_mtime_ns not in before for path in paths[:2])


def test_a_store_is_safetensors_with_its_provenance(tmp_path: Path) -> None:
    tokens = torch.arange(12).reshape(1, 3, 2, 2)
    stored = Stored(tmp_path / "a (1) [x].mp4", {"prompt": "数字3", "seed": 1})
    stored.put(0, tokens)
    stored.put(12, tokens + 1)
    assert names(tmp_path) == ["a (1) [x].latents-12.safetensors", "a (1) [x].latents.safetensors"]
    with safetensors.safe_open(stored.path(0), "pt") as file:
        assert file.metadata() == {"provenance": '{"prompt": "数字3", "seed": 1}'}
    assert equal(stored.get(0), tokens) and equal(stored.get(12), tokens + 1)
    assert stored.get(1) is None
    Stored(tmp_path / "b.mp4", {}).remove()
    assert len(names(tmp_path)) == 2
    stored.remove()
    assert names(tmp_path) == []


def equal(found: Tensor | None, expected: Tensor) -> bool:
    return found is not None and torch.equal(found, expected)
