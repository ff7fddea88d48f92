"""Mutated containers, read for minutes: right frames or one VideoError in time, never anything else.

Seeds are clips of every container that is read (and ../shared/data/odd_media, where it is there). Each mutant has bytes
flipped, cut, moved, repeated or taken from another seed, or the size of a box set to another number. It is read by
``video.isolated``. One that can be read is then read whole in a fork, and held against a plain decode by PyAV, frame by frame and at
frames that are sought. What is found is kept with its seed and number, which make it again. (Atheris can't guide this: it
instruments Python, and the FFmpeg that decodes comes compiled in PyAV's wheel.)

    python benchmarks/fuzz_reading.py [--minutes 5] [--seed 0] [--out fuzz-findings] [--only NUMBER]
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import re
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from kinetext import video
from kinetext.video import VideoError, isolated
from kinetext.video.containers import opened
from kinetext.video.frames import open_file, timeline
from kinetext.video.shaping import Shape, Shaper
from kinetext.video.timeline import Timeline

ODD = Path(__file__).parents[2] / "shared" / "data" / "odd_media"
SECONDS = 10.0  # for one mutant
MOST = 200  # frames that are compared
LARGEST = 300_000  # bytes of a seed
NUMBERS = (0, 1, 2, 7, 8, 9, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
BOXES = re.compile(
    rb"ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|hdlr|minf|stbl|stsd|stts|ctts|stsc|stsz|stco|stss|mdat|moof|trun|tfhd"
    rb"|avcC|colr|RIFF|LIST|avih|strh|strf|idx1|movi|VP8 |VP8L|VP8X|ANIM|ANMF|IHDR|IDAT|acTL|fcTL|fdAT|\x1a\x45\xdf\xa3"
    rb"|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|\xa3|\x21\xf9\x04|\x2c"
)
Mutation = Callable[[bytearray, random.Random, bytes], bytearray]


def seeds(folder: Path) -> list[Path]:
    """A clip for each container, with what makes containers hard: B-frames, uneven times, fragments, edit lists."""
    pixels = torch.randint(0, 256, (6, 6, 8, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frames = torch.cat([pixels, pixels.flip(0)]).repeat_interleave(8, 1).repeat_interleave(8, 2).numpy()
    kinds = {
        "plain.mp4": ("mp4", "libx264", "yuv420p", {}, {"g": "4"}),
        "fragments.mp4": ("mp4", "libx264", "yuv420p", {"movflags": "frag_keyframe+empty_moov"}, {"g": "3"}),
        "clip.mov": ("mov", "mpeg4", "yuv420p", {}, {"g": "5"}),
        "clip.webm": ("webm", "libvpx-vp9", "yuv420p", {}, {"g": "4"}),
        "clip.mkv": ("matroska", "libx264", "yuv420p", {}, {"g": "4"}),
        "clip.avi": ("avi", "mpeg4", "yuv420p", {}, {}),
        "clip.ts": ("mpegts", "libx264", "yuv420p", {}, {"g": "4"}),
        "clip.flv": ("flv", "libx264", "yuv420p", {}, {"g": "4"}),
        "clip.gif": ("gif", "gif", "rgb8", {}, {}),
        "clip.apng": ("apng", "apng", "rgb24", {}, {}),
    }
    for name, (kind, codec, pix_fmt, muxing, coding) in kinds.items():
        with av.open(str(folder / name), "w", format=kind, options=muxing) as container:
            stream = container.add_stream(codec, rate=Fraction(10), options=coding)
            stream.height, stream.width, stream.pix_fmt = 48, 64, pix_fmt
            for number, image in enumerate(frames):
                frame = VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
                frame.pts = (
                    number if kind in ("avi", "apng", "gif") else number + number // 3
                )  # uneven, where it can be
                frame.time_base = Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    stills = [Image.fromarray(image) for image in frames]
    for name in ("clip.webp", "still.webp", "still.png", "still.jpg", "still.bmp"):
        more = {"save_all": True, "append_images": stills[1:], "duration": 100} if name == "clip.webp" else {}
        stills[0].save(folder / name, **more)
    odd = [path for path in sorted(ODD.glob("*")) if path.suffix != ".csv" and path.stat().st_size <= LARGEST]
    return sorted(folder.iterdir()) + odd


def flip(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Some bytes get other values; headers, at either end, more often than the rest."""
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.choice(
            (rng.randrange(len(data)), rng.randrange(min(len(data), 1024)), -1 - rng.randrange(min(len(data), 1024)))
        )
        data[place] = rng.choice((rng.randrange(256), data[place] ^ (1 << rng.randrange(8)), 0, 255))
    return data


def cut(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    return data[: rng.randrange(1, len(data))]


def remove(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 4, 16, 188, 1024))]
    return data


def repeat(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start, length = rng.randrange(len(data)), rng.choice((1, 4, 16, 188, 1024))
    data[start:start] = data[start : start + length] * rng.choice((1, 1, 2, 50))
    return data


def swap(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """Two boxes (or what follows their names) change places."""
    places = [match.start() for match in BOXES.finditer(data)]
    if len(places) < 4:
        return flip(data, rng, other)
    a, b, c, d = sorted(rng.sample(places, 4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def resize(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    """The number before or behind a box's name becomes another."""
    places = [match.start() for match in BOXES.finditer(data)]
    if not places:
        return flip(data, rng, other)
    at, where = rng.choice(places), rng.choice((-4, 4, 8, 12, 16, 20))
    at = max(0, min(len(data) - 4, at + where))
    order = rng.choice(("big", "little"))
    old = int.from_bytes(data[at : at + 4], order)
    number = rng.choice((rng.choice(NUMBERS), old + 1, old - 1, old * 2, old // 2, rng.randrange(1 << 32))) % (1 << 32)
    data[at : at + 4] = number.to_bytes(4, order)
    return data


def splice(data: bytearray, rng: random.Random, other: bytes) -> bytearray:
    start, at = rng.randrange(len(other)), rng.randrange(len(data))
    return data[:at] + other[start : start + rng.choice((16, 256, 4096, len(other)))] + data[at:]


MUTATIONS: tuple[Mutation, ...] = (flip, flip, flip, cut, remove, repeat, swap, resize, resize, resize, splice)


def mutant(paths: list[Path], seed: int, number: int) -> tuple[str, bytes]:
    """Its suffix and bytes: a pure function of the numbers."""
    rng = random.Random(f"{seed} {number}")
    own = [path for path in paths if path.parent != ODD]
    path, other = (rng.choice(own if rng.random() < 0.8 else paths) for _ in range(2))
    data, more = bytearray(path.read_bytes()), other.read_bytes()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if len(data) > 1:
            data = rng.choice(MUTATIONS)(data, rng, more)
    return path.suffix, bytes(data)


def judged(path: Path) -> str:
    """How reading a mutant ends; what begins with "!" must not be."""
    try:
        isolated.call("read_clip", path, {"num_frames": 8, "size": 16}, isolated.Bounds(memory=1024, seconds=SECONDS))
    except VideoError as error:
        return refused(path, str(error))
    except Exception as error:
        return f"! {type(error).__name__} in the parent: {error}"
    return apart(lambda: compared(path))


def refused(path: Path, said: str) -> str:
    for wrong in ("died of", "not read within", "ended by itself", "is no result", "does not answer"):
        if wrong in said:
            return f"! {said.replace(str(path), 'FILE')}"
    if re.search(rf"{re.escape(str(path))}: \w+\(", said):
        return f"! another exception: {said.replace(str(path), 'FILE')}"
    if not said.startswith(str(path)) or "\n" in said:
        return f"! a message that is not one line about the file: {said}"
    return "refused: needs too much memory" if "MiB of memory" in said else "refused"


def apart(check: Callable[[], str]) -> str:
    """What ``check`` says, in a fork that may crash or hang."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = check()
        except BaseException:
            said = f"! {traceback.format_exc()}"
        os.write(writes, said.encode()[:60_000])
        os._exit(0)
    os.close(writes)
    ready = select.select([reads], [], [], 3 * SECONDS)[0]
    if not ready:
        os.kill(pid, signal.SIGKILL)
    said = os.read(reads, 65_536).decode(errors="replace") if ready else "! comparing takes too long"
    os.close(reads)
    _, status = os.waitpid(pid, 0)
    return said or f"! comparing ended with status {status}"


def compared(path: Path) -> str:
    """The frames that the readers give, against those of a plain decode from beginning to end."""
    try:
        info, line = video.probe(path), timeline(path)
        if info.num_frames > MOST or info.width * info.height > 4_000_000:
            return "read, not compared: too long or too large"
        whole = bytes_of(video.read_clip(path, num_frames=len(line), size=32, fit="squash"))
    except VideoError:
        return "refused: in some frames"
    plain = decoded(path)
    if isinstance(plain, str):
        return f"! read, where a plain decode says: {plain}"
    if len(plain) != len(whole):
        return f"! {len(whole)} frames, a plain decode has {len(plain)}"
    worst = np.abs(whole.astype(int) - plain).max()
    if worst:
        return f"! frames differ from a plain decode by up to {worst}"
    if line.duration:
        for number in sorted({0, len(line) // 3, len(line) - 1}, reverse=True):
            until = line.times[number + 1] if number + 1 < len(line) else None
            if (line.duration if until is None else until) - line.times[number] < 0.005:
                continue  # within the slack of times in tables
            try:
                one = video.read_clip(
                    path, num_frames=1, size=32, fit="squash", start=float(line.times[number]), end=until
                )
            except VideoError as error:
                return f"! frame {number} alone: {error}"
            if (bytes_of(one)[0] != whole[number]).any():
                return f"! frame {number}, sought, is another than in a row"
    return "read, the same frames"


def bytes_of(clip: torch.Tensor) -> np.ndarray:
    return video.to_bytes(clip).permute(1, 2, 3, 0).numpy()


def plainly(container: InputContainer, stream: VideoStream, line: Timeline) -> Iterator[VideoFrame]:
    """Frames in the order of decoding; of a transport stream those before the first that is whole, which may be cut, don't count."""
    first = int(line.pts[0]) if line.header.container == "mpegts" and line.pts.size else None
    for packet in container.demux(stream):
        try:
            yield from (frame for frame in packet.decode() if first is None or frame.pts is None or frame.pts >= first)
        except av.FFmpegError:
            if first is None or packet.pts is None or packet.pts >= first:
                raise


def decoded(path: Path) -> np.ndarray | str:
    """Every frame by a plain decode, in the order of their times."""
    line, found = timeline(path), []
    made = Shaper(path, line, Shape(32, "squash"))
    if line.header.container == "webp":
        with open_file(path) as file:  # Pillow is what reads it
            return np.stack([made(frame) for _, frame in file.frames(range(len(line)))]).astype(int)
    try:
        with opened(path) as (container, stream):
            stream.thread_type = "NONE"
            frames = plainly(container, stream, line)
            for frame in (
                frames if line.duration else itertools.islice(frames, 1)
            ):  # pictures may have bytes behind them
                if frame.is_corrupt:
                    return f"frame {len(found)} is damaged"
                found.append(made(frame))
    except (av.FFmpegError, VideoError) as error:
        return str(error)
    return np.stack(found).astype(int) if found else "no frames"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one mutant, kept")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began, counts, wrong = time.monotonic(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as name:
        paths = seeds(Path(name))
        for path in paths:
            if path.parent != ODD and not (said := judged(path)).startswith("read"):
                print(f"seed {path.name}: {said}")
        for number in itertools.count() if asked.only is None else [asked.only]:
            if asked.only is None and time.monotonic() - began > 60 * asked.minutes:
                break
            suffix, data = mutant(paths, asked.seed, number)
            path = Path(name) / f"mutant{suffix}"
            path.write_bytes(data)
            said = judged(path)
            counts[said.split(":")[0] if said.startswith("!") else said] += 1
            if said.startswith("!") or asked.only is not None:
                wrong += said.startswith("!")
                asked.out.mkdir(exist_ok=True)
                kept = asked.out / f"{asked.seed}-{number}{suffix}"
                kept.write_bytes(data)
                kept.with_suffix(".json").write_text(json.dumps({"seed": asked.seed, "number": number, "said": said}))
                print(f"{kept}: {said}", flush=True)
            path.unlink()
    print(f"{sum(counts.values())} mutants of {len(paths)} seeds in {time.monotonic() - began:.0f} s")
    for said, count in counts.most_common():
        print(f"{count:7}  {said}")
    if wrong:
        sys.exit(f"{wrong} findings are in {asked.out}")


if __name__ == "__main__":
    main()
