"""Clips with absent frames, for networks that need whole ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def whole_clips(video: Tensor, mask: Tensor, num_frames: int) -> Tensor:
    """Clips of ``num_frames`` real frames: a masked frame shows the real one before it (the first real one where there
    is none before), and a shorter clip goes on with its last frame. An image becomes a still clip.

    Args:
        video: ``(B, C, T, H, W)``, T <= num_frames.
        mask: ``(B, T)``, True = real.

    Returns:
        ``(B, C, num_frames, H, W)``; zeros where a row has no real frame.

    Example:
        >>> clip, mask = torch.tensor([5.0, 7.0, 9.0]), torch.tensor([[False, True, False]])
        >>> whole_clips(clip.reshape(1, 1, 3, 1, 1), mask, 4).flatten().tolist()
        [7.0, 7.0, 7.0, 7.0]
    """
    frames = mask.shape[1]
    if frames > num_frames:
        raise ValueError(f"video: {frames} frames, expected at most {num_frames}")
    place = torch.arange(frames, device=mask.device).expand_as(mask)
    last_BT = place.masked_fill(~mask, -1).cummax(1).values
    first_B1 = mask.long().argmax(1, keepdim=True)
    source = torch.where(last_BT < 0, first_B1, last_BT)
    source = torch.cat([source, source[:, -1:].expand(-1, num_frames - frames)], dim=1)
    index = source[:, None, :, None, None].expand(-1, video.shape[1], -1, *video.shape[3:])
    return video.gather(2, index).masked_fill(~mask.any(1)[:, None, None, None, None], 0.0)


def changes(video: Tensor, mask: Tensor) -> Tensor:
    """Half the difference of every frame to the one before it, in [-1, 1]; zeros for the first. A frame after masked
    ones is compared with the last real one.

    Args:
        video: ``(B, C, T, H, W)`` in [-1, 1].
        mask: ``(B, T)``, True = real.

    Example:
        >>> clip, mask = torch.tensor([0.5, 9.0, 1.0]), torch.tensor([[True, False, True]])
        >>> changes(clip.reshape(1, 1, 3, 1, 1), mask).flatten().tolist()
        [0.0, 0.0, 0.25]
    """
    whole = whole_clips(video, mask, mask.shape[1])
    return torch.cat([torch.zeros_like(whole[:, :, :1]), (whole[:, :, 1:] - whole[:, :, :-1]) / 2], dim=2)


def on_present(network: Callable[[Tensor], Tensor], x: Tensor, present: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``network`` on the rows that are there, zeros for the others: what is absent must not enter the statistics of
    a batch, nor cost time.

    Args:
        network: ``(B', ...)`` -> ``(B', *shape)``, row by row.
        x: ``(B, ...)``.
        present: ``(B,)`` bool.
        shape: what the network makes of a row.
    """
    if present.all():
        return network(x)
    if not present.any():
        return torch.zeros(len(x), *shape, device=x.device)
    some = network(x[present])
    return torch.zeros(len(x), *shape, device=x.device, dtype=some.dtype).index_put((present,), some)
