"""Convolutions over time against PyTorch's own, and what they may not see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kinetext.nn.conv import CausalConv, Doubled, fold_frames, unfold_frames
from kinetext.nn.norm import PixelNorm


def clips(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("taps", "stride", "kernel", "space", "padding"), [(3, 1, 3, 1, 1), (4, 2, 4, 2, 1), (1, 1, 4, 2, 1)]
)
def test_a_causal_convolution_is_a_3d_one_padded_in_the_past(
    taps: int, stride: int, kernel: int, space: int, padding: int
) -> None:
    torch.manual_seed(0)
    conv = CausalConv(2, 5, kernel, taps=taps, stride=stride, space_stride=space, padding=padding)
    x = clips(3, 2, 6, 8, 8)
    weight = conv.conv.weight.unflatten(1, (taps, 2)).transpose(1, 2)  # (5, taps * 2, k, k) -> (5, 2, taps, k, k)
    past = torch.cat([x[:, :, :1]] * (taps - stride) + [x], dim=2)
    expected = F.conv3d(past, weight, conv.conv.bias, stride=(stride, space, space), padding=(0, padding, padding))
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


def test_doubling_time_keeps_the_order_of_frames() -> None:
    doubled = Doubled(3, 2, time=True)
    x = clips(2, 3, 4, 5, 5)
    made = doubled(x)
    assert made.shape == (2, 2, 8, 10, 10)
    for frame in range(4):  # frame by frame: two of each, the first channels being the first of them
        pair = doubled.body(x[:, :, frame : frame + 1])[:, :, 0]
        torch.testing.assert_close(made[:, :, 2 * frame], pair[:, :2])
        torch.testing.assert_close(made[:, :, 2 * frame + 1], pair[:, 2:])


def test_pixel_norm_is_the_mean_square_of_every_pixel() -> None:
    x = clips(2, 6, 3, 4)
    norm = PixelNorm(6)
    torch.testing.assert_close(norm(x), x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt())
    torch.testing.assert_close(norm(x)[..., 1:, 1:], norm(x[..., 1:, 1:]))


def test_frames_fold_and_unfold() -> None:
    x = clips(2, 3, 4, 5, 6)
    frames = fold_frames(x)
    assert frames.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(frames[4 + 1], x[1, :, 1])
    torch.testing.assert_close(unfold_frames(frames, 2), x)
