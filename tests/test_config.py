from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from kinetext.config import Component, Recipe, TrainConfig
from kinetext.options import check_args, options, type_text
from kinetext.types import RecipeError, suggest

MINIMAL = 'task.name = "classification"\ndata.name = "digits"\n'


class Part:
    """A component."""

    def __init__(
        self,
        given: object = None,
        *,
        size: int = 1,
        rate: float = 0.5,
        mode: Literal["one", "two"] = "one",
        names: tuple[str, ...] = (),
        flag: bool = False,
        vocab: int = 32,
    ) -> None: ...


class Ranged:
    def __init__(self, *, root: str, share: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None: ...


def test_defaults_are_spelled_out_and_read_back() -> None:
    recipe = Recipe.parse(MINIMAL)
    assert "save_minutes = 3.0" in recipe.to_toml()
    assert Recipe.parse(recipe.to_toml()) == recipe


@pytest.mark.parametrize(
    "value",
    ['quo"te', "back\\slash", "数字3", "tab\tnew\nline", "\x7f\x00", "", 1e-9, 1e16, -3, True, ("a", ("b", 2)), ()],
)
def test_any_value_survives_a_round_trip(value: object) -> None:
    recipe = replace(
        Recipe.parse(MINIMAL), data=Component("folder", {"x": value, "odd key": 1}), init={"encoders.text": "runs/a"}
    )
    again = Recipe.parse(recipe.to_toml())
    assert again == recipe
    assert type(again.data.args["x"]) is type(value)


def test_sections() -> None:
    recipe = Recipe.parse(
        MINIMAL
        + '[encoders.text]\nname = "transformer"\ndim = 8\n[fusion]\nname = "concat"\n[method]\nname = "m"\nx = 1\n[init]\nencoders.text = "a"'
    )
    assert recipe.encoders == {"text": Component("transformer", {"dim": 8})}
    assert recipe.fusion == Component("concat")
    assert recipe.method == Component("m", {"x": 1})
    assert recipe.codec is None
    assert recipe.init == {"encoders.text": "a"}


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.x=3", 3),
        ("data.x = 3", 3),
        ("data.x=1e-3", 1e-3),
        ("data.x=true", True),
        ('data.x="3"', "3"),
        ("data.x=['a','b']", ("a", "b")),
        ("data.x=../shared/data=1", "../shared/data=1"),
        ("data.x=2026-01-01", "2026-01-01"),
        ("data.x=", ""),
        ("data.x=数字", "数字"),
    ],
)
def test_overrides(override: str, value: object) -> None:
    found = Recipe.parse(MINIMAL, [override]).data.args["x"]
    assert found == value
    assert type(found) is type(value)


def test_changed_leaves_the_rest() -> None:
    recipe = Recipe.parse(MINIMAL)
    assert recipe.changed(["train.steps=7"]) == replace(recipe, train=TrainConfig(steps=7))


def test_load_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    with pytest.raises(RecipeError, match=r"recipe.toml: can't be read"):
        Recipe.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"recipe.toml: can't be read"):
        Recipe.load(path)
    path.write_text("[task\n")
    with pytest.raises(RecipeError, match=r"recipe.toml: .*line 1"):
        Recipe.load(path)
    path.write_text(MINIMAL + "train.stepps = 3")
    with pytest.raises(RecipeError, match=r"recipe.toml: train.stepps: no such key, did you mean 'steps'\?"):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "task: section missing"),
        ('task.name = "x"', "data: section missing"),
        ("task.steps = 3\ndata.name = 'x'", "task.name: missing"),
        ("task.name = 3\ndata.name = 'x'", "task.name: 3, expected str"),
        ("task = 3\ndata.name = 'x'", "task: 3, expected a section"),
        (MINIMAL + "[tarin]", "tarin: no such section, did you mean 'train'"),
        (MINIMAL + "encoders.vidoe.name = 'x'", "encoders.vidoe: no such key, did you mean 'video'"),
        (MINIMAL + "train = 3", "train: 3, expected a section"),
        (MINIMAL + "init.codec = 3", "init.codec: 3, expected str"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=0", "train.steps: 0, expected int >= 1"),
        ("train.steps=1.5", "train.steps: 1.5, expected int"),
        ("train.steps=true", "train.steps: true, expected int"),
        ("train.steps='9'", 'train.steps: "9", expected int'),
        ("train.lr=0", "train.lr: 0, expected float > 0"),
        ("train.lr=nan", "train.lr: nan, expected float > 0"),
        ("train.lr=inf", "train.lr: inf, expected float > 0"),
        ("train.ema=1", "train.ema: 1, expected float >= 0 and < 1"),
        ("train.betas=[0.9, 1]", "train.betas: [0.9, 1], expected [float >= 0 and < 1, float >= 0 and < 1]"),
        ("train.decay_fraction=0", "expected float > 0 and <= 1"),
        ("train.compile=1", "train.compile: 1, expected bool"),
        ("train.decay=cosin", 'train.decay: "cosin", expected "cosine" | "linear" | "constant"'),
        ("train.seed=-1", "train.seed: -1, expected int >= 0"),
        ("text.max_tokens=0", "text.max_tokens: 0"),
        ("evaluate.samples=[1]", "evaluate.samples: [1], expected int"),
        ("train", "expected section.key=value"),
        ("train=3", "expected section.key=value"),
        ("train..steps=3", "expected section.key=value"),
        ("task.name.deep=3", "name is a value, not a section"),
    ],
)
def test_ranges(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as error:
        Recipe.parse(MINIMAL, [override])
    assert message in str(error.value)


def test_ranges_hold_in_python_too() -> None:
    assert TrainConfig(lr=1).lr == 1.0
    assert isinstance(TrainConfig(lr=1).lr, float)
    with pytest.raises(RecipeError, match=r"train.batch: 0, expected int >= 1"):
        TrainConfig(batch=0)


def test_check_args_spells_out_defaults() -> None:
    found = check_args("data", Part, {"rate": 1, "names": ["a"]}, {"vocab"})
    assert found == {"size": 1, "rate": 1.0, "mode": "one", "names": ("a",), "flag": False}
    assert isinstance(found["rate"], float)
    assert check_args("data", Part, found, {"vocab"}) == found


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"sizes": 1}, "data.sizes: no such option, did you mean 'size'?; expected one of size, rate"),
        ({"vocab": 1}, "data.vocab: decided by the assembly"),
        ({"given": 1}, "data.given: no such option"),
        ({"size": 1.0}, "data.size: 1.0, expected int"),
        ({"size": True}, "data.size: true, expected int"),
        ({"rate": "1"}, 'data.rate: "1", expected float'),
        ({"rate": float("nan")}, "data.rate: nan, expected float"),
        ({"mode": "three"}, 'data.mode: "three", expected "one" | "two"'),
        ({"names": ["a", 1]}, 'data.names: ["a", 1], expected list of str'),
        ({"names": "a"}, 'data.names: "a", expected list of str'),
        ({"flag": 0}, "data.flag: 0, expected bool"),
        ({"size": {"a": 1}}, "data.size: {'a': 1}, expected int"),
    ],
)
def test_check_args_refuses(args: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        check_args("data", Part, args, {"vocab"})
    assert message in str(error.value)


def test_an_option_without_a_default_must_be_given() -> None:
    with pytest.raises(RecipeError, match=r"data.root: missing, expected str"):
        check_args("data", Ranged, {})
    with pytest.raises(RecipeError, match=r"data.share: 1, expected float >= 0 and < 1"):
        check_args("data", Ranged, {"root": "x", "share": 1})


def test_options_for_the_catalog() -> None:
    found = {option.name: option for option in options(Part, {"vocab"})}
    assert list(found) == ["size", "rate", "mode", "names", "flag", "vocab"]
    assert (found["mode"].type_text, found["mode"].default) == ('"one" | "two"', '"one"')
    assert (found["names"].type_text, found["names"].default) == ("list of str", "[]")
    assert found["vocab"].wired
    assert options(Ranged)[0].default == ""


def test_type_text() -> None:
    assert type_text(int | None) == "int"
    assert type_text(tuple[int, float]) == "[int, float]"
    assert type_text(tuple[Literal["en", "zh"], ...]) == 'list of "en" | "zh"'


def test_suggest() -> None:
    assert suggest("stpes", ["steps", "batch"]) == ", did you mean 'steps'?"
    assert suggest("zzz", ["steps"]) == ""
