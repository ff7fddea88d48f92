"""How good predictions are, in numbers."""

from kinetext.interfaces import Registry
from kinetext.metrics.classification import ClassificationMetric

REGISTRY: Registry = {"classification": ClassificationMetric}
