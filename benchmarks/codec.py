"""Encoding on a processor: all frames of a batch at once against pieces that fit its cache.

    python benchmarks/codec.py

The shipped codec on 32 clips of 16 frames, in turn; the median of the pairwise ratios.
"""

from __future__ import annotations

import statistics
import time

import torch

from kinetext import assemble, runtime
from kinetext.codecs.autoencoder import Autoencoder


def main() -> None:
    print(runtime.hardware())
    codec = assemble.restore(assemble.open_run("digits")).get_submodule("codec")
    assert isinstance(codec, Autoencoder)
    video = torch.randn(32, 1, 16, 64, 64)
    pairs = []
    with torch.no_grad(), runtime.autocast("auto", torch.device("cpu")):
        for _ in range(8):
            began = time.perf_counter()
            codec.encode(video)
            middle = time.perf_counter()
            frames = video.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            codec.encoder(frames)
            pairs.append((middle - began, time.perf_counter() - middle))
    pieces, whole = (1000 * statistics.median(side) for side in zip(*pairs[2:], strict=True))
    ratio = statistics.median(b / a for a, b in pairs[2:])
    print(f"in pieces {pieces:.0f} ms, at once {whole:.0f} ms, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
