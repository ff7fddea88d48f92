"""Frame rates multiplied: frames made between those of a clip."""

from __future__ import annotations

from pathlib import Path

from kinetext import video
from kinetext.pipeline import Pipeline, outputs
from kinetext.types import Progress

MODEL = "digits"  # of clips that no model of ours made


def interpolate(
    path: Path,
    out: Path | None = None,
    *,
    factor: int = 2,
    model: str | None = None,
    prompt: str | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a clip with ``factor`` times the frames a second of ``path``, and says where.

    Its T frames become ``factor * (T - 1) + 1``, each at the time that it had, in the size of the model.

    Args:
        out: an mp4; None is PATH-xFACTOR.mp4.
        model: a shipped model or run folder; None is the one that made the clip, or digits.
        prompt: what the clip shows; None is what its file says that it was made from, or nothing.
        progress: called after every window.

    Raises:
        KinetextError: as ``Pipeline.interpolate``; or the clip can't be read or written.
    """
    said = video.read_provenance(path) or {}
    (out,) = outputs(out or path.with_name(f"{path.stem}-x{factor}.mp4"), 1)
    text = str(said.get("prompt", "")) if prompt is None else prompt
    pipeline = Pipeline.load(model or str(said.get("model", MODEL)), device)
    clip = pipeline.interpolate(path, factor=factor, prompt=text, seed=seed, steps=steps, guidance=guidance)
    clip.save(out, progress)
    return out
