"""Methods that make video (or text) from a condition."""

from kinetext.generators.flow import Flow
from kinetext.generators.gan import Gan
from kinetext.interfaces import Registry

REGISTRY: Registry = {"flow": Flow, "gan": Gan}
