"""Recipe -> task, with fresh weights, those of a run, or those that [init] names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from kinetext.assemble.loading import tokenizer
from kinetext.assemble.parts import Parts, fits
from kinetext.assemble.runs import open_run
from kinetext.checkpoint import Meta, Run
from kinetext.config import Recipe
from kinetext.datasets.shards import Shards
from kinetext.interfaces import Dataset, Encoder, Generator, Metric, Task
from kinetext.methods.distillation import Distillation
from kinetext.metrics.classification import ClassificationMetric
from kinetext.metrics.clip_reader import ClipReader
from kinetext.metrics.reconstruction import ReconstructionMetric
from kinetext.metrics.regression import RegressionMetric
from kinetext.metrics.retrieval import RetrievalMetric
from kinetext.metrics.text import TextMetric
from kinetext.tasks.classification import Classification
from kinetext.tasks.reconstruction import Reconstruction
from kinetext.tasks.regression import Regression
from kinetext.tasks.retrieval import Retrieval
from kinetext.tasks.text_to_video import TextToVideo, check_cache
from kinetext.tasks.video_to_text import VideoToText
from kinetext.text import Tokenizer
from kinetext.types import RecipeError, RunError, Target, joined


def task(recipe: Recipe, meta: Meta, data: Dataset | None = None) -> Task:
    """The recipe's task with fresh weights, a pure function of ``train.seed``.

    Args:
        data: the training set, where the task's losses depend on it (class weights). Without it the task is not to be
            trained, and needs no method around it.
    """
    # the global generator is what torch's own initialisers draw from; it is put back afterwards
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        built = _BUILDERS[recipe.task.name](Parts(recipe, meta, data))
    if recipe.method is None or data is None:
        return built
    return _METHODS[recipe.method.name](built, recipe, meta)


def restore(run: Run) -> Task:
    """The task of a finished run, in evaluation mode."""
    built = task(run.recipe, run.meta)
    _load(built, run.weights(), str(run.path))
    return built.eval()


def is_error(built: Task, name: str) -> bool:
    """Whether a number such as "val/loss" or "val/score/mae" is better when it is smaller."""
    errors = {"loss"}.union(*(metric.errors for metric in metrics(built)))
    return name.rpartition("/")[2] in errors


def keep(run: Run, built: Task) -> None:
    """Writes into a run's folder what rebuilds its pretrained encoders, and their licences into its card."""
    licences = []
    for modality in run.recipe.encoders:
        encoder = cast(Encoder, built.plain().get_submodule(f"encoders.{modality}"))
        run.keep(f"encoders.{modality}", encoder.keep)
        licences += [f"{modality}: {encoder.licence}"] if encoder.licence else []
    if licences:
        run.measured({}, {"pretrained weights": "; ".join(licences)})


def start_weights(built: Task, recipe: Recipe, meta: Meta, open_run: Callable[[str], Run]) -> None:
    """Copies the weights that ``[init]`` names into a fresh task.

    Raises:
        RecipeError: a prefix that is no part of the task, or weights that don't fit it.
    """
    built = built.plain()
    # from the whole to its parts, so that what is named more closely stays
    for prefix, source in sorted(recipe.init.items(), key=lambda item: (item[0] != "task", item[0].count("."))):
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
                raise RecipeError(f"init.{prefix}: no such part, expected task or one of {joined(parts)}") from error
        if _holds_words(prefix, built) and run.meta.vocabulary != meta.vocabulary:
            raise RecipeError(
                f"init.{prefix}: {source} has another vocabulary; what it learned of words can't be continued here"
            )
        start = "" if prefix == "task" else f"{prefix}."
        weights = {k.removeprefix(start): v for k, v in run.weights().items() if k.startswith(start)}
        _load(part, weights, f"init.{prefix}: {source}")


def _holds_words(prefix: str, built: Task) -> bool:
    """Whether the part called ``prefix`` is, holds, or is within one that knows words by their number."""
    begin = prefix.split(".")
    readers = [["encoders", "text"], *([["generator"]] if built.writes_text else [])]
    return prefix == "task" or any(begin == one[: len(begin)] or one == begin[: len(one)] for one in readers)


def _load(module: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise RecipeError(f"{source}: weights do not fit this recipe: {error}") from error


def _text_to_video(parts: Parts) -> Task:
    found = parts.encoders(("text",))
    if found["text"].reads_vectors:
        reader = parts.recipe.encoders["text"].name
        raise RecipeError(f"encoders.text: {reader} reads vectors, and clips are made from words; expected another one")
    codec = parts.codec()
    generator = parts.generator(codec, found["text"])
    for option in ("steps", "guidance"):
        value = parts.recipe.task.args[option]
        if value != 1 and option not in generator.abilities:
            name = parts.recipe.generator and parts.recipe.generator.name
            raise RecipeError(f"task.{option}: {value}, but {name} has no {option}; expected 1")
    most = generator.max_steps
    for option in ("steps", *(["reward_steps"] if parts.recipe.task.args["reward"] else [])):
        value = parts.recipe.task.args[option]
        if most is not None and value > most:
            raise RecipeError(f"task.{option}: {value}, expected at most {most}, the levels of the generator")
    packed = isinstance(parts.data, Shards) and parts.data.latents and parts.data.fixed
    if parts.recipe.task.args["cache_targets"] and parts.data is not None and not packed:
        check_cache(parts.recipe.data.name, parts.data, codec, codec.target_shape(parts.shape()))
    # without the training data a run is being reopened, and needs no reward any more
    wanted = parts.recipe.task.args["reward"] and parts.data is not None
    rewarder = _rewarder(parts, generator) if wanted else None
    early = _early_phrases(parts, generator)
    return TextToVideo(found, codec, generator, parts.shape(), rewarder, early, **parts.recipe.task.args)


def _early_phrases(parts: Parts, generator: Generator) -> list[list[int]]:
    """The token ids of every one of ``task.early_words``."""
    words: tuple[str, ...] = parts.recipe.task.args["early_words"]
    if not words:
        return []
    said = f"task.early_words: {joined(words)}"
    component = parts.recipe.generator
    assert component is not None
    if "late text" not in generator.abilities:
        raise RecipeError(f"{said}, but {component.name} can take no late text; expected an empty list")
    late, end = component.args["late_from"], component.args["guidance_to"]
    if late >= end:
        raise RecipeError(
            f"generator.late_from: {late}, expected less than guidance_to = {end} with task.early_words, "
            "which would change nothing"
        )
    known = tokenizer(parts.recipe, parts.meta)
    if not isinstance(known, Tokenizer):
        raise RecipeError(f"{said}, but the texts have a pretrained tokenizer; expected an empty list")
    for word in words:
        if known.unknown(word) or not 1 <= known.length(word) <= known.max_tokens:
            raise RecipeError(
                f"task.early_words: {word!r}, expected 1 to {known.max_tokens} tokens, all of them known from the texts"
            )
    return [known.encode(word) for word in words]


def _rewarder(parts: Parts, generator: Generator) -> ClipReader:
    name = parts.recipe.task.args["reward"]
    if type(generator).draft is Generator.draft:
        raise RecipeError(f"task.reward: {name}, but {type(generator).__name__} has no drafts that it could teach")
    if parts.recipe.train.batch < 2:
        raise RecipeError("train.batch: 1, expected >= 2 with task.reward: some clips are made, some are learned from")
    rewarder = clip_reader("task.reward", name, parts.meta, parts.meta.targets)
    if rewarder.missing:
        raise RecipeError(f"task.reward: {name} reads {joined(rewarder.missing)}, and the data has no such column")
    return rewarder


def _reconstruction(parts: Parts) -> Task:
    return Reconstruction(parts.codec(), parts.shape()[0], **parts.recipe.task.args)


def _classification(parts: Parts) -> Task:
    found = parts.encoders(("text", "video"))
    # without the training data a run is being reopened, and its class weights come with its weights
    data, targets = parts.data, parts.meta.targets
    counts = {t.name: data.counts(t.name) if data else (1,) * len(t.classes) for t in targets if not t.numeric}
    return Classification(found, parts.fusion(found), parts.meta.targets, counts, **parts.recipe.task.args)


def _regression(parts: Parts) -> Task:
    found = parts.encoders(("text", "video"))
    columns, data = parts.meta.targets, parts.data
    numbers = {t.name: data.numbers(t.name) for t in columns if t.numeric} if data else {}
    return Regression(found, parts.fusion(found), columns, numbers, **parts.recipe.task.args)


def _retrieval(parts: Parts) -> Task:
    if parts.recipe.fusion is not None:
        raise RecipeError(
            f"fusion: {parts.recipe.fusion.name}, but retrieval keeps text and video apart; expected none"
        )
    if parts.recipe.train.batch < 2:
        raise RecipeError("train.batch: 1, expected >= 2: retrieval learns from what does not belong together")
    return Retrieval(parts.encoders(("text", "video")), **parts.recipe.task.args)


def _video_to_text(parts: Parts) -> Task:
    parts.without("fusion", "codec")
    found = parts.encoders(("video",))
    words = tokenizer(parts.recipe, parts.meta)
    if not isinstance(words, Tokenizer) or len(words) <= 2:
        raise RecipeError(f"data: {parts.recipe.data.name} has no texts to learn from; is data.text the right column?")
    return VideoToText(found, parts.writer(words, found["video"]), words, **parts.recipe.task.args)


_BUILDERS: Mapping[str, Callable[[Parts], Task]] = {
    "classification": _classification,
    "reconstruction": _reconstruction,
    "regression": _regression,
    "retrieval": _retrieval,
    "text_to_video": _text_to_video,
    "video_to_text": _video_to_text,
}


def _distillation(built: Task, recipe: Recipe, meta: Meta) -> Task:
    assert recipe.method is not None
    args, options = recipe.method.args, recipe.task.args
    name = args["teacher"]
    if not isinstance(built, TextToVideo):
        raise RecipeError(f"method: distillation, but task {recipe.task.name} has no generator to teach")
    learns = {"steps": args["steps"], "early_words": (), "train_frames": 0}
    if options["reward"]:
        if args["steps"] < 2:
            raise RecipeError(f"method.steps: {args['steps']}, expected >= 2 with task.reward")
        learns["reward_steps"] = args["steps"]
    for option, value in learns.items():
        if options[option] != value:
            raise RecipeError(
                f"task.{option}: {options[option]!r}, expected {value!r} with method distillation: "
                "the student learns so many steps, of whole texts and clips"
            )
    if not 1 <= options["guidance"] <= 2:
        raise RecipeError(
            f"task.guidance: {options['guidance']}, expected between 1 and 2 with method distillation: "
            "the student samples with it, and the teacher's is in its weights already"
        )
    if not name:
        raise RecipeError("method.teacher: missing, expected a run folder or a shipped model")
    try:
        run = open_run(name)
    except RunError as error:
        raise RecipeError(f"method.teacher: {error}") from error
    expert = restore(run)
    if not isinstance(expert, TextToVideo) or run.meta.vocabulary != meta.vocabulary:
        raise RecipeError(f"method.teacher: {name} makes no clips from the texts of this vocabulary")
    source = recipe.init.get("codec", recipe.init.get("task", "missing"))
    if built.codec.state_dict() and name != source:
        raise RecipeError(f"init.codec: {source}, expected {name}, the teacher, whose targets the student makes")
    return fits("method", lambda: Distillation(built, expert, **args))


_METHODS: Mapping[str, Callable[[Task, Recipe, Meta], Task]] = {"distillation": _distillation}


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
    built = built.plain()
    if isinstance(built, Classification):
        return [ClassificationMetric(built.targets)]
    if isinstance(built, Regression):
        return [RegressionMetric(built.targets)]
    if isinstance(built, Reconstruction):
        return [ReconstructionMetric(built.codec.vocab)]
    if isinstance(built, VideoToText):
        return [TextMetric()]
    return [RetrievalMetric()] if isinstance(built, Retrieval) else []
