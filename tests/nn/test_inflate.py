"""Inflated kernels: the closed form, and clips that stand still."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kinetext.nn.inflate import inflate_kernel


def test_a_kernel_is_repeated_and_divided() -> None:
    kernel = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    found = inflate_kernel(kernel, 5)
    assert found.shape == (2, 3, 5, 2, 2)
    for frame in found.unbind(2):
        assert torch.equal(frame, kernel / 5)


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (3, 1), (7, 2)])
def test_a_clip_that_stands_still_gives_what_its_picture_gave(frames: int, stride: int) -> None:
    kernel, picture = torch.randn(4, 3, 3, 3), torch.randn(2, 3, 9, 8)
    still = picture.unsqueeze(2).expand(-1, -1, 11, -1, -1)
    flat = F.conv2d(picture, kernel, stride=stride, padding=1)
    found = F.conv3d(still, inflate_kernel(kernel, frames), stride=stride, padding=(0, 1, 1))
    torch.testing.assert_close(found, flat.unsqueeze(2).expand_as(found), atol=1e-5, rtol=1e-5)


def test_what_is_no_kernel_of_a_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 3, 3, 3\) over 2 frames, expected \(O, I, H, W\)"):
        inflate_kernel(torch.zeros(1, 1, 3, 3, 3), 2)
    with pytest.raises(ValueError, match="over 0 frames, expected"):
        inflate_kernel(torch.zeros(1, 1, 3, 3), 0)
