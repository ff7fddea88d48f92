"""What recipes can be made of: every component, its options and defaults."""

from __future__ import annotations

import inspect
import re

from kinetext import assemble
from kinetext.options import options
from kinetext.types import RecipeError, joined, suggest


def components(role: str | None = None) -> list[tuple[str, str, str]]:
    """(role, name, first sentence) of every component, or of one role's.

    Raises:
        RecipeError: no such role.
    """
    roles = list(assemble.ROLES) if role is None else [_role(role)]
    return [(r, name, _about(cls)) for r in roles for name, cls in sorted(assemble.ROLES[r].items())]


def with_options(role: str) -> list[tuple[str, str, str]]:
    """(name, first sentence, options with their defaults) of every component of a role.

    Raises:
        RecipeError: no such role.
    """
    return [(name, about, _options(_role(role), name)) for _, name, about in components(role)]


def _options(role: str, name: str) -> str:
    """Those that a recipe may set."""
    own = [o for o in options(assemble.find(role, name), assemble.WIRED.get(role, ())) if not o.wired]
    return ", ".join(f"{o.name} = {o.default}" if o.default else o.name for o in own)


def options_of(role: str, name: str) -> list[tuple[str, str, str]]:
    """(option, what is legal, default) of a component; what the assembly decides says so.

    Raises:
        RecipeError: no such role or component.
    """
    role = _role(role)
    found = options(assemble.find(role, name), assemble.WIRED.get(role, ()))
    return [(o.name, o.type_text, "(decided by the assembly)" if o.wired else o.default) for o in found]


def _role(name: str) -> str:
    if name not in assemble.ROLES:
        roles = list(assemble.ROLES)
        raise RecipeError(f"role: {name!r}{suggest(name, roles)}; expected one of {joined(roles)}")
    return name


def _about(cls: type) -> str:
    """The first sentence of a class's docstring."""
    paragraph = inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "")
    return re.split(r"(?<!et al)\. ", paragraph)[0].rstrip(".:")
