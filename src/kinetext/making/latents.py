"""What the generator made, kept until the clip is written: a failed decode or a full disk costs no second sampling."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
from torch import Tensor

from kinetext import video
from kinetext.checkpoint import whole


class LatentsWarning(UserWarning):
    """Something is done about latents that were found."""


class Latents(Protocol):
    """Targets ``(C', T', H', W')`` of the windows of one clip."""

    def get(self, window: int) -> Tensor | None: ...

    def put(self, window: int, target: Tensor) -> None: ...


class Held:
    """In memory, until they are taken."""

    def __init__(self) -> None:
        self._held: dict[int, Tensor] = {}

    def get(self, window: int) -> Tensor | None:
        return self._held.pop(window, None)

    def put(self, window: int, target: Tensor) -> None:
        self._held[window] = target


class Stored:
    """Files beside a clip: CLIP.latents.safetensors, CLIP.latents-1.safetensors of the next window, and so on.

    Args:
        clip: the mp4 that they become.
        provenance: of the clip; latents of another clip are not taken.
    """

    def __init__(self, clip: Path, provenance: Mapping[str, Any]) -> None:
        self.clip, self._said = clip, json.dumps(dict(provenance), ensure_ascii=False, sort_keys=True)

    def path(self, window: int) -> Path:
        return self.clip.with_name(f"{self.clip.stem}.latents{f'-{window}' if window else ''}.safetensors")

    def is_written(self) -> bool:
        """Whether the clip is there, made in the very same way: files appear whole."""
        try:
            found = video.read_provenance(self.clip)
        except video.VideoError:
            return False
        return found is not None and json.dumps(found, ensure_ascii=False, sort_keys=True) == self._said

    def get(self, window: int) -> Tensor | None:
        path = self.path(window)
        if not path.is_file():
            return None
        try:
            with safetensors.safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("provenance") == self._said:
                    return file.get_tensor("latents")
            why = "of another clip"
        except (OSError, safetensors.SafetensorError) as error:
            why = f"unreadable ({error})"
        warnings.warn(f"{path}: {why}, so it is made anew", LatentsWarning, stacklevel=2)
        return None

    def put(self, window: int, target: Tensor) -> None:
        """Writes it whole.

        Raises:
            RunError: the disk is full, or the folder can't be written.
        """
        ready = safetensors.torch.save({"latents": target.cpu().contiguous()}, {"provenance": self._said})
        with whole(self.path(window)) as temporary:
            temporary.write_bytes(ready)

    def remove(self) -> None:
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        name = re.compile(rf"{re.escape(self.clip.stem)}\.latents(-\d+)?\.safetensors")
        return [path for path in self.clip.parent.iterdir() if name.fullmatch(path.name)]
