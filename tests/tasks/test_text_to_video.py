"""Text to video: which frames a training step looks at, and that their places are known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kinetext import assemble, video
from kinetext.config import Recipe
from kinetext.datasets.digits import Digits
from kinetext.generators.flow import Flow
from kinetext.interfaces import Reward
from kinetext.runtime import rng
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.text import Tokenizer
from kinetext.types import Batch, DataError, Features, KinetextError, RecipeError

RECIPE = """
task.name = "text_to_video"
encoders.text = { name = "transformer", dim = 16, depth = 1 }
codec.name = "pixel"
generator = { name = "flow", dim = 16, depth = 1, patch = 16 }
data = { name = "digits", clips = 4, num_frames = 8 }
"""
WORDS = Tokenizer.train(Digits(clips=4).texts(), "word")


def maker(**options: int | float | str) -> tuple[TextToVideo, Batch]:
    recipe = assemble.resolve(Recipe.parse(RECIPE, [f"task.{k}={v}" for k, v in options.items()]))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    task = assemble.task(recipe, meta, data)
    assert isinstance(task, TextToVideo)
    return task, next(assemble.plain_batches(recipe, meta, data))


def test_a_training_step_sees_some_frames_of_every_clip_in_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = maker(train_frames=3)
    seen: list[tuple[Tensor, Tensor]] = []
    real = task.generator.loss

    def loss(target: Tensor, *rest: Any, frames: Tensor, **named: Any) -> Any:
        seen.append((target, frames))
        return real(target, *rest, frames=frames, **named)

    monkeypatch.setattr(task.generator, "loss", loss)
    for step in range(40):
        task.train().loss(batch, player="model", rng=rng(step))
    for target, frames in seen:
        assert frames.tolist() == sorted(set(frames.tolist())) and len(frames) == 3
        torch.testing.assert_close(target, task.codec.encode(batch.video[:, :, frames]))
    assert set(torch.cat([frames for _, frames in seen]).tolist()) == set(range(8))


def test_words_that_say_how_things_move_lead_early_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = maker(early_words='["left and right", "上下"]')
    texts = [
        "the digit 3 is moving left and right and the digit 7 is moving up and down",
        "一个3上下移动",
        "左右",
        None,
    ]
    late = ["the digit 3 is moving and the digit 7 is moving up and down", "一个3移动", "左右", None]
    (tokens, told), (_, left) = WORDS.batch(texts), WORDS.batch(late)
    batch = replace(batch, tokens=tokens, token_mask=told)
    kept: list[Tensor] = []
    real = task.encoders["text"].forward
    monkeypatch.setattr(task.encoders["text"], "forward", lambda x, mask: (kept.append(mask), real(x, mask))[1])
    asked: list[Features | None] = []
    monkeypatch.setattr(task.generator, "sample", lambda *_, late, **named: asked.append(late))
    task.sample(batch, rng=rng(), steps=2, guidance=3.0)
    assert asked[0] is not None and torch.equal(kept[0], told) and torch.equal(asked[0].mask, kept[1])
    for row, text in enumerate(late):
        assert tokens[row, kept[1][row]].tolist() == WORDS.encode(text or "")
    assert kept[1].sum() == left.sum()
    assert maker()[0].late(batch) is None


def test_early_words_and_their_tokens_come_together() -> None:
    plain, _ = maker()
    with pytest.raises(RecipeError, match=r"task\.early_words: 1, expected the tokens of each, not 0"):
        TextToVideo(dict(plain.encoders.items()), plain.codec, plain.generator, plain.shape, early_words=("up",))


def test_judging_sees_every_frame() -> None:
    (some, batch), (every, _) = maker(train_frames=3), maker()
    every.load_state_dict(some.state_dict())
    losses = [task.eval().loss(batch, player="model", rng=rng(0)).total for task in (some, every)]
    assert torch.equal(*losses)


def test_frames_keep_their_places_in_the_network() -> None:
    task, batch = maker()
    target = task.codec.encode(batch.video)[:, :, :3]
    cond = task.encoders["text"](batch.tokens, batch.token_mask)
    first, far, default = (
        task.generator.loss(target, cond, player="model", rng=rng(0), frames=frames).total
        for frames in (torch.arange(3), torch.tensor([0, 3, 7]), None)
    )
    assert torch.equal(first, default)
    assert not torch.equal(far, default)


def test_more_frames_than_a_clip_has_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"task\.train_frames: 9, expected 0 to 8"):
        maker(train_frames=9)


def test_cached_targets_are_what_the_codec_makes_and_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (plain, batch), (caching, _) = maker(), maker(cache_targets="true")
    caching.load_state_dict(plain.state_dict())
    calls = []
    real = caching.codec.encode
    monkeypatch.setattr(caching.codec, "encode", lambda video: (calls.append(len(video)), real(video))[1])
    shuffled = replace(batch, keys=batch.keys[::-1], video=batch.video.flip(0) * float("nan"))
    with torch.autocast("cpu", torch.bfloat16):
        first, again = (caching.train()._target(b, None) for b in (batch, shuffled))
    assert calls == [1, 1, 1, 1]
    torch.testing.assert_close(first, plain.codec.encode(batch.video), atol=1e-3, rtol=1e-3)  # 16 bits
    assert torch.equal(again, first.flip(0))
    assert torch.equal(caching._target(batch, torch.tensor([1, 5])), first[:, :, [1, 5]])
    caching.eval()._target(batch, None)
    assert calls[4:] == [4], "judging uses the codec itself"


def test_cached_tokens_are_small_and_come_back_as_they_were() -> None:
    tokens = RECIPE.replace('codec.name = "pixel"', 'codec = { name = "vq", width = 8, codes = [40] }')
    tokens = tokens.replace('"flow", dim = 16, depth = 1, patch = 16', '"autoregressive", dim = 16, depth = 1')
    recipe = assemble.resolve(Recipe.parse(tokens, ["task.cache_targets=true", "task.guidance=1.0", "task.steps=1"]))
    data = assemble.dataset(recipe)
    meta = assemble.describe(recipe, data)
    task = assemble.task(recipe, meta, data)
    assert isinstance(task, TextToVideo)
    batch = next(assemble.plain_batches(recipe, meta, data))
    made = task.train()._target(batch, None)
    assert made.dtype == torch.int64
    assert torch.equal(made, torch.cat([task.codec.encode(clip[None]) for clip in batch.video]))
    assert {kept.dtype for kept in task._cache.values()} == {torch.int16}


def test_targets_of_clips_that_change_are_not_cached(tmp_path: Path) -> None:
    video.write_png(tmp_path / "a.png", torch.zeros(1, 20, 20, 3, dtype=torch.uint8))
    (tmp_path / "metadata.csv").write_text("file_name,text,split\na.png,black and still,train\n")
    flipped = [
        f"data.root={tmp_path}",
        "data.num_frames=2",
        "data.size=16",
        "data.flip=true",
        "task.cache_targets=true",
    ]
    recipe = assemble.resolve(Recipe.parse(RECIPE.replace('"digits", clips = 4, num_frames = 8', '"folder"'), flipped))
    data = assemble.dataset(recipe)
    with pytest.raises(RecipeError, match=r"task\.cache_targets: true, but data folder does not promise"):
        assemble.task(recipe, assemble.describe(recipe, data), data)


class Brightness(Reward):
    """A user's own: clips should be bright, whatever the text."""

    def loss(self, batch: Batch, video: Tensor, *, rng: torch.Generator) -> Tensor:
        return (video - 1).square().mean()


def rewarded(**options: float | str) -> tuple[TextToVideo, Batch]:
    """A maker that a reward teaches."""
    task, batch = maker(**options)
    task._rewarder = (Brightness(),)
    return task, batch


def test_a_reward_adds_what_it_says_of_its_share_of_the_batch() -> None:
    (task, batch), (plain, _) = rewarded(reward_weight=3.0, reward_share=0.25), maker()
    plain.load_state_dict(task.state_dict())
    found = task.train().loss(batch, player="model", rng=rng(0))
    learned = plain.train().loss(batch.rows(1, 4), player="model", rng=rng(0))
    assert torch.equal(found.parts["velocity"], learned.parts["velocity"])
    torch.testing.assert_close(found.total, learned.total + 3 * found.parts["reward_loss"])
    judged, ours = (t.eval().loss(batch, player="model", rng=rng(1)).total for t in (plain, task))
    assert torch.equal(judged, ours), "models are judged without a reward"


def test_a_reward_alone_reaches_text_and_generator_but_not_what_is_frozen() -> None:
    task, batch = maker(reward="digits-reader", reward_steps=2)
    (rewarder,) = task._rewarder
    assert rewarder is not None
    task.train()._read(batch, rewarder, rng=rng(0)).backward()
    moved = {name.split(".")[0] for name, p in task.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {"encoders", "generator"}
    assert not any("rewarder" in name for name in task.state_dict())


@pytest.mark.parametrize("through", ["last", "all"])
def test_only_the_frames_that_the_reward_looks_at_are_made_on_the_way(
    monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    """And of a whole clip they alone are decoded."""
    task, batch = rewarded(reward_through=through)
    (rewarder,) = task._rewarder
    assert rewarder is not None
    monkeypatch.setattr(rewarder, "frames", lambda total, rng: torch.tensor([1, 6]))
    made, looked = [], []
    draft, look = task.generator.draft, rewarder.loss
    monkeypatch.setattr(task.generator, "draft", lambda *a, **k: (made.append((a[0], k)), draft(*a, **k))[1])
    monkeypatch.setattr(
        rewarder, "loss", lambda b, video, rng: (looked.append(video.shape), look(b, video, rng=rng))[1]
    )
    task.train().loss(batch, player="model", rng=rng(0))
    (shape, asked), *_ = made
    if through == "all":
        assert (shape[2], asked["frames"], asked["whole"]) == (8, None, True)
    else:
        assert (shape[2], asked["frames"].tolist(), asked["whole"]) == (2, [1, 6], False)
    assert looked[0][1:] == (1, 2, 64, 64)


@pytest.mark.parametrize("through", ["last", "all"])
def test_a_reward_teaches(through: str) -> None:
    """Digits on black are dark; after some steps clips are as the reward wants them."""
    torch.manual_seed(0)
    task, batch = rewarded(reward_weight=10.0, reward_share=0.5, reward_steps=4, reward_through=through)
    optimizer = torch.optim.AdamW(task.parameters(), 3e-3)

    def brightness() -> float:
        made = task.eval().generate(batch, rng=rng(5), steps=4, guidance=1.0).video
        assert made is not None
        return float(made.mean())

    before = brightness()
    for step in range(30):
        task.train().loss(batch, player="model", rng=rng(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert brightness() > before + 0.5


class Network(nn.Module, Reward):
    """A user's own that has weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def loss(self, batch: Batch, video: Tensor, *, rng: torch.Generator) -> Tensor:
        return self.linear(video.mean().view(1)).sum()


def test_a_reward_that_is_a_module_is_neither_trained_nor_saved() -> None:
    plain, _ = maker()
    task = TextToVideo(dict(plain.encoders.items()), plain.codec, plain.generator, plain.shape, Network())
    assert task.state_dict().keys() == plain.state_dict().keys()
    assert {n for n, _ in task.parameters_of("model")} == {n for n, _ in plain.parameters_of("model")}


def test_a_recipe_with_a_reward_and_one_clip_a_batch_is_refused() -> None:
    recipe = assemble.resolve(Recipe.parse(RECIPE, ["task.reward=digits-reader", "train.batch=1"]))
    data = assemble.dataset(recipe)
    with pytest.raises(RecipeError, match=r"train\.batch: 1, expected >= 2 with task\.reward"):
        assemble.task(recipe, assemble.describe(recipe, data), data)


def test_a_reward_needs_two_clips() -> None:
    task, batch = rewarded()
    with pytest.raises(DataError, match="alone in its batch"):
        task.train().loss(batch.rows(0, 1), player="model", rng=rng(0))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"reward_weight": 0.0}, "task.reward_weight: 0.0, expected > 0"),
        ({"reward_share": 1.0}, "task.reward_share: 1.0, expected between 0 and 1"),
        ({"reward_steps": 1}, "task.reward_steps: 1, expected >= 2"),
        ({"reward": "digits"}, "task.reward: digits is no classifier of video"),
        ({"reward": "nobody"}, "task.reward: nobody: neither a run folder nor a shipped model"),
    ],
)
def test_rewards_that_can_not_be(option: dict[str, Any], message: str) -> None:
    with pytest.raises(KinetextError, match=re.escape(message)):
        maker(**option)


def test_a_generator_without_drafts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Flow, "draft")
    with pytest.raises(RecipeError, match=r"task\.reward: digits-reader, but Flow has no drafts that it could teach"):
        maker(reward="digits-reader")


def test_a_finished_run_does_not_need_its_reward() -> None:
    recipe = assemble.resolve(Recipe.parse(RECIPE, ["task.reward=gone"]))
    meta = assemble.describe(recipe, assemble.dataset(recipe))
    again = assemble.task(recipe, meta)
    assert isinstance(again, TextToVideo) and again._rewarder == (None,)
