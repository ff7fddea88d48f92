"""One modality -> features."""

from kinetext.encoders.transformer import Transformer
from kinetext.interfaces import Registry

REGISTRY: Registry = {"transformer": Transformer}
