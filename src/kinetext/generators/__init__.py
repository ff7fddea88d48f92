"""Methods that make video (or text) from a condition."""

from kinetext.generators.diffusion import Diffusion
from kinetext.generators.flow import Flow
from kinetext.interfaces import Registry

REGISTRY: Registry = {"flow": Flow, "diffusion": Diffusion}
