"""Pretrained video models against transformers' own forward, on frames that its own processors prepared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinetext.contracts import check_encoder
from kinetext.encoders.pretrained_video import PretrainedVideo
from kinetext.types import RecipeError

Pooling = Literal["none", "mean", "first", "pooler"]
SIZE, FRAMES, BATCH = 16, 4, 3
TINY = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
CLIP = {"image_size": SIZE, "num_frames": FRAMES}
SEEN = {"image_mean": [0.1, 0.4, 0.6], "image_std": [0.2, 0.3, 0.5]}  # unlike any default
AREA = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}


def seeded(cls: type[Any], config: Any) -> Any:
    """A model whose every weight and bias is random."""
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def videomae(cls: type[Any] = transformers.VideoMAEForPreTraining, mean: bool = False) -> Any:
    config = transformers.VideoMAEConfig(
        **TINY, **CLIP, patch_size=8, use_mean_pooling=mean, decoder_hidden_size=16, decoder_num_attention_heads=2,
        decoder_num_hidden_layers=1, decoder_intermediate_size=16,
    )  # fmt: skip
    return seeded(cls, config)


def timesformer() -> Any:
    config = transformers.TimesformerConfig(**TINY, **CLIP, patch_size=8)
    return seeded(transformers.TimesformerForVideoClassification, config)


def vivit(cls: type[Any] = transformers.VivitModel) -> Any:
    return seeded(cls, transformers.VivitConfig(**TINY, **CLIP, tubelet_size=[2, 8, 8]))


def vjepa2(cls: type[Any] = transformers.VJEPA2ForVideoClassification) -> Any:
    config = transformers.VJEPA2Config(
        patch_size=8, crop_size=SIZE, frames_per_clip=FRAMES, hidden_size=24, num_attention_heads=2,
        num_hidden_layers=2, mlp_ratio=2.0, num_pooler_layers=1, pred_hidden_size=24, pred_num_attention_heads=2,
        pred_num_hidden_layers=1, pred_num_mask_tokens=1,
    )  # fmt: skip
    return seeded(cls, config)


def xclip() -> Any:
    vision = TINY | CLIP | {"patch_size": 8, "mit_hidden_size": 12, "mit_intermediate_size": 16}
    vision |= {"mit_num_hidden_layers": 1, "mit_num_attention_heads": 2}
    config = transformers.XCLIPConfig(
        text_config=TINY | {"vocab_size": 9, "max_position_embeddings": 8}, vision_config=vision, projection_dim=12,
        prompt_num_attention_heads=2,
    )  # fmt: skip
    return seeded(transformers.XCLIPModel, config)


@dataclass(frozen=True)
class Case:
    """A model, its processor, and what transformers makes of a prepared clip ``(B, T, C, H, W)``."""

    build: Callable[[], Any]
    processor: Callable[[], Any]
    tokens: Callable[[Any, Tensor], Tensor] | None
    pooler: Callable[[Any, Tensor], Tensor] | None = None
    first: bool = False


def hidden(part: str) -> Callable[[Any, Tensor], Tensor]:
    def read(model: Any, pixels: Tensor) -> Tensor:
        found: Tensor = model.get_submodule(part)(pixels).last_hidden_state
        return found

    return read


def processor(cls: type[Any], **options: Any) -> Callable[[], Any]:
    return lambda: cls(**(AREA | SEEN | options))


vjepa2_processor = processor(transformers.VJEPA2VideoProcessor, crop_size=SIZE)
classifier_of_videomae = lambda: videomae(transformers.VideoMAEForVideoClassification, mean=True)  # noqa: E731
image = transformers.VideoMAEImageProcessor  # what checkpoints on the hub have, X-CLIP as well
early = processor(transformers.VivitImageProcessor, offset=False, rescale_factor=1 / 255)
CASES = {
    "videomae": Case(videomae, processor(transformers.VideoMAEVideoProcessor), hidden("videomae")),
    "videomae, classifier": Case(classifier_of_videomae, processor(image), hidden("videomae")),
    "timesformer": Case(timesformer, processor(image), hidden("timesformer"), first=True),
    "timesformer, video": Case(
        timesformer, processor(transformers.TimesformerVideoProcessor), hidden("timesformer"), first=True
    ),
    "vivit": Case(
        vivit, processor(transformers.VivitImageProcessor), hidden(""), lambda m, x: m(x).pooler_output, first=True
    ),
    "vivit, no offset": Case(vivit, early, hidden(""), first=True),
    "vivit, video": Case(vivit, processor(transformers.VivitVideoProcessor), hidden(""), first=True),
    "vjepa2": Case(vjepa2, vjepa2_processor, hidden("vjepa2"), lambda m, x: m.pooler(m.vjepa2(x).last_hidden_state)),
    "vjepa2, pixels as they are": Case(
        vjepa2, processor(transformers.VJEPA2VideoProcessor, crop_size=SIZE, do_normalize=False), hidden("vjepa2")
    ),
    # transformers gives X-CLIP's vectors of frames to nobody
    "xclip": Case(xclip, processor(image), None, lambda m, x: m.get_video_features(x).pooler_output),
}
KINDS = ["videomae", "timesformer", "vivit", "vjepa2", "xclip"]


def saved(folder: Path, name: str) -> tuple[Any, Any]:
    model, own = CASES[name].build(), CASES[name].processor()
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return model, own


def loaded(folder: Path, pooling: Pooling = "none", size: int = SIZE, kept: Path | None = None) -> PretrainedVideo:
    return PretrainedVideo(model=str(folder), pooling=pooling, num_frames=FRAMES, size=size, kept=kept).eval()


def frames(size: int = SIZE) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``(B, T, H, W, C)``."""
    return np.random.default_rng(0).integers(0, 256, (BATCH, FRAMES, size, size, 3), dtype=np.uint8)


def prepared(own: Any, clips: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """By the checkpoint's own processor; a resize to the size that they have would blur ViViT's and V-JEPA's."""
    made = [own(list(clip), do_resize=False, return_tensors="pt") for clip in clips]
    return torch.cat([found[own.model_input_names[0]] for found in made])


def ours(clips: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[Tensor, Tensor]:
    """Video ``(B, C, T, H, W)`` in [-1, 1], and its mask."""
    video = torch.from_numpy(clips).float().div(127.5).sub(1).permute(0, 4, 1, 2, 3).contiguous()
    return video, torch.ones(video.shape[0], video.shape[2], dtype=torch.bool)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.tokens])
def test_every_token_is_what_transformers_makes_of_it(tmp_path: Path, name: str) -> None:
    model, own = saved(tmp_path, name)
    pixels = prepared(own, frames())
    assert pixels.shape == (BATCH, FRAMES, 3, SIZE, SIZE)
    expected = CASES[name].tokens(model, pixels)  # type: ignore[misc]
    encoder = loaded(tmp_path)
    found = encoder(*ours(frames()))
    assert encoder.dim == expected.shape[2]
    assert found.mask.all()
    torch.testing.assert_close(found.x, expected, rtol=1e-4, atol=1e-5)
    pooled = loaded(tmp_path, "mean")(*ours(frames())).x
    torch.testing.assert_close(pooled, expected.mean(1, keepdim=True), rtol=1e-4, atol=1e-5)
    if CASES[name].first:
        torch.testing.assert_close(loaded(tmp_path, "first")(*ours(frames())).x, expected[:, :1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pooler])
def test_the_pooler_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    model, own = saved(tmp_path, name)
    expected = CASES[name].pooler(model, prepared(own, frames()))  # type: ignore[misc]
    encoder = loaded(tmp_path, "pooler")
    found = encoder(*ours(frames()))
    assert found.x.shape == (BATCH, 1, encoder.dim)
    torch.testing.assert_close(found.x[:, 0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_frames_of_xclip_have_seen_each_other_and_their_mean_is_the_video_embedding(tmp_path: Path) -> None:
    model, own = saved(tmp_path, "xclip")
    expected = model.get_video_features(prepared(own, frames())).pooler_output
    encoder = loaded(tmp_path)
    found = encoder(*ours(frames())).x
    assert found.shape == (BATCH, FRAMES, 12)
    torch.testing.assert_close(found.mean(1), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded(tmp_path, "mean")(*ours(frames())).x[:, 0], expected, rtol=1e-4, atol=1e-5)
    video, mask = ours(frames())
    video[:, :, 3] = 0.0
    assert (encoder(video, mask).x[:, 0] - found[:, 0]).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["videomae", "videomae, classifier", "timesformer, video"])
def test_another_size_is_resized_as_the_processor_does_it(tmp_path: Path, name: str) -> None:
    """It rounds to whole pixels in between, which moves these features by hundredths, and another filter by tenths."""
    model, own = saved(tmp_path, name)
    pixels = torch.cat([own(list(clip), return_tensors="pt").pixel_values for clip in frames(size=40)])
    expected = CASES[name].tokens(model, pixels)  # type: ignore[misc]
    found = loaded(tmp_path, size=40)(*ours(frames(size=40))).x
    assert (found - expected).abs().max() < 0.05 < 0.5 < expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("pooling", ["none", "mean"])
def test_absent_clips_and_frames_say_nothing(tmp_path: Path, name: str, pooling: Pooling) -> None:
    saved(tmp_path, name)
    encoder = loaded(tmp_path, pooling)
    video, mask = ours(frames())
    mask[1, 2:] = mask[2] = False
    found = encoder(video.masked_fill(~mask[:, None, :, None, None], float("nan")), mask)
    assert (found.x[2] == 0).all()
    assert found.mask.any(1).tolist() == [True, True, False]
    # a clip of two frames goes on with its last one
    held = video[1:2, :, [0, 1, 1, 1]]
    torch.testing.assert_close(encoder(held, torch.ones(1, 4, dtype=torch.bool)).x[0], found.x[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(video[1:2, :, :2], mask[1:2, :2]).x[0], found.x[1], rtol=1e-4, atol=1e-5)
    nothing = encoder(video, torch.zeros_like(mask))
    assert torch.equal(nothing.x, torch.zeros_like(found.x))
    assert not nothing.mask.any()


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "pooling"),
    [("videomae", "none"), ("timesformer", "first"), ("vivit", "pooler"), ("vjepa2", "pooler"), ("xclip", "mean")],
)
def test_keep_rebuilds_without_the_checkpoint(tmp_path: Path, name: str, pooling: Pooling) -> None:
    source, kept, again = tmp_path / "source", tmp_path / "kept", tmp_path / "again"
    for folder in (source, kept, again):
        folder.mkdir()
    saved(source, name)
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n", encoding="utf-8")
    encoder = loaded(source, pooling)
    encoder.keep(kept)
    expected = encoder(*ours(frames())).x
    state = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    for file in source.iterdir():
        file.unlink()
    rebuilt = loaded(source, pooling, kept=kept)
    rebuilt.load_state_dict(state)
    assert torch.equal(rebuilt(*ours(frames())).x, expected)
    assert rebuilt.licence == encoder.licence == f"{source}: cc-by-nc-4.0"
    rebuilt.keep(again)
    assert {f.name: f.read_bytes() for f in again.iterdir()} == {f.name: f.read_bytes() for f in kept.iterdir()}


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_learns(tmp_path: Path, name: str) -> None:
    """What has no say, such as the predictor of V-JEPA 2, is not there: it would stop training in several processes."""
    saved(tmp_path, name)
    encoder = loaded(tmp_path)
    found = encoder(*ours(frames()))
    (found.x * torch.randn(found.x.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert [key for key, p in encoder.named_parameters() if p.grad is None] == []
    assert not [key for key in encoder.state_dict() if "predictor" in key or "text" in key or "classifier" in key]


def test_toy_keeps_the_contract_and_is_kept(tmp_path: Path) -> None:
    check_encoder(PretrainedVideo())
    check_encoder(PretrainedVideo(pooling="mean", channels=1, num_frames=3, size=20), shape=(1, 3, 20, 20))
    toy = PretrainedVideo(num_frames=2, size=24).eval()
    toy.keep(tmp_path)
    rebuilt = PretrainedVideo(num_frames=2, size=24, kept=tmp_path).eval()
    rebuilt.load_state_dict(toy.state_dict())
    given = torch.rand(2, 3, 2, 24, 24), torch.ones(2, 2, dtype=torch.bool)
    assert torch.equal(rebuilt(*given).x, toy(*given).x)
    assert toy.licence == rebuilt.licence == ""


def test_dropout_is_on_the_features() -> None:
    encoder = PretrainedVideo(dropout=0.5)
    given = torch.rand(4, 3, 4, 64, 64), torch.ones(4, 4, dtype=torch.bool)
    assert 0.4 < (encoder(*given).x == 0).float().mean() < 0.6
    assert (encoder.eval()(*given).x != 0).all()
    with pytest.raises(RecipeError, match=r"encoders\.video\.dropout: -0\.1, expected 0 <= dropout < 1"):
        PretrainedVideo(dropout=-0.1)


EARLY = {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": SIZE, "do_center_crop": False, **SEEN}


@pytest.mark.parametrize("early", [False, True])
def test_statistics_are_those_of_the_file_and_no_weights(tmp_path: Path, early: bool) -> None:
    """Checkpoints of 2022 name another class, give one number for the size, and rescale without saying so."""
    saved(tmp_path, "timesformer")
    if early:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(EARLY), encoding="utf-8")
    encoder = loaded(tmp_path)
    mean, std = (torch.tensor(SEEN[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    torch.testing.assert_close(encoder.scale, 0.5 / std, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encoder.shift, (0.5 - mean) / std, rtol=1e-5, atol=1e-5)
    assert {"scale", "shift"} <= {name for name, _ in encoder.named_buffers()}
    assert all(name.startswith("network.") for name in encoder.state_dict())


def test_a_missing_processor_is_said(tmp_path: Path) -> None:
    videomae().save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"encoders\.video\.model: .* has no video_preprocessor_config\.json, pre"):
        loaded(tmp_path)


def test_a_processor_inside_a_whole_one_is_found(tmp_path: Path) -> None:
    """As transformers 5 writes those of models of two sides."""
    saved(tmp_path, "xclip")
    apart = tmp_path / "preprocessor_config.json"
    nested = {"processor_class": "XCLIPProcessor", "image_processor": json.loads(apart.read_text())}
    expected = loaded(tmp_path)(*ours(frames())).x
    apart.unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps(nested), encoding="utf-8")
    assert torch.equal(loaded(tmp_path)(*ours(frames())).x, expected)


@pytest.mark.parametrize("name", ["preprocessor", "video_preprocessor", "processor"])
def test_a_processor_that_can_not_be_read_is_said(tmp_path: Path, name: str) -> None:
    videomae().save_pretrained(tmp_path)
    (tmp_path / f"{name}_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"encoders\.video\.model: the processor of .* can't be read"):
        loaded(tmp_path)


def test_a_processor_for_another_size_is_refused(tmp_path: Path) -> None:
    videomae().save_pretrained(tmp_path)
    processor(image, crop_size={"height": 24, "width": 24})().save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"makes frames of \(24, 24\) pixels, its model reads \(16, 16\)"):
        loaded(tmp_path)


def test_other_clips_than_the_checkpoint_reads_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "vjepa2")
    with pytest.raises(RecipeError, match=rf"data\.num_frames: 8, expected 4, what {tmp_path} reads"):
        PretrainedVideo(model=str(tmp_path), num_frames=8, size=SIZE)
    with pytest.raises(RecipeError, match=r"encoders\.video\.model: .* reads 3 channels, the data has 1"):
        PretrainedVideo(model=str(tmp_path), num_frames=FRAMES, size=SIZE, channels=1)
    with pytest.raises(ValueError, match="video: 1 channels, this encoder was built for 3"):
        loaded(tmp_path)(torch.zeros(1, 1, FRAMES, SIZE, SIZE), torch.ones(1, FRAMES, dtype=torch.bool))
    with pytest.raises(ValueError, match="video: 5 frames, expected at most 4"):
        loaded(tmp_path)(torch.zeros(1, 3, 5, SIZE, SIZE), torch.ones(1, 5, dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "pooling", "legal"),
    [
        ("videomae", "first", "none, mean"),
        ("timesformer", "pooler", "none, mean, first"),
        ("vjepa2", "first", "none, mean, pooler"),
        ("xclip", "first", "none, mean, pooler"),
    ],
)
def test_what_a_model_can_not_pool_is_refused(tmp_path: Path, name: str, pooling: Pooling, legal: str) -> None:
    saved(tmp_path, name)
    with pytest.raises(RecipeError, match=rf"encoders\.video\.pooling: '{pooling}', but a {name} has {legal}$"):
        loaded(tmp_path, pooling)


@pytest.mark.parametrize(
    ("name", "cls", "lost"),
    [("vivit", transformers.VivitForVideoClassification, "dense"), ("vjepa2", transformers.VJEPA2Model, "cross_att")],
)
def test_a_pooler_without_weights_is_refused(tmp_path: Path, name: str, cls: type[Any], lost: str) -> None:
    """The library would fill it with random numbers."""
    saved(tmp_path, name)
    {"vivit": vivit, "vjepa2": vjepa2}[name](cls).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=rf"the weights of .* do not fit: \d+ keys missing: .*pooler\.{lost}"):
        loaded(tmp_path, "pooler")
    assert loaded(tmp_path)(*ours(frames())).x.isfinite().all()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("videomae", "videomae.encoder.layer.1.attention.attention.q_bias"),
        ("timesformer", "timesformer.embeddings.time_embeddings"),
        ("vjepa2", "vjepa2.encoder.layernorm.weight"),
        ("xclip", "mit.position_embedding"),
    ],
)
def test_a_corrupted_checkpoint_is_refused(tmp_path: Path, name: str, key: str) -> None:
    saved(tmp_path, name)
    weights = load_file(tmp_path / "model.safetensors")
    weights[f"{key}_old"] = weights.pop(key)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    end = key.rpartition(".")[2].replace("q_bias", "query.bias")
    with pytest.raises(RecipeError, match=rf"1 keys missing: [\w.]*{end}; 1 keys unexpected: [\w.]*_old$"):
        loaded(tmp_path)


def test_what_is_no_video_model_is_refused(tmp_path: Path) -> None:
    said = "is a vit, expected one of videomae, timesformer, vivit, vjepa2, xclip"
    transformers.ViTConfig(**TINY).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=rf"encoders\.video\.model: .* {said}"):
        loaded(tmp_path)
    transformers.TimesformerConfig(**TINY, **CLIP, attention_type="space_only").save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"encoders\.video\.model: .* attends to space only"):
        loaded(tmp_path)
