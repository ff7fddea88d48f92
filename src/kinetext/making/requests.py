"""What is asked for, and what that comes to: all that making a clip takes, and making it again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from kinetext.types import DataError, check_between
from kinetext.video import frame_rate

STRENGTH = 0.7  # of a change, unless said


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for besides the prompts. What is None or empty is left to the model, or left out.

    Args:
        num: clips a prompt, 1 to 10,000.
        seed: >= 0; another seed, another clip.
        seeds: one for every clip of a prompt, each >= 0, in place of ``num`` and ``seed``: the clips that these seeds
            give alone.
        steps: sampler steps, 1 to 1000.
        guidance: how much the text is exaggerated, 0 to 100; 1 is as learned.
        fps: frames a second, more than 0, at most 1000.
        negative: a text to keep away from; it takes guidance above 1.
        image: a picture: the first frame.
        video: a video whose first frames are the first ones of the clip; with ``mask``, one whose other part stays.
        keep: how many frames of ``video`` stay, >= 1; None is all.
        change: a video to change.
        strength: how much of ``change`` may change, in (0, 1]; None is 0.7.
        mask: a picture, white where ``video`` or ``change`` is made anew; the rest stays.
        seconds: of a clip, more than 0, at most a day; None is as long as the model's own.
        history: of clips longer than the model's own, which are made window by window: how many frames of the target
            a window knows from the one before; None is half of them.
        batch: clips made at once, 1 to 1024: faster on some machines. A clip's last bits hang on it.

    Raises:
        DataError: options that can't be together, or one out of range.
    """

    num: int = 1
    seed: int = 0
    seeds: tuple[int, ...] = ()
    steps: int | None = None
    guidance: float | None = None
    fps: float | None = None
    negative: str = ""
    image: Path | str | None = None
    video: Path | str | None = None
    keep: int | None = None
    change: Path | str | None = None
    strength: float | None = None
    mask: Path | str | None = None
    seconds: float | None = None
    history: int | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        check_between("num", self.num, 1, 10_000)
        check_between("batch", self.batch, 1, 1024)
        if self.seeds and (self.num != 1 or self.seed != 0):
            raise DataError(f"seeds: {len(self.seeds)} are given, which says how many clips; leave num and seed out")
        for seed in self.seeds:
            check_between(f"seeds {','.join(map(str, self.seeds))}", seed, 0, 2**63 - 1)
        if self.seconds is not None and not 0 < self.seconds <= 86_400:
            raise DataError(f"seconds: {self.seconds}, expected more than 0, at most 86400")
        if self.history is not None and self.seconds is None:
            raise DataError(
                f"history: {self.history}, expected with seconds; else there is one window, and none before"
            )
        if self.batch > 1 and self.seconds is not None:
            raise DataError(f"batch: {self.batch}, expected 1 with seconds, whose windows are made one after another")
        self._check_given()

    @property
    def clips(self) -> int:
        """How many of each prompt."""
        return len(self.seeds) or self.num

    def _check_given(self) -> None:
        """Refuses given files that can't be together."""
        if self.image is not None and self.video is not None:
            raise DataError("image and video: both are given, expected one of them to begin with")
        if self.video is not None and self.change is not None:
            raise DataError("video and change: both are given, expected one: frames that stay, or a video to change")
        if self.mask is not None and self.video is None and self.change is None:
            raise DataError("mask: expected with video or change, the video that it is a part of")
        if self.keep is not None:
            if self.video is None:
                raise DataError(f"keep: {self.keep}, expected with video, whose frames stay")
            if self.mask is not None:
                raise DataError(f"keep: {self.keep}, expected without mask, which says what stays")
            check_between("keep", self.keep, 1, 2**31)
        if self.strength is not None:
            if self.change is None:
                raise DataError(f"strength: {self.strength}, expected with change, the video to change")
            _check_strength(self.strength)


@dataclass(frozen=True)
class File:
    """A file that was given.

    Args:
        path: where it is, as it was said.
        sha256: of what was in it.
    """

    path: str
    sha256: str

    @classmethod
    def of(cls, name: str, path: Path | str) -> Self:
        """Reads the file; ``name`` is the option that names it.

        Raises:
            DataError: it can't be read.
        """
        return cls(str(path), _digest(name, Path(path)))

    def check(self, name: str) -> None:
        """Refuses a file that is no longer what it was.

        Raises:
            DataError: it is gone, or has other content.
        """
        now = _digest(name, Path(self.path))
        if now != self.sha256:
            raise DataError(f"{name}: {self.path} has changed since: its SHA-256 was {self.sha256[:12]}, is {now[:12]}")

    def near(self, clip: Path) -> Self:
        """The file where it is now, for somebody who has ``clip``, which was made from it, and stands elsewhere.

        It is where its path leads from here, from the folder of the clip or from one above, or beside the clip; only
        a file with the same content is taken. As it was where there is none.
        """
        said, folders = Path(self.path), clip.resolve().parents
        for place in dict.fromkeys((said, *(folder / said for folder in folders), folders[0] / said.name)):
            if _holds(place, self.sha256):
                return replace(self, path=str(place))
        return self


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that making one clip takes besides the model.

    Args:
        prompt: "" is no text.
        seed, index: which noise, both >= 0.
        steps, guidance, fps, negative, image, video, keep, change, strength, mask: as in ``Request``, decided.
        precision: of the arithmetic.
        num_frames: of the clip, >= 1.
        history: frames of the target that a window knows from the one before; None where there is one window.
        source: a video to interpolate: its frames are every ``factor``-th of the clip.
        factor: >= 2.
        batch: how many clips are made at once; ``row``: which of them this is.
    """

    prompt: str
    seed: int
    index: int
    steps: int
    guidance: float
    fps: float
    precision: Literal["bf16", "fp32"]
    num_frames: int
    history: int | None = None
    negative: str = ""
    image: File | None = None
    video: File | None = None
    keep: int | None = None
    change: File | None = None
    strength: float | None = None
    mask: File | None = None
    source: File | None = None
    factor: int | None = None
    batch: int = 1
    row: int = 0

    def __post_init__(self) -> None:
        check_between("seed", self.seed, 0, 2**63 - 1)
        check_between("index", self.index, 0, 2**63 - 1)
        check_between("steps", self.steps, 1, 1000)
        check_between("guidance", self.guidance, 0, 100)
        check_between("num_frames", self.num_frames, 1, 86_400_000)
        check_between("batch", self.batch, 1, 1024)
        check_between("row", self.row, 0, self.batch - 1)
        if self.strength is not None:
            _check_strength(self.strength)
        if self.negative and self.guidance <= 1:
            raise DataError(f"negative: expected with guidance above 1, and it is {self.guidance:g}")
        frame_rate(self.fps)

    def files(self) -> dict[str, File]:
        """The given files by the names of their options."""
        named = {"image": self.image, "video": self.video, "change": self.change, "mask": self.mask}
        return {name: file for name, file in {**named, "source": self.source}.items() if file is not None}

    def said(self) -> dict[str, Any]:
        """The plan as JSON holds it, without what is as always."""
        always = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != always[name] or name in _NEEDED}

    @classmethod
    def read(cls, said: Mapping[str, object]) -> Self:
        """Undoes ``said``; other entries are not looked at.

        Raises:
            DataError: something is missing, or of another type or range.
        """
        own = {field.name for field in fields(cls)}
        try:
            return TypeAdapter(cls).validate_python({name: value for name, value in said.items() if name in own})
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(
                f"{'.'.join(map(str, first['loc']))}: {first['msg'][:1].lower()}{first['msg'][1:]}"
            ) from error


_NEEDED = frozenset({"prompt", "seed", "index", "steps", "guidance", "fps", "precision", "num_frames"})


def frames_in(seconds: float, fps: float) -> int:
    """How many frames a clip of ``seconds`` has.

    Raises:
        DataError: not one.
    """
    frames = math.floor(seconds * fps + 0.5)
    if frames < 1:
        raise DataError(f"seconds: {seconds}, expected at least {1 / fps:g}, one frame at {fps:g} a second")
    return frames


def _check_strength(strength: float) -> None:
    if not 0 < strength <= 1:
        raise DataError(f"strength: {strength}, expected more than 0, at most 1")


def _digest(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{name}: {path} can't be read ({error.strerror or error})") from error


def _holds(path: Path, sha256: str) -> bool:
    """Whether a file is there, and has this content."""
    try:
        return path.is_file() and _digest("", path) == sha256
    except (OSError, DataError):
        return False
