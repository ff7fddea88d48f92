"""Ten thousand opens and reads of small clips: neither memory nor open files may grow.

Clips of every container that is read, one broken among them; each is probed, read in part and streamed. The times of files
are set anew again and again, so that what is remembered of files is exercised, too. Exits with 1 where something grows.

    python benchmarks/soak_reading.py [opens]
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.video.frame import VideoFrame

from kinetext import video

WARM = 0.2  # the share of opens before which growth is not counted: caches fill, allocators settle
# PyAV 18.1 itself loses some 150 bytes a decoder that is opened, two or three times a read
MOST_KIB = 1.0  # a read
KINDS = {
    "mp4": ("libx264", "yuv420p"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "mkv": ("libx264", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
    "gif": ("gif", "rgb8"),
    "apng": ("apng", "rgb24"),
}


def make(folder: Path) -> list[Path]:
    """A clip of each kind, a picture, and a broken clip."""
    pixels = torch.randint(0, 256, (12, 48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = []
    for kind, (codec, pix_fmt) in KINDS.items():
        path = folder / f"clip.{kind}"
        with av.open(str(path), "w", format={"mkv": "matroska"}.get(kind, kind)) as container:
            stream = container.add_stream(codec, rate=Fraction(10))
            stream.height, stream.width, stream.pix_fmt = 48, 64, pix_fmt
            for image in pixels.numpy():
                container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)))
            container.mux(stream.encode())
        made.append(path)
    video.write_png(folder / "picture.png", pixels[:1])
    broken = folder / "broken.mp4"
    broken.write_bytes((folder / "clip.mp4").read_bytes()[:-2000])
    return [*made, folder / "picture.png", broken]


def read(path: Path, number: int) -> None:
    try:
        video.probe(path)
        video.read_clip(path, num_frames=1 + number % 5, size=24, start=0.0 if path.suffix == ".png" else 0.3)
        if number % 7 == 0:
            next(frames := video.stream(path, size=24))
            del frames  # half read
    except video.VideoError:
        if path.stem != "broken":
            raise


def memory() -> float:
    """MiB of this process, without the times of files that are remembered: these are many here, and bounded."""
    video.forget()
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> None:
    opens = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        paths = make(Path(name))
        first, handles = 0.0, 0
        for number in range(opens):
            path = paths[number % len(paths)]
            if number % 3 == 0:
                os.utime(path, ns=(number, number))
            read(path, number)
            if number == int(opens * WARM):
                first, handles = memory(), len(os.listdir("/proc/self/fd"))
            if number % max(1, opens // 5) == 0:
                print(
                    f"{number:6} opens: {memory():7.1f} MiB, {len(os.listdir('/proc/self/fd'))} open files", flush=True
                )
        grown, more = memory() - first, len(os.listdir("/proc/self/fd")) - handles
    took = time.perf_counter() - began
    print(f"{opens} opens in {took:.0f} s: {grown:+.1f} MiB after the first {WARM:.0%}, {more:+d} open files")
    most = 2 + MOST_KIB * opens * (1 - WARM) / 1024
    if grown > most or more:
        sys.exit(f"it grows: expected at most {most:.1f} MiB, and no open file")


if __name__ == "__main__":
    main()
