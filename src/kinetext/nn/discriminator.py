"""A network that tells real frames from made ones, patch by patch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.nn.conv import fold_frames


class PatchDiscriminator(nn.Module):
    """Clips ``(B, C, T, H, W)`` -> a number for every patch of every frame, ``(B*T, 1, h, w)``; more is more real.

    Isola et al. 2017 ("Image-to-Image Translation with Conditional Adversarial Networks"), appendix 6.1.2: three strided 4x4
    convolutions with leaky ReLU of 0.2, widths doubling. Group norm takes the place of batch norm, so that a patch is not
    judged by the other clips of its batch, and the last two convolutions are 3x3, so that small frames pass: a patch is 54
    pixels wide.

    Args:
        channels: of the video.
        width: of the first layer, a multiple of 8.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, after, stride in ((width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 8 * width, 1)):
            size = 4 if stride == 2 else 3
            layers += [
                nn.Conv2d(before, after, size, stride=stride, padding=1), nn.GroupNorm(8, after), nn.LeakyReLU(0.2)
            ]  # fmt: skip
        self.body = nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 3, padding=1))

    def forward(self, video: Tensor) -> Tensor:
        patches: Tensor = self.body(fold_frames(video))
        return patches.float()


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """What a discriminator minimises: it wants real patches above 1 and made ones below -1 (Lim & Ye 2017, "Geometric GAN",
    eq. 10-11; halved as in VQ-GAN).
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())
