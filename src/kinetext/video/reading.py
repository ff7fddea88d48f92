"""Video files -> tensors: whole clips, sampled in time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from kinetext.types import DataError
from kinetext.video import comments
from kinetext.video.containers import VideoError, opened
from kinetext.video.limits import LIMITS, Limits
from kinetext.video.pictures import are_pictures
from kinetext.video.reader import Decoder, VideoReader
from kinetext.video.sampling import Choice, Sampling
from kinetext.video.shaping import WHOLE, Fit, Region

# what files of clips and pictures are called
SUFFIXES = (
    ".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".gif",
    ".apng", ".png", ".jpg", ".jpeg", ".bmp", ".webp",
)  # fmt: skip


def read_clip(
    path: str | Path,
    *,
    num_frames: int,
    size: int,
    channels: int = 3,
    start: float | None = None,
    end: float | None = None,
    sampling: Sampling = "uniform",
    clip_seconds: float | None = None,
    fps: float | None = None,
    fit: Fit = "crop",
    region: Region = WHOLE,
    rng: torch.Generator | None = None,
    decoder: Decoder = "auto",
    limits: Limits = LIMITS,
    isolated: bool = False,
) -> Tensor:
    """A clip of exactly ``num_frames`` square frames, ``(C, T, size, size)`` float32 in [-1, 1].

    The range [start, end) begins with the frame on screen at ``start``. A window is placed in it: all of it, or
    ``clip_seconds`` long, or ``num_frames / fps`` seconds long; in the middle ("uniform") or anywhere ("random").
    Frame i of the clip is the middle one of the i-th of ``num_frames`` equal segments of the window's N frames,
    number floor((i + 0.5) N / num_frames); where N is smaller than ``num_frames``, frames repeat by the same
    formula. A window longer than the range is the range.

    Args:
        path: a video, or an image, which is a video of one frame.
        num_frames: >= 1.
        size: pixels, >= 1.
        channels: 3 (RGB) or 1 (luma, ITU-R BT.601).
        start: seconds from the first frame, >= 0; None is the beginning. Tables round times: up to a millisecond before a frame
            (a quarter of a frame where that is less) is that frame's time.
        end: seconds, > start; None is the end. It may lie one frame, but no more than 0.1 s, after the end of the file.
        sampling: "uniform" takes the middle window, "random" any with equal chance.
        clip_seconds: > 0; not together with ``fps``.
        fps: > 0; not together with ``clip_seconds``.
        fit: "crop" the middle square, "squash" to a square whatever the aspect, or "pad" with black.
        region: the part of the upright picture that is looked at, cut out before ``fit``: left, top, right and bottom
            in shares of its width and height, in [0, 1].
        rng: for "random", which also needs ``clip_seconds`` or ``fps``.
        decoder, limits: as of ``VideoReader``.
        isolated: decode in a process of its own, with 1 GiB of memory and a minute (``video.isolated``), so that a crash or a
            bomb is a ``VideoError``; Linux only, by "pyav".

    Raises:
        DataError: an argument is outside its range.
        VideoError: the file is missing or broken, or does not reach ``start`` or ``end``.
    """
    choice = Choice(num_frames, start, end, sampling, clip_seconds, fps)
    choice.check(rng)
    if isolated:
        if decoder == "torchcodec":
            raise DataError("isolated: expected without decoder='torchcodec'")
        from kinetext.video.isolated import call

        told = asdict(choice) | {"size": size, "channels": channels, "fit": fit, "region": region, "limits": limits}
        return call("read_clip", path, told if rng is None else told | {"rng": rng})
    with VideoReader(
        path, size=size, fit=fit, region=region, channels=channels, decoder=decoder, limits=limits
    ) as reader:
        return reader.frames_at(choice.numbers(reader.path, reader.line, rng)).video()


def read_all(
    path: str | Path, *, channels: int = 3, max_frames: int = 4096, limits: Limits = LIMITS
) -> tuple[Tensor, float]:
    """Every frame at its displayed size, uint8 ``(T, H, W, C)``, and the frames a second (0 for an image).

    Raises:
        VideoError: the file is missing or broken, changes its size, has more than ``max_frames`` frames, or is larger than
            ``limits`` allow.
    """
    with VideoReader(path, channels=channels, limits=limits) as reader:
        if len(reader) > max_frames:
            raise VideoError(f"{path}: {len(reader)} frames, expected at most {max_frames} (max_frames)")
        return reader.clip().pixels, reader.line.fps


def read_provenance(path: str | Path) -> dict[str, object] | None:
    """How a clip was made, as ``write`` stored it; None where the file says nothing of the kind, or is none that ``write`` makes.

    Raises:
        VideoError: the file is missing or is no video.
    """
    path = Path(path)
    if are_pictures(path):
        return None
    with opened(path) as (container, _):
        tags = {name.lower(): text for name, text in container.metadata.items()}  # Matroska says COMMENT
    comment = tags.get("comment") or comments.find(path)
    try:
        found = json.loads(comment)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
