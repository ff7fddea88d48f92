from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kinetext import pipeline, video
from kinetext.apps.reproducing import reproduce
from kinetext.checkpoint import write_weights
from kinetext.inputs import TextWarning
from kinetext.pipeline import Pipeline, outputs
from kinetext.report import pack
from kinetext.types import DataError, RunError

PROMPT = "the digit 3 is moving up and down"
ZH = "数字7左右移动"


@pytest.fixture(scope="module")
def maker(runs: SimpleNamespace) -> Pipeline:
    return Pipeline.load(runs.maker, "cpu")


@pytest.fixture(scope="module")
def reader(runs: SimpleNamespace) -> Pipeline:
    return Pipeline.load(runs.reader, "cpu")


def test_a_clip_depends_on_seed_and_number_alone(maker: Pipeline) -> None:
    clips = maker.generate([ZH, PROMPT], seed=3)
    assert clips[0].video.shape == (1, 16, 64, 64)
    assert clips[0].video.abs().max() <= 1
    assert (clips[0].prompt, clips[0].fps) == (ZH, 8.0)
    assert torch.equal(maker.generate([PROMPT, PROMPT], seed=3)[1].video, clips[1].video)
    assert torch.equal(maker.generate(PROMPT, num=2, seed=3)[1].video, clips[1].video)
    assert not torch.equal(maker.generate([ZH, PROMPT], seed=4)[1].video, clips[1].video)
    assert not torch.equal(clips[0].video, clips[1].video)


def test_settings_reach_the_sampler(maker: Pipeline) -> None:
    before = maker.generate(PROMPT)[0]
    assert not torch.equal(maker.generate(PROMPT, steps=3)[0].video, before.video)
    assert not torch.equal(maker.generate(PROMPT, guidance=9)[0].video, before.video)
    assert torch.equal(maker.generate(PROMPT, steps=2, guidance=3)[0].video, before.video)
    assert maker.generate(PROMPT, fps=4)[0].fps == 4.0


def test_generating_leaves_the_global_random_state(maker: Pipeline) -> None:
    before = torch.get_rng_state()
    maker.generate(PROMPT)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_counts_clips(maker: Pipeline) -> None:
    seen: list[tuple[int, int]] = []
    maker.generate([PROMPT, ZH], num=2, steps=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num": 0}, "num: 0, expected 1 to"),
        ({"seed": -1}, "seed: -1"),
        ({"steps": 0}, "steps: 0, expected 1 to 1000"),
        ({"guidance": -1.0}, "guidance: -1.0"),
        ({"guidance": float("nan")}, "guidance: nan"),
        ({"fps": 0.0}, "fps: 0.0"),
    ],
)
def test_settings_out_of_range(maker: Pipeline, settings: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        maker.generate(PROMPT, **settings)  # type: ignore[arg-type]


def test_prompts_that_cannot_be_read(maker: Pipeline) -> None:
    for empty in ("", " \n"):
        with pytest.raises(DataError, match="prompt: empty"):
            maker.generate([PROMPT, empty])
    with pytest.raises(DataError, match=r"knows no word of 'xylophone'; it knows .*digit"):
        maker.generate("xylophone")
    with pytest.warns(TextWarning, match="does not know: xylophone, 猫"):
        maker.generate(f"{PROMPT} xylophone 猫", steps=1)
    with pytest.warns(TextWarning, match="reads 32 tokens, the rest of 40 is cut"):
        maker.generate("3 " * 40, steps=1)


def test_the_wrong_task_is_named(maker: Pipeline, reader: Pipeline) -> None:
    with pytest.raises(RunError, match="its task is classification, expected text_to_video"):
        reader.generate(PROMPT)
    with pytest.raises(RunError, match="its task is text_to_video, expected classification"):
        maker.predict(text=PROMPT)
    with pytest.raises(RunError, match="nothing-here: neither a run folder nor a shipped model"):
        Pipeline.load("nothing-here")


def test_a_clip_says_how_it_was_made(maker: Pipeline, tmp_path: Path) -> None:
    clip = maker.generate(PROMPT, num=2, seed=5, steps=1, guidance=2)[1]
    clip.save(tmp_path / "clip.mp4")
    said = video.read_provenance(tmp_path / "clip.mp4")
    assert said == dict(clip.provenance)
    assert said["prompt"] == PROMPT
    assert (said["seed"], said["index"], said["steps"], said["guidance"], said["fps"]) == (5, 1, 1, 2.0, 8.0)
    assert said["weights_sha256"] == maker.run.weights_hash()


def test_reproduce(maker: Pipeline, runs: SimpleNamespace, tmp_path: Path) -> None:
    clip = maker.generate(["3", ZH], seed=5)[1]
    path = tmp_path / "clip.mp4"
    clip.save(path)
    found = reproduce(path, device="cpu")
    assert (found.difference, found.notes) == (0, ())
    assert torch.equal(torch.cat(list(maker.again(found.said)), 1), clip.video)

    # a file whose frames are not what it says
    other = tmp_path / "other.mp4"
    video.write(other, maker.generate(ZH, seed=6)[0].video, fps=8, provenance=clip.provenance)
    assert reproduce(other).difference > 0
    video.write(other, clip.video[:, :8], fps=8, provenance=clip.provenance)
    with pytest.raises(DataError, match="the file was changed"):
        reproduce(other)

    # a machine that is not the same
    video.write(other, clip.video, fps=8, provenance={**clip.provenance, "torch": "1.0"})
    found = reproduce(other)
    assert found.notes == (f"torch was 1.0, is {torch.__version__}",)

    # the model has moved, or is another now
    moved = shutil.copytree(runs.maker, tmp_path / "moved")
    assert reproduce(path, moved).difference == 0
    weights = {k: v + 1 for k, v in maker.run.weights().items()}
    write_weights(moved / "best.safetensors", weights)
    with pytest.raises(RunError, match="was made with weights"):
        reproduce(path, moved)


@pytest.mark.parametrize("provenance", [None, {"prompt": "a"}])
def test_reproduce_needs_provenance(provenance: dict[str, object] | None, tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", torch.zeros(1, 2, 16, 16), fps=8, provenance=provenance)
    with pytest.raises(DataError, match="does not say how it was made"):
        reproduce(tmp_path / "a.mp4")


def test_predict_reads_files_and_tensors_alike(reader: Pipeline, maker: Pipeline, tmp_path: Path) -> None:
    clip = maker.generate(PROMPT)[0].video
    video.write(tmp_path / "clip.mp4", clip, fps=8, crf=0)
    from_file, from_tensor = reader.predict(video=[tmp_path / "clip.mp4", clip])
    assert list(from_file) == ["objects"]
    assert len(from_file["objects"]) == 20
    assert from_file["objects"] == pytest.approx(from_tensor["objects"], abs=0.02)
    assert reader.predict(video=str(tmp_path / "clip.mp4")) == [from_file]


def test_predict_takes_either_modality(runs: SimpleNamespace) -> None:
    both = Pipeline.load(runs.both, "cpu")
    clip = torch.rand(1, 16, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    answers = both.predict([PROMPT, None, PROMPT], [clip, clip, None])
    assert answers[0] != answers[1] != answers[2] != answers[0]
    assert both.predict(text=PROMPT) == [answers[2]]
    assert both.predict(video=clip) == [answers[1]]
    assert both.predict(PROMPT, clip) == [answers[0]]
    assert both.predict("", clip) == [answers[1]]


def test_predict_says_what_is_wrong(runs: SimpleNamespace, reader: Pipeline, tmp_path: Path) -> None:
    both = Pipeline.load(runs.both, "cpu")
    with pytest.raises(DataError, match="neither text nor video"):
        both.predict()
    with pytest.raises(DataError, match="input 1: neither text nor video"):
        both.predict(["3", "  "])
    with pytest.raises(DataError, match="2 texts and 1 clips"):
        both.predict(["3", "4"], [torch.zeros(1, 16, 64, 64)])
    with pytest.raises(DataError, match="reads no text, only video"):
        reader.predict(text="3")
    with pytest.raises(DataError, match=r"gone.mp4"):
        reader.predict(video=tmp_path / "gone.mp4")
    with pytest.raises(DataError, match=r"expected \(1, 16, 64, 64\)"):
        reader.predict(video=torch.zeros(3, 16, 64, 64))
    with pytest.warns(TextWarning, match="does not know: cat"):
        both.predict("cat 3")


def test_pack_is_small_and_answers_alike(reader: Pipeline, runs: SimpleNamespace, tmp_path: Path) -> None:
    folder = pack(runs.reader, tmp_path / "packed")
    assert {p.name for p in folder.iterdir()} == {"README.md", "recipe.toml", "meta.json", "model.safetensors"}
    assert (folder / "README.md").read_text().startswith("# packed\n")
    assert (folder / "model.safetensors").stat().st_size < 0.6 * reader.run.weights_file().stat().st_size
    clip = torch.rand(1, 16, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before, after = (p.predict(video=clip)[0]["objects"] for p in (reader, Pipeline.load(folder)))
    assert after == pytest.approx(before, abs=0.01)
    full = pack(runs.reader, tmp_path / "full", half=False)
    assert Pipeline.load(full).predict(video=clip)[0]["objects"] == before


def test_a_run_of_another_version_is_refused(runs: SimpleNamespace, tmp_path: Path) -> None:
    copy = shutil.copytree(runs.reader, tmp_path / "copy")
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps({**meta, "format": 99, "version": "9.0"}))
    with pytest.raises(RunError, match=r"run format 99, expected 1: this run was written by kinetext 9.0"):
        Pipeline.load(copy)


def test_outputs(tmp_path: Path) -> None:
    assert outputs(tmp_path / "a.mp4", 1) == [tmp_path / "a.mp4"]
    assert [p.name for p in outputs(tmp_path / "a.mp4", 3)] == ["a-0.mp4", "a-1.mp4", "a-2.mp4"]
    for wrong, message in ((tmp_path / "a.avi", "ends in .mp4"), (tmp_path / "no" / "a.mp4", "there is no folder")):
        with pytest.raises(DataError, match=message):
            outputs(wrong, 1)
    with pytest.raises(DataError, match="num: 0"):
        outputs(tmp_path / "a.mp4", 0)


def test_auto_precision_is_written_down_as_what_it_was(
    runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(runs.maker, tmp_path / "copy")
    recipe = copy / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('precision = "fp32"', 'precision = "auto"'))
    for has, said in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(pipeline.runtime, "has_fast_bf16", lambda on, has=has: has)
        assert Pipeline.load(copy, "cpu").generate("3", steps=1)[0].provenance["precision"] == said
