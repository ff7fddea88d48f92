"""The options of components: what a constructor takes, and whether a value fits; with errors that suggest."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from kinetext.types import RecipeError, joined, suggest

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_SIGNS = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
_MISSING: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """A constructor argument as ``kinetext list`` shows it; ``default`` is TOML, "" where there is none."""

    name: str
    type_text: str
    default: str
    wired: bool


def options(cls: type[Any], wired: Collection[str] = ()) -> list[Option]:
    """The options of a component: its keyword-only arguments; ``wired`` names those that the assembly decides."""
    known = _keywords(cls).items()
    texts = {n: "" if n in wired or default in (_MISSING, None) else toml_value(default) for n, (_, default) in known}
    return [Option(name, type_text(hint), texts[name], name in wired) for name, (hint, _) in known]


def check_args(role: str, cls: type[Any], args: Mapping[str, Any], wired: Collection[str] = ()) -> dict[str, Any]:
    """Checks a component's options against its constructor.

    Args:
        role: the recipe's section, for messages.
        wired: names that the assembly decides; a recipe that sets one is refused.

    Returns:
        Every option but the wired ones, defaults spelled out, lists as tuples.

    Raises:
        RecipeError: an unknown, wired, missing or ill-typed option.
    """
    known = _keywords(cls)
    legal = [name for name in known if name not in wired]
    for name in args:
        if name in wired and name in known:
            raise RecipeError(f"{role}.{name}: decided by the assembly; take it out of the recipe")
        if name not in legal:
            raise RecipeError(f"{role}.{name}: no such option{suggest(name, legal)}; expected one of {joined(legal)}")
    found = {}
    for name in legal:
        hint, default = known[name]
        value = args.get(name, default)
        if value is _MISSING:
            raise RecipeError(f"{role}.{name}: missing, expected {type_text(hint)}")
        found[name] = checked(f"{role}.{name}", hint, value) if name in args else value
    return found


def type_text(hint: Any) -> str:
    """A type as messages and ``kinetext list`` show it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [m for a in args[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])]
        signs = [f"{sign} {getattr(b, key)}" for b in bounds for key, sign in _SIGNS if hasattr(b, key)]
        return " ".join([type_text(args[0]), " and ".join(signs)]).strip()
    if origin is Literal:
        return " | ".join(toml_value(a) for a in args)
    if origin in (Union, UnionType):
        return " | ".join(type_text(a) for a in args if a is not NoneType)
    if origin in (tuple, list, Sequence):
        inner = [type_text(a) for a in args if a is not Ellipsis]
        return f"list of {inner[0]}" if Ellipsis in args or origin is not tuple else f"[{', '.join(inner)}]"
    return str(getattr(hint, "__name__", hint))


def _keywords(cls: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Keyword-only constructor argument -> (type, default)."""
    hints = get_type_hints(cls.__init__, include_extras=True)
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: (hints.get(p.name, Any), p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}


def checked(where: str, hint: Any, value: Any) -> Any:
    """The value, validated against its type; no conversion but int -> float and list -> tuple."""
    try:
        return TypeAdapter(hint, config=_STRICT).validate_python(tupled(value))
    except ValidationError as error:
        shown = toml_value(value) if isinstance(value, (str, int, float, list, tuple)) else repr(value)
        raise RecipeError(f"{where}: {shown}, expected {type_text(hint)}") from error


def tupled(value: Any) -> Any:
    return tuple(tupled(v) for v in value) if isinstance(value, (list, tuple)) else value


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, but TOML escapes DEL as well
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(toml_value(v) for v in value)}]"
    if isinstance(value, (int, float)):
        return repr(value)
    raise RecipeError(f"{value!r}: a recipe holds only text, numbers, true, false and lists of them")
