"""A weight that rises while a model is trained, where a loss is told no step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ramp(nn.Module):
    """Rises in a straight line from 1 / ``calls`` to 1 over so many training calls, and stays.

    It counts its calls in training mode in a buffer, so the count is saved with the weights and a resumed training goes
    on where it was. In evaluation mode it is 1 and counts nothing: what is measured there is the whole loss, the same
    at every time.

    Args:
        calls: training calls until it has risen, >= 0; 0 is 1 from the beginning. Every batch is a call, so a step of
            ``train.accumulate`` batches is as many.
    """

    calls_so_far: Tensor

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        self.register_buffer("calls_so_far", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor | float:
        """In (0, 1]."""
        if not self.training:
            return 1.0
        self.calls_so_far += 1
        return (self.calls_so_far / max(self.calls, 1)).clamp(max=1.0).float()
