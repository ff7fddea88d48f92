"""Every way to break a role's contract is found, and named. The sound components prove that the flaw is what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.contracts import (
    ContractError,
    check_codec,
    check_dataset,
    check_encoder,
    check_fusion,
    check_task,
)
from kinetext.interfaces import Codec, Dataset, Encoder, Fusion, Shape, Task
from kinetext.types import Batch, Features, Losses, Modality, Prediction, Sample, Target


class Reader(Encoder):
    """A small text encoder with a switch for every flaw."""

    modality: Modality = "text"

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw, self.dim = flaw, 7 if flaw == "dim" else 8
        self.embedding = nn.Embedding(32, 8)
        self.spare = nn.Linear(8, 8) if flaw == "unused" else None
        if flaw == "shared":
            self.twin = nn.Embedding(32, 8)
            self.twin.weight = self.embedding.weight

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        h = self.embedding(x)
        if self.flaw == "leaks":
            h = h + h.mean(1, keepdim=True)
        if self.flaw == "batch":
            h = h - h.mean(0, keepdim=True)
        if self.flaw == "mask":
            mask = torch.ones_like(mask)
        if self.flaw == "infinite":
            h = h / 0
        return Features(h, mask)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("dim", "gives width 8, and says dim = 7"),
        ("unused", r"no gradient reaches spare\.weight, spare\.bias"),
        ("shared", "the state dict can't be saved"),
        ("leaks", "masked positions changes the features"),
        ("batch", "other rows of its batch"),
        ("mask", "missing modality has features"),
        ("infinite", "not finite"),
    ],
)
def test_encoder_flaws(flaw: str, message: str) -> None:
    check_encoder(Reader())
    with pytest.raises(ContractError, match=message):
        check_encoder(Reader(flaw))


class Sum(Fusion):
    """Adds the pooled modalities up, with a switch for every flaw."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw, self.dim = flaw, 32
        self.linear = nn.Linear(32, 32)

    def forward(self, features: Mapping[str, Features]) -> Features:
        pooled = [f.pooled() for f in features.values()]
        if self.flaw == "order":
            pooled[0] = pooled[0] * 2
        if self.flaw == "deaf":
            pooled = [features["text"].pooled()]
        if self.flaw == "garbage":
            pooled = [f.x.mean(1) for f in features.values()]
        x = self.linear(torch.stack(pooled).sum(0)).unsqueeze(1)
        return Features(x, torch.ones(len(x), 1, dtype=torch.bool))


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("order", "order of the modalities"),
        ("deaf", "ignores video where it is the only modality"),
        ("garbage", "masked positions"),
    ],
)
def test_fusion_flaws(flaw: str, message: str) -> None:
    check_fusion(Sum())
    with pytest.raises(ContractError, match=message):
        check_fusion(Sum(flaw))


class Halved(Codec):
    """Keeps every second row of pixels, with a switch for every flaw."""

    kind = "continuous"

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw = flaw

    def encode(self, video: Tensor) -> Tensor:
        target = video[:, :, :, ::2]
        if self.flaw == "kind":
            target = target.long()
        return (target - target.mean(0)) / 2 if self.flaw == "batch" else target

    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        video = target.repeat_interleave(2, dim=3).float()
        video = video.detach() if self.flaw == "detached" else video
        return video * 3 if self.flaw == "range" else video

    def target_shape(self, shape: Shape) -> Shape:
        channels, frames, height, width = shape
        return (channels, frames, height if self.flaw == "shape" else height // 2, width)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("shape", "target_shape says"),
        ("range", r"no float32 video in \[-1, 1\]"),
        ("kind", "says kind = 'continuous'"),
        ("batch", "another target in another batch"),
        ("detached", "decodes without gradients to its target"),
    ],
)
def test_codec_flaws(flaw: str, message: str) -> None:
    check_codec(Halved())
    with pytest.raises(ContractError, match=message):
        check_codec(Halved(flaw))


class Levels(Codec):
    """Tokens of four grey levels, with weights to learn and a switch for every flaw."""

    kind = "tokens"
    vocab = 4

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.flaw = flaw
        self.level_K = nn.Parameter(torch.linspace(-0.9, 0.9, 4))
        self.spare = nn.Parameter(torch.ones(1))

    def encode(self, video: Tensor) -> Tensor:
        ids = (video.mean(1, keepdim=True)[..., None] - self.level_K).abs().argmin(-1)
        return ids + 1 if self.flaw == "vocab" else ids

    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        return self.level_K[target.clamp(max=3)].expand(shape).clamp(-1, 1)

    def target_shape(self, shape: Shape) -> Shape:
        return (1, *shape[1:])

    def reconstruct(self, video: Tensor, *, rng: Rng) -> tuple[Tensor, Losses]:
        noise = torch.rand((), generator=None if self.flaw == "global" else rng)
        made = self.level_K[self.encode(video).clamp(max=3)].expand_as(video) + 0.01 * noise
        made = made[:, :, :1] if self.flaw == "short" else made
        return made, Losses(self.level_K.sum() if self.flaw == "unused" else self.spare.square().sum())

    def last_weight(self) -> nn.Parameter:
        return nn.Parameter(torch.ones(1)) if self.flaw == "last" else self.level_K


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("vocab", r"not in \[0, vocab\), and says vocab = 4"),
        ("short", r"reconstructs \(3, 1, 1, 32, 32\), not \(3, 1, 4, 32, 32\)"),
        ("unused", "no gradient reaches spare"),
        ("global", "with the same rng differ"),
        ("last", "last_weight is none of its parameters"),
    ],
)
def test_learned_codec_flaws(flaw: str, message: str) -> None:
    check_codec(Levels())
    with pytest.raises(ContractError, match=message):
        check_codec(Levels(flaw))


class Duel(Task):
    """Two players, each with a weight of its own, with a switch for every flaw."""

    def __init__(self, flaw: str = "") -> None:
        super().__init__()
        self.players = ("left", "right")
        self.flaw = flaw
        self.left, self.right = nn.Linear(1, 2), nn.Linear(1, 2)

    def parameters_of(self, player: str) -> list[tuple[str, nn.Parameter]]:
        mine = [player]
        if self.flaw == "shared":
            mine = ["left", "right"]
        if self.flaw == "forgotten":
            mine = ["left"] if player == "left" else []
        return [(n, p) for n, p in self.named_parameters() if n.split(".")[0] in mine]

    def _logits(self, batch: Batch, name: str) -> Tensor:
        real = batch.video_mask.any(1)[:, None, None, None, None]
        video = batch.video if self.flaw == "garbage" else torch.where(real, batch.video, 0.0)
        x = video.mean((1, 2, 3, 4))[:, None]
        if self.flaw == "batch":
            x = x - x.mean()
        return self.get_submodule(name)(x)

    def loss(self, batch: Batch, *, player: str, rng: Rng) -> Losses:
        return Losses(self._logits(batch, player).square().mean())

    def predict(self, batch: Batch, *, rng: Rng | Sequence[Rng]) -> Prediction:
        logits = self._logits(batch, "left") + self._logits(batch, "right")
        return Prediction({"side": logits if self.flaw == "range" else logits.softmax(-1)})


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("shared", "belongs to both left and right"),
        ("forgotten", r"no player trains right\.weight"),
        ("garbage", "masked video changes the loss"),
        ("range", r"not in \[0, 1\]"),
        ("batch", "changes with the other rows"),
    ],
)
def test_task_flaws(flaw: str, message: str) -> None:
    batch = Batch(
        keys=("a", "b"),
        video=torch.linspace(-1, 1, 48).view(2, 1, 2, 3, 4),
        video_mask=torch.ones(2, 2, dtype=torch.bool),
        text=("", ""),
        tokens=torch.zeros(2, 1, dtype=torch.int64),
        token_mask=torch.zeros(2, 1, dtype=torch.bool),
        labels={},
        weight=torch.ones(2),
    )
    check_task(Duel(), batch)
    with pytest.raises(ContractError, match=message):
        check_task(Duel(flaw), batch)


class Grey(Dataset):
    """Grey clips, with a switch for every flaw."""

    targets = (Target("shade", ("dark", "light")),)
    video_shape = (1, 2, 4, 4)
    fixed = True

    def __init__(self, flaw: str = "") -> None:
        self.flaw = flaw

    def __len__(self) -> int:
        return 3

    def __getitem__(self, draw: int) -> Sample:
        index = draw if self.flaw == "epoch" else draw % 3
        key = "same" if self.flaw == "keys" else f"grey-{index}"
        level = 2.0 if self.flaw == "range" else index / 2
        level = -level if self.flaw == "stale" and draw >= 3 else level
        video = torch.full((1, 2, 4, 8 if self.flaw == "shape" else 4), level)
        if self.flaw == "dice":
            video = torch.rand(1, 2, 4, 4)
        return Sample(key, video, labels={"shade": ("mauve" if self.flaw == "class" else "light",)})

    def counts(self, column: str) -> tuple[int, ...]:
        return (1, 1, 1) if self.flaw == "counts" else (0, 3)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("epoch", "an epoch later"),
        ("stale", "says that its clips are fixed"),
        ("keys", "the same key"),
        ("range", r"not in \[-1, 1\]"),
        ("shape", "promised"),
        ("dice", "two different samples"),
        ("class", "mauve"),
        ("counts", "counts 3 classes"),
    ],
)
def test_dataset_flaws(flaw: str, message: str) -> None:
    check_dataset(Grey())
    with pytest.raises(ContractError, match=message):
        check_dataset(Grey(flaw))
