"""A learned codec of continuous latents: frame by frame or causal over time, normalised or variational."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.interfaces import Codec, Shape
from kinetext.nn.coder import Plan, VideoDecoder, VideoEncoder
from kinetext.nn.conv import fold_frames, unfold_frames
from kinetext.types import Losses, check_legal


class Autoencoder(Codec):
    r"""Clips -> latents ``(B, latent_dim, T', H / 2^levels, W / 2^levels)`` of about zero mean and unit variance.

    Convolutional autoencoder with residual blocks as in Rombach et al. 2022 ("High-Resolution Image Synthesis with
    Latent Diffusion Models", LDM, appendix G). Its latents are either batch-normalised and, in training, blurred with a little
    noise, so that the decoder forgives a generator's small errors (``kl`` = 0); or those of a VAE (Kingma & Welling
    2014, "Auto-Encoding Variational Bayes", eq. 10; LDM, section 3.1): the encoder gives a mean m and a variance s^2,

        z = m + s e,   e ~ N(0, 1),   loss = |x - decode(z)|^2 + kl (m^2 + s^2 - 1 - log s^2) / 2   (means over all numbers),

    and the latent of a clip is m, brought to zero mean and unit variance by running averages (LDM, appendix G, rescales
    likewise). Of N pixels with noise v and D latents, kl = 2 v D / N makes the loss the negative evidence bound times 2 v / N.

    With ``temporal`` = "causal" convolutions also look back in time (Yu et al. 2023, "MAGVIT-v2", section 3.2), and every
    2^time_levels frames share one of the latent: T' = T / 2^time_levels, rounded up, and a clip is completed with its last
    frame. So an image is a clip whose only group is not full, and no frame depends on those of later groups.

    Args:
        channels: of the video (decided by the assembly).
        latent_dim: channels of the latent, >= 1.
        width: channels of the first level, a multiple of 8; they double at every level.
        levels: halvings of the frame's side, >= 1; H and W are multiples of 2^levels.
        blocks: residual blocks a level, >= 0.
        noise: standard deviation of the training noise, >= 0, in units of the latent's own; of no effect in a VAE, whose
            posterior has its own.
        kl: weight of the Kullback-Leibler divergence, >= 0; 0 is no VAE.
        temporal: "frame" codes every frame by itself, "causal" looks back in time.
        time_levels: halvings of time, at the deepest levels; 0 for "frame", 1 to ``levels`` for "causal".
        norm: in the networks: "group" over whole frames, "pixel" over the channels of every pixel, which makes tiles exact.
        tile: side in pixels of the overlapping tiles that larger frames are decoded in, a multiple of 2^levels and at
            least 8 times it; 0 decodes whole frames. An eighth of a tile beside the next one is left out, and over the next
            eighth one fades into the other. With "group" a tile is normalised by itself and so differs from the whole a little; with
            "pixel" it is the same where the decoder does not see its edge.
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
        kl: float = 0.0,
        temporal: Literal["frame", "causal"] = "frame",
        time_levels: int = 0,
        norm: Literal["group", "pixel"] = "group",
        tile: int = 0,
    ) -> None:
        super().__init__()
        check_legal("latent_dim", latent_dim, latent_dim >= 1, ">= 1")
        check_legal("noise", noise, noise >= 0, ">= 0")
        check_legal("kl", kl, kl >= 0, ">= 0")
        self.plan = Plan(channels, width, levels, blocks, temporal, time_levels, norm, tile)
        self.latent_dim, self.noise, self.kl = latent_dim, noise, kl
        self.encoder = VideoEncoder(self.plan, 2 * latent_dim if kl else latent_dim)
        self.decoder = VideoDecoder(self.plan, latent_dim)
        self.norm = nn.BatchNorm2d(latent_dim, affine=False, momentum=0.01)

    def encode(self, video: Tensor) -> Tensor:
        self.plan.grid(tuple(video.shape[1:]))
        made = self.encoder.encode(video).float()
        return self._standard(made[:, : self.latent_dim])

    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        video = self.decoder.decode(target, shape[2])
        return video.float().clamp(-1, 1)

    def target_shape(self, shape: Shape) -> Shape:
        return (self.latent_dim, *self.plan.grid(shape))

    def reconstruct(self, video: Tensor, *, rng: Rng) -> tuple[Tensor, Losses]:
        """Decoded, in training with noise, and of a VAE the divergence."""
        if self.kl:
            target, added = self._drawn(self.encoder.encode(video).float(), rng)
        else:
            target, added = self.encode(video), Losses(video.new_zeros(()))
        if self.training and not self.kl:
            target = target + self.noise * torch.randn(target.shape, generator=rng, device=target.device)
        return self.decoder.decode(target, video.shape[2]).float(), added

    def last_weight(self) -> nn.Parameter:
        return self.decoder.last_weight()

    def _drawn(self, moments: Tensor, rng: Rng) -> tuple[Tensor, Losses]:
        """A latent of the posterior with these ``moments`` (means and log variances), and the divergence."""
        mean, log_var = moments.chunk(2, dim=1)
        log_var = log_var.clamp(-30, 20)  # as LDM has it, against overflow
        if self.training:
            with torch.no_grad():
                self.norm(fold_frames(mean))  # the running averages follow
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        divergence = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
        return self._standard(mean + (0.5 * log_var).exp() * noise), Losses(
            self.kl * divergence, {"kl": divergence.detach()}
        )

    def _standard(self, latent: Tensor) -> Tensor:
        """Zero mean and unit variance: of the batch in training, by running averages otherwise and in a VAE."""
        frames = fold_frames(latent)
        if self.kl:
            frames = F.batch_norm(frames, self.norm.running_mean, self.norm.running_var, eps=self.norm.eps)
        else:
            frames = self.norm(frames)
        return unfold_frames(frames, len(latent))
