"""Every component by its role and name, and recipes checked against their constructors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kinetext import codecs, datasets, encoders, fusion, generators, methods
from kinetext.config import Component, Recipe
from kinetext.interfaces import Registry
from kinetext.options import check_args
from kinetext.tasks import REGISTRY as TASKS
from kinetext.types import RecipeError, joined, suggest

ROLES: Mapping[str, Registry] = {
    "task": TASKS,
    "encoders": encoders.REGISTRY,
    "fusion": fusion.REGISTRY,
    "codec": codecs.REGISTRY,
    "generator": generators.REGISTRY,
    "method": methods.REGISTRY,
    "data": datasets.REGISTRY,
}
# Options whose values follow from what is already built; a recipe that sets them is refused.
WIRED: Mapping[str, frozenset[str]] = {
    "encoders": frozenset({"vocab", "words", "channels", "num_frames", "size", "modality", "vector_dim", "kept"}),
    "fusion": frozenset({"dims"}),
    "codec": frozenset({"channels"}),
    "generator": frozenset({"channels", "num_frames", "height", "width", "vocab", "cond_dim"}),
    "data": frozenset({"split"}),
}


def find(role: str, name: str) -> type[Any]:
    """The class behind a component's name.

    Raises:
        RecipeError: no such component; the nearest name is suggested.
    """
    registry = ROLES[role]
    if name not in registry:
        raise RecipeError(
            f"{role}: no component {name!r}{suggest(name, registry)}; expected one of {joined(sorted(registry))}"
        )
    return registry[name]


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with every name and option checked and every default spelled out."""

    def whole(role: str, component: Component) -> Component:
        cls = find(role, component.name)
        return Component(component.name, check_args(role, cls, component.args, WIRED.get(role, ())))

    return replace(
        recipe,
        task=whole("task", recipe.task),
        data=whole("data", recipe.data),
        encoders={modality: whole("encoders", c) for modality, c in recipe.encoders.items()},
        fusion=recipe.fusion and whole("fusion", recipe.fusion),
        codec=recipe.codec and whole("codec", recipe.codec),
        generator=recipe.generator and whole("generator", recipe.generator),
        method=recipe.method and whole("method", recipe.method),
    )


def with_data(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A trained run's recipe, with changes to its sections data and evaluate.

    Raises:
        RecipeError: a change to another section: the weights belong to the recipe as it is.
    """
    for override in overrides:
        if not override.startswith(("data.", "evaluate.")):
            raise RecipeError(f"override {override!r}: only data and evaluate can be changed in a trained run")
    return resolve(recipe.changed(overrides)) if overrides else recipe
