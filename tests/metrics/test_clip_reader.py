"""A reader of made clips: which frames it sees, and that only these have gradients."""

from __future__ import annotations

import torch

from kinetext import assemble
from kinetext.checkpoint import Meta
from kinetext.datasets.digits import Digits
from kinetext.metrics.clip_reader import ClipReader
from kinetext.runtime import rng
from kinetext.types import Target


def reader(frames: int = 16) -> tuple[ClipReader, Digits]:
    """The shipped reader, of eight frames, for clips of ``frames`` of the sixteen."""
    data = Digits(clips=3, num_frames=frames, stride=16 // frames)
    meta = Meta("", (), data.targets, data.video_shape, data.fps)
    return assemble.clip_reader("it", "digits-reader", meta, data.targets), data


def test_it_looks_at_one_frame_of_every_segment_and_at_all_in_time() -> None:
    eye, _ = reader()
    seen = set()
    for seed in range(20):
        frames = eye.frames(16, rng=rng(seed)).tolist()
        assert [frame // 2 for frame in frames] == list(range(8))
        seen.update(frames)
    assert seen == set(range(16))
    assert int(eye._index(16, 1 - 2**-24).max()) == 15, "the last place there is"


def test_a_column_that_the_data_lacks_is_said() -> None:
    eye, data = reader()
    more = (*data.targets, Target("verb", ("a", "b")))
    of = (eye.task, more, (1, 8, 64, 64), data.video_shape, data.targets, "auto")
    assert eye.missing == () and ClipReader("it", *of).missing == ("verb",)


def test_its_loss_is_low_on_clips_that_show_what_their_labels_say() -> None:
    eye, data = reader(8)
    recipe = assemble.open_run("digits-reader").recipe
    batch = next(assemble.plain_batches(recipe, assemble.describe(recipe, data), data))
    black = torch.full_like(batch.video, -1.0).requires_grad_()
    wrong = eye.loss(batch, black, rng=rng(0))
    assert float(eye.loss(batch, batch.video, rng=rng(0))) < 0.1 < float(wrong.detach())
    wrong.backward()
    assert black.grad is not None and bool(black.grad.abs().sum() > 0)
    assert all(p.grad is None for p in eye.task.parameters())
