"""Files elsewhere (http, s3 ...), copied to the cache once: whole, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from kinetext.manifest.rows import PROTOCOLS, is_elsewhere
from kinetext.runtime import cache_folder, whole_file
from kinetext.types import DataError, joined

LIMIT = 16 * 2**30  # bytes of one file; shards are large
BLOCK = 2**20
ATTEMPTS = 3
_LONGEST_NAME = 80  # bytes of a copy's name, with room for those of temporary files: most disks allow 255
SECONDS = 60.0  # that a server may say nothing
# what reaches a protocol, where fsspec alone does not
PACKAGES: Mapping[str, str] = {
    "http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "hf": "huggingface_hub",
}  # fmt: skip


def place(root: Path, file: str) -> Path:
    """Where the file of a row is: under ``root``, or the copy in the cache of one that is elsewhere, fetched if need be.

    Raises:
        DataError: it can't be fetched.
    """
    return fetch(file) if is_elsewhere(file) else root / file


def fetch(url: str, *, limit: int = LIMIT) -> Path:
    """Copies a file from elsewhere to the cache, where it is not there yet.

    A copy appears when every byte is there that the server promised. What arrived of a copy that broke off is kept, and the
    next attempt goes on there if the server still has the same file. Of several processes that want one file, one fetches
    it and the others wait. A copy that is there is not asked for again: training sees the same bytes in every epoch;
    delete it to have it fetched anew.

    Args:
        url: begins with one of ``PROTOCOLS``.
        limit: bytes; a larger file is refused, before it is fetched where the server says how large it is.

    Raises:
        DataError: it can't be fetched, or there is no room.
    """
    if not is_elsewhere(url):
        raise DataError(f"{url}: expected a URL that begins with one of {joined(PROTOCOLS)}")
    path = cached(url)
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_name(f".{path.name}.lock")):
            if not path.is_file():  # else another process fetched it meanwhile
                _Fetch(url, path, limit).run()
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error}); set KINETEXT_CACHE to a folder with room for files from elsewhere"
        ) from error
    return path


def cached(url: str) -> Path:
    """Where the copy of a file from elsewhere is, or would be: its name's own ending tells readers what it is."""
    name = re.sub(r"[^\w.\-]+", "_", re.split(r"[?#]", url)[0].rpartition("/")[2])
    short = name.encode()[-_LONGEST_NAME:].decode(errors="ignore").lstrip(".")  # "..", too, is a name of no file
    return cache_folder() / "files" / hashlib.sha256(url.encode()).hexdigest()[:24] / (short or "file")


class _Fetch:
    """One file on its way."""

    def __init__(self, url: str, path: Path, limit: int) -> None:
        self.url, self.path, self.limit = url, path, limit
        self.part, self.note = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.json")
        self.disk = _filesystem(url)

    def run(self) -> None:
        """Fetches it, whole."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                promised = self._promised()
                self._copy(promised)
                break
            except _Broken as error:
                if attempt == ATTEMPTS:
                    raise DataError(f"{self.url}: can't be fetched ({error}, {ATTEMPTS} times)") from error
                time.sleep(attempt / 4)
        with whole_file(self.path) as temporary:
            os.replace(self.part, temporary)
        self.note.unlink(missing_ok=True)

    def _promised(self) -> dict[str, Any]:
        """What the server says of the file: its bytes, and what tells this version of it from others; None if nothing."""
        with _plainly(self.url):
            info = self.disk.info(self.url)
        size = info.get("size")
        version = info.get("ETag") or info.get("etag") or info.get("Last-Modified") or info.get("LastModified")
        if size is not None and size > self.limit:
            raise DataError(f"{self.url}: has {size:,} bytes, expected at most {self.limit:,}")
        return {"size": size, "version": None if version is None else str(version)}

    def _copy(self, promised: Mapping[str, Any]) -> None:
        """Writes the part, after what is there of the same version already; what is left over is refused."""
        have = self._kept(promised)
        self.note.write_text(json.dumps(promised), encoding="utf-8")
        with self.part.open("ab") as copy:
            copy.truncate(have)
            pieces = self._rest(have, promised["size"]) if have else self._whole()
            for piece in pieces:
                have += len(piece)
                if have > self.limit:
                    self._forget()
                    raise DataError(f"{self.url}: has more than {self.limit:,} bytes, the most that is fetched")
                copy.write(piece)
        size = promised["size"]
        if size is not None and have != size:
            if have > size:
                self.part.unlink()
            raise _Broken(f"{have:,} bytes arrived of {size:,}")

    def _forget(self) -> None:
        self.part.unlink()
        self.note.unlink()

    def _kept(self, promised: Mapping[str, Any]) -> int:
        """Bytes there are of an earlier attempt at the same file."""
        try:
            same = json.loads(self.note.read_bytes()) == dict(promised)
            have = self.part.stat().st_size
        except (OSError, ValueError):
            return 0
        return have if same and promised["version"] and have < (promised["size"] or 0) else 0

    def _whole(self) -> Iterator[bytes]:
        options = {"block_size": 0} if self.url.startswith("http") else {"cache_type": "none"}  # as a stream
        with _plainly(self.url), self.disk.open(self.url, "rb", **options) as source:
            while piece := source.read(BLOCK):
                yield piece

    def _rest(self, have: int, size: int) -> Iterator[bytes]:
        """The bytes from ``have`` on; where a server sends everything instead, nothing of it is read, and all begins anew."""
        with _plainly(self.url), self.disk.open(self.url, "rb", block_size=8 * BLOCK, cache_type="none") as source:
            try:
                source.seek(have)
                while have < size and (piece := source.read(min(8 * BLOCK, size - have))):
                    yield piece
                    have += len(piece)
            except ValueError as error:  # what fsspec says of a server that has no parts
                self.part.unlink()
                raise _Broken("the server sends no part of the file") from error


class _Broken(Exception):
    """A copy that may succeed when it is tried again."""


@contextmanager
def _plainly(url: str) -> Iterator[None]:
    """Errors of fsspec and of what it stands on, in one line: those that may pass as ``_Broken``, others as DataError."""
    try:
        yield
    except (DataError, _Broken):
        raise
    except FileNotFoundError as error:
        if error.__cause__ is None or isinstance(error.__cause__, FileNotFoundError):
            raise DataError(f"{url}: there is no such file there") from error
        _explain(url, error.__cause__)  # fsspec says so of every answer to http that it does not like
    except PermissionError as error:
        raise DataError(f"{url}: it may not be read ({error})") from error
    except ImportError as error:
        raise DataError(f"{url}: {_install(url)} ({error})") from error
    except Exception as error:  # every protocol has errors of its own
        _explain(url, error)


def _explain(url: str, error: BaseException) -> NoReturn:
    status = getattr(error, "status", None)
    if status in (404, 410):
        raise DataError(f"{url}: there is no such file there ({status})") from error
    if isinstance(status, int) and 400 <= status < 500:
        raise DataError(f"{url}: the server refuses it ({status} {getattr(error, 'message', '')})") from error
    if isinstance(error, TimeoutError):
        raise _Broken(f"no answer for {SECONDS:g} s") from error
    raise _Broken(f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")) from error


def _filesystem(url: str) -> Any:
    protocol = url.partition("://")[0]
    try:
        import fsspec  # type: ignore[import-untyped]

        options: dict[str, Any] = {}
        if protocol in ("http", "https"):
            import aiohttp

            options["client_kwargs"] = {
                "timeout": aiohttp.ClientTimeout(total=None, sock_connect=SECONDS, sock_read=SECONDS)
            }
        return fsspec.filesystem(protocol, **options)  # never url_to_fs, which would follow chains such as http::file
    except ImportError as error:
        raise DataError(f"{url}: {_install(url)} ({error})") from error


def _install(url: str) -> str:
    protocol = url.partition("://")[0]
    return f"files of {protocol} need another package: pip install {PACKAGES.get(protocol, 'fsspec')}"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Only one process is inside; the lock goes away with it, however it ends."""
    if sys.platform == "win32":
        yield  # each fetches a copy of its own, and the last one stays
        return
    import fcntl

    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
