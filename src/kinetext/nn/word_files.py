"""Files of pretrained word vectors: Word2Vec's text and binary formats, GloVe's text; plain or gzipped.

Which of them a file is follows from its content, not from its name. Files are read once from front to back, so one of
millions of words needs no more memory than the vectors that are kept.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from kinetext.types import RecipeError

_BLOCK = 1 << 20  # bytes: what is looked at to tell the format, and read at a time
_LINES = 100  # of a file without a header, whose width they tell
_LONGEST = 1 << 16  # bytes of a word; where there is no space in as many, the file is damaged
_CUT = 98  # bytes: word2vec.c cuts longer words there, within a character too
_HEADER = re.compile(rb"(\d+) (\d+)[ \r]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_FRACTION = re.compile(rb" [-+]?\d*\.\d{3,}(?:[eE][-+]?\d+)?(?: |$)")
_PACKED = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z"}


def read_vectors(
    field: str,
    path: Path | str,
    wanted: Collection[str] | None = None,
    normalise: Callable[[str], str] = str.lower,
) -> dict[str, Tensor]:
    """The vectors of the ``wanted`` words that the file has, in the order of ``wanted``.

    A word is looked up as it stands. Where the file lacks it, the first word of the file that becomes it by
    ``normalise`` serves: "Apple" for "apple". Where the file has a word twice, the first counts. Numbers are looked at
    only where they are kept.

    Args:
        field: the option that names the file, for messages.
        wanted: None wants every word as it stands.
        normalise: what the tokeniser does to the words of a text.

    Returns:
        Word -> ``(D,)`` float32, D > 0 the same for all.

    Raises:
        RecipeError: no such file, it is no file of word vectors, or it is damaged; with the line (of a binary file: the
            word) where that shows.

    Example:
        >>> _ = Path("vectors.txt").write_text("The 1.0 2.0\\ncat 3.0 4.0\\n")  # doctest: +SKIP
        >>> read_vectors("file", "vectors.txt", ["the", "dog"])  # doctest: +SKIP
        {'the': tensor([1., 2.])}
    """
    file = _VectorFile(field, Path(path))
    exact: dict[str, Tensor] = {}
    variants: dict[str, Tensor] = {}
    names = None if wanted is None else frozenset(wanted)
    with closing(file.rows()) as rows:
        for place, word, numbers in rows:
            if names is None or word in names:
                if word not in exact:
                    exact[word] = file.vector(place, numbers)
            elif (plain := normalise(word)) in names and plain not in variants:
                variants[plain] = file.vector(place, numbers)
    if wanted is None:
        return exact
    found = variants | exact
    return {word: found[word] for word in dict.fromkeys(wanted) if word in found}


def frequent_words(field: str, path: Path | str, most: int) -> list[str]:
    """The first ``most`` words of the file, as they stand: such files go from frequent words to rare ones.

    Args:
        field: the option that names the file, for messages.

    Raises:
        RecipeError: as ``read_vectors``, for the part of the file that is read.
    """
    with closing(_VectorFile(field, Path(path)).rows()) as rows:
        return [word for _, word, _ in islice(rows, most)]


class _VectorFile:
    """One file of word vectors.

    ``dim`` numbers a word; ``count`` words by its header, 0 where it has none; ``binary`` or text.
    """

    def __init__(self, field: str, path: Path) -> None:
        self.field, self.path = field, path
        if not path.is_file():
            raise RecipeError(f"{field}: no file {str(path)!r}")
        with self._opened() as stream:
            head = stream.read(_BLOCK)
        if not head.strip():
            raise RecipeError(f"{field}: {path} is empty, expected words and their vectors")
        first, _, rest = head.partition(b"\n")
        self.count, self.binary = 0, False
        if header := _HEADER.fullmatch(first):
            self.count, self.dim = int(header[1]), int(header[2])
            if not self.count or not self.dim:
                raise self.wrong(1, f"{self.count} words of {self.dim} numbers, expected at least one of each")
            is_text = _numbers_at_end(rest.partition(b"\n")[0]) >= self.dim
            self.binary = not is_text and _CONTROL.search(rest) is not None
        else:
            # words may hold spaces, so that one line does not tell the width; most lines do
            lines = head.split(b"\n")[: -1 if len(head) == _BLOCK else None]
            widths = Counter(_numbers_at_end(line) for line in lines[:_LINES] if line.strip())
            self.dim = max(widths, key=lambda width: (widths[width], -width), default=0)
            if not self.dim:
                raise RecipeError(
                    f"{field}: {path} holds no word vectors; expected Word2Vec's format, text or binary, or GloVe's: "
                    "on each line a word and its numbers, separated by single spaces"
                )

    def rows(self) -> Generator[tuple[int, str, bytes], None, None]:
        """Place (line of a text, word of a binary file, from 1), word, and its numbers as they stand."""
        with self._opened() as stream:
            yield from self._binary_rows(stream) if self.binary else self._text_rows(stream)

    def vector(self, place: int, numbers: bytes) -> Tensor:
        """The numbers of one word, ``(dim,)`` float32."""
        if self.binary:
            vector = torch.from_numpy(np.frombuffer(numbers, "<f4").astype(np.float32))
        else:
            try:
                vector = torch.tensor([float(number) for number in numbers.split(b" ")], dtype=torch.float32)
            except ValueError as error:
                raise self.wrong(place, f"not a number ({error})") from error
        if not vector.isfinite().all():
            raise self.wrong(place, "a number is not finite")
        return vector

    def wrong(self, place: int, what: str) -> RecipeError:
        return RecipeError(f"{self.field}: {self.path}, {'word' if self.binary else 'line'} {place}: {what}")

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """The file's bytes, unpacked where it is gzipped."""
        try:
            with self.path.open("rb") as plain:
                magic = plain.read(8)
                plain.seek(0)
                for start, name in _PACKED.items():
                    if magic.startswith(start):
                        raise RecipeError(f"{self.field}: {self.path} is packed by {name}; unpack it first")
                if magic.startswith(b"\x1f\x8b"):
                    with gzip.GzipFile(fileobj=plain) as unpacked:
                        yield cast(BinaryIO, unpacked)
                else:
                    yield plain
        except (OSError, EOFError, zlib.error) as error:
            raise RecipeError(f"{self.field}: {self.path} can't be read to its end ({error})") from error

    def _text_rows(self, stream: BinaryIO) -> Iterator[tuple[int, str, bytes]]:
        found = 0
        for place, line in enumerate(stream, 1):
            body = line.rstrip(b" \r\n")
            if not body or (place == 1 and self.count):
                continue
            spaces = body.count(b" ")
            if spaces < self.dim:
                raise self.wrong(place, f"{spaces} numbers, expected {self.dim}")
            word = body.partition(b" ")[0] if spaces == self.dim else body.rsplit(b" ", self.dim)[0]
            if _FRACTION.search(word):
                raise self.wrong(place, f"{spaces} numbers, expected {self.dim}")
            found += 1
            if self.count and found > self.count:
                raise self.wrong(place, f"one more than the {self.count} words of its header")
            yield place, self._decoded(place, word), body[len(word) + 1 :]
        if found < self.count:
            raise RecipeError(f"{self.field}: {self.path} ends after {found} of the {self.count} words of its header")

    def _binary_rows(self, stream: BinaryIO) -> Iterator[tuple[int, str, bytes]]:
        stream.readline()
        size = 4 * self.dim
        buffer, start = b"", 0
        for place in range(1, self.count + 1):
            while (end := buffer.find(b" ", start)) < 0 or len(buffer) < end + 1 + size:
                if end < 0 and len(buffer) - start > _LONGEST:
                    raise self.wrong(place, f"longer than {_LONGEST} bytes: the file is damaged before it")
                if not (more := stream.read(_BLOCK)):
                    raise self.wrong(place, f"the file ends within it, and its header says {self.count} words")
                buffer, start = buffer[start:] + more, 0
            word = buffer[start:end].lstrip(b"\n")
            start = end + 1 + size
            yield place, self._decoded(place, word), buffer[end + 1 : start]
        if (buffer[start:] + stream.read(_BLOCK)).strip():
            raise self.wrong(self.count + 1, f"one more than the {self.count} words of its header")

    def _decoded(self, place: int, word: bytes) -> str:
        try:
            return word.decode()
        except UnicodeDecodeError as error:
            if len(word) == _CUT:
                return word.decode(errors="replace")
            raise self.wrong(place, f"the word {word!r} is not UTF-8 ({error.reason})") from error


def _numbers_at_end(line: bytes) -> int:
    """How many numbers the line ends with, a word before them."""
    count = 0
    for field in reversed(line.rstrip(b" \r").split(b" ")[1:]):
        try:
            float(field)
        except ValueError:
            break
        count += 1
    return count
