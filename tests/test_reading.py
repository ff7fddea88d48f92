"""Models that read, from a folder to answers: pretrained and precomputed parts, folds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from kinetext import assemble, train, video
from kinetext.apps import predicting
from kinetext.apps.folds import cross_validate
from kinetext.checkpoint import Run
from kinetext.config import Recipe
from kinetext.evaluate import evaluate
from kinetext.pipeline import Pipeline
from kinetext.types import DataError, RecipeError, RunError

TRAIN = """
[train]
steps = 2
batch = 4
precision = "fp32"
ema = 0.5
warmup = 1
"""


@pytest.fixture(autouse=True)
def apart(own_cache: None) -> None:
    """What frozen encoders make stays in the test's own folder."""


def trained(out: Path, text: str, *changes: str) -> Run:
    return train.start(Recipe.parse(text + TRAIN, list(changes)), out, quiet=True)


def data(folder: Path, *lines: str) -> str:
    return "\n".join(["[data]", 'name = "folder"', f'root = "{folder}"', "num_frames = 2", "size = 16", *lines])


READER = """
[task]
name = "classification"
[encoders.text]
name = "word_vectors"
dim = 8
[encoders.video]
name = "frame_cnn"
dim = 8
width = 8
depth = 0
heads = 2
[fusion]
name = "gated"
dim = 8
"""


def test_precomputed_vectors_train_answer_and_are_evaluated_alone(clips: Path, tmp_path: Path) -> None:
    recipe = """
        task.name = "classification"
        encoders.text = { name = "features", dim = 8 }
        encoders.video = { name = "features", dim = 8, depth = 1 }
        fusion = { name = "late", dim = 8 }
    """ + data(
        clips, 'targets = ["shade"]', 'text_vectors = "vectors.npz:words"', 'video_vectors = "vectors.npz:faces"',
        'vectors_row = "place"', "folds = 4",
    )  # fmt: skip
    run = trained(tmp_path / "run", recipe)
    assert run.meta.vector_dims == {"text": 6, "video": 5}
    assert run.meta.video_shape is None
    numbers = evaluate(run).numbers
    assert {"val/shade/accuracy", "val/text_only/shade/accuracy", "val/video_only/shade/accuracy"} <= set(numbers)
    pipeline = Pipeline.load(run.path)
    faces = torch.from_numpy(np.load(clips / "vectors.npz")["faces"]).float()
    said = pipeline.predict(video=list(faces[:2]))
    assert said[0] != said[1]
    done = predicting.predict(pipeline, clips, tmp_path / "said.jsonl")
    assert (done.rows, done.failed) == (9, 0)
    with pytest.raises(DataError, match="reads precomputed vectors"):
        pipeline.predict(video=clips / "0.mp4")


def test_frozen_encoder_is_kept_and_learns_nothing(clips: Path, tmp_path: Path) -> None:
    recipe = READER + data(clips, 'targets = ["shade"]', "folds = 4")
    run = trained(tmp_path / "run", recipe, 'task.frozen=["video"]', "train.steps=4", "train.ema=0.0")
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 8
    fresh = assemble.task(run.recipe, run.meta, assemble.dataset(run.recipe)).state_dict()
    weights = run.weights()
    assert all(torch.equal(weights[n], fresh[n]) for n in fresh if n.startswith("encoders.video"))
    assert any(not torch.equal(weights[n], fresh[n]) for n in fresh if n.startswith("encoders.text"))
    # judged on clips, without the cache, as a user would
    assert evaluate(run).numbers["val/loss"] == pytest.approx(run.history()[-1]["val/loss"], abs=1e-4)


def test_a_pretrained_text_run_needs_its_checkpoint_no_more(clips: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "clip", "number", *map(str, range(8))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    bert = tmp_path / "bert"
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(bert)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **shape)).save_pretrained(bert)
    (bert / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    recipe = f"""
        task = {{ name = "regression", loss = "huber" }}
        encoders.text = {{ name = "pretrained_text", model = "{bert}", pooling = "mean" }}
        text.max_tokens = 8
    """ + data(clips, 'targets = ["score"]', 'numeric = ["score"]', "folds = 4")
    with pytest.raises(RecipeError, match=r"text.max_tokens: 99"):
        trained(tmp_path / "long", recipe, "text.max_tokens=99")
    with pytest.raises(RecipeError, match=r"encoders.text.model: missing"):
        trained(tmp_path / "none", recipe, 'encoders.text.model=""')
    run = trained(tmp_path / "run", recipe)
    assert "mit" in run.meta.facts["pretrained weights"]
    before = Pipeline.load(run.path).predict("clip number 3")[0]["score"]
    shutil.rmtree(bert)
    moved = shutil.move(run.path, tmp_path / "moved")
    again = Pipeline.load(moved)
    assert again.predict("clip number 3")[0]["score"] == before
    assert again.predict("clip number 5")[0]["score"] != before


def test_retrieval_run_embeds(clips: Path, tmp_path: Path) -> None:
    recipe = READER.replace("classification", "retrieval").partition("[fusion]")[0] + data(clips, "folds = 4")
    run = trained(tmp_path / "run", recipe)
    numbers = evaluate(run).numbers
    assert {"val/text_to_video/r1", "val/video_to_text/median_rank", "val/chance_r1"} <= set(numbers)
    pipeline = Pipeline.load(run.path)
    both = pipeline.embed("clip number 1", clips / "1.mp4")[0]
    assert set(both) == {"text", "video"}
    assert float(both["text"].norm()) == pytest.approx(1)
    assert torch.equal(pipeline.embed("clip number 1")[0]["text"], both["text"])
    with pytest.raises(RunError, match="its task is retrieval, expected classification or regression"):
        pipeline.predict("clip number 1")
    with pytest.raises(RecipeError, match="retrieval keeps text and video apart"):
        trained(tmp_path / "fused", recipe + '\n[fusion]\nname = "concat"\n')


def test_classifiers_embed_what_their_heads_read(clips: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", READER + data(clips, 'targets = ["shade"]', "folds = 4"))
    pipeline = Pipeline.load(run.path)
    joint = pipeline.embed("clip number 1", clips / "1.mp4")[0]["joint"]
    logits = pipeline.task.get_submodule("heads.0")(joint)
    said = pipeline.predict("clip number 1", clips / "1.mp4")[0]["shade"]
    assert list(said.values()) == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)  # type: ignore[union-attr]


def test_every_group_is_held_out_once(clips: Path, tmp_path: Path) -> None:
    recipe = Recipe.parse(READER + data(clips, 'targets = ["shade"]') + TRAIN)
    said: list[str] = []
    done = cross_validate(recipe, "group", tmp_path / "folds", said.append)
    assert len(done.folds) == 4
    assert done.found.numbers["samples"] == 9
    shares = [(f["val/shade/accuracy"], f["samples"]) for f in done.folds]
    assert sum(n for _, n in shares) == 9
    pooled = sum(a * n for a, n in shares) / 9
    assert done.found.numbers["val/shade/accuracy"] == pytest.approx(pooled)
    assert "val/shade/accuracy" in done.found.intervals
    assert "folds/shade/accuracy" in done.found.numbers
    held_out = [assemble.dataset(Run.open(tmp_path / "folds" / f"fold-{i:02}").recipe, "val") for i in range(4)]
    assert [len({row.group for row in d.rows}) for d in held_out] == [1] * 4  # type: ignore[attr-defined]
    assert "Every fold" in (tmp_path / "folds" / "report.html").read_text(encoding="utf-8")
    # the same call finds its runs again and trains nothing
    weights = (tmp_path / "folds" / "fold-00" / "model.safetensors").stat().st_mtime_ns
    again = cross_validate(recipe, "group", tmp_path / "folds", said.append)
    assert again.found.numbers == done.found.numbers
    assert (tmp_path / "folds" / "fold-00" / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(RecipeError, match="is a run of another recipe"):
        cross_validate(recipe.changed(["train.lr=0.1"]), "group", tmp_path / "folds", said.append)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.eval_every=1", "train.eval_every: 1, expected 0 with folds"),
        ("train.patience=2", "train.patience: 2, expected 0 with folds"),
    ],
)
def test_folds_never_choose_by_what_is_held_out(clips: Path, tmp_path: Path, change: str, message: str) -> None:
    recipe = Recipe.parse(READER + data(clips, 'targets = ["shade"]') + TRAIN, [change])
    with pytest.raises(RecipeError, match=message):
        cross_validate(recipe, 2, tmp_path / "folds", print)


def test_too_many_folds_are_refused_before_training(clips: Path, tmp_path: Path) -> None:
    recipe = Recipe.parse(READER + data(clips, 'targets = ["shade"]') + TRAIN)
    with pytest.raises(DataError, match=r"data.folds: 5, expected 2 to 4, the groups"):
        cross_validate(recipe, 5, tmp_path / "folds", print)
    assert not (tmp_path / "folds").exists()


def test_a_frozen_run_resumes_bit_for_bit(clips: Path, tmp_path: Path) -> None:
    """Its encoder starts from another run's weights, which a resume must have before it encodes."""
    recipe = READER + data(clips, 'targets = ["shade"]', "folds = 4")
    first = trained(tmp_path / "first", recipe, "train.steps=3")
    frozen = ['task.frozen=["video"]', f"init.encoders.video={first.path}", "train.save_every=2"]
    half = trained(tmp_path / "half", recipe, *frozen, "train.steps=2", "train.decay=constant")
    text = (half.path / "recipe.toml").read_text().replace("steps = 2\n", "steps = 4\n")
    (half.path / "recipe.toml").write_text(text)
    files = len(list((tmp_path / "cache").rglob("*.safetensors")))
    resumed = train.resume(half.path, quiet=True)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == files  # the same encoder: nothing is made anew
    again = trained(tmp_path / "again", recipe, *frozen, "train.steps=4", "train.decay=constant")
    assert all(torch.equal(w, resumed.weights()[name]) for name, w in again.weights().items())


def test_the_best_of_an_error_is_the_smallest(clips: Path, tmp_path: Path) -> None:
    recipe = READER.replace("classification", "regression") + data(
        clips, 'targets = ["score"]', 'numeric = ["score"]', "folds = 4"
    )
    run = trained(
        tmp_path / "run", recipe, "train.best=val/score/mae", "train.eval_every=1", "train.steps=6", "train.lr=0.05"
    )
    errors = [line["val/score/mae"] for line in run.history() if "val/score/mae" in line]
    assert len(set(errors)) > 1
    assert evaluate(run).numbers["val/score/mae"] == pytest.approx(min(errors), abs=1e-6)


def test_folds_of_another_table_are_refused(clips: Path, tmp_path: Path) -> None:
    recipe = Recipe.parse(READER + data(clips, 'targets = ["shade"]') + TRAIN)
    cross_validate(recipe, 2, tmp_path / "folds", print)
    with (clips / "metadata.csv").open("a", encoding="utf-8") as file:
        file.write("\n,one more,light,1,person 9,0")
    with pytest.raises(DataError, match=r"folds.csv: the table or the folds are no longer those of the runs"):
        cross_validate(recipe, 2, tmp_path / "folds", print)


def test_retrieval_has_no_folds(clips: Path, tmp_path: Path) -> None:
    recipe = READER.replace("classification", "retrieval").partition("[fusion]")[0] + data(clips) + TRAIN
    with pytest.raises(RecipeError, match="no space in common"):
        cross_validate(Recipe.parse(recipe), 2, tmp_path / "folds", print)


def test_segments_of_one_file_are_one_group(tmp_path: Path) -> None:
    video.write(tmp_path / "a.mp4", torch.zeros(3, 8, 32, 32), fps=8.0)
    rows = ["file_name,start,end,shade,split", "a.mp4,0,0.5,x,train", "a.mp4,0.5,1,y,train"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    made = assemble.dataset(
        Recipe.parse(
            f'task.name = "classification"\ndata = {{ name = "folder", root = "{tmp_path}", targets = ["shade"] }}'
        )
    )
    assert made[0].group == made[1].group != ""


def test_vectors_for_an_encoder_of_words_are_refused(clips: Path, tmp_path: Path) -> None:
    recipe = READER + data(clips, 'targets = ["shade"]', "folds = 4", 'text_vectors = "vectors.npz:words"')
    with pytest.raises(RecipeError, match=r"data.text_vectors: given, but encoders.text is word_vectors"):
        trained(tmp_path / "run", recipe)


def test_text_vectors_are_given_as_tensors(clips: Path, tmp_path: Path) -> None:
    recipe = """
        task.name = "classification"
        encoders.text = { name = "features", dim = 8 }
    """ + data(clips, 'targets = ["shade"]', 'text_vectors = "vectors.npz:words"', "folds = 4")
    pipeline = Pipeline.load(trained(tmp_path / "run", recipe).path)
    one, other = torch.ones(1, 6), -torch.ones(1, 6)
    assert pipeline.predict(one)[0] != pipeline.predict(other)[0]
    with pytest.raises(DataError, match=r"reads precomputed vectors, expected a tensor \(L, D\) for text"):
        pipeline.predict("a text that nobody reads")


def test_features_are_told_apart_by_precision(clips: Path, tmp_path: Path) -> None:
    recipe = READER + data(clips, 'targets = ["shade"]', "folds = 4")
    for precision in ("fp32", "bf16"):
        trained(tmp_path / precision, recipe, 'task.frozen=["video"]', f"train.precision={precision}")
    assert len([folder for folder in (tmp_path / "cache" / "encoded").iterdir() if folder.is_dir()]) == 2
