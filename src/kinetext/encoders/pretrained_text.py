"""A pretrained text model of the transformers library: BERT, MacBERT, RoBERTa, T5, CLIP's text side, and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.clips import on_present
from kinetext.nn.pretrained import Checkpoint, library, opened, toy
from kinetext.tokenizers import files_of
from kinetext.types import Features, Modality, RecipeError

_FIELD = "encoders.text"
# models of two sides, by their configuration's type -> what reading text does not need
_TWO_SIDED = {
    "clip": ("vision_model", "visual_projection", "logit_scale"),
    "chinese_clip": ("vision_model", "visual_projection", "logit_scale"),
    "xclip": (
        "vision_model", "visual_projection", "logit_scale", "mit", "prompts_generator",
        "prompts_visual_layernorm", "prompts_visual_projection",
    ),
}  # fmt: skip
# they read every text padded to one length and without a mask, which would have to be done here as well
_REFUSED = ("siglip", "siglip_text_model", "siglip2", "siglip2_text_model")
# their positions are counted from the padding token's id on
_POSITIONS_AFTER_PAD = (
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl",
)  # fmt: skip


class PretrainedText(Encoder):
    """Reads text with a model that has read much of it before (Devlin et al. 2019, "BERT"; Liu et al. 2019,
    "RoBERTa"; Raffel et al. 2020, "T5"; Radford et al. 2021, "CLIP"; Yang et al. 2022, "Chinese CLIP").

    Of an encoder and decoder, such as T5, the encoder is taken, of CLIP the text side. The model comes with its own
    tokeniser (``kinetext.tokenizers``). It learns on with the rest; in training its own dropout is active, as its
    configuration has it. ``max_tokens`` says how long a text it has positions for, None where these are relative.

    Args:
        vocab: ids that its tokeniser has, at most what the model knows (decided by the assembly).
        model: a folder that transformers' ``save_pretrained`` wrote, or a name on the Hugging Face hub, such as
            "google-bert/bert-base-uncased" or "hfl/chinese-macbert-base". "" is a tiny BERT of random weights, for
            tests.
        revision: branch, tag or commit on the hub; "" is its main branch.
        pooling: "none" gives one vector a token; the others one a text: "mean" over its tokens, that of its "first"
            ([CLS] of BERT) or "last" one (models that read from left to right), or "pooler", what the model itself
            makes of a text (for CLIP, the text's place in the space that it shares with pictures).
        dropout: on the features, in [0, 1).
        kept: folder that ``keep`` wrote to (decided by the assembly).

    Raises:
        RecipeError: there is no such model, its weights do not fit, it has no pooler, or a value is out of range.
    """

    modality: Modality = "text"
    own_tokenizer: ClassVar[bool] = True  # texts are to be encoded by the tokeniser of ``model``

    def __init__(
        self,
        *,
        vocab: int = 32,
        model: str = "",
        revision: str = "",
        pooling: Literal["none", "mean", "first", "last", "pooler"] = "none",
        dropout: float = 0.0,
        kept: Path | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise RecipeError(f"{_FIELD}.dropout: {dropout}, expected 0 <= dropout < 1")
        self.pooling = pooling
        self._checkpoint = opened(_FIELD, model, revision, kept) if model or kept else _toy(vocab)
        self._files = files_of(self._checkpoint.folder) if model and self._checkpoint.folder else {}
        self.licence = self._checkpoint.licence
        self._projects = pooling == "pooler" and self._checkpoint.config.model_type in _TWO_SIDED
        self.network = _network(self._checkpoint, pooling)
        config = self.network.config.text_config if self._projects else self.network.config
        if vocab > config.vocab_size:
            raise RecipeError(f"{_FIELD}.model: {model} knows {config.vocab_size} tokens, its tokeniser has {vocab}")
        self._pad = config.pad_token_id or 0
        self.max_tokens = _longest(config)
        self.dropout = nn.Dropout(dropout)
        self.dim = self._width()

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Tokens ``(B, L)`` int64 and mask ``(B, L)`` -> Features ``(B, L or 1, dim)``."""
        length = x.shape[1]
        if self.max_tokens is not None and length > self.max_tokens:
            raise ValueError(f"text: {length} tokens, {self._checkpoint.name} reads at most {self.max_tokens}")
        present = mask.any(1)
        real = mask if self.pooling == "none" else present.unsqueeze(1)
        both = torch.stack([x.masked_fill(~mask, self._pad), mask.long()], dim=1)
        h = on_present(self._read, both, present, (real.shape[1], self.dim))
        return Features(self.dropout(h).masked_fill(~real.unsqueeze(-1), 0.0), real)

    def keep(self, folder: Path) -> None:
        """Writes the model's configuration, its licence and the tokeniser's files."""
        self._checkpoint.keep(folder)
        for name, content in self._files.items():
            (folder / name).write_bytes(content)

    def _read(self, both: Tensor) -> Tensor:
        """Tokens and mask ``(B, 2, L)``, no row of them empty -> ``(B, L or 1, dim)``."""
        tokens, real = both.unbind(1)
        read = self.network.get_text_features if self._projects else self.network
        found = read(input_ids=tokens, attention_mask=real)
        if self.pooling == "pooler":
            pooled: Tensor | None = getattr(found, "pooler_output", None)
            if pooled is None:
                kind = self._checkpoint.config.model_type
                raise RecipeError(
                    f"{_FIELD}.pooling: 'pooler', but {kind} has none; expected none, mean, first or last"
                )
            return pooled.unsqueeze(1)
        h: Tensor = found.last_hidden_state
        if self.pooling == "none":
            return h
        if self.pooling == "mean":
            return Features(h, real.bool()).pooled().unsqueeze(1)
        last = real.shape[1] - 1 - real.flip(1).argmax(1)
        place = real.argmax(1) if self.pooling == "first" else last
        return h[torch.arange(len(h), device=h.device), place].unsqueeze(1)

    @torch.no_grad()
    def _width(self) -> int:
        """Of what the network makes of a text, found by a text of two tokens."""
        self.network.eval()
        width = self._read(torch.tensor([[[0, 0], [1, 1]]])).shape[-1]
        self.network.train()
        return width


def _toy(vocab: int) -> Checkpoint:
    config = library().BertConfig(
        vocab_size=vocab, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return toy(_FIELD, config)


def _network(checkpoint: Checkpoint, pooling: str) -> Any:
    """The part of the model that reads text."""
    kind = checkpoint.config.model_type
    if kind in _REFUSED:
        raise RecipeError(
            f"{_FIELD}.model: {checkpoint.name} is a {kind}, which reads texts without a mask; expected another kind"
        )
    transformers = library()
    if kind in _TWO_SIDED:
        cls = transformers.MODEL_MAPPING[type(checkpoint.config)]
        network = checkpoint.network(cls, _TWO_SIDED[kind])
        return network if pooling == "pooler" else network.text_model
    cls = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(checkpoint.config), None)
    whole = cls is None  # an encoder and decoder, or a model that is no encoder by name
    cls = cls or transformers.MODEL_MAPPING.get(type(checkpoint.config), None)
    if getattr(cls, "main_input_name", "") != "input_ids":
        raise RecipeError(f"{_FIELD}.model: {checkpoint.name} is a {kind}, expected a model that reads text")
    network = checkpoint.network(cls, () if pooling == "pooler" else ("pooler",))
    return network.get_encoder() if whole and checkpoint.config.is_encoder_decoder else network


def _longest(config: Any) -> int | None:
    """Tokens that the model has positions for; None where its positions are relative."""
    longest: int | None = getattr(config, "max_position_embeddings", None)
    if longest is not None and config.model_type in _POSITIONS_AFTER_PAD:
        return longest - config.pad_token_id - 1
    return longest
