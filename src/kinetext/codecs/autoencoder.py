"""A learned codec: every frame through a 2-D convolutional autoencoder."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from kinetext.interfaces import Codec, Shape
from kinetext.nn.conv import ResidualConv, fold_frames, unfold_frames


class Autoencoder(Codec):
    """Frames -> latents ``(B, latent_dim, T, H / 2^levels, W / 2^levels)`` of zero mean and unit variance.

    Convolutional autoencoder with residual blocks as in Rombach et al. 2022 ("High-Resolution Image
    Synthesis with Latent Diffusion Models", appendix G), frame by frame. Instead of a KL term the
    latents are batch-normalised and, in training, blurred with a little noise, so that the decoder
    forgives a generator's small errors.

    Args:
        channels: of the video (decided by the assembly).
        latent_dim: channels of the latent, >= 1.
        width: channels of the first level, a multiple of 8; they double at every level.
        levels: halvings of the frame's side, >= 1; H and W are multiples of 2^levels.
        blocks: residual blocks a level, >= 0.
        noise: standard deviation of the training noise, >= 0, in units of the latent's own.
    """

    kind: Literal["continuous", "tokens"] = "continuous"

    def __init__(
        self,
        *,
        channels: int = 1,
        latent_dim: int = 4,
        width: int = 16,
        levels: int = 3,
        blocks: int = 1,
        noise: float = 0.1,
    ) -> None:
        super().__init__()
        self.channels, self.latent_dim, self.levels, self.noise = channels, latent_dim, levels, noise
        widths = [width * 2**level for level in range(levels)]
        self.encoder = _encoder(channels, widths, blocks, latent_dim)
        self.decoder = _decoder(channels, widths, blocks, latent_dim)
        self.norm = nn.BatchNorm2d(latent_dim, affine=False, momentum=0.01)

    def encode(self, video: Tensor) -> Tensor:
        self._check(tuple(video.shape[1:]))
        return unfold_frames(self.norm(self._encode(fold_frames(video)).float()), len(video))

    def _encode(self, frames: Tensor) -> Tensor:
        if torch.is_grad_enabled() or frames.device.type != "cpu":
            return self.encoder(frames)
        # pieces that fit a processor's cache: faster than all at once (LOG.md, "Encoding in pieces")
        return torch.cat([self.encoder(piece) for piece in frames.split(64)])

    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        return self.decode_raw(target).float().clamp(-1, 1)

    def decode_raw(self, target: Tensor) -> Tensor:
        """Decoded but not clamped: what a reconstruction loss compares."""
        return unfold_frames(self.decoder(fold_frames(target)), len(target))

    def perturbed(self, target: Tensor, rng: torch.Generator) -> Tensor:
        """The target plus training noise."""
        return target + self.noise * torch.randn(target.shape, generator=rng, device=target.device)

    def target_shape(self, shape: Shape) -> Shape:
        _, frames, height, width = shape
        self._check(shape)
        return (self.latent_dim, frames, height >> self.levels, width >> self.levels)

    def _check(self, shape: Shape) -> None:
        channels, _, height, width = shape
        unit = 2**self.levels
        if channels != self.channels or height % unit or width % unit:
            raise ValueError(
                f"video: (C, T, H, W) = {shape}, expected {self.channels} channels and H, W that are multiples of {unit}"
            )


def _encoder(channels: int, widths: list[int], blocks: int, latent_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = channels
    for width in widths:
        layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
        layers.extend(ResidualConv(width) for _ in range(blocks))
        before = width
    return nn.Sequential(*layers, nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, latent_dim, 3, padding=1))


def _decoder(channels: int, widths: list[int], blocks: int, latent_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(latent_dim, widths[-1], 3, padding=1)]
    for width, after in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True):
        layers.extend(ResidualConv(width) for _ in range(blocks))
        # sub-pixel convolution: cheaper than a transposed one and free of checkerboards (Shi et al. 2016)
        layers.extend([nn.Conv2d(width, 4 * after, 3, padding=1), nn.PixelShuffle(2)])
    return nn.Sequential(*layers, nn.GroupNorm(8, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], channels, 3, padding=1))
