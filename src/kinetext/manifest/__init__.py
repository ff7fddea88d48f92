"""The table of a dataset on disk, checked, and split without leaks.

The layout is Hugging Face's VideoFolder: clips in a folder, and beside them a table with ``file_name`` and any of
``text``, label columns, ``start``, ``end`` (seconds), ``group`` (who or where: never in two splits), ``split``
and ``weight``.
"""

from kinetext.manifest.splits import SPLIT_TABLE, groups, with_fold, with_splits, with_val
from kinetext.manifest.table import RESERVED, SEPARATOR, SPLITS, TABLES, Manifest, Row, Split, load, numbers
from kinetext.manifest.vectors import Vectors

__all__ = [
    "RESERVED",
    "SEPARATOR",
    "SPLITS",
    "SPLIT_TABLE",
    "TABLES",
    "Manifest",
    "Row",
    "Split",
    "Vectors",
    "groups",
    "load",
    "numbers",
    "with_fold",
    "with_splits",
    "with_val",
]
