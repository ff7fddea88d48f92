"""Run folders and devices by their names."""

from __future__ import annotations

from pathlib import Path

import torch

import kinetext
from kinetext import runtime
from kinetext.assemble.catalog import resolve
from kinetext.checkpoint import Run
from kinetext.types import RunError, joined, suggest

MODELS = Path(kinetext.__file__).parent / "models"


def device(name: str | None) -> torch.device:
    """The device of that name, or the best one here.

    Raises:
        RunError: no such device on this machine.
    """
    try:
        return runtime.device(name)
    except ValueError as error:
        raise RunError(str(error)) from error


def open_path(path: Path) -> Run:
    """A run folder, its recipe resolved: somebody may have edited it, or options were added since it was written.

    Raises:
        RunError: not a run folder, damaged, or of another format.
        RecipeError: a component or option that does not exist.
    """
    run = Run.open(path)
    run.recipe = resolve(run.recipe)
    return run


def open_run(name: str) -> Run:
    """A run folder by its path, or a model that ships in the package by its name."""
    path = Path(name)
    if path.is_dir() and ((path / "recipe.toml").is_file() or path.name != name):
        return open_path(path)
    names = shipped()
    if name in names:
        return open_path(MODELS / name)
    raise RunError(f"{name}: neither a run folder nor a shipped model{suggest(name, names)}; shipped: {joined(names)}")


def is_shipped(run: Run) -> bool:
    """Whether a run lies in the package."""
    return run.path.resolve().is_relative_to(MODELS.resolve())


def shipped() -> list[str]:
    """The names of the models that ship in the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/recipe.toml"))
