"""The discriminator of patches, and its loss against plain arithmetic."""

from __future__ import annotations

import pytest
import torch

from kinetext.nn.discriminator import PatchDiscriminator, hinge


def test_hinge_is_that_of_plain_arithmetic() -> None:
    real, made = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.5])
    expected = 0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1.5) / 2)
    assert float(hinge(real, made)) == pytest.approx(expected)


def test_a_number_for_every_patch_of_every_frame() -> None:
    critic = PatchDiscriminator(3, 8)
    video = torch.randn(2, 3, 4, 64, 48, generator=torch.Generator().manual_seed(0))
    assert critic(video).shape == (8, 1, 8, 6)
    torch.testing.assert_close(critic(video)[4 + 1], critic(video[1:, :, 1:2])[0], atol=1e-5, rtol=1e-5)


def test_a_patch_is_54_pixels_wide() -> None:
    """Seen by gradients, where the norms, which look at whole frames, are taken out."""
    critic = PatchDiscriminator(1, 8)
    for index, layer in enumerate(critic.body):
        if isinstance(layer, torch.nn.GroupNorm):
            critic.body[index] = torch.nn.Identity()
    video = torch.randn(1, 1, 1, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (grad,) = torch.autograd.grad(critic(video)[0, 0, 8, 8], video)
    seen = grad[0, 0, 0].abs().sum(0).nonzero()
    assert int(seen.max() - seen.min()) + 1 == 54
