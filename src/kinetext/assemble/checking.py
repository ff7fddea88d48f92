"""What the doctor says of a recipe's table, before training."""

from __future__ import annotations

from dataclasses import replace

from kinetext import doctor
from kinetext.assemble.catalog import find
from kinetext.config import Recipe
from kinetext.datasets.folder import Folder
from kinetext.datasets.hub import Hub
from kinetext.datasets.shards import Shards
from kinetext.doctor import Finding, Plan
from kinetext.interfaces import Dataset
from kinetext.types import DataError, RecipeError


def plan(recipe: Recipe) -> Plan:
    """What a recipe, resolved, wants of its data.

    Raises:
        RecipeError: its data is no folder with a table.
    """
    if recipe.data.name != "folder":
        raise RecipeError(f"data: {recipe.data.name}; the doctor examines folders with a table, expected folder")
    return _plan(recipe)


def _plan(recipe: Recipe) -> Plan:
    """The same of any dataset with a table."""
    args = recipe.data.args
    encoder = recipe.encoders.get("text")
    reads_words = encoder is not None and not (
        (cls := find("encoders", encoder.name)).own_tokenizer or (cls.reads_vectors and args.get("text_vectors"))
    )
    reads_words = reads_words or find("task", recipe.task.name).writes_text
    return Plan(
        targets=args["targets"] or None,
        multi=args["multi"],
        numeric=args["numeric"],
        text=args["text"],
        tokenizer=recipe.text.tokenizer if reads_words else None,
        max_tokens=recipe.text.max_tokens,
        num_frames=0 if args.get("video_vectors") else args["num_frames"],
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
    if not isinstance(data, Folder | Hub | Shards):
        return []
    asked = _plan(recipe)
    if asked.targets is None:
        asked = replace(asked, targets=())  # nothing is learned of its labels; its splits matter all the same
    if isinstance(data, Hub) and asked.text:
        asked = replace(asked, text="text")  # whatever its column is called there
    said = doctor.quick(data.selected.table, asked)
    for one in said:
        if one.severity == "error":
            raise DataError(_stops(recipe, data, one))
    lines = [f"{one.code}: {one.line()}" for one in said]
    more = [f"more with: kinetext doctor {data.root}"] if isinstance(data, Folder) else []
    return [*lines, *more] if lines else []


def _stops(recipe: Recipe, data: Folder | Hub | Shards, one: Finding) -> str:
    """An error of a table that training must not begin with, and what to do."""
    if isinstance(data, Folder):
        return f"{data.table.path}: {one.line()} {one.advice} All of it: kinetext doctor {data.root}"
    place = recipe.data.args["root" if isinstance(data, Shards) else "source"]
    mend = "Mend the dataset"
    if isinstance(data, Shards) and data.packed:
        mend = "Mend the folder that was packed (`kinetext doctor` finds all of it) and pack it again"
    elif one.code == "group-across-splits":
        mend += ', or name another column in data.group ("" is none) where this one says something else'
    return (
        f"{place}: {one.line()} Rows count over all splits. {mend}; or set data.folds, which takes no splits from it and "
        "keeps groups and clips whole"
    )
