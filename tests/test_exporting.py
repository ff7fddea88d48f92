"""What kinetext data export writes for FiftyOne. Where FiftyOne and its database are here, it is asked itself."""

from __future__ import annotations

import json
import mimetypes
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kinetext import cli, video
from kinetext.apps import exporting
from kinetext.manifest import Row
from kinetext.types import DataError


def exported(source: Path, out: Path) -> tuple[exporting.Exported, list[dict[str, Any]]]:
    done = exporting.export(source, out)
    return done, json.loads((out / "samples.json").read_text(encoding="utf-8"))["samples"]


def test_labels_splits_and_numbers_become_fields(clips: Path, tmp_path: Path) -> None:
    lines = (clips / "metadata.csv").read_text().splitlines()
    splits = ["split", *["train"] * 6, "val", "val", "val"]
    (clips / "metadata.csv").write_text("\n".join(f"{a},{b}" for a, b in zip(lines, splits, strict=True)))
    done, samples = exported(clips, tmp_path / "out")
    assert (done.samples, done.texts, done.others) == (8, 1, ())
    first = samples[0]
    assert first["filepath"] == str((clips / "0.mp4").resolve())
    assert (first["tags"], first["text"], first["group_name"], first["score"]) == (
        ["train"],
        "clip number 0",
        "person 0",
        0.0,
    )
    assert first["shade"] == {"_cls": "Classification", "label": "light"}
    assert first["metadata"] == {
        "_cls": "VideoMetadata", "size_bytes": (clips / "0.mp4").stat().st_size, "mime_type": "video/mp4", "frame_width": 32,
        "frame_height": 32, "frame_rate": 8.0, "total_frame_count": 4, "duration": 0.5,
    }  # fmt: skip
    assert (tmp_path / "out" / first["frames"]).is_file()
    assert "version" not in json.loads((tmp_path / "out" / "metadata.json").read_text())  # or it were another format


def test_parts_become_temporal_detections(clips: Path, tmp_path: Path) -> None:
    lines = [
        "file_name,text,start,end,label,split",
        "0.mp4,one,0,0.25,a,train",
        "0.mp4,二,0.25,,b,train",
        "1.mp4,,,,a,val",
    ]
    (clips / "metadata.csv").write_text("\n".join(lines))
    _, samples = exported(clips, tmp_path / "out")
    held = [(one["label"], one["support"]) for one in samples[0]["label"]["detections"]]
    assert held == [("a", [1, 2]), ("b", [3, 4])]
    assert [one["label"] for one in samples[0]["captions"]["detections"]] == ["one", "二"]
    assert [one["support"] for one in samples[1]["label"]["detections"]] == [[1, 4]]
    assert samples[0]["rows"] == [1, 2]


def test_the_frames_of_a_part_are_those_shown_in_it(tmp_path: Path) -> None:
    """By the times of the frames themselves."""
    info = video.VideoInfo(tmp_path, 60, 30.0, 2.0, 8, 8, 0)
    for start, end in ((0, 1), (0.1, 0.2), (1 / 3, 2 / 3), (0.5, None), (None, 0.7), (1.95, 9)):
        shown = [i + 1 for i in range(60) if (start or 0) - 1e-9 <= i / 30 < (end or 99) - 1e-9]
        row = Row(1, "a.mp4", None, start, end, "", "", 1.0, {})
        assert exporting.support(row, info) == [shown[0], shown[-1]]


def test_several_captions_and_classes_of_one_file_stay(clips: Path, tmp_path: Path) -> None:
    lines = [
        "file_name,text,label,id,where?",
        "0.mp4,one,a,1,here",
        "0.mp4,two,b,2,there",
        "1.mp4,three,a,3,up",
        "1.mp4,four,a,4,down",
    ]
    (clips / "metadata.csv").write_text("\n".join(lines))
    _, samples = exported(clips, tmp_path / "out")
    assert samples[0]["texts"] == ["one", "two"]
    assert [one["label"] for one in samples[0]["label"]["classifications"]] == ["a", "b"]
    assert [one["label"] for one in samples[1]["label"]["classifications"]] == ["a"]
    assert samples[0]["where_"] == ["here", "there"]  # no class twice: words
    assert samples[0]["id_"] == [1.0, 2.0]  # "id" is FiftyOne's own


def test_what_can_not_be_exported_is_told(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="format: 'coco', expected one of fiftyone"):
        exporting.export(clips, tmp_path / "out", "coco")
    with pytest.raises(DataError, match="is not an empty folder"):
        exporting.export(clips, clips)
    (clips / "a.png").touch()
    (clips / "metadata.csv").write_text("file_name\na.png\n0.mp4\n")
    done = CliRunner().invoke(cli.app, ["data", "export", str(clips), str(tmp_path / "out"), "--format", "fiftyone"])
    assert done.exit_code == 0
    assert "left out, no videos by their names to FiftyOne: 1 files (a.png)" in done.output
    (clips / "metadata.csv").write_text("file_name\na.png\n")
    with pytest.raises(DataError, match="names no video"):
        exporting.export(clips, tmp_path / "other")
    (clips / "broken.mp4").write_bytes(b"no clip")
    (clips / "metadata.csv").write_text("file_name\nbroken.mp4\n")
    with pytest.raises(video.VideoError, match=r"broken\.mp4"):
        exporting.export(clips, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_which_files_are_videos_does_not_depend_on_the_machine(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that Python knows by itself are; so are those that most machines know; what many take for text or sound is not."""
    for name in ("a.MKV", "b.ts", "c.3gp", "d.mov"):
        shutil.copy(clips / "0.mp4", clips / name)
    (clips / "metadata.csv").write_text("file_name\na.MKV\nb.ts\nc.3gp\nd.mov\n")
    for name, known in (("as_here", None), ("bare", mimetypes.MimeTypes(()))):
        if known:
            monkeypatch.setattr(mimetypes, "guess_type", known.guess_type)
        done, samples = exported(clips, tmp_path / name)
        assert done.others == ("b.ts", "c.3gp")
        assert [one["metadata"]["mime_type"] for one in samples] == ["video/x-matroska", "video/quicktime"]


@pytest.mark.skipif(find_spec("fiftyone") is None, reason="fiftyone is not installed")
def test_fiftyone_reads_it(clips: Path, tmp_path: Path) -> None:
    import fiftyone

    exporting.export(clips, tmp_path / "out")
    made = fiftyone.Dataset.from_dir(str(tmp_path / "out"), dataset_type=fiftyone.types.FiftyOneDataset)
    assert made.media_type == "video"
    assert sorted(made.distinct("shade.label")) == ["dark", "light"]
