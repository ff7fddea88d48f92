"""The roles, on one page. A component is one final class in one file that implements one of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.text import TokenizerName
from kinetext.types import (
    Batch,
    DataError,
    Features,
    Known,
    Losses,
    Modality,
    Prediction,
    Sample,
    Start,
    Target,
    joined,
)

Shape = tuple[int, ...]
Registry = Mapping[str, type[Any]]
# What a generator can be asked for besides a text: to keep whole frames, or any part of a clip, at a closer pace; to change
# a clip; to take more or fewer steps; to follow the text more or less closely (guidance other than 1); to keep away from another text;
# to be guided by another text from some time on.
Ability = Literal["known frames", "known cells", "pace", "start", "steps", "guidance", "negative", "late text"]


class Encoder(nn.Module, ABC):
    """Turns one modality into features of width ``dim``.

    ``forward(x, mask)``: text takes ``x (B, L)`` int64 tokens and ``mask (B, L)``; video takes
    ``x (B, C, T, H, W)`` in [-1, 1] and ``mask (B, T)``. What stands at masked positions must not
    matter.

    One that can start from pretrained weights has the option ``kept: Path | None = None`` (decided by the assembly):
    the folder that ``keep`` once wrote to. With it, the encoder builds itself from that folder and loads no
    pretrained weights, since those of the run follow.
    """

    modality: Modality
    dim: int
    reads_vectors: ClassVar[bool] = False  # precomputed vectors (B, L, D) instead of tokens or frames
    own_tokenizer: ClassVar[bool] = False  # a pretrained one, of the same name or folder as its option ``model``
    max_tokens: int | None = None  # the longest text that it reads; None is any
    licence: str = ""  # of the pretrained weights that it started from, for the card; "" where there are none

    @abstractmethod
    def forward(self, x: Tensor, mask: Tensor) -> Features: ...

    @classmethod
    def vocabulary(cls, trained: Sequence[str], how: TokenizerName, args: Mapping[str, Any]) -> tuple[str, ...]:
        """The vocabulary of a text encoder with these options: that of a tokeniser trained on the training texts, in id
        order, and whatever it adds to it.
        """
        return tuple(trained)

    def keep(self, folder: Path) -> None:
        """Writes into ``folder``, which exists, what rebuilds this encoder besides its recipe and weights (a pretrained
        model's configuration, a tokeniser); nothing, unless it says otherwise.
        """


class Fusion(nn.Module, ABC):
    """Joins the features of several modalities into features of width ``dim``; any may be absent."""

    dim: int

    @abstractmethod
    def forward(self, features: Mapping[str, Features]) -> Features: ...


class Codec(nn.Module, ABC):
    """Maps video to the space a generator works in, and back.

    ``kind`` says whether targets are continuous latents ``(B, C', T', H', W')`` float, or token ids of the same
    rank, int64 in [0, ``vocab``).
    """

    kind: Literal["continuous", "tokens"]
    vocab: int = 0  # how many different tokens there are; 0 where targets are continuous

    @abstractmethod
    def encode(self, video: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` in [-1, 1] -> target."""

    @abstractmethod
    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        """Target -> video of ``shape`` = (B, C, T, H, W), clamped to [-1, 1]."""

    @abstractmethod
    def target_shape(self, shape: Shape) -> Shape:
        """(C, T, H, W) of a video -> (C', T', H', W') of its target."""

    def reconstruct(self, video: Tensor, *, rng: Rng) -> tuple[Tensor, Losses]:
        """What a codec is trained by: ``video (B, C, T, H, W)`` through encoder and decoder, with gradients to all of its
        weights.

        Returns:
            The decoded video, which is not clamped, and what the codec adds to the loss of reconstruction.

        Raises:
            ValueError: this codec has nothing to learn.
        """
        raise ValueError(f"{type(self).__name__} has nothing to learn")

    def last_weight(self) -> nn.Parameter:
        """The weight of the last layer of the decoder of a codec that learns, by whose gradients losses are balanced.

        Raises:
            ValueError: this codec has nothing to learn.
        """
        raise ValueError(f"{type(self).__name__} has nothing to learn")


class Generator(nn.Module, ABC):
    """Learns the distribution of targets given a condition. A game: every player has its own turn, and the last one
    also trains what makes the condition.

    The assembly gives a constructor those of ``channels``, ``num_frames``, ``height``, ``width`` (of the target),
    ``vocab`` (of token targets) and ``cond_dim`` (width of the condition) that it names.
    """

    kind: Literal["continuous", "tokens"]
    players: tuple[str, ...] = ("model",)
    abilities: ClassVar[frozenset[Ability]] = frozenset()
    whole_clips: ClassVar[bool] = False  # it can't learn from some frames of a clip
    max_steps: int | None = None  # of its sampler; None has no limit of its own
    writes_text: ClassVar[bool] = False  # its ``sample`` takes a ``temperature``, as a writer of texts needs

    def parameters_of(self, player: str) -> Iterable[tuple[str, nn.Parameter]]:
        """Named trainable parameters that ``player`` learns; players share none."""
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    @abstractmethod
    def check(self, shape: Shape) -> None:
        """Refuses, by a ValueError, a target shape (C', T', H', W') that it can't learn."""

    @abstractmethod
    def loss(self, target: Tensor, cond: Features, *, player: str, rng: Rng, frames: Tensor | None = None) -> Losses:
        """What ``player`` minimises on targets ``(B, C', T', H', W')``; token ids below 0 are absent: they are neither
        seen nor learned.

        Args:
            frames: ``(T',)`` int64, ascending: which frames of the clip the target holds; None is 0 to T' - 1.
        """

    @abstractmethod
    def sample(
        self,
        shape: Shape,
        cond: Features,
        *,
        rng: Rng | Sequence[Rng],
        steps: int,
        guidance: float,
        known: Known | None = None,
        start: Start | None = None,
        negative: Features | None = None,
        late: Features | None = None,
    ) -> Tensor:
        """A target of ``shape`` = (B, C', T', H', W').

        Args:
            rng: one, or one for every row.
            steps: >= 1, of a sampler that has steps, which is an ability; others have their own number, and don't look at it.
            guidance: 1 follows the text as learned, more exaggerates it, 0 ignores it.
            known: what is given and kept.
            start: what is changed.
            negative: features of a text to keep away from, of use with guidance above 1.
            late: features of a text whose words alone are exaggerated by guidance above 1 from some time of the sampler on,
                which the generator knows; ``cond`` is followed as learned then.

        Raises:
            DataError: something is asked for that is not among ``abilities``.
        """

    def refuse(
        self,
        guidance: float,
        known: Known | None,
        start: Start | None,
        negative: Features | None,
        late: Features | None,
    ) -> None:
        """Refuses what is asked for and not among ``abilities``.

        Raises:
            DataError: naming it.
        """
        asked: dict[Ability, bool] = {
            "known frames": known is not None and bool((known.frames()[:, None, :, None, None] == known.cells()).all()),
            "pace": known is not None and known.pace != 1,
            "start": start is not None,
            "guidance": guidance != 1,
            "negative": negative is not None,
            "late text": late is not None,
        }
        asked["known cells"] = known is not None and not asked["known frames"]
        for ability, wanted in asked.items():
            if wanted and ability not in self.abilities:
                name, can = type(self).__module__.rpartition(".")[2], joined(sorted(self.abilities))
                raise DataError(f"{ability}: {name} can't do that; it can do {can}")

    def draft(
        self, shape: Shape, cond: Features, *, rng: Rng, steps: int, frames: Tensor | None = None, whole: bool = False
    ) -> Tensor:
        """What a reward can teach: a target of ``shape`` that is still being made, with gradients, a pure function of
        the weights and ``rng``.

        Args:
            steps: of the sampler that it is on the way of, >= 2.
            frames: as in ``loss``.
            whole: that it is at the end of that way, and all of it has gradients.

        Raises:
            ValueError: this generator makes nothing that gradients could go through.
        """
        raise ValueError(f"{type(self).__name__} has no drafts that a reward could teach")

    def times(self, steps: int) -> list[float]:
        """Where a sampler of ``steps`` steps stands on its way: ``steps + 1`` times from 0, noise, to 1, data.

        Raises:
            ValueError (``noised`` and ``carried`` too): the way to data is not one that a few long steps could be taught to go: it has fresh noise, or
                there is none.
        """
        raise ValueError(f"{type(self).__name__} has no way from noise to data that could be gone in few steps")

    def noised(self, target: Tensor, noise: Tensor, t: float) -> Tensor:
        """Where targets and the noise that they could come from stand at time ``t`` in [0, 1] of that way."""
        raise ValueError(f"{type(self).__name__} has no way from noise to data that could be gone in few steps")

    def carried(
        self, z: Tensor, cond: Features, times: Sequence[float], *, guidance: float, late: Features | None = None
    ) -> Tensor:
        """``z``, which stands at the first of ``times``, after a step of the sampler to each of the others: a pure
        function of the weights and arguments, with gradients. ``late`` as ``sample`` takes it.
        """
        raise ValueError(f"{type(self).__name__} has no way from noise to data that could be gone in few steps")


class Reward(ABC):
    """Says how far clips that are being made are from what their texts ask for."""

    def frames(self, total: int, *, rng: Rng) -> Tensor:
        """Which of ``total`` frames it looks at this time, ascending int64; all, unless it says otherwise."""
        return torch.arange(total, device=rng.device)

    @abstractmethod
    def loss(self, batch: Batch, video: Tensor, *, rng: Rng) -> Tensor:
        """A scalar with gradients to ``video (B, C, T, H, W)``, these frames of clips made for the texts of
        ``batch``; less is better.
        """


class Task(nn.Module, ABC):
    """What is learned: turns a batch into a loss, and into an answer."""

    players: tuple[str, ...] = ("model",)
    frozen: tuple[Modality, ...] = ()  # modalities whose encoders stay as they begin
    writes_text: ClassVar[bool] = False  # in the tokens of a vocabulary, which it needs without reading any

    def parameters_of(self, player: str) -> Iterable[tuple[str, nn.Parameter]]:
        """Named trainable parameters that ``player``'s optimiser owns; players share none."""
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad]

    @abstractmethod
    def loss(self, batch: Batch, *, player: str, rng: Rng) -> Losses: ...

    @abstractmethod
    def predict(self, batch: Batch, *, rng: Rng | Sequence[Rng]) -> Prediction: ...

    def forward(self, batch: Batch, player: str, rng: Rng) -> Losses:
        """``loss`` under the name that distributed wrappers call."""
        return self.loss(batch, player=player, rng=rng)

    def plain(self) -> Task:
        """The task without the methods around it: what is saved, averaged and used after training."""
        return self


class Maker(Task):
    """A task that makes targets for texts, by a generator: what a method that teaches generators can wrap."""

    generator: Generator
    target_size: Shape  # (C', T', H', W')

    @abstractmethod
    def condition(self, batch: Batch) -> Features:
        """What the generator is told of the texts of ``batch``."""

    def late(self, batch: Batch) -> Features | None:
        """What the generator is told by guidance late on its way; None where that is ``condition``."""
        return None

    @abstractmethod
    def target(self, batch: Batch) -> Tensor:
        """What the generator learns to make, of the clips of ``batch``, without gradients."""

    def rewarded(self, batch: Batch, learned: Callable[[Batch], Losses], *, rng: Rng) -> Losses:
        """``learned`` of the batch; or of a part of it, and what a reward loses on clips made for the texts of the rest."""
        return learned(batch)


class Method(Task):
    """Wraps a task and is a task, while it is trained: distillation, adversarial training, continual learning.

    It says what is learned. Parameters, answers and what is saved are those of the task, so that a run opens without its
    method.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.players, self.frozen = task.players, task.frozen

    def parameters_of(self, player: str) -> Iterable[tuple[str, nn.Parameter]]:
        return self.task.parameters_of(player)

    def predict(self, batch: Batch, *, rng: Rng | Sequence[Rng]) -> Prediction:
        return self.task.predict(batch, rng=rng)

    def plain(self) -> Task:
        return self.task.plain()


class Dataset(ABC):
    """Samples by draw. ``index = draw % len`` names the sample; ``draw // len`` is the epoch and only
    turns the random choices (which clip, which phrasing), so an item is a pure function of the draw.
    """

    targets: tuple[Target, ...] = ()  # label columns this set can give
    video_shape: Shape | None = None  # (C, T, H, W) of every clip, None without video
    fps: float = 0.0  # frames a second of the sampled clips, 0 where it varies
    splits: tuple[str, ...] = ("train", "val", "test")  # those that have samples
    fixed_text: bool = False  # whether the text of an index is the same in every epoch
    fixed: bool = False  # whether the video of an index is the same in every epoch
    vector_dims: Mapping[Modality, int] = {}  # modality -> width of the precomputed vectors that stand for it

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, draw: int) -> Sample: ...

    def __getitems__(self, draws: Sequence[int]) -> list[Sample]:
        """Several samples; override it where many are cheaper together (torch's loader asks for batches)."""
        return [self[draw] for draw in draws]

    def texts(self) -> Iterable[str]:
        """Every text a vocabulary should be built from."""
        return ()

    def counts(self, column: str) -> tuple[int, ...]:
        """How often each class of ``column`` occurs, in class order; () where it is not known."""
        return ()

    def numbers(self, column: str) -> tuple[float, ...]:
        """What stands in ``column``, a column of numbers, in the rows that have one."""
        return ()

    def still(self, index: int) -> Sample:
        """The sample of ``index`` without its clip, which is not read."""
        return replace(self[index], video=None)

    def fingerprint(self, index: int) -> str:
        """What the clip of ``index`` is made from: the content of its file, and how it is read. Two samples of the
        same fingerprint have the same clip; "" where that is not known.
        """
        return ""


class Metric(ABC):
    """Collects predictions and says numbers."""

    errors: ClassVar[frozenset[str]] = frozenset()  # last parts of the names of those that are better when smaller

    @abstractmethod
    def update(self, prediction: Prediction, batch: Batch) -> None: ...

    @abstractmethod
    def take(self, other: Self) -> None:
        """Adds what another one of the same kind was told."""

    @abstractmethod
    def compute(self) -> dict[str, float]: ...

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Number -> (low, high), where 95 % of resamples by group fall; those that it can say this of."""
        return {}
