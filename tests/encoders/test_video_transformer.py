"""The video transformer against a forward pass written a second time, and the parts that masked learning takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.contracts import check_encoder
from kinetext.encoders.video_transformer import VideoTransformer
from kinetext.types import Features, RecipeError


def small(**options: Any) -> VideoTransformer:
    torch.manual_seed(0)
    sizes = {"num_frames": 6, "size": 8, "dim": 16, "depth": 2, "heads": 2, "tubelet": 2, "patch": 4}
    return VideoTransformer(**(sizes | options)).eval()


def clips(batch: int = 3, frames: int = 6, size: int = 8) -> Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def all_real(batch: int = 3, frames: int = 6) -> Tensor:
    return torch.ones(batch, frames, dtype=torch.bool)


def moved(encoder: VideoTransformer) -> VideoTransformer:
    """Norms whose weights are not 1."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.rand(parameter.shape, generator=rng))
    return encoder


def forward_again(state: dict[str, Tensor], video: Tensor, real: Tensor, *, heads: int, cut: tuple[int, int]) -> Tensor:
    """Whole tubelets; ``real (B, N)``."""
    tubelet, patch = cut

    def norm(h: Tensor, name: str) -> Tensor:
        return h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * state[f"{name}.weight"]

    dim = state["project.bias"].shape[0]
    kernel = state["project.weight"].reshape(dim, video.shape[1], tubelet, patch, patch)
    h = F.conv3d(video, kernel, state["project.bias"], stride=(tubelet, patch, patch))
    h += (
        state["time"].T[:, : h.shape[2], None, None]
        + state["row"].T[:, None, :, None]
        + state["column"].T[:, None, None]
    )
    h = h.flatten(2).mT
    for block in range(sum(name.endswith("norm1.weight") for name in state)):
        own = f"blocks.{block}"
        x = norm(h, f"{own}.norm1")
        q, k, v = (
            (x @ weight.T).unflatten(-1, (heads, -1)).transpose(1, 2)
            for weight in (state[f"{own}.attention.q.weight"], *state[f"{own}.attention.kv.weight"].chunk(2))
        )
        q, k = norm(q, f"{own}.attention.q_norm"), norm(k, f"{own}.attention.k_norm")
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
        h = h + seen.transpose(1, 2).flatten(2) @ state[f"{own}.attention.out.weight"].T
        gate, value = (norm(h, f"{own}.norm2") @ state[f"{own}.mlp.up.weight"].T).chunk(2, -1)
        h = h + (gate * gate.sigmoid() * value) @ state[f"{own}.mlp.down.weight"].T
    return norm(h, "norm")


def test_contract() -> None:
    check_encoder(VideoTransformer())
    check_encoder(VideoTransformer(positions="sinusoidal", pooling="mean", tubelet=3))


@pytest.mark.parametrize("grad", [False, True])
def test_numbers(grad: bool) -> None:
    encoder = moved(small())
    mask = all_real()
    mask[1, 4:] = False
    real = mask[:, ::2].repeat_interleave(4, dim=1)
    expected = forward_again(encoder.state_dict(), clips(), real, heads=2, cut=(2, 4))
    with torch.set_grad_enabled(grad):
        features = encoder(clips(), mask)
    assert torch.equal(features.mask, real)
    assert features.x.shape == (3, 12, 16)
    torch.testing.assert_close(features.x[real], expected[real], atol=1e-5, rtol=1e-5)
    assert (features.x[~real] == 0).all()
    mean = moved(small(pooling="mean"))(clips(), mask)
    torch.testing.assert_close(mean.x[1, 0], expected[1, :8].mean(0), atol=1e-5, rtol=1e-5)


def test_tubelets_go_by_time_row_and_column() -> None:
    video = clips(1)
    found = small().tubelets(video)
    assert found.shape == (1, 12, 3 * 2 * 4 * 4)
    second_time_first_row_second_column = video[0, :, 2:4, 0:4, 4:8]
    assert torch.equal(found[0, 4 + 1], second_time_first_row_second_column.flatten())


def test_a_tubelet_is_real_if_any_of_its_frames_is() -> None:
    encoder, mask = small(), all_real()
    mask[0, 1] = mask[0, 2:4] = False  # half of the first, all of the second
    mask[1, :5] = False  # all but the last frame of the last
    mask[2] = False
    features = encoder(clips().masked_fill(~mask[:, None, :, None, None], float("nan")), mask)
    assert features.mask[:, ::4].tolist() == [[True, False, True], [False, False, True], [False] * 3]
    shown = clips()
    shown[0, :, 1] = shown[0, :, 0]
    shown[1, :, 4] = shown[1, :, 5]
    expected = forward_again(encoder.state_dict(), shown[:2], features.mask[:2], heads=2, cut=(2, 4))
    torch.testing.assert_close(features.x[:2][features.mask[:2]], expected[features.mask[:2]], atol=1e-5, rtol=1e-5)
    assert (features.x[2] == 0).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_a_shorter_clip_equals_a_padded_one(frames: int) -> None:
    encoder, mask = small(), all_real()
    mask[:, frames:] = False
    short = encoder(clips()[:, :, :frames], mask[:, :frames])
    assert short.x.shape[1] == 4 * -(-frames // 2)
    torch.testing.assert_close(encoder(clips(), mask).pooled(), short.pooled())


def test_part_of_the_tokens_is_encoded_as_if_the_others_were_masked() -> None:
    """What masked learning relies on: tokens know their places, however few are left."""
    encoder = moved(small())
    tokens = encoder.embed(clips(), all_real())
    left = torch.tensor([1, 4, 6, 11])
    part = encoder.encode(Features(tokens.x[:, left], tokens.mask[:, left]))
    hidden = torch.zeros(3, 12, dtype=torch.bool).index_fill(1, left, True)
    masked = encoder.encode(Features(tokens.x, hidden))
    torch.testing.assert_close(part.x, masked.x[:, left], atol=1e-5, rtol=1e-5)
    whole = encoder.encode(tokens)
    torch.testing.assert_close(whole.x, encoder(clips(), all_real()).x)
    assert not torch.allclose(part.x, whole.x[:, left], atol=1e-2)


def test_every_place_has_its_own_position() -> None:
    for kind in ("learned", "sinusoidal"):
        encoder = small(positions=kind, num_frames=15, size=32)
        assert encoder.grid == (8, 8, 8)
        places = encoder.positions(8)
        assert places.shape == (8 * 8 * 8, 16)
        assert (torch.cdist(places, places) + torch.eye(len(places)) > 1e-3).all()
        torch.testing.assert_close(encoder.positions(3), places[: 3 * 64])
        time, row, column = encoder.time, encoder.row, encoder.column
        torch.testing.assert_close(places[2 * 64 + 5 * 8 + 7], time[2] + row[5] + column[7])


def test_positions_are_learned_or_stay() -> None:
    learned, fixed = small(), small(positions="sinusoidal")
    axes = {"time", "row", "column"}
    assert axes <= {name for name, _ in learned.named_parameters()}
    assert not axes & fixed.state_dict().keys()
    fixed.load_state_dict({name: t for name, t in learned.state_dict().items() if name not in axes})
    assert torch.equal(learned(clips(), all_real()).x, fixed(clips(), all_real()).x)


def test_the_order_of_frames_is_known_by_positions_alone() -> None:
    encoder = small(tubelet=1, pooling="mean")
    forward, backward = (encoder(video, all_real()).x for video in (clips(), clips().flip(2)))
    assert (forward - backward).abs().max() > 1e-2
    with torch.no_grad():
        encoder.time.zero_()
    forward, backward = (encoder(video, all_real()).x for video in (clips(), clips().flip(2)))
    torch.testing.assert_close(forward, backward, atol=1e-5, rtol=1e-5)


def test_half_precision_reads_ragged_clips_too() -> None:
    encoder, mask = small(), all_real()
    mask[1, 3:] = False
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(clips(), mask).x.float()
    torch.testing.assert_close(half, encoder(clips(), mask).x, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 10}, "encoders.video.size: 10 pixels, expected a multiple of patch = 4"),
        ({"dim": 18, "heads": 4}, "encoders.video.dim: 18, expected an even multiple of heads = 4, at least 6"),
        ({"dim": 9, "heads": 3}, "encoders.video.dim: 9, expected an even multiple of heads = 3"),
        ({"dim": 4}, "encoders.video.dim: 4, expected an even multiple of heads = 2, at least 6"),
        ({"tubelet": 0}, "encoders.video.tubelet: 0, expected >= 1"),
        ({"patch": 0}, "encoders.video.patch: 0, expected >= 1"),
        ({"depth": 0}, "encoders.video.depth: 0, expected >= 1"),
        ({"dropout": -0.1}, r"encoders.video.dropout: -0\.1, expected 0 <= dropout < 1"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        small(**options)


@pytest.mark.parametrize("shape", [(1, 2, 6, 8, 8), (1, 3, 7, 8, 8), (1, 3, 6, 8, 16)])
def test_a_clip_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this encoder was built for C = 3, T <= 6, H = W = 8"):
        small()(torch.zeros(shape), torch.ones(1, shape[2], dtype=torch.bool))
