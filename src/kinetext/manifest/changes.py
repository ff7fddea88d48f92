"""What tells that files of a table are no longer what they were: quickly here, or in words that hold on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kinetext.manifest.rows import is_elsewhere
from kinetext.types import DataError

_ENDS = 2**14  # bytes of a file's beginning, and of its end, that are looked at


def stamp(root: Path, files: Iterable[str | None]) -> str:
    """A hash of the names, sizes and times of files under ``root``, those in folders of pictures one by one; what is
    elsewhere or missing has none.

    Raises:
        DataError: one can't be read.
    """
    found = hashlib.sha256()
    with _plainly(root):
        for path in _there(root, files):
            stat = path.stat()
            found.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def content(root: Path, files: Iterable[str | None]) -> str:
    """A hash of the same files' sizes and of both their ends, which names neither a place nor a time. To read all of their
    bytes would be to read the whole dataset; a clip that is made anew differs there.

    Raises:
        DataError: one can't be read.
    """
    found = hashlib.sha256()
    with _plainly(root):
        for path in _there(root, files):
            size = path.stat().st_size
            with path.open("rb") as file:
                found.update(f"{path.name}\0{size}\n".encode(errors="surrogateescape") + file.read(_ENDS))
                file.seek(max(_ENDS, size - _ENDS))
                found.update(file.read(_ENDS))
    return found.hexdigest()


@contextmanager
def _plainly(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{error.filename or root}: can't be read ({error.strerror or error})") from error


def _there(root: Path, files: Iterable[str | None]) -> Iterator[Path]:
    for file in dict.fromkeys(files):
        path = root / file if file and not is_elsewhere(file) else None
        if path and path.is_dir():
            yield from (one for one in sorted(path.iterdir()) if one.is_file() and not one.name.startswith("."))
        elif path and path.is_file():
            yield path
