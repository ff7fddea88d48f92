"""Attention in training on a processor: PyTorch's fused kernel against two products around a softmax.

    python benchmarks/attention.py

Forward and backward in bfloat16, in turn, at the two shapes of the digits recipes; the median of the
pairwise ratios says which is faster where.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.nn.attention import scaled_dot_product
from kinetext.runtime import hardware

SHAPES = {"512 single frames": (512, 4, 16, 40, 64), "32 clips of 16 frames": (32, 4, 256, 280, 64)}


def seconds(attend: Callable[[Tensor, Tensor, Tensor], Tensor], tensors: list[Tensor]) -> float:
    began = time.perf_counter()
    attend(*tensors).sum().backward()
    return time.perf_counter() - began


def main() -> None:
    print(hardware())
    for name, (batch, heads, queries, keys, width) in SHAPES.items():
        lengths = (queries, keys, keys)
        qkv = [torch.randn(batch, heads, n, width, dtype=torch.bfloat16, requires_grad=True) for n in lengths]
        pairs = [
            (
                seconds(F.scaled_dot_product_attention, qkv),
                seconds(lambda q, k, v: scaled_dot_product(q, k, v, None), qkv),
            )
            for _ in range(12)
        ][2:]
        ratio = statistics.median(fused / ours for fused, ours in pairs)
        fused, ours = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
        print(f"{name}: fused {fused:.1f} ms, two products {ours:.1f} ms, fused / two products {ratio:.2f}")


if __name__ == "__main__":
    main()
