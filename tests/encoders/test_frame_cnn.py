"""The frame network: shapes, masks, where things are, how they move."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors
import torch
from torch import Tensor, nn
from torchvision import models

import kinetext
from kinetext.contracts import check_encoder
from kinetext.encoders.frame_cnn import FrameCNN
from kinetext.nn.conv import fold_frames
from kinetext.types import RecipeError

Temporal = Literal["mean", "attention", "lstm"]
ALL: tuple[Temporal, ...] = ("mean", "attention", "lstm")


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


@pytest.mark.parametrize(("temporal", "length"), [("mean", 1), ("attention", 4), ("lstm", 4)])
def test_shapes_and_masks(temporal: Temporal, length: int) -> None:
    mask = all_real()
    mask[1, 2:] = False
    mask[2] = False
    features = small(temporal)(clips(), mask)
    assert features.x.shape == (3, length, 16)
    expected = torch.tensor([[True], [True], [False]]) if temporal == "mean" else mask
    assert torch.equal(features.mask, expected)
    assert (features.x[~features.mask] == 0).all()
    assert (features.x[features.mask].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("temporal", ALL)
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


@pytest.mark.parametrize("temporal", ALL)
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


def test_only_the_mean_does_not_know_the_order_of_frames() -> None:
    for temporal, differs in (("attention", True), ("lstm", True), ("mean", False)):
        encoder = small(temporal).eval()
        forward = encoder(clips(), all_real()).pooled()
        backward = encoder(clips().flip(2), all_real()).pooled()
        assert torch.allclose(forward, backward, atol=1e-5) is not differs


@pytest.mark.parametrize("temporal", ALL)
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


@pytest.mark.parametrize("temporal", ALL)
def test_half_precision_reads_ragged_clips_too(temporal: Temporal) -> None:
    encoder, mask = small(temporal).eval(), all_real()
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


@pytest.mark.parametrize("temporal", ALL)
def test_contract(temporal: Temporal) -> None:
    check_encoder(FrameCNN(temporal=temporal, dim=32, width=8))


def test_the_state_of_the_own_backbone_is_that_of_the_shipped_reader() -> None:
    """Whoever renames a part of it breaks the model in the package."""
    shipped = Path(kinetext.__file__).parent / "models" / "digits-reader" / "model.safetensors"
    with safetensors.safe_open(shipped, "pt") as file:
        start = "encoders.video."
        shapes = {k.removeprefix(start): file.get_slice(k).get_shape() for k in file.keys() if k.startswith(start)}  # noqa: SIM118
    own = FrameCNN(channels=1, num_frames=8, size=64, dim=128, width=24).state_dict()
    assert {name: list(tensor.shape) for name, tensor in own.items()} == shapes


def test_lstm_is_torchs_on_the_real_frames_alone() -> None:
    encoder, mask = small("lstm", depth=2).eval(), all_real(4)
    mask[0, 1] = mask[1, 2:] = mask[2, 0] = mask[3] = False
    reference = nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True)
    assert encoder.lstm is not None
    reference.load_state_dict(encoder.lstm.state_dict())
    with torch.no_grad():
        found = encoder(clips(4), mask)
        for row in range(3):
            frames = clips(4)[row].transpose(0, 1)[mask[row]]
            h = reference(encoder.project(encoder.stages(frames).flatten(1)).unsqueeze(0))[0][0]
            torch.testing.assert_close(
                found.x[row, mask[row]], h / h.square().mean(-1, keepdim=True).sqrt(), rtol=1e-3, atol=1e-4
            )
    assert (found.x[~mask] == 0).all()


def borrowed(backbone: str, **options: Any) -> FrameCNN:
    torch.manual_seed(0)
    sizes = {"num_frames": 2, "size": 32, "dim": 8, "heads": 2, "temporal": "mean"}
    return FrameCNN(backbone=backbone, **(sizes | options))


def read_by_head(whole: nn.Module, name: str, x: Tensor) -> Tensor:
    """What the last linear layer of torchvision's classifier reads of frames in [-1, 1], standardised by hand."""
    preset = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (preset.mean, preset.std))
    heads = {"resnet18": "fc", "inception_v3": "fc", "vgg11": "classifier.6", "convnext_tiny": "classifier.2"}
    seen: dict[str, Tensor] = {}
    whole.get_submodule(heads[name]).register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    with torch.inference_mode():
        whole.eval()(((x + 1) / 2 - mean) / std)
    return seen["x"]


@pytest.mark.parametrize(
    ("name", "size", "width"), [("resnet18", 32, 512), ("convnext_tiny", 32, 768), ("inception_v3", 75, 2048)]
)
def test_vectors_of_frames_are_what_torchvisions_head_reads(name: str, size: int, width: int, tmp_path: Path) -> None:
    # with its own weights, torchvision builds inception_v3 so that it takes the statistics of all others
    options = {"transform_input": True, "init_weights": False} if name == "inception_v3" else {}
    torch.manual_seed(0)
    whole = models.get_model(name, weights=None, **options).eval()
    x = torch.rand(1, 3, 2, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    norms = [module for module in whole.modules() if isinstance(module, nn.BatchNorm2d)]
    # statistics of a batch: with 0 and 1, the deepest layers of random weights see next to nothing
    for norm in norms:
        norm.train().momentum = None
    with torch.no_grad():
        whole(torch.randn(16, 3, size, size))
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    x = x.double()  # rounding in float32 grows to 1e-3 over inception_v3's 94 layers
    expected = read_by_head(whole.double(), name, fold_frames(x))
    del whole
    encoder = borrowed(name, size=size, resize=size, weights=str(tmp_path / "whole.pth")).double().eval()
    with torch.inference_mode():
        found = encoder.stages(fold_frames(x))
        whole_clip = encoder(x, all_real(1, 2)).x[0, 0]
        h = encoder.project(expected).mean(0)
    assert found.shape == (2, width)
    torch.testing.assert_close(found, expected)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    torch.testing.assert_close(whole_clip, h / (h.square().mean() + 1e-6).sqrt())
    assert (
        encoder.licence
        == f"torchvision {name}: code BSD-3-Clause, started from the weights in whole.pth (their own licence)"
    )


def test_vectors_of_vgg11_are_its_second_hidden_layer() -> None:
    """The other way round, since a file of its 133 million parameters takes long: torchvision's takes over ours."""
    encoder = borrowed("vgg11").eval()
    with torch.device("meta"):
        whole = models.vgg11(weights=None)
    missing, unexpected = whole.load_state_dict(encoder.stages[1].state_dict(), strict=False, assign=True)
    assert (missing, unexpected) == (["classifier.6.weight", "classifier.6.bias"], [])
    whole.classifier[6] = nn.Identity()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = read_by_head(whole, "vgg11", x)
    with torch.inference_mode():
        torch.testing.assert_close(encoder.stages(x), expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


def test_contract_of_a_borrowed_backbone() -> None:
    encoder = borrowed("resnet18", channels=1, num_frames=4, size=40, temporal="lstm", depth=1)
    check_encoder(encoder, shape=(1, 4, 40, 40))


def test_kept_builds_the_same_without_the_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "whole.pth")
    options = {"size": 64, "resize": 40, "weights": str(tmp_path / "whole.pth")}
    first = borrowed("mobilenet_v3_small", **options).eval()
    (tmp_path / "whole.pth").unlink()
    with pytest.raises(RecipeError, match=r"encoders\.video\.weights: no file"):
        borrowed("mobilenet_v3_small", **options)
    again = borrowed("mobilenet_v3_small", **options, kept=tmp_path).eval()
    again.load_state_dict(first.state_dict())
    x = torch.rand(1, 3, 2, 64, 64) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(first(x, all_real(1, 2)).x, again(x, all_real(1, 2)).x)
    assert again.licence == first.licence != ""
    with torch.device("meta"):
        crop = borrowed("mobilenet_v3_small", weights="DEFAULT", kept=tmp_path).stages[0].side
    assert crop == 224


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbone": "resnet8"}, r"backbone: no model 'resnet8', did you mean 'resnet18'\?; expected one of .*own"),
        (
            {"backbone": "inception_v3"},
            r"resize: 0 makes frames of 64 pixels, and inception_v3 takes >= 75; its .* 299",
        ),
        ({"backbone": "vit_b_32", "resize": 256}, r"resize: 256 makes frames of 256 pixels, and vit_b_32 takes 224"),
        ({"backbone": "resnet18", "width": 24}, r"width: 24 is for the own backbone; take it out with resnet18"),
        ({"backbone": "resnet18", "stages": 2}, r"stages: 2 is for the own backbone"),
        ({"backbone": "resnet18", "channels": 2}, r"channels: 2, expected 3, or 1"),
        ({"backbone": "resnet18", "resize": -1}, r"resize: -1 makes frames of -1 pixels"),
        ({"weights": "DEFAULT"}, r"weights: 'DEFAULT', expected \"\" with the own backbone"),
        ({"resize": 32}, r"resize: 32, expected 0 with the own backbone"),
        ({"temporal": "lstm", "depth": 0}, r"depth: 0, expected >= 1 with temporal = \"lstm\""),
    ],
)
def test_options_that_do_not_go_together_are_named(options: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=r"encoders\.video\." + said), torch.device("meta"):
        FrameCNN(**options)


def test_changes_do_not_see_what_stands_still() -> None:
    """A constant light over a clip changes nothing; "both" sees it."""
    torch.manual_seed(0)
    options = {"channels": 1, "num_frames": 4, "size": 16, "dim": 16, "width": 8, "stages": 2, "depth": 1, "heads": 2}
    moving, both = FrameCNN(**options, view="changes").eval(), FrameCNN(**options, view="both").eval()  # type: ignore[arg-type]
    dark, light = 0.5 * clips() - 0.2, 0.5 * clips() + 0.2
    assert torch.allclose(moving(dark, all_real()).x, moving(light, all_real()).x, atol=1e-5)
    assert not torch.allclose(both(dark, all_real()).x, both(light, all_real()).x, atol=1e-2)
    check_encoder(moving, shape=(1, 4, 16, 16))
    check_encoder(both, shape=(1, 4, 16, 16))
    with pytest.raises(RecipeError, match='view: "both" is for the own backbone'):
        FrameCNN(backbone="resnet18", view="both")


def test_convolutions_over_time_know_when() -> None:
    """The same frames in another order are another clip; masks are kept."""
    torch.manual_seed(0)
    encoder = FrameCNN(channels=1, num_frames=5, size=16, dim=16, width=8, stages=2, heads=2, temporal="conv").eval()
    check_encoder(encoder, shape=(1, 5, 16, 16))
    video = clips(frames=5)
    features = encoder(video, all_real(frames=5))
    assert features.x.shape == (3, 1, 16)
    assert not torch.allclose(features.x, encoder(video.flip(2), all_real(frames=5)).x, atol=1e-3)
    # a shorter clip is one whose last frames are absent
    mask = all_real(frames=5)
    mask[:, 3:] = False
    assert torch.allclose(encoder(video, mask).x, encoder(video[:, :, :3], all_real(frames=3)).x, atol=1e-5)


def test_convolutions_over_time_need_time() -> None:
    with pytest.raises(RecipeError, match=r"data.num_frames: 4, expected >= 5 with encoders.video.temporal"):
        FrameCNN(num_frames=4, temporal="conv")
    alone = FrameCNN(channels=1, num_frames=5, size=16, dim=16, width=8, stages=2, heads=2, temporal="conv").train()
    one = alone(clips(batch=1, frames=5), all_real(batch=1, frames=5))  # a batch norm over a single clip
    assert one.x.isfinite().all()
