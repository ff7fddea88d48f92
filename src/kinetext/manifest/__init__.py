"""The table of a dataset on disk, checked, and split without leaks.

The layout is Hugging Face's VideoFolder: clips in a folder, and beside them a table with ``file_name`` and any of
``text``, label columns, ``start``, ``end`` (seconds), ``group`` (who or where: never in two splits), ``split``
and ``weight``. A folder without a table is read by its layout: texts beside clips, or a folder for each class.
"""

from kinetext.manifest.dividing import BYS, divide
from kinetext.manifest.examining import Examined, examine
from kinetext.manifest.fetching import fetch, place
from kinetext.manifest.layouts import has_pairs
from kinetext.manifest.reading import TABLES
from kinetext.manifest.rows import RESERVED, SEPARATOR, SPLITS, Row, Split, as_number, is_elsewhere
from kinetext.manifest.selection import Selection, key_of
from kinetext.manifest.splits import SPLIT_TABLE, groups, with_fold, with_splits, with_stored_splits, with_val
from kinetext.manifest.table import Manifest, is_classes, load, located, numbers, open_source
from kinetext.manifest.vectors import Vectors

__all__ = [
    "BYS",
    "RESERVED",
    "SEPARATOR",
    "SPLITS",
    "SPLIT_TABLE",
    "TABLES",
    "Examined",
    "Manifest",
    "Row",
    "Selection",
    "Split",
    "Vectors",
    "as_number",
    "divide",
    "examine",
    "fetch",
    "groups",
    "has_pairs",
    "is_classes",
    "is_elsewhere",
    "key_of",
    "load",
    "located",
    "numbers",
    "open_source",
    "place",
    "with_fold",
    "with_splits",
    "with_stored_splits",
    "with_val",
]
