"""The network of diffusion and flow: noisy video and text in, an estimate of the same shape out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinetext.nn.embedding import TimeEmbedding, rope_3d
from kinetext.nn.norm import RMSNorm
from kinetext.nn.transformer import ModulatedBlock
from kinetext.types import Features, check_legal


class VideoDenoiser(nn.Module):
    """``(z, t, text) -> estimate``: patches of all frames in one sequence, 3-D rotary positions.

    A DiT (Peebles & Xie 2023) with RMSNorm, QK-norm, SwiGLU and text keys in every attention. The time modulates every
    norm, and so does the mean of the text where ``pooled_text``; without, a word is only what attention takes of it
    (PixArt-alpha, Chen et al. 2023, section 2.3). Texts must be padded to one length in training and sampling: every
    absent token is a key too.

    Args:
        channels: of z, >= 1.
        cond_dim: width of the text features.
        dim: of the sequence, an even multiple of ``heads``.
        depth, heads, patch: blocks, heads of every attention, side of a patch in cells; each >= 1.
        pooled_text: whether the mean of the text modulates the norms.
    """

    def __init__(
        self, channels: int, cond_dim: int, dim: int, depth: int, heads: int, patch: int, pooled_text: bool = True
    ) -> None:
        super().__init__()
        check_legal("depth", depth, depth >= 1, ">= 1")
        check_legal("patch", patch, patch >= 1, ">= 1")
        check_legal("heads", heads, heads >= 1, ">= 1")
        check_legal("dim", dim, dim > 0 and dim % (2 * heads) == 0, f"an even multiple of heads = {heads}")
        self.patch = patch
        self.head_dim = dim // heads
        self.embed = nn.Linear(channels * patch * patch, dim)
        self.time = TimeEmbedding(dim)
        self.no_text = nn.Parameter(torch.randn(cond_dim) * 0.02)
        self.text = nn.Linear(cond_dim, dim) if pooled_text else None
        modulation = nn.Linear(dim, 6 * dim)
        nn.init.normal_(modulation.weight, std=0.02)
        nn.init.zeros_(modulation.bias)
        self.modulation = nn.Sequential(nn.SiLU(), modulation)
        self.blocks = nn.ModuleList(ModulatedBlock(dim, heads, context_dim=cond_dim) for _ in range(depth))
        self.norm = RMSNorm(dim)
        self.out = nn.Linear(dim, channels * patch * patch)

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuses, by a ValueError, targets (C, T, H, W) whose sides are no multiples of ``patch``."""
        legal = shape[2] % self.patch == 0 and shape[3] % self.patch == 0
        check_legal("patch", self.patch, legal, f"a divisor of the target's height {shape[2]} and width {shape[3]}")

    def forward(self, z_BCTHW: Tensor, t_BT: Tensor, cond: Features, frames_T: Tensor | None = None) -> Tensor:
        """``(B, C, T, H, W)``, times ``(B, T)``, text features -> estimate ``(B, C, T, H, W)``.

        ``frames_T`` are the frames' positions in the clip, 0 to T - 1 where None.
        """
        rows, columns = z_BCTHW.shape[3] // self.patch, z_BCTHW.shape[4] // self.patch
        if frames_T is None:
            frames_T = torch.arange(z_BCTHW.shape[2], device=z_BCTHW.device)
        # absent tokens become a learned vector, so attention needs no mask and "no text" is a text too
        context = torch.where(cond.mask.unsqueeze(-1), cond.x, self.no_text.to(cond.x.dtype))
        signal_BTD = self.time(t_BT)
        if self.text is not None:
            pooled = torch.where(cond.mask.any(1, keepdim=True), cond.pooled(), self.no_text.to(cond.x.dtype))
            signal_BTD = signal_BTD + self.text(pooled)[:, None]
        modulation = self.modulation(signal_BTD).unflatten(-1, (6, -1))
        rope = rope_3d(frames_T, (rows, columns), self.head_dim)
        x = self.embed(patchify(z_BCTHW, self.patch))
        for block in self.blocks:
            x = block(x, modulation, context, rope)
        return unpatchify(self.out(self.norm(x)), self.patch, (rows, columns))


def patchify(z_BCTHW: Tensor, patch: int) -> Tensor:
    """``(B, C, T, H, W)`` -> ``(B, T, S, C * patch^2)``, S patches of a frame in row-major order."""
    if z_BCTHW.shape[3] % patch or z_BCTHW.shape[4] % patch:
        raise ValueError(f"patch: {patch} does not divide a target of {tuple(z_BCTHW.shape[3:])}")
    x = z_BCTHW.unflatten(3, (-1, patch)).unflatten(5, (-1, patch))  # B C T h p w q
    return x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(2, 3)


def unpatchify(x_BTSD: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of ``patchify``; ``grid`` is (rows, columns) of patches."""
    x = x_BTSD.unflatten(3, (-1, patch, patch)).unflatten(2, grid)  # B T h w C p q
    return x.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)
