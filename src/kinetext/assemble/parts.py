"""Builds the parts that a task is made of, wired to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal, TypeVar

from kinetext import codecs, fusion, generators
from kinetext.assemble.catalog import find
from kinetext.assemble.loading import tokenizer
from kinetext.checkpoint import Meta
from kinetext.config import Component, Recipe
from kinetext.interfaces import Codec, Dataset, Encoder, Fusion, Generator, Shape
from kinetext.tasks.video_to_text import text_shape
from kinetext.text import Tokenizer
from kinetext.types import MODALITIES, Modality, RecipeError, joined

T = TypeVar("T")


@dataclass
class Parts:
    """Builds the parts that a task is made of, wired to each other."""

    recipe: Recipe
    meta: Meta
    data: Dataset | None

    def shape(self) -> Shape:
        """(C, T, H, W) of the clips."""
        if self.meta.video_shape is None:
            raise RecipeError(f"data: {self.recipe.data.name} gives no video, and this recipe needs it")
        return tuple(self.meta.video_shape)

    def encoders(self, legal: tuple[Modality, ...]) -> dict[str, Encoder]:
        wrong = sorted(set(self.recipe.encoders) - set(legal))
        if wrong or not self.recipe.encoders:
            raise RecipeError(
                f"encoders: {joined(sorted(self.recipe.encoders))}; task {self.recipe.task.name} takes {joined(legal)}"
            )
        return {
            name: self._encoder(name, self.recipe.encoders[name]) for name in MODALITIES if name in self.recipe.encoders
        }

    def _encoder(self, modality: Modality, component: Component) -> Encoder:
        cls: type[Encoder] = find("encoders", component.name)
        if not cls.reads_vectors and cls.modality != modality:
            raise RecipeError(
                f"encoders.{modality}: {component.name} reads {cls.modality}, expected a {modality} encoder"
            )
        if component.args.get("model") == "":
            raise RecipeError(f"encoders.{modality}.model: missing, expected a folder or a name on the hub")
        kept = self.meta.kept / f"encoders.{modality}" if self.meta.kept else None
        encoder: Encoder = make("encoders", component, {**self._sizes(modality, cls, component.name), "kept": kept})
        most, asked = encoder.max_tokens, self.recipe.text.max_tokens
        if modality == "text" and most is not None and asked > most:
            raise RecipeError(
                f"text.max_tokens: {asked}, expected at most {most}, the positions that {component.name} has"
            )
        return encoder

    def _sizes(self, modality: Modality, cls: type[Encoder], name: str) -> dict[str, Any]:
        if cls.reads_vectors:
            if modality not in self.meta.vector_dims:
                raise RecipeError(f"encoders.{modality}: {name} reads vectors; set data.{modality}_vectors")
            return {"modality": modality, "vector_dim": self.meta.vector_dims[modality]}
        if modality in self.meta.vector_dims:
            raise RecipeError(f"data.{modality}_vectors: given, but encoders.{modality} is {name}, expected features")
        if modality == "video":
            channels, frames, height, _ = self.shape()
            return {"channels": channels, "num_frames": frames, "size": height}
        if cls.own_tokenizer:
            return {"vocab": len(tokenizer(self.recipe, self.meta) or ())}
        if len(self.meta.vocabulary) <= 2:
            raise RecipeError(
                f"encoders.text: the texts of data {self.recipe.data.name} are empty; is data.text the right column?"
            )
        return {"vocab": len(self.meta.vocabulary), "words": self.meta.vocabulary}

    def fusion(self, parts: Mapping[str, Encoder]) -> Fusion | None:
        if self.recipe.fusion is None:
            if len(parts) > 1:
                raise RecipeError(
                    f"fusion: missing, and {joined(sorted(parts))} must be joined; expected one of {joined(sorted(fusion.REGISTRY))}"
                )
            return None
        if len(parts) < 2:
            raise RecipeError(
                f"fusion: {self.recipe.fusion.name} joins modalities, and only {joined(sorted(parts))} is encoded"
            )
        made: Fusion = make("fusion", self.recipe.fusion, {"dims": {k: e.dim for k, e in parts.items()}})
        return made

    def codec(self) -> Codec:
        if self.recipe.codec is None:
            raise RecipeError(
                f"codec: missing; task {self.recipe.task.name} needs one of {joined(sorted(codecs.REGISTRY))}"
            )
        made: Codec = make("codec", self.recipe.codec, {"channels": self.shape()[0]})
        fits("codec", lambda: made.target_shape(self.shape()))
        return made

    def generator(self, codec: Codec, cond: Encoder) -> Generator:
        """Of what a codec makes of the clips."""
        component, cls = self._generator()
        if cls.kind != codec.kind:
            raise RecipeError(
                f"generator: {component.name} works on {cls.kind} targets, "
                f"but codec {self.recipe.codec and self.recipe.codec.name} gives {codec.kind} ones"
            )
        return self._sized(codec.target_shape(self.shape()), codec.vocab, cond)

    def writer(self, words: Tokenizer, cond: Encoder) -> Generator:
        """Of the tokens of texts, and of their end."""
        component, cls = self._generator()
        if not cls.writes_text:
            raise RecipeError(f"generator: {component.name} writes no text, expected autoregressive")
        if component.args["temperature"] != 1:
            raise RecipeError(
                f"generator.temperature: {component.args['temperature']}, "
                "but that of texts is task.temperature; leave it out"
            )
        return self._sized(text_shape(words), len(words) + 1, cond)

    def _generator(self) -> tuple[Component, type[Generator]]:
        if self.recipe.generator is None:
            raise RecipeError(f"generator: missing; expected one of {joined(sorted(generators.REGISTRY))}")
        return self.recipe.generator, find("generator", self.recipe.generator.name)

    def _sized(self, target: Shape, vocab: int, cond: Encoder) -> Generator:
        names = ("channels", "num_frames", "height", "width")
        sizes = {**dict(zip(names, target, strict=True)), "vocab": vocab, "cond_dim": cond.dim}
        made: Generator = make("generator", self._generator()[0], sizes)
        fits("generator", lambda: made.check(target))
        return made

    def without(self, *roles: Literal["fusion", "codec"]) -> None:
        """Refuses sections that the task has no use for."""
        for role in roles:
            component: Component | None = getattr(self.recipe, role)
            if component is not None:
                raise RecipeError(f"{role}: {component.name}, but task {self.recipe.task.name} has no use for one")


def make(role: str, component: Component, sizes: Mapping[str, Any]) -> Any:
    """Builds a component from its options and those of ``sizes`` that its constructor takes."""
    cls = find(role, component.name)
    known = signature(cls).parameters
    return fits(role, lambda: cls(**component.args, **{k: v for k, v in sizes.items() if k in known}))


def fits(field: str, make: Callable[[], T]) -> T:
    """Runs a constructor; its complaint about a value names the section of the recipe."""
    try:
        return make()
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from error
