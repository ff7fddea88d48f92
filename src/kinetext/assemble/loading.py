"""Recipe -> datasets, tokenisers, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import kinetext
from kinetext.assemble.catalog import find
from kinetext.checkpoint import Meta
from kinetext.config import Recipe
from kinetext.datasets.loader import Collate, plain_loader, train_loader
from kinetext.interfaces import Dataset, Encoder
from kinetext.text import Tokenizer
from kinetext.tokenizers import PretrainedTokenizer
from kinetext.types import Batch, Modality


def dataset(recipe: Recipe, split: str = "train") -> Dataset:
    """The recipe's dataset, one split of it."""
    made: Dataset = find("data", recipe.data.name)(**recipe.data.args, split=split)
    return made


def describe(recipe: Recipe, data: Dataset) -> Meta:
    """What a model for ``data`` must know: vocabulary, classes, clip shape, widths of precomputed vectors."""
    vocabulary: tuple[str, ...] = ()
    component = recipe.encoders.get("text")
    if find("task", recipe.task.name).writes_text:
        vocabulary = Tokenizer.train(data.texts(), recipe.text.tokenizer).vocabulary
    elif component is not None:
        encoder: type[Encoder] = find("encoders", component.name)
        if not (encoder.reads_vectors or encoder.own_tokenizer):
            trained = Tokenizer.train(data.texts(), recipe.text.tokenizer, max_tokens=recipe.text.max_tokens)
            vocabulary = encoder.vocabulary(trained.vocabulary, recipe.text.tokenizer, component.args)
    shape = tuple(data.video_shape) if data.video_shape else None
    return Meta(kinetext.__version__, vocabulary, data.targets, shape, data.fps, data.vector_dims)


def tokenizer(recipe: Recipe, meta: Meta) -> Tokenizer | PretrainedTokenizer | None:
    """The run's own tokeniser, or None when nothing reads text."""
    if meta.vocabulary:
        return Tokenizer(recipe.text.tokenizer, meta.vocabulary, max_tokens=recipe.text.max_tokens)
    component = recipe.encoders.get("text")
    if component is None or not find("encoders", component.name).own_tokenizer:
        return None
    if meta.kept:
        return PretrainedTokenizer(meta.kept / "encoders.text", recipe.text.max_tokens)
    args = component.args
    return PretrainedTokenizer(args["model"], recipe.text.max_tokens, revision=args["revision"])


def collate(recipe: Recipe, meta: Meta, encoded: Mapping[Modality, int] | None = None) -> Collate:
    """Samples -> batches for the run's model.

    Args:
        encoded: modality -> width of what a frozen encoder made of it.
    """
    # a clip that is encoded already is not read
    shape = None if encoded and "video" in encoded else meta.video_shape
    return Collate(tokenizer(recipe, meta), meta.targets, shape, meta.vector_dims, encoded)


def train_batches(
    recipe: Recipe,
    meta: Meta,
    data: Dataset,
    encoded: Mapping[Modality, int] | None = None,
    *,
    rank: int = 0,
    ranks: int = 1,
) -> Callable[[int], Iterator[Batch]]:
    """``batches(n)``: the training batches from number n on."""
    config, ready = recipe.train, collate(recipe, meta, encoded)

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


def plain_batches(
    recipe: Recipe, meta: Meta, data: Dataset, *, limit: int = 0, encoded: Mapping[Modality, int] | None = None
) -> Iterator[Batch]:
    """One pass over ``data`` in order."""
    return plain_loader(data, collate(recipe, meta, encoded), batch=recipe.evaluate.batch, limit=limit)
