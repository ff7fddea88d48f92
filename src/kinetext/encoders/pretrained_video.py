"""A pretrained video model of the transformers library: VideoMAE, TimeSformer, ViViT, V-JEPA 2, X-CLIP's video side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.clips import on_present, whole_clips
from kinetext.nn.pretrained import Checkpoint, library, opened, toy
from kinetext.types import Features, Modality, RecipeError, joined

_FIELD = "encoders.video"


@dataclass(frozen=True)
class _Reads:
    """What a model reads and makes, as its configuration says.

    Args:
        size: height and width of its frames in pixels.
        tokens: vectors that it makes of a clip.
        dim: their width.
        pooled: the width of what its pooler makes.
    """

    channels: int
    frames: int
    size: tuple[int, int]
    tokens: int
    dim: int
    pooled: int


def _videomae(config: Any) -> _Reads:
    size, dim = _pair(config.image_size), config.hidden_size
    tokens = _patches(size, _pair(config.patch_size)) * (config.num_frames // config.tubelet_size)
    return _Reads(config.num_channels, config.num_frames, size, tokens, dim, dim)


def _timesformer(config: Any) -> _Reads:
    size, dim = _pair(config.image_size), config.hidden_size
    tokens = 1 + _patches(size, _pair(config.patch_size)) * config.num_frames
    return _Reads(config.num_channels, config.num_frames, size, tokens, dim, dim)


def _vivit(config: Any) -> _Reads:
    size, (frames, *patch) = _pair(config.image_size), config.tubelet_size
    tokens = 1 + _patches(size, _pair(patch)) * (config.num_frames // frames)
    return _Reads(config.num_channels, config.num_frames, size, tokens, config.hidden_size, config.pooler_output_size)


def _vjepa2(config: Any) -> _Reads:
    size, dim = _pair(config.crop_size), config.hidden_size
    tokens = _patches(size, _pair(config.patch_size)) * (config.frames_per_clip // config.tubelet_size)
    return _Reads(config.in_chans, config.frames_per_clip, size, tokens, dim, dim)


def _xclip(config: Any) -> _Reads:
    sees = config.vision_config
    dim = sees.mit_hidden_size
    return _Reads(sees.num_channels, sees.num_frames, _pair(sees.image_size), sees.num_frames, dim, dim)


def _frames_of_xclip(network: Any, clips: Tensor) -> Tensor:
    """One vector a frame; their mean is the video embedding of ``get_video_features``."""
    seen = network.vision_model(pixel_values=clips.flatten(0, 1)).pooler_output
    frames: Tensor = network.mit(network.visual_projection(seen).unflatten(0, clips.shape[:2])).last_hidden_state
    return frames


def _last_hidden_state(network: Any, clips: Tensor) -> Tensor:
    h: Tensor = network(pixel_values=clips).last_hidden_state
    return h


@dataclass(frozen=True)
class _Family:
    """How models of one kind are used.

    Args:
        reads: its configuration -> what it reads and makes.
        tokens: network, clips ``(B, T, C, H, W)`` -> ``(B, tokens, dim)``.
        unused: parts that have no say in the tokens.
        first: whether the first token stands for the whole clip.
        pooler: network, clips -> ``(B, pooled)``; None where it has none.
        pooler_class: the model that has the pooler, "" where it is the same.
        pooler_unused: parts that have no say in what the pooler makes.
    """

    reads: Callable[[Any], _Reads]
    tokens: Callable[[Any, Tensor], Tensor]
    unused: tuple[str, ...] = ()
    first: bool = False
    pooler: Callable[[Any, Tensor], Tensor] | None = None
    pooler_class: str = ""
    pooler_unused: tuple[str, ...] = ()

    def poolings(self) -> list[str]:
        return ["none", "mean", *(["first"] if self.first else []), *(["pooler"] if self.pooler else [])]


_TEXT_OF_XCLIP = (
    "text_model", "text_projection", "logit_scale", "prompts_generator", "prompts_visual_layernorm",
    "prompts_visual_projection",
)  # fmt: skip
_FAMILIES: Mapping[str, _Family] = {
    "videomae": _Family(_videomae, _last_hidden_state),
    "timesformer": _Family(_timesformer, _last_hidden_state, first=True),
    "vivit": _Family(
        _vivit,
        _last_hidden_state,
        unused=("pooler",),
        first=True,
        pooler=lambda network, clips: network(pixel_values=clips).pooler_output,
    ),
    "vjepa2": _Family(
        _vjepa2,
        lambda network, clips: network.get_vision_features(clips),
        unused=("predictor",),
        pooler=lambda network, clips: network.pooler(network.vjepa2.get_vision_features(clips)),
        pooler_class="VJEPA2ForVideoClassification",
        pooler_unused=("vjepa2.predictor", "classifier"),
    ),
    "xclip": _Family(
        _xclip,
        _frames_of_xclip,
        unused=_TEXT_OF_XCLIP,
        pooler=lambda network, clips: network.get_video_features(pixel_values=clips).pooler_output,
        pooler_unused=_TEXT_OF_XCLIP,
    ),
}


class PretrainedVideo(Encoder):
    """Reads clips with a model that has seen many before (Tong et al. 2022, "VideoMAE"; Bertasius et al. 2021,
    "TimeSformer"; Arnab et al. 2021, "ViViT"; Assran et al. 2025, "V-JEPA 2"; Ni et al. 2022, "X-CLIP").

    Frames are resized to the checkpoint's size as a whole (bilinear, antialiased) and normalised as its own processor
    does; the number of frames has to be the checkpoint's. A masked frame shows the one before it. The model learns on
    with the rest; in training its own dropout is active, as its configuration has it.

    Args:
        channels: of the video, >= 1 (decided by the assembly).
        num_frames: of a clip, what the checkpoint reads (decided by the assembly).
        size: side of a frame in pixels, for which a toy is built; a checkpoint has its own (decided by the assembly).
        model: a folder that transformers' ``save_pretrained`` wrote, with the processor, or a name on the Hugging
            Face hub, such as "MCG-NJU/videomae-base". "" is a tiny VideoMAE of random weights, for tests.
        revision: branch, tag or commit on the hub; "" is its main branch.
        pooling: "none" gives the model's vectors, one a patch of space and time (of X-CLIP one a frame); the others
            one a clip: "mean" of these, the "first", which is the class token (TimeSformer, ViViT), or "pooler", what
            the model itself makes of a clip (ViViT, V-JEPA 2 trained to classify; X-CLIP: its video embedding).
        dropout: on the features, in [0, 1).
        kept: folder that ``keep`` wrote to (decided by the assembly).

    Raises:
        RecipeError: there is no such model or processor, its weights do not fit, it reads other clips or pools
            otherwise, or a value is out of range.
    """

    modality: Modality = "video"
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        channels: int = 3,
        num_frames: int = 4,
        size: int = 64,
        model: str = "",
        revision: str = "",
        pooling: Literal["none", "mean", "first", "pooler"] = "none",
        dropout: float = 0.0,
        kept: Path | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise RecipeError(f"{_FIELD}.dropout: {dropout}, expected 0 <= dropout < 1")
        if model or kept:
            self._checkpoint = opened(_FIELD, model, revision, kept)
        else:
            self._checkpoint = _toy(channels, num_frames, size)
        self.licence = self._checkpoint.licence
        self._family = _family(self._checkpoint, pooling)
        self._reads = self._family.reads(self._checkpoint.config)
        if self._reads.channels != channels:
            raise RecipeError(f"{_FIELD}.model: {model} reads {self._reads.channels} channels, the data has {channels}")
        if self._reads.frames != num_frames:
            raise RecipeError(f"data.num_frames: {num_frames}, expected {self._reads.frames}, what {model} reads")
        self.pooling = pooling
        self.dim = self._reads.pooled if pooling == "pooler" else self._reads.dim
        self._processor = _processor(self._checkpoint) if model else None
        scale, shift = _statistics(self._checkpoint, self._processor, self._reads)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.network = _network(self._checkpoint, self._family, pooling)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Video ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, T)`` -> Features ``(B, tokens or 1, dim)``."""
        if x.shape[1] != self._reads.channels:
            raise ValueError(f"video: {x.shape[1]} channels, this encoder was built for {self._reads.channels}")
        present = mask.any(1)
        length = self._reads.tokens if self.pooling == "none" else 1
        clips = whole_clips(x, mask, self._reads.frames)
        h = on_present(self._read, clips, present, (length, self.dim))
        real = present.unsqueeze(1).expand(-1, length)
        return Features(self.dropout(h).masked_fill(~real.unsqueeze(-1), 0.0), real)

    def keep(self, folder: Path) -> None:
        """Writes the model's configuration, its licence and its processor's."""
        self._checkpoint.keep(folder)
        if self._processor is not None:
            self._processor.save_pretrained(folder)

    def _read(self, clips: Tensor) -> Tensor:
        """Whole clips ``(B, C, T, H, W)`` in [-1, 1] -> ``(B, tokens or 1, dim)``."""
        frames = clips.transpose(1, 2)
        if frames.shape[-2:] != self._reads.size:
            flat = F.interpolate(frames.flatten(0, 1), self._reads.size, mode="bilinear", antialias=True)
            frames = flat.unflatten(0, frames.shape[:2])
        pixels = frames * self.scale + self.shift
        if self.pooling == "pooler":
            assert self._family.pooler is not None
            return self._family.pooler(self.network, pixels).unsqueeze(1)
        h = self._family.tokens(self.network, pixels)
        if self.pooling == "first":
            return h[:, :1]
        return h.mean(1, keepdim=True) if self.pooling == "mean" else h


def _toy(channels: int, num_frames: int, size: int) -> Checkpoint:
    config = library().VideoMAEConfig(
        image_size=size, patch_size=max(1, size // 4), num_channels=channels, num_frames=num_frames,
        tubelet_size=2 if num_frames % 2 == 0 else 1, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, use_mean_pooling=False,
    )  # fmt: skip
    return toy(_FIELD, config)


def _family(checkpoint: Checkpoint, pooling: str) -> _Family:
    kind = checkpoint.config.model_type
    if kind not in _FAMILIES:
        raise RecipeError(f"{_FIELD}.model: {checkpoint.name} is a {kind}, expected one of {joined(list(_FAMILIES))}")
    if kind == "timesformer" and checkpoint.config.attention_type == "space_only":
        raise RecipeError(f"{_FIELD}.model: {checkpoint.name} attends to space only, expected one that sees time")
    family = _FAMILIES[kind]
    if pooling not in family.poolings():
        raise RecipeError(f"{_FIELD}.pooling: {pooling!r}, but a {kind} has {joined(family.poolings())}")
    return family


def _network(checkpoint: Checkpoint, family: _Family, pooling: str) -> Any:
    transformers = library()
    plain = transformers.MODEL_MAPPING[type(checkpoint.config)]
    if pooling != "pooler":
        return checkpoint.network(plain, family.unused)
    cls = getattr(transformers, family.pooler_class) if family.pooler_class else plain
    return checkpoint.network(cls, family.pooler_unused)


def _processor(checkpoint: Checkpoint) -> Any:
    """What prepares pixels for the model, as the checkpoint's own files say."""
    folder = checkpoint.folder
    assert folder is not None, "a toy has no processor"
    transformers, whole = library(), folder / "processor_config.json"
    try:
        parts = json.loads(whole.read_text(encoding="utf-8")) if whole.is_file() else {}
        if "video_processor" in parts or (folder / "video_preprocessor_config.json").is_file():
            return transformers.AutoVideoProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        if "image_processor" in parts or (folder / "preprocessor_config.json").is_file():
            return transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # no JSON, unknown classes
        raise RecipeError(f"{_FIELD}.model: the processor of {checkpoint.name} can't be read ({error})") from error
    raise RecipeError(
        f"{_FIELD}.model: {checkpoint.name} has no video_preprocessor_config.json, preprocessor_config.json or "
        f"processor_config.json, so its size and statistics of pixels are not known"
    )


def _statistics(checkpoint: Checkpoint, processor: Any, reads: _Reads) -> tuple[Tensor, Tensor]:
    """``scale`` and ``shift``, ``(C, 1, 1)``: video in [-1, 1] times the one plus the other is what the model reads.

    They are what the processor makes of a black and of a white clip, so that whatever it does to a pixel counts.
    """
    if processor is None:
        return torch.ones(reads.channels, 1, 1), torch.zeros(reads.channels, 1, 1)
    area = processor.crop_size if processor.do_center_crop else processor.size
    sides = (area.get("height") or area.get("shortest_edge"), area.get("width") or area.get("shortest_edge"))
    if sides != reads.size:
        raise RecipeError(
            f"{_FIELD}.model: the processor of {checkpoint.name} makes frames of {sides} pixels, "
            f"its model reads {reads.size}"
        )

    def made_of(pixel: int) -> Tensor:
        clip = [np.full((32, 32, reads.channels), pixel, dtype=np.uint8)] * 2
        found = processor(clip, do_resize=False, do_center_crop=False, return_tensors="pt")
        values: Tensor = found[processor.model_input_names[0]]
        return values.float().flatten(0, -4)[0, :, :1, :1]

    black, white = made_of(0), made_of(255)
    return (white - black) / 2, (white + black) / 2


def _pair(value: Any) -> tuple[int, int]:
    """Height and width of a size that a configuration gives as one number or two."""
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _patches(size: tuple[int, int], patch: tuple[int, int]) -> int:
    return (size[0] // patch[0]) * (size[1] // patch[1])
