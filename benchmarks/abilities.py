"""What a model of the digits world makes between frames, after them, and of a clip that it is to change.

    python benchmarks/abilities.py interpolation [MODEL] [SECTION.KEY=VALUE ...] --clips 100 --factor 2
    python benchmarks/abilities.py extension [MODEL] [SECTION.KEY=VALUE ...] --clips 20 --frames 128 --history 8 --plot windows.png
    python benchmarks/abilities.py change [MODEL] [SECTION.KEY=VALUE ...] --clips 40

MODEL is a run folder or a shipped model (digits). Clips and captions are held-out ones of its own data, changed as for
`kinetext evaluate`. ``digits-reader``, which took no part in any training of a maker, reads the results.

interpolation: every ``--factor``-th frame of real clips is given as a file; the frames in between are made, and compared with the real
ones (PSNR of a clip's made frames, the mean over clips and its standard error), beside linear blending of the two given frames and
repeating the one before. The reader reads the frames in between alone. Of clips that have one digit each, the second judge of the evolution
benchmark, which has no neural network, follows the digit through given and made frames: the share that it reads right, and the share
that is right and where the digit goes on smoothly.
extension: clips of ``--frames`` frames; the share that is read as asked for in each 16 frames; how much brighter the change from
frame to frame is at the borders of windows than inside; and the highest memory of a process that makes 16 frames, and ``--frames``.
change: clips of one caption changed to another of the same motion, at several strengths: the share read as the new one.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evolution_worlds import WORLDS
from kinetext import Pipeline, Request, assemble, video
from kinetext.config import Recipe
from kinetext.datasets.digits import objects_of
from kinetext.interfaces import Dataset
from kinetext.runtime import hardware
from kinetext.types import Sample

READER = "digits-reader"
WINDOW = 16  # frames that are read together


class Judge:
    """Reads clips of any length."""

    def __init__(self) -> None:
        self.pipeline = Pipeline.load(READER)
        shape = self.pipeline.run.meta.video_shape
        assert shape is not None
        self.frames = shape[1]

    def right(self, clip: Tensor, wanted: tuple[str, ...]) -> bool:
        """Whether ``clip (C, T, H, W)`` is read as showing exactly ``wanted``."""
        total = clip.shape[1]
        numbers = [(2 * i + 1) * total // (2 * self.frames) for i in range(self.frames)]  # as read_clip picks them
        (answer,) = self.pipeline.answers([Sample("clip", video=clip[:, numbers].contiguous())])
        shares = answer["objects"]
        assert isinstance(shares, dict)
        return {name for name, p in shares.items() if p >= 0.5} == set(wanted)


def samples(data: Dataset, count: int) -> Iterator[tuple[Tensor, str, tuple[str, ...]]]:
    """Held-out clips, their captions and what these name."""
    for index in range(min(count, len(data))):
        sample = data[index]
        assert sample.video is not None and sample.text is not None
        wanted = objects_of(sample.text)
        assert wanted is not None
        yield sample.video, sample.text, wanted


def interpolation(maker: Pipeline, data: Dataset, args: argparse.Namespace) -> None:
    judge, factor = Judge(), args.factor
    psnr: dict[str, list[float]] = {}
    right: dict[str, int] = {}
    whole: dict[str, list[Tensor]] = {}
    shown: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        for real, text, wanted in samples(data, args.clips):
            given = real[:, ::factor]
            total = factor * (given.shape[1] - 1) + 1
            between = [i for i in range(total) if i % factor]
            path = Path(folder) / "given.mp4"
            video.write(path, given, fps=maker.run.meta.fps / factor, crf=0)
            stream = maker.interpolate(path, factor=factor, prompt=text, steps=args.steps, guidance=args.guidance)
            share = torch.tensor([i % factor / factor for i in between])[:, None, None]
            before, after = given[:, [i // factor for i in between]], given[:, [i // factor + 1 for i in between]]
            found = {
                maker.name: torch.cat(list(stream), 1)[:, between],
                "linear blending": (1 - share) * before + share * after,
                "frame repetition": before,
                "real frames": real[:, between],
            }
            for name, frames in found.items():
                error = float((frames - real[:, between]).square().mean()) / 4  # of values in [0, 1]
                psnr.setdefault(name, []).append(-10 * torch.tensor(error).log10().item())
                right[name] = right.get(name, 0) + judge.right(frames, wanted)
                both = real[:, :total].clone()
                both[:, between] = frames
                whole.setdefault(name, []).append(video.to_bytes(both))
            shown.append(Sample(text, labels={"objects": wanted}))
    single = all(len(sample.labels["objects"]) == 1 for sample in shown)
    tracks = _tracks(assemble.with_data(maker.run.recipe, args.changes), whole, shown) if single else {}
    count = len(next(iter(psnr.values())))
    print(f"{count} held-out clips, factor {factor}\n")
    print(
        "| frames in between | PSNR, dB | read right | second judge: right | right and smooth |\n|---|---|---|---|---|"
    )
    for name, values in psnr.items():
        x = torch.tensor(values)
        mean = "" if x.isinf().any() else f"{x.mean():.2f} ± {x.std() / count**0.5:.2f}"
        print(f"| {name} | {mean} | {right[name] / count:.1%} | {tracks.get(name, ' | ')} |")


def _tracks(recipe: Recipe, whole: dict[str, list[Tensor]], shown: Sequence[Sample]) -> dict[str, str]:
    """What the second judge says of whole clips with one digit."""
    from evolution_second import DigitsSecond  # not in the process whose memory is measured

    second = DigitsSecond(WORLDS["digits"], recipe)
    found = {}
    for name, clips in whole.items():
        rights, _ = second.rights(torch.stack(clips), shown)
        found[name] = " | ".join(f"{sum(rights[what]) / len(shown):.1%}" for what in ("exact", "exact_and_smooth"))
    return found


def extension(maker: Pipeline, data: Dataset, args: argparse.Namespace) -> None:
    judge, seconds = Judge(), args.frames / maker.run.meta.fps
    right = torch.zeros(args.frames // WINDOW)
    borders, inside = [], []
    count = 0
    for number, (_, text, wanted) in enumerate(samples(data, args.clips)):
        request = Request(
            seed=number, seconds=seconds, history=args.history, steps=args.steps, guidance=args.guidance
        )  # fmt: skip
        chunks = list(maker.stream(text, request))
        clip = torch.cat(chunks, 1)
        right += torch.tensor([float(judge.right(part, wanted)) for part in clip.split(WINDOW, 1)[: len(right)]])
        moved = (clip[:, 1:] - clip[:, :-1]).abs().mean((0, 2, 3))
        ends = torch.tensor([c.shape[1] for c in chunks]).cumsum(0)[:-1] - 1
        at = torch.zeros_like(moved, dtype=torch.bool)
        at[ends] = True
        borders.append(moved[at].mean())
        inside.append(moved[~at].mean())
        count += 1
    shares = (right / count).tolist()
    print(f"{count} held-out captions, {args.frames} frames, history {args.history or 'half'}\n")
    print("| frames | " + " | ".join(f"{i * WINDOW}-{(i + 1) * WINDOW - 1}" for i in range(len(shares))) + " |")
    print("|---" * (len(shares) + 1) + "|")
    print("| read right | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    print(f"\nchange from frame to frame, borders of windows / inside: {sum(borders) / sum(inside):.3f}")
    peaks = [_peak(args, frames) for frames in (WINDOW, args.frames)]
    print(f"highest memory: {WINDOW} frames {peaks[0]:.0f} MiB, {args.frames} frames {peaks[1]:.0f} MiB")
    if args.plot:
        _plot(args.plot, shares, maker.name)


def change(maker: Pipeline, data: Dataset, args: argparse.Namespace) -> None:
    judge = Judge()
    strengths = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    new, old, apart = (dict.fromkeys(strengths, 0.0) for _ in range(3))
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        for real, _, wanted in samples(data, args.clips):
            path = Path(folder) / "clip.mp4"
            video.write(path, real, fps=maker.run.meta.fps, crf=0)
            other = tuple(f"{(int(name[0]) + 5) % 10}{name[1:]}" for name in wanted)
            prompt = " and ".join(f"the digit {name[0]} is moving {name[2:]}" for name in other)
            for strength in strengths:
                request = Request(
                    seed=count, change=path, strength=strength, steps=args.steps, guidance=args.guidance
                )  # fmt: skip
                clip = torch.cat(list(maker.stream(prompt, request)), 1)
                new[strength] += judge.right(clip, other)
                old[strength] += judge.right(clip, wanted)
                apart[strength] += float((clip - real).abs().mean())
            count += 1
    print(
        f"{count} held-out clips\n\n| strength | read as asked for | read as before | mean distance |\n|---|---|---|---|"
    )
    for s in strengths:
        print(f"| {s} | {new[s] / count:.0%} | {old[s] / count:.0%} | {apart[s] / count:.4f} |")


def memory(maker: Pipeline, data: Dataset, args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seconds = args.frames / maker.run.meta.fps
        history = args.history if args.frames > (maker.run.meta.video_shape or (0, 0))[1] else None
        request = Request(seconds=seconds, steps=args.steps, guidance=args.guidance, history=history)
        maker.write(next(samples(data, 1))[1], [Path(folder) / "clip.mp4"], request)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _peak(args: argparse.Namespace, frames: int) -> float:
    """MiB of a process of its own that makes so many frames."""
    command = [sys.executable, __file__, "memory", args.model, *args.changes, "--frames", str(frames)]
    for name in ("history", "steps", "guidance"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _plot(path: str, shares: list[float], name: str) -> None:
    try:
        from matplotlib import pyplot
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    axes.plot([(i + 0.5) * WINDOW for i in range(len(shares))], [100 * share for share in shares], marker="o")
    axes.set(xlabel="frame", ylabel="read right, %", ylim=(0, 103), title=f"{name}: 16 frames at a time")
    figure.savefig(path, dpi=150)
    print(f"plot: {path}")


PARTS: dict[str, Callable[[Pipeline, Dataset, argparse.Namespace], None]] = {
    "interpolation": interpolation, "extension": extension, "change": change, "memory": memory,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("changes", nargs="*", metavar="SECTION.KEY=VALUE")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--history", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--plot")
    args = parser.parse_args()
    maker = Pipeline.load(args.model)
    recipe = assemble.with_data(maker.run.recipe, args.changes)
    if args.part != "memory":
        print(f"{hardware()}\n{args.model}: ", end="")
    PARTS[args.part](maker, assemble.dataset(recipe, "val"), args)


if __name__ == "__main__":
    main()
