"""C3D against the paper's table and a forward pass written a second time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.contracts import check_encoder
from kinetext.encoders.c3d import C3D
from kinetext.types import RecipeError

# figure 3: (layer, input channels, output channels)
TABLE = (
    ("conv1", 3, 64), ("conv2", 64, 128), ("conv3a", 128, 256), ("conv3b", 256, 256), ("conv4a", 256, 512),
    ("conv4b", 512, 512), ("conv5a", 512, 512), ("conv5b", 512, 512),
)  # fmt: skip
PAPER: dict[str, Any] = {"width": 64, "hidden": 4096, "num_frames": 16, "size": 112}


def small(**options: Any) -> C3D:
    torch.manual_seed(0)
    return C3D(**({"num_frames": 4, "size": 20, "width": 2, "hidden": 8, "dropout": 0.0} | options)).eval()


def clips(batch: int = 3, frames: int = 4, size: int = 20) -> Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def all_real(batch: int = 3, frames: int = 4) -> Tensor:
    return torch.ones(batch, frames, dtype=torch.bool)


def pooled(h: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Max pooling whose last windows are cut, as Caffe's: -inf behind what is left over."""
    odd = [-length % k for length, k in zip(h.shape[2:], kernel, strict=True)]
    return F.max_pool3d(F.pad(h, (0, odd[2], 0, odd[1], 0, odd[0]), value=float("-inf")), kernel)


def forward_again(state: dict[str, Tensor], h: Tensor, *, pool5: str, layers: tuple[str, ...]) -> Tensor:
    for name, *_ in TABLE:
        h = F.conv3d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
        if name == "conv5b" and pool5 == "padded":
            h = pooled(F.pad(h, (1, 1, 1, 1), value=float("-inf")), (2, 2, 2))[..., :4, :4]
        elif name in ("conv1", "conv2", "conv3b", "conv4b", "conv5b"):
            h = pooled(h, (1 if name == "conv1" else 2, 2, 2))
    h = h.reshape(len(h), -1)
    for name in layers:
        h = (h @ state[f"{name}.weight"].T + state[f"{name}.bias"]).relu()
    return h


def test_contract() -> None:
    check_encoder(C3D())


def test_parameters_of_the_paper() -> None:
    """78.4 M with 101 classes: 27 weights and a bias a channel, then 8192 -> 4096 -> 4096 -> 101."""
    with torch.device("meta"):
        encoder = C3D(**PAPER, layer="fc7")
    own = sum(27 * before * after + after for _, before, after in TABLE)
    own += 8192 * 4096 + 4096 + 4096 * 4096 + 4096
    assert sum(p.numel() for p in encoder.parameters()) == own
    assert own + 4096 * 101 + 101 == 78_409_573


@pytest.mark.parametrize("pool5", ["ceil", "padded"])
def test_shapes_of_the_paper(pool5: str) -> None:
    found: dict[str, tuple[int, ...]] = {}
    with torch.device("meta"):
        encoder = C3D(**PAPER, pool5=pool5)  # type: ignore[arg-type]
        for name, module in encoder.named_children():
            module.register_forward_hook(lambda _, __, out, name=name: found.update({name: tuple(out.shape[1:])}))
        encoder.read(torch.empty(1, 3, 16, 112, 112))
    assert found == {
        "conv1": (64, 16, 112, 112), "pool1": (64, 16, 56, 56), "conv2": (128, 16, 56, 56), "pool2": (128, 8, 28, 28),
        "conv3a": (256, 8, 28, 28), "conv3b": (256, 8, 28, 28), "pool3": (256, 4, 14, 14),
        "conv4a": (512, 4, 14, 14), "conv4b": (512, 4, 14, 14), "pool4": (512, 2, 7, 7),
        "conv5a": (512, 2, 7, 7), "conv5b": (512, 2, 7, 7), "pool5": (512, 1, 4, 4),
        "fc6": (4096,), "dropout": (4096,),
    }  # fmt: skip


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
@pytest.mark.parametrize("pool5", ["ceil", "padded"])
def test_numbers_at_the_papers_size(layer: str, pool5: str) -> None:
    encoder = small(num_frames=16, size=112, layer=layer, pool5=pool5)
    video = clips(1, 16, 112)
    layers = ("fc6", "fc7") if layer == "fc7" else ("fc6",)
    expected = forward_again(encoder.state_dict(), video, pool5=pool5, layers=layers)
    features = encoder(video, all_real(1, 16))
    assert expected.std() > 0.1
    torch.testing.assert_close(features.x[:, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("frames", "size"), [(1, 1), (3, 33), (17, 20), (5, 100)])
def test_every_size_goes(frames: int, size: int) -> None:
    for pool5 in ("ceil", "padded"):
        encoder = small(num_frames=frames, size=size, pool5=pool5)
        assert encoder(clips(1, frames, size), all_real(1, frames)).x.shape == (1, 1, 8)
    ceil = small(num_frames=frames, size=size)
    expected = forward_again(ceil.state_dict(), clips(1, frames, size), pool5="ceil", layers=("fc6",))
    torch.testing.assert_close(ceil.read(clips(1, frames, size)), expected, atol=1e-5, rtol=1e-5)


def test_bytes_less_mean_in_the_order_of_opencv() -> None:
    """As the authors' reader: blue, green, red, 0 to 255, the mean taken off."""
    pixels = torch.randint(256, (2, 3, 4, 20, 20), generator=torch.Generator().manual_seed(2))
    encoder = small(pixels="bytes", mean=(90.0, 98.0, 102.0), channel_order="bgr")
    red, green, blue = pixels.float().unbind(1)
    seen = torch.stack([blue - 90, green - 98, red - 102], dim=1)
    expected = forward_again(encoder.state_dict(), seen, pool5="ceil", layers=("fc6",))
    found = encoder(pixels / 127.5 - 1, all_real(2)).x[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert "mean" not in encoder.state_dict()


def test_masks_images_and_short_clips() -> None:
    encoder, mask = small(), all_real()
    mask[0, 2:] = mask[1, 0] = mask[2] = False
    features = encoder(clips().masked_fill(~mask[:, None, :, None, None], float("nan")), mask)
    assert features.mask.tolist() == [[True], [True], [False]]
    assert (features.x[2] == 0).all()
    shown = clips()
    shown[0, :, 2:] = shown[0, :, 1:2]
    shown[1, :, 0] = shown[1, :, 1]
    torch.testing.assert_close(features.x[:2], encoder(shown[:2], all_real(2)).x)
    torch.testing.assert_close(features.x[:1], encoder(clips()[:1, :, :2], all_real(1, 2)).x)
    still = clips()[:, :, :1].expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(encoder(clips()[:, :, :1], all_real(3, 1)).x, encoder(still, all_real()).x)


def public_state(encoder: C3D, classes: int = 5) -> dict[str, Tensor]:
    """Random weights in the public layout, written down without the encoder's own names."""
    rng = torch.Generator().manual_seed(4)
    width = encoder.conv1.out_channels
    shapes: dict[str, tuple[int, ...]] = {"fc6": (8, encoder.fc6.in_features), "fc7": (8, 8), "fc8": (classes, 8)}
    shapes |= {n: (o * width // 64, 3 if n == "conv1" else i * width // 64, 3, 3, 3) for n, i, o in TABLE}
    state = {f"{name}.weight": torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    return state | {f"{name}.bias": torch.randn(shape[0], generator=rng) for name, shape in shapes.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_public_weights_load_without_their_classes(tmp_path: Path, suffix: str) -> None:
    state, path = public_state(small()), tmp_path / f"c3d{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, path)
    for layer in ("fc6", "fc7"):
        encoder = small(weights=str(path), layer=layer)
        own = {name: t for name, t in state.items() if not name.startswith("fc8" if layer == "fc7" else ("fc7", "fc8"))}
        assert encoder.state_dict().keys() == own.keys()
        assert all(torch.equal(t, own[name]) for name, t in encoder.state_dict().items())
        assert f"c3d{suffix}" in encoder.licence
        again = tmp_path / "again.pth"
        torch.save(encoder.state_dict(), again)
        assert torch.equal(small(weights=str(again), layer=layer).read(clips()), encoder.read(clips()))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path, state = tmp_path / "c3d.pth", public_state(small())
    del state["conv4a.bias"]
    state["conv9.weight"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(
        RecipeError, match=r"encoders.video.weights: .*missing: conv4a.bias; .*unexpected: conv9.weight"
    ):
        small(weights=str(path))
    torch.save(public_state(small()), path)
    with pytest.raises(RecipeError, match=r"of another shape: fc6.weight \(8, 16\), expected \(8, 64\)"):
        small(weights=str(path), size=40)
    with pytest.raises(RecipeError, match=r"encoders.video.weights: no file"):
        small(weights=str(tmp_path / "none.pth"))


def test_a_saved_run_needs_no_weights_file(tmp_path: Path) -> None:
    encoder = small(weights=str(tmp_path / "gone.pth"), kept=tmp_path)
    assert "gone.pth" in encoder.licence
    encoder.keep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert small().licence == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "encoders.video.width: 0, expected >= 1"),
        ({"hidden": 0}, "encoders.video.hidden: 0, expected >= 1"),
        ({"num_frames": 0}, "encoders.video.num_frames: 0, expected >= 1"),
        ({"dropout": 1.0}, r"encoders.video.dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"mean": (1.0, 2.0, 3.0)}, r"encoders.video.mean: .* of signed pixels, expected \[\] or, of bytes"),
        ({"mean": (1.0,), "pixels": "bytes"}, r"encoders.video.mean: \[1\.0\] of bytes .*each of the 3 channels"),
        ({"channels": 1, "channel_order": "bgr"}, "encoders.video.channel_order: bgr of 1 channels, expected rgb"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        small(**options)


@pytest.mark.parametrize("shape", [(1, 2, 4, 20, 20), (1, 3, 5, 20, 20), (1, 3, 4, 20, 40)])
def test_a_clip_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"built for \(3, 20, 20\)|5 frames, expected at most 4"):
        small()(torch.zeros(shape), torch.ones(1, shape[2], dtype=torch.bool))
