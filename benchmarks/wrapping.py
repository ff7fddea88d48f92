"""A text -> lines that fit, for pictures.

Part of ``benchmarks/evolution.py`` and ``benchmarks/picture.py``.
"""

from __future__ import annotations

from collections.abc import Callable


def wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """``text`` in lines that fit, broken between words, or between characters where it has no spaces; a word that is too
    long has a line of its own.
    """
    space = " " if " " in text else ""
    pieces = text.split() if space else list(text)
    lines = pieces[:1]
    for piece in pieces[1:]:
        longer = lines[-1] + space + piece
        lines = [*lines[:-1], longer] if fits(longer) else [*lines, piece]
    return lines
