"""Features of several modalities -> features of one."""

from kinetext.fusion.attention import Attention
from kinetext.fusion.concat import Concat
from kinetext.interfaces import Registry

REGISTRY: Registry = {"concat": Concat, "attention": Attention}
