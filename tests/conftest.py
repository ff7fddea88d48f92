"""Tiny runs, trained once a session for two steps, that the tests of finished runs share. Never change them: copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

DATA = """
[data]
name = "digits"
clips = 24

[train]
steps = 2
batch = 2
precision = "fp32"
log_every = 1

[evaluate]
samples = 6
batch = 4
"""
TEXT = '[encoders.text]\nname = "transformer"\ndim = 16\ndepth = 1\n'
VIDEO = '[encoders.video]\nname = "frame_cnn"\ndim = 16\nwidth = 4\ndepth = 1\n'
MAKER = f"""
[task]
name = "text_to_video"
steps = 2

{TEXT}
[codec]
name = "autoencoder"
width = 8

[generator]
name = "flow"
dim = 32
depth = 1
heads = 2
{DATA}"""
READER = f'[task]\nname = "classification"\n\n{VIDEO}{DATA}'
BOTH = f'[task]\nname = "classification"\n\n{TEXT}\n{VIDEO}\n[fusion]\nname = "concat"\n{DATA}'


@dataclass(frozen=True)
class TinyRuns:
    """Run folders: text to video; video to labels; video, text or both to labels."""

    maker: Path
    reader: Path
    both: Path


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    from kinetext import train
    from kinetext.config import Recipe

    folder = tmp_path_factory.mktemp("runs")
    made = {
        name: train.start(Recipe.parse(text), folder / name, quiet=True).path
        for name, text in {"maker": MAKER, "reader": READER, "both": BOTH}.items()
    }
    return TinyRuns(**made)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen encoders keep what they make in the test's own folder."""
    monkeypatch.setenv("KINETEXT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Eight clips of four people; the last row is a text alone."""
    import numpy as np
    import torch

    from kinetext import video

    folder = tmp_path / "clips"
    folder.mkdir()
    rows = ["file_name,text,shade,score,group,place"]
    for i in range(8):
        video.write(folder / f"{i}.mp4", torch.full((3, 4, 32, 32), i / 4 - 1), fps=8.0)
        rows += [f"{i}.mp4,clip number {i},{'dark' if i % 2 else 'light'},{i / 2},person {i // 2},{i}"]
    rows += [",a text alone,dark,1.5,person 3,8"]
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")
    rng = np.random.default_rng(0)
    np.savez(folder / "vectors.npz", words=rng.normal(size=(9, 6)), faces=rng.normal(size=(9, 3, 5)))
    return folder
