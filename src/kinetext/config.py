"""A recipe: frozen dataclasses, TOML in and out, ``key=value`` overrides, errors that suggest."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import Field

from kinetext.options import checked, toml_value, tupled
from kinetext.types import MODALITIES, RecipeError, joined, suggest

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class Component:
    """A component's name in its role's registry, and the options that its constructor gets."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Name and options as one table."""
        return {"name": self.name, **self.args}


@dataclass(frozen=True)
class TextConfig:
    """How text becomes tokens.

    Args:
        tokenizer: "word" (Chinese by the character) or "character".
        max_tokens: tokens a text may have; what is longer is cut. >= 1.
    """

    tokenizer: Literal["word", "character"] = "word"
    max_tokens: Positive = 32

    def __post_init__(self) -> None:
        _check_section("text", self)


@dataclass(frozen=True)
class TrainConfig:
    """How a run trains.

    Args:
        steps: optimiser steps at most, >= 1.
        minutes: time budget; the run ends at ``steps`` or here, whichever comes first. 0 = none.
        clock: what minutes are: of the clock on the wall, or of a processor's work for this process, by which runs on a
            busy machine compare fairly (on 2 cores without accelerator, one minute on the wall is up to two of work).
        batch: samples a batch and process, >= 1.
        accumulate: batches an optimiser step, >= 1.
        optimizer: "adamw", or "muon" for hidden matrices with AdamW for the rest.
        lr: the highest learning rate, > 0.
        weight_decay: on matrices, >= 0.
        betas: decays of AdamW's averages of the gradient and of its square, each in [0, 1); players of a game follow
            each other better with a first one near 0.
        warmup: steps over which the rate rises, >= 0.
        decay: shape of the fall.
        decay_fraction: the last part of the run, over which the rate falls, in (0, 1].
        clip: largest gradient norm; 0 = off.
        ema: decay of the moving average of the weights, in [0, 1); 0 = off.
        precision: "auto" is bf16 where the hardware multiplies it natively.
        compile: compile repeated blocks.
        seed: of weights, order, noise and dropout, >= 0.
        workers: loader processes; 0 loads in the training process.
        log_every: steps between log lines, >= 1.
        eval_every: steps between evaluations; 0 = only at the end.
        sample_every: steps between samples; 0 = only at the end.
        save_every: steps between resume points; 0 = by ``save_minutes`` alone.
        save_minutes: minutes between resume points at most, > 0.
        patience: evaluations without improvement before the run ends; 0 = never.
        best: the number by which the best weights are kept; "" = validation loss, or the newest weights of a game.
    """

    steps: Positive = 1000
    minutes: NotNegative = 0.0
    clock: Literal["wall", "processor"] = "wall"
    batch: Positive = 32
    accumulate: Positive = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: AboveZero = 1e-3
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.99)
    warmup: Count = 100
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip: NotNegative = 1.0
    ema: BelowOne = 0.999
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    seed: Seed = 0
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    log_every: Positive = 20
    eval_every: Count = 0
    sample_every: Count = 0
    save_every: Count = 0
    save_minutes: AboveZero = 3.0
    patience: Count = 0
    best: str = ""

    def __post_init__(self) -> None:
        _check_section("train", self)


@dataclass(frozen=True)
class EvaluateConfig:
    """How a run is judged.

    Args:
        split: the held-out part that ``kinetext evaluate`` judges on, "val" or "test"; "" is val, and for a task that
            reads test as well, where there is one. Training judges on val.
        samples: of that split at most; 0 = all.
        batch: samples a batch, >= 1.
        reader: run folder or shipped model that reads clips that are generated, or decoded by a codec; "" = none.
        seed: of the noise that models are judged on and clips are made from, >= 0.
    """

    split: Literal["", "val", "test"] = ""
    samples: Count = 0
    batch: Positive = 64
    reader: str = ""
    seed: Seed = 10_000

    def __post_init__(self) -> None:
        _check_section("evaluate", self)


_SECTIONS: Mapping[str, type[Any]] = {"text": TextConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
_REQUIRED = ("task", "data")
_OPTIONAL = ("fusion", "codec", "generator", "method")
_TOP = (*_REQUIRED, "encoders", *_OPTIONAL, *_SECTIONS, "init")


@dataclass(frozen=True)
class Recipe:
    """A complete run.

    Args:
        encoders: modality -> encoder.
        method: what wraps the task while it is trained.
        init: part of the task ("codec", "encoders.text", or "task" for all of it) -> run folder or shipped
            model whose weights start it.
    """

    task: Component
    data: Component
    encoders: Mapping[str, Component] = field(default_factory=dict)
    fusion: Component | None = None
    codec: Component | None = None
    generator: Component | None = None
    method: Component | None = None
    text: TextConfig = field(default_factory=TextConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    init: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
        """Reads a recipe file; see ``parse``."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: can't be read ({error}); expected a recipe, a TOML file") from error
        return cls.parse(text, overrides, source=str(path))

    @classmethod
    def parse(cls, text: str, overrides: Sequence[str] = (), source: str = "recipe") -> Recipe:
        """TOML text -> recipe. The options of components are checked later, against their constructors.

        Args:
            overrides: "section.key=value"; the value is TOML, or a bare string.
            source: the name of the file, for messages.

        Raises:
            RecipeError: no TOML, an unknown section or key, a value out of range.

        Example:
            >>> Recipe.parse('task.name = "reconstruction"\\ndata.name = "digits"', ["train.steps=5"]).train.steps
            5
        """
        try:
            raw = tomllib.loads(text)
            for override in overrides:
                _override(raw, override)
            return cls(**_parts(raw))
        except (tomllib.TOMLDecodeError, RecipeError) as error:
            raise RecipeError(f"{source}: {error}") from error

    def changed(self, overrides: Sequence[str]) -> Recipe:
        """The same recipe with overrides such as "train.steps=200"."""
        return self.parse(self.to_toml(), overrides)

    def to_toml(self) -> str:
        """The recipe as TOML with every value spelled out; ``parse`` reads it back exactly."""
        tables: dict[str, Mapping[str, Any]] = {"task": self.task.flat(), "data": self.data.flat()}
        tables |= {f"encoders.{modality}": c.flat() for modality, c in self.encoders.items()}
        tables |= {role: c.flat() for role in _OPTIONAL if (c := getattr(self, role))}
        for name in _SECTIONS:
            section = getattr(self, name)
            tables[name] = {f.name: getattr(section, f.name) for f in fields(section)}
        if self.init:
            tables["init"] = self.init
        return "\n".join(_table(name, values) for name, values in tables.items())


def _check_section(name: str, section: Any) -> None:
    hints = get_type_hints(type(section), include_extras=True)
    for f in fields(section):
        value = checked(f"{name}.{f.name}", hints[f.name], getattr(section, f.name))
        object.__setattr__(section, f.name, value)


def _override(raw: dict[str, Any], override: str) -> None:
    """Sets one "section.key=value" in the raw recipe."""
    path, equals, text = override.partition("=")
    *sections, key = [part.strip() for part in path.split(".")]
    if not equals or not sections or not all((*sections, key)):
        raise RecipeError(f"override {override!r}: expected section.key=value, such as train.steps=200")
    table = raw
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise RecipeError(f"override {override!r}: {section} is a value, not a section")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare string, such as a path
    # dates and times are no option's type, but may well be a folder's name
    table[key] = value if isinstance(value, (str, int, float, list, dict)) else text.strip()


def _parts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Raw TOML -> the fields of a recipe."""
    _known("", raw, _TOP)
    missing = [role for role in _REQUIRED if role not in raw]
    if missing:
        raise RecipeError(f"{missing[0]}: section missing; a recipe needs {joined(_REQUIRED)}")
    parts: dict[str, Any] = {role: _component(role, raw[role]) for role in (*_REQUIRED, *_OPTIONAL) if role in raw}
    encoders = _section("encoders", raw.get("encoders", {}))
    _known("encoders", encoders, MODALITIES)
    parts["encoders"] = {m: _component(f"encoders.{m}", encoders[m]) for m in encoders}
    for name, cls in _SECTIONS.items():
        values = _section(name, raw.get(name, {}))
        _known(name, values, [f.name for f in fields(cls)])
        parts[name] = cls(**values)
    parts["init"] = _init(raw.get("init", {}), "init")
    return parts


def _section(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{name}: {value!r}, expected a section [{name}]")
    return value


def _known(section: str, given: Iterable[str], legal: Collection[str]) -> None:
    for name in given:
        if name not in legal:
            where, what = (f"{section}.{name}", "key") if section else (name, "section")
            raise RecipeError(f"{where}: no such {what}{suggest(name, legal)}; expected one of {joined(list(legal))}")


def _component(where: str, value: Any) -> Component:
    args = {k: tupled(v) for k, v in _section(where, value).items()}
    name = args.pop("name", None)
    if name is None:
        raise RecipeError(f'{where}.name: missing, expected the name of a component, such as name = "..."')
    return Component(checked(f"{where}.name", str, name), args)


def _init(value: Any, where: str) -> dict[str, str]:
    """Part -> source; ``encoders.text = "x"`` and ``"encoders.text" = "x"`` are the same."""
    found: dict[str, str] = {}
    for key, source in _section(where, value).items():
        if isinstance(source, Mapping):
            found |= {f"{key}.{rest}": s for rest, s in _init(source, f"{where}.{key}").items()}
        else:
            found[key] = checked(f"{where}.{key}", str, source)
    return found


def _table(name: str, values: Mapping[str, Any]) -> str:
    # TOML has no null: an option that is None is left out, and None is its default again
    keys = {k: k if re.fullmatch(r"[A-Za-z0-9_-]+", k) else toml_value(k) for k in values}
    return f"[{name}]\n" + "".join(f"{keys[k]} = {toml_value(v)}\n" for k, v in values.items() if v is not None)
