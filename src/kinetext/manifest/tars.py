"""Tar files of samples in the WebDataset convention: members that share a name up to its first dot are one sample.

Tarred samples lie side by side, so a sample is a piece of its tar: where it begins and how long it is are enough to read
it without the others (WebDataset, https://github.com/webdataset/webdataset, "The WebDataset Format").
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kinetext.types import DataError

_BLOCK = 512  # bytes; headers and members begin at multiples of it
_NAME = re.compile(r"((?:.*/|)[^.]+)\.([^/]*)")
_HIDDEN = re.compile(r"__[^/]*__($|/)")  # what the convention keeps for itself
_OPEN = 64  # files that one process keeps open
END = bytes(2 * _BLOCK)  # of a tar


@dataclass(frozen=True)
class Piece:
    """A sample in a tar.

    Args:
        key: what the names of its members begin with.
        start: byte at which its first header begins.
        size: bytes to the end of its last member.
        members: what follows the key and its dot, in lower case -> first byte and bytes of the member.
    """

    key: str
    start: int
    size: int
    members: Mapping[str, tuple[int, int]]


def entry(name: str, data: bytes) -> bytes:
    """A member with its header, a pure function of its name and content."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % _BLOCK)


def members(piece: bytes) -> dict[str, memoryview]:
    """The members of a sample by what follows its key, from the bytes of its piece.

    Raises:
        ValueError: these bytes are no piece of a tar.
    """
    found, view, at = {}, memoryview(piece), 0
    while at + _BLOCK <= len(piece):
        if piece[at + 156] not in b"0\0":  # not a plain file: a long name comes first, say
            return _any_members(piece)
        size = int(piece[at + 124 : at + 135], 8)
        name = _NAME.fullmatch(piece[at : at + 100].rstrip(b"\0").decode())
        if name:
            found[name[2].lower()] = view[at + _BLOCK : at + _BLOCK + size]
        at += _BLOCK + size + -size % _BLOCK
    return found


def _any_members(piece: bytes) -> dict[str, memoryview]:
    view = memoryview(piece)
    try:
        (found,) = _pieces(io.BytesIO(piece), ended=False)
    except tarfile.TarError as error:
        raise ValueError(str(error)) from error
    return {name: view[at : at + size] for name, (at, size) in found.members.items()}


def pieces(path: Path) -> Iterator[Piece]:
    """The samples of a tar in their order; reads headers alone.

    Raises:
        DataError: it can't be read, is compressed or cut off, or has a name twice in a sample.
    """
    try:
        with path.open("rb") as file:
            yield from _pieces(file, ended=True)
    except (OSError, tarfile.TarError, ValueError) as error:
        raise DataError(f"{path}: can't be read as a tar without compression ({error})") from error


def _pieces(file: io.BufferedIOBase, *, ended: bool) -> Iterator[Piece]:
    """The samples of a tar; ``ended`` refuses one without an empty block behind its last member: every writer puts two."""
    key, start, end, found = "", 0, 0, dict[str, tuple[int, int]]()
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            name = _NAME.fullmatch(info.name)
            if not info.isreg() or not name or _HIDDEN.match(info.name):
                continue
            if found and name[1] != key:
                yield Piece(key, start, end - start, found)
                found = {}
            if not found:
                key, start = name[1], info.offset
            suffix = name[2].lower()
            if suffix in found:
                raise ValueError(f"{info.name} is there twice")
            found[suffix] = info.offset_data, info.size
            end = info.offset_data + info.size + -info.size % _BLOCK
        file.seek(tar.offset)  # where the last header was looked for
        if ended and file.read(_BLOCK) != bytes(_BLOCK):
            raise ValueError(f"cut off, or damaged: no end of the tar at byte {tar.offset:,}")
    if found:
        yield Piece(key, start, end - start, found)


class Pieces:
    """Reads pieces of files, in any order, from as many processes as there are.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._open: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close, self._open)

    def read(self, number: int, start: int, size: int) -> bytes:
        """Bytes [start, start + size) of file ``number``.

        Raises:
            DataError: it can't be read, or ends before.
        """
        parts, have = [], 0
        try:
            while have < size:  # at a place, which moves nothing that forked processes share; at most 2 GiB at a time
                part = os.pread(self._file(number), size - have, start + have)
                if not part:
                    raise DataError(f"{self.paths[number]}: ends at byte {start + have}, expected {size - have} more")
                parts.append(part)
                have += len(part)
        except OSError as error:
            raise DataError(f"{self.paths[number]}: can't be read ({error.strerror or error})") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _file(self, number: int) -> int:
        if number not in self._open:
            if len(self._open) >= _OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[number] = os.open(self.paths[number], os.O_RDONLY | os.O_CLOEXEC)
        self._open.move_to_end(number)
        return self._open[number]


def _close(handles: Mapping[int, int]) -> None:
    for handle in handles.values():
        os.close(handle)
