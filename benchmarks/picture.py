"""The picture of the README: clips of the shipped model playing side by side, with their prompts.

    python benchmarks/picture.py docs/images/digits.gif --font /usr/share/fonts/truetype/wqy/wqy-zenhei.ttc

The font must have Chinese characters (Debian: fonts-wqy-zenhei).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from kinetext import Pipeline

PROMPTS = (
    "the digit 3 moves up and down",
    "digit 8 moves left and right",
    "数字7正在上下运动",
    "一个0左右移动",
    "1 bounces left and right while 6 bounces up and down",
    "digit 2 moves up and down and digit 9 moves left and right",
    "数字3上下移动，数字7左右移动",
    "5在左右移动，同时4在上下移动",
)
SCALE, MARGIN, CAPTION = 2, 10, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--font", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    clips = Pipeline.load("digits").generate(PROMPTS, seed=arguments.seed)
    font = ImageFont.truetype(arguments.font, 12)
    videos = torch.stack([clip.video[0] for clip in clips])  # (B, T, H, W)
    side = videos.shape[-1] * SCALE
    width = 4 * (side + MARGIN) + MARGIN
    height = 2 * (side + MARGIN + CAPTION) + MARGIN
    frames = []
    for pixels in ((videos.transpose(0, 1) + 1) * 127.5).round().to(torch.uint8).numpy():
        page = Image.new("L", (width, height), 255)
        draw = ImageDraw.Draw(page)
        for place, image in enumerate(pixels):
            x = MARGIN + (place % 4) * (side + MARGIN)
            y = MARGIN + (place // 4) * (side + MARGIN + CAPTION)
            page.paste(Image.fromarray(np.kron(image, np.ones((SCALE, SCALE), np.uint8))), (x, y))
            draw.multiline_text((x, y + side + 3), wrapped(PROMPTS[place], font, side), font=font, fill=60, spacing=2)
        frames.append(page)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(arguments.out, save_all=True, append_images=frames[1:], duration=round(1000 / clips[0].fps), loop=0)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """``text`` in lines of at most ``width`` pixels."""
    pieces = text.split(" ") if " " in text else list(text)
    space = " " if " " in text else ""
    lines = [pieces[0]]
    for piece in pieces[1:]:
        longer = lines[-1] + space + piece
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, piece]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
