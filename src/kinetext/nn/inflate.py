"""Kernels for video made from kernels for pictures."""

from __future__ import annotations

from torch import Tensor


def inflate_kernel(kernel: Tensor, frames: int) -> Tensor:
    """A 2-D kernel repeated over time and divided by the number of frames, so that a clip that stands still gives what
    its picture gave (Carreira & Zisserman 2017, section 2.4, "bootstrapping 3D filters from 2D filters").

    Args:
        kernel: ``(O, I, H, W)``.
        frames: how far the result reaches in time, >= 1.

    Returns:
        ``(O, I, frames, H, W)``.

    Example:
        >>> import torch
        >>> inflate_kernel(torch.full((1, 1, 1, 1), 6.0), 3).flatten().tolist()
        [2.0, 2.0, 2.0]
    """
    if frames < 1 or kernel.ndim != 4:
        raise ValueError(f"kernel: {tuple(kernel.shape)} over {frames} frames, expected (O, I, H, W) over >= 1")
    return kernel.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
