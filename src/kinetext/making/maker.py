"""Plans -> clips, window by window: sampled, decoded, and written as they come."""

from __future__ import annotations

import platform
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kinetext
from kinetext import runtime, video
from kinetext.checkpoint import Run
from kinetext.making.given import Grid, Piece, Place, Rolling, places, reader
from kinetext.making.latents import Held, Latents, Stored
from kinetext.making.layout import Layout, layout
from kinetext.making.requests import Plan
from kinetext.making.settings import settings_of
from kinetext.tasks.text_to_video import TextToVideo
from kinetext.types import Batch, DataError, Known, Progress, Sample, Start


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


class Maker:
    """Makes clips with one text-to-video model.

    Args:
        name: of the model.
        run: what it comes from.
        task: the model itself, on ``device``.
        collate: samples -> batches for it.
        weights_sha256: of its weights.
    """

    def __init__(
        self,
        name: str,
        run: Run,
        task: TextToVideo,
        collate: Callable[[Sequence[Sample]], Batch],
        device: torch.device,
        weights_sha256: str,
    ) -> None:
        self.name, self.run, self.task, self.device = name, run, task, device
        self.weights_sha256, self.settings = weights_sha256, settings_of(run.recipe)
        self.grid = Grid.of(task.codec, task.shape)
        self._collate = collate
        channels, _, size, _ = task.shape
        args = run.recipe.data.args
        self.read = reader(size, channels, args.get("fit", "crop"), args.get("region", video.WHOLE))

    def rate(self, fps: float) -> float:
        """At how many frames a second given videos are read: the model's own, ``fps`` where it has none."""
        return self.run.meta.fps or fps

    def pace(self, plan: Plan) -> float:
        """How far frames in between stand apart, the distance of those that the model learned from being 1."""
        learned, able = self.run.meta.fps, "pace" in self.task.generator.abilities
        return min(1.0, learned / plan.fps) if plan.factor is not None and learned and able else 1.0

    def layout(self, plan: Plan) -> Layout:
        """How the windows of a clip lie."""
        return layout(plan, self.grid)

    def provenance(self, plan: Plan) -> dict[str, Any]:
        """What the file of a clip says of it: all that making it again takes."""
        model = {
            "kinetext": kinetext.__version__,
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "settings": self.settings,
        }
        return {**model, **plan.said(), **machine(self.device)}

    def clips(self, plans: Sequence[Plan]) -> Iterator[Clip]:
        """The clips of ``plans``, one after another."""
        for group in _groups(plans):
            held = [Held() for _ in group]
            self._ahead(group, held)
            for plan, latents in zip(group, held, strict=True):
                frames = torch.cat(list(self.chunks(plan, latents if plan.batch > 1 else None)), 1)
                yield Clip(frames, plan.fps, plan.prompt, self.provenance(plan))

    def save(self, plans: Sequence[Plan], paths: Sequence[Path], progress: Progress | None = None) -> None:
        """Writes the clips of ``plans`` as they are made, in memory that does not grow with their length.

        What the generator made is stored beside a clip before it is decoded, and goes when the clip is there. Where it is
        found, it is not made again; clips that are there, made in the very same way, stay as they are.

        Args:
            paths: an mp4 for each.
            progress: called after every window of a clip.

        Raises:
            KinetextError: a clip can't be made or written.
        """
        _check_paths(plans, paths)
        total, done = sum(self.layout(plan).windows(plan.num_frames) for plan in plans), 0
        names = iter(paths)
        for group in _groups(plans):
            stored = [Stored(next(names), self.provenance(plan)) for plan in group]
            with closing(self._written(group, stored)) as windows:
                for _ in windows:
                    done += 1
                    if progress:
                        progress(done, total)
            for latents in stored:  # not before all are written: those made at once would all be made again
                latents.remove()

    def _written(self, plans: Sequence[Plan], stored: Sequence[Stored]) -> Generator[None]:
        """Writes clips that are made at once, unless all of them are there; one turn a window."""
        if all(latents.is_written() for latents in stored):
            yield from [None] * sum(self.layout(plan).windows(plan.num_frames) for plan in plans)
            return
        self._ahead(plans, stored)
        for plan, latents in zip(plans, stored, strict=True):
            with video.Writer(latents.clip, fps=plan.fps, provenance=self.provenance(plan)) as file:
                for chunk in self.chunks(plan, latents):
                    file.write(chunk)
                    yield

    @torch.no_grad()
    def chunks(self, plan: Plan, latents: Latents | None = None) -> Iterator[Tensor]:
        """The frames of a clip, window by window, each ``(C, T, H, W)`` float32 in [-1, 1].

        Args:
            latents: where targets are found, and put before they are decoded.
        """
        lie = self.layout(plan)
        given = Rolling(places(plan, self.read, self.rate(plan.fps)))
        tail: Tensor | None = None  # the last frames, which the next window has too
        carried: Tensor | None = None  # their target, where the codec does not join frames
        done = 0
        for number in range(lie.windows(plan.num_frames)):
            start = number * lie.stride
            coming = given.window(start, start + lie.window)
            if tail is not None and self.grid.joins:
                coming[: lie.overlap] = [Place.whole(frame) for frame in tail.unbind(1)]
            piece = Piece.of(coming, self.task.shape)
            target = latents.get(number) if latents else None
            if target is None:
                # one of several made at once is made again among as many: the last bits hang on it
                target = self._targets([plan] * plan.batch, piece, carried, number)[plan.row]
                if latents:
                    latents.put(number, target)
            chunk = self._frames(target, piece, plan, done - start, min(lie.reach, plan.num_frames - start))
            yield chunk
            done += chunk.shape[1]
            tail = (chunk if tail is None else torch.cat([tail, chunk], 1))[:, -lie.overlap :]
            carried = None if self.grid.joins else target[:, lie.stride : lie.reach]

    def _ahead(self, plans: Sequence[Plan], latents: Sequence[Latents]) -> None:
        """Makes the targets of clips that are made at once, unless all of them are there."""
        if len(plans) > 1 and any(one.get(0) is None for one in latents):
            given = Rolling(places(plans[0], self.read, self.rate(plans[0].fps)))
            piece = Piece.of(given.window(0, self.task.shape[1]), self.task.shape)
            for one, target in zip(latents, self._targets(plans, piece, None, 0), strict=True):
                one.put(0, target)

    @torch.no_grad()
    def _targets(self, plans: Sequence[Plan], piece: Piece, carried: Tensor | None, window: int) -> Tensor:
        """What the generator makes of one window of several clips, ``(B, C', T', H', W')``; all have ``piece`` given."""
        first = plans[0]

        def batch(texts: Sequence[str]) -> Batch:
            return self._collate([Sample("prompt", text=text or None) for text in texts]).to(self.device)

        with runtime.autocast(first.precision, self.device):
            known, start = self._given(first, piece, carried, len(plans))
            if known is not None and known.mask.all():
                return known.target
            return self.task.sample(
                batch([plan.prompt for plan in plans]),
                rng=[_rng(plan, window) for plan in plans],
                steps=first.steps,
                guidance=first.guidance,
                known=known,
                start=start,
                negative=batch([plan.negative for plan in plans]) if first.negative else None,
            )

    def _given(self, plan: Plan, piece: Piece, carried: Tensor | None, rows: int) -> tuple[Known | None, Start | None]:
        """What is given of a window, in the codec's space, for every row of a batch."""
        if not piece.shown and carried is None:
            return None, None
        if piece.shown:
            target = self.task.codec.encode(piece.frames[None].to(self.device))
            mask = self.grid.known(piece.stays[None]).to(self.device)
        else:
            assert carried is not None
            target = carried.new_zeros(1, *self.grid.target).to(self.device)
            mask = torch.zeros(1, 1, *self.grid.target[1:], dtype=torch.bool, device=self.device)
        start = None if plan.strength is None else Start(target.expand(rows, -1, -1, -1, -1), plan.strength)
        if carried is not None:
            target = torch.cat([carried[None].to(target), target[:, :, carried.shape[1] :]], 2)
            mask[:, :, : carried.shape[1]] = True
        if not mask.any():
            if plan.mask is not None and start is None:
                raise DataError(
                    f"mask: {plan.mask.path} leaves no whole cell of the codec, so nothing of the video is known"
                )
            return None, start
        whole = mask.flatten(3).all(3)[:, 0]
        if bool((whole[:, None, :, None, None] == mask).all()):
            mask = whole
        mask = mask.expand(rows, *mask.shape[1:])
        return Known(target.expand(rows, -1, -1, -1, -1), mask, self.pace(plan)), start

    def _frames(self, target: Tensor, piece: Piece, plan: Plan, first: int, stop: int) -> Tensor:
        """Frames ``first`` to ``stop - 1`` of a window, decoded; what is given stands in them as it was given."""
        target = target.to(self.device)[None]
        with runtime.autocast(plan.precision, self.device):
            if self.grid.joins:
                frames = self.task.decode(target)[0, :, first:stop]
            else:
                frames = self.task.decode(target[:, :, first:stop])[0]
        stays = piece.stays[first:stop]
        frames = frames.float().cpu()
        return torch.where(stays, piece.frames[:, first:stop], frames) if stays.any() else frames


class Stream:
    """A clip that is made while it is read or written, window by window, in memory that does not grow with its length.

    Example:
        >>> from kinetext import Pipeline, Request                                # doctest: +SKIP
        >>> Pipeline.load("digits").stream("数字3上下移动", Request(seconds=60)).save("long.mp4")  # doctest: +SKIP
    """

    def __init__(self, maker: Maker, plan: Plan) -> None:
        self._maker, self.plan = maker, plan
        self.prompt, self.fps, self.num_frames = plan.prompt, plan.fps, plan.num_frames

    @property
    def provenance(self) -> dict[str, Any]:
        """All that making it again takes."""
        return self._maker.provenance(self.plan)

    def __iter__(self) -> Iterator[Tensor]:
        """Its frames, ``(C, T, H, W)`` float32 in [-1, 1], some at a time; every time anew."""
        return self._maker.chunks(self.plan)

    def save(self, path: Path | str, progress: Progress | None = None) -> None:
        """Writes an mp4, as ``Pipeline.write`` does."""
        self._maker.save([self.plan], [Path(path)], progress)


def machine(device: torch.device) -> dict[str, str]:
    """What of the machine a result's last bits hang on."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else runtime.cpu_name()
    return {"torch": torch.__version__, "device": device.type, "processor": processor or platform.machine()}


def _check_paths(plans: Sequence[Plan], paths: Sequence[Path]) -> None:
    """Refuses to write over a file that a clip is made from."""
    sources = {Path(file.path).resolve(): name for plan in plans for name, file in plan.files().items()}
    for path in paths:
        if (name := sources.get(path.resolve())) is not None:
            raise DataError(
                f"out: {path} is what the clip is made from ({name}), and would be lost; expected another name"
            )


def _groups(plans: Sequence[Plan]) -> Iterator[Sequence[Plan]]:
    """Clips that are made at once stand side by side in ``plans``; one that is alone is made alone."""
    number = 0
    while number < len(plans):
        group = plans[number : number + plans[number].batch]
        if [plan.row for plan in group] != list(range(plans[number].batch)):
            group = group[:1]
        yield group
        number += len(group)


def _rng(plan: Plan, window: int) -> torch.Generator:
    """The noise of a window: a pure function of (seed, clip, window)."""
    if window == 0:
        return runtime.rng(plan.seed, "clip", plan.index)
    return runtime.rng(plan.seed, "clip", plan.index, "window", window)
