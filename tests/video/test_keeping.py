"""Clips kept in memory, found by every process that was forked after."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import torch

from kinetext import video
from kinetext.datasets.folder import Folder
from kinetext.datasets.loader import Collate, train_loader
from kinetext.video import Kept


def test_clips_come_back_as_they_were() -> None:
    kept = Kept(3, (3, 2, 4, 4), 2**20)
    clip = video.to_float(torch.arange(96, dtype=torch.uint8).reshape(3, 2, 4, 4))
    assert kept.get(1) is None
    kept.put(1, clip)
    again = kept.get(1)
    assert again is not None and torch.equal(again, clip) and kept.get(0) is None and kept.get(2) is None
    again.zero_()  # a copy
    assert torch.equal(kept.get(1), clip)  # type: ignore[arg-type]


def test_no_more_is_kept_than_there_is_room_for() -> None:
    kept = Kept(3, (1, 1, 4, 4), 2 * 16 + 15)
    for number in range(3):
        kept.put(number, torch.ones(1, 1, 4, 4))
    assert [kept.get(number) is None for number in range(3)] == [False, False, True]


def test_what_a_child_keeps_its_parent_finds() -> None:
    kept = Kept(1, (1, 1, 2, 2), 2**20)
    child = os.fork()
    if child == 0:
        kept.put(0, torch.full((1, 1, 2, 2), 1.0))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    found = kept.get(0)
    assert found is not None and found.min() == 1


def test_after_an_epoch_no_worker_needs_the_files(tmp_path: Path) -> None:
    """With two workers about half of the clips of an epoch come to the worker that has not read them before."""
    rows = ["file_name,text,split"]
    for i in range(12):
        video.write(tmp_path / f"{i}.mp4", torch.full((3, 3, 16, 16), i / 12), fps=8.0)
        rows.append(f"{i}.mp4,a,train")
    (tmp_path / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    data = Folder(root=str(tmp_path), num_frames=2, size=16)
    batches = train_loader(data, Collate(None, (), data.video_shape), batch=2, seed=0, workers=2)
    first = {key: clip for b in islice(batches, 6) for key, clip in zip(b.keys, b.video, strict=True)}
    assert len(first) == 12
    for path in tmp_path.glob("*.mp4"):
        path.unlink()
    for batch in islice(batches, 30):
        for key, clip in zip(batch.keys, batch.video, strict=True):
            assert torch.equal(clip, first[key])
