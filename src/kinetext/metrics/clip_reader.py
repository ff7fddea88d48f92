"""A trained classifier that looks at clips which another model makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator as Rng
from torch import Tensor

from kinetext import runtime
from kinetext.interfaces import Reward, Shape, Task
from kinetext.types import Batch, RecipeError, Target, joined


class ClipReader(Reward):
    """A frozen classifier of video, and which frames of a clip it sees; it is never shown the texts.

    Args:
        name: the option that names it, and its run, for messages.
        task: the classifier.
        targets: the columns that it reads.
        shape: (C, T, H, W) of the clips that it reads, None if it reads none.
        made: (C, T, H, W) of the clips it is to look at.
        columns: label columns of the data at hand.
        precision: that it was trained with.

    Raises:
        RecipeError: it reads clips of another shape, or none of the columns.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        targets: Sequence[Target],
        shape: Shape | None,
        made: Shape | None,
        columns: Sequence[Target],
        precision: runtime.Precision,
    ) -> None:
        if not shape or not made or (shape[0], *shape[2:]) != (made[0], *made[2:]) or shape[1] > made[1]:
            raise RecipeError(f"{name} reads clips (C, T, H, W) of {shape}, expected {made} or fewer frames of it")
        self.columns = tuple(target for target in targets if target in columns)
        if not self.columns:
            has, reads = joined([t.name for t in columns]), joined([t.name for t in targets])
            raise RecipeError(f"{name} reads {reads} and the data has {has}, expected one in common")
        self.missing = tuple(target.name for target in targets if target not in columns)
        self.frames_read, self.precision = shape[1], precision
        self.task = task.eval().requires_grad_(False)

    def shown(self, batch: Batch, video: Tensor, mask: Tensor) -> Batch:
        """``batch`` with the frames that the reader sees of ``video (B, C, T, H, W)`` with ``mask (B, T)``.

        A reader of fewer frames sees the middle ones of equal segments, as ``video.read_clip`` takes them.
        """
        index = self._index(video.shape[2], 0.5).to(video.device)
        return replace(batch, video=video[:, :, index], video_mask=mask[:, index]).without("text")

    def frames(self, total: int, *, rng: Rng) -> Tensor:
        """One frame of each of equal segments, at the same random place of all of them."""
        return self._index(total, float(torch.rand((), generator=rng, device=rng.device))).to(rng.device)

    def _index(self, total: int, place: float) -> Tensor:
        # in 64 bits: in 32 the last place of the last segment rounds up to a frame too many
        return ((torch.arange(self.frames_read, dtype=torch.float64) + place) * total / self.frames_read).long()

    def loss(self, batch: Batch, video: Tensor, *, rng: Rng) -> Tensor:
        """The classifier's loss by the labels of ``batch``."""
        whole = torch.ones(len(batch), video.shape[2], dtype=torch.bool, device=video.device)
        shown = replace(batch, video=video, video_mask=whole).without("text")
        with runtime.autocast(self.precision, video.device):
            return self.task.to(video.device).loss(shown, player="model", rng=rng).total
