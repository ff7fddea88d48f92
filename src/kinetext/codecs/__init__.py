"""Video <-> the space a generator works in."""

from kinetext.codecs.autoencoder import Autoencoder
from kinetext.codecs.pixel import Pixel
from kinetext.codecs.vq import Vq
from kinetext.interfaces import Registry

REGISTRY: Registry = {"pixel": Pixel, "autoencoder": Autoencoder, "vq": Vq}
