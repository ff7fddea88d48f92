"""Every frame of files that are odd, and when it is shown, as FFmpeg's own command line gives them."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kinetext import video
from kinetext.video.frames import timeline

ODD = Path(__file__).parents[3] / "shared" / "data" / "odd_media"
SIDE = 48


def readable() -> list[str]:
    """The files that expected.csv says can be read."""
    if not (ODD / "expected.csv").is_file():
        return []
    with (ODD / "expected.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    damaged = "flagged corrupt"
    return [r["file_name"] for r in rows if r["decoded_pyav18"] not in ("", "0") and damaged not in r["why"]]


@pytest.mark.skipif(not readable(), reason="no ../shared/data/odd_media here")
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
@pytest.mark.parametrize("name", readable())
def test_frames_and_times_are_ffmpegs(name: str) -> None:
    """Upright and mirrored as displayed, edit lists honoured; the command line turns frames by itself."""
    scale = f"scale={SIDE}:{SIDE}:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,showinfo"
    command = ["ffmpeg", "-hide_banner", "-nostats", "-i", str(ODD / name), "-map", "0:v:0", "-vf", scale]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    theirs = np.frombuffer(done.stdout, np.uint8).reshape(-1, SIDE, SIDE, 3).astype(float)
    shown = [float(at) for at in re.findall(rb"n: *\d+ pts: *-?\d+ pts_time:([-\d.]+)", done.stderr)]
    line = timeline(ODD / name)
    clip = video.read_clip(ODD / name, num_frames=len(line), size=SIDE, fit="squash")
    ours = ((clip + 1) * 127.5).round().permute(1, 2, 3, 0).numpy()
    assert len(ours) == len(theirs) == len(shown)
    assert np.abs(ours - theirs).max() <= 3  # their FFmpeg is another release than ours
    assert np.abs(line.times - (np.array(shown) - shown[0])).max() < 2e-3
