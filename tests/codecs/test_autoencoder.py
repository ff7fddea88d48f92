"""Options of the learned continuous codec: the VAE against closed forms, time, tiles; what older weights need."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from kinetext import assemble
from kinetext.codecs.autoencoder import Autoencoder
from kinetext.contracts import check_codec
from kinetext.datasets.digits import Digits


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits(count: int, frames: int) -> torch.Tensor:
    """Clips at half size, which is cheaper."""
    data = Digits(clips=count, num_frames=frames, digits=(1,))
    whole = torch.stack([sample.video for sample in data.__getitems__(range(count)) if sample.video is not None])
    return whole[..., 1::2, 1::2]


def trained(video: torch.Tensor, steps: int, **options: Any) -> Autoencoder:
    torch.manual_seed(0)
    codec = Autoencoder(width=8, levels=2, **options).train()
    codec.norm.momentum = 0.1  # a short training needs averages of few steps
    optimizer = torch.optim.AdamW(codec.parameters(), 5e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        made, added = codec.reconstruct(video, rng=rng(step))
        ((made - video).square().mean() + added.total).backward()
        optimizer.step()
        optimizer.zero_grad()
    return codec.eval().requires_grad_(False)


OPTIONS: list[dict[str, Any]] = [
    {"kl": 1e-3, "noise": 0.0},
    {"temporal": "causal", "time_levels": 1},
    {"kl": 0.1, "temporal": "causal", "time_levels": 2, "norm": "pixel", "tile": 32},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_kind_keeps_the_contract(options: dict[str, Any]) -> None:
    check_codec(Autoencoder(width=8, levels=2, **options), shape=(1, 4, 16, 16))


def test_names_of_weights_are_those_of_the_shipped_model() -> None:
    task = assemble.restore(assemble.open_run("digits"))
    names = set(task.get_submodule("codec").state_dict())
    assert {"encoder.0.weight", "encoder.1.body.2.weight", "decoder.0.bias", "norm.running_var"} <= names
    codec = task.get_submodule("codec")
    assert isinstance(codec, Autoencoder)
    video = Digits(clips=2)[0].video
    assert video is not None
    latent = codec.encode(video[None])
    assert latent.shape == (1, 4, 16, 8, 8)
    assert float(latent.std()) == pytest.approx(1.0, abs=0.35)


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    torch.manual_seed(0)
    codec = Autoencoder(width=8, levels=2, kl=0.3).eval()
    video = digits(2, 2)
    moments = codec.encoder.encode(video)
    mean, log_var = moments.chunk(2, dim=1)
    expected = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).mean()
    _, added = codec.reconstruct(video, rng=rng())
    torch.testing.assert_close(added.parts["kl"], expected.detach())
    torch.testing.assert_close(added.total, 0.3 * expected)


def test_the_best_divergence_of_known_noise_is_reached() -> None:
    """Only the divergence to learn: the posterior becomes the prior, and the divergence 0."""
    torch.manual_seed(0)
    codec = Autoencoder(width=8, levels=2, kl=1.0)
    optimizer = torch.optim.AdamW(codec.encoder.parameters(), 3e-3)
    for step in range(40):
        _, added = codec.reconstruct(digits(2, 1), rng=rng(step))
        added.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(added.parts["kl"]) < 1e-3


def test_a_vae_gives_latents_of_unit_variance_that_decode() -> None:
    video = digits(16, 1)
    codec = trained(video, 100, kl=1e-4, noise=0.0)
    latent = codec.encode(video)
    torch.testing.assert_close(latent.mean((0, 2, 3, 4)), torch.zeros(4), atol=0.15, rtol=0)
    torch.testing.assert_close(latent.var((0, 2, 3, 4)), torch.ones(4), atol=0.25, rtol=0)
    blank = float((video + 1).square().mean())
    made = codec.decode(latent, tuple(video.shape))
    assert float((made - video).square().mean()) < 0.35 * blank


def test_more_divergence_means_more_noise() -> None:
    video = digits(8, 1)
    with_kl = [trained(video, 30, kl=kl, noise=0.0) for kl in (1e-4, 1e-1)]
    small, large = (float(codec.encoder.encode(video).detach().chunk(2, dim=1)[1].mean()) for codec in with_kl)
    assert large > small + 0.2


def test_a_causal_codec_learns_clips_and_images() -> None:
    video = digits(6, 4)
    codec = trained(video, 80, latent_dim=8, temporal="causal", time_levels=1, noise=0.0)
    blank = float((video + 1).square().mean())
    made = codec.decode(codec.encode(video), tuple(video.shape))
    assert float((made - video).square().mean()) < 0.35 * blank
    image = video[:, :, :1]
    made = codec.decode(codec.encode(image), tuple(image.shape))
    assert made.shape == image.shape
    assert float((made - image).square().mean()) < 0.5 * float((image + 1).square().mean())


def test_seams_of_tiles_do_not_show() -> None:
    """Of a trained codec, tiles change less than the codec itself, also where they meet."""
    video = digits(16, 1)
    codec = trained(video, 100, noise=0.0, norm="pixel")
    tiled = Autoencoder(width=8, levels=2, norm="pixel", tile=32).eval()
    tiled.load_state_dict(codec.state_dict())
    latent = codec.encode(video).repeat(1, 1, 1, 1, 2)
    shape = (16, 1, 1, 32, 64)
    with torch.no_grad():
        whole, parts = codec.decode(latent, shape), tiled.decode(latent, shape)
    assert not torch.equal(whole, parts)
    error = (whole - video.repeat(1, 1, 1, 1, 2)).square().mean()
    assert float((parts - whole).square().mean()) < 0.1 * float(error)
    # neighbouring pixels differ no more where tiles of 32 pixels fade into each other, around pixels 26 and 38
    for seam in (26, 38):
        jumps = [clips[..., seam - 4 : seam + 4].diff(dim=-1).abs().mean() for clips in (whole, parts)]
        assert float(jumps[1]) < 1.1 * float(jumps[0])


def test_tiles_are_left_out_where_gradients_are_wanted() -> None:
    torch.manual_seed(0)
    tiled = Autoencoder(width=8, levels=2, tile=32).eval()
    latent = torch.randn(1, 4, 1, 8, 12, generator=rng()).requires_grad_()
    whole = tiled.decode(latent, (1, 1, 1, 32, 48))
    assert torch.autograd.grad(whole.sum(), latent)[0].abs().sum() > 0
    with torch.no_grad():
        assert not torch.allclose(tiled.decode(latent, (1, 1, 1, 32, 48)), whole)


def test_bad_options_are_named() -> None:
    for options, message in (
        ({"kl": -1.0}, "kl: -1.0, expected >= 0"),
        ({"noise": -0.1}, "noise: -0.1, expected >= 0"),
        ({"levels": 0}, "levels: 0, expected >= 1"),
        ({"blocks": -1}, "blocks: -1, expected >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Autoencoder(**options)


def test_noise_in_training_is_in_units_of_the_latent() -> None:
    codec = Autoencoder(width=8, levels=2, noise=0.5)
    video = digits(4, 1)
    seen: list[torch.Tensor] = []
    codec.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    codec.reconstruct(video, rng=rng())
    added = seen[0] - codec.encode(video).transpose(1, 2).flatten(0, 1)
    assert float(added.std().detach()) == pytest.approx(0.5, rel=3 / math.sqrt(2 * added.numel()))
    made, _ = codec.eval().reconstruct(video, rng=rng())
    assert torch.equal(made, codec.decoder.decode(codec.encode(video), 1)), "judged without the noise"
