"""Tables of what a model reads: every format, interrupted anywhere, with broken rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from kinetext import train
from kinetext.apps import predicting
from kinetext.config import Recipe
from kinetext.manifest import changes, writing
from kinetext.pipeline import Pipeline
from kinetext.types import DataError, RunError

RECIPE = """
task.name = "classification"
encoders.text = { name = "word_vectors", dim = 8 }
encoders.video = { name = "frame_cnn", dim = 8, width = 8, depth = 0, heads = 2 }
fusion = { name = "gated", dim = 8 }
data = { name = "folder", targets = ["shade"], num_frames = 2, size = 16, folds = 4 }
train = { steps = 2, batch = 4, precision = "fp32" }
"""


@pytest.fixture
def pipeline(clips: Path, tmp_path: Path) -> Pipeline:
    return Pipeline.load(train.start(Recipe.parse(RECIPE, [f"data.root={clips}"]), tmp_path / "run", quiet=True).path)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return list(pyarrow.parquet.ParquetFile(path).read().to_pylist())
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("suffix", writing.KINDS)
def test_a_table_of_predictions_says_what_predict_says(
    pipeline: Pipeline, clips: Path, tmp_path: Path, suffix: str
) -> None:
    done = predicting.predict(pipeline, clips, tmp_path / f"said{suffix}")
    rows = read(done.path)
    assert [row["file_name"] or None for row in rows] == [*(f"{i}.mp4" for i in range(8)), None]
    alone = pipeline.predict("clip number 2", clips / "2.mp4")[0]["shade"]
    assert isinstance(alone, dict)
    assert rows[2]["shade"] == max(alone, key=lambda name: alone[name])
    assert float(rows[2]["shade/dark"]) == pytest.approx(alone["dark"], abs=1e-4)
    assert not (tmp_path / f".said{suffix}.part").exists()


def test_other_columns_come_along(pipeline: Pipeline, clips: Path, tmp_path: Path) -> None:
    """Rows are known by what the table calls them; what the model answers takes the place of what the table says."""
    table = clips / "asked.csv"
    table.write_text(
        "file_name,id,shade,group,number,error\n0.mp4,a7,wrong,g,,none\n1.mp4,,wrong,,3,\n", encoding="utf-8"
    )
    done = predicting.predict(pipeline, table, tmp_path / "said.jsonl")
    first, second = read(done.path)
    assert list(first)[:8] == ["file_name", "text", "start", "end", "id", "group", "number", "error"]
    assert [first[name] for name in ("id", "group", "number", "error", "error_")] == ["a7", "g", None, "none", None]
    assert [second[name] for name in ("id", "group", "number", "error")] == [None, None, "3", None]
    assert first["shade"] in ("dark", "light", "bright") and done.why == "error_"


def test_interrupted_it_goes_on(
    pipeline: Pipeline, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = predicting.predict(pipeline, clips, tmp_path / "whole.jsonl").path.read_text()
    monkeypatch.setattr(predicting, "BATCH", 4)

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predicting.predict(pipeline, clips, tmp_path / "said.jsonl", stop)
    part = tmp_path / ".said.jsonl.part"
    with part.open("a") as file:
        file.write('{"torn": ')
    assert not (tmp_path / "said.jsonl").exists()
    monkeypatch.setattr(Pipeline, "clip", None)  # the rows that are left have none
    done = predicting.predict(pipeline, clips, tmp_path / "said.jsonl")
    assert (done.rows, done.failed) == (9, 0)
    before, after = (([json.loads(x) for x in t.splitlines()]) for t in (whole, done.path.read_text()))
    assert [row["shade"] for row in before] == [row["shade"] for row in after]
    assert before[0]["shade/dark"] == pytest.approx(after[0]["shade/dark"], abs=1e-5)


def test_a_broken_clip_takes_no_other_with_it(pipeline: Pipeline, clips: Path, tmp_path: Path) -> None:
    (clips / "3.mp4").write_bytes(b"not a clip")
    done = predicting.predict(pipeline, clips, tmp_path / "said.jsonl")
    rows = read(done.path)
    assert (done.rows, done.failed) == (9, 1)
    assert "3.mp4" in rows[3]["error"]
    assert rows[3]["shade"] is None
    assert all(row["shade"] in ("dark", "light") for i, row in enumerate(rows) if i != 3)


def test_a_folder_of_clips_needs_no_table(pipeline: Pipeline, clips: Path, tmp_path: Path) -> None:
    (clips / "metadata.csv").unlink()
    (clips / "deep").mkdir()
    (clips / "7.mp4").rename(clips / "deep" / "7.mp4")
    rows = read(predicting.predict(pipeline, clips, tmp_path / "said.csv").path)
    assert [row["file_name"] for row in rows] == [*(f"{i}.mp4" for i in range(7)), "deep/7.mp4"]


def test_what_can_not_be_predicted_is_said(pipeline: Pipeline, clips: Path, tmp_path: Path) -> None:
    for source, out, message in (
        (clips, tmp_path / "said.txt", "expected a name that ends in .csv"),
        (clips, tmp_path / "none" / "said.csv", "there is no folder"),
        (tmp_path / "none", tmp_path / "said.csv", "expected a folder of clips or a table"),
        (tmp_path / "run", tmp_path / "said.csv", "no clips in"),
    ):
        with pytest.raises(DataError, match=message):
            predicting.predict(pipeline, source, out)
    (tmp_path / ".said.csv.part").write_text('{"source": "elsewhere"}\n')
    with pytest.raises(DataError, match="belongs to another source, other rows or other weights"):
        predicting.predict(pipeline, clips, tmp_path / "said.csv")


def test_a_table_with_lists_is_read(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"text": "clip number 2", "seen_by": ["a", "b"]}\n', encoding="utf-8")
    done = predicting.predict(pipeline, tmp_path / "new.jsonl", tmp_path / "said.jsonl")
    assert (done.rows, done.failed) == (1, 0)


def trained(clips: Path, tmp_path: Path, header: str, targets: str) -> Pipeline:
    """A model of the clips under another header."""
    table = clips / "metadata.csv"
    lines = table.read_text(encoding="utf-8").splitlines()[1:]
    table.write_text("\n".join([header, *lines]), encoding="utf-8")
    recipe = Recipe.parse(RECIPE, [f"data.root={clips}", f"data.targets={targets}"])
    return Pipeline.load(train.start(recipe, tmp_path / "run", quiet=True).path)


def test_a_column_of_labels_may_be_called_error(clips: Path, tmp_path: Path) -> None:
    pipeline = trained(clips, tmp_path, "file_name,text,error,score,group,place", '["error"]')
    (clips / "3.mp4").write_bytes(b"not a clip")
    done = predicting.predict(pipeline, clips, tmp_path / "said.csv")
    rows = read(done.path)
    assert (done.failed, done.why) == (1, "error_")
    assert {row["error"] for number, row in enumerate(rows) if number != 3} <= {"dark", "light"}
    assert rows[3]["error"] == "" and "3.mp4" in rows[3]["error_"]
    assert not any(row["error_"] for number, row in enumerate(rows) if number != 3)


def test_columns_that_would_be_called_alike_are_refused(clips: Path, tmp_path: Path) -> None:
    pipeline = trained(clips, tmp_path, "file_name,text,shade,shade/dark,group,place", '["shade", "shade/dark"]')
    with pytest.raises(RunError, match="two columns 'shade/dark'"):
        predicting.predict(pipeline, clips, tmp_path / "said.csv")


def test_a_carriage_return_in_a_text_stays_in_its_cell(pipeline: Pipeline, clips: Path, tmp_path: Path) -> None:
    table = (clips / "metadata.csv").read_text().replace("clip number 1", '"one\rtwo"')
    (clips / "metadata.csv").write_text(table, encoding="utf-8", newline="")
    rows = read(predicting.predict(pipeline, clips, tmp_path / "said.csv").path)
    assert len(rows) == 9 and rows[1]["text"] == "one\rtwo"


def test_stopped_twice_at_once_it_still_goes_on(
    pipeline: Pipeline, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a single row is done; and lines that Unicode would break, and a character torn in two."""
    table = (clips / "metadata.csv").read_text().replace("clip number 1", "eins\u2028und 数字")
    (clips / "metadata.csv").write_text(table, encoding="utf-8")
    monkeypatch.setattr(predicting, "BATCH", 2)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "said.jsonl"
    lines = predicting._Reader.lines
    monkeypatch.setattr(predicting._Reader, "lines", lambda *_: stop(0, 0))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            predicting.predict(pipeline, clips, out)
    monkeypatch.setattr(predicting._Reader, "lines", lines)
    with pytest.raises(KeyboardInterrupt):
        predicting.predict(pipeline, clips, out, stop)
    with (tmp_path / ".said.jsonl.part").open("ab") as file:
        file.write("数".encode()[:2])
    done = predicting.predict(pipeline, clips, out)
    rows = [json.loads(line) for line in done.path.read_bytes().split(b"\n")[:-1]]
    assert [row["text"] for row in rows][1] == "eins\u2028und 数字"
    assert (len(rows), done.failed) == (9, 0)


def test_rows_that_changed_are_not_mixed(
    pipeline: Pipeline, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predicting, "BATCH", 2)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predicting.predict(pipeline, clips, tmp_path / "said.csv", stop)
    table = (clips / "metadata.csv").read_text().replace("clip number 1", "another one")
    (clips / "metadata.csv").write_text(table)
    with pytest.raises(DataError, match="belongs to another source, other rows"):
        predicting.predict(pipeline, clips, tmp_path / "said.csv")


def test_vectors_and_pictures_that_changed_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for name in ("frames/0.png", "a.npy", "b.npy"):
        (tmp_path / name).write_bytes(b"one")
    files = ["frames", "a.npy", "gone.mp4", "https://host.org/a.mp4", None]
    seen = changes.stamp(tmp_path, files)
    assert changes.stamp(tmp_path, files) == seen
    for name, other in (("frames/0.png", True), ("a.npy", True), ("b.npy", False)):
        (tmp_path / name).write_bytes(b"another")
        assert (changes.stamp(tmp_path, files) != seen) == other
        seen = changes.stamp(tmp_path, files)


def test_a_missing_file_is_told_in_its_row(pipeline: Pipeline, clips: Path, tmp_path: Path) -> None:
    (clips / "3.mp4").unlink()
    done = predicting.predict(pipeline, clips, tmp_path / "said.jsonl")
    assert done.failed == 1
    assert "3.mp4" in read(done.path)[3]["error"]


def test_no_table_is_written_over(pipeline: Pipeline, clips: Path) -> None:
    """Least of all the one that is read."""
    table = clips / "metadata.csv"
    before = table.read_bytes()
    with pytest.raises(DataError, match=r"out: .*metadata\.csv is there already; choose another name"):
        predicting.predict(pipeline, clips, table)
    assert table.read_bytes() == before
