"""Encoders and decoders: what they may look at, and that pieces and tiles give what the whole gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kinetext.nn.coder import PIECE, Plan, VideoDecoder, VideoEncoder


def plan(**changes: Any) -> Plan:
    sizes: dict[str, Any] = {
        "channels": 1, "width": 8, "levels": 2, "blocks": 1, "temporal": "frame", "time_levels": 0, "norm": "group", "tile": 0
    }  # fmt: skip
    return Plan(**{**sizes, **changes})


def causal(**changes: Any) -> Plan:
    return plan(**{"temporal": "causal", "time_levels": 2, **changes})


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (4, 1), (5, 2), (16, 4)])
def test_time_is_divided_and_rounded_up(frames: int, expected: int) -> None:
    torch.manual_seed(0)
    encoder, decoder = VideoEncoder(causal(), 3), VideoDecoder(causal(), 3)
    target = encoder.encode(random(2, 1, frames, 8, 8))
    assert target.shape == (2, 3, *causal().grid((1, frames, 8, 8))) == (2, 3, expected, 2, 2)
    assert decoder.decode(target, frames).shape == (2, 1, frames, 8, 8)


@pytest.mark.parametrize("time_levels", [1, 2])
def test_no_frame_depends_on_later_groups(time_levels: int) -> None:
    torch.manual_seed(0)
    sizes = causal(time_levels=time_levels, blocks=2)
    encoder, decoder = VideoEncoder(sizes, 3), VideoDecoder(sizes, 3)
    one = random(1, 1, 16, 8, 8)
    for first in range(sizes.stride, 16, sizes.stride):
        other = one.clone()
        other[:, :, first:] = 9.0
        groups = first // sizes.stride
        targets = encoder.encode(one), encoder.encode(other)
        torch.testing.assert_close(targets[0][:, :, :groups], targets[1][:, :, :groups], rtol=0, atol=0)
        assert not torch.allclose(targets[0][:, :, groups], targets[1][:, :, groups])
        videos = [decoder.decode(target, 16) for target in targets]
        torch.testing.assert_close(videos[0][:, :, :first], videos[1][:, :, :first], rtol=0, atol=0)


def test_an_unfinished_clip_is_completed_with_its_last_frame() -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(causal(), 3)
    image = random(1, 1, 1, 8, 8)
    torch.testing.assert_close(encoder.encode(image), encoder.encode(image.expand(-1, -1, 4, -1, -1)))


def test_a_still_clip_has_still_latents() -> None:
    torch.manual_seed(0)
    target = VideoEncoder(causal(), 3).encode(random(1, 1, 1, 8, 8).expand(-1, -1, 16, -1, -1))
    torch.testing.assert_close(target, target[:, :, :1].expand_as(target))


@pytest.mark.parametrize("sizes", [plan(), causal(), causal(time_levels=1, blocks=2), causal(norm="pixel")])
def test_long_clips_in_pieces_of_time_are_what_the_whole_is(sizes: Plan) -> None:
    torch.manual_seed(0)
    decoder = VideoDecoder(sizes, 3)
    target = random(2, 3, 2 * PIECE // sizes.stride + 3, 2, 2)
    frames = target.shape[2] * sizes.stride - 1
    with torch.no_grad():
        seen: list[int] = []
        decoder.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].shape[-3 if args[0].ndim == 5 else 0])
        )
        pieces = decoder.decode(target, frames)
    most = max(seen) * (sizes.stride if sizes.temporal == "causal" else 1)
    assert len(seen) > 2 and most <= PIECE + sizes.reach() * sizes.stride
    torch.testing.assert_close(pieces, decoder.decode(target, frames), atol=1e-5, rtol=1e-5)


def test_a_decoded_frame_reaches_no_further_back_than_reach_says() -> None:
    torch.manual_seed(0)
    for sizes in (causal(), causal(time_levels=1), causal(blocks=2), causal(blocks=0)):
        decoder = VideoDecoder(sizes, 2)
        target = random(1, 2, 16, 2, 2).requires_grad_()
        last = decoder.decode(target, 16 * sizes.stride)[:, :, 15 * sizes.stride]
        grad = torch.autograd.grad(last.square().sum(), target)[0].abs().sum((0, 1, 3, 4))
        seen = grad.nonzero().flatten().tolist()
        assert seen == list(range(seen[0], 16)) and 15 - seen[0] <= sizes.reach() <= 15 - seen[0] + 1


def reach_in_space(decoder: VideoDecoder) -> int:
    """Cells to the side that a decoded pixel depends on, found by gradients."""
    target = random(1, 2, 1, 1, 41).requires_grad_()
    unit = 2**decoder.plan.levels
    middle = decoder.decode(target, 1)[..., 20 * unit : 21 * unit]
    seen = torch.autograd.grad(middle.square().sum(), target)[0].abs().sum((0, 1, 2, 3)).nonzero().flatten()
    return int(max(20 - seen.min(), seen.max() - 20))


@pytest.mark.parametrize("sizes", [plan(norm="pixel"), causal(norm="pixel")])
def test_tiles_equal_the_whole_wherever_no_edge_is_within_reach(sizes: Plan) -> None:
    torch.manual_seed(0)
    tile, unit = 16, 2**sizes.levels
    tiled = VideoDecoder(Plan(**{**vars(sizes), "tile": tile * unit}), 2)
    reach = reach_in_space(tiled)
    assert 2 < reach <= 6
    target = random(2, 2, 3, 26, 36)
    frames = 3 * sizes.stride
    with torch.no_grad():
        parts = tiled.decode(target, frames)
    whole = tiled.decode(target, frames)
    # tiles are 10 cells apart, the last one ends with the frame; two cells at inner edges are left out
    exact = torch.ones(26, 36, dtype=torch.bool)
    for axis, starts in enumerate([(10,), (10, 20)]):
        for start in starts:
            exact.index_fill_(axis, torch.arange(start + 2, start + reach), False)
        for end in [0 + 16, *(start + 16 for start in starts[:-1])]:
            exact.index_fill_(axis, torch.arange(end - reach, end - 2), False)
    exact = exact.repeat_interleave(unit, 0).repeat_interleave(unit, 1)
    assert float(exact.float().mean()) > 0.1
    torch.testing.assert_close(parts[..., exact], whole[..., exact], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(parts, whole, atol=1e-5)


def test_tiles_equal_the_whole_everywhere_where_what_is_left_out_is_the_reach() -> None:
    torch.manual_seed(0)
    decoder = VideoDecoder(plan(norm="pixel", blocks=0, levels=1, tile=48), 2)  # tiles of 24 cells, 3 left out
    assert reach_in_space(decoder) <= 3
    target = random(1, 2, 2, 40, 70)
    with torch.no_grad():
        parts = decoder.decode(target, 2)
    torch.testing.assert_close(parts, decoder.decode(target, 2), atol=1e-5, rtol=1e-5)


def test_tiles_fade_linearly() -> None:
    """A decoder that says the number of its tile: between tiles it fades from one number to the next."""
    decoder = VideoDecoder(plan(tile=32), 1)
    calls: list[int] = []

    def number(module: torch.nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        calls.append(len(calls))
        return torch.full_like(output, float(calls[-1]))

    decoder.register_forward_hook(number)
    with torch.no_grad():
        row = decoder.decode(torch.zeros(1, 1, 1, 8, 18), 1)[0, 0, 0, 0]
    # tiles of 8 cells, 4 pixels each, begin at 0, 5 and 10: they fade over the cells 6 and 11
    fade = torch.tensor([0.125, 0.375, 0.625, 0.875])
    expected = torch.cat([torch.zeros(24), fade, torch.ones(16), 1 + fade, torch.full((24,), 2.0)])
    torch.testing.assert_close(row, expected)


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match='time_levels: 1, expected 0 with temporal = "frame"'):
        plan(time_levels=1)
    with pytest.raises(ValueError, match='time_levels: 0, expected 1 to levels = 2 with temporal = "causal"'):
        causal(time_levels=0)
    with pytest.raises(ValueError, match="tile: 28, expected 0, or a multiple of 4 that is at least 32"):
        plan(tile=28)
    with pytest.raises(ValueError, match="width: 12, expected a multiple of 8"):
        plan(width=12)
    with pytest.raises(ValueError, match="expected 1 channels and H, W that are multiples of 4"):
        plan().grid((1, 2, 6, 8))
