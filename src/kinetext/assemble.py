"""Recipe -> datasets, task, loaders: the one composition root. Wires sizes, refuses impossible pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import kinetext
from kinetext import codecs, datasets, encoders, fusion, generators, runtime
from kinetext.checkpoint import Meta, Run
from kinetext.config import Component, Recipe, check_args, suggest
from kinetext.datasets.loader import Collate, plain_loader, train_loader
from kinetext.interfaces import Codec, Dataset, Encoder, Fusion, Generator, Metric, Registry, Shape, Task
from kinetext.metrics.classification import ClassificationMetric
from kinetext.metrics.clip_reader import ClipReader
from kinetext.tasks import REGISTRY as TASKS
from kinetext.tasks.classification import Classification
from kinetext.tasks.reconstruction import Reconstruction
from kinetext.tasks.text_to_video import TextToVideo, check_cache
from kinetext.text import Tokenizer
from kinetext.types import Batch, RecipeError, RunError, Target, joined

T = TypeVar("T")

ROLES: Mapping[str, Registry] = {
    "task": TASKS,
    "encoders": encoders.REGISTRY,
    "fusion": fusion.REGISTRY,
    "codec": codecs.REGISTRY,
    "generator": generators.REGISTRY,
    "data": datasets.REGISTRY,
}
# Options whose values follow from what is already built; a recipe that sets them is refused.
WIRED: Mapping[str, frozenset[str]] = {
    "encoders": frozenset({"vocab", "channels", "num_frames", "size"}),
    "fusion": frozenset({"dims"}),
    "codec": frozenset({"channels"}),
    "generator": frozenset({"channels", "cond_dim"}),
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


def dataset(recipe: Recipe, split: str = "train") -> Dataset:
    """The recipe's dataset, one split of it."""
    made: Dataset = find("data", recipe.data.name)(**recipe.data.args, split=split)
    return made


def describe(recipe: Recipe, data: Dataset) -> Meta:
    """What a model for ``data`` must know: vocabulary, classes, clip shape."""
    vocabulary: tuple[str, ...] = ()
    if "text" in recipe.encoders:
        trained = Tokenizer.train(data.texts(), recipe.text.tokenizer, max_tokens=recipe.text.max_tokens)
        vocabulary = trained.vocabulary
    shape = tuple(data.video_shape) if data.video_shape else None
    return Meta(kinetext.__version__, vocabulary, data.targets, shape, data.fps)


def tokenizer(recipe: Recipe, meta: Meta) -> Tokenizer | None:
    """The run's own tokeniser, or None when nothing reads text."""
    if not meta.vocabulary:
        return None
    return Tokenizer(recipe.text.tokenizer, meta.vocabulary, max_tokens=recipe.text.max_tokens)


def collate(recipe: Recipe, meta: Meta) -> Collate:
    """Samples -> batches for the run's model."""
    return Collate(tokenizer(recipe, meta), meta.targets, meta.video_shape)


def task(recipe: Recipe, meta: Meta, data: Dataset | None = None) -> Task:
    """The recipe's task with fresh weights, a pure function of ``train.seed``.

    Args:
        data: the training set, where the task's losses depend on it (class weights).
    """
    # the global generator is what torch's own initialisers draw from; it is put back afterwards
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        return _BUILDERS[recipe.task.name](_Parts(recipe, meta, data))


def restore(run: Run) -> Task:
    """The task of a finished run, in evaluation mode."""
    built = task(run.recipe, run.meta)
    _load(built, run.weights(), str(run.path))
    return built.eval()


def start_weights(built: Task, recipe: Recipe, meta: Meta, open_run: Callable[[str], Run]) -> None:
    """Copies the weights that ``[init]`` names into a fresh task.

    Raises:
        RecipeError: a prefix that is no part of the task, or weights that don't fit it.
    """
    for prefix, source in recipe.init.items():
        try:
            run = open_run(source)
        except RunError as error:
            raise RecipeError(f"init.{prefix}: {error}") from error
        part: nn.Module = built
        if prefix != "task":
            try:
                part = built.get_submodule(prefix)
            except AttributeError as error:
                parts = sorted(name for name, _ in built.named_children())
                raise RecipeError(
                    f"init.{prefix}: no such part, expected task or one of {joined(sorted(parts))}"
                ) from error
        reads_text = prefix in ("task", "encoders", "encoders.text")
        if reads_text and run.meta.vocabulary != meta.vocabulary:
            raise RecipeError(
                f"init.{prefix}: {source} has another vocabulary; its text encoder can't be continued here"
            )
        start = "" if prefix == "task" else f"{prefix}."
        weights = {k.removeprefix(start): v for k, v in run.weights().items() if k.startswith(start)}
        _load(part, weights, f"init.{prefix}: {source}")


def train_batches(
    recipe: Recipe, meta: Meta, data: Dataset, *, rank: int = 0, ranks: int = 1
) -> Callable[[int], Iterator[Batch]]:
    """``batches(n)``: the training batches from number n on."""
    config, ready = recipe.train, collate(recipe, meta)

    def batches(start: int) -> Iterator[Batch]:
        return train_loader(
            data,
            ready,
            batch=config.batch,
            seed=config.seed,
            workers=config.workers,
            start=start,
            rank=rank,
            ranks=ranks,
        )

    return batches


def plain_batches(recipe: Recipe, meta: Meta, data: Dataset, *, limit: int = 0) -> Iterator[Batch]:
    """One pass over ``data`` in order."""
    return plain_loader(data, collate(recipe, meta), batch=recipe.evaluate.batch, limit=limit)


def _load(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise RecipeError(f"{source}: weights do not fit this recipe: {error}") from error


@dataclass
class _Parts:
    """Builds the parts that a task is made of, wired to each other."""

    recipe: Recipe
    meta: Meta
    data: Dataset | None

    def shape(self) -> Shape:
        """(C, T, H, W) of the clips."""
        if self.meta.video_shape is None:
            raise RecipeError(f"data: {self.recipe.data.name} gives no video, and this recipe needs it")
        return tuple(self.meta.video_shape)

    def encoders(self, legal: tuple[str, ...]) -> dict[str, Encoder]:
        wrong = sorted(set(self.recipe.encoders) - set(legal))
        if wrong or not self.recipe.encoders:
            raise RecipeError(
                f"encoders: {joined(sorted(self.recipe.encoders))}; task {self.recipe.task.name} takes {joined(legal)}"
            )
        return {modality: self._encoder(modality, c) for modality, c in sorted(self.recipe.encoders.items())}

    def _encoder(self, modality: str, component: Component) -> Encoder:
        cls = find("encoders", component.name)
        if cls.modality != modality:
            raise RecipeError(
                f"encoders.{modality}: {component.name} reads {cls.modality}, expected a {modality} encoder"
            )
        if modality == "text":
            if len(self.meta.vocabulary) <= 2:
                raise RecipeError(
                    f"encoders.text: the texts of data {self.recipe.data.name} are empty; is data.text the right column?"
                )
            sizes = {"vocab": len(self.meta.vocabulary)}
        else:
            channels, frames, height, _ = self.shape()
            sizes = {"channels": channels, "num_frames": frames, "size": height}
        encoder: Encoder = _make("encoders", component, sizes)
        return encoder

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
        made: Fusion = _make("fusion", self.recipe.fusion, {"dims": {k: e.dim for k, e in parts.items()}})
        return made

    def codec(self) -> Codec:
        if self.recipe.codec is None:
            raise RecipeError(
                f"codec: missing; task {self.recipe.task.name} needs one of {joined(sorted(codecs.REGISTRY))}"
            )
        made: Codec = _make("codec", self.recipe.codec, {"channels": self.shape()[0]})
        _fits("codec", lambda: made.target_shape(self.shape()))
        return made

    def generator(self, codec: Codec, text: Encoder) -> Generator:
        if self.recipe.generator is None:
            raise RecipeError(f"generator: missing; expected one of {joined(sorted(generators.REGISTRY))}")
        cls = find("generator", self.recipe.generator.name)
        if cls.kind != codec.kind:
            raise RecipeError(
                f"generator: {self.recipe.generator.name} works on {cls.kind} targets, "
                f"but codec {self.recipe.codec and self.recipe.codec.name} gives {codec.kind} ones"
            )
        target = codec.target_shape(self.shape())
        made: Generator = _make("generator", self.recipe.generator, {"channels": target[0], "cond_dim": text.dim})
        _fits("generator", lambda: made.check(target))
        return made


def _make(role: str, component: Component, sizes: Mapping[str, Any]) -> Any:
    """Builds a component from its options and those of ``sizes`` that its constructor takes."""
    from inspect import signature

    cls = find(role, component.name)
    known = signature(cls).parameters
    return _fits(role, lambda: cls(**component.args, **{k: v for k, v in sizes.items() if k in known}))


def _fits(field: str, make: Callable[[], T]) -> T:
    """Runs a constructor; its complaint about a value names the section of the recipe."""
    try:
        return make()
    except ValueError as error:
        raise RecipeError(f"{field}: {error}") from error


def _text_to_video(parts: _Parts) -> Task:
    found = parts.encoders(("text",))
    codec = parts.codec()
    generator = parts.generator(codec, found["text"])
    if parts.recipe.task.args["cache_targets"] and parts.data is not None:
        check_cache(parts.recipe.data.name, parts.data, codec.target_shape(parts.shape()))
    # without the training data a run is being reopened, and needs no reward any more
    wanted = parts.recipe.task.args["reward"] and parts.data is not None
    rewarder = _rewarder(parts, generator) if wanted else None
    return TextToVideo(found, codec, generator, parts.shape(), rewarder, **parts.recipe.task.args)


def _rewarder(parts: _Parts, generator: Generator) -> ClipReader:
    name = parts.recipe.task.args["reward"]
    if type(generator).draft is Generator.draft:
        raise RecipeError(f"task.reward: {name}, but {type(generator).__name__} has no drafts that it could teach")
    if parts.recipe.train.batch < 2:
        raise RecipeError("train.batch: 1, expected >= 2 with task.reward: some clips are made, some are learned from")
    rewarder = clip_reader("task.reward", name, parts.meta, parts.meta.targets)
    if rewarder.missing:
        raise RecipeError(f"task.reward: {name} reads {joined(rewarder.missing)}, and the data has no such column")
    return rewarder


def _reconstruction(parts: _Parts) -> Task:
    return Reconstruction(parts.codec(), **parts.recipe.task.args)


def _classification(parts: _Parts) -> Task:
    found = parts.encoders(("text", "video"))
    # without the training data a run is being reopened, and its class weights come with its weights
    data, targets = parts.data, parts.meta.targets
    counts = {t.name: data.counts(t.name) if data else (1,) * len(t.classes) for t in targets}
    return Classification(found, parts.fusion(found), parts.meta.targets, counts, **parts.recipe.task.args)


_BUILDERS: Mapping[str, Callable[[_Parts], Task]] = {
    "classification": _classification,
    "reconstruction": _reconstruction,
    "text_to_video": _text_to_video,
}


def clip_reader(field: str, name: str, meta: Meta, columns: Sequence[Target]) -> ClipReader:
    """The run ``name``, a classifier of video, to look at clips of a model that ``meta`` describes."""
    try:
        run = open_run(name)
    except RunError as error:
        raise RecipeError(f"{field}: {error}") from error
    task, precision = restore(run), run.recipe.train.precision
    if not isinstance(task, Classification) or "video" not in task.encoders:
        raise RecipeError(f"{field}: {name} is no classifier of video")
    shapes = run.meta.video_shape, meta.video_shape
    return ClipReader(f"{field}: {name}", task, task.targets, *shapes, columns, precision)


def metrics(built: Task) -> list[Metric]:
    """What a task is measured by besides its loss."""
    return [ClassificationMetric(built.targets)] if isinstance(built, Classification) else []


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
    models = Path(kinetext.__file__).parent / "models"
    if (models / name / "recipe.toml").is_file():
        return open_path(models / name)
    shipped = sorted(p.parent.name for p in models.glob("*/recipe.toml"))
    raise RunError(
        f"{name}: neither a run folder nor a shipped model{suggest(name, shipped)}; shipped: {joined(shipped)}"
    )
