"""Captions: the target of a text, what absence means, learning, and recipes that can't work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinetext import assemble, train
from kinetext.config import Recipe
from kinetext.datasets.loader import Collate
from kinetext.encoders.frame_cnn import FrameCNN
from kinetext.generators.autoregressive import Autoregressive
from kinetext.tasks.video_to_text import VideoToText, text_shape
from kinetext.text import Tokenizer
from kinetext.types import Batch, RecipeError, Sample

SHADES = ("black", "dark grey", "middle grey, not bright", "white as snow", "灰色", "很亮的白色")
WORDS = Tokenizer.train(SHADES, "word", max_tokens=6)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clips(*texts: str | None) -> Batch:
    """Clips of one shade each, the later the brighter."""
    shades = torch.linspace(-1, 1, len(texts))
    samples = [
        Sample(str(i), video=shade.expand(1, 2, 16, 16).contiguous(), text=text)
        for i, (shade, text) in enumerate(zip(shades, texts, strict=True))
    ]
    return Collate(WORDS, (), (1, 2, 16, 16))(samples)


def task(**options: float) -> VideoToText:
    torch.manual_seed(0)
    encoder = FrameCNN(channels=1, num_frames=2, size=16, dim=16, width=8, stages=2, depth=1, heads=2)
    channels, length, height, width = text_shape(WORDS)
    assert (channels, height, width) == (1, 1, 1)
    writer = Autoregressive(num_frames=length, height=1, width=1, vocab=len(WORDS) + 1, cond_dim=16, dim=32, depth=2)
    return VideoToText({"video": encoder}, writer, WORDS, **options)


def test_a_text_is_its_tokens_then_the_end_then_nothing() -> None:
    end = len(WORDS)
    target = task().target(clips("dark grey", None, "middle grey, not bright as snow"))
    assert target.shape == (3, 1, 7, 1, 1) and target.dtype == torch.int64
    two, none, long = target.flatten(1).tolist()
    assert two == [*WORDS.encode("dark grey"), end, -1, -1, -1, -1]
    assert none == [-1] * 7
    assert long == [*WORDS.encode("middle grey, not bright as"), end]


def test_what_comes_after_the_end_is_not_said() -> None:
    made = task()
    ids = [*WORDS.encode("white as snow"), len(WORDS), *WORDS.encode("dark")]
    assert made._said(ids) == "white as snow"
    assert made._said(WORDS.encode("很亮的白色")) == "很亮的白色"
    assert made._said([len(WORDS)]) == ""


def test_learning_every_clip_gets_its_own_text() -> None:
    captioner, batch = task(), clips(*SHADES)
    optimizer = torch.optim.AdamW(captioner.parameters(), 5e-3)
    for step in range(120):
        captioner.train().loss(batch, player="model", rng=rng(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    captioner.eval()
    assert captioner.predict(batch, rng=rng()).text == SHADES
    turned = replace(batch, video=batch.video.flip(0), text=("",) * 6)
    assert captioner.predict(turned, rng=rng()).text == SHADES[::-1]
    drawn = [captioner.write(batch, rng=[rng(i) for i in range(6)], temperature=heat).text for heat in (0.1, 50.0)]
    assert drawn[0] == SHADES and drawn[1] != SHADES


def test_a_sample_without_a_text_teaches_nothing_and_one_without_a_clip_the_language() -> None:
    captioner = task(guidance=1.0).eval()
    whole = clips("dark grey", "white as snow", None)
    parts = [whole.rows(0, 2), whole]
    losses = [captioner.loss(b, player="model", rng=torch.Generator().manual_seed(3)).total for b in parts]
    torch.testing.assert_close(*losses)
    unseen = whole.without("video")
    loss = captioner.loss(unseen, player="model", rng=rng()).total
    loss.backward()
    network = captioner.generator.network
    assert isinstance(network, torch.nn.Module)
    assert network.get_parameter("no_text_key").grad is not None
    assert float(loss.detach()) > 0


def test_greedy_texts_do_not_depend_on_the_dice() -> None:
    captioner, batch = task().eval(), clips(*SHADES)
    assert captioner.predict(batch, rng=rng(1)).text == captioner.predict(batch, rng=rng(2)).text
    hot = task(temperature=1.0).eval()
    assert hot.predict(batch, rng=rng(1)).text != hot.predict(batch, rng=rng(2)).text


def test_a_frozen_encoder_stays_as_it_is() -> None:
    encoder = FrameCNN(channels=1, num_frames=2, size=16, dim=16, width=8, stages=2, depth=1, heads=2)
    writer = Autoregressive(num_frames=7, height=1, width=1, vocab=len(WORDS) + 1, cond_dim=16)
    captioner = VideoToText({"video": encoder}, writer, WORDS, frozen=("video",)).train()
    assert not encoder.training and writer.training
    assert all(name.startswith("generator.") for name, _ in captioner.parameters_of("model"))


RECIPE = """
task.name = "video_to_text"
encoders.video = { name = "frame_cnn", dim = 16, width = 4, depth = 1 }
generator = { name = "autoregressive", dim = 16, depth = 1 }
data = { name = "digits", clips = 4, num_frames = 2 }
"""


def built(*overrides: str) -> VideoToText:
    recipe = assemble.resolve(Recipe.parse(RECIPE, overrides))
    data = assemble.dataset(recipe)
    made = assemble.task(recipe, assemble.describe(recipe, data), data)
    assert isinstance(made, VideoToText)
    return made


def test_the_assembly_wires_the_vocabulary_and_the_end() -> None:
    captioner = built("text.max_tokens=9")
    assert "digit" in captioner.tokenizer.vocabulary and "数" in captioner.tokenizer.vocabulary
    writer = captioner.generator
    assert isinstance(writer, Autoregressive)
    assert writer.size == (10, 1, 1)
    assert writer.network.out.out_features == len(captioner.tokenizer) + 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['generator.name="flow"'], "generator: flow writes no text, expected autoregressive"),
        (["generator.temperature=0.5"], "generator.temperature: 0.5, but that of texts is task.temperature"),
        (['codec.name="pixel"'], "codec: pixel, but task video_to_text has no use for one"),
        (['fusion.name="concat"'], "fusion: concat, but task video_to_text has no use for one"),
        (['encoders.text.name="transformer"'], "encoders: text, video; task video_to_text takes video"),
        (["task.temperature=-1"], "task.temperature: -1.0, expected >= 0"),
        (["task.guidance=-1"], "task.guidance: -1.0, expected >= 0"),
        (["generator.vocab=5"], "generator.vocab"),
    ],
)
def test_recipes_that_can_not_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        built(*overrides)


def test_a_task_without_its_generator_is_refused() -> None:
    text = RECIPE.replace('generator = { name = "autoregressive", dim = 16, depth = 1 }', "")
    recipe = assemble.resolve(Recipe.parse(text))
    data = assemble.dataset(recipe)
    with pytest.raises(RecipeError, match="generator: missing; expected one of autoregressive"):
        assemble.task(recipe, assemble.describe(recipe, data), data)


def test_a_writer_of_other_words_can_not_be_continued(tmp_path: Path) -> None:
    first = train.start(Recipe.parse(RECIPE, ["train.steps=1", "train.batch=2"]), tmp_path / "first", quiet=True)
    changes = [f'init.generator="{first.path}"', 'data.languages=["en"]']
    recipe = assemble.resolve(Recipe.parse(RECIPE, changes))
    meta = assemble.describe(recipe, assemble.dataset(recipe))
    with pytest.raises(RecipeError, match=r"init\.generator: .* has another vocabulary"):
        assemble.start_weights(built(*changes), recipe, meta, assemble.open_run)
