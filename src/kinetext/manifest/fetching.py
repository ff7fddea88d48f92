"""Files elsewhere, copied to the cache once."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from kinetext.runtime import cache_folder, whole_file
from kinetext.types import DataError


def fetch(url: str) -> Path:
    """Copies a file from elsewhere to the cache, where it is not there yet; it appears whole.

    Raises:
        DataError: it can't be fetched, or there is no room.
    """
    path = cache_folder() / "fetched" / hashlib.sha256(url.encode()).hexdigest()[:24] / url.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f"{url}: reading what is elsewhere needs fsspec; pip install 'kinetext[remote]'") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, fsspec.open(url, "rb") as source, temporary.open("wb") as copy:
            shutil.copyfileobj(source, copy, 2**20)
    except Exception as error:  # every protocol of fsspec has errors of its own
        raise DataError(f"{url}: can't be fetched ({type(error).__name__}: {error})") from error
    return path
