"""A finished run that makes clips or reads them: what the command line, a service and notebooks call."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

import kinetext
from kinetext import assemble, runtime, video
from kinetext.checkpoint import Run
from kinetext.reading import joint
from kinetext.tasks.classification import Classification
from kinetext.tasks.regression import Regression
from kinetext.tasks.retrieval import Retrieval
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.tasks.video_to_text import VideoToText
from kinetext.text import Tokenizer
from kinetext.tokenizers import PretrainedTokenizer
from kinetext.types import MODALITIES, Batch, DataError, Modality, Progress, RunError, Sample, check_between, joined

Answer = dict[str, dict[str, float] | float]  # column -> class -> probability, or column -> number


class TextWarning(UserWarning):
    """A text that the model can read only in part."""


@dataclass(frozen=True)
class Clip:
    """A generated clip.

    Args:
        video: ``(C, T, H, W)`` float32 in [-1, 1].
        fps: frames a second.
        prompt: what it was made from.
        provenance: all that making it again takes; ``save`` keeps it in the file.
    """

    video: Tensor
    fps: float
    prompt: str
    provenance: Mapping[str, Any]

    def save(self, path: Path | str) -> None:
        """Writes an mp4."""
        video.write(path, self.video, fps=self.fps, provenance=self.provenance)


class Pipeline:
    """A model ready for use.

    Example:
        >>> from kinetext import Pipeline                                         # doctest: +SKIP
        >>> clip = Pipeline.load("digits").generate("the digit 3 is moving up and down")[0]  # doctest: +SKIP
        >>> clip.save("three.mp4")                                                # doctest: +SKIP
    """

    def __init__(self, name: str, run: Run, device: torch.device) -> None:
        self.name, self.run, self.device = name, run, device
        self.task = assemble.restore(run).to(device)
        self.weights_sha256 = run.weights_hash()
        self._collate = assemble.collate(run.recipe, run.meta)

    @classmethod
    def load(cls, name: str | Path, device: str | None = None) -> Self:
        """Opens a shipped model by its name, or a run folder by its path.

        Args:
            device: such as "cpu" or "cuda:1"; None takes the accelerator if there is one.

        Raises:
            RunError: no such model or run, damaged, or of another version; no such device.
        """
        return cls(str(name), assemble.open_run(str(name)), assemble.device(device))

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        num: int = 1,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        fps: float | None = None,
        progress: Progress | None = None,
    ) -> list[Clip]:
        """Makes ``num`` clips for every prompt, those of the first prompt first.

        Clip number i depends on its prompt, the settings and (seed, i) alone: clips are made one by one, because a
        batch changes the last bits of a result, and a clip could not be made again by itself.

        Args:
            num: clips a prompt, 1 to 10,000.
            seed: >= 0.
            steps: sampler steps, 1 to 1000; None is the model's own number.
            guidance: how much the text is exaggerated, 0 to 100, 1 is as learned; None is the model's own.
            fps: frames a second of the clips, more than 0, at most 1000; None is the model's own.
            progress: called after every clip.

        Raises:
            DataError: an empty prompt, one without a single known word, or a setting out of range.
            RunError: the model makes no video.
        """
        task = self._maker()
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        check_between("num", num, 1, 10_000)
        check_between("seed", seed, 0, 2**63 - 1)
        settings: dict[str, Any] = {
            "steps": task.steps if steps is None else steps,
            "guidance": float(task.guidance if guidance is None else guidance),
            "fps": float(self.run.meta.fps if fps is None else fps),
            "precision": self._precision(),
        }
        check_between("steps", settings["steps"], 1, 1000)
        check_between("guidance", settings["guidance"], 0, 100)
        video.frame_rate(settings["fps"])
        for text in dict.fromkeys(texts):
            self._check_prompt(text)
        clips: list[Clip] = []
        for text in texts:
            for _ in range(num):
                clips.append(self._make(task, text, {"seed": seed, "index": len(clips), **settings}))
                if progress:
                    progress(len(clips), num * len(texts))
        return clips

    def again(self, provenance: Mapping[str, Any]) -> Clip:
        """Makes the clip that ``provenance`` describes."""
        names = ("seed", "index", "steps", "guidance", "fps", "precision")
        return self._make(self._maker(), provenance["prompt"], {name: provenance[name] for name in names})

    def predict(
        self,
        text: str | Tensor | Sequence[str | Tensor | None] | None = None,
        video: str | Path | Tensor | Sequence[str | Path | Tensor | None] | None = None,
    ) -> list[Answer]:
        """What the model reads in texts, clips or pairs: probabilities of classes, or numbers. What is None is absent.

        Args:
            text: one, or a list; for a model of precomputed vectors, those, ``(L, D)``.
            video: a file, or ``(C, T, H, W)`` float32 in [-1, 1] of the model's own shape; for a model of precomputed
                vectors, those, ``(L, D)``. One, or a list as long as ``text``.

        Raises:
            DataError: nothing given, something that this model does not read, or a clip that can't be used.
            RunError: the model neither classifies nor predicts numbers.
        """
        self.answering()
        return [self.answers([sample])[0] for sample in self._samples(text, video)]

    def embed(
        self,
        text: str | Tensor | Sequence[str | Tensor | None] | None = None,
        video: str | Path | Tensor | Sequence[str | Path | Tensor | None] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Texts, clips or pairs as vectors: "text" and "video" of length 1 in the space that a retrieval model shares; of
        a model that classifies or predicts numbers "joint", the features before its heads. What is None is absent.

        Args:
            text: as for ``predict``.
            video: as for ``predict``.

        Raises:
            DataError: as ``predict``.
            RunError: the model reads nothing.
        """
        task = self.task
        if not isinstance(task, Retrieval | Classification | Regression):
            raise RunError(f"{self.name}: its task is {self.run.recipe.task.name}, expected one that reads")
        found: list[dict[str, Tensor]] = []
        for sample in self._samples(text, video):
            batch = self._batch([sample])
            with torch.no_grad(), runtime.autocast(self.run.recipe.train.precision, self.device):
                if isinstance(task, Retrieval):
                    made = task.predict(batch, rng=runtime.rng(0, "predict")).embeddings
                    found.append({m: x[0].float().cpu() for m, x in made.items() if x.any()})
                else:
                    pooled = joint(task.encoders, task.fusion, batch).pooled()
                    found.append({"joint": pooled[0].float().cpu()})
        return found

    def caption(
        self,
        video: str | Path | Tensor | Sequence[str | Path | Tensor | None],
        *,
        num: int = 1,
        seed: int = 0,
        temperature: float | None = None,
    ) -> list[str]:
        """What clips show, in words: ``num`` texts for every clip, those of the first clip first; text number i depends
        on its clip, the temperature and (seed, i) alone.

        Args:
            video: as for ``predict``.
            num, seed: as for ``generate``; several texts need a temperature above 0.
            temperature: 0 to 100; 0 writes the likeliest word each time, 1 draws as learned; None is the model's own.

        Raises:
            DataError: a setting out of range, or a clip that can't be used.
            RunError: the model writes no text.
        """
        if not isinstance(self.task, VideoToText):
            raise RunError(f"{self.name}: its task is {self.run.recipe.task.name}, expected video_to_text")
        heat = self.task.temperature if temperature is None else temperature
        check_between("num", num, 1, 10_000)
        check_between("seed", seed, 0, 2**63 - 1)
        check_between("temperature", heat, 0, 100)
        if num > 1 and heat == 0:
            raise DataError(f"num: {num} texts at temperature 0 are all the same; expected 1, or a temperature above 0")
        texts: list[str] = []
        for sample in (one for one in self._samples(None, video) for _ in range(num)):
            rngs = [runtime.rng(seed, "caption", len(texts))]
            with runtime.autocast(self.run.recipe.train.precision, self.device):
                texts += self.task.write(self._batch([sample]), rng=rngs, temperature=heat).text
        return texts

    @torch.no_grad()
    def answers(self, samples: Sequence[Sample]) -> list[Answer]:
        """As ``predict``, of samples that are read already.

        Raises:
            DataError: a sample without anything that this model reads.
            RunError: the model neither classifies nor predicts numbers.
        """
        task = self.answering()
        with runtime.autocast(self.run.recipe.train.precision, self.device):
            made = task.predict(self._batch(samples), rng=runtime.rng(0, "predict"))
        found: list[Answer] = [{} for _ in samples]
        for column in task.targets:
            for row, answer in enumerate(found):
                if column.numeric:
                    answer[column.name] = float(made.numbers[column.name][row])
                else:
                    shares = made.probabilities[column.name][row].tolist()
                    answer[column.name] = dict(zip(column.classes, shares, strict=True))
        return found

    @property
    def tokenizer(self) -> Tokenizer | PretrainedTokenizer | None:
        """What turns this model's texts into tokens; None when it reads no text."""
        return self._collate.tokenizer

    def _maker(self) -> TextToVideo:
        if not isinstance(self.task, TextToVideo):
            raise RunError(f"{self.name}: its task is {self.run.recipe.task.name}, expected text_to_video")
        return self.task

    def _make(self, task: TextToVideo, prompt: str, settings: Mapping[str, Any]) -> Clip:
        batch = self._collate([Sample("prompt", text=prompt)]).to(self.device)
        rngs = [runtime.rng(settings["seed"], "clip", settings["index"])]
        with runtime.autocast(settings["precision"], self.device):
            made = task.generate(batch, rng=rngs, steps=settings["steps"], guidance=settings["guidance"]).video
        assert made is not None
        provenance = {
            "kinetext": kinetext.__version__,
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "prompt": prompt,
            **settings,
            "num_frames": made.shape[2],
            **machine(self.device),
        }
        return Clip(made[0].float().cpu(), settings["fps"], prompt, provenance)

    def _check_prompt(self, prompt: str) -> None:
        if not prompt.strip():
            raise DataError("prompt: empty, expected a description of the clip")
        assert self.tokenizer is not None
        own = isinstance(self.tokenizer, Tokenizer)  # a pretrained one spells out what it does not know
        if own and all(token == 1 for token in self.tokenizer.encode(prompt)):
            words = [w for w in self.tokenizer.vocabulary[2:] if len(w) > 1 or w.isalnum()]
            raise DataError(f"prompt: {self.name} knows no word of {prompt!r}; it knows {_some(words)}")
        self._warn(prompt)

    def _warn(self, text: str) -> None:
        """Says what of a text the model can't see."""
        assert self.tokenizer is not None
        length, most = self.tokenizer.length(text), self.tokenizer.max_tokens
        if unknown := self.tokenizer.unknown(text):
            warnings.warn(f"{self.name} does not know: {joined(unknown)}", TextWarning, stacklevel=4)
        if length > most:
            warnings.warn(f"{self.name} reads {most} tokens, the rest of {length} is cut", TextWarning, stacklevel=4)

    def answering(self) -> Classification | Regression:
        """The task, which classifies or predicts numbers.

        Raises:
            RunError: it does neither.
        """
        if not isinstance(self.task, Classification | Regression):
            raise RunError(
                f"{self.name}: its task is {self.run.recipe.task.name}, expected classification or regression"
            )
        return self.task

    def _samples(
        self,
        text: str | Tensor | Sequence[str | Tensor | None] | None,
        video: str | Path | Tensor | Sequence[str | Path | Tensor | None] | None,
    ) -> list[Sample]:
        texts: Sequence[str | Tensor | None] = [text] if text is None or isinstance(text, (str, Tensor)) else text
        videos = [video] if video is None or isinstance(video, (str, Path, Tensor)) else video
        texts = [None] * len(videos) if text is None else texts
        videos = [None] * len(texts) if video is None else videos
        if len(texts) != len(videos):
            raise DataError(f"predict: {len(texts)} texts and {len(videos)} clips, expected as many of each")
        return [self._sample(f"input {i}", t, v) for i, (t, v) in enumerate(zip(texts, videos, strict=True))]

    def _sample(self, key: str, text: str | Tensor | None, clip: str | Path | Tensor | None) -> Sample:
        """One input as the model reads it."""
        text = None if isinstance(text, str) and not text.strip() else text
        if text is None and clip is None:
            raise DataError(f"{key}: neither text nor video, expected one or both")
        reads = self.run.recipe.encoders
        for modality, present in (("text", text is not None), ("video", clip is not None)):
            if present and modality not in reads:
                raise DataError(f"{key}: {self.name} reads no {modality}, only {joined(sorted(reads))}")
        vectors: dict[Modality, Tensor] = {}
        given: tuple[tuple[Modality, object], ...] = (("text", text), ("video", clip))
        for name, one in given:
            if one is not None and name in self.run.meta.vector_dims:
                if not isinstance(one, Tensor):
                    raise DataError(
                        f"{key}: {self.name} reads precomputed vectors, expected a tensor (L, D) for {name}"
                    )
                vectors[name] = one
        if isinstance(text, Tensor) and "text" not in vectors:
            raise DataError(f"{key}: {self.name} reads written text, expected a string")
        written = text if isinstance(text, str) and "text" not in vectors else None
        if written is not None:
            self._warn(written)
        seen = self.clip(clip) if isinstance(clip, (str, Path)) else clip
        return Sample(key, video=None if "video" in vectors else seen, text=written, vectors=vectors)

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        batch = self._collate(samples).to(self.device)
        present = torch.stack([batch.has(modality) for modality in MODALITIES if modality in self.run.recipe.encoders])
        if not present.any(0).all():
            lost = batch.keys[present.any(0).tolist().index(False)]
            raise DataError(f"{lost}: nothing that {self.name} reads, expected {' or '.join(self.run.recipe.encoders)}")
        return batch

    def clip(self, path: str | Path, start: float | None = None, end: float | None = None) -> Tensor:
        """A file, or its part from ``start`` to ``end`` seconds, as the model saw files in training.

        Raises:
            DataError: it can't be read.
        """
        shape, args = self.run.meta.video_shape, self.run.recipe.data.args
        if shape is None:
            raise DataError(f"{path}: {self.name} reads no clips")
        return video.read_clip(
            path,
            start=start,
            end=end,
            num_frames=shape[1],
            size=shape[2],
            channels=shape[0],
            fit=args.get("fit", "crop"),
            region=args.get("region", video.WHOLE),
            clip_seconds=args.get("clip_seconds") or None,
        )

    def _precision(self) -> Literal["bf16", "fp32"]:
        """What "auto" means on this machine."""
        asked = self.run.recipe.train.precision
        if asked != "auto":
            return asked
        return "bf16" if runtime.has_fast_bf16(self.device) else "fp32"


def outputs(path: Path, num: int) -> list[Path]:
    """Where ``num`` clips go: ``path`` itself, or clip-0.mp4, clip-1.mp4, ... beside it.

    Raises:
        DataError: not an mp4, or its folder is not there.
    """
    check_between("num", num, 1, 10_000)
    if path.suffix.lower() != ".mp4":
        raise DataError(f"out: {path}, expected a name that ends in .mp4")
    if not path.parent.is_dir():
        raise DataError(f"out: there is no folder {path.parent}")
    return [path] if num == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(num)]


def machine(device: torch.device) -> dict[str, str]:
    """What of the machine a result's last bits hang on."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else runtime.cpu_name()
    return {"torch": torch.__version__, "device": device.type, "processor": processor or platform.machine()}


def _some(words: Sequence[str], most: int = 40) -> str:
    return joined(words[:most]) + (", ..." if len(words) > most else "")
