"""Which settings of a model a clip was made with: those of its recipe that decide how it samples."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from kinetext.config import Recipe


def settings_of(recipe: Recipe) -> str:
    """A short SHA-256 of the sections of a resolved recipe that sampling hangs on, and of how it reads given files.

    The sections of training and judging are not in it. Options of these sections that only training looks at are, and so
    is every default: a later version that has one option more gives another hash to the same model.
    """
    parts = {
        "task": recipe.task,
        "codec": recipe.codec,
        "generator": recipe.generator,
        "fusion": recipe.fusion,
        **{f"encoders.{modality}": encoder for modality, encoder in recipe.encoders.items()},
    }
    said = {name: part.flat() for name, part in parts.items() if part}
    said["text"] = asdict(recipe.text)
    said["data"] = {name: recipe.data.args.get(name) for name in ("fit", "region")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
