"""Whole clips from clips with gaps, and networks that see only what is there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kinetext.nn.clips import changes, on_present, whole_clips


def numbered(rows: int, frames: int) -> Tensor:
    """Frame t of row b holds 10 b + t + 1."""
    return (10.0 * torch.arange(rows)[:, None] + torch.arange(frames) + 1).reshape(rows, 1, frames, 1, 1)


def test_masked_frames_show_a_real_one_and_short_clips_go_on() -> None:
    mask = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    video = numbered(3, 3).masked_fill(~mask[:, None, :, None, None], float("nan"))
    expected = [[1.0, 1.0, 3.0, 3.0, 3.0], [12.0, 12.0, 12.0, 12.0, 12.0], [0.0] * 5]
    assert whole_clips(video, mask, 5).squeeze().tolist() == expected


def test_whole_clips_stay_as_they_are() -> None:
    video = numbered(2, 4)
    assert torch.equal(whole_clips(video, torch.ones(2, 4, dtype=torch.bool), 4), video)


def test_too_many_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="5 frames, expected at most 4"):
        whole_clips(numbered(1, 5), torch.ones(1, 5, dtype=torch.bool), 4)


@pytest.mark.parametrize("present", [[True, True, True], [True, False, True], [False, False, False]])
def test_absent_rows_do_not_touch_batch_statistics(present: list[bool]) -> None:
    here = torch.tensor(present)
    x = torch.randn(3, 2, 5)
    norm, alone = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    out = on_present(norm, x.masked_fill(~here[:, None, None], float("nan")), here, (2, 5))
    assert (out[~here] == 0).all()
    if here.any():
        assert torch.allclose(out[here], alone(x[here]))
    assert torch.allclose(norm.running_mean, alone.running_mean)  # type: ignore[arg-type]


def test_changes_are_half_the_difference_to_the_last_real_frame() -> None:
    mask = torch.tensor([[True, True, False, True], [False, True, True, True], [False, False, False, False]])
    video = torch.tensor([[0.0, 1.0, 9.0, -1.0], [9.0, 0.5, 0.5, 1.0], [9.0, 9.0, 9.0, 9.0]])
    video = video.masked_fill(~mask, float("nan")).reshape(3, 1, 4, 1, 1)
    assert changes(video, mask).squeeze().tolist() == [[0, 0.5, 0, -1], [0, 0, 0, 0.25], [0, 0, 0, 0]]
