"""What the doctor says of a recipe's table, before training."""

from __future__ import annotations

from dataclasses import replace

from kinetext import doctor
from kinetext.assemble.catalog import find
from kinetext.config import Recipe
from kinetext.datasets.folder import Folder
from kinetext.doctor import Plan
from kinetext.interfaces import Dataset
from kinetext.types import DataError, RecipeError


def plan(recipe: Recipe) -> Plan:
    """What a recipe, resolved, wants of its data.

    Raises:
        RecipeError: its data is no folder with a table.
    """
    if recipe.data.name != "folder":
        raise RecipeError(f"data: {recipe.data.name}; the doctor examines folders with a table, expected folder")
    args = recipe.data.args
    encoder = recipe.encoders.get("text")
    reads_words = encoder is not None and not (
        (cls := find("encoders", encoder.name)).own_tokenizer or (cls.reads_vectors and args["text_vectors"])
    )
    reads_words = reads_words or find("task", recipe.task.name).writes_text
    return Plan(
        targets=args["targets"] or None,
        multi=args["multi"],
        numeric=args["numeric"],
        text=args["text"],
        tokenizer=recipe.text.tokenizer if reads_words else None,
        max_tokens=recipe.text.max_tokens,
        num_frames=0 if args["video_vectors"] else args["num_frames"],
        fit=args["fit"],
        own_splits=not args["folds"],
        decided=True,
    )


def check(recipe: Recipe, data: Dataset) -> list[str]:
    """Looks over the table of ``data``, without reading a clip.

    Returns:
        Lines to show.

    Raises:
        DataError: what would make the run's numbers wrong.
    """
    if not isinstance(data, Folder):
        return []
    asked = plan(recipe)
    if asked.targets is None:
        asked = replace(asked, targets=())  # nothing is learned of its labels; its splits matter all the same
    said = doctor.quick(data.table, asked)
    for one in said:
        if one.severity == "error":
            raise DataError(f"{data.table.path}: {one.line()} {one.advice} All of it: kinetext doctor {data.root}")
    lines = [f"{one.code}: {one.line()}" for one in said]
    return [*lines, f"more with: kinetext doctor {data.root}"] if lines else []
