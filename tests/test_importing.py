"""Annotations in every format that well-known datasets ship become tables, and what does not fit is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kinetext import cli
from kinetext.apps.importing import convert
from kinetext.manifest import Manifest, load
from kinetext.types import DataError


def tree(root: Path, files: Mapping[str, str] | str) -> Path:
    """Files with what is in them, or empty files by name."""
    for name, text in (dict.fromkeys(files.split(), "") if isinstance(files, str) else files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def table(kind: str, lists: Path, videos: Path, **options: Any) -> Manifest:
    done = convert(kind, lists, videos, None, **options)
    assert done.path == videos / "metadata.csv"
    made = load(videos)
    assert len(made.rows) == done.rows["rows"]
    return made


KINETICS = """label,youtube_id,time_start,time_end,split,is_cc
abseiling,-3B32lodo2M,59,69,train,0
"air drumming",_dbcJuKJQNs,40,50,validate,0
air drumming,cutShort123,7,17,test,0
"""


def test_kinetics(tmp_path: Path) -> None:
    tree(tmp_path, {"train.csv": KINETICS})
    videos = tree(
        tmp_path / "v", "abseiling/-3B32lodo2M_000059_000069.mp4 _dbcJuKJQNs_000040_000050.mp4 cutShort123.mkv"
    )
    made = table("kinetics", tmp_path / "train.csv", videos)
    assert [(r.file, r.labels, r.start, r.end, r.group, r.split) for r in made.rows] == [
        ("abseiling/-3B32lodo2M_000059_000069.mp4", {"label": "abseiling"}, None, None, "-3B32lodo2M", "train"),
        ("_dbcJuKJQNs_000040_000050.mp4", {"label": "air drumming"}, None, None, "_dbcJuKJQNs", "val"),
        ("cutShort123.mkv", {"label": "air drumming"}, 7, 17, "cutShort123", "test"),
    ]


def test_kinetics_without_labels(tmp_path: Path) -> None:
    tree(tmp_path, {"test.csv": "youtube_id,time_start,time_end,split\nabc,1,11,test\n", "v/abc.mp4": ""})
    (row,) = table("kinetics", tmp_path / "test.csv", tmp_path / "v").rows
    assert (row.labels, row.start, row.split) == ({}, 1, "test")


UCF = {
    "classInd.txt": "1 ApplyEyeMakeup\r\n2 Archery\r\n",
    "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nArchery/v_Archery_g09_c02.avi 2\n",
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
    "trainlist02.txt": "",
}


@pytest.mark.parametrize("flat", [True, False])
def test_ucf101(tmp_path: Path, flat: bool) -> None:
    lists = tree(tmp_path / "lists", UCF)
    names = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi Archery/v_Archery_g09_c02.avi ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
    videos = tree(tmp_path / "v", " ".join(n.split("/")[1] for n in names.split()) if flat else names)
    made = table("ucf101", lists / "trainlist01.txt", videos)
    assert [(r.labels["label"], r.group, r.split) for r in made.rows] == [
        ("ApplyEyeMakeup", "ApplyEyeMakeup g08", "train"),
        ("Archery", "Archery g09", "train"),
        ("ApplyEyeMakeup", "ApplyEyeMakeup g01", "test"),
    ]
    with pytest.raises(DataError, match=r"expected one of its lists: trainlist01\.txt, trainlist02\.txt"):
        convert("ucf101", lists, videos, tmp_path / "other.csv")
    tree(lists, {"trainlist01.txt": "Archery/v_Archery_g09_c02.avi 1\n"})
    with pytest.raises(DataError, match=r"line 1 is 'Archery/v_Archery_g09_c02\.avi 1', expected .* the number"):
        convert("ucf101", lists / "trainlist01.txt", videos, tmp_path / "other.csv")


def test_hmdb51(tmp_path: Path) -> None:
    lists = tree(
        tmp_path / "lists",
        {
            "brush_hair_test_split1.txt": "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1 \n#20_Rhythm_brush_hair_f_0.avi 2 \nno.avi 0 \n",
            "wave_test_split1.txt": "a&b_wave_0.avi 2 \n",
            "wave_test_split2.txt": "a&b_wave_0.avi 1 \n",
        },
    )
    videos = tree(
        tmp_path / "v",
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi brush_hair/#20_Rhythm_brush_hair_f_0.avi wave/a&b_wave_0.avi",
    )
    done = convert("hmdb51", lists / "wave_test_split1.txt", videos, None)
    assert done.notes == ("left out by the list itself: 1 entries",)
    assert [(r.labels["label"], r.split) for r in load(videos).rows] == [
        ("brush_hair", "train"), ("brush_hair", "test"), ("wave", "test"),
    ]  # fmt: skip


def test_msrvtt(tmp_path: Path) -> None:
    raw = {
        "info": {"year": "2016"},
        "videos": [
            {"category": 9, "url": "https://x", "video_id": "video0", "start time": 137.72, "end time": 149.44, "split": "train", "id": 0},
            {"category": 3, "url": "https://y", "video_id": "video1", "start time": 1.0, "end time": 9.0, "split": "validate", "id": 1},
        ],
        "sentences": [
            {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
            {"caption": "一个人唱歌", "video_id": "video1", "sen_id": 1},
            {"caption": "a red car ", "video_id": "video0", "sen_id": 2},
        ],
    }  # fmt: skip
    tree(tmp_path, {"train_val_videodata.json": json.dumps(raw)})
    videos = tree(tmp_path / "TrainValVideo", "video0.mp4 video1.mp4")
    made = table("msrvtt", tmp_path / "train_val_videodata.json", videos)
    assert [(r.file, r.text, r.labels["category"], r.split, r.start) for r in made.rows] == [
        ("video0.mp4", "a car is shown", "9", "train", None),
        ("video1.mp4", "一个人唱歌", "3", "val", None),
        ("video0.mp4", "a red car", "9", "train", None),
    ]


def test_activitynet(tmp_path: Path) -> None:
    database = {
        "abc": {"duration": 82.7, "subset": "training", "resolution": "320x240", "url": "https://x",
                "annotations": [{"segment": [0.01, 10.64], "label": "Zumba"}, {"segment": [20, 30], "label": "Zumba"}]},
        "def": {"duration": 9, "subset": "testing", "annotations": []},
        "ghi": {"duration": 9, "subset": "validation", "annotations": [{"segment": [1, 2.5], "label": "Archery"}]},
    }  # fmt: skip
    tree(tmp_path, {"activity_net.v1-3.min.json": json.dumps({"version": "1.3", "taxonomy": [], "database": database})})
    videos = tree(tmp_path / "v", "v_abc.mp4 def.mkv v_ghi.webm")
    made = table("activitynet", tmp_path / "activity_net.v1-3.min.json", videos)
    assert [(r.file, r.labels.get("label"), r.start, r.end, r.split) for r in made.rows] == [
        ("v_abc.mp4", "Zumba", 0.01, 10.64, "train"), ("v_abc.mp4", "Zumba", 20, 30, "train"),
        ("def.mkv", None, None, None, "test"), ("v_ghi.webm", "Archery", 1, 2.5, "val"),
    ]  # fmt: skip


def test_activitynet_captions(tmp_path: Path) -> None:
    raw = {
        "v_abc": {
            "duration": 82.73,
            "timestamps": [[0.83, 19.86], [60, 17.37]],
            "sentences": ["A woman speaks.", " She goes. "],
        }
    }
    tree(tmp_path, {"val_1.json": json.dumps(raw)})
    videos = tree(tmp_path / "v", "v_abc.mp4")
    with pytest.raises(
        DataError, match=r"1 entries can't be used: v_abc, sentence 2: start 60 s, expected less than end"
    ):
        convert("activitynet", tmp_path / "val_1.json", videos, None)
    made = table("activitynet", tmp_path / "val_1.json", videos, missing="skip")
    assert [(r.text, r.start, r.end, r.split) for r in made.rows] == [("A woman speaks.", 0.83, 19.86, "val")]


MELD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


def test_meld(tmp_path: Path) -> None:
    """Every part numbers its dialogues anew; folders tell them apart."""
    lists = tree(
        tmp_path / "lists",
        {
            "train_sent_emo.csv": MELD + '1,"Oh, no!",Joey,surprise,negative,0,0,8,21,"00:16:16,059","00:16:21,731"\n',
            "dev_sent_emo.csv": MELD + '1,Hi.,Ross,neutral,neutral,0,0,1,1,"00:00:01,000","00:00:02,000"\n',
            "test_sent_emo.csv": MELD + '1,Why?,Mark,joy,positive,0,0,3,19,"00:14:38,127","00:14:40,378"\n',
        },
    )
    videos = tree(
        tmp_path / "MELD.Raw",
        "train_splits/dia0_utt0.mp4 dev_splits_complete/dia0_utt0.mp4 output_repeated_splits_test/dia0_utt0.mp4",
    )
    made = table("meld", lists, videos)
    assert [(r.file, r.text, r.labels, r.group, r.split) for r in made.rows] == [
        ("train_splits/dia0_utt0.mp4", "Oh, no!", {"emotion": "surprise", "sentiment": "negative", "speaker": "Joey"}, "train dialogue 0", "train"),
        ("dev_splits_complete/dia0_utt0.mp4", "Hi.", {"emotion": "neutral", "sentiment": "neutral", "speaker": "Ross"}, "dev dialogue 0", "val"),
        ("output_repeated_splits_test/dia0_utt0.mp4", "Why?", {"emotion": "joy", "sentiment": "positive", "speaker": "Mark"}, "test dialogue 0", "test"),
    ]  # fmt: skip
    one = convert("meld", lists / "dev_sent_emo.csv", videos / "dev_splits_complete", None)
    assert one.rows == {"rows": 1, "val": 1}


def test_a_file_of_another_part_is_no_file_of_this_one(tmp_path: Path) -> None:
    """The only file of that name is of train; an entry of dev that has none must not take it."""
    utterance = "1,Hi,Joey,joy,positive,0,{},1,1,0,1\n"
    lists = tree(
        tmp_path / "lists",
        {
            "train_sent_emo.csv": MELD + utterance.format(0),
            "dev_sent_emo.csv": MELD + utterance.format(0) + utterance.format(1),
            "test_sent_emo.csv": MELD + utterance.format(2),
        },
    )
    videos = tree(tmp_path / "latest", "train_splits/dia0_utt0.mp4 dev_splits/dia0_utt1.mp4 contest/dia0_utt2.mp4")
    with pytest.raises(DataError, match=r"1 files are not in .*: dia0_utt0"):
        convert("meld", lists, videos, None)
    made = table("meld", lists, videos, missing="skip")
    assert [(row.file, row.split) for row in made.rows] == [
        ("train_splits/dia0_utt0.mp4", "train"),
        ("dev_splits/dia0_utt1.mp4", "val"),
        ("contest/dia0_utt2.mp4", "test"),  # a folder that says nothing
    ]


def test_files_that_can_not_be_told_apart_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, {"train_sent_emo.csv": MELD + "1,Hi,Joey,joy,positive,0,0,1,1,0,1\n"})
    videos = tree(tmp_path / "v", "a/dia0_utt0.mp4 b/dia0_utt0.mp4")
    with pytest.raises(DataError, match=r"row 1: 2 files are named dia0_utt0"):
        convert("meld", tmp_path / "train_sent_emo.csv", videos, None, missing="skip")


def test_mosi(tmp_path: Path) -> None:
    text = (
        "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
        "03bSnISJMiM,1,ANYHOW IT WAS REALLY GOOD,2.4000000954,,,,Positive,train\n"
        "03bSnISJMiM,11,THEY DIDN'T REALLY DO A WHOLE BUNCH,-1.0,,,,Negative,train\n"
        "0h-zjBukYpk,1,THE FILM,0.0,,,,Neutral,valid\n"
    )
    tree(tmp_path, {"label.csv": text})
    videos = tree(tmp_path / "Raw", "03bSnISJMiM/1.mp4 03bSnISJMiM/11.mp4 0h-zjBukYpk/1.mp4")
    made = table("mosi", tmp_path / "label.csv", videos)
    assert [(r.file, r.labels, r.group, r.split) for r in made.rows] == [
        ("03bSnISJMiM/1.mp4", {"score": "2.4000000954", "label": "Positive"}, "03bSnISJMiM", "train"),
        ("03bSnISJMiM/11.mp4", {"score": "-1.0", "label": "Negative"}, "03bSnISJMiM", "train"),
        ("0h-zjBukYpk/1.mp4", {"score": "0.0", "label": "Neutral"}, "0h-zjBukYpk", "val"),
    ]


def test_missing_files_are_never_dropped_in_silence(tmp_path: Path) -> None:
    tree(tmp_path, {"train.csv": KINETICS})
    videos = tree(tmp_path / "v", "cutShort123.mkv extra.mp4")
    with pytest.raises(DataError, match=r"2 files are not in .*: -3B32lodo2M_000059_000069, .*; --missing skip leaves"):
        convert("kinetics", tmp_path / "train.csv", videos, None)
    assert not (videos / "metadata.csv").exists()
    words = ["data", "import", "kinetics", str(tmp_path / "train.csv"), "--videos", str(videos), "--missing", "skip"]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0
    assert "v: 2 files (-3B32lodo2M_000059_000069, _dbcJuKJQNs_000040_000050)" in done.output
    assert "not named by the list: 1 file (extra.mp4)" in done.output
    assert [row.file for row in load(videos).rows] == ["cutShort123.mkv"]
    with pytest.raises(DataError, match=r"metadata\.csv is there already"):
        convert("kinetics", tmp_path / "train.csv", videos, None, missing="skip")
    with pytest.raises(DataError, match="3 files are not in"):
        convert("kinetics", tmp_path / "train.csv", tree(tmp_path / "w", "x.mp4"), None, missing="skip")


def test_a_leak_of_the_list_is_told(tmp_path: Path) -> None:
    tree(tmp_path, {"a.csv": "label,youtube_id,time_start,time_end,split\nx,one,0,5,train\ny,one,5,9,val\n"})
    done = convert("kinetics", tmp_path / "a.csv", tree(tmp_path / "v", "one.mp4"), None)
    assert "will be refused until it is mended" in done.notes[0]
    assert "group 'one' is in train, val" in done.notes[0]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("kinetiks", "", r"kind: 'kinetiks', did you mean 'kinetics'\?, expected one of activitynet"),
        ("kinetics", "label,youtube_id\n", "no column 'time_start'"),
        ("kinetics", "youtube_id,time_start,time_end\na,x,2\n", "row 1: time_start 'x', expected a number"),
        ("kinetics", "youtube_id,time_start,time_end\na,1\n", "row 1 has not as many cells"),
        ("kinetics", "youtube_id,time_start,time_end,split\na,1,2,tarin\n", "row 1: split 'tarin', expected one of"),
        ("kinetics", "youtube_id,time_start,time_end\n", "names no clips"),
        ("kinetics", '"youtube_id"x,time_start,time_end\na,1,2\n', "not a table"),
        ("kinetics", "youtube_id,time_start,time_end\na,0,inf\n", "row 1: time_end 'inf', expected a number"),
        ("msrvtt", "[" * 100_000, "not JSON .*recursion"),
        ("msrvtt", "[]", "expected an object with videos, sentences"),
        ("msrvtt", "{", "not JSON"),
        (
            "msrvtt",
            '{"videos": [], "sentences": [{"video_id": "v", "caption": "x"}]}',
            "'v', which is not among its videos",
        ),
        ("msrvtt", '{"videos": [{}], "sentences": []}', r"no list of msrvtt \(KeyError"),
        ("activitynet", '{"x": 1}', "'x' has no timestamps and sentences"),
        ("hmdb51", "", r"expected one of its lists, such as brush_hair_test_split1\.txt"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, kind: str, text: str, message: str) -> None:
    path = tree(tmp_path, {"list": text, "v/a.mp4": ""}) / "list"
    with pytest.raises(DataError, match=message):
        convert(kind, path, tmp_path / "v", None)
