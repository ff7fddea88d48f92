"""What a user hands to a model, texts, clips and vectors, as samples; what can't be read is said."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from kinetext import video
from kinetext.checkpoint import Run
from kinetext.text import Tokenizer
from kinetext.tokenizers import PretrainedTokenizer
from kinetext.types import DataError, Modality, Sample, joined


class TextWarning(UserWarning):
    """A text that the model can read only in part."""


class Inputs:
    """Reads what is handed to one model.

    Args:
        name: of the model.
        run: which says what it reads, and in what shape.
        tokenizer: what turns its texts into tokens; None when it reads none.
    """

    def __init__(self, name: str, run: Run, tokenizer: Tokenizer | PretrainedTokenizer | None) -> None:
        self.name, self.run, self.tokenizer = name, run, tokenizer

    def check_prompt(self, name: str, prompt: str) -> None:
        """Refuses a text that says nothing to the model; ``name`` is the option that it is.

        Raises:
            DataError: it is empty, or has no word that the model knows.
        """
        if not prompt.strip():
            raise DataError(f"{name}: empty, expected a description of the clip")
        assert self.tokenizer is not None
        own = isinstance(self.tokenizer, Tokenizer)  # a pretrained one spells out what it does not know
        if own and all(token == 1 for token in self.tokenizer.encode(prompt)):
            words = [w for w in self.tokenizer.vocabulary[2:] if len(w) > 1 or w.isalnum()]
            raise DataError(f"{name}: {self.name} knows no word of {prompt!r}; it knows {_some(words)}")
        self.warn(prompt)

    def warn(self, text: str) -> None:
        """Says what of a text the model can't see."""
        assert self.tokenizer is not None
        length, most = self.tokenizer.length(text), self.tokenizer.max_tokens
        if unknown := self.tokenizer.unknown(text):
            warnings.warn(f"{self.name} does not know: {joined(unknown)}", TextWarning, stacklevel=5)
        if length > most:
            warnings.warn(f"{self.name} reads {most} tokens, the rest of {length} is cut", TextWarning, stacklevel=5)

    def samples(
        self,
        text: str | Tensor | Sequence[str | Tensor | None] | None,
        video: str | Path | Tensor | Sequence[str | Path | Tensor | None] | None,
    ) -> list[Sample]:
        """Texts, clips or pairs; one, or as many of each. What is None is absent.

        Raises:
            DataError: nothing given, something that this model does not read, or a clip that can't be used.
        """
        texts: Sequence[str | Tensor | None] = [text] if text is None or isinstance(text, (str, Tensor)) else text
        videos = [video] if video is None or isinstance(video, (str, Path, Tensor)) else video
        texts = [None] * len(videos) if text is None else texts
        videos = [None] * len(texts) if video is None else videos
        if len(texts) != len(videos):
            raise DataError(f"predict: {len(texts)} texts and {len(videos)} clips, expected as many of each")
        return [self._sample(f"input {i}", t, v) for i, (t, v) in enumerate(zip(texts, videos, strict=True))]

    def _sample(self, key: str, text: str | Tensor | None, clip: str | Path | Tensor | None) -> Sample:
        """One input as the model reads it."""
        text = None if isinstance(text, str) and not text.strip() else text
        if text is None and clip is None:
            raise DataError(f"{key}: neither text nor video, expected one or both")
        reads = self.run.recipe.encoders
        for modality, present in (("text", text is not None), ("video", clip is not None)):
            if present and modality not in reads:
                raise DataError(f"{key}: {self.name} reads no {modality}, only {joined(sorted(reads))}")
        vectors: dict[Modality, Tensor] = {}
        given: tuple[tuple[Modality, object], ...] = (("text", text), ("video", clip))
        for name, one in given:
            if one is not None and name in self.run.meta.vector_dims:
                if not isinstance(one, Tensor):
                    raise DataError(
                        f"{key}: {self.name} reads precomputed vectors, expected a tensor (L, D) for {name}"
                    )
                vectors[name] = one
        if isinstance(text, Tensor) and "text" not in vectors:
            raise DataError(f"{key}: {self.name} reads written text, expected a string")
        written = text if isinstance(text, str) and "text" not in vectors else None
        if written is not None:
            self.warn(written)
        seen = self.clip(clip) if isinstance(clip, (str, Path)) else clip
        return Sample(key, video=None if "video" in vectors else seen, text=written, vectors=vectors)

    def clip(self, path: str | Path, start: float | None = None, end: float | None = None) -> Tensor:
        """A file, or its part from ``start`` to ``end`` seconds, as the model saw files in training.

        Raises:
            DataError: it can't be read.
        """
        shape, args = self.run.meta.video_shape, self.run.recipe.data.args
        if shape is None:
            raise DataError(f"{path}: {self.name} reads no clips")
        return video.read_clip(
            path,
            start=start,
            end=end,
            num_frames=shape[1],
            size=shape[2],
            channels=shape[0],
            fit=args.get("fit", "crop"),
            region=args.get("region", video.WHOLE),
            clip_seconds=args.get("clip_seconds") or None,
            decoder=args.get("decoder", "auto"),
            isolated=args.get("isolated", False),
        )


def _some(words: Sequence[str], most: int = 40) -> str:
    return joined(words[:most]) + (", ..." if len(words) > most else "")
