"""Word vectors, pretrained or learned, and hashed n-grams of words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kinetext.interfaces import Encoder
from kinetext.nn.word_files import frequent_words, read_vectors
from kinetext.text import TokenizerName, normalised, split
from kinetext.types import Features, Modality, RecipeError

_FILE = "encoders.text.file"
_DIM = 64  # where neither the recipe nor a file says it
_SPECIAL = 2  # the ids of <pad> and <unk>
_KEPT = "word_vectors.json"
# polynomial hashing modulo a Mersenne prime (Carter & Wegman 1979): no product passes 63 bits
_PRIME, _BASE = 2**31 - 1, 1_103_515_245


class WordVectors(Encoder):
    """The vectors of a text's words, and if wanted of its n-grams of words, averaged.

    With a file, the words start from its vectors (Word2Vec: Mikolov et al. 2013, "Distributed Representations of Words
    and Phrases"; GloVe: Pennington et al. 2014) and are tuned; a word that the file lacks starts at random with the
    same variance (Kim 2014, "Convolutional Neural Networks for Sentence Classification", section 4.3). Without a file
    all are learned from scratch. The mean with ``ngrams = 2`` is fastText's (Joulin et al. 2017, "Bag of Tricks for
    Efficient Text Classification", section 2): n-grams share ``buckets`` vectors by a hash of their token ids, and
    count in the mean as words do. What is not in the vocabulary counts as a vector of zeros until it is learned.

    ``coverage`` is the share of the vocabulary, in [0, 1], that the file knows; 0 without a file.

    Args:
        vocab: number of token ids (decided by the assembly).
        words: the vocabulary in id order, ``vocab`` words (decided by the assembly).
        kept: folder that ``keep`` once wrote to; with it the file is not read (decided by the assembly).
        file: word vectors in Word2Vec's format, text or binary, or in GloVe's; plain or gzipped. "" = none.
        most: how many of the file's most frequent words join those of the training texts in the vocabulary, see
            ``vocabulary``; >= 0, of no effect without a file.
        dim: width of the features, >= 0; 0 takes the file's, or 64 without a file.
        pooling: "mean" or "max" over words and n-grams gives one vector a text; "none" leaves one vector a word,
            followed by one an n-gram, for a fusion or generator that attends to them.
        ngrams: the longest n-grams in words, 1 to 5; 1 = words alone.
        buckets: vectors that n-grams share, >= 1; of no effect with ``ngrams = 1``.
        dropout: on the vectors, in [0, 1).

    Raises:
        RecipeError: when an option is outside its range, or the file is no file of word vectors, is damaged, has
            another width, or knows none of the words.
    """

    modality: Modality = "text"

    def __init__(
        self,
        *,
        vocab: int = 32,
        words: tuple[str, ...] | None = None,
        kept: Path | None = None,
        file: str = "",
        most: int = 20_000,
        dim: int = 0,
        pooling: Literal["mean", "max", "none"] = "mean",
        ngrams: int = 1,
        buckets: int = 50_000,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        _check_options(most=most, dim=dim, ngrams=ngrams, buckets=buckets, dropout=dropout)
        if words is not None and len(words) != vocab:
            raise RecipeError(f"encoders.text.words: {len(words)} words, expected vocab = {vocab}")
        self.pooling, self.ngrams, self.buckets = pooling, ngrams, buckets
        self.coverage = 0.0
        self.from_file = file != ""
        vectors: Mapping[str, Tensor] = {}
        found = dim or _DIM
        if self.from_file and kept is not None:
            found, self.coverage = _read_kept(kept)
        elif self.from_file:
            vectors = _vectors(file, words)
            found = len(next(iter(vectors.values())))
        if dim not in (0, found):
            raise RecipeError(f"encoders.text.dim: {dim}, expected 0 or {found}, the width of the vectors in {file}")
        self.dim = found
        self.licence = f"word vectors of {Path(file).name}, under the terms of their makers" if file else ""
        self.embedding = nn.Embedding(vocab, self.dim)
        # small: a rare word must not drown what was learned of the others by the noise that it began with (LOG.md); for
        # a maximum, each number has to win against those of other words to learn at all
        nn.init.normal_(self.embedding.weight, std=0.1 if pooling == "max" else 0.01)
        if vectors and words is not None:
            self.coverage = _start_from(self.embedding.weight, words, vectors)
        else:
            nn.init.zeros_(self.embedding.weight[:_SPECIAL])
        self.grams: nn.Embedding | None = None
        if ngrams > 1:
            self.grams = nn.Embedding(buckets, self.dim)
            if pooling == "max":  # each has to win against words to learn at all
                nn.init.normal_(self.grams.weight, std=self.embedding.weight.std().item())
            else:  # fastText's: so small that n-grams never seen in training say next to nothing
                nn.init.uniform_(self.grams.weight, -1 / self.dim, 1 / self.dim)
        self.dropout = nn.Dropout(dropout)

    @classmethod
    def vocabulary(cls, trained: Sequence[str], how: TokenizerName, args: Mapping[str, Any]) -> tuple[str, ...]:
        """The words of the training texts, then those of the first ``most`` of the file that the tokeniser makes from a
        text as one token and that are not there yet, in the file's order: so texts to come may hold words that the
        training texts lack.

        Args:
            trained: a tokeniser's vocabulary in id order.
            how: which tokeniser.
            args: the options; without a ``file`` nothing is added.

        Raises:
            RecipeError: the file can't be read.
        """
        if not args["file"]:
            return tuple(trained)
        # as texts are: "Apple" and "apple" are one word
        words = (normalised(word) for word in frequent_words(_FILE, args["file"], args["most"]))
        return tuple(dict.fromkeys([*trained, *(word for word in words if split(word, how) == [word])]))

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        """Tokens ``(B, L)`` int64 and mask ``(B, L)`` -> Features ``(B, 1, dim)``.

        With ``pooling = "none"`` ``(B, L + (L - 1) + ..., dim)``: L words, L - 1 pairs, L - 2 triples ...
        """
        x = x.masked_fill(~mask, 0)
        parts, masks = [self.embedding(x)], [mask]
        if self.grams is not None:
            for n in range(2, self.ngrams + 1):
                ids, real = ngram_buckets(x, mask, n, self.buckets)
                parts.append(self.grams(ids))
                masks.append(real)
        all_real = torch.cat(masks, dim=1)
        h = self.dropout(torch.cat(parts, dim=1))
        if self.pooling == "none":
            return Features(h.masked_fill(~all_real.unsqueeze(-1), 0.0), all_real)
        present = mask.any(1, keepdim=True)
        if self.pooling == "mean":
            pooled = Features(h, all_real).pooled()
        else:
            pooled = h.masked_fill(~all_real.unsqueeze(-1), -torch.inf).amax(1).masked_fill(~present, 0.0)
        return Features(pooled.unsqueeze(1), present)

    def keep(self, folder: Path) -> None:
        """Writes what the file said, so that it is not needed again."""
        if self.from_file:
            said = {"dim": self.dim, "coverage": self.coverage}
            (folder / _KEPT).write_text(json.dumps(said) + "\n", encoding="utf-8")


def ngram_buckets(x: Tensor, mask: Tensor, n: int, buckets: int) -> tuple[Tensor, Tensor]:
    """The n-grams of texts as bucket ids.

    Args:
        x: tokens ``(B, L)`` int64.
        mask: ``(B, L)``, True = real.

    Returns:
        Ids in [0, buckets) and mask, both ``(B, max(L - n + 1, 0))``; an n-gram is real where all its words are.
    """
    count = max(x.shape[1] - n + 1, 0)
    hashed = torch.full_like(x[:, :count], n)
    real = torch.ones_like(mask[:, :count])
    for place in range(n):
        hashed = (hashed + x[:, place : place + count]) * _BASE % _PRIME
        real = real & mask[:, place : place + count]
    return hashed % buckets, real


def _check_options(*, most: int, dim: int, ngrams: int, buckets: int, dropout: float) -> None:
    for name, value, low in (("most", most, 0), ("dim", dim, 0), ("buckets", buckets, 1)):
        if value < low:
            raise RecipeError(f"encoders.text.{name}: {value}, expected >= {low}")
    if not 1 <= ngrams <= 5:
        raise RecipeError(f"encoders.text.ngrams: {ngrams}, expected 1 to 5")
    if not 0 <= dropout < 1:
        raise RecipeError(f"encoders.text.dropout: {dropout}, expected 0 <= dropout < 1")


def _vectors(file: str, words: Sequence[str] | None) -> Mapping[str, Tensor]:
    """The file's vectors of ``words``, at least one."""
    if words is None:
        raise RecipeError(f"{_FILE}: {file}, and it is not said which words are wanted (decided by the assembly)")
    vectors = read_vectors(_FILE, file, words, normalised)
    if not any(word in vectors for word in words[_SPECIAL:]):
        raise RecipeError(
            f"{_FILE}: {file} has none of the {len(words) - _SPECIAL} words of the texts, such as {words[-1]!r}; "
            "is it of another language, or made for other tokens?"
        )
    return vectors


@torch.no_grad()
def _start_from(weight: Tensor, words: Sequence[str], vectors: Mapping[str, Tensor]) -> float:
    """Fills ``weight``, one row a word, and says which share of the words is found."""
    known = torch.stack(list(vectors.values()))
    weight.normal_(std=known.std(correction=0).item())
    weight[:_SPECIAL] = 0.0
    rows = [row for row, word in enumerate(words) if word in vectors]
    weight[rows] = torch.stack([vectors[words[row]] for row in rows])
    return sum(row >= _SPECIAL for row in rows) / (len(words) - _SPECIAL)


def _read_kept(folder: Path) -> tuple[int, float]:
    """Width and coverage that ``keep`` wrote down."""
    try:
        said = json.loads((folder / _KEPT).read_text(encoding="utf-8"))
        return int(said["dim"]), float(said["coverage"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"encoders.text: {folder / _KEPT} can't be read ({error!r}); the run is incomplete"
        ) from error
