"""Few-step distillation: a student learns to go a teacher's whole way from noise to data in a few long steps."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Generator as Rng

from kinetext.interfaces import Maker, Method
from kinetext.types import Batch, Losses, check_legal


class Distillation(Method):
    r"""Teaches one step of a sampler to land where many steps of a teacher do, guidance included.

    The way from noise to data is cut into ``steps`` segments, those of the student's own sampler. From where a
    segment begins the teacher goes to its end in ``substeps`` steps, and one step of the student, without guidance, is to
    land there too (multistep consistency, Heek et al. 2024, "Multistep Consistency Models", section 3, with segments
    whose teacher is fixed as in Yan et al. 2024, "PeRFlow", section 3.1). With z at times s < t, a segment's ends,

        loss = mean over segments of |student(z_s) - teacher(z_s)|^2 / (t - s)^2,

    the squared error of the mean velocity on the way. Guidance is baked in (Meng et al. 2023, "On Distillation of Guided
    Diffusion Models"), so that the student costs one evaluation a step (of a flow with the sampler "euler"; "heun" takes two).

    A segment begins at a clip and noise ("clips", as PeRFlow does); or where the way of the teacher, or of the student
    itself, has come to from noise through the segments before ("teacher", "student"). The last two need no clips, and
    only the last one shows the student in training what it will stand before when it samples.

    A task with a ``reward`` has the student's clips read as well: what the teacher gets wrong the student need not.

    Args:
        task: the student; started from the teacher's weights ([init] task = teacher) it learns much faster.
        expert: what ``teacher`` names.
        teacher: run folder or shipped model. The assembly opens it, and a resumed training needs it as it was.
        steps: of the student's sampler, >= 1; the student is good at this number alone, and with ``task.guidance`` 1 or a little
            more, in [1, 2], which takes twice as many evaluations; what it says without a text, which guidance leads away
            from, is not taught: [init] left it there.
        substeps: of the teacher's sampler in each segment, >= 1.
        guidance: of the teacher, >= 0.
        begin: where a segment begins.
        inside: share of segments, in [0, 1], that the student begins at a random one of the teacher's substeps:
            consistency on the way, which changing a given clip at a strength makes use of.
    """

    task: Maker

    def __init__(
        self,
        task: Maker,
        expert: Maker,
        *,
        teacher: str = "",
        steps: int = 4,
        substeps: int = 4,
        guidance: float = 3.0,
        begin: Literal["student", "teacher", "clips"] = "student",
        inside: float = 0.0,
    ) -> None:
        super().__init__(task)
        check_legal("steps", steps, steps >= 1, ">= 1")
        check_legal("substeps", substeps, substeps >= 1, ">= 1")
        check_legal("guidance", guidance, guidance >= 0, ">= 0")
        check_legal("inside", inside, 0 <= inside <= 1, "in [0, 1]")
        self.expert = expert.requires_grad_(False).eval()
        self.guidance, self.begin, self.inside = guidance, begin, inside
        times = task.generator.times(steps * substeps)
        self.ways = [times[i : i + substeps + 1] for i in range(0, steps * substeps, substeps)]
        self._check_same_way(teacher)

    def _check_same_way(self, teacher: str) -> None:
        """Where the two stand at a time must be the same place."""
        same = self.expert.target_size == self.task.target_size
        clip, noise = torch.ones(1, *self.task.target_size), -torch.ones(1, *self.task.target_size)
        for way in self.ways if same else []:
            mine, theirs = (one.generator.noised(clip, noise, way[0]) for one in (self.task, self.expert))
            same = same and torch.allclose(mine, theirs, atol=1e-6)
        if not same:
            raise ValueError(
                f"teacher: {teacher} goes another way from noise to data than this generator; "
                "expected the same kind of generator, targets and noise"
            )

    def train(self, mode: bool = True) -> Distillation:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.expert.eval()
        return self

    def loss(self, batch: Batch, *, player: str, rng: Rng) -> Losses:
        """The mean over segments, and that of each; beside them the loss of the task's reward, where it has one."""
        return self.task.rewarded(batch, partial(self._taught, rng=rng), rng=rng)

    def _taught(self, batch: Batch, *, rng: Rng) -> Losses:
        student, expert = self.task.generator, self.expert.generator
        cond = self.task.condition(batch)
        with torch.no_grad():
            told, late = self.expert.condition(batch), self.expert.late(batch)
        target = self.task.target(batch) if self.begin == "clips" else None
        noise = torch.randn((len(batch), *self.task.target_size), generator=rng, device=rng.device)
        z, losses = noise, []
        for way in self.ways:
            if target is not None:
                z = student.noised(target, noise, way[0])
            ahead = self._ahead(len(way) - 1, rng)
            with torch.no_grad():
                z = expert.carried(z, told, way[: ahead + 1], guidance=self.guidance, late=late)
                right = expert.carried(z, told, way[ahead:], guidance=self.guidance, late=late)
            made = student.carried(z, cond, [way[ahead], way[-1]], guidance=1.0)
            losses.append(((made - right) / (way[-1] - way[ahead])).square().mean())
            z = right if self.begin == "teacher" else made.detach()
        parts = {f"segment_{i}": one.detach() for i, one in enumerate(losses, 1)}
        return Losses(torch.stack(losses).mean(), parts)

    def _ahead(self, substeps: int, rng: Rng) -> int:
        """How many of the teacher's steps the student's begins after."""
        dice, place = torch.rand(2, generator=rng, device=rng.device).tolist()
        return int(place * substeps) if dice < self.inside else 0
