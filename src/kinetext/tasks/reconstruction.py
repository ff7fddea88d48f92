"""Reconstruction: trains a codec to give back what it was given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from kinetext.interfaces import Codec, Task
from kinetext.types import Batch, Losses, Prediction, RecipeError


class Trainable(Protocol):
    """What a learned codec offers beyond ``Codec``."""

    def perturbed(self, target: Tensor, rng: torch.Generator) -> Tensor: ...

    def decode_raw(self, target: Tensor) -> Tensor: ...


class Reconstruction(Task):
    """Mean squared error of decoded against given video, in units of [-1, 1] squared.

    Args:
        codec: a codec with parameters.
    """

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        if not any(True for _ in codec.parameters()):
            raise RecipeError("codec: this one has nothing to learn; expected a learned codec such as autoencoder")
        self.codec = codec

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        batch.must_have_video("reconstruction learns from clips")
        codec = cast("Trainable", self.codec)
        target = self.codec.encode(batch.video)
        decoded = codec.decode_raw(codec.perturbed(target, rng)).float()
        real = batch.video_mask[:, None, :, None, None]
        error = (decoded - batch.video).square() * real
        mse = error.sum() / (real.sum() * error[0, :, 0].numel()).clamp(min=1)
        return Losses(mse, {"mse": mse.detach()})

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        return Prediction(video=self.codec.decode(self.codec.encode(batch.video), tuple(batch.video.shape)))
