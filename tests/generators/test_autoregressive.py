"""Autoregression against entropies that are known, transformers' own cuts, and the frequencies of its draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from kinetext.generators.autoregressive import Autoregressive, draw, likeliest
from kinetext.types import DataError, Features, Known, Start


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(batch: int, width: int = 8) -> Features:
    return Features(torch.randn(batch, 3, width, generator=rng(9)), torch.ones(batch, 3, dtype=torch.bool))


def made(**options: Any) -> Autoregressive:
    torch.manual_seed(0)
    small = {"num_frames": 3, "height": 2, "width": 2, "vocab": 4, "cond_dim": 8, "dim": 32}
    return Autoregressive(**{**small, **options})


def trained(generator: Autoregressive, batches: Any, steps: int, lr: float = 3e-3) -> Autoregressive:
    optimizer = torch.optim.AdamW(generator.parameters(), lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        target, cond, frames = batches(step)
        generator.loss(target, cond, player="model", rng=rng(step), frames=frames).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return generator.eval()


# A Markov chain over four ids, uniform at the beginning and ever after (its columns sum to 1 too).
CHAIN = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7], [0.1, 0.1, 0.7, 0.1], [0.1, 0.7, 0.1, 0.1]])
RATE = -(0.7 * math.log2(0.7) + 0.3 * math.log2(0.1))  # bits a token, after the first


def walks(count: int, seed: int, cells: int = 12) -> Tensor:
    ids = torch.randint(4, (count, 1), generator=(dice := rng(seed)))
    for _ in range(cells - 1):
        ids = torch.cat([ids, torch.multinomial(CHAIN[ids[:, -1]], 1, generator=dice)], 1)
    return ids.reshape(count, 1, 3, 2, 2)


@pytest.fixture(scope="module")
def chain() -> Autoregressive:
    cond = Features(torch.zeros(64, 1, 8), torch.zeros(64, 1, dtype=torch.bool))
    return trained(made(depth=1), lambda step: (walks(64, step), cond, None), 150, 1e-2)


def test_a_markov_source_is_learned_to_its_entropy(chain: Autoregressive) -> None:
    """No model can need fewer bits than (log2 4 + 11 h) / 12 a token; this one comes within 1 %."""
    cond = Features(torch.zeros(2000, 1, 8), torch.zeros(2000, 1, dtype=torch.bool))
    found = chain.loss(walks(2000, 10**6), cond, player="model", rng=rng())
    least = (2 + 11 * RATE) / 12
    assert 0.99 * least < float(found.parts["bits_per_token"]) < least * 1.01
    torch.testing.assert_close(found.total.detach(), found.parts["bits_per_token"] * math.log(2))


def test_draws_walk_as_the_source_does(chain: Autoregressive) -> None:
    cond = Features(torch.zeros(1500, 1, 8), torch.zeros(1500, 1, dtype=torch.bool))
    ids = chain.sample((1500, 1, 3, 2, 2), cond, rng=rng(), steps=1, guidance=1.0).flatten(1)
    steps = ids[:, :-1] * 4 + ids[:, 1:]
    shares = steps.flatten().bincount(minlength=16).reshape(4, 4).float()
    torch.testing.assert_close(shares / shares.sum(1, keepdim=True), CHAIN, atol=0.05, rtol=0)
    torch.testing.assert_close(ids[:, 0].bincount(minlength=4) / 1500, torch.full((4,), 0.25), atol=0.05, rtol=0)


def test_temperature_zero_takes_the_likeliest_and_a_hot_one_draws_evenly(chain: Autoregressive) -> None:
    cond = Features(torch.zeros(500, 1, 8), torch.zeros(500, 1, dtype=torch.bool))
    start = Known(walks(500, 5), torch.zeros(500, 1, 3, 2, 2, dtype=torch.bool))
    start.mask[:, :, 0, 0, 0] = True
    size = (500, 1, 3, 2, 2)
    cold = chain.sample(size, cond, rng=rng(), steps=1, guidance=1.0, known=start, temperature=0.0).flatten(1)
    for now in range(11):
        assert torch.equal(cold[:, now + 1], CHAIN.argmax(1)[cold[:, now]])
    hot = chain.sample(size, cond, rng=rng(), steps=1, guidance=1.0, temperature=100.0)
    torch.testing.assert_close(
        hot.flatten().bincount(minlength=4) / hot.numel(), torch.full((4,), 0.25), atol=0.03, rtol=0
    )


def test_a_model_that_knows_nothing_needs_the_logarithm_of_its_vocabulary() -> None:
    generator = made(vocab=32)
    with torch.no_grad():
        generator.network.out.weight.zero_()
    losses = generator.loss(torch.randint(32, (3, 1, 3, 2, 2)), text(3), player="model", rng=rng())
    assert float(losses.total.detach()) == pytest.approx(math.log(32))
    assert float(losses.parts["bits_per_token"]) == pytest.approx(5.0)


def test_absent_tokens_are_not_learned() -> None:
    """The loss is the mean over what is there, whatever negative number stands for what is not."""
    generator = made(cond_dropout=0.0)
    target = torch.randint(4, (2, 1, 3, 2, 2), generator=rng(3))
    absent = torch.zeros_like(target, dtype=torch.bool)
    absent[0, :, 1:] = True
    absent[1, 0, 0, 0, 0] = True
    cond = text(2)
    one, other = (
        generator.loss(target.masked_fill(absent, missing), cond, player="model", rng=rng()).total
        for missing in (-1, -100)
    )
    assert torch.equal(one, other)
    logits = generator.network(target[:, 0].masked_fill(absent[:, 0], -1), cond)
    there = ~absent.flatten(1)
    picked = logits.log_softmax(-1).gather(2, target.flatten(1)[..., None])[..., 0]
    torch.testing.assert_close(one, -picked[there].mean())
    nothing = generator.loss(torch.full_like(target, -1), cond, player="model", rng=rng()).total
    assert float(nothing.detach()) == 0 and nothing.requires_grad


@pytest.mark.parametrize("top_k", [1, 5, 50, 80])
def test_the_likeliest_are_those_of_transformers(top_k: int) -> None:
    logits = 3 * torch.randn(40, 50, generator=rng())
    kept, ids = likeliest(logits, top_k, 1.0)
    whole = torch.full_like(logits, -math.inf).scatter(1, ids, kept)
    torch.testing.assert_close(whole, TopKLogitsWarper(top_k)(None, logits))


@pytest.mark.parametrize("top_k", [0, 7])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.999])
def test_the_nucleus_is_that_of_transformers(top_k: int, top_p: float) -> None:
    logits = 3 * torch.randn(40, 50, generator=rng())
    kept, ids = likeliest(logits, top_k, top_p)
    whole = torch.full_like(logits, -math.inf).scatter(1, ids, kept)
    expected = TopKLogitsWarper(top_k)(None, logits) if top_k else logits
    torch.testing.assert_close(whole, TopPLogitsWarper(top_p)(None, expected))
    assert whole.isfinite().any(1).all()


def test_draws_are_as_frequent_as_they_are_likely() -> None:
    logits = torch.tensor([1.0, -1.0, -math.inf, 2.0, 0.0])
    count = 100_000
    dice = (torch.arange(count) + 0.5) / count  # evenly over [0, 1): no chance in it
    for temperature in (1.0, 0.5):
        ids = draw(logits.expand(count, -1), dice, temperature, 0, 1.0)
        expected = (logits / temperature).softmax(-1)
        torch.testing.assert_close(ids.bincount(minlength=5) / count, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.8)])
def test_the_ends_of_the_dice_never_fall_on_what_is_impossible(top_k: int, top_p: float) -> None:
    logits = torch.randn(2000, 300, generator=rng()).mul(4)
    logits[:, ::2] = logits[:, -3:] = -math.inf
    for end in (0.0, 1 - 2.0**-24):  # the least and the most that torch.rand gives
        ids = draw(logits, torch.full((2000,), end), 1.0, top_k, top_p)
        assert logits.gather(1, ids[:, None]).isfinite().all()


PATTERNS = torch.randint(4, (2, 1, 3, 2, 2), generator=rng(1))


@pytest.fixture(scope="module")
def two_texts() -> Autoregressive:
    """Learned two texts, each with a clip of its own."""
    cond = text(2)
    cond = Features(cond.x.repeat(8, 1, 1), cond.mask.repeat(8, 1))
    return trained(made(cond_dropout=0.2), lambda step: (PATTERNS.repeat(8, 1, 1, 1, 1), cond, None), 120)


def test_learning_the_text_decides_the_clip(two_texts: Autoregressive) -> None:
    made = two_texts.sample((2, 1, 3, 2, 2), text(2), rng=rng(), steps=1, guidance=1.0)
    assert torch.equal(made, PATTERNS)


def test_guidance_leads_to_the_text_and_away_from_another(two_texts: Autoregressive) -> None:
    cond = text(2)
    other = Features(cond.x.flip(0), cond.mask)
    size = (2, 1, 3, 2, 2)
    for guidance, expected in ((1.0, PATTERNS), (3.0, PATTERNS), (-1.0, PATTERNS.flip(0))):
        found = two_texts.sample(size, cond, rng=rng(), steps=1, guidance=guidance, negative=other, temperature=0.0)
        assert torch.equal(found, expected)


def test_guidance_mixes_logits() -> None:
    """With logits (1, 0) for the text and (0, 0.9) without, the first id leads from w = 0.9 / 1.9 on."""

    class Two(torch.nn.Module):
        def begin(self, cond: Features, grid: tuple[int, int, int]) -> Tensor:
            return cond.mask.any(1)

        def following(self, ids_BL: Tensor, memory: Tensor) -> Tensor:
            return torch.where(memory[:, None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.9]))

    generator = made(vocab=2)
    generator.network = Two()  # type: ignore[assignment]
    for guidance, expected in ((0.0, 1), (0.45, 1), (0.5, 0), (1.0, 0), (5.0, 0)):
        ids = generator.sample((1, 1, 1, 1, 1), text(1), rng=rng(), steps=1, guidance=guidance, temperature=0.0)
        assert int(ids) == expected


def test_what_is_known_leads_what_comes_after(two_texts: Autoregressive) -> None:
    """Without a text, the first frame tells which clip it is; cells that are known later stay as they are."""
    nothing = Features(text(2).x, torch.zeros(2, 3, dtype=torch.bool))
    frames = torch.tensor([[True, False, False]]).expand(2, 3)
    size = (2, 1, 3, 2, 2)
    known = Known(PATTERNS, frames)
    found = two_texts.sample(size, nothing, rng=rng(), steps=1, guidance=1.0, known=known, temperature=0.0)
    assert torch.equal(found, PATTERNS)
    cells = torch.rand((2, 1, 3, 2, 2), generator=rng(4)) < 0.5
    odd = torch.randint(4, size, generator=rng(5))
    found = two_texts.sample(size, text(2), rng=rng(), steps=1, guidance=3.0, known=Known(odd, cells))
    assert torch.equal(found[cells], odd[cells])


def test_known_frames_are_taken_in_at_once(two_texts: Autoregressive) -> None:
    lengths: list[int] = []
    following = two_texts.network.following

    def counted(ids_BL: Tensor, memory: Any) -> Tensor:
        lengths.append(ids_BL.shape[1])
        return following(ids_BL, memory)

    two_texts.network.following = counted  # type: ignore[method-assign]
    known = Known(PATTERNS, torch.tensor([[True, True, False], [True, False, False]]))
    two_texts.sample((2, 1, 3, 2, 2), text(2), rng=rng(), steps=1, guidance=1.0, known=known)
    two_texts.network.following = following  # type: ignore[method-assign]
    assert lengths == [4, 1, 1, 1, 1, 1, 1, 1]


def test_a_row_does_not_depend_on_its_batch_mates(two_texts: Autoregressive) -> None:
    cond = text(3)
    size = (3, 1, 3, 2, 2)
    together = two_texts.sample(size, cond, rng=[rng(5), rng(6), rng(7)], steps=1, guidance=2.0, temperature=3.0)
    one = Features(cond.x[1:2], cond.mask[1:2])
    alone = two_texts.sample((1, *size[1:]), one, rng=[rng(6)], steps=1, guidance=2.0, temperature=3.0)
    assert torch.equal(together[1:2], alone)


def test_a_block_of_frames_is_learned_in_its_place() -> None:
    """Frame t shows nothing but t: of two frames of a clip, the first too can be told by its place alone."""
    clip = torch.arange(3)[None, None, :, None, None].expand(4, 1, 3, 2, 2)

    def batches(step: int) -> tuple[Tensor, Features, Tensor]:
        frames = torch.randperm(3, generator=rng(step))[:2].sort().values
        return clip[:, :, frames], text(4), frames

    generator = trained(made(), batches, 80, 6e-3)
    for frames in (torch.tensor([0, 2]), torch.tensor([1, 2])):
        loss = generator.loss(clip[:, :, frames], text(4), player="model", rng=rng(), frames=frames).total
        assert float(loss.detach()) < 0.05
    misplaced = generator.loss(clip[:, :, 1:], text(4), player="model", rng=rng()).total
    assert float(misplaced.detach()) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 20, "heads": 3}, "dim: 20, expected an even multiple of heads = 3"),
        ({"heads": 0}, "heads: 0, expected >= 1"),
        ({"depth": 0}, "depth: 0, expected >= 1"),
        ({"dropout": 1.0}, r"dropout: 1.0, expected in \[0, 1\)"),
        ({"cond_dropout": 1.5}, r"cond_dropout: 1.5, expected in \[0, 1\]"),
        ({"temperature": -1.0}, "temperature: -1.0, expected >= 0"),
        ({"top_k": -1}, "top_k: -1, expected >= 0"),
        ({"top_p": 0.0}, r"top_p: 0.0, expected in \(0, 1\]"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoregressive(**options)


def test_what_it_can_not_make_is_refused() -> None:
    generator = made()
    for shape in ((2, 3, 2, 2), (1, 4, 2, 2), (1, 3, 3, 2), (1, 3, 2, 3)):
        with pytest.raises(ValueError, match="expected C = 1 and T, H, W of at most 3, 2, 2"):
            generator.check(shape)
    generator.check((1, 2, 1, 2))
    with pytest.raises(ValueError, match=r"temperature: -2\.0, expected >= 0"):
        generator.sample((1, 1, 3, 2, 2), text(1), rng=rng(), steps=1, guidance=1.0, temperature=-2.0)
    with pytest.raises(DataError, match="start: autoregressive can't do that; it can do guidance, known cells"):
        generator.sample(
            (1, 1, 3, 2, 2), text(1), rng=rng(), steps=1, guidance=1.0, start=Start(PATTERNS[:1].float(), 0.5)
        )
