"""What a table holds, and how it is divided: kinetext data split, kinetext data stats."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinetext import manifest, video
from kinetext.doctor.survey import size_of
from kinetext.manifest import SPLITS, Manifest, reading, writing
from kinetext.text import count_scripts
from kinetext.types import DataError, KinetextError, Progress, joined

Page = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # of a terminal: title, columns, rows

_FAILED = 5  # files that can't be read, which are named


@dataclass(frozen=True)
class Divided:
    """What a split came to.

    Args:
        path: the table that was written.
        columns: of ``rows``.
        rows: of "rows", of "groups", and of every class: how many are in each split, as text.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def split(
    source: Path,
    out: Path,
    *,
    by: str = "group",
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    stratify: str = "",
    time: str = "",
    seed: int = 0,
) -> Divided:
    """Writes the table of ``source`` again, with a column ``split``; one that is there already is replaced.

    Args:
        source: a folder with a table, or by its layout; or a table.
        out: a new table, which ends in .csv, .jsonl or .parquet.
        by, fractions, stratify, time, seed: see ``manifest.divide``.

    Raises:
        DataError: as of ``manifest.divide``, or ``out`` is there already.
    """
    writing.check_new(out)
    if len(fractions) != len(SPLITS):
        raise DataError(f"fractions: {joined(fractions)}, expected three numbers, 0 or more, that sum to 1")
    table = manifest.open_source(source)
    train, val, test = fractions
    splits = manifest.divide(table, by, (train, val, test), seed=seed, stratify=stratify, time=time)
    writing.write(out, writing.with_column(reading.read(table.path), "split", splits))
    rows = tuple(row.moved(split) for row, split in zip(table.rows, splits, strict=True))
    column = stratify or next((name for name in _label_columns(table) if manifest.is_classes(table, name)), "")
    there = [name for name in SPLITS if name in splits]
    found = [("rows", Counter(splits))]
    names = manifest.groups(rows)
    found.append(("groups", Counter(dict(set(zip(names, splits, strict=True))).values())))
    if column:
        counts: dict[str, Counter[manifest.Split]] = {}
        for row, place in zip(rows, splits, strict=True):
            for name in table.names(row, column):
                counts.setdefault(name, Counter())[place] += 1
        found += [(f"{column}: {name}", counts[name]) for name in sorted(counts)]
    lines = tuple((title, *(_shared(counter[name], counter.total()) for name in there)) for title, counter in found)
    return Divided(out, ("", *there), lines)


def _shared(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})"


def _label_columns(table: Manifest) -> list[str]:
    return [name for name in table.columns if name not in manifest.RESERVED]


def stats(source: Path, *, probe: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """What stands in a table, and with ``probe`` what its files are.

    Returns:
        Nested names and numbers, ready for JSON: "rows", "files", "splits", "text", "columns" and, probed, "clips".

    Raises:
        DataError: the table can't be read. A file that can't be read, or is missing, is among "failures".
    """
    table = manifest.with_stored_splits(manifest.open_source(source))
    files = list(dict.fromkeys(row.file for row in table.rows if row.file))
    elsewhere = [file for file in files if manifest.is_elsewhere(file)]
    parts = sum(row.start is not None or row.end is not None for row in table.rows)
    found: dict[str, Any] = {
        "source": str(table.path),
        "layout": table.layout,
        "rows": len(table.rows),
        "groups": len(set(manifest.groups(table.rows))),
        "files": {"different": len(files), "elsewhere": len(elsewhere), "parts": parts},
        "splits": {name: count for name in SPLITS if (count := len(table.where(name)))},
        "text": _texts([row.text for row in table.rows if row.text]),
        "columns": {name: _column(table, name) for name in _label_columns(table)},
    }  # fmt: skip
    if probe:
        found["clips"] = _probed(table.root, files, progress)
    return found


def _texts(texts: Sequence[str]) -> dict[str, Any]:
    if not texts:
        return {"rows": 0}
    scripts = Counter(map(_script, texts))
    return {
        "rows": len(texts),
        "different": len(set(texts)),
        "characters": _spread([len(text) for text in texts]),
        "words": _spread([len(text.split()) for text in texts]),
        "scripts": {name: count / len(texts) for name, count in scripts.most_common()},
    }


def _script(text: str) -> str:
    """The writing of a text: two that stand in one are "mixed", as Japanese with Chinese characters is not."""
    found = list(count_scripts(text))
    return "mixed" if len(found) > 1 else found[0] if found else "none"


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": min(values), "median": statistics.median(values), "mean": statistics.fmean(values), "max": max(values),
    }  # fmt: skip


def _column(table: Manifest, column: str) -> dict[str, Any]:
    filled = [cell for row in table.rows if (cell := row.labels.get(column))]
    different = {name for row in table.rows for name in table.names(row, column)}
    found: dict[str, Any] = {"rows": len(filled), "different": len(different)}
    if manifest.is_classes(table, column):
        counts: dict[str, Counter[str]] = {name: Counter() for name in sorted(different)}
        for row in table.rows:
            for name in table.names(row, column):
                counts[name][row.split] += 1
        found["classes"] = {
            name: {"rows": counter.total(), **{s: counter[s] for s in SPLITS if counter[s]}}
            for name, counter in counts.items()
        }
        return found
    values = [manifest.as_number(cell) for cell in filled]
    numbers = [value for value in values if value is not None]
    if numbers and len(numbers) == len(filled):
        found["numbers"] = _spread(numbers)
    return found


def _probed(root: Path, files: Sequence[str], progress: Progress | None) -> dict[str, Any]:
    """Lengths, rates and sizes of files; PyAV lets go of Python's lock while it reads, so threads are enough."""
    infos: list[video.VideoInfo] = []
    failed: dict[str, str] = {}
    pool = ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1)))
    try:
        waiting = {pool.submit(_probe, root, file): file for file in files}
        for done, future in enumerate(as_completed(waiting), 1):
            try:
                infos.append(future.result())
            except KinetextError as error:
                failed[waiting[future]] = str(error)
            if progress:
                progress(done, len(files))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
    sizes = Counter(f"{info.width}x{info.height}" for info in infos)
    rates = Counter(f"{info.fps:.6g}" for info in infos)
    found: dict[str, Any] = {"read": len(infos), "failed": len(failed)}
    if failed:
        found["failures"] = {file: failed[file] for file in sorted(failed)[:_FAILED]}
    if infos:
        found |= {
            "seconds": {**_spread([info.duration for info in infos]), "sum": sum(info.duration for info in infos)},
            "frames": _spread([info.num_frames for info in infos]),
            "megabytes": sum(size_of(manifest.place(root, file)) or 0 for file in files if file not in failed) / 1e6,
            "sizes": dict(sizes.most_common()),
            "fps": dict(rates.most_common()),
        }
    return found


def _probe(root: Path, file: str) -> video.VideoInfo:
    return video.probe(manifest.place(root, file))


def stats_tables(found: Mapping[str, Any]) -> list[Page]:
    """What ``stats`` found as tables: title, columns and rows of each."""
    top: list[tuple[str, ...]] = [
        ("layout", found["layout"]),
        ("rows", str(found["rows"])),
        ("groups", str(found["groups"])),
        *((f"files, {name}", str(value)) for name, value in found["files"].items()),
        *((f"rows of {name}", str(value)) for name, value in found["splits"].items()),
    ]
    made: list[Page] = [(found["source"], ("", ""), top)]
    if found["text"]["rows"]:
        shares = {name: f"{share:.1%} of the texts" for name, share in found["text"]["scripts"].items()}
        made.append(("text", ("", ""), _lines({**found["text"], "scripts": shares})))
    for name, column in found["columns"].items():
        if classes := column.get("classes"):
            splits = [split for split in SPLITS if split in found["splits"]]
            rows: list[tuple[str, ...]] = [
                (one, str(counts["rows"]), *(str(counts.get(split, 0)) for split in splits))
                for one, counts in classes.items()
            ]
            made.append((name, ("class", "rows", *splits), rows))
        else:
            made.append((name, ("", ""), _lines(column)))
    return made + _clips(found["clips"]) if "clips" in found else made


def _clips(probed: Mapping[str, Any]) -> list[Page]:
    """What was probed, and how often there is which size and which rate."""
    counted = {"sizes": "size", "fps": "frames a second"}
    made: list[Page] = [("clips", ("", ""), _lines({k: v for k, v in probed.items() if k not in counted}))]
    for name, title in counted.items():
        rows: list[tuple[str, ...]] = [(one, str(count)) for one, count in probed.get(name, {}).items()]
        if rows:
            made.append(("", (title, "files"), rows))
    return made


def _lines(numbers: Mapping[str, Any], above: str = "") -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for name, value in numbers.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{above}{name}: ")
        else:
            lines.append((f"{above}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)))
    return lines
