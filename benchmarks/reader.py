"""How fast files become frames, beside the readers that others use: one run, one core, ratios.

    python benchmarks/reader.py                     # every cell, an hour or more
    python benchmarks/reader.py --only 480 --repeats 2

Each cell is a file (240, 480 or 1080 lines; H.264, H.265 or VP9; a key frame every 12 or 250 frames; 10 s at 30 frames a
second), what is read of it (16 frames spread over it, 16 in a row from its middle, all 300) and the side of the square
that they are cut and resized to. All readers run in this process, pinned to one core with one thread, taking turns; each
opens the file anew, and the least processor time of the repeats counts; where kinetext and the best peer are within 3 %,
they take up to four turns. ``ffmpeg`` runs as the command that it is, its start included,
and decodes 16 spread frames as the others would without an index: all there is up to the last.

Needs ffmpeg, torchcodec, opencv-python-headless and decord; a reader that is not installed is left out and said to be.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kinetext import runtime, video

Pixels = NDArray[np.uint8]  # (N, size, size, 3)
Read = Callable[[Path, list[int], int, int], Pixels]  # file, frame numbers, lines of the file, side -> frames

FRAMES, RATE = 300, 30
CLOSE, CLOSE_TURNS = 0.03, 4  # how near readers are whose race goes on, and for how many turns
SIZES = {240: "426x240", 480: "854x480", 1080: "1920x1080"}
CODECS = {
    "h264": ("mp4", "-c:v libx264 -preset medium -crf 23 -g {gop}"),
    "h265": ("mp4", "-c:v libx265 -preset fast -crf 26 -x265-params log-level=error:keyint={gop}"),
    "vp9": ("webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 6 -crf 33 -b:v 0 -g {gop}"),
}
GOPS = (12, 250)
WANTED = {
    "16 uniform": [(2 * i + 1) * FRAMES // 32 for i in range(16)],
    "16 dense": list(range(FRAMES // 2, FRAMES // 2 + 16)),
    "whole": list(range(FRAMES)),
}


@dataclass(frozen=True)
class Cell:
    """One measurement: what is read, and how."""

    codec: str
    lines: int
    gop: int
    wanted: str
    size: int

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{self.codec}_{self.lines}_g{self.gop}.{CODECS[self.codec][0]}"


def made(folder: Path, cell: Cell) -> Path:
    """The file of a cell; a zoom into the Mandelbrot set, a test picture and noise, one over the other."""
    path = folder / cell.name
    if path.exists():
        return path
    side = SIZES[cell.lines]
    draw = "[1:v]format=yuv420p[a];[0:v][a]blend=all_mode=average,noise=alls=6:allf=t,format=yuv420p"
    sources = f"-f lavfi -i testsrc2=s={side}:r={RATE} -f lavfi -i mandelbrot=s={side}:r={RATE}:end_scale=0.01"
    codec = CODECS[cell.codec][1].format(gop=cell.gop)
    fresh = path.with_name(f"fresh.{path.suffix[1:]}")
    command = f"ffmpeg -v error -y {sources} -filter_complex {draw} -frames:v {FRAMES} {codec} {fresh}"
    subprocess.run(command.split(), check=True)
    fresh.rename(path)
    return path


def by_kinetext(path: Path, numbers: list[int], lines: int, size: int, decoder: video.Decoder = "pyav") -> Pixels:
    video.forget()  # what is known of the file from the turn before
    with video.VideoReader(path, size=size, threads=1, decoder=decoder) as reader:
        return reader.frames_at(numbers).pixels.numpy()


def by_torchcodec(path: Path, numbers: list[int], lines: int, size: int) -> Pixels:
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    transforms = [CenterCrop((lines, lines)), Resize((size, size))]
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, transforms=transforms)
    return decoder.get_frames_at(numbers).data.numpy()


def by_decord(path: Path, numbers: list[int], lines: int, size: int) -> Pixels:
    decord = importlib.import_module("decord")  # dead, and imported nowhere else

    wide = round(size * 16 / 9)
    reader = decord.VideoReader(str(path), width=wide, height=size, num_threads=1)
    left = (wide - size) // 2
    return reader.get_batch(numbers).asnumpy()[:, :, left : left + size]


def by_opencv(path: Path, numbers: list[int], lines: int, size: int) -> Pixels:
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if numbers[-1] - numbers[0] < len(numbers):
        capture.set(cv2.CAP_PROP_POS_FRAMES, numbers[0])
        numbers = [number - numbers[0] for number in numbers]
    found, at = [], -1
    for number in numbers:
        while at < number:
            capture.grab()
            at += 1
        _, image = capture.retrieve()
        left = (image.shape[1] - lines) // 2
        square = cv2.resize(image[:, left : left + lines], (size, size), interpolation=cv2.INTER_AREA)
        found.append(cv2.cvtColor(square, cv2.COLOR_BGR2RGB))
    return np.stack(found)


def by_naive_pyav(path: Path, numbers: list[int], lines: int, size: int) -> Pixels:
    import av
    from PIL import Image

    wanted, found = set(numbers), []
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                left = (frame.width - lines) // 2
                image = frame.to_image().crop((left, 0, left + lines, lines))
                found.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
            if number >= numbers[-1]:
                break
    return np.stack(found)


def by_ffmpeg(path: Path, numbers: list[int], lines: int, size: int) -> Pixels:
    chosen, seek = "", ""
    if len(numbers) < FRAMES:
        if numbers[-1] - numbers[0] < len(numbers):
            seek = f"-ss {(numbers[0] - 0.5) / RATE:.6f}"
        else:
            chosen = "select=" + "+".join(f"eq(n\\,{number})" for number in numbers) + ","
    command = (
        f"ffmpeg -v error -nostdin -threads 1 {seek} -i {path} -filter_threads 1 -an -fps_mode passthrough "
        f"-vf {chosen}crop=ih:ih,scale={size}:{size} -frames:v {len(numbers)} -f rawvideo -pix_fmt rgb24 pipe:1"
    )
    raw = subprocess.run(command.split(), check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)


READERS: dict[str, tuple[str, Read]] = {
    "kinetext": ("", by_kinetext),
    "kinetext (torchcodec)": ("torchcodec", partial(by_kinetext, decoder="torchcodec")),
    "torchcodec": ("torchcodec", by_torchcodec),
    "decord": ("decord", by_decord),
    "OpenCV": ("cv2", by_opencv),
    "naive PyAV": ("", by_naive_pyav),
    "ffmpeg": ("", by_ffmpeg),
}
PEERS = ("torchcodec", "decord", "OpenCV", "naive PyAV")


def installed() -> dict[str, Read]:
    """The readers that can run here."""
    found = {}
    for name, (needs, read) in READERS.items():
        try:
            if needs:
                __import__(needs)
        except (ImportError, OSError, RuntimeError) as error:
            print(f"{name} is left out: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        found[name] = read
    return found


def worked() -> float:
    """Seconds of processor time of this process and of those it has waited for: what others do on the machine counts less."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measured(cell: Cell, path: Path, readers: dict[str, Read], repeats: int) -> dict[str, float]:
    """Reader -> the least processor time in seconds; readers take turns."""
    numbers = WANTED[cell.wanted]
    best: dict[str, float] = {}
    turns, left = 0, repeats
    while left:
        turns, left = turns + 1, left - 1
        for name, read in readers.items():
            begin = worked()
            frames = read(path, numbers, cell.lines, cell.size)
            took = worked() - begin
            assert frames.shape == (len(numbers), cell.size, cell.size, 3), (name, cell, frames.shape)
            best[name] = min(best.get(name, took), took)
        if not left and turns < CLOSE_TURNS and abs(ahead(best) - 1) < CLOSE:
            readers = {name: read for name, read in readers.items() if name in ("kinetext", *PEERS, "ffmpeg")}
            left = 1
    return best


def ahead(times: dict[str, float]) -> float:
    """How many times as fast as the best peer kinetext is."""
    return min(times[name] for name in PEERS if name in times) / times["kinetext"]


def memory(folder: Path, readers: Sequence[str]) -> dict[str, int]:
    """Reader -> MiB that reading all of a 1080-line file at 224 pixels adds to a process at its peak (300 frames: 43 MiB)."""
    path = made(folder, Cell("h264", 1080, 250, "whole", 224))
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import reader; from pathlib import Path\n"
        "name, path = sys.argv[2], Path(sys.argv[3]); who = resource.RUSAGE_SELF\n"
        "read = reader.READERS[name][1]; read(path, [0], 1080, 224); before = resource.getrusage(who).ru_maxrss\n"
        "read(path, reader.WANTED['whole'], 1080, 224); print((resource.getrusage(who).ru_maxrss - before) // 1024)"
    )
    here = str(Path(__file__).parent)
    run = [sys.executable, "-c", code, here]
    return {
        name: int(subprocess.run([*run, name, str(path)], check=True, capture_output=True, text=True).stdout)
        for name in readers
        if name != "ffmpeg"
    }


def row(cell: Cell, times: dict[str, float]) -> str:
    """A line of the table: milliseconds of each, and how many times as fast kinetext is."""
    peer = min((times[name], name) for name in PEERS if name in times)
    shown = " | ".join(f"{1000 * took:.0f}" for took in times.values())
    ratios = f"**{peer[0] / times['kinetext']:.2f}** ({peer[1]}) | {times['ffmpeg'] / times['kinetext']:.2f}"
    return f"| {cell.codec} {cell.lines}, key {cell.gop} | {cell.wanted} | {cell.size} | {shown} | {ratios} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "kinetext-reader")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="words that a cell's name must have, such as 'h264 1080'")
    parser.add_argument("--without", default="", help="readers to leave out, with commas between")
    parser.add_argument("--json", type=Path, help="where to keep the numbers")
    args = parser.parse_args()
    machine = runtime.hardware()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    readers = {name: read for name, read in installed().items() if name not in args.without.split(",")}
    args.folder.mkdir(exist_ok=True)
    cells = [
        Cell(codec, lines, gop, wanted, size)
        for lines in SIZES
        for codec in CODECS
        for gop in GOPS
        for wanted in WANTED
        for size in (128, 224)
    ]
    cells = [
        c
        for c in cells
        if all(word in f"{c.codec} {c.lines} g{c.gop} {c.wanted} {c.size}" for word in args.only.split())
    ]
    print(f"{machine}; one core, one thread; milliseconds, best of {args.repeats}\n")
    print(f"| file | read | side | {' | '.join(readers)} | times as fast as the best peer | as ffmpeg |")
    print("|---" * (len(readers) + 5) + "|")
    kept = []
    for cell in cells:
        times = measured(cell, made(args.folder, cell), readers, args.repeats)
        kept.append({**vars(cell), **times})
        print(row(cell, times), flush=True)
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1))
    if not args.only:
        print("\n| reader | MiB more at the peak |\n|---|---|")
        for name, size in memory(args.folder, list(readers)).items():
            print(f"| {name} | {size} |")


if __name__ == "__main__":
    main()
