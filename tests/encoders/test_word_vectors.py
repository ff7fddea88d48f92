"""Word vectors: from files and from scratch, pooled, and with n-grams."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kinetext.contracts import check_encoder
from kinetext.encoders.word_vectors import WordVectors, ngram_buckets
from kinetext.text import PAD, UNKNOWN, Tokenizer
from kinetext.types import RecipeError

Pooling = Literal["mean", "max", "none"]
POOLINGS: tuple[Pooling, ...] = ("mean", "max", "none")
WORDS = (PAD, UNKNOWN, "apple", "cat", "猫", "dog")
FILE = "the 0.5 1 2\nApple 1 -1 3\ncat 4 4 0.25\n猫 -2 8 1\ngolden-retriever 1 1 1\nDOG 0 1 0\n"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "glove.txt"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


def small(pooling: Pooling = "mean", ngrams: int = 1, **options: Any) -> WordVectors:
    torch.manual_seed(0)
    wanted = {"vocab": 20, "dim": 5, "buckets": 50} | options
    encoder = WordVectors(pooling=pooling, ngrams=ngrams, **wanted)
    if encoder.grams is not None:
        nn.init.normal_(encoder.grams.weight)  # they start at next to nothing
    return encoder


def texts() -> tuple[Tensor, Tensor]:
    x = torch.randint(2, 20, (4, 5), generator=torch.Generator().manual_seed(1))
    return x, torch.arange(5) < torch.tensor([5, 3, 0, 1])[:, None]


def test_the_vectors_are_those_of_the_file(file: str) -> None:
    encoder = WordVectors(vocab=6, words=WORDS, file=file)
    assert encoder.dim == 3
    assert encoder.coverage == 1.0
    assert "glove.txt" in encoder.licence
    expected = [[1, -1, 3], [4, 4, 0.25], [-2, 8, 1], [0, 1, 0]]  # "Apple" serves apple, "DOG" dog
    assert encoder.embedding.weight[2:].tolist() == expected
    features = encoder(torch.tensor([[3, 5, 0]]), torch.tensor([[True, True, False]]))
    assert features.x.tolist() == [[[2.0, 2.5, 0.125]]]
    # what is no word adds nothing but its place in the mean
    features = encoder(torch.tensor([[3, 1, 0]]), torch.tensor([[True, True, False]]))
    assert features.x.tolist() == [[[2.0, 2.0, 0.125]]]
    encoder(torch.tensor([[3]]), torch.tensor([[True]])).x.sum().backward()
    assert encoder.embedding.weight.grad is not None  # and they are tuned


def test_words_that_the_file_lacks_are_drawn_with_its_variance(file: str) -> None:
    words = (*WORDS, *(f"absent{n}" for n in range(4000)))
    torch.manual_seed(0)
    encoder = WordVectors(vocab=len(words), words=words, file=file, dim=3)
    assert encoder.coverage == 4 / 4004
    known = np.array([[1, -1, 3], [4, 4, 0.25], [-2, 8, 1], [0, 1, 0]])
    drawn = encoder.embedding.weight[6:].detach()
    assert drawn.std().item() == pytest.approx(known.std(), rel=0.02)
    assert drawn.mean().item() == pytest.approx(0, abs=0.1)
    assert len(drawn.unique(dim=0)) == 4000
    assert (encoder.embedding.weight[:2] == 0).all()


def test_a_file_may_have_a_vector_for_the_unknown(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("cat 1 2\n<unk> 3 4\n")
    encoder = WordVectors(vocab=4, words=(PAD, UNKNOWN, "cat", "dog"), file=str(tmp_path / "v"))
    assert encoder.embedding.weight[1].tolist() == [3, 4]
    assert encoder.coverage == 0.5


def pooled_by_hand(encoder: WordVectors, tokens: list[int], how: Pooling) -> np.ndarray[Any, Any]:
    """Words, then every n-gram by its own loop and Python's integers."""
    rows = [encoder.embedding.weight[t].detach().numpy() for t in tokens]
    for n in range(2, encoder.ngrams + 1):
        for start in range(len(tokens) - n + 1):
            assert encoder.grams is not None
            rows.append(
                encoder.grams.weight[bucket_by_hand(tokens[start : start + n], encoder.buckets)].detach().numpy()
            )
    return np.mean(rows, 0) if how == "mean" else np.max(rows, 0)


def bucket_by_hand(gram: list[int], buckets: int) -> int:
    """Horner's scheme for n b^n + t_1 b^n + t_2 b^(n-1) + ... + t_n b, modulo 2^31 - 1."""
    base, n = 1_103_515_245, len(gram)
    total = n * base**n + sum(token * base ** (n - place) for place, token in enumerate(gram))
    return total % (2**31 - 1) % buckets


@pytest.mark.parametrize("ngrams", [1, 2, 3])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooling_by_hand(pooling: Pooling, ngrams: int) -> None:
    encoder, (x, mask) = small(pooling, ngrams), texts()
    features = encoder(x, mask)
    assert features.mask.tolist() == [[True], [True], [False], [True]]
    assert (features.x[2] == 0).all()
    for row, length in ((0, 5), (1, 3), (3, 1)):
        expected = pooled_by_hand(encoder, x[row, :length].tolist(), pooling)
        np.testing.assert_allclose(features.x[row, 0].detach().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_without_pooling_each_word_and_ngram_is_its_own_vector(ngrams: int) -> None:
    encoder, (x, mask) = small("none", ngrams), texts()
    features = encoder(x, mask)
    assert features.x.shape == (4, sum(5 - n for n in range(ngrams)), 5)
    assert features.mask.sum(1).tolist() == [sum(max(length - n, 0) for n in range(ngrams)) for length in (5, 3, 0, 1)]
    assert (features.x[~features.mask] == 0).all()
    assert torch.equal(features.x[0, :5], encoder.embedding.weight[x[0]])
    torch.testing.assert_close(features.pooled(), small("mean", ngrams)(x, mask).pooled())


@pytest.mark.parametrize("n", [2, 3, 5])
def test_ngrams_are_hashed_by_the_formula(n: int) -> None:
    x = torch.tensor([[3, 70_000, 2**31 - 9, 5, 3, 70_000, 1]])
    ids, real = ngram_buckets(x, torch.ones_like(x, dtype=torch.bool), n, 1000)
    assert ids.tolist() == [[bucket_by_hand(x[0, s : s + n].tolist(), 1000) for s in range(8 - n)]]
    assert real.all()


def test_ngrams_know_the_order_and_never_reach_over_a_masked_place() -> None:
    x = torch.tensor([[7, 8, 9, 8, 7]])
    mask = torch.tensor([[True, True, False, True, True]])
    ids, real = ngram_buckets(x, mask, 2, 10**6)
    assert ids[0, 0] != ids[0, 3]  # "7 8" and "8 7"
    assert real.tolist() == [[True, False, False, True]]
    assert ngram_buckets(x, mask, 3, 10**6)[1].tolist() == [[False, False, False]]
    assert ngram_buckets(x[:, :2], mask[:, :2], 3, 10**6)[0].shape == (1, 0)


def test_ngrams_spread_evenly_over_the_buckets() -> None:
    """All 90,000 pairs of 300 words in 1000 buckets: as balls thrown at random, 90 each, chi-square near 999."""
    words = torch.arange(2, 302)
    pairs = torch.cartesian_prod(words, words)
    ids, _ = ngram_buckets(pairs, torch.ones_like(pairs, dtype=torch.bool), 2, 1000)
    chi2 = (ids.flatten().bincount(minlength=1000) - 90).double().square().sum().item() / 90
    assert chi2 < 999 + 5 * (2 * 999) ** 0.5


def test_ngrams_learn_what_words_alone_can_not() -> None:
    """Which of two words comes first: the mean of words is the same both ways."""
    x = torch.tensor([[a, b] if first else [b, a] for a in (2, 3, 4) for b in (5, 6, 7) for first in (True, False)])
    labels, mask = torch.tensor([0, 1] * 9), torch.ones(18, 2, dtype=torch.bool)
    for ngrams, right in ((1, 0.5), (2, 1.0)):
        torch.manual_seed(0)
        encoder, head = WordVectors(dim=8, ngrams=ngrams, buckets=200), nn.Linear(8, 2)
        optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.05)
        for _ in range(40):
            logits = head(encoder(x, mask).pooled())
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels).backward()
            optimizer.step()
        assert (logits.argmax(1) == labels).float().mean().item() == right


@pytest.mark.parametrize("ngrams", [1, 3])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_nothing_forward_or_backward(pooling: Pooling, ngrams: int) -> None:
    x, mask = texts()
    results = []
    for tokens in (x, torch.where(mask, x, -99)):
        encoder = small(pooling, ngrams)
        features = encoder(tokens, mask)
        features.x.square().sum().backward()
        results.append([features.x.detach(), *(p.grad for p in encoder.parameters())])
    for clean, other in zip(*results, strict=True):
        assert clean is not None
        assert torch.equal(clean, other)
    short, longer = x[1:2, :3], torch.cat([x[:1, :2], x[1:2, :3]], 1)  # in front of the text as well
    front = torch.tensor([[False, False, True, True, True]])
    expected = small(pooling, ngrams)(short, mask[1:2, :3]).pooled()
    torch.testing.assert_close(small(pooling, ngrams)(x, mask).pooled()[1:2], expected)
    torch.testing.assert_close(small(pooling, ngrams)(longer, front).pooled(), expected)


def test_the_vocabulary_takes_the_frequent_words_of_the_file(file: str) -> None:
    trained = Tokenizer.train(["A cat", "zebra"], "word").vocabulary
    assert trained == (PAD, UNKNOWN, "a", "cat", "zebra")
    join = WordVectors.vocabulary
    assert join(trained, "word", {"file": "", "most": 9}) == trained
    assert join(trained, "word", {"file": file, "most": 0}) == trained
    assert join(trained, "word", {"file": file, "most": 2}) == (*trained, "the", "apple")
    # "golden-retriever" is three tokens of a text, so it can never be looked up
    assert join(trained, "word", {"file": file, "most": 6}) == (*trained, "the", "apple", "猫", "dog")
    assert join(trained, "character", {"file": file, "most": 6}) == (*trained, "猫")
    words = join(trained, "word", {"file": file, "most": 6})
    tokenizer = Tokenizer("word", words)
    assert tokenizer.unknown("The DOG, the zebra") == [","]
    encoder = WordVectors(vocab=len(words), words=words, file=file)
    assert encoder.embedding.weight[tokenizer.encode("Dog")].tolist() == [[0, 1, 0]]
    assert encoder.coverage == 5 / 7


@pytest.mark.parametrize("dim", [0, 3])
def test_a_run_is_rebuilt_without_the_file(file: str, dim: int, tmp_path: Path) -> None:
    words = (*WORDS, "absent")
    first = WordVectors(vocab=7, words=words, file=file, dim=dim, ngrams=2, buckets=10)
    folder = tmp_path / "encoder"
    folder.mkdir()
    first.keep(folder)
    Path(file).unlink()
    second = WordVectors(vocab=7, words=words, file=file, dim=dim, ngrams=2, buckets=10, kept=folder)
    second.load_state_dict(first.state_dict())
    x, mask = torch.tensor([[2, 3, 6, 0]]), torch.tensor([[True, True, True, False]])
    assert torch.equal(first(x, mask).x, second(x, mask).x)
    assert (second.coverage, second.licence) == (first.coverage, first.licence) == (0.8, first.licence)


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    encoder = WordVectors()
    encoder.keep(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (encoder.dim, encoder.coverage, encoder.licence) == (64, 0.0, "")
    assert WordVectors(kept=tmp_path, dim=7).dim == 7


def test_ngrams_start_as_small_as_the_pooling_allows() -> None:
    """In a mean, an n-gram never seen in training must not drown the words; in a maximum it has to win sometimes."""
    for pooling, low, high, words in (
        ("mean", 0.001, 0.01, 0.01), ("none", 0.001, 0.01, 0.01), ("max", 0.08, 0.12, 0.1),
    ):  # fmt: skip
        encoder = WordVectors(dim=100, pooling=pooling, ngrams=2, buckets=100)
        assert encoder.grams is not None
        assert low < encoder.grams.weight.std().item() < high
        assert encoder.embedding.weight.std().item() == pytest.approx(words, rel=0.2)


def test_dropout_is_for_training_alone() -> None:
    x, mask = texts()
    encoder = small(dropout=0.5)
    assert not torch.equal(encoder(x, mask).x, encoder(x, mask).x)
    assert torch.equal(encoder.eval()(x, mask).x, encoder(x, mask).x)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_contract(pooling: Pooling) -> None:
    check_encoder(WordVectors(dim=8, pooling=pooling, ngrams=3, buckets=40))


def test_contract_of_the_defaults() -> None:
    check_encoder(WordVectors())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": -1}, r"dim: -1, expected >= 0"),
        ({"most": -1}, r"most: -1, expected >= 0"),
        ({"buckets": 0}, r"buckets: 0, expected >= 1"),
        ({"ngrams": 0}, r"ngrams: 0, expected 1 to 5"),
        ({"ngrams": 6}, r"ngrams: 6, expected 1 to 5"),
        ({"dropout": 1.0}, r"dropout: 1\.0, expected 0 <= dropout < 1"),
        ({"words": WORDS}, r"words: 6 words, expected vocab = 32"),
        ({"file": "none.txt", "vocab": 6, "words": WORDS}, r"file: no file 'none\.txt'"),
        ({"file": "none.txt"}, r"file: none\.txt, and it is not said which words are wanted"),
        ({"file": "none.txt", "kept": Path("/nowhere")}, r"nowhere.word_vectors\.json can't be read"),
    ],
)
def test_impossible_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=rf"^encoders\.text.*{said}"):
        WordVectors(**options)


def test_a_file_that_does_not_fit_is_named(file: str) -> None:
    with pytest.raises(
        RecipeError, match=r"encoders\.text\.dim: 4, expected 0 or 3, the width of the vectors in .*glove"
    ):
        WordVectors(vocab=6, words=WORDS, file=file, dim=4)
    with pytest.raises(RecipeError, match=r"file: .*has none of the 2 words of the texts, such as 'pferd'"):
        WordVectors(vocab=4, words=(PAD, UNKNOWN, "hund", "pferd"), file=file)
