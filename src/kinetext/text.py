"""Tokenisers: text <-> token ids, for Chinese and English mixed, behind encode() and decode()."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from kinetext.types import DataError

TokenizerName = Literal["word", "character"]
PAD, UNKNOWN = "<pad>", "<unk>"

# Chinese, Japanese and Korean are written without spaces: each such character is its own token.
_WIDE = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_WIDE}]|[^\W\d_{_WIDE}]+(?:['’][^\W\d_{_WIDE}]+)*|\d|[^\w\s]|_")

# the letters of scripts, by Unicode's blocks
_LETTERS = {
    "Latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Chinese": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "Japanese": "\u3040-\u30ff",
    "Korean": "\u1100-\u11ff\uac00-\ud7af",
    "Cyrillic": "\u0400-\u052f",
    "Greek": "\u0370-\u03ff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Hebrew": "\u0590-\u05ff",
    "Devanagari": "\u0900-\u097f",
    "Thai": "\u0e00-\u0e7f",
}
_SCRIPTS = {name: re.compile(f"[{letters}]") for name, letters in _LETTERS.items()}


def count_scripts(text: str) -> dict[str, int]:
    """Script -> how many letters of a text are in it, where any are. Chinese characters with Japanese ones among them are
    Japanese.
    """
    counts = {name: count for name, letters in _SCRIPTS.items() if (count := len(letters.findall(text)))}
    if "Japanese" in counts:
        counts["Japanese"] += counts.pop("Chinese", 0)
    return counts


def normalised(text: str) -> str:
    """NFKC form, lower case: full-width digits and letters become the plain ones."""
    return unicodedata.normalize("NFKC", text).lower()


def split(text: str, how: TokenizerName) -> list[str]:
    """Text -> tokens. Words: runs of letters, single digits, single Chinese characters, punctuation."""
    plain = normalised(text)
    if how == "word":
        return _TOKEN.findall(plain)
    return list(re.sub(r"\s+", " ", plain).strip())


class Tokenizer:
    """A fixed vocabulary over words or characters. Id 0 pads, id 1 stands for the unknown.

    Args:
        how: "word" or "character".
        vocabulary: the tokens in id order, from ``Tokenizer.train`` or a run folder.
        max_tokens: the longest encoding, >= 1; longer texts are cut and counted by ``length``.
    """

    def __init__(self, how: TokenizerName, vocabulary: Sequence[str], *, max_tokens: int = 32) -> None:
        if tuple(vocabulary[:2]) != (PAD, UNKNOWN):
            raise DataError(f"vocabulary: starts with {list(vocabulary[:2])}, expected {[PAD, UNKNOWN]}")
        if max_tokens < 1:
            raise DataError(f"max_tokens: {max_tokens}, expected >= 1")
        self.how = how
        self.vocabulary = tuple(vocabulary)
        self.max_tokens = max_tokens
        self._ids = {token: i for i, token in enumerate(self.vocabulary)}

    @classmethod
    def train(cls, texts: Iterable[str], how: TokenizerName, *, max_tokens: int = 32, min_count: int = 1) -> Tokenizer:
        """A vocabulary of every token seen at least ``min_count`` times, in sorted order."""
        counts = Counter(token for text in texts for token in split(text, how))
        known = sorted(token for token, count in counts.items() if count >= min_count)
        return cls(how, [PAD, UNKNOWN, *known], max_tokens=max_tokens)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> list[int]:
        """Text -> at most ``max_tokens`` ids; "" -> []."""
        return [self._ids.get(token, 1) for token in split(text, self.how)[: self.max_tokens]]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text: words joined by spaces, but for Chinese characters and punctuation; characters by nothing."""
        tokens = [self.vocabulary[i] for i in ids if i != 0]
        if self.how == "character":
            return "".join(tokens)
        text = " ".join(tokens)
        return re.sub(rf"(?<=[{_WIDE}(\[]) (?=\S)|(?<=\S) (?=[{_WIDE},.;:!?)\]])", "", text)

    def unknown(self, text: str) -> list[str]:
        """The tokens of ``text`` that the vocabulary lacks, in order of appearance."""
        return [token for token in dict.fromkeys(split(text, self.how)) if token not in self._ids]

    def length(self, text: str) -> int:
        """How many tokens ``text`` has before any cut."""
        return len(split(text, self.how))

    def batch(self, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Texts (None = absent) -> tokens ``(B, max_tokens)`` int64 and mask, True = real.

        The width is always ``max_tokens``, so that a text's encoding does not depend on its batch.
        """
        tokens = torch.zeros(len(texts), self.max_tokens, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids = self.encode(text or "")
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens, tokens != 0
