"""Tables that are written read back as they were, whatever stands in their cells."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest

from kinetext.manifest import load, with_splits
from kinetext.manifest.reading import Raw, read
from kinetext.manifest.writing import write, write_csv
from kinetext.types import DataError

ODD = ["a\rb", "\r", "a\r\nb", "a\nb", 'say "x", y', " a ", "", "中文", "'", "-1", "a\u2028b"]


def test_a_csv_reads_back_whatever_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ("text", "no\rte"), [(cell, n) for n, cell in enumerate(ODD)])
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file, strict=True))
    assert header == ["text", "no\rte"]
    assert lines == [[cell, str(n)] for n, cell in enumerate(ODD)]
    assert list(pd.read_csv(path, keep_default_na=False)["text"]) == ODD
    plain = tmp_path / "b.csv"
    write_csv(plain, ("text",), [("a b",), (None,)])
    assert plain.read_bytes() == b'text\na b\n""\n'  # as ever where nothing has to be quoted


def test_tables_and_splits_with_carriage_returns_are_read_again(tmp_path: Path) -> None:
    texts = tuple(cell for cell in ODD if cell)
    write(tmp_path / "metadata.csv", Raw(("text", "group"), (texts, texts)))
    assert [row.text for row in load(tmp_path).rows] == list(texts)
    made = with_splits(load(tmp_path), seed=0)
    assert with_splits(load(tmp_path), seed=0) == made


def test_a_missing_number_is_no_cell(tmp_path: Path) -> None:
    """pandas writes it as NaN, which JSON has not."""
    pd.DataFrame({"text": ["x", "y"], "start": [float("nan"), 1.5]}).to_parquet(tmp_path / "a.parquet")
    table = read(tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", table)
    assert (tmp_path / "a.jsonl").read_text() == '{"text": "x"}\n{"text": "y", "start": 1.5}\n'
    write(tmp_path / "a.csv", table)
    assert (tmp_path / "a.csv").read_text() == "text,start\nx,\ny,1.5\n"
    with pytest.raises(DataError, match=r"b\.jsonl: can't be written \(Out of range"):
        write(tmp_path / "b.jsonl", Raw(("text", "score"), (["x"], [float("inf")])))
    assert not (tmp_path / "b.jsonl").exists()
