"""The picture of the README: clips of the shipped models playing side by side, with their prompts.

    python benchmarks/picture.py docs/images/shipped.gif --font /usr/share/fonts/truetype/wqy/wqy-zenhei.ttc

The font must have Chinese characters (Debian: fonts-wqy-zenhei).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from kinetext import Pipeline
from kinetext.checkpoint import whole
from kinetext.video import to_bytes
from wrapping import wrapped

PROMPTS = {
    "digits": (
        "the digit 3 moves up and down",
        "数字7正在上下运动",
        "1 bounces left and right while 6 bounces up and down",
        "数字3上下移动，数字7左右移动",
    ),
    "shapes": (
        "a large red circle bounces over a blue background",
        "一个黄色大方块在绿色背景上向左移动",
        "a tiny white star spins on a black background",
        "一个小的橙色三角形正在往上升，背景为灰色",
    ),
}  # shipped model -> what it is asked for
SCALE, MARGIN, CAPTION, COLUMNS = 2, 10, 40, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--font", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    clips = [
        clip for name, asked in PROMPTS.items() for clip in Pipeline.load(name).generate(asked, seed=arguments.seed)
    ]
    font = ImageFont.truetype(arguments.font, 12)
    videos = torch.stack([clip.video.expand(3, -1, -1, -1) for clip in clips])  # (B, C, T, H, W)
    side = videos.shape[-1] * SCALE
    width = COLUMNS * (side + MARGIN) + MARGIN
    height = -(-len(clips) // COLUMNS) * (side + MARGIN + CAPTION) + MARGIN
    frames = []
    for pixels in to_bytes(videos.permute(2, 0, 3, 4, 1)).numpy():
        page = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(page)
        for place, image in enumerate(pixels):
            x = MARGIN + (place % COLUMNS) * (side + MARGIN)
            y = MARGIN + (place // COLUMNS) * (side + MARGIN + CAPTION)
            page.paste(Image.fromarray(np.kron(image, np.ones((SCALE, SCALE, 1), np.uint8))), (x, y))
            lines = wrapped(clips[place].prompt, lambda line: font.getlength(line) <= side)
            draw.multiline_text((x, y + side + 3), "\n".join(lines), font=font, fill="#3c3c3c", spacing=2)
        # by what there is most of, so that a background stays even
        frames.append(page.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    duration = round(1000 / clips[0].fps)  # the worlds have the same
    with whole(arguments.out) as temporary:
        frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=True
        )


if __name__ == "__main__":
    main()
