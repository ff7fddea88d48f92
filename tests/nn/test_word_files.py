"""Files of word vectors: every format gives back what was written, and every damage is named."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kinetext.nn.word_files import frequent_words, read_vectors
from kinetext.text import normalised
from kinetext.types import RecipeError

Vectors = Mapping[str, Sequence[float]]
# 0.1 has no zero byte in float32, 1e-38 is tiny, 10.0 is a line break's code point
SOME: Vectors = {"the": (0.1, -2.5, 10.0), "猫": (3.0, 1e-38, 0.25), "dog": (-0.1, 0.0, 7.0), "</s>": (1.0, 2.0, 3.0)}


def glove(vectors: Vectors, end: str = "\n") -> bytes:
    return "".join(f"{word} {' '.join(f'{n:.9g}' for n in v)}{end}" for word, v in vectors.items()).encode()


def word2vec_text(vectors: Vectors, end: str = "\n") -> bytes:
    return f"{len(vectors)} {len(next(iter(vectors.values())))}{end}".encode() + glove(vectors, end)


def word2vec_binary(vectors: Vectors, end: bytes = b"") -> bytes:
    width = len(next(iter(vectors.values())))
    packed = (word.encode() + b" " + struct.pack(f"<{width}f", *v) + end for word, v in vectors.items())
    return f"{len(vectors)} {width}\n".encode() + b"".join(packed)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "vectors"  # no suffix: only the content can tell
    path.write_bytes(content)
    return path


FORMATS = {
    "glove": glove(SOME),
    "glove of windows": glove(SOME, "\r\n"),
    "glove without a last line break": glove(SOME)[:-1],
    "word2vec text": word2vec_text(SOME),
    "word2vec text with spaces before line breaks": word2vec_text(SOME, " \n"),
    "word2vec binary": word2vec_binary(SOME),
    "word2vec binary with line breaks": word2vec_binary(SOME, b"\n"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_back_what_was_written(name: str, packed: bool, tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(FORMATS[name]) if packed else FORMATS[name])
    found = read_vectors("file", path)
    assert list(found) == list(SOME)
    for word, vector in SOME.items():
        assert found[word].dtype == torch.float32
        np.testing.assert_array_equal(found[word].numpy(), np.array(vector, dtype=np.float32))
    assert frequent_words("file", path, 2) == ["the", "猫"]
    assert frequent_words("file", path, 0) == []
    assert frequent_words("file", path, 99) == list(SOME)


@pytest.mark.parametrize("width", [1, 300])
def test_big_binary_files_are_read_over_block_borders(width: int, tmp_path: Path) -> None:
    """Random bytes hold spaces and line breaks, and 2.4 MB need several reads."""
    numbers = (
        np.random.default_rng(0)
        .standard_normal((600_000 // width, width))
        .astype("<f4")[: 2000 if width > 1 else 100_000]
    )
    words = [f"w{place}" for place in range(len(numbers))]
    rows = (word.encode() + b" " + row.tobytes() for word, row in zip(words, numbers, strict=True))
    path = written(tmp_path, f"{len(words)} {width}\n".encode() + b"".join(rows))
    wanted = words[::100] + words[-1:]
    found = read_vectors("file", path, wanted)
    assert list(found) == wanted
    np.testing.assert_array_equal(torch.stack(list(found.values())).numpy(), numbers[[*range(0, len(words), 100), -1]])


def test_what_is_not_wanted_needs_no_memory(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((10_000, 200)).astype("<f4")
    path = written(tmp_path, b"10000 200\n" + b"".join(b"w%d %s" % (n, v.tobytes()) for n, v in enumerate(vectors)))
    assert path.stat().st_size > 8e6
    tracemalloc.start()
    found = read_vectors("file", path, ["w1", "w9999"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert list(found) == ["w1", "w9999"]
    assert peak < 5e6


@pytest.mark.parametrize("header", [False, True])
def test_words_may_hold_spaces_and_look_like_numbers(header: bool, tmp_path: Path) -> None:
    """As glove.840B.300d has them; the width is what most lines say."""
    words = [
        "at name@domain.com",
        ". . .",
        "2010",
        "iphone 7",
        "a",
        "b",
        "c",
        "nan",
        "no\u00a0break",
        "two\u2028lines",
        "\u3000",
    ]
    vectors = {word: (place + 0.5, -1.25, 3.0) for place, word in enumerate(words)}
    found = read_vectors("file", written(tmp_path, word2vec_text(vectors) if header else glove(vectors)))
    assert {word: tuple(vector.tolist()) for word, vector in found.items()} == vectors


def test_a_word_as_it_stands_comes_before_its_other_spellings(tmp_path: Path) -> None:
    file = {
        "APPLE": (1.0,),
        "Apple": (2.0,),
        "apple": (3.0,),
        "apple ": (4.0,),
        "Ｐｅａｒ": (5.0,),
        "PEAR": (6.0,),
        "Fig": (7.0,),
    }
    path = written(tmp_path, word2vec_binary({w: v for w, v in file.items() if " " not in w}))
    found = read_vectors("file", path, ["pear", "apple", "plum", "Fig"], normalised)
    assert {word: vector.item() for word, vector in found.items()} == {"pear": 5.0, "apple": 3.0, "Fig": 7.0}
    assert list(found) == ["pear", "apple", "Fig"]
    assert read_vectors("file", path, ["pear"])["pear"].item() == 6.0  # lower case alone, unless told


def test_the_first_of_two_counts(tmp_path: Path) -> None:
    path = written(tmp_path, b"a 1 2\nB 3 4\nb 5 6\na 7 8\nb 9 10\n")
    assert {w: v.tolist() for w, v in read_vectors("file", path).items()} == {"a": [1, 2], "B": [3, 4], "b": [5, 6]}
    assert {w: v.tolist() for w, v in read_vectors("file", path, ("a", "b")).items()} == {"a": [1, 2], "b": [5, 6]}


def test_nothing_wanted_is_nothing_found(tmp_path: Path) -> None:
    assert read_vectors("file", written(tmp_path, FORMATS["glove"]), []) == {}


def test_frequent_words_do_not_read_on(tmp_path: Path) -> None:
    path = written(tmp_path, FORMATS["glove"] + b"broken\n")
    assert frequent_words("file", path, 4) == list(SOME)
    with pytest.raises(RecipeError, match="line 5: 0 numbers, expected 3"):
        frequent_words("file", path, 5)


GBK = "狗".encode("gbk")
DAMAGED = {
    "too few numbers": (b"a 1 2\nb 3 4\nc 5\n", "line 3: 1 numbers, expected 2"),
    "too many numbers": (b"a 1 2\nb 3 4\nc 0.125 0.25 0.5\n", "line 3: 3 numbers, expected 2"),
    "two lines in one": (b"a 0.125 2.0\nb 0.125 4.0c 5.0 0.125\nd 1 2\ne 3 4\n", "line 2: 4 numbers, expected 2"),
    "too few for the header": (b"2 3\na 1 2\nb 3 4\n", "line 2: 2 numbers, expected 3"),
    "no number": (b"a 1 2\nb 3 4\nc x 4\n", "line 3: not a number .*'x'"),
    "not a number": (b"a 1 2\nb nan 4\n", "line 2: a number is not finite"),
    "too large": (b"a 1 2\nb 3 1e39\n", "line 2: a number is not finite"),
    "gbk": (b"a 1 2\n" + GBK + b" 3 4\n", "line 2: the word .* is not UTF-8"),
    "gbk at once": (b"1 2\n" + GBK + b" 3 4\n", "line 2: the word .* is not UTF-8"),
    "fewer words than said": (b"3 2\na 1 2\nb 3 4\n", "ends after 2 of the 3 words of its header"),
    "more words than said": (b"1 2\na 1 2\nb 3 4\n", "line 3: one more than the 1 words of its header"),
    "a header alone": (b"3 2\n", "ends after 0 of the 3 words"),
    "a header of nothing": (b"0 2\n", "line 1: 0 words of 2 numbers, expected at least one of each"),
    "empty": (b"", "is empty"),
    "blank": (b" \n\n", "is empty"),
    "a text": (b"Once upon a time\nthere was a cat\n", "holds no word vectors"),
    "a table": (b"a,1,2\nb,3,4\n", "holds no word vectors"),
    "bytes": (bytes(range(256)), "holds no word vectors"),
    "a zip archive": (b"PK\x03\x04 and more", "packed by zip; unpack it first"),
    "a cut gzip file": (gzip.compress(b"a 1 2\n" * 99)[:-9], "can't be read to its end"),
    "a broken gzip file": (b"\x1f\x8b\x08\x00 no gzip at all", "can't be read to its end"),
    "a cut vector": (word2vec_binary(SOME)[:-1], "word 4: the file ends within it, and its header says 4 words"),
    "a cut word": (word2vec_binary(SOME)[:-14], "word 4: the file ends within it"),
    "a missing word": (word2vec_binary(SOME).replace(b"4 3", b"5 3", 1), "word 5: the file ends within it"),
    "a word too many": (word2vec_binary(SOME).replace(b"4 3", b"3 3", 1), "word 4: one more than the 3 words"),
    "an infinity": (word2vec_binary({"a": (1.0, 2.0), "b": (3.0, float("inf"))}), "word 2: a number is not finite"),
    "gbk in binary": (word2vec_binary(SOME).replace("猫".encode(), GBK), "word 2: the word .* is not UTF-8"),
    "no words any more": (b"2 2\na " + bytes(8) + bytes(70_000), "word 2: longer than 65536 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    content, said = DAMAGED[name]
    with pytest.raises(RecipeError, match=f"^encoders.text.file: .*vectors.*{said}"):
        read_vectors("encoders.text.file", written(tmp_path, content))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(RecipeError, match=r"encoders\.text\.file: no file"):
            frequent_words("encoders.text.file", path, 1)


def test_a_word_that_word2vec_cut_within_a_character_is_no_damage(tmp_path: Path) -> None:
    """word2vec.c keeps 98 bytes of longer words, wherever that is."""
    cut = ("x" * 97 + "猫").encode()[:98]
    path = written(tmp_path, b"a 1 2\n" + cut + b" 3 4\nb 5 6\n")
    assert list(read_vectors("file", path, ["a", "b"])) == ["a", "b"]
    with pytest.raises(RecipeError, match=r"line 2: the word .* is not UTF-8"):
        read_vectors("file", written(tmp_path, b"a 1 2\n" + cut[1:] + b" 3 4\nb 5 6\n"))
