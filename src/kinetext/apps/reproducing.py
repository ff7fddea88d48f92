"""A clip made again from what its file says."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import kinetext
from kinetext import video
from kinetext.making import Plan, machine
from kinetext.pipeline import Pipeline
from kinetext.types import DataError, Progress, RunError


@dataclass(frozen=True)
class Reproduction:
    """What came of making a clip again.

    Args:
        said: what its file says of it.
        difference: the largest difference of a pixel, 0 to 255; 0 is identical.
        notes: what is different about the model's settings and this machine.
    """

    said: Mapping[str, Any]
    difference: int
    notes: tuple[str, ...]


def reproduce(
    path: Path | str, model: str | Path | None = None, device: str | None = None, progress: Progress | None = None
) -> Reproduction:
    """Makes a clip again from what its file says, and compares decoded frames.

    Files that it was made from are looked for as ``File.near`` does.

    Args:
        path: a clip that kinetext made; what it was packed by is taken again, so frames compare in every kind.
        model: where the model is now; None is where it was.
        progress: called after every window of the new clip.

    Raises:
        DataError: the file does not say how it was made, or was made from files that are no longer the same.
        RunError: the model is not there, or has other weights now.
    """
    said = video.read_provenance(path)
    if said is None or not {"kinetext", "model", "weights_sha256"} <= set(said):
        raise DataError(f"{path}: does not say how it was made; expected a clip written by kinetext generate")
    pipeline = Pipeline.load(model or str(said["model"]), device)
    if pipeline.weights_sha256 != said["weights_sha256"]:
        raise RunError(
            f"{path}: was made with weights {str(said['weights_sha256'])[:12]}, but {pipeline.name} has "
            f"{pipeline.weights_sha256[:12]}; name the model that made it"
        )
    try:
        near = {name: asdict(file.near(Path(path))) for name, file in Plan.read(said).files().items()}
        clip = pipeline.again({**said, **near})
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / f"again{Path(path).suffix}"
        clip.save(again, progress)
        difference = _difference(Path(path), again)
    now = {"kinetext": kinetext.__version__, **machine(pipeline.device)}
    notes = [f"{name} was {said[name]}, is {value}" for name, value in now.items() if said.get(name, value) != value]
    settings = clip.provenance["settings"]
    if said.get("settings", settings) != settings:  # clips of earlier versions do not say
        notes.insert(0, f"the settings of the model are others now (recipe.toml of {pipeline.name}, or their defaults)")
    return Reproduction(said, difference, tuple(notes))


def _difference(path: Path, again: Path) -> int:
    """The largest difference of a pixel of two clips of one shape, 0 to 255."""
    was, now = ((info.num_frames, info.height, info.width) for info in (video.probe(again), video.probe(path)))
    if was != now:
        raise DataError(f"{path}: (T, H, W) is {now} and was {was}; the file was changed")
    frames = zip(video.stream(path), video.stream(again), strict=True)
    return max(round(127.5 * float((a - b).abs().max())) for a, b in frames)
