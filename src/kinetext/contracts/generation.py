"""The contracts of codecs and generators."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kinetext.contracts.promises import (
    ContractError,
    check_learning,
    check_loss,
    check_players,
    check_state,
    close,
    require,
    some_clips,
    some_features,
    still_copy,
    total_of,
)
from kinetext.interfaces import Ability, Codec, Generator, Shape
from kinetext.runtime import rng
from kinetext.types import Features, KinetextError, Known, Losses, Start


def check_codec(codec: Codec, *, shape: Shape = (1, 4, 32, 32)) -> None:
    """Checks a codec.

    Args:
        shape: (C, T, H, W) of clips that it takes.

    Raises:
        ContractError: targets or videos have the wrong shape, type or range, an image is not taken,
            other rows of the batch matter, a parameter gets no gradient, or the state dict lacks something; of one that
            learns, what it is trained by has the wrong shape or is no pure function of the random generator passed in; of
            one with continuous targets, decoding has no gradients to its target; of one with tokens, a token is not
            in [0, vocab).
    """
    require(codec.kind in ("continuous", "tokens"), codec, f"kind is {codec.kind!r}, expected continuous or tokens")
    video, _ = some_clips(shape)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        still = still_copy(codec)
        for clip in (video, video[:, :, :1]):
            target = still.encode(clip)
            expected = (len(clip), *still.target_shape(tuple(clip.shape[1:])))
            got = tuple(target.shape)
            require(got == expected, codec, f"encodes {tuple(clip.shape)} to {got}, target_shape says {expected}")
            right = target.is_floating_point() if codec.kind == "continuous" else target.dtype == torch.int64
            require(right, codec, f"gives {target.dtype} targets, and says kind = {codec.kind!r}")
            if codec.kind == "tokens":
                legal = bool(((target >= 0) & (target < codec.vocab)).all())
                require(legal, codec, f"gives tokens that are not in [0, vocab), and says vocab = {codec.vocab}")
            decoded = still.decode(target, tuple(clip.shape))
            require(decoded.shape == clip.shape, codec, f"decodes to {tuple(decoded.shape)}, not {tuple(clip.shape)}")
            in_range = bool((decoded.abs() <= 1).all())  # NaN is not <= 1
            require(in_range and decoded.dtype == torch.float32, codec, "decodes to no float32 video in [-1, 1]")
        one = still.encode(video[1:2])
        require(close(one[0], still.encode(video)[1]), codec, "gives a clip another target in another batch")
        check_state(codec, lambda module: module.decode(module.encode(video), tuple(video.shape)))
    with torch.random.fork_rng(devices=[]):
        if codec.kind == "continuous":
            target = still.encode(video).detach().requires_grad_()
            total = total_of(still.decode(target, tuple(video.shape)))
            passes = total.requires_grad and bool(torch.autograd.grad(total, target)[0].any())
            require(passes, codec, "decodes without gradients to its target, so no reward could teach through it")
        if next(codec.parameters(), None) is not None:
            _check_reconstruction(codec, still, video)


def _check_reconstruction(codec: Codec, still: Codec, video: Tensor) -> None:
    """What a codec is trained by."""

    def run(seed: int) -> Losses:
        decoded, added = still.reconstruct(video, rng=rng(seed))
        require(decoded.shape == video.shape, codec, f"reconstructs {tuple(decoded.shape)}, not {tuple(video.shape)}")
        return Losses(decoded.square().mean() + added.total, added.parts)

    def total(module: Codec) -> Tensor:
        decoded, added = module.reconstruct(video, rng=rng(0))
        return total_of(decoded) + added.total

    check_loss(codec, ("model",), lambda player, seed: run(seed), random=False)
    check_learning(codec, total)
    last = codec.last_weight()
    require(any(p is last for p in codec.parameters()), codec, "last_weight is none of its parameters")


def check_generator(generator: Generator, *, shape: Shape = (1, 4, 8, 8), cond_dim: int = 64, vocab: int = 16) -> None:
    """Checks a generator.

    Args:
        shape: (C', T', H', W') of its targets; T' >= 2.
        cond_dim: width of its condition.
        vocab: of its targets, where these are tokens.

    Raises:
        ContractError: the shape is refused, losses are no finite scalars, results are not a pure function of
            the random generator passed in, masked text or other rows matter, known frames change, a parameter gets no
            gradient from any player, or the state dict lacks something.
    """
    try:
        generator.check(shape)
    except ValueError as error:
        raise ContractError(
            f"{type(generator).__name__}: refuses the target shape it was built for, {shape} ({error})"
        ) from error
    cond = some_features(cond_dim, 0)
    cond.mask[3] = False
    size = (len(cond.x), *shape)
    if generator.kind == "tokens":
        target = torch.randint(vocab, size, generator=rng(0, "target"))
    else:
        target = torch.randn(size, generator=rng(0, "target"))
    hidden = Features(torch.where(cond.mask[..., None], cond.x, float("nan")), cond.mask)
    with torch.random.fork_rng(devices=[]):
        still = still_copy(generator)
        check_loss(
            generator,
            generator.players,
            lambda p, seed: still.loss(target, cond, player=p, rng=rng(seed)),
            random=True,
        )
        for player in generator.players:
            given = still.loss(target, cond, player=player, rng=rng(0), frames=torch.arange(shape[1])).total
            seen = still.loss(target, cond, player=player, rng=rng(0)).total
            require(close(given, seen), generator, "frames 0 to T' - 1 are not what frames = None means")
            unseen = still.loss(target, hidden, player=player, rng=rng(0)).total
            require(close(seen, unseen), generator, "what stands at masked positions of the text changes the loss")
        check_players(generator)
        check_learning(
            generator,
            lambda module: sum(
                (module.loss(target, cond, player=p, rng=rng(0)).total for p in module.players), torch.zeros(())
            ),
        )
        _check_samples(still, target, cond, hidden)
        if type(generator).draft is not Generator.draft:
            for whole in (False, True):
                _check_drafts(still, size, cond, hidden, whole)
            check_learning(generator, lambda module: total_of(module.draft(size, cond, rng=rng(0), steps=3)))
        if type(generator).carried is not Generator.carried:
            _check_way(still, target, cond, hidden)
        check_state(generator, lambda module: module.sample(size, cond, rng=rng(0), steps=2, guidance=1.0))


def _check_drafts(generator: Generator, size: Shape, cond: Features, hidden: Features, whole: bool) -> None:
    kind = "whole drafts" if whole else "drafts"

    def make(seed: int, cond: Features = cond, frames: Tensor | None = None) -> Tensor:
        return generator.draft(size, cond, rng=rng(seed), steps=3, frames=frames, whole=whole)

    torch.manual_seed(1)
    first = make(0)
    require(tuple(first.shape) == size, generator, f"{kind} {tuple(first.shape)}, asked for {size}")
    require(bool(first.isfinite().all()), generator, f"{kind} are not finite")
    require(first.requires_grad, generator, f"{kind} have no gradients")
    torch.manual_seed(2)
    require(torch.equal(first, make(0)), generator, f"two {kind} with the same rng differ")
    require(not torch.equal(first, make(1)), generator, f"{kind} ignore their rng")
    require(close(first, make(0, hidden)), generator, f"what stands at masked positions of the text changes {kind}")
    same = make(0, frames=torch.arange(size[2]))
    require(close(first, same), generator, f"frames 0 to T' - 1 are not what frames = None means in {kind}")


def _check_way(generator: Generator, target: Tensor, cond: Features, hidden: Features) -> None:
    """Its steps, each by itself, are those that make a sample."""
    times = generator.times(3)
    ascending = times[0] == 0 and times[-1] == 1 and times == sorted(set(times)) and len(times) == 4
    require(ascending, generator, f"3 steps stand at {times}, expected 4 times from 0 to 1")
    noise = torch.randn(target.shape, generator=rng(0))
    ends = [generator.noised(target, noise, t) for t in (0.0, 1.0)]
    # a little of the target may shine through
    from_noise = bool((ends[0] - noise).abs().mean() < 0.01)
    require(from_noise and close(ends[1], target), generator, "the way is not from noise to the target")
    scale = 2.0 if "guidance" in generator.abilities else 1.0
    z = noise
    for now, after in pairwise(times):
        z = generator.carried(z, cond, [now, after], guidance=scale, late=None)
    require(z.requires_grad, generator, "what is carried has no gradients")
    size = tuple(target.shape)
    made = generator.sample(size, cond, rng=rng(0), steps=3, guidance=scale)
    require(close(z, made), generator, "three steps one by one are not a sample of three steps")
    again = generator.carried(noise, hidden, times, guidance=scale)
    require(close(again, made), generator, "what stands at masked positions of the text changes the way")
    if "late text" in generator.abilities:
        late = _exchanged(cond)
        way = generator.carried(noise, cond, times, guidance=scale, late=late)
        made = generator.sample(size, cond, rng=rng(0), steps=3, guidance=scale, late=late)
        require(close(way, made), generator, "with a late text, three steps are not a sample of three steps")


@torch.no_grad()
def _check_samples(generator: Generator, target: Tensor, cond: Features, hidden: Features) -> None:
    size = tuple(target.shape)

    # more than as learned, of one that can
    scale = 2.0 if "guidance" in generator.abilities else 1.0

    def make(seed: int, cond: Features = cond) -> Tensor:
        return generator.sample(size, cond, rng=rng(seed), steps=2, guidance=scale)

    torch.manual_seed(1)
    first = make(0)
    require(tuple(first.shape) == size, generator, f"samples {tuple(first.shape)}, asked for {size}")
    require(first.dtype == target.dtype, generator, f"samples are {first.dtype}, targets {target.dtype}")
    require(bool(first.isfinite().all()), generator, "samples are not finite")
    torch.manual_seed(2)
    require(torch.equal(first, make(0)), generator, "two samples with the same rng differ")
    require(not torch.equal(first, make(1)), generator, "samples ignore their rng")
    require(close(first, make(0, hidden)), generator, "what stands at masked positions of the text changes the sample")
    together = generator.sample(size, cond, rng=[rng(i) for i in range(size[0])], steps=2, guidance=scale)
    one = Features(cond.x[2:3], cond.mask[2:3])
    alone = generator.sample((1, *size[1:]), one, rng=[rng(2)], steps=2, guidance=scale)
    require(close(alone[0], together[2]), generator, "a row with its own rng changes with the other rows")
    few, many = (generator.sample(size, cond, rng=rng(0), steps=steps, guidance=1.0) for steps in (1, 3))
    said = (
        "has steps, which change nothing"
        if "steps" in generator.abilities
        else "has no steps, which change its samples"
    )
    require(torch.equal(few, many) != ("steps" in generator.abilities), generator, said)
    _check_abilities(generator, target, cond)
    if "late text" in generator.abilities:
        _check_late_text(generator, size, cond, hidden)


@torch.no_grad()
def _check_late_text(generator: Generator, size: Shape, cond: Features, hidden: Features) -> None:
    """It is heard where guidance exaggerates, and what is masked in it is not."""

    def make(late: Features | None, guidance: float = 3.0) -> Tensor:
        return generator.sample(size, cond, rng=rng(0), steps=4, guidance=guidance, late=late)

    other = _exchanged(cond)
    led = make(other)
    require(not close(led, make(None)), generator, "has the ability late text, and ignores it")
    same = make(_exchanged(hidden))
    require(close(led, same), generator, "what stands at masked positions of the late text changes the sample")
    require(close(make(other, 0.0), make(None, 0.0)), generator, "hears a late text where guidance 0 ignores the text")


def _exchanged(cond: Features) -> Features:
    """Every row's text becomes another row's."""
    return Features(cond.x.flip(0), cond.mask.flip(0))


def _check_abilities(generator: Generator, target: Tensor, cond: Features) -> None:
    """What it says it can, it does; anything else it refuses in plain words."""
    frames = torch.zeros(len(target), target.shape[2], dtype=torch.bool)
    frames[:, 0] = True
    cells = torch.zeros(len(target), 1, *target.shape[2:], dtype=torch.bool)
    cells[..., : target.shape[4] // 2] = True
    other = _exchanged(cond)
    plain: dict[str, Any] = {"guidance": 1.0, "known": None, "start": None, "negative": None, "late": None}
    asked: dict[Ability, dict[str, Any]] = {
        "known frames": {"known": Known(target, frames)},
        "known cells": {"known": Known(target, cells)},
        "pace": {"known": Known(target, frames, 0.5)},
        "start": {"start": Start(target, 0.5)},
        "guidance": {"guidance": 2.0},
        "negative": {"negative": other, "guidance": 2.0},
        "late text": {"late": other, "guidance": 2.0},
    }
    for ability, wish in asked.items():
        try:
            made = generator.sample(tuple(target.shape), cond, rng=rng(0), steps=2, **{**plain, **wish})
        except KinetextError as error:
            require(
                ability not in generator.abilities, generator, f"refuses {ability}, an ability of its own ({error})"
            )
            continue
        led = ability in ("negative", "late text") and "guidance" not in generator.abilities
        able = led or ability in generator.abilities
        require(able, generator, f"takes {ability}, which is none of its abilities")
        if "known" in wish:
            mask = wish["known"].cells().expand_as(target)
            require(torch.equal(made[mask], target[mask]), generator, f"changes what is known ({ability})")
