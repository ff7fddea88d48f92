from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kinetext import assemble, video
from kinetext.checkpoint import Run
from kinetext.datasets.digits import OBJECTS
from kinetext.evaluate import Confusion, Evaluation, evaluate, record, recorded, save_grid
from kinetext.pipeline import Pipeline
from kinetext.types import RecipeError


def micro_f1(said: list[set[str]], true: list[set[str]]) -> float:
    """The harmonic mean of precision and recall over all labels of all samples."""
    hits = sum(len(s & t) for s, t in zip(said, true, strict=True))
    return 2 * hits / max(1, sum(map(len, said)) + sum(map(len, true)))


def test_numbers_agree_with_predict(runs: SimpleNamespace) -> None:
    """Another path to the same answers: one by one through the pipeline, counted by hand."""
    run = Run.open(runs.both)
    numbers = evaluate(run).numbers
    assert numbers["samples"] == 6
    pipeline = Pipeline.load(runs.both)
    data = assemble.dataset(run.recipe, "val")
    samples = [data[i] for i in range(6)]
    true = [set(s.labels["objects"]) for s in samples]
    texts, videos = [s.text for s in samples], [s.video for s in samples]
    for prefix, answers in {
        "val": pipeline.predict(texts, videos),
        "val/text_only": pipeline.predict(texts, None),
        "val/video_only": pipeline.predict(None, videos),
    }.items():
        said = [{name for name, p in answer["objects"].items() if p >= 0.5} for answer in answers]
        assert numbers[f"{prefix}/objects/micro_f1"] == pytest.approx(micro_f1(said, true))
        exact = sum(s == t for s, t in zip(said, true, strict=True)) / 6
        assert numbers[f"{prefix}/objects/exact_match"] == pytest.approx(exact)
    losses = {numbers[f"{prefix}/loss"] for prefix in ("val", "val/text_only", "val/video_only")}
    assert len(losses) == 3


def test_one_modality_has_no_baselines(runs: SimpleNamespace) -> None:
    assert {name.partition("/")[0] for name in evaluate(Run.open(runs.reader)).numbers} == {"samples", "val"}


def test_generated_clips_are_read(runs: SimpleNamespace) -> None:
    seen: list[tuple[int, int]] = []
    found = evaluate(
        Run.open(runs.maker),
        [f"evaluate.reader={runs.reader}", "evaluate.samples=4", "evaluate.batch=3"],
        progress=lambda done, total: seen.append((done, total)),
    ).numbers
    assert seen == [(3, 4), (4, 4)]
    assert found["seconds_per_clip"] > 0
    # on the same held-out clips the reader says of itself what it says here of real ones
    own = evaluate(Run.open(runs.reader), ["evaluate.samples=4"]).numbers
    for name in ("exact_match", "micro_f1", "macro_f1"):
        assert found[f"real/objects/{name}"] == pytest.approx(own[f"val/objects/{name}"])
    # clip i is made from prompt i and the noise of (seed, i), the pipeline's own rule, whatever the batch size
    data = assemble.dataset(Run.open(runs.maker).recipe, "val")
    samples = [data[i] for i in range(4)]
    clips = Pipeline.load(runs.maker).generate([str(s.text) for s in samples], seed=10_000)
    answers = Pipeline.load(runs.reader).predict(video=[clip.video for clip in clips])
    said = [{name for name, p in answer["objects"].items() if p >= 0.5} for answer in answers]
    expected = micro_f1(said, [set(s.labels["objects"]) for s in samples])
    assert found["generated/objects/micro_f1"] == pytest.approx(expected)


def test_readers_that_do_not_fit(runs: SimpleNamespace, tmp_path: Path) -> None:
    maker = Run.open(runs.maker)
    with pytest.raises(RecipeError, match="is no classifier of video"):
        evaluate(maker, [f"evaluate.reader={runs.maker}", "evaluate.samples=1"])
    small = shutil.copytree(runs.maker, tmp_path / "small")
    meta = json.loads((small / "meta.json").read_text())
    (small / "meta.json").write_text(json.dumps({**meta, "video_shape": [1, 16, 32, 32]}))
    with pytest.raises(RecipeError, match=r"reads clips .*\(1, 16, 64, 64\), expected \(1, 16, 32, 32\)"):
        evaluate(Run.open(small), [f"evaluate.reader={runs.reader}"])


def test_only_data_and_evaluate_can_be_changed(runs: SimpleNamespace) -> None:
    with pytest.raises(RecipeError, match="only data and evaluate can be changed"):
        evaluate(Run.open(runs.reader), ["train.steps=3"])
    with pytest.raises(RecipeError, match=r"data.clisp: no such option, did you mean 'clips'"):
        evaluate(Run.open(runs.reader), ["data.clisp=3"])


def codec_run(folder: Path, changes: str = "") -> Run:
    from kinetext import train
    from kinetext.config import Recipe

    recipe = Recipe.parse(
        'task.name = "reconstruction"\ncodec.width = 8\ndata.name = "digits"\ndata.clips = 4\ntrain.steps = 1\n'
        f"train.batch = 2\n{changes}"
    )
    return train.start(recipe, folder, quiet=True)


def test_numbers_of_a_codec(tmp_path: Path) -> None:
    numbers = evaluate(codec_run(tmp_path / "codec", 'codec.name = "autoencoder"\ndata.num_frames = 1')).numbers
    assert numbers["val/psnr"] == pytest.approx(10 * math.log10(2**2 / numbers["val/mse"]))
    assert "val/usage" not in numbers


def test_a_reader_judges_what_a_codec_gives_back(runs: SimpleNamespace, tmp_path: Path) -> None:
    """Also clips of another length than those it was trained on; a codec that gives everything back is read as they are."""
    run = codec_run(tmp_path / "codec", 'codec.name = "vq"\ncodec.codes = [16]\ndata.num_frames = 1')
    numbers = evaluate(run, [f"evaluate.reader={runs.reader}", "data.num_frames=16"]).numbers
    assert 0 < numbers["val/usage"] <= 1 <= numbers["val/perplexity"] <= 16
    assert {"decoded/objects/exact_match", "real/objects/exact_match", "seconds_per_clip"} <= set(numbers)
    assert not any(name.startswith("generated/") for name in numbers)
    with pytest.raises(RecipeError, match="reads clips"):
        evaluate(run, [f"evaluate.reader={runs.reader}"])


def test_record_and_recorded(runs: SimpleNamespace, tmp_path: Path) -> None:
    run = Run.open(shutil.copytree(runs.reader, tmp_path / "copy"))
    (run.path / "evaluation.json").unlink(missing_ok=True)
    assert recorded(run) == Evaluation(run.meta.numbers)
    found = Evaluation({"val/loss": 0.5}, {"label": Confusion(("a", "数"), ((3, 1), (0, 2)))})
    record(run, found, {"hardware": "here"})
    again = Run.open(run.path)
    assert recorded(again) == found
    assert again.meta.numbers["val/loss"] == 0.5
    assert again.meta.facts["hardware"] == "here"


def test_a_grid_has_a_row_a_clip(tmp_path: Path) -> None:
    clips = torch.linspace(-1, 1, 6).reshape(2, 1, 3, 1, 1).expand(2, 1, 3, 4, 6)
    save_grid(clips, tmp_path / "new" / "grid.png")
    picture, _ = video.read_all(tmp_path / "new" / "grid.png", channels=1)
    assert picture.shape == (1, 2 * 6, 3 * 8, 1)
    seen = picture[0, 3::6, 4::8, 0]
    assert (seen.int() - torch.linspace(0, 255, 6).reshape(2, 3).int()).abs().max() <= 2


def test_single_frames_stand_in_rows_of_eight(tmp_path: Path) -> None:
    save_grid(torch.ones(9, 3, 1, 2, 2), tmp_path / "grid.png")
    picture, _ = video.read_all(tmp_path / "grid.png")
    assert picture.shape == (1, 2 * 4, 8 * 4, 3)
    assert picture[0, 5, 1].tolist() == [255, 255, 255]
    assert picture[0, 5, 5].tolist() == [0, 0, 0]


def test_a_reader_judges_clips_of_the_split_that_is_asked_for(runs: SimpleNamespace, tmp_path: Path) -> None:
    """On a folder, whose test split is another than val; rows of text alone bring the reader's other classes."""
    rows = ["file_name,text,objects,split"]
    for i, split in enumerate(("train", "val", "test", "test")):
        video.write(tmp_path / f"{i}.mp4", torch.zeros(1, 16, 64, 64), fps=8.0)
        rows += [f"{i}.mp4,the digit {i} is moving up and down,{i} up and down,{split}"]
    rows += [f",the digit {name},{name},train" for name in OBJECTS]
    (tmp_path / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    run = Run.open(shutil.copytree(runs.maker, tmp_path / "run"))
    text = (run.path / "recipe.toml").read_text(encoding="utf-8")
    begin, end = text.index("[data]"), text.index("[encoders.text]")
    folder = (
        f'[data]\nname = "folder"\nroot = "{tmp_path}"\ntargets = ["objects"]\nmulti = ["objects"]\nchannels = 1\n\n'
    )
    (run.path / "recipe.toml").write_text(text[:begin] + folder + text[end:], encoding="utf-8")
    numbers = evaluate(assemble.open_path(run.path), [f"evaluate.reader={runs.reader}", "evaluate.split=test"]).numbers
    assert numbers["test/samples"] == 2
    assert 0 <= numbers["generated/objects/exact_match"] <= 1
    # these grey clips are read as the reader reads grey
    grey = Pipeline.load(runs.reader).predict(video=torch.zeros(1, 16, 64, 64))[0]["objects"]
    assert isinstance(grey, dict)
    said = {name for name, p in grey.items() if p >= 0.5}
    right = sum(said == {f"{i} up and down"} for i in (2, 3)) / 2
    assert numbers["real/objects/exact_match"] == pytest.approx(right)
