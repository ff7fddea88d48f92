"""Reconstruction: trains a codec to give back what it was given."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kinetext.interfaces import Codec, Task
from kinetext.nn.discriminator import PatchDiscriminator, hinge
from kinetext.types import Batch, Losses, Prediction, RecipeError

MOST = 1e4  # of the adaptive weight, as VQ-GAN's own code has it


class Reconstruction(Task):
    r"""Mean squared error of decoded against given video, in units of [-1, 1] squared, and what the codec adds to it.

    With ``adversarial`` > 0 a second player, "discriminator", learns to tell given from decoded frames by their patches, and
    the codec ("model") to deceive it: VQ-GAN (Esser et al. 2021, "Taming Transformers", eq. 5-7) with the hinge loss,

        L_codec = L_rec + w lambda (-mean D(x')),   L_D = (mean max(0, 1 - D(x)) + mean max(0, 1 + D(x'))) / 2,
        lambda = |grad L_rec| / (|grad (-mean D(x'))| + 1e-6)   by the last layer of the decoder, where ``adaptive``, else 1.

    VQ-GAN's perceptual part of L_rec needs downloaded weights, and is left out. A discriminator does best when the codec
    already gives back most: train without one first, and go on by ``[init] codec``. Validation leaves the adversarial part
    of the codec's loss out; keep the best weights by ``train.best = "val/mse"`` then.

    Args:
        codec: one that learns.
        channels: of the video.
        adversarial: w, >= 0; 0 is no discriminator.
        adaptive: lambda balances the gradients of both parts.
        critic_width: channels of the discriminator's first layer, a multiple of 8.
    """

    def __init__(
        self,
        codec: Codec,
        channels: int = 1,
        *,
        adversarial: float = 0.0,
        adaptive: bool = False,
        critic_width: int = 32,
    ) -> None:
        super().__init__()
        if not any(True for _ in codec.parameters()):
            raise RecipeError("codec: this one has nothing to learn; expected a learned codec such as autoencoder")
        if adversarial < 0:
            raise RecipeError(f"task.adversarial: {adversarial}, expected >= 0")
        if critic_width < 8 or critic_width % 8:
            raise RecipeError(f"task.critic_width: {critic_width}, expected a multiple of 8")
        self.codec = codec
        self.adversarial, self.adaptive = adversarial, adaptive
        if adversarial:
            self.players = ("discriminator", "model")
            self.discriminator = PatchDiscriminator(channels, critic_width)

    def parameters_of(self, player: str) -> Iterable[tuple[str, nn.Parameter]]:
        part = "discriminator" if player == "discriminator" else "codec"
        return [(f"{part}.{name}", p) for name, p in self.get_submodule(part).named_parameters() if p.requires_grad]

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        batch.must_have_video("reconstruction learns from clips")
        if player == "discriminator":
            with torch.no_grad():
                decoded, _ = self.codec.reconstruct(batch.video, rng=rng)
            real, made = self.discriminator(batch.video), self.discriminator(decoded)
            total = hinge(real, made)
            return Losses(total, {"real": real.detach().mean(), "made": made.detach().mean()})
        decoded, added = self.codec.reconstruct(batch.video, rng=rng)
        mse = (decoded - batch.video).square().mean()
        losses = Losses(mse + added.total, {"mse": mse.detach(), **added.parts})
        return self._deceiving(losses, mse, decoded) if self.adversarial and self.training else losses

    def _deceiving(self, losses: Losses, mse: Tensor, decoded: Tensor) -> Losses:
        """The adversarial part added."""
        deceive = -self.discriminator(decoded).mean()
        weight = torch.ones_like(deceive)
        if self.adaptive:
            last = self.codec.last_weight()
            sizes = [torch.autograd.grad(one, last, retain_graph=True)[0].norm() for one in (mse, deceive)]
            weight = (sizes[0] / (sizes[1] + 1e-6)).clamp(max=MOST).detach()
        parts = {**losses.parts, "deceive": deceive.detach(), "adaptive": weight}
        return Losses(losses.total + self.adversarial * weight * deceive, parts)

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        target = self.codec.encode(batch.video)
        codes = target if self.codec.kind == "tokens" else None
        return Prediction(video=self.codec.decode(target, tuple(batch.video.shape)), codes=codes)
