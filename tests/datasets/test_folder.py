"""A folder of clips and texts as samples: right frames, right labels, augmentation in training only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kinetext import video
from kinetext.datasets.folder import Folder
from kinetext.datasets.loader import Collate, plain_loader
from kinetext.text import Tokenizer
from kinetext.types import DataError

TABLE = """file_name,text,start,end,group,split,weight,label,tags,title
a.mp4,a kick,,,g1,train,2,kick,fast|low,Kick one
b.mp4,,1,2,g2,train,,hug,,
c.mp4,a fall,,,g3,val,,,slow,Fall
,only words,,,g4,train,0.5,kick,,
d.mp4,un coup,,,g5,val,1,point,fast,
"""


def ramp(base: int, num_frames: int = 20) -> Tensor:
    """Frame i has a left half of grey base + 4 i, and a right half that is 40 brighter."""
    grey = (torch.arange(num_frames) * 4 + base).to(torch.uint8)
    clip = grey[:, None, None, None].repeat(1, 32, 32, 3)
    clip[:, :, 16:] += 40
    return clip


def numbers(clip: Tensor, base: int) -> list[int]:
    """The frame numbers that a clip of ``ramp`` shows, from its darkest quarter."""
    grey = (clip[0].flatten(1).quantile(0.25, dim=1) + 1) * 127.5
    return [round(float(level - base) / 4) for level in grey]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    for index, name in enumerate("abcd"):
        video.write(root / f"{name}.mp4", ramp(20 * index), fps=5)
    (root / "metadata.csv").write_text(TABLE, encoding="utf-8")
    return root


def test_rows_become_samples(root: Path) -> None:
    data = Folder(root=str(root), targets=("label", "tags"), multi=("tags",), num_frames=4, size=16)
    assert len(data) == 3
    assert data.video_shape == (3, 4, 16, 16)
    label, tags = data.targets
    assert (label.classes, label.multi) == (("hug", "kick", "point"), False)  # "point" is in val only
    assert (tags.classes, tags.multi) == (("fast", "low", "slow"), True)
    first, second, third = (data[i] for i in range(3))
    assert (first.key, first.text, first.weight) == ("a.mp4", "a kick", 2.0)
    assert first.labels == {"label": ("kick",), "tags": ("fast", "low")}
    assert first.video is not None and first.video.shape == (3, 4, 16, 16)
    assert numbers(first.video, 0) == [2, 7, 12, 17]
    assert (second.key, second.text, second.labels) == ("b.mp4#t=1,2", None, {"label": ("hug",)})
    assert second.video is not None and numbers(second.video, 20) == [5, 6, 8, 9]
    assert (third.key, third.text, third.video, third.weight) == ("row 4", "only words", None, 0.5)
    assert data.counts("label") == (1, 2, 0)
    assert data.counts("tags") == (1, 1, 0)
    assert list(data.texts()) == ["a kick", "only words"]
    assert Folder(root=str(root), split="val", num_frames=4, size=16, targets=("label",)).counts("label") == (0, 0, 1)


def test_another_column_may_be_the_text(root: Path) -> None:
    titles = Folder(root=str(root), text="title", num_frames=1, size=8)
    assert [titles[i].text for i in range(3)] == ["Kick one", None, None]
    assert list(titles.texts()) == ["Kick one"]
    silent = Folder(root=str(root), text="", num_frames=1, size=8)
    assert [silent[i].text for i in range(3)] == [None] * 3


def test_fps_is_said_where_clips_are_equally_long(root: Path) -> None:
    assert Folder(root=str(root), split="val", num_frames=8).fps == pytest.approx(2.0)  # 8 frames over 4 s
    assert Folder(root=str(root), num_frames=8).fps == 0.0  # one row is 1 s, one 4 s
    assert Folder(root=str(root), num_frames=8, clip_seconds=1.0).fps == pytest.approx(8.0)


def test_an_item_is_a_function_of_seed_and_draw(root: Path) -> None:
    def make(seed: int, cache: bool) -> Folder:
        return Folder(root=str(root), num_frames=4, size=16, flip=True, crop_jitter=0.4, seed=seed, cache=cache)

    data, fresh, other = make(0, True), make(0, False), make(1, True)
    draws = [7, 0, 3, 0, 6]  # epochs and repeats in any order
    clips = [data[draw].video for draw in draws]
    for draw, clip in zip(draws, clips, strict=True):
        again = fresh[draw].video
        assert clip is not None and again is not None
        assert torch.equal(clip, again)  # from the cache or from the file
        assert clip.shape == (3, 4, 16, 16) and clip.abs().max() <= 1
    assert not torch.equal(data[0].video, data[3].video)  # type: ignore[arg-type]
    assert any(not torch.equal(data[d].video, other[d].video) for d in (0, 3, 6))  # type: ignore[arg-type]


def test_random_windows_in_training_only(root: Path) -> None:
    options = {"num_frames": 5, "size": 8, "sampling": "random", "clip_seconds": 1.0}
    train = Folder(root=str(root), **options)  # type: ignore[arg-type]
    starts = set()
    for epoch in range(40):
        clip = train[epoch * len(train)].video
        assert clip is not None
        shown = numbers(clip, 0)
        assert shown == list(range(shown[0], shown[0] + 5))
        starts.add(shown[0])
    assert len(starts) > 8 and min(starts) >= 0 and max(starts) <= 15
    val = Folder(root=str(root), split="val", **options)  # type: ignore[arg-type]
    for epoch in range(3):
        clip = val[epoch * len(val)].video
        assert clip is not None
        assert numbers(clip, 40) == [7, 8, 9, 10, 11]


def test_mirroring_and_cropping_in_training_only(root: Path) -> None:
    train = Folder(root=str(root), num_frames=2, size=16, flip=True)
    plain = Folder(root=str(root), num_frames=2, size=16)[0].video
    assert plain is not None
    mirrored = 0
    for epoch in range(40):
        clip = train[3 * epoch].video
        assert clip is not None
        assert torch.equal(clip, plain) or torch.equal(clip, plain.flip(-1))
        mirrored += torch.equal(clip, plain.flip(-1))
    assert 10 < mirrored < 30
    val = Folder(root=str(root), split="val", num_frames=2, size=16, flip=True, crop_jitter=0.5)
    still = Folder(root=str(root), split="val", num_frames=2, size=16)[0].video
    assert still is not None
    assert all(torch.equal(val[2 * epoch].video, still) for epoch in range(5))  # type: ignore[arg-type]


def test_random_crops_move_and_scale_the_picture(root: Path) -> None:
    data = Folder(root=str(root), num_frames=1, size=16, crop_jitter=0.5)
    edges = set()
    for epoch in range(30):
        clip = data[3 * epoch].video
        assert clip is not None
        row = clip[0, 0, 8]
        edges.add(int((row > row.mean()).sum()))  # bright columns: the edge between the halves wanders
    assert min(edges) < 7 and max(edges) > 9


def test_the_cache_reads_a_file_once(root: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,split\na.mp4,train\n")
    (tmp_path / "a.mp4").write_bytes((root / "a.mp4").read_bytes())
    kept = Folder(root=str(tmp_path), num_frames=4, size=16)
    read = Folder(root=str(tmp_path), num_frames=4, size=16, cache=False)
    first = kept[0].video
    assert first is not None and torch.equal(first, read[0].video)  # type: ignore[arg-type]
    (tmp_path / "a.mp4").unlink()
    assert torch.equal(first, kept[1].video)  # type: ignore[arg-type]
    with pytest.raises(video.VideoError, match=r"a\.mp4: No such file"):
        read[0]


def test_workers_give_the_same_batches(root: Path) -> None:
    def batches(workers: int) -> list[Tensor]:
        data = Folder(root=str(root), targets=("label",), num_frames=2, size=8, flip=True)
        words = Tokenizer.train(data.texts(), "word")
        collate = Collate(words, data.targets, data.video_shape)
        return [batch.video for batch in plain_loader(data, collate, batch=2, workers=workers)]

    alone, helped = batches(0), batches(2)
    assert len(alone) == 2
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_a_broken_clip_in_a_worker_keeps_its_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,split\na.mp4,train\nbroken.mp4,train\n")
    (tmp_path / "a.mp4").write_bytes((root / "a.mp4").read_bytes())
    (tmp_path / "broken.mp4").write_bytes((root / "b.mp4").read_bytes())
    data = Folder(root=str(tmp_path), num_frames=1, size=8, cache=False)
    (tmp_path / "broken.mp4").write_bytes(b"no clip any more")
    collate = Collate(None, data.targets, data.video_shape)
    with pytest.raises(video.VideoError, match=r"broken\.mp4: not a video") as error:
        list(plain_loader(data, collate, batch=1, workers=1))
    assert "\n" not in str(error.value)


def test_images_and_words_alone(tmp_path: Path) -> None:
    video.write_png(tmp_path / "a.png", torch.full((1, 20, 30, 3), 200, dtype=torch.uint8))
    (tmp_path / "metadata.csv").write_text("file_name,text,split\na.png,grey,train\n")
    image = Folder(root=str(tmp_path), num_frames=3, size=8, channels=1)
    assert image.video_shape == (1, 3, 8, 8) and image.fps == 0.0
    clip = image[0].video
    assert clip is not None and video.to_bytes(clip).unique().tolist() == [200]
    (tmp_path / "metadata.csv").write_text("text,split\ngrey,train\n")
    words = Folder(root=str(tmp_path))
    assert (words.video_shape, words.fps, words[0].video, words[0].text) == (None, 0.0, None, "grey")


def test_a_table_without_splits_gets_them(tmp_path: Path) -> None:
    lines = [f"text {i},{'ab'[i % 2]}" for i in range(10)]
    (tmp_path / "metadata.csv").write_text("\n".join(["text,label", *lines]))
    sizes = [len(Folder(root=str(tmp_path), split=split, targets=("label",))) for split in ("train", "val", "test")]
    assert sizes == [8, 1, 1]
    assert (tmp_path / "splits.csv").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "nowhere"}, "root: no folder 'nowhere'"),
        ({"split": "dev"}, "split: 'dev', expected one of train, val, test"),
        ({"split": "test"}, r"split: .*metadata\.csv has no test rows; it has {'train': 3, 'val': 2, 'test': 0}"),
        ({"text": "titel"}, r"text: .* no text column 'titel', did you mean 'title'\?"),
        ({"text": "group"}, "no text column 'group'"),
        ({"targets": ("labels",)}, r"no label column 'labels', did you mean 'label'\?"),
        ({"multi": ("tags",)}, "multi: 'tags' is not one of targets"),
        ({"num_frames": 0}, "num_frames: 0, expected 1"),
        ({"size": 0}, "size: 0, expected 1"),
        ({"channels": 4}, "channels: 4, expected one of 1, 3"),
        ({"fit": "zoom"}, "fit: 'zoom'"),
        ({"sampling": "random"}, "'random' needs clip_seconds"),
        ({"sampling": "dense"}, "sampling: 'dense'"),
        ({"clip_seconds": -1.0}, r"clip_seconds: -1\.0"),
        ({"crop_jitter": 0.9}, r"crop_jitter: 0\.9, expected 0 to 0\.8"),
        ({"manifest": "other.csv"}, "manifest: no file"),
    ],
)
def test_options_out_of_range_are_named(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Folder(**{"root": str(root)} | options)  # type: ignore[arg-type]


def test_a_row_may_name_a_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "walk").mkdir()
    for number, frame in enumerate(ramp(0)):
        video.write_png(tmp_path / "walk" / f"{number}.png", frame[None])
    (tmp_path / "metadata.csv").write_text("file_name,label,split,start\nwalk,go,train,\nwalk,go,val,0.4\n")
    data = Folder(root=str(tmp_path), targets=("label",), num_frames=4, size=16)
    clip = data[0].video
    assert clip is not None
    assert numbers(clip, 0) == [2, 7, 12, 17]
    before = data.fingerprint(0)
    video.write_png(tmp_path / "walk" / "3.png", ramp(9)[:1])
    assert data.fingerprint(0) != before
    later = Folder(root=str(tmp_path), targets=("label",), num_frames=2, size=16, split="val")[0].video
    assert later is not None
    assert numbers(later, 0) == [12, 17]  # of 10 to 19
