"""The composition root: sizes wired, impossible pairs refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinetext import assemble, train
from kinetext.config import Recipe
from kinetext.interfaces import Task
from kinetext.types import DataError, RecipeError, RunError

FLOW = """
[task]
name = "text_to_video"
[encoders.text]
name = "transformer"
dim = 16
[codec]
name = "autoencoder"
width = 8
latent_dim = 2
[generator]
name = "flow"
dim = 16
depth = 1
[data]
name = "digits"
clips = 4
num_frames = 2
[train]
steps = 1
batch = 2
"""
GAN = FLOW.replace('name = "flow"\ndim = 16\ndepth = 1', 'name = "gan"')
DIFFUSION = FLOW.replace('name = "flow"', 'name = "diffusion"\nlevels = 8')
READ = '[task]\nname = "classification"\n[encoders.video]\nname = "frame_cnn"\ndim = 16\nheads = 2\nwidth = 4\n[data]\nname = "digits"\nnum_frames = 2\n'


def build(text: str, *overrides: str) -> Task:
    recipe = assemble.resolve(Recipe.parse(text, overrides))
    data = assemble.dataset(recipe)
    return assemble.task(recipe, assemble.describe(recipe, data), data)


def test_the_resolved_recipe_alone_builds_the_same_weights() -> None:
    recipe = assemble.resolve(Recipe.parse(FLOW))
    again = Recipe.parse(recipe.to_toml())
    assert again == recipe == assemble.resolve(again)
    one, two, other = build(FLOW), build(recipe.to_toml()), build(FLOW, "train.seed=1")
    states = [t.state_dict() for t in (one, two, other)]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert any(not torch.equal(v, states[2][k]) for k, v in states[0].items())


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (FLOW, ["generator.name=flwo"], "no component 'flwo'.*did you mean 'flow'"),
        (FLOW, ["generator.cond_dim=3"], "cond_dim: decided by the assembly"),
        (FLOW, ["generator.depht=3"], "depht.*did you mean 'depth'"),
        (FLOW, ["generator.depth=1.5"], "generator.depth"),
        (FLOW, ["generator.patch=3"], "patch: 3, expected a divisor"),
        (FLOW, ["generator.heads=3"], "even multiple of heads"),
        (FLOW, ["codec.levels=7"], "multiples of 128"),
        (
            FLOW,
            ["encoders.text.name=frame_cnn", "encoders.text.dim=16"],
            "frame_cnn reads video, expected a text encoder",
        ),
        (FLOW, ["encoders.video.name=frame_cnn"], "task text_to_video takes text"),
        (FLOW, ["data.num_frames=17"], "num_frames: 17, expected 1 to 16"),
        (FLOW, ["data.split=val"], "data.split: decided by the assembly"),
        (GAN, [], "task.steps: 25, but gan has no steps; expected 1"),
        (GAN, ["task.steps=1"], "task.guidance: 3.0, but gan has no guidance; expected 1"),
        (FLOW, ["task.steps=0"], "task.steps: 0, expected 1 to 1000"),
        (FLOW, ["task.guidance=-2"], "task.guidance: -2.0, expected 0 to 100"),
        (DIFFUSION, [], "task.steps: 25, expected at most 8, the levels of the generator"),
        (
            GAN,
            ["task.steps=1", "task.guidance=1", 'task.early_words=["up"]'],
            "task.early_words: up, but gan can take no late text; expected an empty list",
        ),
        (FLOW, ['task.early_words=["up", "sideways"]'], "task.early_words: 'sideways', expected 1 to 32 tokens"),
        (FLOW, ['task.early_words=[" "]'], "task.early_words: ' ', expected 1 to 32 tokens"),
        (
            FLOW,
            ['task.early_words=["left and right"]', "text.max_tokens=2"],
            "task.early_words: 'left and right', expected 1 to 2 tokens",
        ),
        (
            FLOW,
            ['task.early_words=["up"]', "generator.guidance_to=0.1"],
            "generator.late_from: 0.2, expected less than guidance_to = 0.1",
        ),
        (
            GAN,
            ["task.guidance=1", "generator.levels=4"],
            "generator: levels: 4, but a target of 8 x 8 is no multiple of 16",
        ),
        (GAN, ["generator.height=8"], "generator.height: decided by the assembly"),
        (READ, ["fusion.name=concat"], "concat joins modalities, and only video is encoded"),
        (READ, ["encoders.text.name=transformer"], "fusion: missing"),
        (READ, ['task.targets=["magic"]'], "magic"),
    ],
)
def test_impossible_recipes_are_refused_by_name(text: str, overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        build(text, *overrides)
    assert type(caught.value).__name__ in ("RecipeError", "DataError")


def test_codec_and_generator_must_be_of_one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinetext.codecs.autoencoder.Autoencoder.kind", "tokens")
    with pytest.raises(RecipeError, match="flow works on continuous targets, but codec autoencoder gives tokens ones"):
        build(FLOW)


def test_a_missing_part_is_named() -> None:
    recipe = assemble.resolve(Recipe.parse(FLOW))
    meta = assemble.describe(recipe, assemble.dataset(recipe))
    for part in ("codec", "generator"):
        with pytest.raises(RecipeError, match=f"{part}: missing"):
            assemble.task(replace(recipe, **{part: None}), meta)


def test_clips_are_not_made_from_vectors() -> None:
    plain = FLOW.replace('name = "transformer"\ndim = 16', 'name = "features"')
    recipe = assemble.resolve(Recipe.parse(plain))
    meta = replace(assemble.describe(recipe, assemble.dataset(recipe)), vector_dims={"text": 4})
    with pytest.raises(RecipeError, match=r"encoders\.text: features reads vectors, and clips are made from words"):
        assemble.task(recipe, meta)


def test_starting_weights_are_copied_and_must_fit(tmp_path: Path) -> None:
    first = train.start(Recipe.parse(FLOW, ["train.seed=5", "train.ema=0"]), tmp_path / "first", quiet=True)
    recipe = assemble.resolve(Recipe.parse(FLOW, [f"init.codec={first.path}"]))
    meta = assemble.describe(recipe, assemble.dataset(recipe))
    task = assemble.task(recipe, meta)
    assemble.start_weights(task, recipe, meta, assemble.open_run)
    given, got = first.weights(), task.state_dict()
    assert all(torch.equal(got[k], given[k]) == k.startswith("codec.") or given[k].numel() < 64 for k in given)
    wrong = Recipe.parse(FLOW, [f"init.generator={first.path}", "generator.dim=32"])
    with pytest.raises(RecipeError, match="weights do not fit"):
        assemble.start_weights(build(wrong.to_toml()), wrong, meta, assemble.open_run)
    second = train.start(Recipe.parse(FLOW, ["train.seed=6", "train.ema=0"]), tmp_path / "second", quiet=True)
    for named in (("task", "codec"), ("codec", "task")):
        sources = {"task": str(second.path), "codec": str(first.path)}
        assemble.start_weights(task, replace(recipe, init={k: sources[k] for k in named}), meta, assemble.open_run)
        got = task.state_dict()
        assert all(torch.equal(got[k], (first if k.startswith("codec.") else second).weights()[k]) for k in got)
    odd = replace(recipe, init={"magic": str(first.path)})
    with pytest.raises(RecipeError, match=r"init\.magic: no such part"):
        assemble.start_weights(task, odd, meta, assemble.open_run)
    language = Recipe.parse(FLOW, [f"init.task={first.path}", 'data.languages=["en"]'])
    english = assemble.describe(language, assemble.dataset(assemble.resolve(language)))
    for prefix in ("task", "encoders", "encoders.text", "encoders.text.blocks"):
        with pytest.raises(RecipeError, match="another vocabulary"):
            part = replace(language, init={prefix: str(first.path)})
            assemble.start_weights(task, part, english, assemble.open_run)


def test_a_reader_or_a_start_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    for override in ("evaluate.reader=nobody", "init.codec=nobody"):
        with pytest.raises((RecipeError, RunError), match="nobody: neither a run folder"):
            train.start(Recipe.parse(FLOW, [override]), tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()


def test_the_split_to_judge_on_must_exist() -> None:
    recipe = assemble.resolve(Recipe.parse(FLOW, ["evaluate.split=test"]))
    with pytest.raises(DataError, match="split: 'test', expected train or val"):
        assemble.dataset(recipe, recipe.evaluate.split)


@pytest.mark.parametrize("name", ["digits", "digits-reader"])
def test_what_ships_opens(name: str) -> None:
    assert not assemble.restore(assemble.open_run(name)).training


def test_a_run_written_before_an_option_existed_opens_with_its_default(tmp_path: Path) -> None:
    train.start(Recipe.parse(FLOW), tmp_path / "run", quiet=True)
    lines = (tmp_path / "run" / "recipe.toml").read_text().splitlines()
    (tmp_path / "run" / "recipe.toml").write_text("\n".join(x for x in lines if not x.startswith("cache_targets")))
    assert assemble.open_run(str(tmp_path / "run")).recipe.task.args["cache_targets"] is False


def test_a_cache_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"task\.cache_targets: true, and 100,000,000 clips would take \d+ GiB"):
        build(FLOW, "task.cache_targets=true", "data.clips=100_000_000")


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(RunError, match="neither a run folder nor a shipped model"):
        assemble.open_run("nowhere/at/all")
