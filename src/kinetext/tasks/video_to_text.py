"""Video to text: a video encoder and a generator of tokens that writes captions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kinetext.interfaces import Encoder, Generator, Shape, Task
from kinetext.reading import encode, freeze, still
from kinetext.text import Tokenizer
from kinetext.types import Batch, Features, Losses, Modality, Prediction, RecipeError


class Writer(Protocol):
    """A generator that can be asked for its likeliest text, or for others."""

    def sample(
        self,
        shape: Shape,
        cond: Features,
        *,
        rng: torch.Generator | Sequence[torch.Generator],
        steps: int,
        guidance: float,
        temperature: float | None,
    ) -> Tensor: ...


class VideoToText(Task):
    """Learns to say what a clip shows (Venugopalan et al. 2015, "Sequence to Sequence -- Video to Text", section 3, with
    the generator in the place of their LSTM).

    A text is a target ``(B, 1, L, 1, 1)``, a frame a token: its tokens, then one id more that ends it; what follows the
    end is absent. A text that was cut to the tokeniser's length ends at the cut. The features of the clip are the
    generator's condition. A sample without a text teaches nothing, and one without a clip teaches the language.

    Args:
        encoders: ``{"video": encoder}``.
        generator: of tokens, for targets of ``text_shape`` and ``len(tokenizer) + 1`` ids.
        tokenizer: of the texts.
        temperature: of the draws, >= 0; 0 writes the likeliest token each time.
        guidance: how much the clip's part in the text is exaggerated, >= 0; 1 is as learned.
        frozen: modalities whose encoders stay as they begin; what they make of a clip that is the same in every
            epoch is kept on disk, so that they run once a clip.

    Raises:
        RecipeError: when the parts or options can't work together.
    """

    writes_text = True

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        generator: Generator,
        tokenizer: Tokenizer,
        *,
        temperature: float = 0.0,
        guidance: float = 1.0,
        frozen: tuple[Modality, ...] = (),
    ) -> None:
        super().__init__()
        if set(encoders) != {"video"}:
            raise RecipeError(f"encoders: {sorted(encoders)}, expected video alone")
        if temperature < 0:
            raise RecipeError(f"task.temperature: {temperature}, expected >= 0")
        if guidance < 0:
            raise RecipeError(f"task.guidance: {guidance}, expected >= 0")
        freeze(encoders, frozen)
        self.encoders = nn.ModuleDict(encoders)
        self.frozen = frozen
        self.generator = generator
        self.players = generator.players
        self.tokenizer = tokenizer
        self.temperature, self.guidance = temperature, guidance

    def train(self, mode: bool = True) -> VideoToText:
        """Frozen encoders stay in evaluation mode."""
        super().train(mode)
        still(self.encoders, self.frozen)
        return self

    def parameters_of(self, player: str) -> Iterable[tuple[str, nn.Parameter]]:
        """Those of the generator's player; the last player also trains the video encoder."""
        named = [(f"generator.{name}", p) for name, p in self.generator.parameters_of(player)]
        if player == self.players[-1]:
            named += [(f"encoders.{name}", p) for name, p in self.encoders.named_parameters() if p.requires_grad]
        return named

    def loss(self, batch: Batch, *, player: str, rng: torch.Generator) -> Losses:
        with torch.set_grad_enabled(torch.is_grad_enabled() and player == self.players[-1]):
            cond = encode(self.encoders, batch)["video"]
        return self.generator.loss(self.target(batch), cond, player=player, rng=rng)

    @torch.no_grad()
    def predict(self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator]) -> Prediction:
        return self.write(batch, rng=rng, temperature=self.temperature)

    @torch.no_grad()
    def write(
        self, batch: Batch, *, rng: torch.Generator | Sequence[torch.Generator], temperature: float
    ) -> Prediction:
        """A text for every clip of the batch; its texts are not looked at."""
        cond = encode(self.encoders, batch)["video"]
        shape = (len(batch), *text_shape(self.tokenizer))
        ids = cast("Writer", self.generator).sample(
            shape, cond, rng=rng, steps=1, guidance=self.guidance, temperature=temperature
        )
        return Prediction(text=tuple(self._said(row) for row in ids.flatten(1).tolist()))

    def target(self, batch: Batch) -> Tensor:
        """``(B, 1, L, 1, 1)`` int64: what is to be written, -1 after its end."""
        length_B1 = batch.token_mask.sum(1, keepdim=True)
        ids_BL = F.pad(batch.tokens.masked_fill(~batch.token_mask, -1), (0, 1), value=-1)
        place_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        ends_BL = (place_L == length_B1) & (length_B1 > 0)
        return ids_BL.masked_fill(ends_BL, len(self.tokenizer))[:, None, :, None, None]

    def _said(self, ids: list[int]) -> str:
        end = len(self.tokenizer)
        return self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)


def text_shape(tokenizer: Tokenizer) -> Shape:
    """(C', T', H', W') of a text: its longest encoding, and its end."""
    return (1, tokenizer.max_tokens + 1, 1, 1)
