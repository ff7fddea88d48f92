"""A clip made again from what its file says."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import kinetext
from kinetext import video
from kinetext.pipeline import Clip, Pipeline, machine
from kinetext.types import DataError, RunError


@dataclass(frozen=True)
class Reproduction:
    """What came of making a clip again.

    Args:
        clip: the new one.
        difference: the largest difference of a pixel, 0 to 255; 0 is identical.
        notes: what is different about this machine.
    """

    clip: Clip
    difference: int
    notes: tuple[str, ...]


def reproduce(path: Path | str, model: str | Path | None = None, device: str | None = None) -> Reproduction:
    """Makes a clip again from what its file says, and compares decoded frames.

    Args:
        path: an mp4 that kinetext made.
        model: where the model is now; None is where it was.

    Raises:
        DataError: the file does not say how it was made.
        RunError: the model is not there, or has other weights now.
    """
    said = video.read_provenance(path)
    needed = {"kinetext", "model", "weights_sha256", "prompt", "seed", "index", "steps", "guidance", "fps", "precision"}
    if said is None or not needed <= set(said):
        raise DataError(f"{path}: does not say how it was made; expected a clip written by kinetext generate")
    pipeline = Pipeline.load(model or str(said["model"]), device)
    if pipeline.weights_sha256 != said["weights_sha256"]:
        raise RunError(
            f"{path}: was made with weights {str(said['weights_sha256'])[:12]}, but {pipeline.name} has "
            f"{pipeline.weights_sha256[:12]}; name the model that made it"
        )
    clip = pipeline.again(said)
    with tempfile.TemporaryDirectory() as folder:
        clip.save(Path(folder) / "again.mp4")
        again, _ = video.read_all(Path(folder) / "again.mp4")
    before, _ = video.read_all(path)
    if before.shape != again.shape:
        raise DataError(
            f"{path}: (T, H, W, C) is {tuple(before.shape)} and was {tuple(again.shape)}; the file was changed"
        )
    difference = int((before.int() - again.int()).abs().max())
    now = {"kinetext": kinetext.__version__, **machine(pipeline.device)}
    notes = [f"{name} was {said[name]}, is {value}" for name, value in now.items() if said.get(name, value) != value]
    return Reproduction(clip, difference, tuple(notes))
