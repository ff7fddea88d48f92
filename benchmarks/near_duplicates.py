"""How many copies the doctor finds that were coded anew, resized or brightened, and how many distinct clips it takes for copies.

python benchmarks/near_duplicates.py ../shared/data/falls ../shared/data/ut_interaction --every 3

For every folder: all clips against each other (pairs that are told are listed), then a copy of every n-th clip, made by the
program ffmpeg, against all of them. The numbers stand in docs/doctor.md.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from kinetext import manifest, video
from kinetext.doctor.duplicates import pairs_alike
from kinetext.doctor.looking import SIDE, Look, look

EVEN = "scale=trunc(iw/2)*2:trunc(ih/2)*2"
WAYS = {
    "crf 30": (EVEN, "30"),
    "crf 36": (EVEN, "36"),
    "half the size, crf 28": ("scale=trunc(iw/4)*2:trunc(ih/4)*2", "28"),
    "half the size, crf 36": ("scale=trunc(iw/4)*2:trunc(ih/4)*2", "36"),
    "1.5 times the size, crf 24": ("scale=trunc(iw*0.75)*2:trunc(ih*0.75)*2", "24"),
    "brighter, more contrast": (f"{EVEN},eq=brightness=0.06:contrast=1.15", "24"),
}


def looked(path: Path) -> Look:
    info = video.probe(path)
    return look(video.stream(path, size=SIDE, fit="squash"), info.num_frames, info.width / info.height)


def measure(root: Path, every: int) -> None:
    files = sorted({row.file for row in manifest.load(root, whole=False).rows if row.file})
    looks = [looked(root / file) for file in files]
    told = pairs_alike(looks)
    print(
        f"{root.name}: {len(files)} clips, {len(told)} pairs told: {[(files[a], files[b]) for a, b in told]}",
        flush=True,
    )
    chosen = range(0, len(files), every)
    for name, (scale, quality) in WAYS.items():
        copies = [copied(root / files[place], scale, quality) for place in chosen]
        pairs = set(pairs_alike([*looks, *copies])) - set(told)
        right = {(place, len(files) + copy) for copy, place in enumerate(chosen)}
        print(
            f"  {name}: {len(right & pairs)} of {len(right)} copies found, {len(pairs - right)} other pairs", flush=True
        )


def copied(path: Path, scale: str, quality: str) -> Look:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.mp4"
        options = ["-vf", scale, "-crf", quality, "-preset", "fast", "-pix_fmt", "yuv420p"]
        subprocess.run(["ffmpeg", "-loglevel", "error", "-i", str(path), *options, str(copy)], check=True)
        return looked(copy)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("folders", nargs="+", type=Path)
    asked.add_argument("--every", type=int, default=3)
    given = asked.parse_args()
    for folder in given.folders:
        measure(folder, given.every)
