"""The frame network: shapes, masks, where things are, how they move."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from kinetext.encoders.frame_cnn import FrameCNN
from kinetext.types import RecipeError

Temporal = Literal["mean", "attention"]
BOTH: tuple[Temporal, ...] = ("mean", "attention")


def small(temporal: Temporal = "attention", **sizes: int) -> FrameCNN:
    torch.manual_seed(0)
    wanted = {"channels": 1, "num_frames": 4, "size": 16, "dim": 16, "width": 8, "stages": 2, "depth": 1, "heads": 2}
    return FrameCNN(**(wanted | sizes), temporal=temporal)  # type: ignore[arg-type]


def clips(batch: int = 3, frames: int = 4, size: int = 16) -> torch.Tensor:
    return torch.rand(batch, 1, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def all_real(batch: int = 3, frames: int = 4) -> torch.Tensor:
    return torch.ones(batch, frames, dtype=torch.bool)


def test_toy_defaults_build_and_read() -> None:
    encoder = FrameCNN()
    features = encoder(torch.zeros(1, 3, 16, 64, 64), torch.ones(1, 16, dtype=torch.bool))
    assert features.x.shape == (1, 16, encoder.dim)


@pytest.mark.parametrize(("temporal", "length"), [("mean", 1), ("attention", 4)])
def test_shapes_and_masks(temporal: Temporal, length: int) -> None:
    mask = all_real()
    mask[1, 2:] = False
    mask[2] = False
    features = small(temporal)(clips(), mask)
    assert features.x.shape == (3, length, 16)
    expected = mask if temporal == "attention" else torch.tensor([[True], [True], [False]])
    assert torch.equal(features.mask, expected)
    assert (features.x[~features.mask] == 0).all()
    assert (features.x[features.mask].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("temporal", BOTH)
@pytest.mark.parametrize("garbage", [5.0, float("nan"), float("inf")])
def test_masked_frames_change_nothing_forward_or_backward(temporal: Temporal, garbage: float) -> None:
    mask = all_real()
    mask[0, 1] = mask[1, 2:] = mask[2] = False
    dirty = clips().masked_fill(~mask[:, None, :, None, None], garbage)
    results = []
    for video in (clips(), dirty):
        encoder = small(temporal)
        features = encoder(video, mask)
        features.x.square().sum().backward()
        results.append([features.x.detach(), *(p.grad for p in encoder.parameters())])
    for clean, other in zip(*results, strict=True):
        assert clean is not None
        assert torch.equal(clean, other)


@pytest.mark.parametrize("temporal", BOTH)
def test_a_shorter_clip_equals_a_padded_one(temporal: Temporal) -> None:
    encoder = small(temporal).eval()
    mask = all_real()
    mask[:, 2:] = False
    short = encoder(clips()[:, :, :2], mask[:, :2]).pooled()
    torch.testing.assert_close(encoder(clips(), mask).pooled(), short)


def test_a_frame_vector_is_independent_of_its_batch() -> None:
    encoder = small().eval()
    alone = encoder(clips()[1:2], all_real(1)).x
    torch.testing.assert_close(encoder(clips(), all_real()).x[1:2], alone)


def test_where_a_thing_stands_is_kept() -> None:
    """A blob in one corner or another, on grounds alike: a globally averaged network could not tell."""
    video = torch.full((2, 1, 1, 16, 16), -1.0)
    video[0, :, :, 4:6, 4:6] = video[1, :, :, 8:10, 8:10] = 1.0
    first, second = small("mean").eval()(video, all_real(2, 1)).x
    assert (first - second).abs().max() > 0.05


def test_attention_knows_the_order_of_frames_and_mean_does_not() -> None:
    for temporal, differs in (("attention", True), ("mean", False)):
        encoder = small(temporal).eval()
        forward = encoder(clips(), all_real()).pooled()
        backward = encoder(clips().flip(2), all_real()).pooled()
        assert torch.allclose(forward, backward, atol=1e-5) is not differs


@pytest.mark.parametrize("temporal", BOTH)
def test_gradients_reach_every_parameter(temporal: Temporal) -> None:
    encoder = small(temporal)
    encoder(clips(), all_real()).x.square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_state_dict_round_trip() -> None:
    one, other = small(), small()
    with torch.no_grad():
        for p in one.parameters():
            p.add_(torch.rand(p.shape, generator=torch.Generator().manual_seed(3)))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(clips(), all_real()).x, other(clips(), all_real()).x)


def test_statistics_of_the_batch_are_those_of_real_frames() -> None:
    """Training moves the first batch norm's running mean by a tenth of the way to the mean over real frames."""
    encoder, mask = small(), all_real()
    mask[1, 2:] = mask[2] = False
    real = clips().transpose(1, 2)[mask]
    seen = encoder.stages[1](encoder.stages[0](real)).mean((0, 2, 3)).detach()
    encoder(clips().masked_fill(~mask[:, None, :, None, None], float("nan")), mask)
    norm = encoder.stages[2].body[0]
    torch.testing.assert_close(norm.running_mean, 0.1 * seen)
    assert all(buffer.isfinite().all() for buffer in encoder.buffers())


def test_a_batch_without_any_clip_leaves_no_trace() -> None:
    encoder = small()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    features = encoder(clips() * float("nan"), ~all_real())
    assert (features.x == 0).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_half_precision_reads_ragged_clips_too() -> None:
    encoder, mask = small().eval(), all_real()
    mask[1, 2:] = False
    with torch.autocast("cpu", torch.bfloat16):
        half = encoder(clips(), mask).x.float()
    torch.testing.assert_close(half, encoder(clips(), mask).x, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"size": 18}, "size: 18 pixels, expected a multiple of 2 \\*\\* stages = 4"),
        ({"stages": 0}, "stages: 0, expected >= 1"),
        ({"dim": 15, "heads": 3}, "dim: 15, expected an even multiple of heads = 3"),
    ],
)
def test_impossible_sizes_are_named(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        small(**sizes)


def test_dropout_range() -> None:
    with pytest.raises(RecipeError, match=r"dropout: 1\.0, expected 0 <= dropout < 1"):
        FrameCNN(dropout=1.0)


@pytest.mark.parametrize("shape", [(1, 2, 4, 16, 16), (1, 1, 5, 16, 16), (1, 1, 4, 16, 32)])
def test_a_clip_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this encoder was built for C = 1, T <= 4, H = W = 16"):
        small()(torch.zeros(shape), torch.ones(1, shape[2], dtype=torch.bool))
