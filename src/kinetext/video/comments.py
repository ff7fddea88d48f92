"""Comments in GIF and PNG files, which FFmpeg does not write: put in front, so that they are found without reading on."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_GIF = (b"GIF87a", b"GIF89a")
_HEAD = 13  # bytes of a GIF before its colours
_EXTENSION, _COMMENT = b"\x21", b"\xfe"
_IHDR_END = len(_PNG) + 25
_KEYWORD = b"Comment\0"
_MOST = 1 << 24  # bytes of a comment


def insert(path: Path, comment: str) -> None:
    """Rewrites a GIF or PNG (also an animated one) with a comment.

    Args:
        comment: for a GIF ASCII (GIF89a, 24).

    Raises:
        OSError: the file can't be read or written.
        ValueError: it is neither.
    """
    data = path.read_bytes()
    if data.startswith(_PNG):
        chunk = b"iTXt" + _KEYWORD + bytes(4) + comment.encode()  # not compressed, of no language (PNG, 11.3.3.4)
        block = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        place = _IHDR_END
    elif data.startswith(_GIF):
        text = comment.encode("ascii")
        parts = [text[at : at + 255] for at in range(0, len(text), 255)]
        block = _EXTENSION + _COMMENT + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
        place = _HEAD + _colours(data[10])
    else:
        raise ValueError(f"{path}: neither a GIF nor a PNG")
    path.write_bytes(data[:place] + block + data[place:])


def find(path: Path) -> str:
    """The comment of a GIF or PNG, "" where there is none, or where it is another file.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        start = file.read(len(_PNG))
        if start == _PNG:
            return _in_png(file)
        return _in_gif(file, start) if start[:6] in _GIF else ""


def _in_png(file: BinaryIO) -> str:
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in (b"IDAT", b"IEND") or length > _MOST:
            break
        data = file.read(length + 4)
        if name == b"iTXt" and data.startswith(_KEYWORD + b"\0"):
            return data[:-4][len(_KEYWORD) + 2 :].split(b"\0", 2)[-1].decode(errors="replace")
    return ""


def _in_gif(file: BinaryIO, start: bytes) -> str:
    head = start + file.read(_HEAD - len(start))
    if len(head) < _HEAD:
        return ""
    file.seek(_colours(head[10]), 1)
    while file.read(1) == _EXTENSION:
        label, text = file.read(1), b"".join(_parts(file))
        if label == _COMMENT:
            return text.decode("ascii", errors="replace")
    return ""


def _parts(file: BinaryIO) -> Iterator[bytes]:
    left = _MOST
    while left > 0 and (size := file.read(1)) not in (b"", b"\0"):
        left -= size[0]
        yield file.read(size[0])


def _colours(flags: int) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 << (1 + (flags & 7)) if flags & 0x80 else 0
