"""Where samples come from."""

from kinetext.datasets.digits import Digits
from kinetext.datasets.folder import Folder
from kinetext.datasets.hub import Hub
from kinetext.datasets.shapes import Shapes
from kinetext.datasets.shards import Shards
from kinetext.interfaces import Registry

REGISTRY: Registry = {"digits": Digits, "folder": Folder, "hub": Hub, "shapes": Shapes, "shards": Shards}
