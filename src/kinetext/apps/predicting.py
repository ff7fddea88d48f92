"""What a model reads in many clips and texts, written as a table that an interrupted run goes on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from kinetext import assemble, cluster, manifest, video
from kinetext.checkpoint import write_text
from kinetext.manifest import Row, changes, layouts, writing
from kinetext.pipeline import Answer, Pipeline
from kinetext.runtime import whole_file
from kinetext.types import DataError, KinetextError, Modality, Progress, RunError, Sample, joined

BATCH = 16
_GIVEN = ("file_name", "text", "start", "end")  # columns that say which row it is


@dataclass(frozen=True)
class Predicted:
    """Where a table was written, how many rows it has, how many of them say what went wrong instead, and in which column."""

    path: Path
    rows: int
    failed: int
    why: str


def predict(
    pipeline: Pipeline,
    source: Path,
    out: Path,
    progress: Progress | None = None,
    *,
    ray: bool = False,
    workers: int | None = None,
) -> Predicted:
    """Reads every row of ``source`` and writes ``out``: a row each, with its file, text, start, end and the other cells of
    the table (a weight as a number, all else as text), then for a column of labels the class, ``COLUMN/CLASS`` for the probability of every class, or for a
    column of numbers the number. What the table says in columns that the model answers is left out. A row that can't be
    read has no answers, and says why in the column ``error`` (``error_`` where there is a column of that name).

    What is done stands in ``.OUT.part``, line by line: interrupted, the same call goes on there. The table appears when
    all rows are in it.

    Args:
        source: a folder with a table (metadata.csv, .jsonl or .parquet), such a table, or a folder of clips.
        out: new, and ends in .csv, .jsonl or .parquet.
        ray: spreads the rows over a cluster, all of whose machines see the files under the same names; the table is the
            same, and a worker that dies costs no row.
        workers: with ``ray``, how many, >= 1; None is one for every processor (or card).

    Raises:
        DataError: ``source`` can't be read, ``out`` can't be written, or the part belongs to something else.
        RunError: the model neither classifies nor predicts numbers, or two columns of the table would have one name; or
            Ray is not there.
    """
    writing.check_new(out)
    root, rows = _rows(source)
    reads = _Reader(pipeline, root, rows)
    part = out.with_name(f".{out.name}.part")
    files = [*(row.file for row in rows.rows), *(file for one in reads.vectors.values() for file in one.files(rows))]
    seen = hashlib.sha256(f"{rows.rows} {changes.stamp(root, files)}".encode()).hexdigest()
    title = {"source": str(source.resolve()), "weights": pipeline.weights_sha256, "rows": seen, "also": reads.also}
    try:
        done = _begun(part, title)
        left = [rows.rows[start : start + BATCH] for start in range(len(done), len(rows.rows), BATCH)]
        made = _spread(reads, left, workers) if ray and left else (list(reads.lines(chunk)) for chunk in left)
        with part.open("a", encoding="utf-8") as file, closing(made):
            for lines in made:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                file.flush()
                done += lines
                if progress:
                    progress(len(done), len(rows.rows))
        _write(out, done)
        part.unlink()
    except OSError as error:
        raise DataError(f"{out}: can't be written ({error}); what is done is kept in {part.name}") from error
    return Predicted(out, len(done), sum(bool(line[reads.why]) for line in done), reads.why)


class _Reader:
    """Rows of a table as the model reads them."""

    def __init__(self, pipeline: Pipeline, root: Path, table: manifest.Manifest) -> None:
        self.pipeline, self.root, self.table, self.recipe = pipeline, root, table, pipeline.run.recipe
        self.targets = pipeline.answering().targets
        args = self.recipe.data.args
        self.text = args.get("text", "text")
        if "text" in self.recipe.encoders and self.text not in ("", "text", *table.columns):
            raise DataError(
                f"{table.path}: no text column {self.text!r}, which {pipeline.name} reads; it has {joined(table.columns)}"
            )
        modalities: tuple[Modality, ...] = ("text", "video")
        self.vectors = {
            modality: manifest.Vectors(
                table, args[f"{modality}_vectors"], index=args["vectors_row"], field=f"data.{modality}_vectors"
            )
            for modality in modalities
            if modality in pipeline.run.meta.vector_dims
        }
        self.blank = [n for c in self.targets for n in (c.name, *(f"{c.name}/{k}" for k in c.classes))]
        if twice := [name for name, count in Counter((*_GIVEN, *self.blank)).items() if count > 1]:
            raise RunError(f"{pipeline.name}: its answers would be two columns {twice[0]!r}, expected one of each name")
        self.also = [name for name in table.columns if name not in (*_GIVEN, *self.blank)]
        self.why = "error"
        while self.why in (*self.blank, *self.also):
            self.why += "_"

    def lines(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        """A line for each row; a row that fails takes no other with it."""
        read: list[Sample | str] = []
        for row in rows:
            try:
                read.append(self._sample(row))
            except KinetextError as error:
                read.append(str(error))
        samples = [one for one in read if isinstance(one, Sample)]
        try:
            answers: list[Answer | str] = list(self.pipeline.answers(samples)) if samples else []
        except DataError:
            answers = [self._alone(sample) for sample in samples]
        told = iter(answers)
        for row, one in zip(rows, read, strict=True):
            answer = one if isinstance(one, str) else next(told)
            yield self.line(row, answer)

    def _alone(self, sample: Sample) -> Answer | str:
        try:
            return self.pipeline.answers([sample])[0]
        except DataError as error:
            return str(error)

    def _sample(self, row: Row) -> Sample:
        text = row.text if self.text == "text" else row.labels.get(self.text)
        vectors = {modality: one for modality, table in self.vectors.items() if (one := table.of(row)) is not None}
        reads_clips = "video" in self.recipe.encoders and "video" not in self.vectors
        clip = (
            self.pipeline.clip(manifest.place(self.root, row.file), row.start, row.end)
            if row.file and reads_clips
            else None
        )
        reads_text = "text" in self.recipe.encoders
        return Sample(f"row {row.number}", video=clip, text=text if reads_text else None, vectors=vectors)

    def line(self, row: Row, answer: Answer | str) -> dict[str, Any]:
        """The line of a row, of what was answered or why nothing was."""
        line: dict[str, Any] = dict(zip(_GIVEN, (row.file, row.text, row.start, row.end), strict=True))
        line |= {name: _cell(row, name) for name in self.also}
        cells: dict[str, Any] = dict.fromkeys(self.blank)
        if not isinstance(answer, str):
            several = {c.name for c in self.targets if c.multi}
            for column, said in answer.items():
                cells |= _cells(column, said, column in several)
        return {**line, **cells, self.why: answer if isinstance(answer, str) else None}


def _cell(row: Row, column: str) -> str | float | None:
    """What the table says of a row in a column that is no answer."""
    value: str | float = getattr(row, column) if column in manifest.RESERVED else row.labels.get(column, "")
    return None if value == "" else value


def _spread(reads: _Reader, chunks: Sequence[Sequence[Row]], workers: int | None) -> Generator[list[dict[str, Any]]]:
    """The lines of chunks of rows, made by workers of a cluster."""
    pipeline = reads.pipeline
    make = partial(_work, Path.cwd(), pipeline.run.path.resolve(), pipeline.name, pipeline.weights_sha256)
    make = partial(make, pipeline.device.type, reads.root, reads.table)
    with closing(cluster.spread(make, chunks, workers, gpu=pipeline.device.type == "cuda")) as found:
        for chunk, lines in zip(chunks, found, strict=True):
            yield [
                reads.line(row, line.why) if isinstance(line, cluster.Died) else line
                for row, line in zip(chunk, lines, strict=True)
            ]


def _work(
    folder: Path, run: Path, name: str, weights: str, device: str, root: Path, table: manifest.Manifest
) -> Callable[[Sequence[Row]], list[dict[str, Any]]]:
    """What a worker does with rows; messages name files as the command did, relative to where it was called."""
    os.chdir(folder)
    pipeline = Pipeline(name, assemble.open_run(str(run)), assemble.device(device))
    if pipeline.weights_sha256 != weights:
        raise RunError(f"{run}: its weights have changed since the command began")
    reads = _Reader(pipeline, root, table)
    return lambda rows: list(reads.lines(rows))


def _cells(column: str, said: Mapping[str, float] | float, several: bool) -> dict[str, Any]:
    if isinstance(said, float):
        return {column: said}
    held = [name for name, p in said.items() if p >= 0.5]
    best = manifest.SEPARATOR.join(held) if several else max(said, key=lambda name: said[name])
    return {column: best, **{f"{column}/{name}": round(p, 6) for name, p in said.items()}}


def _rows(source: Path) -> tuple[Path, manifest.Manifest]:
    """The folder that files are in, and the rows; a file that is missing is told in its own row."""
    has_table = any((source / name).is_file() for name in manifest.TABLES)
    if source.is_file() or has_table or (source.is_dir() and manifest.has_pairs(source)):
        table = manifest.open_source(source)
        return table.root, table
    if not source.is_dir():
        raise DataError(f"source: there is no {source}, expected a folder of clips or a table")
    names = layouts.clips(source)
    if not names:
        raise DataError(f"source: no clips in {source}, expected files that end in {joined(video.SUFFIXES)}")
    rows = tuple(Row(n, name, None, None, None, "", "", 1.0, {}) for n, name in enumerate(names, 1))
    return source, manifest.Manifest(source, source, ("file_name",), (), rows)


def _begun(part: Path, title: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The whole lines of an interrupted run; a torn last one is cut off. Begins the file where there is none."""
    whole = part.read_bytes().split(b"\n")[:-1] if part.is_file() else []
    try:
        lines = [json.loads(line) for line in whole]
    except ValueError as error:
        raise DataError(f"{part}: damaged ({error}); delete it, and all rows are read again") from error
    if lines and lines[0] != title:
        raise DataError(
            f"{part}: belongs to another source, other rows or other weights; delete it, or choose another --out"
        )
    write_text(part, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines or [title]))
    return lines[1:]


def _write(out: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    if out.suffix == ".jsonl":
        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return
    with whole_file(out) as temporary:
        if out.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(line) for line in lines]), temporary)
        else:
            writing.write_csv(temporary, list(lines[0]), (line.values() for line in lines))
