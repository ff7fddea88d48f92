"""One modality -> features."""

from kinetext.encoders.frame_cnn import FrameCNN
from kinetext.encoders.transformer import Transformer
from kinetext.interfaces import Registry

REGISTRY: Registry = {"transformer": Transformer, "frame_cnn": FrameCNN}
