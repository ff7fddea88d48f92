"""Checkpoints of the transformers library: opened from a folder or the hub, loaded strictly, kept, licensed."""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kinetext.types import RecipeError

OLDEST = (5, 18)  # of transformers; 5.15 to 5.17 load the biases of VideoMAE as zeros
LICENCE = "licence.txt"  # what ``Checkpoint.keep`` writes the licence to

# What a checkpoint may hold beside the model that is asked for: the heads of the task that it was trained for. All
# else that the model does not know is an error.
HEADS = (
    "classifier.", "pre_classifier.", "qa_outputs.", "score.",  # classification, question answering
    "pooler.",  # the head of V-JEPA 2 looks at a clip through one
    "lm_head.",  # RoBERTa, GPT, T5
    "cls.",  # BERT, MacBERT, DeBERTa
    "predictions.", "sop_classifier.",  # ALBERT
    "vocab_transform.", "vocab_layer_norm.", "vocab_projector.",  # DistilBERT
    "discriminator_predictions.", "generator_predictions.", "generator_lm_head.",  # ELECTRA
    "fc_norm.", "mask_token", "encoder_to_decoder.", "decoder.",  # VideoMAE; the decoder of T5
)  # fmt: skip

_SMALL = ["*.json", "*.txt", "*.model", "README.md"]  # configuration, processor, tokeniser, card
_WEIGHTS = ["model.safetensors", "model-*.safetensors"]
_OLD_WEIGHTS = ["pytorch_model.bin", "pytorch_model-*.bin"]
_SHOWN = 8  # keys that one message names


def library() -> Any:
    """The transformers library, imported where it is first needed.

    Raises:
        RecipeError: it is not installed, or too old.
    """
    try:
        import transformers
    except ImportError as error:
        raise RecipeError(
            f"pretrained models need transformers ({error}): pip install 'kinetext[pretrained]'"
        ) from error
    found = transformers.__version__
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < OLDEST:
        raise RecipeError(
            f"transformers {found} is installed, expected >= {'.'.join(map(str, OLDEST))} (some before it load the "
            f"biases of VideoMAE as zeros): pip install --upgrade 'kinetext[pretrained]'"
        )
    return transformers


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    Args:
        section: the recipe's section that asks for it ("encoders.text"), for messages.
        name: what the recipe calls it: a folder or a name on the hub; "" is a toy that has no files.
        folder: where its files are; None for a toy.
        config: transformers' configuration of the model.
        licence: of its weights, with its name; "" for a toy.
        weights: whether ``network`` loads the weights; otherwise it makes random ones.
    """

    section: str
    name: str
    folder: Path | None
    config: Any
    licence: str
    weights: bool

    def network(self, cls: Any, unused: Collection[str] = ()) -> Any:
        """A model of class ``cls`` in float32 and training mode, without its parts ``unused``.

        Args:
            cls: a model's class, of the library.
            unused: names of modules and parameters ("vision_model", "vjepa2.predictor") that are taken out; the
                checkpoint may lack them, and a model that has none is as well.

        Raises:
            RecipeError: the checkpoint can't be read, or a weight is missing, unknown, or of another shape.
        """
        model = self._loaded(cls, unused) if self.weights else cls(copy.deepcopy(self.config)).float()
        for path in unused:
            owner, _, part = path.rpartition(".")
            if hasattr(model.get_submodule(owner), part):
                setattr(model.get_submodule(owner), part, None)
        return model.train()

    def keep(self, folder: Path) -> None:
        """Writes into ``folder`` what opens this again by ``kept``: the configuration and the licence."""
        self.config.save_pretrained(folder)
        (folder / LICENCE).write_text(self.licence, encoding="utf-8")

    def _loaded(self, cls: Any, unused: Collection[str]) -> Any:
        try:
            with _quiet():
                model, found = cls.from_pretrained(
                    self.folder,
                    config=self.config,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are refused here, all in one message
                    local_files_only=True,
                )
        except Exception as error:  # the library and safetensors trip over foreign files in many ways
            raise RecipeError(
                f"{self.section}.model: the weights of {self.name} can't be read ({_first_line(error)})"
            ) from error
        dropped = tuple(f"{part}." for part in unused)
        missing = [k for k in found["missing_keys"] if k not in unused and not k.startswith(dropped)]
        unexpected = [k for k in found["unexpected_keys"] if not k.startswith(HEADS)]
        shapes = [
            f"{k} {tuple(given)}, expected {tuple(expected)}"
            for k, given, expected in found["mismatched_keys"]
            if k not in unused and not k.startswith(dropped)
        ]
        wrong = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        said = [f"{len(keys)} keys {what}: {_some(keys)}" for what, keys in wrong if keys]
        said += [str(message) for message in found["error_msgs"]]
        if said:
            raise RecipeError(f"{self.section}.model: the weights of {self.name} do not fit: {'; '.join(said)}")
        return model


def opened(section: str, model: str, revision: str = "", kept: Path | None = None) -> Checkpoint:
    """Opens a checkpoint.

    Args:
        section: of the recipe, for messages; its options ``model`` and ``revision`` are named in them.
        model: a folder that transformers' ``save_pretrained`` wrote, or a name on the hub, whose files are downloaded
            to the hub's cache unless they are there.
        revision: branch, tag or commit on the hub; "" is its main branch.
        kept: the folder that ``Checkpoint.keep`` wrote to: it is read instead, and has no weights.

    Raises:
        RecipeError: there is no such checkpoint, or it says nothing of its model.
    """
    folder = kept or folder_of(section, model, revision)
    config = _config(section, model, folder)
    if kept:
        stated = folder / LICENCE
        licence = stated.read_text(encoding="utf-8") if stated.is_file() else ""
    else:
        licence = f"{model}: {licence_in(folder)}"
    return Checkpoint(section, model, folder, config, licence, weights=kept is None)


def toy(section: str, config: Any) -> Checkpoint:
    """What an encoder is built from where no checkpoint is named: random weights of this configuration."""
    return Checkpoint(section, "", None, config, "", weights=False)


def folder_of(section: str, model: str, revision: str = "", *, weights: bool = True) -> Path:
    """The folder of a checkpoint's files: ``model`` itself where it is one, else the hub's cache.

    Args:
        weights: whether they are needed, too.

    Raises:
        RecipeError: no such folder, and the hub does not have it or can't be reached.
    """
    if model and Path(model).is_dir():
        if revision:
            raise RecipeError(f"{section}.revision: {revision!r}, but {model} is a folder; expected none")
        return Path(model)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model):
        raise RecipeError(
            f"{section}.model: {model!r}, expected a folder with a transformers model, or the name of one on the "
            f"Hugging Face hub such as 'google-bert/bert-base-uncased'"
        )
    library()
    from huggingface_hub import snapshot_download

    def fetched(patterns: list[str]) -> Path:
        return Path(snapshot_download(model, revision=revision or None, allow_patterns=patterns))

    try:
        folder = fetched(_SMALL + (_WEIGHTS if weights else []))
        if weights and not any(folder.glob("*.safetensors")):
            folder = fetched(_OLD_WEIGHTS)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{section}.model: no folder {model!r}, and it can't be had from the Hugging Face hub"
            f"{f' at revision {revision!r}' if revision else ''} ({_first_line(error)})"
        ) from error
    return folder


def licence_in(folder: Path) -> str:
    """The licence that the model card in ``folder`` states, such as "apache-2.0"."""
    card = folder / "README.md"
    if not card.is_file():
        return "unknown (no model card)"
    head = re.match(r"\s*---[ \t]*\r?\n.*?\n---[ \t]*(\r?\n|$)", card.read_text(encoding="utf-8"), re.DOTALL)
    library()
    from huggingface_hub import ModelCard

    if head is None:
        return "unknown (the model card states none)"
    try:
        data = ModelCard(head.group(), ignore_metadata_errors=True).data
    except Exception as error:  # whatever YAML may trip over
        return f"unknown (the model card can't be read: {_first_line(error)})"
    stated, named = data.get("license"), data.get("license_name")
    if not stated:
        return "unknown (the model card states none)"
    text = ", ".join(stated) if isinstance(stated, list) else str(stated)
    return f"{text} ({named})" if named else text


def _config(section: str, model: str, folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise RecipeError(f"{section}.model: {model or folder} has no config.json, expected a transformers model")
    try:
        return library().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except RecipeError:
        raise
    except Exception as error:  # unknown kinds, values of a wrong type, no JSON
        raise RecipeError(
            f"{section}.model: config.json of {model or folder} can't be read ({_first_line(error)})"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar over tensors and no report of keys, which are judged here, while the block runs."""
    from transformers.utils.logging import set_tqdm_hook

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    log = logging.getLogger("transformers.modeling_utils")
    log.addFilter(only_errors)
    before = set_tqdm_hook(lambda factory, args, options: factory(*args, **{**options, "disable": True}))
    try:
        yield
    finally:
        set_tqdm_hook(before)
        log.removeFilter(only_errors)


def _some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
