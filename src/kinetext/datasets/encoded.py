"""What frozen encoders make of a dataset, made once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from kinetext.interfaces import Dataset
from kinetext.runtime import whole_file
from kinetext.types import DataError, Modality, Progress, Sample

CHUNK = 16  # samples that are encoded together
MEMORY = 2**30  # bytes of features that one process keeps at hand
Encode = Callable[[Sequence[Sample]], Mapping[Modality, Sequence[Tensor]]]


class Encoded(Dataset):
    """A dataset whose samples carry what frozen encoders make of them, so that a training on it runs at the speed of its
    head: no clip of theirs is decoded, and no frozen encoder is run.

    Files are kept under ``folder`` by a hash of the encoder (weights and options) and of what it saw (the content of a
    clip's file and how it is read, or the text), so that another run, split or table finds them again. What is already
    there is not made again: an interrupted pass goes on where it was.

    Args:
        data: the samples; their clips are the same in every epoch.
        names: modality -> what tells its encoder from others.
        encode: samples -> modality -> features ``(L, D)`` of each.
        folder: of the files.
        progress: called while samples are encoded.

    Raises:
        DataError: the folder can't be written, or a file in it can't be read.
    """

    def __init__(
        self,
        data: Dataset,
        names: Mapping[Modality, str],
        encode: Encode,
        folder: Path,
        progress: Progress | None = None,
    ) -> None:
        self.data, self.names, self.folder = data, dict(names), folder
        self.targets, self.fps, self.fixed = data.targets, data.fps, data.fixed
        self.vector_dims, self.splits = data.vector_dims, data.splits
        self.video_shape = None if "video" in names else data.video_shape
        self._files = [self._places(index) for index in range(len(data))]
        self._fill(encode, progress)
        self._read: dict[Path, Tensor] = {}
        self._read_bytes = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, draw: int) -> Sample:
        index = draw % len(self.data)
        sample = self.data[draw] if self.video_shape else self.data.still(index)
        return replace(
            sample, encoded={modality: self._features(path) for modality, path in self._files[index].items()}
        )

    def texts(self) -> Sequence[str]:
        """Those of the data."""
        return list(self.data.texts())

    def counts(self, column: str) -> tuple[int, ...]:
        """Those of the data."""
        return self.data.counts(column)

    def numbers(self, column: str) -> tuple[float, ...]:
        """Those of the data."""
        return self.data.numbers(column)

    def _places(self, index: int) -> dict[Modality, Path]:
        """Where what is made of a sample is kept; a modality that it lacks has no place."""
        text = self.data.still(index).text if "text" in self.names else None
        clip = self.data.fingerprint(index) if "video" in self.names else ""
        saw: dict[Modality, str | None] = {"text": text, "video": clip}
        return {
            modality: self.folder / f"{_hash(name)[:24]}" / f"{_hash(str(saw[modality]))}.safetensors"
            for modality, name in self.names.items()
            if saw[modality]
        }

    def _fill(self, encode: Encode, progress: Progress | None) -> None:
        first: dict[Path, int] = {}  # of samples that see the same, one is encoded
        for index, files in enumerate(self._files):
            for path in files.values():
                first.setdefault(path, index)
        missing = sorted({index for path, index in first.items() if not path.is_file()})
        for start in range(0, len(missing), CHUNK):
            some = missing[start : start + CHUNK]
            read = self.data.__getitem__ if "video" in self.names else self.data.still
            made = encode([read(index) for index in some])
            for place, index in enumerate(some):
                for modality, path in self._files[index].items():
                    if first[path] == index:
                        _write(path, made[modality][place])
            if progress:
                progress(min(start + CHUNK, len(missing)), len(missing))

    def _features(self, path: Path) -> Tensor:
        if path in self._read:
            return self._read[path]
        try:
            found = safetensors.torch.load_file(path)["features"]
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise DataError(f"{path}: can't be read ({error}); delete it, and it is made again") from error
        if self._read_bytes + found.nbytes <= MEMORY:
            self._read[path] = found
            self._read_bytes += found.nbytes
        return found


class WithLatents(Dataset):
    """A dataset whose samples carry what a codec made of their clips, a cell after the other, instead of the clips.

    Args:
        data: the samples.
        latent: of an index, a target ``(C', T', H', W')`` float32, or None.
    """

    def __init__(self, data: Dataset, latent: Callable[[int], Tensor | None]) -> None:
        self.data, self.latent = data, latent
        self.targets, self.fps, self.fixed = data.targets, data.fps, data.fixed
        self.vector_dims, self.splits, self.fixed_text = data.vector_dims, data.splits, data.fixed_text

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, draw: int) -> Sample:
        index = draw % len(self.data)
        found = self.latent(index)
        # (C', T', H', W') -> (L, D)
        return replace(
            self.data.still(index), encoded={} if found is None else {"video": found.flatten(1).T.contiguous()}
        )

    def texts(self) -> Sequence[str]:
        """Those of the data."""
        return list(self.data.texts())

    def counts(self, column: str) -> tuple[int, ...]:
        """Those of the data."""
        return self.data.counts(column)

    def numbers(self, column: str) -> tuple[float, ...]:
        """Those of the data."""
        return self.data.numbers(column)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(path: Path, features: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_bytes(safetensors.torch.save({"features": features.contiguous()}))
    except OSError as error:
        raise DataError(
            f"{path}: can't be written ({error}); set KINETEXT_CACHE to a folder with room for what frozen encoders make"
        ) from error
