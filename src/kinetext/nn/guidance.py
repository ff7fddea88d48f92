"""Classifier-free guidance: a network asked with a text and without, and what lies beyond the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator as Rng
from torch import Tensor

from kinetext.types import Features, check_legal

ROUNDING = 1e-6  # of times in single precision


@dataclass(frozen=True)
class When:
    """The times, from 0, noise, to 1, data, at which a sampler is guided.

    Args:
        start, end: it is in this interval of [0, 1], and elsewhere follows the text as learned (Kynkäänniemi et al. 2024).
        late: in [0, 1]; at this time and after it a late text guides, where there is one.
    """

    start: float
    end: float
    late: float

    def __post_init__(self) -> None:
        check_legal("guidance_to", self.end, 0 <= self.end <= 1, "in [0, 1]")
        legal = 0 <= self.start <= self.end
        check_legal("guidance_from", self.start, legal, f"in [0, 1] and not after guidance_to = {self.end}")
        check_legal("late_from", self.late, 0 <= self.late <= 1, "in [0, 1]")


@dataclass(frozen=True)
class Guide:
    """What leads a sampler, when, and how far.

    Args:
        cond: of B rows, the text to follow.
        negative: the text to lead away from; None is no text.
        late: the text that is exaggerated late; None is ``cond`` all along.
        scale: 1 follows the text as learned, more exaggerates it, 0 ignores it.
        when: the times of it all.
    """

    cond: Features
    negative: Features | None
    late: Features | None
    scale: float
    when: When

    def said(self, ask: Callable[[Features], Tensor], t: float) -> Tensor:
        """What the network says at time t in [0, 1], ``(B, ...)``.

        Args:
            ask: a condition of B, 2B or 3B rows -> what the network says of the B rows at hand under each B of these.
        """
        if self.scale == 1.0 or not self.when.start - ROUNDING <= t <= self.when.end + ROUNDING:
            return ask(self.cond)
        late = self.late if self.scale > 1 and t >= self.when.late - ROUNDING else None
        return mixed(ask(sides(self.cond, self.negative, late)), self.scale, len(self.cond.x))


def dropped(cond: Features, share: float, rng: Rng) -> Features:
    """The condition without its text in about ``share`` of the rows, so that a network learns to go without one."""
    without_B = torch.rand(len(cond.x), generator=rng, device=cond.x.device) < share
    return Features(cond.x, cond.mask & ~without_B[:, None])


def sides(cond: Features, negative: Features | None, late: Features | None = None) -> Features:
    """The condition of B rows, and below it, for as many rows, the one to lead away from: ``negative``, or no text; and
    below that ``late``, where it is given.
    """
    asked = [cond, negative or Features(cond.x, torch.zeros_like(cond.mask)), *([late] if late else [])]
    return Features(torch.cat([one.x for one in asked]), torch.cat([one.mask for one in asked]))


def mixed(said: Tensor, scale: float, rows: int) -> Tensor:
    """What a network says of all ``sides``, ``(2B or 3B, ...)`` -> ``(B, ...)``, where B is ``rows``:

        without + scale (with - without),  or  with + (scale - 1) (late - without)

    The first is Ho & Salimans 2022, eq. 6, with scale = 1 + w. The second adds up what two texts say beyond none, the
    whole one with weight 1 and the late one with scale - 1, as Liu et al. 2022, "Compositional Visual Generation with
    Composable Diffusion Models", do for conjunctions.
    """
    with_text, without, *late = said.split(rows)
    if late:
        return with_text + (scale - 1) * (late[0] - without)
    return without + scale * (with_text - without)
