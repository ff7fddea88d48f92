"""Text to video: a text encoder, a codec and a generator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from kinetext.interfaces import Codec, Dataset, Encoder, Generator, Maker, Reward, Shape
from kinetext.types import Batch, DataError, Features, Known, Losses, Prediction, RecipeError, Start

CACHE_BYTES = 2**33  # of targets that a process may keep in memory


class TextToVideo(Maker):
    """Learns to make clips from captions; the codec is frozen.

    Args:
        encoders: ``{"text": encoder}``.
        codec: maps video to the generator's targets; it is not trained here.
        generator: of the same kind as the codec.
        shape: (C, T, H, W) of the clips to make.
        rewarder: what ``reward`` names, while the task is trained; None without.
        early_phrases: the token ids of every one of ``early_words`` (decided by the assembly).
        steps: sampler steps, 1 to 1000; 1 for a generator that has no steps to choose.
        guidance: classifier-free guidance scale, 0 to 100; 1 is none.
        early_words: words, or several that stand together, that say how things move. Motion is decided near noise and looks
            after it: guidance above 1 exaggerates the whole text only until the generator's ``late_from``, and the text
            without these words from then on, so that a thing and a motion that were not learned together come together. A
            negative text stays whole. What is changed at a strength begins later, maybe after that time.
        train_frames: how many frames of every clip a training step looks at, drawn anew each step, in their
            order and places; 0 is all. A step costs less a clip, so more clips are seen in the same time; a
            training on all frames should follow (as Zheng et al. 2023, "Fast Training of Diffusion Models
            with Masked Transformers", leave out patches first and tune on whole images last).
        cache_targets: keep what the codec made of the training clips in memory, in 16 bits a number, in every process,
            so that every epoch but the first does without the codec. Only for data that is the same in every epoch. Of
            clips that were packed with it (``kinetext data pack --run``) it is read from the shards, in every epoch.
        reward: run folder or shipped model of a classifier of video that teaches too; "" is none. It reads clips while
            they are made, and what it loses by the labels of their texts is added to the loss (Xu et al. 2023,
            "ImageReward", algorithm 1; Clark et al. 2024, "DRaFT", section 4). Judge the result with another reader:
            this one is what the model learned to please. The assembly opens it, and a resumed training needs it
            as it was; validation leaves it out, so ``train.best`` and ``train.patience`` do not see what it teaches.
            Beside a distillation it teaches the student.
        reward_weight: of that loss, > 0.
        reward_share: share of every batch whose clips are made and read, in (0, 1); the rest is learned from.
        reward_steps: sampler steps of such clips, >= 2.
        reward_through: which of them the gradients go through: the "last" one, after a random number of others, or
            "all" of them, of whole clips, which costs more. That teaches just what is made by as many steps without
            guidance (of a flow with the sampler "euler", of a diffusion with "ddim" without noise).
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        codec: Codec,
        generator: Generator,
        shape: Shape,
        rewarder: Reward | None = None,
        early_phrases: Sequence[Sequence[int]] = (),
        *,
        steps: int = 25,
        guidance: float = 3.0,
        early_words: tuple[str, ...] = (),
        train_frames: int = 0,
        cache_targets: bool = False,
        reward: str = "",
        reward_weight: float = 1.0,
        reward_share: float = 0.75,
        reward_steps: int = 8,
        reward_through: Literal["last", "all"] = "last",
    ) -> None:
        super().__init__()
        if set(encoders) != {"text"}:
            raise RecipeError(f"encoders: {sorted(encoders)}, expected text alone")
        self.encoders = nn.ModuleDict(encoders)
        if not 1 <= steps <= 1000:
            raise RecipeError(f"task.steps: {steps}, expected 1 to 1000")
        if not 0 <= guidance <= 100:
            raise RecipeError(f"task.guidance: {guidance}, expected 0 to 100")
        if not 0 <= train_frames <= shape[1]:
            raise RecipeError(f"task.train_frames: {train_frames}, expected 0 to {shape[1]}, the frames of a clip")
        if train_frames and generator.whole_clips:
            raise RecipeError(
                f"task.train_frames: {train_frames}, but the generator learns from whole clips; expected 0"
            )
        if train_frames and codec.target_shape(shape)[1] != shape[1]:
            raise RecipeError(f"task.train_frames: {train_frames}, but the codec joins frames; expected 0, all of them")
        self.codec = codec.requires_grad_(False)
        self.generator = generator
        self.players = generator.players
        self.shape, self.target_size = shape, codec.target_shape(shape)
        self.steps, self.guidance, self.train_frames = steps, guidance, train_frames
        if len(early_words) != len(early_phrases):
            raise RecipeError(
                f"task.early_words: {len(early_words)}, expected the tokens of each, not {len(early_phrases)}"
            )
        self.early_phrases = tuple(torch.tensor(phrase) for phrase in early_phrases)
        self.cache_targets = cache_targets
        self._cache: dict[str, Tensor] = {}
        if reward_weight <= 0:
            raise RecipeError(f"task.reward_weight: {reward_weight}, expected > 0")
        if not 0 < reward_share < 1:
            raise RecipeError(f"task.reward_share: {reward_share}, expected between 0 and 1")
        if reward_steps < 2:
            raise RecipeError(f"task.reward_steps: {reward_steps}, expected >= 2")
        self.reward_weight, self.reward_share, self.reward_steps = reward_weight, reward_share, reward_steps
        self.reward_through = reward_through
        if rewarder and codec.target_shape(shape)[1] != shape[1]:
            raise RecipeError(f"task.reward: {reward}, but the codec joins frames; expected none")
        # in a tuple, so that one that is a module is neither trained nor saved with this task
        self._rewarder = (rewarder,)

    def train(self, mode: bool = True) -> TextToVideo:
        """The frozen codec stays in evaluation mode."""
        super().train(mode)
        self.codec.eval()
        return self

    def parameters_of(self, player: str) -> Iterable[tuple[str, nn.Parameter]]:
        """Those of the generator's player; the last player also trains the text encoder."""
        named = [(f"generator.{name}", p) for name, p in self.generator.parameters_of(player)]
        if player == self.players[-1]:
            named += [(f"encoders.{name}", p) for name, p in self.encoders.named_parameters() if p.requires_grad]
        return named

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        self._must_have_targets(batch)
        return self.rewarded(batch, partial(self._learned, player=player, rng=rng), rng=rng)

    def rewarded(self, batch: Batch, learned: Callable[[Batch], Losses], *, rng: torch.Generator) -> Losses:
        """In training with ``reward``, ``reward_share`` of the batch is made and read, and the rest is learned from."""
        (rewarder,) = self._rewarder
        if rewarder is None or not self.training:
            return learned(batch)
        made = min(max(1, round(len(batch) * self.reward_share)), len(batch) - 1)
        if made == 0:
            raise DataError(f"{batch.keys[0]}: alone in its batch, and task.reward needs batches of two or more")
        # first, since autocast of older PyTorch keeps the weights of its first use, and a draft begins without gradients
        losses = learned(batch.rows(made, len(batch)))
        read = self._read(batch.rows(0, made), rewarder, rng=rng)
        return Losses(losses.total + self.reward_weight * read, {**losses.parts, "reward_loss": read.detach()})

    def _learned(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        """The generator's own loss on given clips."""
        frames = self._frames(batch.video.device, rng) if self.train_frames and self.training else None
        target = self._target(batch, frames)
        with torch.set_grad_enabled(torch.is_grad_enabled() and player == self.players[-1]):
            cond = self.condition(batch)
        losses: Losses = self.generator.loss(target, cond, player=player, rng=rng, frames=frames)
        return losses

    def condition(self, batch: Batch) -> Features:
        """What the text encoder says of the texts."""
        cond: Features = self.encoders["text"](batch.tokens, batch.token_mask)
        return cond

    def late(self, batch: Batch) -> Features | None:
        """What it says of the texts without ``early_words``; None where there are none."""
        if not self.early_phrases:
            return None
        kept = batch.token_mask.clone()
        for phrase in self.early_phrases:
            kept &= ~_where(phrase, batch.tokens)
        return self.condition(replace(batch, token_mask=kept))

    def target(self, batch: Batch) -> Tensor:
        """What the codec makes of the clips."""
        self._must_have_targets(batch)
        return self._target(batch, None)

    def _must_have_targets(self, batch: Batch) -> None:
        if "video" not in batch.encoded:
            batch.must_have_video("text to video learns from clips")
        elif not batch.encoded["video"].mask.all():
            lacks = batch.keys[batch.encoded["video"].mask.all(1).tolist().index(False)]
            raise DataError(f"{lacks}: no clip, and text to video learns from clips; leave such rows out of the data")

    def _read(self, batch: Batch, rewarder: Reward, *, rng: torch.Generator) -> Tensor:
        """What the rewarder loses on clips that are on their way, or at its end, a scalar with gradients."""
        cond = self.condition(batch)
        frames = rewarder.frames(self.shape[1], rng=rng)
        shown = (self.shape[0], len(frames), *self.shape[2:])
        # the codec joins no frames, so those that are not looked at need not be decoded, nor made on the way
        whole = self.reward_through == "all"
        made, asked = (self.shape, None) if whole else (shown, frames)
        shape = (len(batch), *self.codec.target_shape(made))
        target = self.generator.draft(shape, cond, rng=rng, steps=self.reward_steps, frames=asked, whole=whole)
        if whole:
            target = target[:, :, frames]
        return rewarder.loss(batch, self.codec.decode(target, (len(batch), *shown)), rng=rng)

    def _frames(self, device: torch.device, rng: torch.Generator) -> Tensor:
        chosen = torch.randperm(self.shape[1], generator=rng, device=device)[: self.train_frames]
        return chosen.sort().values

    @torch.no_grad()
    def _target(self, batch: Batch, frames: Tensor | None) -> Tensor:
        """What the codec makes of the clips, of their ``frames`` alone where these are given."""
        if "video" in batch.encoded:  # made already, when the clips were packed
            target = _unrolled(batch.encoded["video"].x, self.target_size, self.codec)
            return target if frames is None else target[:, :, frames]
        if not (self.cache_targets and self.training):
            return self.codec.encode(batch.video if frames is None else batch.video[:, :, frames])
        for row, key in enumerate(batch.keys):
            if key not in self._cache:
                # by itself: its last bits must not hang on its neighbours, or a resumed run would be another one
                made = self.codec.encode(batch.video[row : row + 1])[0]
                self._cache[key] = made.to(kept_as(self.codec)).cpu()
        kept = [self._cache[key] for key in batch.keys]
        # each by itself: stacking 16-bit floats is refused under a processor's autocast
        whole = [one.float() if one.is_floating_point() else one.long() for one in kept]
        target = torch.stack(whole).to(batch.video.device)
        return target if frames is None else target[:, :, frames]

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        return self.generate(batch, rng=rng, steps=self.steps, guidance=self.guidance)

    def generate(
        self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator], steps: int, guidance: float
    ) -> Prediction:
        """A clip for every text of the batch; its videos are not looked at."""
        return Prediction(video=self.decode(self.sample(batch, rng=rng, steps=steps, guidance=guidance)))

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        rng: torch.Generator | Sequence[torch.Generator],
        steps: int,
        guidance: float,
        known: Known | None = None,
        start: Start | None = None,
        negative: Batch | None = None,
    ) -> Tensor:
        """A target for every text of the batch, ``(B, C', T', H', W')``, to be decoded; its videos are not looked at.

        Args:
            known, start: as ``Generator.sample`` takes them, in the codec's space.
            negative: as many other texts, to keep away from.
        """
        cond = self.condition(batch)
        other = None if negative is None else self.condition(negative)
        shape = (len(batch), *self.target_size)
        made: Tensor = self.generator.sample(
            shape,
            cond,
            rng=rng,
            steps=steps,
            guidance=guidance,
            known=known,
            start=start,
            negative=other,
            late=self.late(batch),
        )
        return made

    @torch.no_grad()
    def decode(self, target: Tensor) -> Tensor:
        """Targets -> clips ``(B, C, T, H, W)`` in [-1, 1]; or some of their frames, where the codec joins none."""
        channels, frames, height, width = self.shape
        if target.shape[2] != self.codec.target_shape(self.shape)[1]:
            frames = target.shape[2]
        video: Tensor = self.codec.decode(target, (len(target), channels, frames, height, width))
        return video


def _where(phrase: Tensor, tokens_BL: Tensor) -> Tensor:
    """Mask ``(B, L)``: the tokens that are part of ``phrase (N,)``, standing together and in its order."""
    count = len(phrase)
    begins = (tokens_BL.unfold(1, count, 1) == phrase.to(tokens_BL.device)).all(2)
    found = torch.zeros_like(tokens_BL, dtype=torch.bool)
    for place in range(count):
        found[:, place : place + begins.shape[1]] |= begins
    return found


def _unrolled(x_BLD: Tensor, size: Shape, codec: Codec) -> Tensor:
    """Targets ``(B, C', T', H', W')`` whose cells come one after another."""
    target = x_BLD.transpose(1, 2).reshape(len(x_BLD), *size)
    return target if codec.kind == "continuous" else target.long()


def kept_as(codec: Codec) -> torch.dtype:
    """How a number of a cached target is kept: in 16 bits, but tokens that need more in 32."""
    if codec.kind == "continuous":
        return torch.float16
    return torch.int16 if codec.vocab <= 2**15 else torch.int32


def check_cache(name: str, data: Dataset, codec: Codec, target: Shape) -> None:
    """Refuses ``cache_targets`` for ``data`` called ``name`` whose clips change, or whose targets are too many."""
    if not data.fixed:
        raise RecipeError(
            f"task.cache_targets: true, but data {name} does not promise the same clips in every epoch "
            "(a folder does without flip, crop_jitter and random sampling); expected false"
        )
    need = kept_as(codec).itemsize * len(data) * prod(target)
    if need > CACHE_BYTES:
        raise RecipeError(
            f"task.cache_targets: true, and {len(data):,} clips would take {need / 2**30:.0f} GiB of memory, "
            f"expected at most {CACHE_BYTES / 2**30:.0f}; take fewer clips, or false"
        )
