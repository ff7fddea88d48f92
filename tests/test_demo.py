"""The demo: prompts of every world, clips, what their readers see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kinetext.apps import demo
from kinetext.apps.choosing import maker_for
from kinetext.pipeline import Pipeline
from kinetext.types import DataError


def test_every_prompt_is_for_its_maker_and_says_all_that_is_read() -> None:
    assert sum(len(world.prompts) for world in demo.WORLDS) == 16, "as the README, the Makefile and --help say"
    for world in demo.WORLDS:
        columns = {target.name for target in Pipeline.load(world.reader, "cpu").run.meta.targets}
        for prompt in world.prompts:
            assert maker_for(prompt) == world.maker
            assert set(world.wanted(prompt) or ()) == columns, prompt
        assert {prompt.isascii() for prompt in world.prompts} == {True, False}, "English and Chinese"
    assert sorted({len((demo.digits_wanted(p) or {})["objects"]) for p in demo.DIGITS.prompts}) == [1, 2]


def test_clips_are_read_back(runs: SimpleNamespace, tmp_path: Path) -> None:
    prompts = demo.DIGITS.prompts
    tiny = replace(demo.DIGITS, maker=str(runs.maker), reader=str(runs.reader))
    told: list[tuple[int, int]] = []
    worlds = [replace(tiny, prompts=prompts[4:6]), replace(tiny, prompts=prompts[6:7])]
    shown = demo.make(tmp_path / "demo", "cpu", lambda done, of: told.append((done, of)), worlds=worlds)
    assert [one.prompt for one in shown] == list(prompts[4:7])
    assert told[-1] == (3, 3) and all(of == 3 for _, of in told)
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    reader = Pipeline.load(runs.reader, "cpu")
    for one in shown:
        assert f'src="{one.file}"' in page and one.prompt in page
        answer = reader.predict(video=tmp_path / "demo" / one.file)[0]["objects"]
        assert set(one.read["objects"]) == {name for name, p in answer.items() if p >= 0.5}
        assert one.right == (set(one.read["objects"]) == set((demo.digits_wanted(one.prompt) or {})["objects"]))


def test_one_class_and_many_are_told_apart(tmp_path: Path) -> None:
    """The reader of shapes says one background, and any number of the rest, of a real clip."""
    from kinetext import video
    from kinetext.datasets.shapes import Shapes

    sample = Shapes(objects=(1,), clips=3)[2]
    assert sample.video is not None
    video.write(tmp_path / "clip.mp4", sample.video, fps=8.0)
    read = demo._read(Pipeline.load("shapes-reader", "cpu"), tmp_path / "clip.mp4")
    shown = demo.Shown(sample.text or "", sample.labels, read, "clip.mp4", demo.SHAPES)
    assert shown.right and len(read["background"]) == 1
    assert f"shape: {sample.labels['shape'][0]}; " in shown.seen()
    assert not replace(shown, read={**read, "colour": ()}).right


def test_a_prompt_that_says_too_little_is_refused(runs: SimpleNamespace, tmp_path: Path) -> None:
    world = replace(demo.DIGITS, maker=str(runs.maker), reader=str(runs.reader), prompts=("数字3",))
    with pytest.raises(DataError, match="prompt: '数字3', expected a text that tells all"):
        demo.make(tmp_path / "demo", "cpu", worlds=[demo.SHAPES, world])
    assert not (tmp_path / "demo").exists(), "before anything is made"
