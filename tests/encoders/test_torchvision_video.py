"""torchvision's video networks: the numbers that its own classifiers read, its statistics, its weights, short clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from kinetext.contracts import check_encoder
from kinetext.encoders.torchvision_video import TorchvisionVideo
from kinetext.types import RecipeError

# model -> (frames, side) of a tiny clip
TINY: dict[str, tuple[int, int]] = {
    "r3d_18": (9, 16),
    "mc3_18": (2, 16),
    "r2plus1d_18": (9, 16),
    "s3d": (13, 64),
    "mvit_v2_s": (5, 40),
    "swin3d_t": (3, 40),
}
WIDTHS = {"r3d_18": 512, "mc3_18": 512, "r2plus1d_18": 512, "s3d": 1024, "mvit_v2_s": 768, "swin3d_t": 768}


def clips(batch: int, frames: int, side: int, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, frames, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def real(batch: int, frames: int) -> Tensor:
    return torch.ones(batch, frames, dtype=torch.bool)


def reference(model: str, frames: int, side: int) -> Any:
    """torchvision's own, told in its own attributes what it can't be told in its builder."""
    torch.manual_seed(0)
    built = models.get_model(model, weights=None)
    if model == "mvit_v2_s":
        built.pos_encoding.temporal_size = (frames + 1) // 2
        built.pos_encoding.spatial_size = ((side + 3) // 4,) * 2
    if model == "s3d":
        built.avgpool = nn.AvgPool3d((2, 2, 2), stride=1)  # all that 13 frames of 64 pixels leave
    norms = [module for module in built.modules() if isinstance(module, nn.BatchNorm3d)]
    if norms:  # statistics that are not 0 and 1: those of one batch
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            built.train()(torch.randn(3, 3, frames, side, side))
    return built.eval()


def standardised(model: str, x: Tensor) -> Tensor:
    preset = models.get_model_weights(model).DEFAULT.transforms()
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1, 1) for v in (preset.mean, preset.std))
    return ((x + 1) / 2 - mean) / std


def own_numbers(model: str, built: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """What torchvision's head reads, ``(B, dim)``, and the cells before it averaged over place, ``(B, steps, dim)``."""
    head, last = {
        "s3d": (lambda: built.classifier[1], lambda: built.features),
        "mvit_v2_s": (lambda: built.head[1], lambda: built.norm),
        "swin3d_t": (lambda: built.head, lambda: built.norm),
    }.get(model, (lambda: built.fc, lambda: built.layer4))
    seen: dict[str, Tensor] = {}
    head().register_forward_pre_hook(lambda _, args: seen.update(head=args[0].clone()))
    last().register_forward_hook(lambda _, args, out: seen.update(cells=out.clone()))
    with torch.inference_mode():
        built(standardised(model, x))
    vector, cells = seen["head"], seen["cells"]
    if model == "s3d":
        vector = vector.mean((2, 3, 4))  # the mean of a linear layer is the linear layer of the mean
    if model == "mvit_v2_s":
        steps, side = built.pos_encoding.temporal_size, 2  # 10 cells a side, halved three times
        return vector, cells[:, 1:].reshape(len(x), steps, side * side, -1).mean(2)
    if model == "swin3d_t":
        return vector, cells.mean((2, 3))
    return vector, cells.mean((3, 4)).transpose(1, 2)


@pytest.mark.parametrize("model", TINY)
def test_numbers_are_those_that_torchvisions_head_reads(model: Any, tmp_path: Path) -> None:
    frames, side = TINY[model]
    built, x = reference(model, frames, side), clips(2, frames, side)
    path = tmp_path / "whole.pth"
    torch.save(built.state_dict(), path)
    vector, cells = own_numbers(model, built, x)
    del built
    sizes = {"model": model, "weights": str(path), "resize": side, "num_frames": frames, "size": side}
    encoder = TorchvisionVideo(**sizes).eval()
    with torch.inference_mode():
        found = encoder(x, real(2, frames))
    assert encoder.dim == WIDTHS[model]
    torch.testing.assert_close(found.x, vector.unsqueeze(1), rtol=1e-4, atol=1e-5)
    assert (vector[0] - vector[1]).abs().max() > 1e-3  # the two clips are not seen as one
    other = TorchvisionVideo(**sizes, pooling="none", kept=tmp_path).eval()
    other.load_state_dict(encoder.state_dict())
    del encoder
    with torch.inference_mode():
        found = other(x, real(2, frames))
    torch.testing.assert_close(found.x, cells, rtol=1e-4, atol=1e-5)
    assert found.mask.all()


def test_the_window_of_s3d_is_torchvisions_where_it_fits() -> None:
    """On a grid of 3 x 8 x 9 cells, more than the window has."""
    from kinetext.encoders.torchvision_video import _s3d_vector

    with torch.device("meta"):
        built = models.get_model("s3d", weights=None)
    built.features, built.classifier = nn.Identity(), nn.Identity()
    grid = torch.rand(2, 4, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_s3d_vector(built, grid), built(grid))
    assert not torch.allclose(_s3d_vector(built, grid), grid.mean((2, 3, 4)))


@pytest.mark.parametrize("model", TINY)
def test_weights_decide_the_side_of_the_frames(model: Any, tmp_path: Path) -> None:
    with torch.device("meta"):
        trained = TorchvisionVideo(model=model, weights="KINETICS400_V1", num_frames=16, kept=tmp_path)
        random = TorchvisionVideo(model=model, num_frames=16, size=48)
        chosen = TorchvisionVideo(model=model, weights="DEFAULT", num_frames=16, resize=64, kept=tmp_path)
        if model == "mvit_v2_s":
            own = models.get_model(model, weights=None).pos_encoding
            ours = trained.network.pos_encoding
            assert (ours.temporal_size, ours.spatial_size) == (own.temporal_size, own.spatial_size)
    member = models.get_model_weights(model).KINETICS400_V1
    assert [trained.pixels.side] * 2 == member.transforms().crop_size
    assert (random.pixels.side, chosen.pixels.side) == (48, 64)
    assert trained.licence.startswith(f"torchvision {model} KINETICS400_V1: code BSD-3-Clause, weights trained on Kin")
    assert random.licence == ""


def test_contract() -> None:
    check_encoder(TorchvisionVideo())


def test_contract_of_one_channel_over_time() -> None:
    encoder = TorchvisionVideo(model="s3d", channels=1, num_frames=16, size=24, pooling="none")
    check_encoder(encoder, shape=(1, 16, 24, 24))


def test_positions_in_time_are_real_where_frames_are() -> None:
    encoder = TorchvisionVideo(model="s3d", num_frames=16, size=24, pooling="none", channels=1).eval()
    mask = torch.zeros(4, 16, dtype=torch.bool)
    mask[0, :] = mask[1, :7] = mask[2, 12] = True
    with torch.inference_mode():
        found = encoder(clips(4, 16, 24, 1), mask)
    assert found.mask.tolist() == [[True, True], [True, False], [False, True], [False, False]]
    assert (found.x[~found.mask] == 0).all()


def test_a_shorter_clip_goes_on_with_its_last_frame() -> None:
    encoder, x = TorchvisionVideo(num_frames=6, size=24, channels=1).eval(), clips(1, 4, 24, 1)
    whole = torch.cat([x, x[:, :, -1:], x[:, :, -1:]], dim=2)
    with torch.inference_mode():
        short, longer = encoder(x, real(1, 4)), encoder(whole, real(1, 6))
    torch.testing.assert_close(short.x, longer.x)


def test_statistics_of_the_batch_are_those_of_present_clips() -> None:
    one = TorchvisionVideo(num_frames=5, size=40, channels=1)
    other = TorchvisionVideo(num_frames=5, size=40, channels=1)
    other.load_state_dict(one.state_dict())
    x, mask = clips(3, 5, 40, 1), real(3, 5)
    mask[1] = False
    x[1] = float("nan")
    found = one(x, mask)
    expected = other(x[[0, 2]], real(2, 5))
    torch.testing.assert_close(found.x[[0, 2]], expected.x)
    assert (found.x[1] == 0).all()
    moved = [name for name, tensor in one.state_dict().items() if "running_mean" in name and tensor.any()]
    assert moved
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name])


def test_dropout_is_the_options_alone() -> None:
    """torchvision's own in front of the classes (mvit_v2_s: a half) is gone."""
    with torch.device("meta"):
        encoder = TorchvisionVideo(model="mvit_v2_s", dropout=0.3)
    assert [m.p for m in encoder.modules() if isinstance(m, nn.Dropout) and m.p] == [0.3]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "s3d", "num_frames": 4}, r"data\.num_frames: 4, expected >= 5 for s3d"),
        ({"model": "s3d", "num_frames": 8, "size": 16}, r"data\.size: 16 pixels, expected >= 17 for s3d"),
        (
            {"model": "s3d", "num_frames": 8, "resize": 16},
            r"encoders\.video\.resize: 16 pixels, expected >= 17 for s3d",
        ),
        ({"resize": -1}, r"encoders\.video\.resize: -1 pixels, expected >= 0"),
        ({"channels": 4}, r"encoders\.video\.channels: 4, expected 3, or 1"),
        ({"dropout": 1.0}, r"encoders\.video\.dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"model": "r3d_81"}, r"encoders\.video\.model: no model 'r3d_81', did you mean 'r3d_18'\?"),
        ({"weights": "KINETICS_V1"}, r"weights: 'KINETICS_V1', did you mean 'KINETICS400_V1'\?"),
    ],
)
def test_impossible_options_are_named(options: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said), torch.device("meta"):
        TorchvisionVideo(**options)


@pytest.mark.parametrize("shape", [(1, 2, 5, 24, 24), (1, 1, 6, 24, 24), (1, 1, 5, 24, 32)])
def test_a_clip_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        encoder = TorchvisionVideo(channels=1, num_frames=5, size=24)
    with pytest.raises(ValueError, match="this encoder was built for C = 1, T <= 5, H = W = 24"):
        encoder(torch.zeros(shape), real(1, shape[2]))
