"""Encoders with 3-D convolutions learn in bfloat16 what they learn in float32: torch's own fail where two frames are left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kinetext.encoders.c3d import C3D
from kinetext.encoders.i3d import I3D
from kinetext.encoders.torchvision_video import TorchvisionVideo
from kinetext.interfaces import Encoder

BUILT: dict[str, Callable[[], Encoder]] = {
    "c3d": lambda: C3D(channels=1, num_frames=16, size=32, width=8, hidden=16, dropout=0.0),
    "i3d": lambda: I3D(channels=1, size=32),
    "r3d_18": lambda: TorchvisionVideo(model="r3d_18", channels=1, num_frames=16, size=32),
    "s3d": lambda: TorchvisionVideo(model="s3d", channels=1, num_frames=16, size=32),
    "r2plus1d_18": lambda: TorchvisionVideo(model="r2plus1d_18", channels=1, num_frames=16, size=32),
}


def gradients(encoder: Encoder, x: Tensor, *, half: bool) -> dict[str, Tensor]:
    """Of every 3-D convolution's weights."""
    encoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        y = encoder(x, torch.ones(x.shape[0], x.shape[2], dtype=torch.bool)).x
    y.float().square().sum().backward()
    convs = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.Conv3d)}
    return {name: conv.weight.grad.clone() for name, conv in convs.items() if conv.weight.grad is not None}


@pytest.mark.parametrize("name", BUILT)
def test_gradients_in_bfloat16_are_those_in_float32(name: str) -> None:
    torch.manual_seed(0)
    encoder = BUILT[name]().eval()
    x = torch.rand(2, 1, 16, 32, 32) * 2 - 1
    exact, rough = gradients(encoder, x, half=False), gradients(encoder, x, half=True)
    assert exact.keys() == rough.keys() and len(exact) > 5
    far = {name: float((rough[name] - exact[name]).norm()) for name in exact}
    assert all(far[name] <= 0.5 * float(exact[name].norm()) for name in exact), far  # torch's own: 0.9 to infinity
