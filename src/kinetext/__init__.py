"""Models that go between text and video."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinetext.checkpoint import Run
    from kinetext.config import Recipe
    from kinetext.interfaces import Codec, Dataset, Encoder, Fusion, Generator, Method, Metric, Task
    from kinetext.making import Request
    from kinetext.pipeline import Pipeline
    from kinetext.train import fit
    from kinetext.types import Batch, Features, KinetextError, Known, Losses, Prediction, Sample, Target

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Codec",
    "Dataset",
    "Encoder",
    "Features",
    "Fusion",
    "Generator",
    "KinetextError",
    "Known",
    "Losses",
    "Method",
    "Metric",
    "Pipeline",
    "Prediction",
    "Recipe",
    "Request",
    "Run",
    "Sample",
    "Target",
    "Task",
    "__version__",
    "fit",
]

# Where each public name lives. Looked up on first use, so that `import kinetext` does not wait for torch.
_HOMES = {
    "checkpoint": ("Run",),
    "config": ("Recipe",),
    "interfaces": ("Codec", "Dataset", "Encoder", "Fusion", "Generator", "Method", "Metric", "Task"),
    "making": ("Request",),
    "pipeline": ("Pipeline",),
    "train": ("fit",),
    "types": ("Batch", "Features", "KinetextError", "Known", "Losses", "Prediction", "Sample", "Target"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"kinetext.{module}"), name)
            globals()[name] = value  # the next look-up is a plain one
            return value
    raise AttributeError(f"module 'kinetext' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
