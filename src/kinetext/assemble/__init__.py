"""Recipe -> datasets, task, loaders: the one composition root. Wires sizes, refuses impossible pairs."""

from kinetext.assemble.catalog import ROLES, WIRED, find, resolve, with_data
from kinetext.assemble.checking import check, plan
from kinetext.assemble.encoding import codec_name, encoded
from kinetext.assemble.loading import collate, dataset, describe, plain_batches, tokenizer, train_batches
from kinetext.assemble.runs import device, is_shipped, open_path, open_run, shipped
from kinetext.assemble.tasks import clip_reader, is_error, keep, metrics, restore, start_weights, task

__all__ = [
    "ROLES",
    "WIRED",
    "check",
    "clip_reader",
    "codec_name",
    "collate",
    "dataset",
    "describe",
    "device",
    "encoded",
    "find",
    "is_error",
    "is_shipped",
    "keep",
    "metrics",
    "open_path",
    "open_run",
    "plain_batches",
    "plan",
    "resolve",
    "restore",
    "shipped",
    "start_weights",
    "task",
    "tokenizer",
    "train_batches",
    "with_data",
]
