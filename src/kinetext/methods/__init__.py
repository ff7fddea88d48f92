"""A task in, a task out: what wraps a task while it is trained."""

from kinetext.interfaces import Registry
from kinetext.methods.distillation import Distillation

REGISTRY: Registry = {"distillation": Distillation}
