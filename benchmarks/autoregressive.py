"""Tokens a second that the generator autoregressive draws, 256 a clip, of 1,000 ids, and what the memory of keys and
values saves.

python benchmarks/autoregressive.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from kinetext.generators.autoregressive import Autoregressive
from kinetext.types import Features

SHAPE = (1, 16, 4, 4)
TOKENS = 256


def seconds(run: Callable[[], object], times: int = 2) -> float:
    """Of a processor's work, the least of so many runs: other programs take turns with this one."""
    found = []
    for _ in range(times):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = Autoregressive(
        num_frames=16, height=4, width=4, vocab=1000, cond_dim=128, dim=256, depth=6, heads=4, top_p=0.95
    ).eval()
    for batch in (1, 16):
        cond = Features(torch.randn(batch, 24, 128), torch.ones(batch, 24, dtype=torch.bool))
        rng = torch.Generator().manual_seed(0)
        for guidance in (1.0, 1.5):
            draw = partial(generator.sample, (batch, *SHAPE), cond, rng=rng, steps=1, guidance=guidance)
            took = seconds(draw)
            print(f"batch {batch}, guidance {guidance}: {TOKENS * batch / took:.0f} tokens a second, {took:.2f} s")
        ids = torch.zeros(batch, *SHAPE[1:], dtype=torch.int64)
        once = seconds(partial(generator.network, ids, cond))
        # without the memory a token costs a pass over all before it, half of them on the mean
        print(f"batch {batch}, without the memory about {TOKENS * batch / (once * TOKENS / 2):.0f} tokens a second")


if __name__ == "__main__":
    main()
