"""The run folder: everything a run is, on disk; it alone rebuilds the model.

    RUN/recipe.toml          the resolved recipe, defaults spelled out
    RUN/meta.json            format, versions, vocabulary, classes, clip shape, measured numbers
    RUN/model.safetensors    the newest weights       RUN/ema.safetensors   their moving average
    RUN/best.safetensors     the best weights by validation
    RUN/metrics.jsonl        one line a log, evaluation or sample
    RUN/resume/STEP/         weights, average, optimisers and position: what an exact resume needs
    RUN/resume.json          which of them is complete
    RUN/kept/                what rebuilds pretrained encoders: their configuration, their tokeniser
    RUN/samples/ RUN/tensorboard/ RUN/report.html RUN/README.md

Every file appears whole: written under a temporary name, then renamed. No pickle.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kinetext.config import Recipe
from kinetext.runtime import whole_file
from kinetext.types import Modality, RunError, Target

FORMAT = 1


@dataclass(frozen=True)
class Meta:
    """What a model must know beyond its weights and recipe.

    Args:
        vocabulary: the tokens in id order; empty without text.
        targets: the label columns that the model knows.
        video_shape: (C, T, H, W) that it reads or makes; None without video.
        fps: frames a second of its clips, 0 where it varies.
        vector_dims: modality -> width of the precomputed vectors that it reads in its place.
        numbers: what was measured, name -> value.
        facts: what the card says: data, hardware, minutes, steps ... name -> text.
        kept: the folder in which the run has what rebuilds its pretrained parts; None until there is a run. It is
            where the run is, so it is not written down.
    """

    version: str
    vocabulary: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    video_shape: tuple[int, ...] | None = None
    fps: float = 0.0
    vector_dims: Mapping[Modality, int] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT
    kept: Path | None = None

    def to_json(self) -> str:
        said = {name: value for name, value in asdict(self).items() if name != "kept"}
        return json.dumps(said, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: Path) -> Meta:
        """Reads ``to_json`` back; a file of another format is refused."""
        try:
            raw: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise RunError(f"{source}: not JSON ({error})") from error
        if raw.get("format") != FORMAT:
            raise RunError(
                f"{source}: run format {raw.get('format')!r}, expected {FORMAT}: "
                f"this run was written by kinetext {raw.get('version', 'of another time')}; use that version to read it"
            )
        try:
            targets = tuple(
                Target(t["name"], tuple(t["classes"]), t["multi"], t.get("numeric", False)) for t in raw.pop("targets")
            )
            shape = raw.pop("video_shape")
            vocabulary = tuple(raw.pop("vocabulary"))
            return cls(targets=targets, video_shape=tuple(shape) if shape else None, vocabulary=vocabulary, **raw)
        except (KeyError, TypeError) as error:
            raise RunError(f"{source}: incomplete or damaged ({error})") from error


@dataclass(frozen=True)
class State:
    """What an exact resume needs; tensors and plain numbers only."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizers: dict[str, Any]
    progress: dict[str, Any]


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when all went well.

    Raises:
        RunError: the disk is full or the folder can't be written; nothing half written stays.
    """
    try:
        with whole_file(path) as temporary:
            yield temporary
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: could not be written ({error}); what was there before is untouched") from error


def write_text(path: Path, text: str) -> None:
    """Writes a text file so that it appears whole."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes safetensors."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    with whole(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(ready))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads safetensors; a missing or broken file is an error that names it."""
    try:
        return {
            name: t.float() if t.dtype == torch.float16 else t for name, t in safetensors.torch.load_file(path).items()
        }
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path}: can't be read ({error})") from error


class Run:
    """A run folder that exists."""

    def __init__(self, path: Path, recipe: Recipe, meta: Meta) -> None:
        self.path, self.recipe = path, recipe
        self.meta = replace(meta, kept=path / "kept")

    @classmethod
    def create(cls, path: Path, recipe: Recipe, meta: Meta) -> Run:
        """Starts a run in a folder that is new or empty."""
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"{path}: exists and is not an empty folder; resume it with --resume, or choose another --out"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: can't be made ({error})") from error
        run = cls(path, recipe, meta)
        write_text(path / "recipe.toml", recipe.to_toml())
        run.describe(meta)
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Opens a run folder.

        Raises:
            RunError: not a run folder, damaged, or of another format.
        """
        for name in ("recipe.toml", "meta.json"):
            if not (path / name).is_file():
                raise RunError(f"{path}: not a run folder (no {name} in it)")
        meta = Meta.from_json((path / "meta.json").read_text(encoding="utf-8"), path / "meta.json")
        return cls(path, Recipe.load(path / "recipe.toml"), meta)

    def describe(self, meta: Meta) -> None:
        """Writes meta.json."""
        self.meta = replace(meta, kept=self.path / "kept")
        write_text(self.path / "meta.json", meta.to_json())

    def measured(self, numbers: Mapping[str, float], facts: Mapping[str, str]) -> None:
        """Adds measured numbers and facts to meta.json."""
        meta = self.meta
        self.describe(replace(meta, numbers={**meta.numbers, **numbers}, facts={**meta.facts, **facts}))

    def keep(self, name: str, write: Callable[[Path], None]) -> None:
        """Fills ``kept/name`` by ``write``; the folder is there whole, or not at all. Nothing written, no folder."""
        folder, fresh = self.path / "kept" / name, self.path / "kept" / f".{name}.tmp"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            write(fresh)
            if any(fresh.iterdir()):
                shutil.rmtree(folder, ignore_errors=True)
                fresh.replace(folder)
        except OSError as error:
            raise RunError(f"{folder}: could not be written ({error})") from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            if folder.parent.is_dir() and not any(folder.parent.iterdir()):
                folder.parent.rmdir()

    def weights_file(self) -> Path:
        """The weights to use: the best, else the average, else the newest."""
        names = ("best.safetensors", "ema.safetensors", "model.safetensors")
        found = next((self.path / name for name in names if (self.path / name).is_file()), None)
        if found is None:
            raise RunError(f"{self.path}: no weights yet (none of {', '.join(names)})")
        return found

    def weights(self) -> dict[str, Tensor]:
        """The weights to use, as float32."""
        return read_weights(self.weights_file())

    def weights_hash(self) -> str:
        """SHA-256 of the weights in use, in hex."""
        with self.weights_file().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def save(self, state: State) -> None:
        """Saves an exact resume point, then the weights beside the recipe; the last good one stays until then."""
        folder = self.path / "resume" / f"{state.step:09d}"
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(folder / "model.safetensors", state.model)
        if state.ema:
            write_weights(folder / "ema.safetensors", state.ema)
        optimizers = io.BytesIO()  # torch's own writer hides why a disk refuses
        torch.save(state.optimizers, optimizers)
        with whole(folder / "optimizers.pt") as temporary:
            temporary.write_bytes(optimizers.getbuffer())
        write_text(folder / "progress.json", json.dumps({"step": state.step, **state.progress}))
        write_text(self.path / "resume.json", json.dumps({"folder": folder.name}))
        self._show(folder)
        for old in (self.path / "resume").iterdir():
            if old.name != folder.name:
                shutil.rmtree(old)

    def _show(self, folder: Path) -> None:
        """Makes the weights of a resume point the run's newest."""
        for name in ("model.safetensors", "ema.safetensors"):
            source, shown = folder / name, self.path / name
            if source.is_file() and not (shown.is_file() and shown.samefile(source)):
                _link(source, shown)

    def saved(self) -> bool:
        """Whether there is a resume point."""
        return (self.path / "resume.json").is_file()

    def load(self) -> State | None:
        """The newest complete resume point, or None when the run saved none.

        Raises:
            RunError: it is damaged.
        """
        if not self.saved():
            return None
        pointer = self.path / "resume.json"
        try:
            folder = self.path / "resume" / json.loads(pointer.read_text())["folder"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{pointer}: damaged ({error})") from error
        try:
            progress = json.loads((folder / "progress.json").read_text())
            step = progress.pop("step")
            optimizers = torch.load(folder / "optimizers.pt", weights_only=True, map_location="cpu")
        except Exception as error:  # torch.load trips over torn bytes in many ways
            raise RunError(f"{folder}: damaged resume point ({error!r})") from error
        self._show(folder)  # a kill may have come between the resume point and the weights shown
        average = folder / "ema.safetensors"
        return State(
            step=step,
            model=read_weights(folder / "model.safetensors"),
            ema=read_weights(average) if average.is_file() else {},
            optimizers=optimizers,
            progress=progress,
        )

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Every complete line of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def latest(self) -> dict[str, Any]:
        """The newest value of everything that is in the history."""
        last: dict[str, Any] = {}
        for line in self.history():
            last |= line
        return last

    def forget_after(self, step: int) -> None:
        """Drops the log lines of steps that a resume will do again."""
        kept = [json.dumps(record) + "\n" for record in self.history() if record["step"] <= step]
        write_text(self.path / "metrics.jsonl", "".join(kept))


def _link(source: Path, target: Path) -> None:
    """Makes ``target`` the same file as ``source``, atomically; a copy where links are impossible."""
    with whole(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def pack(run: Run, folder: Path, recipe: Recipe, halved: Collection[str]) -> Run:
    """Writes a small copy of a run to share: ``recipe``, and the run's meta and weights in use.

    Args:
        halved: names of the weights that are written in 16 bits, where these can hold them.
    """
    packed = Run.create(folder, recipe, run.meta)
    weights = run.weights()
    small = {name: weights[name].half() for name in halved if weights[name].is_floating_point()}
    weights |= {name: half for name, half in small.items() if half.isfinite().all()}
    write_weights(folder / "model.safetensors", weights)
    if (run.path / "kept").is_dir():
        shutil.copytree(run.path / "kept", folder / "kept")
    return packed
