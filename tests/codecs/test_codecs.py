"""Codecs: shapes, statistics, and that the learned one learns."""

from __future__ import annotations

import pytest
import torch

from kinetext.codecs.autoencoder import Autoencoder
from kinetext.codecs.pixel import Pixel
from kinetext.datasets.digits import Digits
from kinetext.tasks.reconstruction import Reconstruction
from kinetext.types import Batch, RecipeError


def batch_of(video: torch.Tensor) -> Batch:
    size, frames = len(video), video.shape[2]
    return Batch(
        keys=tuple(map(str, range(size))), video=video, video_mask=torch.ones(size, frames, dtype=torch.bool),
        text=("",) * size, tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.zeros(size, 1, dtype=torch.bool), labels={}, weight=torch.ones(size),
    )  # fmt: skip


def test_pixel_is_the_identity_and_clamps() -> None:
    video = torch.rand(1, 1, 2, 4, 4) * 2 - 1
    codec = Pixel()
    assert codec.encode(video) is video and codec.target_shape((1, 2, 4, 4)) == (1, 2, 4, 4)
    assert codec.decode(video * 9, (1, 1, 2, 4, 4)).abs().max() == 1


def test_frames_are_coded_one_by_one() -> None:
    torch.manual_seed(0)
    codec = Autoencoder(latent_dim=3, width=8, levels=2).eval()
    video = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    latent = codec.encode(video)
    assert latent.shape == (2, *codec.target_shape((1, 3, 16, 16))) == (2, 3, 3, 4, 4)
    torch.testing.assert_close(codec.encode(video[1:, :, 2:]), latent[1:, :, 2:], atol=1e-5, rtol=1e-5)
    back = codec.decode(latent, tuple(video.shape))
    assert back.shape == video.shape and back.abs().max() <= 1


def test_training_latents_have_zero_mean_and_unit_variance() -> None:
    codec = Autoencoder().train()
    latent = codec.encode(torch.rand(8, 1, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    torch.testing.assert_close(latent.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latent.std((0, 2, 3, 4), correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_impossible_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        Autoencoder().target_shape((1, 4, 20, 20))
    with pytest.raises(RecipeError, match="nothing to learn"):
        Reconstruction(Pixel())


def test_reconstruction_learns_digits_and_its_loss_is_the_mean_squared_error() -> None:
    torch.manual_seed(0)
    data = Digits(clips=16, num_frames=1)
    batch = batch_of(torch.stack([sample.video for sample in data.__getitems__(range(16)) if sample.video is not None]))
    task = Reconstruction(Autoencoder(width=8, levels=2, latent_dim=4))
    optimizer = torch.optim.AdamW(task.parameters(), 5e-3)
    for step in range(60):
        task.loss(batch, player="model", rng=torch.Generator().manual_seed(step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    task.eval()
    made = task.predict(batch, rng=torch.Generator()).video
    assert made is not None
    blank = float((batch.video + 1).square().mean())
    assert float((made - batch.video).square().mean()) < 0.35 * blank
    codec = task.codec
    assert isinstance(codec, Autoencoder)
    codec.noise = 0.0
    loss = task.loss(batch, player="model", rng=torch.Generator()).total.detach()
    raw = codec.decoder.decode(codec.encode(batch.video), 1).detach()
    assert float(loss) == pytest.approx(float((raw - batch.video).square().mean()))
