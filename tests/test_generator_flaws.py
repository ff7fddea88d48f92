"""Every way to break the contract of a generator is found, and named. The sound ones prove that the flaw is what is found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.contracts import ContractError, check_generator
from kinetext.interfaces import Generator, Shape
from kinetext.types import Features, Known, Losses, Start


class Blend(Generator):
    """Noise plus a number read from the text, with a switch for every flaw."""

    kind = "continuous"
    abilities = frozenset({"known frames"})

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw = flaw
        self.linear = nn.Linear(64, 1)

    def check(self, shape: Shape) -> None:
        if self.flaw == "refuses":
            raise ValueError(f"shape: {shape}")

    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        noise = torch.randn(target.shape, generator=None if self.flaw == "global" else rng)
        x = cond.x.mean(1) if self.flaw == "garbage" else cond.pooled()
        if self.flaw == "shifted" and frames is not None:
            noise = noise + frames[:, None, None]
        total = (self.linear(x)[:, :, None, None, None] + noise - target).square().mean()
        return Losses(total, {"square": total if self.flaw == "attached" else total.detach()})

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
        if self.flaw != "cannot say no":
            self.refuse(guidance, known, start, negative, late)
        if isinstance(rng, Rng) or self.flaw == "rows":
            first = rng if isinstance(rng, Rng) else rng[0]
            noise = torch.randn(shape, generator=first)
        else:
            noise = torch.stack([torch.randn(shape[1:], generator=one) for one in rng])
        x = noise * 0 if self.flaw == "deaf" else noise
        x = x + self.linear(cond.pooled())[:, :, None, None, None] + (steps if self.flaw == "secret steps" else 0)
        if known is not None and self.flaw != "forgets":
            x = torch.where(known.mask[:, None, :, None, None], known.target, x)
        return x

    def draft(
        self, shape: Shape, cond: Features, *, rng: Rng, steps: int, frames: Tensor | None = None, whole: bool = False
    ) -> Tensor:
        noise = torch.randn(shape, generator=None if self.flaw == "unseeded" else rng)
        x = noise + self.linear(cond.pooled())[:, :, None, None, None]
        return x.detach() if self.flaw == ("detached whole" if whole else "detached") else x

    def times(self, steps: int) -> list[float]:
        return [0.0, *([0.5] if self.flaw == "too few" else [i / steps for i in range(1, steps)]), 1.0]

    def noised(self, target: Tensor, noise: Tensor, t: float) -> Tensor:
        return noise + (1 - t if self.flaw == "backwards" else t) * (target - noise)

    def carried(
        self, z: Tensor, cond: Features, times: Sequence[float], *, guidance: float, late: Features | None = None
    ) -> Tensor:
        way = times[-1] - times[0]
        pooled = cond.pooled() + (0 * cond.x.mean(1) if self.flaw == "reads all" else 0)
        made = z + way * self.linear(pooled)[:, :, None, None, None]
        made = made + way**2 if self.flaw == "elsewhere" else made
        return made.detach() if self.flaw == "no gradients" else made


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("global", "two losses of model with the same rng differ"),
        ("garbage", "masked positions of the text changes the loss"),
        ("shifted", "are not what frames = None means"),
        ("attached", "still carry gradients: square"),
        ("rows", "a row with its own rng changes"),
        ("deaf", "samples ignore their rng"),
        ("unseeded", "two drafts with the same rng differ"),
        ("detached", "drafts have no gradients"),
        ("detached whole", "whole drafts have no gradients"),
        ("secret steps", "has no steps, which change its samples"),
        ("forgets", "changes what is known"),
        ("too few", "3 steps stand at"),
        ("backwards", "the way is not from noise to the target"),
        ("no gradients", "what is carried has no gradients"),
        ("elsewhere", "three steps one by one are not a sample of three steps"),
        ("reads all", "changes the way"),
        ("cannot say no", "which is none of its abilities"),
        ("refuses", "refuses the target shape it was built for"),
    ],
)
def test_generator_flaws(flaw: str, message: str) -> None:
    check_generator(Blend())
    with pytest.raises(ContractError, match=message):
        check_generator(Blend(flaw))


class Led(Blend):
    """One that a late text may lead, whose masked words or place in the guidance may be got wrong."""

    abilities = frozenset({"known frames", "guidance", "late text"})

    def _led(self, guidance: float, late: Features | None) -> Tensor | float:
        if late is None or self.flaw == "late ignored" or (guidance <= 1 and self.flaw != "late at 0"):
            return 0.0
        pooled = late.x.mean(1) if self.flaw == "late leaks" else late.pooled()
        return (guidance - 1) * self.linear(pooled)[:, :, None, None, None]

    def sample(
        self, shape: Shape, cond: Features, *, guidance: float, late: Features | None = None, **wish: Any
    ) -> Tensor:
        made = super().sample(shape, cond, guidance=guidance, **wish)
        known = wish.get("known")
        return made if known is not None else made + self._led(guidance, late)

    def carried(
        self, z: Tensor, cond: Features, times: Sequence[float], *, guidance: float, late: Features | None = None
    ) -> Tensor:
        return super().carried(z, cond, times, guidance=guidance) + (times[-1] - times[0]) * self._led(guidance, late)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("late ignored", "has the ability late text, and ignores it"),
        ("late leaks", "masked positions of the late text"),
        ("late at 0", "where guidance 0 ignores the text"),
    ],
)
def test_flaws_of_a_late_text(flaw: str, message: str) -> None:
    check_generator(Led())
    with pytest.raises(ContractError, match=message):
        check_generator(Led(flaw))
