"""The tokeniser that a pretrained text model was trained with, behind the methods of ``kinetext.text.Tokenizer``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from kinetext.nn.pretrained import folder_of, library
from kinetext.types import DataError, RecipeError, joined


class PretrainedTokenizer:
    """A tokeniser of the transformers library: WordPiece, BPE or Unigram, as its files say.

    Encodings have the special tokens that the model expects ([CLS] ... [SEP], ... </s>), and a text that is cut keeps
    them. A text of which nothing is left (empty, or white space alone) has none: it is absent.

    Args:
        source: a folder with the tokeniser's files, or a name on the Hugging Face hub.
        max_tokens: the longest encoding, special tokens counted in, at most what the model reads; longer texts are
            cut and counted by ``length``.
        revision: branch, tag or commit on the hub; "" is its main branch.

    Raises:
        RecipeError: no such folder or name, or it holds no tokeniser.
        DataError: ``max_tokens`` leaves no room for a text, or is more than the model reads.
    """

    def __init__(self, source: str | Path, max_tokens: int = 32, *, revision: str = "") -> None:
        self._tokenizer = opened(folder_of("encoders.text", str(source), revision, weights=False))
        special, longest = self._tokenizer.num_special_tokens_to_add(), self._tokenizer.model_max_length
        if not special < max_tokens <= longest:
            most = f" and at most {longest}" if longest < 10**9 else ""  # the library's "no limit" is a huge number
            raise DataError(
                f"text.max_tokens: {max_tokens}, expected at least {special + 1} ({special} are special){most}, "
                f"what {source} reads"
            )
        self.max_tokens = max_tokens

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens in id order, as the tokeniser writes them ("##ing", "▁the"); "" where an id is not in use."""
        return tuple(token or "" for token in self._tokenizer.convert_ids_to_tokens(range(len(self))))

    def __len__(self) -> int:
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Text -> at most ``max_tokens`` ids, special tokens among them; "" -> []."""
        return self._ids(text, max_length=self.max_tokens)

    def decode(self, ids: Iterable[int]) -> str:
        """Ids -> text without special tokens, joined as the tokeniser does."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def unknown(self, text: str) -> list[str]:
        """The parts of ``text`` that become the unknown token, in order of appearance; tokenisers over bytes have
        none.
        """
        plain = {"add_special_tokens": False, "verbose": False}
        unknown = self._tokenizer.unk_token_id
        if self._tokenizer.is_fast:
            found = self._tokenizer(text, return_offsets_mapping=True, **plain)
            places = zip(found["input_ids"], found["offset_mapping"], strict=True)
            words = [text[start:end] for i, (start, end) in places if i == unknown]
        else:  # these do not say where a token stood
            words = [word for word in text.split() if unknown in self._tokenizer(word, **plain)["input_ids"]]
        return [word for word in dict.fromkeys(words) if word]

    def length(self, text: str) -> int:
        """How many tokens ``text`` has before any cut, special tokens counted in; "" has none."""
        return len(self._ids(text, max_length=None))

    def batch(self, texts: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Texts (None = absent) -> tokens ``(B, max_tokens)`` int64 and mask, True = real.

        The width is always ``max_tokens``, so that a text's encoding does not depend on its batch.
        """
        tokens = torch.full((len(texts), self.max_tokens), self._tokenizer.pad_token_id or 0, dtype=torch.int64)
        mask = torch.zeros(len(texts), self.max_tokens, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids = self.encode(text or "")
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
            mask[row, : len(ids)] = True
        return tokens, mask

    def _ids(self, text: str, max_length: int | None) -> list[int]:
        """The ids of ``text``, [] where all of them are special."""
        if not text.strip():  # tokenisers over bytes have tokens for white space
            return []
        found = self._tokenizer(
            text,
            truncation=max_length is not None,
            max_length=max_length,
            return_special_tokens_mask=True,
            verbose=False,
        )
        return [] if all(found["special_tokens_mask"]) else list(found["input_ids"])


def opened(folder: Path) -> Any:
    """The tokeniser of transformers whose files are in ``folder``.

    Raises:
        RecipeError: there is none, or it can't be read.
    """
    try:
        found = library().AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except RecipeError:
        raise
    except Exception as error:  # foreign files, a class that needs another library
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"encoders.text.model: {folder} has no tokeniser that can be read ({reason})") from error
    names = set(found.vocab_files_names.values())
    # without any, the library makes one that knows nothing; those over bytes need none
    if names and not any((folder / name).is_file() for name in names | {"tokenizer.json"}):
        raise RecipeError(f"encoders.text.model: {folder} has no tokeniser, expected {joined(sorted(names))}")
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    """The files, by name, that a folder needs to have the tokeniser of ``folder``."""
    with TemporaryDirectory() as place:
        opened(folder).save_pretrained(place)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir()) if path.is_file()}
