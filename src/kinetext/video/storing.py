"""Clips as they lie in training-ready shards: every frame a JPEG, or all frames an array of bytes.

Any frame is read without the others. What each form takes to keep and to read stands in docs/performance.md.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kinetext.runtime import cache_folder, whole_file
from kinetext.types import DataError, joined
from kinetext.video.limits import LIMITS
from kinetext.video.reader import to_float
from kinetext.video.shaping import CHANNELS, grey
from kinetext.video.writing import to_bytes

Stored = Literal["jpeg", "exact"]
_ARRAY = "npy"
Buffer = bytes | memoryview


def store(clip: Tensor, *, how: Stored, quality: int) -> dict[str, bytes]:
    """The files that hold a clip: "000.jpg", "001.jpg" ..., or "npy", an array ``(T, H, W, C)`` of uint8.

    Args:
        clip: ``(C, T, H, W)`` float32 in [-1, 1]; C is 1 or 3.
        how: "exact" keeps every bit.
        quality: of JPEGs, 1 to 100.
    """
    pixels: NDArray[np.uint8] = np.ascontiguousarray(to_bytes(clip).permute(1, 2, 3, 0).numpy())
    if how == "exact":
        whole = io.BytesIO()
        np.save(whole, pixels, allow_pickle=False)
        return {_ARRAY: whole.getvalue()}
    found = {}
    for number, frame in enumerate(pixels):
        file = io.BytesIO()
        # colours of small frames are as fine as their shapes: no subsampling
        Image.fromarray(frame.squeeze(2) if frame.shape[2] == 1 else frame).save(
            file, "JPEG", quality=quality, subsampling=0
        )
        found[f"{number:03}.jpg"] = file.getvalue()
    return found


def is_stored(name: str) -> bool:
    """Whether a file of this name, its key and first dot apart, can be one of a clip that ``store`` made."""
    first, _, last = name.rpartition(".")
    return name == _ARRAY or (last in ("jpg", "jpeg", "png", "webp") and first.isdecimal())


def restore(files: Mapping[str, Buffer], numbers: Sequence[int], *, channels: int) -> Tensor:
    """Some frames of a stored clip, ``(C, T, H, W)`` float32 in [-1, 1].

    Args:
        files: by name, those of a whole clip.
        numbers: which frames, each at least 0 and less than ``frames_of(files)``.
        channels: 3 (RGB) or 1 (luma).

    Raises:
        DataError: they can't be decoded, or are larger than the limits allow.
    """
    try:
        if _ARRAY in files:
            pixels = _array(files[_ARRAY])[list(numbers)]
        else:
            names = sorted(files, key=lambda name: int(name.partition(".")[0]))
            made = {number: _picture(files[names[number]]) for number in dict.fromkeys(numbers)}
            pixels = np.stack([made[number] for number in numbers])
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # what Pillow raises for broken files
        raise DataError(f"its frames can't be decoded ({error})") from error
    if pixels.shape[3] < channels:
        raise DataError(f"stored with {pixels.shape[3]} channel, expected {channels}")
    if pixels.shape[3] > channels:
        pixels = grey(pixels)
    return to_float(torch.from_numpy(pixels).permute(3, 0, 1, 2).contiguous())


def frames_of(files: Mapping[str, Buffer]) -> int:
    """How many frames a stored clip has.

    Raises:
        DataError: its array can't be read.
    """
    try:
        return len(_array(files[_ARRAY])) if _ARRAY in files else len(files)
    except ValueError as error:
        raise DataError(f"its frames can't be decoded ({error})") from error


def as_file(data: Buffer, suffix: str) -> Path:
    """A file with these bytes, in the cache under their hash.

    Args:
        data: of a video or a picture.
        suffix: what its name ends in, such as ".mp4".

    Raises:
        DataError: it can't be written.
    """
    path = cache_folder() / "members" / f"{hashlib.sha256(data).hexdigest()}{suffix}"
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error}); set KINETEXT_CACHE to a folder with room for the clips of shards"
        ) from error
    return path


def _array(data: Buffer) -> NDArray[np.uint8]:
    """The array in a .npy file, where it lies."""
    file = io.BytesIO(data[:4096])
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran or dtype != np.uint8 or len(shape) != 4 or shape[3] not in CHANNELS:
        raise ValueError(f"an array of {dtype} {shape}, expected uint8 (T, H, W, C), C one of {joined(CHANNELS)}")
    _check_pixels(shape[2], shape[1])
    return np.frombuffer(data, np.uint8, offset=file.tell()).reshape(shape)


def _picture(data: Buffer) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        _check_pixels(*image.size)
        grey = image.mode == "L"
        pixels = np.asarray(image if grey else image.convert("RGB"))
    return pixels[..., None] if grey else pixels


def _check_pixels(width: int, height: int) -> None:
    if width * height > LIMITS.pixels:
        raise ValueError(f"{width}x{height}, expected at most {LIMITS.pixels:,} pixels")
