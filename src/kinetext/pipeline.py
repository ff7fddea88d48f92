"""A finished run that makes clips or reads them: what the command line, a service and notebooks call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from kinetext import assemble, runtime, video
from kinetext.checkpoint import Run
from kinetext.inputs import Inputs
from kinetext.making import Clip, Maker, Plan, Request, Stream, plan_between
from kinetext.making import plans as plans_of
from kinetext.reading import joint
from kinetext.tasks.classification import Classification
from kinetext.tasks.regression import Regression
from kinetext.tasks.retrieval import Retrieval
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.tasks.video_to_text import VideoToText
from kinetext.text import Tokenizer
from kinetext.tokenizers import PretrainedTokenizer
from kinetext.types import MODALITIES, Batch, DataError, Progress, RunError, Sample, check_between, joined

Answer = dict[str, dict[str, float] | float]  # column -> class -> probability, or column -> number


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
        self.inputs = Inputs(name, run, self._collate.tokenizer)

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
        seeds: Sequence[int] = (),
        steps: int | None = None,
        guidance: float | None = None,
        fps: float | None = None,
        negative: str = "",
        image: Path | str | None = None,
        video: Path | str | None = None,
        keep: int | None = None,
        change: Path | str | None = None,
        strength: float | None = None,
        mask: Path | str | None = None,
        seconds: float | None = None,
        history: int | None = None,
        batch: int = 1,
        progress: Progress | None = None,
    ) -> list[Clip]:
        """Makes ``num`` clips for every prompt, or one for each of ``seeds``, those of the first prompt first.

        Clip number i depends on its prompt, the settings and (seed, i) alone: clips are made one by one, because a
        batch changes the last bits of a result; one of a larger ``batch`` is made again among as many.

        Args:
            progress: called after every clip.
            num, seed, ...: as of ``Request``, which tells all of them.

        Raises:
            DataError: an empty prompt, one without a single known word, a setting out of range, or a file that can't be
                used.
            RunError: the model makes no video.
        """
        request = Request(
            num=num, seed=seed, seeds=tuple(seeds), steps=steps, guidance=guidance, fps=fps, negative=negative,
            image=image, video=video, keep=keep, change=change, strength=strength, mask=mask, seconds=seconds,
            history=history, batch=batch,
        )  # fmt: skip
        maker, plans = self._plans(prompts, request)
        clips: list[Clip] = []
        for clip in maker.clips(plans):
            clips.append(clip)
            if progress:
                progress(len(clips), len(plans))
        return clips

    def write(
        self,
        prompts: str | Sequence[str],
        paths: Sequence[Path],
        request: Request | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Makes clips as ``generate`` does and writes each to its path as it comes, whatever their length.

        What the generator made is stored beside a clip (CLIP.latents.safetensors) until the clip is written: after a
        failed decode, a full disk or a kill the same call finds it and goes on from there. Clips that are there already, made
        in the very same way, stay as they are.

        Args:
            paths: an mp4 for every clip.
            progress: called after every window of a clip.

        Raises:
            KinetextError: as ``generate``; or a file can't be written.
        """
        maker, plans = self._plans(prompts, request or Request())
        if len(plans) != len(paths):
            raise DataError(f"paths: {len(paths)}, expected one for each of {len(plans)} clips")
        maker.save(plans, paths, progress)

    def stream(self, prompt: str, request: Request | None = None) -> Stream:
        """One clip that is made while it is read.

        Raises:
            DataError: as ``generate``; or more than one clip is asked for.
            RunError: the model makes no video.
        """
        maker, plans = self._plans(prompt, request or Request())
        if len(plans) != 1:
            raise DataError(f"num: {len(plans)} clips are asked for, expected one; `write` makes several")
        return Stream(maker, plans[0])

    def interpolate(
        self,
        path: Path | str,
        *,
        factor: int,
        prompt: str = "",
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Stream:
        """The clip of a file with ``factor`` times its frame rate: ``factor`` - 1 frames are made between any two.

        T frames become ``factor * (T - 1) + 1``; those that are given stay as they are, at their times.

        Args:
            factor: 2 up to one less than the frames of the model's window.
            prompt: what the clip shows; "" is no text.
            seed, steps, guidance: as of ``Request``.

        Raises:
            DataError: the file can't be used, or a setting is out of range.
            RunError: the model makes no video.
        """
        maker = self._maker()
        if prompt:
            self.inputs.check_prompt("prompt", prompt)
        plan = plan_between(maker, path, prompt, factor=factor, seed=seed, steps=steps, guidance=guidance)
        return Stream(maker, plan)

    def again(self, provenance: Mapping[str, Any]) -> Stream:
        """The clip that ``provenance`` describes.

        Raises:
            DataError: it does not say all that is needed, or a file that the clip was made from is no longer the same.
        """
        plan = Plan.read(provenance)
        for name, file in plan.files().items():
            file.check(name)
        return Stream(self._maker(), plan)

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
        return [self.answers([sample])[0] for sample in self.inputs.samples(text, video)]

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
        for sample in self.inputs.samples(text, video):
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
        for sample in (one for one in self.inputs.samples(None, video) for _ in range(num)):
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
        return self.inputs.tokenizer

    def clip(self, path: str | Path, start: float | None = None, end: float | None = None) -> Tensor:
        """A file, or its part from ``start`` to ``end`` seconds, as the model saw files in training.

        Raises:
            DataError: it can't be read.
        """
        return self.inputs.clip(path, start, end)

    def _maker(self) -> Maker:
        if not isinstance(self.task, TextToVideo):
            raise RunError(f"{self.name}: its task is {self.run.recipe.task.name}, expected text_to_video")
        return Maker(self.name, self.run, self.task, self._collate, self.device, self.weights_sha256)

    def _plans(self, prompts: str | Sequence[str], request: Request) -> tuple[Maker, list[Plan]]:
        maker = self._maker()
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        plans = plans_of(maker, texts, request)
        for text in dict.fromkeys(texts):
            self.inputs.check_prompt("prompt", text)
        if request.negative:
            self.inputs.check_prompt("negative", request.negative)
        return maker, plans

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

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        batch = self._collate(samples).to(self.device)
        present = torch.stack([batch.has(modality) for modality in MODALITIES if modality in self.run.recipe.encoders])
        if not present.any(0).all():
            lost = batch.keys[present.any(0).tolist().index(False)]
            raise DataError(f"{lost}: nothing that {self.name} reads, expected {' or '.join(self.run.recipe.encoders)}")
        return batch


def outputs(path: Path, num: int) -> list[Path]:
    """Where ``num`` clips go: ``path`` itself, or clip-0.mp4, clip-1.mp4, ... beside it.

    Raises:
        DataError: not of a kind that is written, or its folder is not there.
    """
    check_between("num", num, 1, 10_000)
    if path.suffix.lower() not in video.WRITTEN:
        raise DataError(f"out: {path}, expected a name that ends in {joined(video.WRITTEN)}")
    if not path.parent.is_dir():
        raise DataError(f"out: there is no folder {path.parent}")
    return [path] if num == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(num)]
