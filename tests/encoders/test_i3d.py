"""I3D against the paper's figure, a forward pass written a second time, and torchvision's Inception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.googlenet import GoogLeNet

from kinetext.contracts import check_encoder
from kinetext.encoders.i3d import I3D, same_padding
from kinetext.types import RecipeError

# Szegedy et al. 2015, table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool proj
INCEPTION = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32), "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64), "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64), "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128), "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
# what stands before a block: kernel and stride of a max pooling
POOLS = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}


def small(**options: Any) -> I3D:
    torch.manual_seed(0)
    return I3D(**({"num_frames": 9, "size": 33, "width": 4} | options)).eval()


def clips(batch: int = 3, frames: int = 9, size: int = 33) -> Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def all_real(batch: int = 3, frames: int = 9) -> Tensor:
    return torch.ones(batch, frames, dtype=torch.bool)


def shaken(encoder: I3D) -> I3D:
    """Batch norms with statistics, weights and biases that are not 0 and 1."""
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in encoder.state_dict().items():
            if ".bn." in name and tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=rng) * 0.5)
    return encoder


def units() -> dict[str, tuple[int, int, int]]:
    """Name in the public checkpoints -> input channels, output channels, side of the kernel, at the paper's width."""
    found = {"Conv3d_1a_7x7": (3, 64, 7), "Conv3d_2b_1x1": (64, 64, 1), "Conv3d_2c_3x3": (64, 192, 3)}
    last = 192
    for name, (b0, b1a, b1b, b2a, b2b, b3b) in INCEPTION.items():
        found |= {f"{name}.b0": (last, b0, 1), f"{name}.b1a": (last, b1a, 1), f"{name}.b1b": (b1a, b1b, 3)}
        found |= {f"{name}.b2a": (last, b2a, 1), f"{name}.b2b": (b2a, b2b, 3), f"{name}.b3b": (last, b3b, 1)}
        last = b0 + b1b + b2b + b3b
    return found


def public_state(width: int = 4) -> dict[str, Tensor]:
    """Random weights in the layout of the public checkpoints, which are from before batch counters."""
    rng = torch.Generator().manual_seed(4)
    state = {}
    for name, (before, after, side) in units().items():
        before, after = before if before == 3 else before * width // 64, after * width // 64
        state[f"{name}.conv3d.weight"] = torch.randn(after, before, side, side, side, generator=rng)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{leaf}"] = torch.rand(after, generator=rng)
    head = {"weight": torch.zeros(400, 16 * width, 1, 1, 1), "bias": torch.zeros(400)}
    return state | {f"logits.conv3d.{leaf}": tensor for leaf, tensor in head.items()}


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> Tensor:
    """TensorFlow's SAME by its documentation: by the remainder of the size, the odd cell at the end."""
    pads: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - s if size % s == 0 else k - size % s, 0)
        pads = [total // 2, (total + 1) // 2, *pads]
    return F.pad(x, pads, value=value)


def forward_again(state: dict[str, Tensor], h: Tensor) -> Tensor:
    """The paper's figure 3 up to its average pooling, which is over all of space; poolings pad with -inf."""

    def unit(name: str, h: Tensor, stride: int = 1) -> Tensor:
        kernel = state[f"{name}.conv3d.weight"]
        h = F.conv3d(same(h, tuple(kernel.shape[2:]), (stride,) * 3, 0.0), kernel, stride=stride)
        mean, var, weight, bias = (
            state[f"{name}.bn.{leaf}"].reshape(-1, 1, 1, 1)
            for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return ((h - mean) / (var + 0.001).sqrt() * weight + bias).clamp(min=0)

    def pool(h: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        return F.max_pool3d(same(h, kernel, stride, float("-inf")), kernel, stride)

    h = pool(unit("Conv3d_1a_7x7", h, 2), (1, 3, 3), (1, 2, 2))
    h = unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", h))
    for name in INCEPTION:
        if name in POOLS:
            h = pool(h, *POOLS[name])
        third = unit(f"{name}.b2b", unit(f"{name}.b2a", h))
        fourth = unit(f"{name}.b3b", pool(h, (3, 3, 3), (1, 1, 1)))
        h = torch.cat([unit(f"{name}.b0", h), unit(f"{name}.b1b", unit(f"{name}.b1a", h)), third, fourth], dim=1)
    return h.flatten(3).mean(3).mT


def test_contract() -> None:
    check_encoder(I3D())


def test_parameters_of_the_paper() -> None:
    """12.3 M, with 400 classes 12.7 M; a channel has a weight and a bias of its batch norm, none of its convolution."""
    with torch.device("meta"):
        encoder = I3D(width=64)
    expected = sum(before * after * side**3 + 2 * after for before, after, side in units().values())
    assert sum(p.numel() for p in encoder.parameters()) == expected == 12_287_264
    assert expected + 1024 * 400 + 400 == 12_697_264


def test_shapes_of_the_paper() -> None:
    found = {}
    with torch.device("meta"):
        encoder = I3D(width=64, num_frames=64, size=224)
        h = torch.empty(1, 3, 64, 224, 224)
        for name, layer in encoder.layers.named_children():
            h = layer(h)
            found[name] = tuple(h.shape[1:])
        assert encoder.read(torch.empty(1, 3, 64, 224, 224)).shape == (1, 8, 1024)
    fourth = dict.fromkeys(("Mixed_4b", "Mixed_4c", "Mixed_4d"), (512, 16, 14, 14))
    assert found == {
        "Conv3d_1a_7x7": (64, 32, 112, 112), "MaxPool3d_2a_3x3": (64, 32, 56, 56),
        "Conv3d_2b_1x1": (64, 32, 56, 56), "Conv3d_2c_3x3": (192, 32, 56, 56), "MaxPool3d_3a_3x3": (192, 32, 28, 28),
        "Mixed_3b": (256, 32, 28, 28), "Mixed_3c": (480, 32, 28, 28), "MaxPool3d_4a_3x3": (480, 16, 14, 14),
        **fourth, "Mixed_4e": (528, 16, 14, 14), "Mixed_4f": (832, 16, 14, 14), "MaxPool3d_5a_2x2": (832, 8, 7, 7),
        "Mixed_5b": (832, 8, 7, 7), "Mixed_5c": (1024, 8, 7, 7),
    }  # fmt: skip


def test_same_padding_as_tensorflow_documents_it() -> None:
    assert same_padding(13, 6, 5) == (1, 2)  # the example of tf.nn, "notes on padding"
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(225, 7, 2) == (3, 3)
    assert same_padding(5, 1, 2) == (0, 0)


@pytest.mark.parametrize(("frames", "size"), [(9, 33), (16, 32), (11, 50), (1, 47)])
def test_numbers(frames: int, size: int) -> None:
    """Odd and even sizes, whose padding differs layer by layer."""
    encoder = shaken(small(num_frames=frames, size=size))
    video = clips(2, frames, size)
    expected = forward_again(encoder.layers.state_dict(), video)
    features = encoder(video, all_real(2, frames))
    assert features.x.shape == (2, -(-frames // 8), 64)
    assert expected.std() > 0.05
    torch.testing.assert_close(features.x, expected, atol=1e-4, rtol=1e-4)


def test_a_time_step_is_real_if_any_of_its_frames_is() -> None:
    encoder = small(num_frames=17)
    video, mask = clips(4, 17), all_real(4, 17)
    mask[0, 8:] = False  # the first step only
    mask[1, :16] = False  # the last, which has one frame
    mask[2, 1:15] = False  # a frame in each
    mask[3] = False
    features = encoder(video.masked_fill(~mask[:, None, :, None, None], float("nan")), mask)
    assert features.mask.tolist() == [[True, False, False], [False, False, True], [True, True, True], [False] * 3]
    assert (features.x[~features.mask] == 0).all()
    shown = video[:2].clone()
    shown[0, :, 8:] = shown[0, :, 7:8]
    shown[1] = shown[1, :, 16:]
    expected = encoder(shown, all_real(2, 17)).x
    torch.testing.assert_close(features.x[0, 0], expected[0, 0])
    torch.testing.assert_close(features.x[1, 2], expected[1, 2])


def test_a_shorter_clip_equals_a_padded_one_and_an_image_a_still_clip() -> None:
    encoder, mask = small(), all_real()
    mask[:, 5:] = False
    torch.testing.assert_close(encoder(clips(), mask).pooled(), encoder(clips()[:, :, :5], mask[:, :5]).pooled())
    image, still = clips()[:, :, :1], clips()[:, :, :1].expand(-1, -1, 9, -1, -1)
    torch.testing.assert_close(encoder(image, all_real(3, 1)).x[:, 0], encoder(still, all_real()).x[:, 0])


def test_statistics_of_the_batch_are_those_of_present_clips() -> None:
    mask = all_real()
    mask[1] = False
    video = clips().masked_fill(~mask[:, None, :, None, None], float("nan"))
    encoder, alone = small().train(), small().train()
    encoder(video, mask)
    alone(clips()[[0, 2]], all_real(2))
    for (name, one), other in zip(encoder.state_dict().items(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    assert (encoder(video, ~all_real()).x == 0).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_public_weights_load_without_their_classes(tmp_path: Path) -> None:
    state, path = public_state(), tmp_path / "rgb.pt"
    torch.save(state, path)
    encoder = small(weights=str(path))
    own = encoder.layers.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    assert own.keys() - counters == {name for name in state if not name.startswith("logits.")}
    assert all(torch.equal(own[name], state[name]) for name in own.keys() - counters)
    assert "rgb.pt" in encoder.licence
    torch.testing.assert_close(encoder.read(clips()), forward_again(state, clips()), atol=1e-3, rtol=1e-3)
    torch.save(own, path)
    assert torch.equal(small(weights=str(path)).read(clips()), encoder.read(clips()))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path, state = tmp_path / "rgb.pt", public_state()
    state["Mixed_9z.conv3d.weight"] = state.pop("Mixed_4c.b1a.bn.running_var")
    torch.save(state, path)
    with pytest.raises(RecipeError) as error:
        small(weights=str(path))
    assert "encoders.video.weights: " in str(error.value)
    assert "1 keys missing: Mixed_4c.b1a.bn.running_var" in str(error.value)
    assert "1 keys unexpected: Mixed_9z.conv3d.weight" in str(error.value)
    torch.save(public_state(width=8), path)
    with pytest.raises(RecipeError, match=r"keys of another shape: Conv3d_1a_7x7.conv3d.weight"):
        small(weights=str(path))
    with pytest.raises(RecipeError, match=r"encoders.video.inflate: 'a' besides weights = 'b', expected one of them"):
        small(weights="b", inflate="a")


def test_a_saved_run_needs_no_weights_file(tmp_path: Path) -> None:
    for source in ("weights", "inflate"):
        assert "gone.pt" in small(kept=tmp_path, **{source: str(tmp_path / "gone.pt")}).licence
        with pytest.raises(RecipeError, match=f"encoders.video.{source}: no file"):
            small(**{source: str(tmp_path / "gone.pt")})
    small().keep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert small().licence == ""


@pytest.fixture(scope="module")
def pictures() -> GoogLeNet:
    """torchvision's Inception with random weights and the batch statistics that they have."""
    torch.manual_seed(0)
    net = GoogLeNet(num_classes=10, aux_logits=True, init_weights=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean of what was seen
    with torch.no_grad():
        net.train()(clips(8, 1, 64)[:, :, 0])
    return net.eval()


@torch.no_grad()
def test_a_clip_that_stands_still_is_seen_as_its_picture(pictures: GoogLeNet, tmp_path: Path) -> None:
    """The paper's "boring video": 2-D weights, inflated, give the 2-D activations, where no padding in time is near.

    A step sees 99 frames, so of 112 frames the middle two steps see no border.
    """
    torch.save(pictures.state_dict(), tmp_path / "googlenet.pth")
    encoder = small(width=64, num_frames=112, size=32, inflate=str(tmp_path / "googlenet.pth"))
    assert "googlenet.pth" in encoder.licence
    image = clips(1, 1, 32)
    steps = encoder(image.expand(-1, -1, 112, -1, -1), all_real(1, 112)).x[0]

    seen: list[Tensor] = []
    pictures.avgpool.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].mean((2, 3))))
    pictures.conv1.conv.padding = (0, 0)  # torchvision pads (3, 3), TensorFlow (2, 3)
    pictures(F.pad(image[:, :, 0], (2, 3, 2, 3)))
    pictures.conv1.conv.padding = (3, 3)
    assert seen[0].std() > 0.1
    torch.testing.assert_close(steps[6:8], seen[0].expand(2, -1), atol=1e-3, rtol=1e-3)
    assert (steps[0] - seen[0][0]).abs().max() > 0.1  # zeros before the clip are near


def test_weights_of_torchvision_by_name(pictures: GoogLeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(pictures.state_dict(), cache / "googlenet-1378be20.pth")
    encoder = small(width=64, inflate="DEFAULT")
    kernel = encoder.layers.state_dict()["Mixed_5c.b1b.conv3d.weight"]
    torch.testing.assert_close(kernel.sum(2), pictures.state_dict()["inception5b.branch2.1.conv.weight"])
    assert "torchvision's googlenet DEFAULT (BSD-3-Clause" in encoder.licence


def test_pictures_that_do_not_fit_are_named(
    pictures: GoogLeNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = tmp_path / "googlenet.pth", dict(pictures.state_dict())
    state["inception7.conv.weight"] = state.pop("inception4e.branch4.1.bn.bias")
    torch.save({name: tensor.half() for name, tensor in state.items()}, path)
    said = "encoders.video.inflate: .*missing: Mixed_4f.b3b.bn.bias; 1 keys unexpected: inception7.conv.weight"
    with pytest.raises(RecipeError, match=said):
        small(width=64, inflate=str(path))
    with pytest.raises(RecipeError, match=r"encoders.video.inflate: .*keys of another shape"):
        small(inflate=str(path))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(RecipeError, match=r"DEFAULT can't be fetched \(no network\)"):
        small(width=64, inflate="DEFAULT")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 6}, "encoders.video.width: 6, expected a multiple of 4"),
        ({"width": 0}, "encoders.video.width: 0, expected a multiple of 4"),
        ({"dropout": 1.0}, r"encoders.video.dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"channels": 0}, "encoders.video.channels: 0, expected >= 1"),
        ({"size": 32, "num_frames": 8}, "encoders.video.size: 32 pixels and 8 frames leave one cell"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        small(**options)


@pytest.mark.parametrize("sizes", [{"size": 33, "num_frames": 8}, {"size": 32, "num_frames": 9}])
def test_the_smallest_clips_can_be_learned_from_one_by_one(sizes: dict[str, int]) -> None:
    encoder = small(**sizes).train()
    encoder(clips(1, sizes["num_frames"], sizes["size"]), all_real(1, sizes["num_frames"]))


@pytest.mark.parametrize("shape", [(1, 2, 9, 33, 33), (1, 3, 10, 33, 33), (1, 3, 9, 33, 40)])
def test_a_clip_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"built for \(3, 33, 33\)|10 frames, expected at most 9"):
        small()(torch.zeros(shape), torch.ones(1, shape[2], dtype=torch.bool))
