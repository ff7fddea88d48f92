"""Trunks from torchvision: found by name, loaded strictly, and what their weights expect and come under."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms.v2 import functional as T

from kinetext.nn.torchvision_models import Pixels, image_models, trunk
from kinetext.types import RecipeError

SMALL = "mobilenet_v3_small"  # 2.5 million parameters


def small(weights: str = "", name: str = SMALL, kept: bool = False) -> nn.Module:
    return trunk("encoders.video.backbone", name, image_models(), weights, kept=kept).network


def state_of(name: str = SMALL) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(models.get_model(name, weights=None).state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchvision looks for what it has fetched before."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_pixels_are_those_of_torchvisions_transforms() -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    frames = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    expected = T.normalize(T.resize(frames, [6, 6], antialias=True), list(mean), list(std))
    torch.testing.assert_close(Pixels(mean, std, 6)(frames * 2 - 1), expected)
    square = frames[..., :9]
    torch.testing.assert_close(Pixels(mean, std, 9)(square * 2 - 1), T.normalize(square, list(mean), list(std)))


def test_one_channel_is_seen_as_three() -> None:
    gray = torch.rand(2, 1, 4, 4) * 2 - 1
    pixels = trunk("backbone", SMALL, image_models(), "").pixels(1, 4)
    assert torch.equal(pixels(gray), pixels(gray.expand(-1, 3, -1, -1)))
    assert not pixels.state_dict()
    with pytest.raises(RecipeError, match=r"encoders\.video\.channels: 2, expected 3, or 1"):
        trunk("backbone", SMALL, image_models(), "").pixels(2, 4)


def test_every_head_is_found() -> None:
    """The dim of a trunk is the width that torchvision's own classifier of 1000 classes reads."""
    widths = {"squeezenet1_1": 512, "densenet121": 1024, "vit_b_32": 768, "vgg11": 4096, "maxvit_t": 512, "swin_t": 768}
    for name, width in widths.items():
        with torch.device("meta"):
            found = trunk("backbone", name, image_models(), "")
            whole = models.get_model(name, weights=None)
        assert found.dim == width, name
        gone = set(whole.state_dict()) - set(found.network.state_dict())
        assert {whole.state_dict()[key].shape[0] for key in gone} == {1000}, name


def test_names_that_cannot_be_reloaded_are_left_out() -> None:
    assert {"resnet18", "vgg11", "inception_v3", "convnext_tiny", "vit_b_16"} <= set(image_models())
    assert not [name for name in image_models() if name.startswith("mnasnet")]
    plain = models.mnasnet0_5(weights=None)
    with pytest.raises(ValueError, match="version should be set to 1 or 2"):
        plain.load_state_dict(dict(plain.state_dict()))


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(
        RecipeError,
        match=r"encoders\.video\.backbone: no model 'resnet8', did you mean 'resnet18'\?; expected one of al",
    ):
        small(name="resnet8")
    with pytest.raises(
        RecipeError, match=r"weights: 'IMAGNET1K_V1', did you mean 'IMAGENET1K_V1'\?; expected one of D"
    ):
        small("IMAGNET1K_V1")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_is_loaded(tmp_path: Path, suffix: str) -> None:
    import safetensors.torch

    state, path = state_of(), tmp_path / f"whole.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    loaded = small(str(path)).state_dict()
    assert set(state) - set(loaded) == {"classifier.3.weight", "classifier.3.bias"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = state_of()
    state["classifier.9.bias"] = state.pop("classifier.3.bias")
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(RecipeError) as error:
        small(str(tmp_path / "bad.pth"))
    assert "encoders.video.weights: the weights do not fit" in str(error.value)
    assert "1 keys missing: classifier.3.bias" in str(error.value)
    assert "1 keys unexpected: classifier.9.bias" in str(error.value)
    with pytest.raises(RecipeError, match=r"encoders\.video\.weights: no file '.*none\.pth'"):
        small(str(tmp_path / "none.pth"))


def test_numbers_that_are_not_finite_are_refused_but_in_the_head(tmp_path: Path) -> None:
    state = state_of()
    state["classifier.3.weight"].fill_(float("nan"))
    torch.save(state, tmp_path / "head.pth")
    small(str(tmp_path / "head.pth"))
    state["classifier.0.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "lower.pth")
    with pytest.raises(RecipeError, match=r"lower\.pth has numbers that are not finite: classifier\.0\.weight"):
        small(str(tmp_path / "lower.pth"))


def test_torchvisions_own_weights_come_from_its_cache(cache: Path) -> None:
    member = models.get_model_weights(SMALL).DEFAULT
    state = state_of()
    torch.save(state, cache / Path(member.url).name)
    found = trunk("backbone", SMALL, image_models(), "DEFAULT")
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.network.state_dict().items())
    preset = member.transforms()
    assert (list(found.mean), list(found.std), [found.side]) == (preset.mean, preset.std, preset.crop_size)
    assert found.licence == (
        "torchvision mobilenet_v3_small IMAGENET1K_V1: code BSD-3-Clause, weights trained on ImageNet-1K "
        "(research terms of that set)"
    )


def test_names_of_old_densenet_files_are_understood(cache: Path) -> None:
    """They hold norm.1 for norm1, and no counters of batches."""
    state = state_of("densenet121")
    old = {}
    for name, tensor in state.items():
        for part in ("norm", "conv"):
            for place in "12":
                name = name.replace(f".{part}{place}.", f".{part}.{place}.") if ".denselayer" in name else name
        if not name.endswith("num_batches_tracked"):
            old[name] = tensor
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, cache / Path(models.DenseNet121_Weights.DEFAULT.url).name)
    loaded = small("IMAGENET1K_V1", "densenet121").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())


def test_what_cannot_be_read_says_where_to_get_it(cache: Path) -> None:
    url = models.get_model_weights(SMALL).DEFAULT.url
    (cache / Path(url).name).write_bytes(b"half a file")
    with pytest.raises(RecipeError, match=r"weights: IMAGENET1K_V1 can't be fetched and read \(.*\); get https://"):
        small("DEFAULT")


def test_kept_reads_nothing_and_says_the_same(cache: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        file = trunk("backbone", SMALL, image_models(), str(tmp_path / "gone.pth"), kept=True)
        own = trunk("backbone", "vit_b_16", image_models(), "IMAGENET1K_SWAG_E2E_V1", kept=True)
    assert "started from the weights in gone.pth (their own licence)" in file.licence
    assert "IMAGENET1K_SWAG_E2E_V1" in own.licence
    assert "https://github.com/facebookresearch/SWAG/blob/main/LICENSE" in own.licence
    assert (own.side, own.fixed) == (384, True)
    assert own.network.image_size == 384
    assert not list(cache.iterdir())
    assert trunk("backbone", SMALL, image_models(), "").licence == ""
