"""Clips written, and which of them were there already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kinetext.making import Request
from kinetext.pipeline import Pipeline
from kinetext.types import Progress


def generate(
    pipeline: Pipeline, prompt: str, paths: Sequence[Path], request: Request, progress: Progress | None = None
) -> list[Path]:
    """Writes clips as ``Pipeline.write`` does, and says which stay as they are: those that were there, made in the very
    same way.
    """
    before = {path: path.stat().st_ino for path in paths if path.is_file()}
    pipeline.write(prompt, paths, request, progress)
    return [path for path, file in before.items() if path.stat().st_ino == file]  # what is written is another file
