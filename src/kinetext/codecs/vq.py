"""A learned codec of tokens: frame by frame or causal over time, a codebook or finite scalars."""

from __future__ import annotations

from typing import Literal

from torch import Generator as Rng
from torch import Tensor, nn

from kinetext.interfaces import Codec, Shape
from kinetext.nn.coder import Plan, VideoDecoder, VideoEncoder
from kinetext.nn.conv import fold_frames
from kinetext.nn.quantize import EmaCodebook, FiniteScalars, perplexity
from kinetext.types import Losses, check_legal, check_one_of


class Vq(Codec):
    """Clips -> tokens ``(B, 1, T', H / 2^levels, W / 2^levels)`` int64 in [0, vocab).

    VQ-VAE (van den Oord et al. 2017, "Neural Discrete Representation Learning") with the networks of the codec
    ``autoencoder``: its encoder makes a vector for every cell, a quantiser puts a code in its place, and the decoder sees the
    vector of that code. The quantiser is a codebook that follows averages (there, appendix A.1), or finite scalars (Mentzer
    et al. 2023, FSQ); see ``nn/quantize.py`` for both. Vectors are batch-normalised first (Lancucki et al. 2020, "Robust
    Training of Vector Quantized Bottleneck Models", section 3). Time goes as in ``autoencoder``: T' = T / 2^time_levels, rounded up.

    Args:
        channels: of the video (decided by the assembly).
        latent_dim: of the vectors that stand for codes, >= 1.
        width: channels of the first level, a multiple of 8; they double at every level.
        levels: halvings of the frame's side, >= 1; H and W are multiples of 2^levels.
        blocks: residual blocks a level, >= 0.
        quantizer: "ema" is a codebook that follows averages, "fsq" finite scalars.
        codes: "ema": one number, how many codes, >= 2; "fsq": the levels of every scalar, >= 3 each, whose product is
            how many codes there are, such as (8, 5, 5, 5) for 1,000 (the paper, table 1, advises levels >= 5).
        decay: of a codebook's averages, in [0, 1).
        commitment: of encoder to codebook, >= 0; the paper's beta (eq. 3, sums over a clip, here both per pixel).
        restart: codes whose use falls below this share of the mean begin again as vectors of the batch, in [0, 1).
        temporal: "frame" codes every frame by itself, "causal" looks back in time.
        time_levels: halvings of time, at the deepest levels; 0 for "frame", 1 to ``levels`` for "causal".
        norm: in the networks: "group" over whole frames, "pixel" over the channels of every pixel, which makes tiles exact.
        tile: side in pixels of the overlapping tiles that larger frames are decoded in, as in ``autoencoder``; 0 is whole.
    """

    kind: Literal["continuous", "tokens"] = "tokens"

    def __init__(
        self,
        *,
        channels: int = 1,
        latent_dim: int = 8,
        width: int = 16,
        levels: int = 3,
        blocks: int = 1,
        quantizer: Literal["ema", "fsq"] = "ema",
        codes: tuple[int, ...] = (256,),
        decay: float = 0.99,
        commitment: float = 0.25,
        restart: float = 0.03,
        temporal: Literal["frame", "causal"] = "frame",
        time_levels: int = 0,
        norm: Literal["group", "pixel"] = "group",
        tile: int = 0,
    ) -> None:
        super().__init__()
        check_legal("latent_dim", latent_dim, latent_dim >= 1, ">= 1")
        self.plan = Plan(channels, width, levels, blocks, temporal, time_levels, norm, tile)
        self.encoder = VideoEncoder(self.plan, latent_dim)
        self.decoder = VideoDecoder(self.plan, latent_dim)
        self.quantizer: EmaCodebook | FiniteScalars
        if quantizer == "ema":
            check_legal("codes", list(codes), len(codes) == 1, 'one number of codes with quantizer = "ema"')
            self.quantizer = EmaCodebook(codes[0], latent_dim, decay=decay, commitment=commitment, restart=restart)
        else:
            check_one_of("quantizer", quantizer, "ema", "fsq")
            for name, value, unset in (
                ("decay", decay, 0.99),
                ("commitment", commitment, 0.25),
                ("restart", restart, 0.03),
            ):
                check_legal(
                    name, value, value == unset, f'{unset} with quantizer = "fsq", which has no codebook to learn'
                )
            self.quantizer = FiniteScalars(codes, latent_dim)
        self.vocab = self.quantizer.vocab
        self.norm = nn.BatchNorm2d(latent_dim, affine=False, momentum=0.01)

    def encode(self, video: Tensor) -> Tensor:
        grid = self.plan.grid(tuple(video.shape[1:]))
        return self.quantizer.ids(self._rows(video)).view(len(video), 1, *grid)

    def decode(self, target: Tensor, shape: Shape) -> Tensor:
        video = self.decoder.decode(_cells(self.quantizer.vectors(target[:, 0])), shape[2])
        return video.float().clamp(-1, 1)

    def target_shape(self, shape: Shape) -> Shape:
        return (1, *self.plan.grid(shape))

    def reconstruct(self, video: Tensor, *, rng: Rng) -> tuple[Tensor, Losses]:
        """Decoded from codes, straight-through gradients, and the commitment; says how evenly codes are used."""
        grid = self.plan.grid(tuple(video.shape[1:]))
        quantized = self.quantizer(self._rows(video), rng=rng)
        cells = _cells(quantized.x.view(len(video), *grid, -1))
        # the paper adds sums over a clip; beside a mean over its pixels the same sum counts per pixel
        added = quantized.loss * (quantized.x.numel() / video.numel())
        parts = {"commitment": added.detach(), "perplexity": perplexity(quantized.ids, self.vocab)}
        return self.decoder.decode(cells, video.shape[2]).float(), Losses(added, parts)

    def last_weight(self) -> nn.Parameter:
        return self.decoder.last_weight()

    def _rows(self, video: Tensor) -> Tensor:
        """The vector of every cell, ``(B*T'*H'*W', D)``, of zero mean and unit variance."""
        frames = self.norm(fold_frames(self.encoder.encode(video).float()))
        rows: Tensor = frames.permute(0, 2, 3, 1).flatten(0, 2)
        return rows


def _cells(x: Tensor) -> Tensor:
    """``(B, T, H, W, D)`` -> ``(B, D, T, H, W)``."""
    return x.permute(0, 4, 1, 2, 3)
