"""The codec of tokens: what its tokens are, that it learns, and that training sees what decoding gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kinetext.codecs.vq import Vq
from kinetext.contracts import check_codec
from kinetext.datasets.digits import Digits


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def digits(count: int, frames: int) -> torch.Tensor:
    """Clips at half size, which is cheaper."""
    data = Digits(clips=count, num_frames=frames, digits=(1,))
    whole = torch.stack([sample.video for sample in data.__getitems__(range(count)) if sample.video is not None])
    return whole[..., 1::2, 1::2]


OPTIONS: list[dict[str, Any]] = [
    {"quantizer": "fsq", "codes": (8, 5, 5, 5)},
    {"temporal": "causal", "time_levels": 2},
    {"quantizer": "fsq", "codes": (5, 5), "temporal": "causal", "time_levels": 1, "norm": "pixel", "tile": 32},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_kind_keeps_the_contract(options: dict[str, Any]) -> None:
    check_codec(Vq(width=8, levels=2, **options), shape=(1, 4, 16, 16))


def test_tokens_are_one_channel_of_ids() -> None:
    codec = Vq(width=8, levels=3, temporal="causal", time_levels=2, codes=(32,)).eval()
    tokens = codec.encode(digits(2, 16))
    assert tokens.dtype == torch.int64 and tokens.shape == (2, *codec.target_shape((1, 16, 32, 32))) == (2, 1, 4, 4, 4)
    assert codec.vocab == 32 and int(tokens.min()) >= 0 and int(tokens.max()) < 32
    assert codec.target_shape((1, 1, 64, 64)) == (1, 1, 8, 8)
    assert Vq(quantizer="fsq", codes=(8, 5, 5, 5)).vocab == 1000


def test_what_training_sees_is_what_tokens_decode_to() -> None:
    torch.manual_seed(0)
    for options in ({}, {"quantizer": "fsq", "codes": (5, 5, 5)}, {"temporal": "causal", "time_levels": 1}):
        codec = Vq(width=8, levels=2, **options).eval()
        video = digits(2, 4)
        seen, _ = codec.reconstruct(video, rng=rng())
        torch.testing.assert_close(codec.decode(codec.encode(video), tuple(video.shape)), seen.clamp(-1, 1))


@pytest.mark.parametrize("options", [{"codes": (64,)}, {"quantizer": "fsq", "codes": (8, 8)}])
def test_it_learns_digits_from_tokens_and_uses_many(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    video = digits(16, 1)
    codec = Vq(width=8, levels=2, latent_dim=4, **options).train()
    optimizer = torch.optim.AdamW(codec.parameters(), 5e-3)
    for step in range(80):
        made, added = codec.reconstruct(video, rng=rng(step))
        ((made - video).square().mean() + added.total).backward()
        optimizer.step()
        optimizer.zero_grad()
    codec.eval().requires_grad_(False)
    tokens = codec.encode(video)
    made = codec.decode(tokens, tuple(video.shape))
    blank = float((video + 1).square().mean())
    assert float((made - video).square().mean()) < 0.4 * blank
    assert len(tokens.unique()) > 20
    other = codec.decode(tokens.flip(0), tuple(video.shape))  # the tokens decide what is decoded
    torch.testing.assert_close(other, made.flip(0))


def test_a_pass_without_gradients_leaves_the_codebook_alone() -> None:
    codec = Vq(width=8, levels=2).train()
    video = digits(2, 1)
    codec.reconstruct(video, rng=rng())
    before = {name: buffer.clone() for name, buffer in codec.quantizer.named_buffers()}
    with torch.no_grad():
        codec.reconstruct(video, rng=rng(1))
    assert all(torch.equal(before[name], buffer) for name, buffer in codec.quantizer.named_buffers())
    codec.reconstruct(video, rng=rng(1))
    assert not torch.equal(before["counts_K"], codec.quantizer.counts_K)


def test_parts_say_how_codes_are_used() -> None:
    codec = Vq(width=8, levels=2, codes=(16,))
    _, added = codec.reconstruct(digits(2, 1), rng=rng())
    assert 1 <= float(added.parts["perplexity"]) <= 16
    assert float(added.parts["commitment"]) == pytest.approx(float(added.total.detach()))


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match=r'codes: \[8, 5\], expected one number of codes with quantizer = "ema"'):
        Vq(codes=(8, 5))
    with pytest.raises(ValueError, match=r"codes: \[512, 2\], expected a list of levels, each >= 3"):
        Vq(quantizer="fsq", codes=(512, 2))
    with pytest.raises(ValueError, match=r'commitment: 1\.0, expected 0\.25 with quantizer = "fsq"'):
        Vq(quantizer="fsq", codes=(5, 5), commitment=1.0)
    with pytest.raises(ValueError, match="quantizer: lfq, expected one of ema, fsq"):
        Vq(quantizer="lfq")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="latent_dim: 0, expected >= 1"):
        Vq(latent_dim=0)
    with pytest.raises(ValueError, match="multiples of 8"):
        Vq().target_shape((1, 4, 20, 20))
