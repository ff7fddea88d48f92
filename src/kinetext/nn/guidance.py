"""Classifier-free guidance: a network asked with a text and without, and what lies beyond the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kinetext.types import Features, check_legal

Ask = Callable[[Features, int], Tensor]  # of a condition of k times as many rows and k, what the network says of them


@dataclass(frozen=True)
class When:
    """Times of a sampler, from 0, noise, to 1, data, at which texts guide.

    Args:
        start, end: they do in this interval of [0, 1] (Kynkäänniemi et al. 2024).
        late: in [0, 1]; from here on a late text does, where there is one.
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
    """What leads a sampler, and how far.

    Args:
        cond: of B rows, the text to follow.
        negative: the text to lead away from; None is no text.
        late: the text that leads late; None is ``cond`` all along.
        scale: 1 follows the text as learned, more exaggerates it.
        when: texts guide.
    """

    cond: Features
    negative: Features | None
    late: Features | None
    scale: float
    when: When

    def said(self, ask: Ask, t: float) -> Tensor:
        """What the network says at time t, ``(B, ...)``."""
        if self.scale == 1.0 or not self.when.start <= t <= self.when.end:
            return ask(self.cond, 1)
        asked = sides(self.cond, self.negative, self.late if t >= self.when.late else None)
        rows = len(self.cond.x)
        return mixed(ask(asked, len(asked.x) // rows), self.scale, rows)


def sides(cond: Features, negative: Features | None, late: Features | None = None) -> Features:
    """The condition of B rows, and below it, for as many rows, the one to lead away from: ``negative``, or no text; and
    below that ``late``, where it is given.
    """
    asked = [cond, negative or Features(cond.x, torch.zeros_like(cond.mask)), *([late] if late else [])]
    return Features(torch.cat([one.x for one in asked]), torch.cat([one.mask for one in asked]))


def mixed(said: Tensor, scale: float, rows: int) -> Tensor:
    """What a network says of all ``sides``, ``(2B or 3B, ...)`` -> ``(B, ...)``, where B is ``rows``:

        without + scale (with - without),  or  with + (scale - 1) (late - without)

    (Ho & Salimans 2022, eq. 6, with scale = 1 + w; the second is what Liu et al. 2022, "Compositional Visual Generation
    with Composable Diffusion Models", eq. 11, makes of two texts with weights 1 and scale - 1).
    """
    with_text, without, *late = said.split(rows)
    return with_text + (scale - 1) * ((late[0] if late else with_text) - without)
