"""What a clip of small frames costs to keep and to read, in one form or another: why shards are packed as they are.

    python benchmarks/stored.py                 # half a minute

A clip of 16 frames of 112 pixels, read from 640x360 of ``testsrc2`` over a Mandelbrot zoom with some noise, is written in
every form, then read back into an array of bytes, one thread, the best of 20 times. PSNR is against the frames before
they were written. Needs ffmpeg.
"""

from __future__ import annotations

import io
import subprocess
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kinetext import runtime, video

Pixels = NDArray[np.uint8]
FRAMES, SIZE, TIMES = 16, 112, 20


def frames_of_a_clip() -> Pixels:
    """``(T, H, W, 3)``, as they come from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        draw = (
            "testsrc2=s=640x360:r=30[a];mandelbrot=s=640x360:r=30[b];[a][b]blend=all_mode=average,noise=alls=6:allf=t"
        )
        command = f"ffmpeg -v error -filter_complex {draw},format=yuv420p -t 6 -c:v libx264 -g 250 -crf 23 {path}"
        subprocess.run(command.split(), check=True)
        clip = video.read_clip(path, num_frames=FRAMES, size=SIZE)
    return np.ascontiguousarray(video.to_bytes(clip).permute(1, 2, 3, 0).numpy())


def as_video(frames: Pixels, codec: str, gop: int, **options: str) -> list[bytes]:
    """One mp4; options with "_" for "-"."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        settings = {name.replace("_", "-"): value for name, value in options.items()}
        stream = container.add_stream(codec, rate=Fraction(8), options=settings)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, 0
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return [file.getvalue()]


def from_video(files: list[bytes]) -> Pixels:
    with av.open(io.BytesIO(files[0])) as container:
        container.streams.video[0].thread_type = "NONE"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def as_pictures(frames: Pixels, **options: object) -> list[bytes]:
    """A file for every frame."""
    files = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, **options)  # type: ignore[arg-type]
        files.append(file.getvalue())
    return files


def from_pictures(files: list[bytes]) -> Pixels:
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def as_array(frames: Pixels) -> list[bytes]:
    """The bytes as they are."""
    return [frames.tobytes()]


def from_array(files: list[bytes], shape: tuple[int, ...]) -> Pixels:
    return np.frombuffer(files[0], np.uint8).reshape(shape).copy()


def main() -> None:
    frames = frames_of_a_clip()
    x264 = partial(as_video, codec="libx264", preset="medium", x264_params="no-mbtree=1")
    jpeg = partial(as_pictures, format="JPEG")
    forms: dict[str, tuple[Callable[[Pixels], list[bytes]], Callable[[list[bytes]], Pixels]]] = {
        "H.264, key frames alone, crf 12": (partial(x264, gop=1, crf="12"), from_video),
        "H.264, a key frame every 8, crf 18": (partial(x264, gop=8, crf="18"), from_video),
        "JPEG, quality 90, 4:2:0": (partial(jpeg, quality=90, subsampling=2), from_pictures),
        "JPEG, quality 90, 4:4:4": (partial(jpeg, quality=90, subsampling=0), from_pictures),
        "JPEG, quality 95, 4:4:4": (partial(jpeg, quality=95, subsampling=0), from_pictures),
        "WebP, quality 90": (partial(as_pictures, format="WEBP", quality=90), from_pictures),
        "PNG": (partial(as_pictures, format="PNG"), from_pictures),
        "array": (as_array, partial(from_array, shape=frames.shape)),
    }
    print(f"{runtime.hardware()}\n\n| form | kB a frame | PSNR, dB | ms to read {FRAMES} |\n|---|---|---|---|")
    for name, (write, read) in forms.items():
        files, best = write(frames), float("inf")
        for _ in range(TIMES):
            begun = time.perf_counter()
            found = read(files)
            best = min(best, time.perf_counter() - begun)
        error = float(((frames.astype(np.float64) - found) ** 2).mean())
        psnr = f"{10 * np.log10(255**2 / error):.1f}" if error else "exact"
        print(f"| {name} | {sum(map(len, files)) / len(frames) / 1e3:.1f} | {psnr} | {1e3 * best:.1f} |", flush=True)


if __name__ == "__main__":
    main()
