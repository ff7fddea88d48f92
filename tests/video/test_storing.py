"""Stored clips that are no clips: an error that says so, before much memory is taken."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch

from kinetext import video
from kinetext.types import DataError


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(width: int, height: int, data: bytes) -> bytes:
    chunks = ((b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_what_was_stored_comes_back() -> None:
    clip = torch.randint(0, 256, (3, 4, 8, 8), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    files = video.store(clip, how="exact", quality=90)
    assert video.frames_of(files) == 4
    assert torch.equal(video.restore(files, [2, 0], channels=3), clip[:, [2, 0]])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"npy": npy(np.zeros((2, 4, 4, 4), np.uint8))},
            r"\(2, 4, 4, 4\), expected uint8 \(T, H, W, C\), C one of 1, 3",
        ),
        ({"npy": npy(np.zeros((2, 4, 4, 2), np.uint8))}, r"C one of 1, 3"),
        ({"npy": npy(np.zeros((2, 4, 4, 3), np.float32))}, r"float32"),
        ({"npy": npy(np.zeros((0, 10**5, 10**4, 3), np.uint8))}, r"10000x100000, expected at most 67,108,864 pixels"),
        ({"npy": b"no array"}, r"can't be decoded"),
        ({"npy": npy(np.zeros((2, 4, 4, 3), np.uint8))[:-1]}, r"can't be decoded"),
        ({"000.png": png(8192, 8193, b"")}, r"8192x8193, expected at most 67,108,864 pixels"),
        ({"000.png": png(40_000, 40_000, b"")}, r"can't be decoded .*bomb"),
        ({"000.jpg": b"no picture"}, r"can't be decoded"),
    ],
)
def test_what_is_no_clip_is_one_error(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        video.restore(files, [0], channels=1)
    if "npy" in files:
        with pytest.raises(DataError, match=message):
            video.frames_of(files)
