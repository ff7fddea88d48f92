"""Clips a second into training batches: kinetext's folder, shards and cache beside the loaders that others use.

    python benchmarks/loader.py                      # 64 clips that are made first, some 6 minutes
    python benchmarks/loader.py --root DIR           # a folder of your own with a table
    python benchmarks/loader.py --rounds 1 --clips 32

Batches of 16 clips of 16 frames, spread over the whole clip, its middle square cut and resized to 112 pixels, float32. The
clips that are made are 640x360, 5 to 10 s at 30 frames a second, H.264 with a key frame every 250. Ours are batches of
``train_loader``, shuffled; the others a ``DataLoader`` over torchcodec, and over Hugging Face ``datasets`` with a Video
feature, which decodes by torchcodec. All take turns in one process, each starting its own workers, and its start counts;
the median of the rounds stands in the table. One thread in every process.

The second epoch is the mean of the eight that follow the first, from the clips that the loader kept in memory. Where
``ffmpeg`` is missing, ``--root`` is needed; a loader that is not installed is left out and said to be.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from kinetext import manifest, runtime
from kinetext.apps.packing import Packing, pack
from kinetext.datasets.folder import Folder
from kinetext.datasets.loader import Collate, train_loader
from kinetext.datasets.shards import Shards
from kinetext.interfaces import Dataset as Samples

FRAMES, SIZE, BATCH = 16, 112, 16
WORKERS = (0, 1, 2)
LATER = 8  # epochs from the cache
Measured = dict[tuple[str, int], list[float]]  # (loader, workers) -> clips a second of every round
LIMITS = (("packed shards", "folder", 5.0), ("folder, later epochs", "folder, first epoch", 10.0))
SCENES = (
    "testsrc2=s=640x360:r=30:d={d}[a];mandelbrot=s=640x360:r=30:start_scale={s}[b];[a][b]blend=all_mode=average:shortest=1",
    "mandelbrot=s=640x360:r=30:start_scale={s}:end_scale=0.01",
    "testsrc2=s=640x360:r=30,rotate=a=t*{s}",
    "life=s=160x90:r=30:mold=10:seed={n}:life_color=#C83232:death_color=#3264C8,scale=640:360",
)


def made(folder: Path, clips: int) -> Path:
    """A folder of clips that look a little like real ones: shapes and fine detail that move, with noise over them."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(0)
    rows = [("file_name", "text", "split")]
    for number in range(clips):
        seconds, scale = round(dice.uniform(5, 10), 2), round(dice.uniform(0.5, 3), 2)
        scene = SCENES[number % len(SCENES)].format(d=seconds, s=scale, n=number + 1)
        path = folder / f"{number:04}.mp4"
        rows.append((path.name, f"clip {number}", "train"))
        if path.exists():
            continue
        graph = f"{scene},noise=alls=6:allf=t,format=yuv420p"
        codec = "-c:v libx264 -preset veryfast -crf 23 -g 250"
        fresh = folder / "fresh.mp4"
        command = f"ffmpeg -v error -y -filter_complex {graph} -t {seconds} {codec} {fresh}"
        subprocess.run(command.split(), check=True)
        fresh.rename(path)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


class Torchcodec(Dataset[Tensor]):
    """What a user of torchcodec writes."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        from torchcodec.decoders import VideoDecoder

        return clip_of(VideoDecoder(self.files[index]))


class HuggingFace(Dataset[Tensor]):
    """What a user of ``datasets`` writes: a column with a Video feature, which gives decoders of torchcodec."""

    def __init__(self, files: list[Path]) -> None:
        import datasets

        column = datasets.Dataset.from_dict({"video": [str(file) for file in files]})
        self.rows = column.cast_column("video", datasets.Video())

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return clip_of(self.rows[index]["video"])


def clip_of(decoder: Any) -> Tensor:
    """(C, T, H, W) in [-1, 1]: 16 frames in the middle of 16 parts, their middle square, resized."""
    total = decoder.metadata.num_frames
    frames = decoder.get_frames_at([(2 * i + 1) * total // (2 * FRAMES) for i in range(FRAMES)]).data
    side = min(frames.shape[2:])
    square = transforms.resize(transforms.center_crop(frames, [side, side]), [SIZE, SIZE], antialias=True)
    return (square.float() / 127.5 - 1).permute(1, 0, 2, 3)


def ours(data: Samples, workers: int) -> Iterator[Tensor]:
    """Endless batches as a training gets them."""
    for batch in train_loader(data, Collate(None, (), data.video_shape), batch=BATCH, seed=0, workers=workers):
        yield batch.video


def theirs(data: Dataset[Tensor], workers: int) -> Iterator[Tensor]:
    """Endless batches of a plain loader."""
    while True:
        yield from DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True)


def timed(batches: Iterator[Tensor], count: int) -> float:
    """Clips a second of so many batches, the start of workers included."""
    begun = time.perf_counter()
    for batch in islice(batches, count):
        assert batch.shape == (BATCH, 3, FRAMES, SIZE, SIZE) and batch.dtype == torch.float32
    return count * BATCH / (time.perf_counter() - begun)


def a_round(root: Path, packs: dict[str, Path], found: Measured) -> None:
    """Every loader with every number of workers, once."""
    files = [root / row.file for row in manifest.load(root).rows if row.file]
    epoch = len(files) // BATCH
    options = {"num_frames": FRAMES, "size": SIZE}
    for workers in WORKERS:

        def note(name: str, speed: float, workers: int = workers) -> None:
            found.setdefault((name, workers), []).append(speed)
            print(f"  {name}, {workers} workers: {speed:.1f} clips/s", file=sys.stderr, flush=True)

        # workers of a loader live as long as its iterator, so each is dropped before the next one begins
        note("folder", timed(ours(Folder(root=str(root), cache=False, **options), workers), epoch))
        for name, make in (("torchcodec", Torchcodec), ("datasets", HuggingFace)):
            try:
                note(name, timed(theirs(make(files), workers), epoch))
            except ImportError as error:
                print(f"  {name} left out: {error}", file=sys.stderr)
        for name, folder in packs.items():
            note(name, timed(ours(Shards(root=str(folder), cache=False, **options), workers), LATER * epoch))
        batches = ours(Folder(root=str(root), **options), workers)
        note("folder, first epoch", timed(batches, epoch))
        note("folder, later epochs", timed(batches, LATER * epoch))
        del batches


def report(found: Measured) -> bool:
    """Prints the table, and whether it is as fast as it should be."""
    middle = {key: statistics.median(speeds) for key, speeds in found.items()}
    names = list(dict.fromkeys(name for name, _ in middle))
    print(f"| clips a second | {' | '.join(f'{n} workers' for n in WORKERS)} | to folder |")
    print(f"|---|{'---|' * (len(WORKERS) + 1)}")
    for name in names:
        cells = [f"{middle[name, n]:.1f}" for n in WORKERS]
        ratios = [f"{middle[name, n] / middle['folder', n]:.2f}" for n in WORKERS]
        print(f"| {name} | {' | '.join(cells)} | {' / '.join(ratios)} |")
    good = True
    print()
    for fast, slow, limit in LIMITS:
        ratios = [middle[fast, n] / middle[slow, n] for n in WORKERS]
        holds = min(ratios) >= limit
        good &= holds
        said = " / ".join(f"{ratio:.1f}x" for ratio in ratios)
        print(f"{fast} over {slow}: {said}, expected at least {limit:g}x: {'yes' if holds else 'NO'}")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description="Clips a second into training batches.")
    parser.add_argument("--root", type=Path, help="a folder with clips and a table; made if not given")
    parser.add_argument("--clips", type=int, default=64, help="how many to make")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keeps what is made; a temporary folder if not given")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded")
    with tempfile.TemporaryDirectory() as temporary:
        work = asked.work or Path(temporary)
        root = asked.root or made(work / f"clips-{asked.clips}", asked.clips)
        packs = {"packed shards": work / f"jpeg-{root.name}", "packed shards, exact": work / f"exact-{root.name}"}
        begun = time.perf_counter()
        pack(root, packs["packed shards"], Packing(size=SIZE, num_frames=FRAMES), workers=2)
        took = time.perf_counter() - begun
        pack(root, packs["packed shards, exact"], Packing(size=SIZE, num_frames=FRAMES, stored="exact"), workers=2)
        sizes = [sum(path.stat().st_size for path in folder.iterdir()) / 2**20 for folder in (root, *packs.values())]
        found: Measured = {}
        for number in range(asked.rounds):
            print(f"round {number + 1} of {asked.rounds}", file=sys.stderr, flush=True)
            a_round(root, packs, found)
        print(f"{runtime.hardware()}\n")
        good = report(found)
        print(f"folder {sizes[0]:.0f} MiB, packed {sizes[1]:.0f}, exact {sizes[2]:.0f}; packed in {took:.0f} s")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
