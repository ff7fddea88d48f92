"""The network of diffusion and flow: how a text reaches it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kinetext.nn.denoiser import VideoDenoiser
from kinetext.types import Features


def heard(network: VideoDenoiser, text: Tensor) -> tuple[Tensor, Tensor]:
    """What the norms of the first block are modulated by, and the estimate, for features ``(1, L, D)``."""
    said: list[Tensor] = []
    hook = network.blocks[0].register_forward_pre_hook(lambda block, args: said.append(args[1]))
    z = torch.randn(1, 1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    estimate = network(z, torch.full((1, 2), 0.5), Features(text, torch.ones(text.shape[:2], dtype=torch.bool)))
    hook.remove()
    return said[0], estimate


@pytest.mark.parametrize("pooled_text", [True, False])
def test_the_norms_know_the_text_only_where_it_is_pooled(pooled_text: bool) -> None:
    torch.manual_seed(0)
    network = VideoDenoiser(1, 8, 16, 1, 2, 2, pooled_text)
    network.out.weight.data.normal_()
    one, other = (heard(network, torch.randn(1, 3, 8)) for _ in range(2))
    assert torch.equal(one[0], other[0]) is not pooled_text
    assert not torch.allclose(one[1], other[1])  # attention hears it anyway
