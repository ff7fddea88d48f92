"""What can be given to `generate` stays exactly as it was given, every clip can be made again, what can't be is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kinetext import video
from kinetext.apps.reproducing import reproduce
from kinetext.datasets.digits import Digits
from kinetext.generators.flow import Flow
from kinetext.inputs import TextWarning
from kinetext.making import Request
from kinetext.pipeline import Pipeline
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import DataError

PROMPT = "the digit 3 is moving up and down"


@pytest.fixture(scope="module")
def maker(runs: SimpleNamespace) -> Pipeline:
    return Pipeline.load(runs.maker, "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A clip of the model's own shape and rate, one half as fast and larger, a picture, and masks."""
    folder = tmp_path_factory.mktemp("files")
    clip = Digits(clips=8)[3].video
    assert clip is not None
    video.write(folder / "clip.mp4", clip, fps=8, crf=0)
    large = torch.nn.functional.interpolate(clip[:, ::2].expand(3, -1, -1, -1), size=(96, 128))
    video.write(folder / "large.mp4", large, fps=4)
    video.write_png(folder / "picture.png", clip[:, 5:6])
    mask = torch.full((1, 1, 64, 64), -1.0)
    video.write_png(folder / "black.png", mask)
    mask[..., 20:50, 30:64] = 1
    video.write_png(folder / "mask.png", mask)
    names = ("clip", "large", "picture", "mask", "black")
    return SimpleNamespace(**{name: next(folder.glob(f"{name}.*")) for name in names})


def pixels(frames: Tensor) -> Tensor:
    return video.to_bytes(frames)


def read(path: Path, fps: float | None = 8.0) -> Tensor:
    """A file as the tiny model sees it, ``(1, T, 64, 64)`` uint8."""
    return pixels(torch.stack(list(video.stream(path, size=64, channels=1, fps=fps)), 1))


KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "image": {"image": "picture"},
    "video": {"video": "clip", "keep": 5},
    "video of another size and rate": {"video": "large", "keep": 7},
    "change": {"change": "clip", "strength": 0.5},
    "change with a first frame": {"change": "clip", "image": "picture"},
    "mask": {"video": "clip", "mask": "mask"},
    "change in a mask": {"change": "clip", "strength": 0.9, "mask": "mask"},
    "negative": {"negative": "digit 5", "guidance": 2.0},
    "longer": {"seconds": 4.2},
    "longer with another history": {"seconds": 4.2, "history": 3},
    "shorter": {"seconds": 0.5},
    "longer from frames": {"video": "clip", "seconds": 3.0},
    "longer from a picture": {"image": "picture", "seconds": 3.0},
    "settings": {"steps": 1, "guidance": 3.0, "fps": 12.5, "seed": 7},
}


def asked(kind: str, files: SimpleNamespace) -> dict[str, Any]:
    names = vars(files)
    return {name: names.get(value, value) if isinstance(value, str) else value for name, value in KINDS[kind].items()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_stays_and_the_clip_can_be_made_again(
    maker: Pipeline, files: SimpleNamespace, tmp_path: Path, kind: str
) -> None:
    options = asked(kind, files)
    (clip,) = maker.generate(PROMPT, **options)
    made = pixels(clip.video)
    if "image" in options:
        assert torch.equal(made[:, :1], read(files.picture))
    if "video" in options and "mask" not in options:
        given = read(options["video"])[:, : options.get("keep")]
        assert torch.equal(made[:, : given.shape[1]], given)
    if "mask" in options:
        stays = read(files.mask)[:, :1].expand_as(made) < 128
        before = read(options.get("video", options.get("change")))
        assert torch.equal(made[stays], before[stays])
        assert not torch.equal(made, before)
    if "seconds" in options:
        assert made.shape[1] == round(8 * options["seconds"])

    out = tmp_path / "clip.mp4"
    maker.write(PROMPT, [out], Request(**options))
    assert list(tmp_path.iterdir()) == [out]
    said = video.read_provenance(out)
    assert said == dict(clip.provenance)
    clip.save(tmp_path / "whole.mp4")
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    found = reproduce(out, device="cpu")
    assert (found.difference, found.notes) == (0, ())
    assert torch.equal(torch.cat(list(maker.again(said or {})), 1), clip.video)


def test_files_that_changed_or_went_are_named(maker: Pipeline, files: SimpleNamespace, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(files.picture.read_bytes())
    maker.write(PROMPT, [tmp_path / "clip.mp4"], Request(image=picture))
    video.write_png(picture, torch.zeros(1, 1, 64, 64))
    with pytest.raises(DataError, match=r"clip\.mp4: image: .*picture\.png has changed since: its SHA-256 was"):
        reproduce(tmp_path / "clip.mp4", device="cpu")
    picture.unlink()
    with pytest.raises(DataError, match=r"image: .*picture\.png can't be read \(No such file"):
        reproduce(tmp_path / "clip.mp4", device="cpu")


def test_a_clip_from_files_is_made_again_from_elsewhere(
    maker: Pipeline, files: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, elsewhere = tmp_path / "made", tmp_path / "elsewhere"
    for folder in (made / "out", elsewhere):
        folder.mkdir(parents=True)
    (made / "picture.png").write_bytes(files.picture.read_bytes())
    monkeypatch.chdir(made)
    maker.write(PROMPT, [Path("out/clip.mp4")], Request(image="picture.png"))
    assert (video.read_provenance("out/clip.mp4") or {})["image"]["path"] == "picture.png"  # type: ignore[index]
    monkeypatch.chdir(elsewhere)
    assert reproduce("../made/out/clip.mp4", device="cpu").difference == 0


def test_given_things_change_the_rest(maker: Pipeline, files: SimpleNamespace) -> None:
    """Every option reaches the sampler: what it does not fix is not what it was without."""
    plain = maker.generate(PROMPT)[0].video
    for options in (
        {"image": files.picture},
        {"video": files.clip, "keep": 3},
        {"video": files.clip, "mask": files.mask},
        {"change": files.clip},
        {"negative": "digit 5", "guidance": 3.0},
    ):
        made = maker.generate(PROMPT, **options)[0].video  # type: ignore[arg-type]
        assert not torch.equal(made[:, 8:], plain[:, 8:]), options
    with_5, with_7 = (maker.generate(PROMPT, negative=text, guidance=3)[0].video for text in ("5", "7"))
    assert not torch.equal(with_5, with_7)


def test_less_strength_stays_closer(maker: Pipeline, files: SimpleNamespace) -> None:
    task = maker.task
    assert isinstance(task, TextToVideo)
    with torch.no_grad():
        before = task.decode(task.codec.encode(video.to_float(read(files.clip))[None]))[0]  # as the codec shows it
    apart = [
        float((maker.generate(PROMPT, change=files.clip, strength=s, steps=10)[0].video - before).square().mean())
        for s in (0.02, 0.5, 1.0)
    ]
    assert apart[0] < apart[1] < apart[2]
    whole = maker.generate(PROMPT, change=files.clip, strength=1.0)[0].video
    torch.testing.assert_close(whole, maker.generate(PROMPT)[0].video)  # nothing of it is left


def test_seeds_give_the_clips_that_they_give_alone(maker: Pipeline) -> None:
    clips = maker.generate([PROMPT, "7"], seeds=[5, 9])
    assert [(c.prompt, c.provenance["seed"], c.provenance["index"]) for c in clips] == [
        (PROMPT, 5, 0), (PROMPT, 9, 0), ("7", 5, 0), ("7", 9, 0),
    ]  # fmt: skip
    assert torch.equal(clips[1].video, maker.generate(PROMPT, seed=9)[0].video)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_batch_is_the_same_clips_and_each_can_be_made_again(
    maker: Pipeline, files: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr("kinetext.making.planning.runtime.has_fast_bf16", lambda on: precision == "bf16")
    object.__setattr__(maker.run.recipe.train, "precision", "auto")
    options: dict[str, Any] = {"num": 5, "image": files.picture}
    paths = [tmp_path / f"{i}.mp4" for i in range(5)]
    maker.write(PROMPT, paths, Request(**options, batch=3))
    together = maker.generate(PROMPT, **options, batch=3)
    assert [(c.provenance.get("batch", 1), c.provenance.get("row", 0)) for c in together] == [
        (3, 0), (3, 1), (3, 2), (2, 0), (2, 1),
    ]  # fmt: skip
    tolerance = 1e-4 if precision == "fp32" else 0.2
    for one, clip, path in zip(maker.generate(PROMPT, **options), together, paths, strict=True):
        assert (one.video - clip.video).abs().max() < tolerance
        assert torch.equal(torch.cat(list(maker.again(clip.provenance)), 1), clip.video)
        assert video.read_provenance(path) == dict(clip.provenance)
    object.__setattr__(maker.run.recipe.train, "precision", "fp32")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": "clip"}, r"image: .*clip\.mp4 has 16 frames, expected a picture"),
        ({"mask": "clip", "video": "clip"}, r"mask: .*clip\.mp4 has 16 frames, expected a picture"),
        ({"mask": "black", "video": "clip"}, r"mask: there is no white in .*black\.png"),
        ({"video": "clip"}, r"keep: the clip has 16 frames, and 16 of .*clip\.mp4 would stay; say fewer"),
        ({"video": "clip", "keep": 17, "seconds": 9.0}, r"keep: 17, but .*clip\.mp4 has 16 frames at 8 a second"),
        ({"video": "clip", "seconds": 1.0}, r"keep: the clip has 8 frames, and 16 of"),
        ({"change": "clip", "seconds": 3.0}, r"change: .*clip\.mp4 has 16 frames at 8 a second, expected 24 or more"),
        ({"change": "picture"}, r"change: .*picture\.png has 1 frames at 8 a second, expected 16"),
        ({"video": "clip", "mask": "mask", "seconds": 3.0}, r"video: .*has 16 frames at 8 a second, expected 24"),
        ({"seconds": 4.0, "history": 16}, "history: 16, expected 1 to 15"),
        ({"seconds": 2.0, "history": 4}, "history: 4, but 16 frames fit in one window of 16"),
        ({"negative": "5", "guidance": 1.0}, "negative: expected with guidance above 1, and it is 1"),
        ({"negative": "xylophone", "guidance": 2.0}, "negative: .* knows no word of 'xylophone'"),
        ({"seeds": (1, -2)}, "seeds 1,-2: -2"),
    ],
)
def test_what_does_not_suit_is_refused(
    maker: Pipeline, files: SimpleNamespace, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    options = {
        name: vars(files).get(value, value) if isinstance(value, str) else value for name, value in given.items()
    }
    with pytest.raises(DataError, match=message):
        maker.generate(PROMPT, **options)
    with pytest.raises(DataError, match=message):
        maker.write(PROMPT, [tmp_path / f"{i}.mp4" for i in range(Request(**options).clips)], Request(**options))
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_there_are_named(maker: Pipeline, tmp_path: Path) -> None:
    gone = tmp_path / "gone.mp4"
    for option in ("image", "video", "change"):
        with pytest.raises(DataError, match=rf"{option}: .*gone\.mp4 can't be read"):
            maker.generate(PROMPT, **{option: gone})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": "picture"}, "image: "),
        ({"video": "clip", "keep": 3}, "video: "),
        ({"seconds": 9.0}, "seconds: "),
        ({"video": "clip", "mask": "mask"}, "mask: "),
        ({"change": "clip"}, "change: "),
        ({"guidance": 2.0}, "guidance: "),
        ({"steps": 2}, "steps: "),
    ],
)
def test_what_a_generator_cannot_do_is_refused_by_its_option(
    maker: Pipeline, files: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(Flow, "abilities", frozenset())
    options = {
        name: vars(files).get(value, value) if isinstance(value, str) else value for name, value in given.items()
    }
    with pytest.raises(DataError) as error:
        maker.generate(PROMPT, **{"guidance": 1.0, **options})
    assert str(error.value).startswith(message)
    assert "can't do that, its generator (flow) can: (none)" in str(error.value)
    assert maker.generate(PROMPT, guidance=1.0)  # as learned needs no ability


def test_one_stream_and_as_many_paths_as_clips(maker: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="num: 2 clips are asked for, expected one"):
        maker.stream(PROMPT, Request(num=2))
    with pytest.raises(DataError, match="paths: 1, expected one for each of 2 clips"):
        maker.write(PROMPT, [tmp_path / "a.mp4"], Request(num=2))
    with pytest.warns(TextWarning, match="does not know: cat"):
        maker.generate(PROMPT, negative="cat 5", guidance=2)


@pytest.mark.parametrize("factor", [2, 3, 5, 15])
def test_interpolation_keeps_given_frames(maker: Pipeline, files: SimpleNamespace, tmp_path: Path, factor: int) -> None:
    stream = maker.interpolate(files.clip, factor=factor, prompt=PROMPT)
    made = torch.cat(list(stream), 1)
    assert (stream.num_frames, stream.fps) == (15 * factor + 1, 8.0 * factor)
    assert made.shape == (1, 15 * factor + 1, 64, 64)
    assert torch.equal(pixels(made[:, ::factor]), read(files.clip))
    between = [i for i in range(made.shape[1]) if i % factor]
    assert all(not torch.equal(made[:, i], made[:, i - 1]) for i in between)

    out = tmp_path / "more.mp4"
    stream.save(out)
    info = video.probe(out)
    assert (info.num_frames, info.fps) == (15 * factor + 1, 8.0 * factor)
    assert info.duration == pytest.approx(15 / 8 + 1 / (8 * factor))  # every given frame has its time
    found = reproduce(out, device="cpu")
    assert (found.difference, found.notes) == (0, ())


def test_twice_the_frames_a_second_move_half_as_far(tmp_path: Path) -> None:
    """The shipped model has seen no clip of 16 frames a second; the frames that it makes lie between the given ones."""
    digits, text = Pipeline.load("digits", "cpu"), "the digit 4 is moving left and right"
    digits.generate(text, seed=4)[0].save(tmp_path / "few.mp4")
    made = torch.cat(list(digits.interpolate(tmp_path / "few.mp4", factor=2, prompt=text)), 1)
    light = (made[0] + 1).where(made[0] > -0.5, 0.0)
    place = (light.sum(1) * torch.arange(64)).sum(1) / light.sum((1, 2))  # of the digit in a row, in pixels
    off = (place[1::2] - (place[:-2:2] + place[2::2]) / 2).abs()
    assert off.mean() < 4 and (place[2::2] - place[:-2:2]).abs().mean() > 4


def test_interpolation_refuses(maker: Pipeline, files: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in (1, 16):
        with pytest.raises(DataError, match=f"factor: {factor}, expected 2 to 15"):
            maker.interpolate(files.clip, factor=factor)
    with pytest.raises(DataError, match=r"picture\.png: one frame, expected two or more"):
        maker.interpolate(files.picture, factor=2)
    with pytest.raises(DataError, match=r"prompt: .* knows no word of 'cat'"):
        maker.interpolate(files.clip, factor=2, prompt="cat")
    with pytest.raises(DataError, match=r"source: .*gone\.mp4 can't be read"):
        maker.interpolate("gone.mp4", factor=2)
    monkeypatch.setattr(Flow, "abilities", frozenset({"guidance"}))
    with pytest.raises(DataError, match=r"factor: .* can't do that"):
        maker.interpolate(files.clip, factor=2)
    with pytest.raises(DataError, match=r"steps: .* can't do that"):
        maker.interpolate(files.clip, factor=2, steps=2)


def test_what_a_clip_is_made_from_is_not_written_over(maker: Pipeline, files: SimpleNamespace, tmp_path: Path) -> None:
    own = tmp_path / "own.mp4"
    own.write_bytes((files.clip).read_bytes())
    with pytest.raises(DataError, match=r"own\.mp4 is what the clip is made from \(video\)"):
        maker.write("digit 3", [own], Request(video=own, keep=3))
    with pytest.raises(DataError, match=r"own\.mp4 is what the clip is made from \(source\)"):
        maker.interpolate(own, factor=2).save(own)
    assert own.read_bytes() == (files.clip).read_bytes()


def test_a_mask_that_leaves_no_whole_cell_is_refused(maker: Pipeline, files: SimpleNamespace, tmp_path: Path) -> None:
    stripes = torch.full((1, 1, 64, 64), -1.0)
    stripes[..., ::4] = 1
    video.write_png(tmp_path / "stripes.png", stripes)
    with pytest.raises(DataError, match=r"mask: .*stripes\.png leaves no whole cell"):
        maker.generate("digit 3", video=files.clip, mask=tmp_path / "stripes.png")
