"""A generative adversarial network of clips: one network makes them, three others tell made from real."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.interfaces import Ability, Generator, Shape
from kinetext.nn.conv import fold_frames
from kinetext.nn.deconvolution import ClipDeconvolution, Critic, doublings
from kinetext.nn.noise import normal
from kinetext.types import DataError, Features, Known, Losses, Start, check_legal, check_one_of, joined

View = Literal["video", "frame", "motion"]
AdversarialLoss = Literal["relativistic", "hinge", "bce"]


class Gan(Generator):
    r"""Learns to make clips G(z, s) of noise z and text s that discriminators D take for real.

    Of three discriminators one sees the clip, one single frames, one the differences of neighbouring frames (Pan et
    al. 2018, "To Create What You Tell" (TGANs-C), section 3). They are matching-aware (Reed et al. 2016, "Generative
    Adversarial Text to Image Synthesis", algorithm 1): a real clip with the text of another one is to be told too.
    Each minimises, with real clips x and the wrong text s',

        bce           softplus(-D(x, s)) + (1 - m) softplus(D(G(z, s), s)) + m softplus(D(x, s'))
        hinge         relu(1 - D(x, s)) + (1 - m) relu(1 + D(G(z, s), s)) + m relu(1 + D(x, s'))
        relativistic  (1 - m) softplus(D(G(z, s), s) - D(x, s)) + m softplus(D(x, s') - D(x, s))

    and G the sum over all three of softplus(-D(G(z, s), s)) (bce; Goodfellow et al. 2014, section 3), -D(G(z, s), s) (hinge;
    Lim & Ye 2017, eq. 10 and 11; Miyato et al. 2018, eq. 16 and 17) or softplus(D(x, s) - D(G(z, s), s)) (relativistic: a made
    clip only has to pass for more real than the real one beside it; Jolicoeur-Martineau 2019, "The relativistic discriminator",
    section 4.1, the way of Huang et al. 2024, "The GAN is dead; long live the GAN!"; that wrong texts are measured by the right one is
    this project's own). D is kept smooth by

        R1     r1 / 2 |grad_x D(x, s)|^2  (Mescheder et al. 2018, "Which Training Methods for GANs do actually
               Converge?", eq. 9),
        R2     r2 / 2 |grad_x D(x, s)|^2 at x = G(z, s) (the same, eq. 10), the slope that R1 alone leaves free,

    both on every k-th step on average, k times as strong (Karras et al. 2020, "StyleGAN2", section 3.1, lazy regularisation),
    or by spectral norm (Miyato et al. 2018, eq. 8), or by all.

    Args:
        channels, num_frames, height, width: of the target (decided by the assembly).
        cond_dim: width of the text features (decided by the assembly).
        dim: channels of the generator on the full grid, a multiple of 8.
        critic_dim: of the discriminators, >= 1.
        levels: doublings of the side from the base grid to the target, >= 1; height and width are multiples of 2^levels.
        time_levels: doublings in time, >= 0; the number of frames is a multiple of 2^time_levels.
        blocks: residual convolutions a level, >= 0.
        noise: numbers of noise a clip, >= 1.
        motion_noise: numbers of noise for every frame of the base grid, which a GRU makes a path of (Tulyakov et al.
            2018, "MoCoGAN", section 3: content apart from motion); 0 is one noise for the whole clip, as in TGANs-C.
        views: discriminators, one or more of "video", "frame", "motion"; "motion" needs two frames.
        frames_seen: how many frames, and neighbouring pairs, of a clip a training step shows, >= 1; all where there are fewer.
        objective: "relativistic", "hinge" or "bce".
        mismatch: share m, in [0, 1), of real clips with wrong text in what is to be refused. With "bce" and "hinge" what is to
            be refused weighs as much as what is to be accepted: else a discriminator is best off refusing everything, and stays there.
        r1, r2: weights of R1 and R2, >= 0.
        r1_every: k of both, >= 1.
        spectral_norm: of the discriminators.
    """

    kind: Literal["continuous", "tokens"] = "continuous"
    players = ("discriminator", "generator")
    whole_clips = True
    abilities: ClassVar[frozenset[Ability]] = frozenset()

    def __init__(
        self,
        *,
        channels: int = 1,
        num_frames: int = 4,
        height: int = 8,
        width: int = 8,
        cond_dim: int = 64,
        dim: int = 16,
        critic_dim: int = 16,
        levels: int = 2,
        time_levels: int = 1,
        blocks: int = 1,
        noise: int = 32,
        motion_noise: int = 0,
        views: tuple[View, ...] = ("video", "frame", "motion"),
        frames_seen: int = 2,
        objective: AdversarialLoss = "hinge",
        mismatch: float = 0.5,
        r1: float = 1.0,
        r2: float = 0.0,
        r1_every: int = 8,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        check_legal("dim", dim, dim >= 8 and dim % 8 == 0, "a multiple of 8")
        for name, value in (("critic_dim", critic_dim), ("levels", levels), ("noise", noise)):
            check_legal(name, value, value >= 1, ">= 1")
        for name, value in (("time_levels", time_levels), ("blocks", blocks), ("motion_noise", motion_noise)):
            check_legal(name, value, value >= 0, ">= 0")
        check_legal("frames_seen", frames_seen, frames_seen >= 1, ">= 1")
        check_legal("mismatch", mismatch, 0 <= mismatch < 1, "in [0, 1)")
        for name, weight in (("r1", r1), ("r2", r2)):
            check_legal(name, weight, weight >= 0, ">= 0")
        check_legal("r1_every", r1_every, r1_every >= 1, ">= 1")
        check_one_of("objective", objective, "relativistic", "hinge", "bce")
        least = ("video", "frame") if num_frames < 2 else ("video", "frame", "motion")
        legal = len(views) > 0 and set(views) <= set(least) and len(set(views)) == len(views)
        check_legal("views", list(views), legal, f"one or more of {joined(least)}, each once")
        self.shape = (channels, num_frames, height, width)
        self.levels, self.time_levels = levels, time_levels
        self.check(self.shape)
        self.noise, self.motion_noise = noise, motion_noise
        self.frames_seen, self.objective, self.mismatch = frames_seen, objective, mismatch
        self.r1, self.r2, self.r1_every = r1, r2, r1_every
        grid = (num_frames, height, width)
        self.no_text = nn.Parameter(torch.randn(cond_dim) * 0.02)
        self.maker = ClipDeconvolution(
            channels, cond_dim, dim, grid, levels, time_levels, blocks, noise, motion_noise
        )  # fmt: skip
        strides = doublings(levels, time_levels)[::-1]
        flat = [(2, 2)] * levels
        self.critics = nn.ModuleDict(
            {
                view: Critic(channels, cond_dim, critic_dim, grid, strides, blocks, spectral_norm)
                if view == "video"
                else Critic(channels, cond_dim, critic_dim, grid[1:], flat, blocks, spectral_norm)
                for view in views
            }
        )

    def parameters_of(self, player: str) -> Iterable[tuple[str, nn.Parameter]]:
        """The discriminators', or what is left."""
        theirs = {id(p) for p in self.critics.parameters()}
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return [(name, p) for name, p in named if (id(p) in theirs) == (player == "discriminator")]

    def check(self, shape: Shape) -> None:
        _, frames, height, width = shape
        side, time = 2**self.levels, 2**self.time_levels
        if height % side or width % side:
            raise ValueError(
                f"levels: {self.levels}, but a target of {height} x {width} is no multiple of {side}; expected fewer"
            )
        if frames % time:
            raise ValueError(
                f"time_levels: {self.time_levels}, but {frames} frames are no multiple of {time}; expected fewer"
            )
        if tuple(shape) != self.shape:
            raise ValueError(f"target: (C, T, H, W) = {tuple(shape)}, expected {self.shape}, which it was built for")

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """What ``player`` minimises; ``frames`` may only be all of them.

        Raises:
            DataError: some frames are left out: which of them are neighbours would no longer be known.
        """
        whole = range(target.shape[2])
        if frames is not None and frames.tolist() != list(whole):
            raise DataError(
                f"frames: {frames.tolist()}, but gan learns from whole clips; expected task.train_frames = 0"
            )
        self.check(tuple(target.shape[1:]))
        text, has = cond.pooled(), cond.mask.any(1)
        noise, path = self._noise(len(target), rng, target.device)
        shown = self._shown(target.shape[2], rng)
        if player == "generator":
            made = self._make(noise, path, text, has)
            with _still(self.critics):
                # the text of a discriminator is given: else it could be bent until everything matches it
                scores = self._scores(self._views(made, shown), text.detach(), has)
            rivals = self._rivals(target, shown, text, has)
            total = torch.stack([self._wants(scores[view] - rivals[view]).mean() for view in scores]).sum()
            fooled = {f"fooled_{view}": (scores[view].detach() > rivals[view]).float().mean() for view in scores}
            return Losses(total, fooled)
        with torch.no_grad():
            made = self._make(noise, path, text, has).float()
        return self._judged(target, made, text.detach(), has, shown, rng)

    def _judged(
        self, real: Tensor, made: Tensor, text: Tensor, has: Tensor, shown: tuple[Tensor, Tensor], rng: Rng
    ) -> Losses:
        """What the discriminators lose on real and made clips."""
        other, wrong = self._wrong(text, has, rng)
        share = self.mismatch * wrong.any().float()  # where no text is wrong, all that is refused is made
        punished = bool(torch.rand((), generator=rng, device=real.device) * self.r1_every < 1)
        total = torch.zeros((), device=real.device)
        parts: dict[str, Tensor] = {}
        views_real, views_made = self._views(real, shown), self._views(made, shown)
        for view, critic in self._critics():
            h = critic(torch.cat([views_real[view], views_made[view]]))
            h_real, h_made = h.chunk(2)
            times = len(h_real) // len(real)
            right = critic.score(h_real, _each(text, times), _each(has, times))
            fake = critic.score(h_made, _each(text, times), _each(has, times))
            mixed = critic.score(h_real, _each(other, times), torch.ones_like(_each(has, times)))
            mismatched = _each(wrong, times)
            unmatched = self._refuses(mixed, right).masked_fill(~mismatched, 0.0).sum() / mismatched.sum().clamp(min=1)
            refused = (1 - share) * self._refuses(fake, right).mean() + share * unmatched
            total = total + self._accepts(right).mean() + refused
            parts[f"told_{view}"] = (right.detach() > fake.detach()).float().mean()
        if punished and torch.is_grad_enabled():
            for name, weight, views in (("r1", self.r1, views_real), ("r2", self.r2, views_made)):
                if weight:
                    penalty = self.penalty(views, text, has)
                    total = total + self.r1_every * weight / 2 * penalty
                    parts[name] = penalty.detach()
        return Losses(total, parts)

    def penalty(self, views: Mapping[str, Tensor], text: Tensor, has: Tensor) -> Tensor:
        """The sum over discriminators of E |grad_x D(x, s)|^2, a scalar with gradients; in float32, since gradients of
        gradients are small numbers.
        """
        # compiled blocks know no gradients of gradients
        with torch.autocast(text.device.type, enabled=False), torch.compiler.set_stance("force_eager"):
            seen = {view: x.detach().float().requires_grad_() for view, x in views.items()}
            scores = self._scores(seen, text.float(), has)
            slopes = torch.autograd.grad(
                torch.stack([score.sum() for score in scores.values()]).sum(), list(seen.values()), create_graph=True
            )
            return torch.stack([slope.square().flatten(1).sum(1).mean() for slope in slopes]).sum()

    def _shown(self, frames: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """Which frames a step shows, and the first ones of which pairs of neighbours."""
        each, pairs = (torch.randperm(n, generator=rng, device=rng.device) for n in (frames, frames - 1))
        return each[: self.frames_seen], pairs[: self.frames_seen]

    def _views(self, clips: Tensor, shown: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """What every discriminator looks at: the clips, some frames, some differences of neighbours."""
        each, first = shown
        views = {"video": clips, "frame": fold_frames(clips[:, :, each])}
        if "motion" in self.critics:
            views["motion"] = fold_frames(clips[:, :, first + 1] - clips[:, :, first])
        return {view: x for view, x in views.items() if view in self.critics}

    def _scores(self, views: Mapping[str, Tensor], text: Tensor, has: Tensor) -> dict[str, Tensor]:
        scores = {}
        for view, critic in self._critics():
            x = views[view]
            times = len(x) // len(text)
            scores[view] = critic.score(critic(x), _each(text, times), _each(has, times))
        return scores

    def _critics(self) -> Iterator[tuple[str, Critic]]:
        for view, critic in self.critics.items():
            yield view, cast(Critic, critic)

    def _wrong(self, text: Tensor, has: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Every row's wrong text ``(B, D)``, that of another row, and for which rows it is wrong ``(B,)``: both have
        one, and it is not the same.
        """
        shift = int(torch.randint(1, max(len(text), 2), (), generator=rng, device=text.device))
        other = text.roll(shift, 0)
        apart = (other - text).norm(dim=1) > 1e-3 * text.norm(dim=1)
        return other, apart & has & has.roll(shift, 0)

    def _accepts(self, score: Tensor) -> Tensor:
        if self.objective == "relativistic":
            return torch.zeros_like(score)  # only how scores stand to each other counts
        return F.relu(1 - score) if self.objective == "hinge" else F.softplus(-score)

    def _refuses(self, score: Tensor, right: Tensor) -> Tensor:
        if self.objective == "relativistic":
            return F.softplus(score - right)
        return F.relu(1 + score) if self.objective == "hinge" else F.softplus(score)

    def _wants(self, lead: Tensor) -> Tensor:
        return -lead if self.objective == "hinge" else F.softplus(-lead)

    @torch.no_grad()
    def _rivals(self, real: Tensor, shown: tuple[Tensor, Tensor], text: Tensor, has: Tensor) -> dict[str, Tensor]:
        """What the scores of made clips are measured by: those of real ones, or 0."""
        if self.objective == "relativistic":
            return self._scores(self._views(real, shown), text, has)
        return {view: text.new_zeros(()) for view, _ in self._critics()}

    def _noise(self, batch: int, rng: Rng | Sequence[Rng], on: torch.device) -> tuple[Tensor, Tensor | None]:
        content = normal((batch, self.noise), rng, on)
        frames = self.shape[1] >> self.time_levels
        return content, normal((batch, frames, self.motion_noise), rng, on) if self.motion_noise else None

    def _make(self, noise: Tensor, path: Tensor | None, text: Tensor, has: Tensor) -> Tensor:
        said = torch.where(has[:, None], text, self.no_text.to(text.dtype))
        made: Tensor = self.maker(noise, path, said)
        return made

    @torch.no_grad()
    def sample(
        self,
        shape: Shape,
        cond: Features,
        *,
        rng: Rng | Sequence[Rng],
        steps: int,
        guidance: float,
        known: Known | None = None,
        start: Start | None = None,
        negative: Features | None = None,
        late: Features | None = None,
    ) -> Tensor:
        """One pass through the generator, whatever ``steps``."""
        self.refuse(guidance, known, start, negative, late)
        self.check(tuple(shape[1:]))
        noise, path = self._noise(shape[0], rng, cond.x.device)
        return self._make(noise, path, cond.pooled(), cond.mask.any(1)).float()


def _each(x: Tensor, times: int) -> Tensor:
    """Every row ``times`` times, as a clip's frames follow each other."""
    return x.repeat_interleave(times, 0)


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """Inside, gradients go through ``module`` and not to its parameters, which costs less."""
    learned = [p for p in module.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad_(True)
