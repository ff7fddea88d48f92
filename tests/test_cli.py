from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kinetext
from kinetext import video
from kinetext.cli import main
from kinetext.manifest import load

PROMPT = "the digit 3 is moving up and down"
READER = """
task.name = "classification"
encoders.video = { name = "frame_cnn", dim = 16, width = 4, depth = 1 }
data = { name = "digits", clips = 8 }
train = { steps = 2, batch = 2, log_every = 1 }
"""

Cli = Callable[..., SimpleNamespace]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Runs a command in this process; says its exit code and what it wrote."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["kinetext", *map(str, words)])
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # the tests turn warnings into errors, users see them
            with pytest.raises(SystemExit) as stop:
                main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=stop.value.code or 0, out=out, err=err)

    before = warnings.showwarning
    yield call
    warnings.showwarning = before


def refused(done: SimpleNamespace, message: str) -> None:
    """One clear line on stderr, exit code 2."""
    assert done.code == 2, done
    assert done.err.startswith("kinetext: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_version_and_module() -> None:
    done = subprocess.run([sys.executable, "-m", "kinetext", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"kinetext {kinetext.__version__}\n"


def test_help_names_every_verb(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    for verb in (
        "generate",
        "interpolate",
        "predict",
        "embed",
        "train",
        "evaluate",
        "data",
        "list",
        "demo",
        "reproduce",
        "pack",
    ):
        assert verb in done.out
        assert cli(verb, "--help").code == 0


def test_generate_and_reproduce(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    asked = ("generate", PROMPT, "--model", runs.maker, "-o", out, "--seed", 4, "--num", 2, "--guidance", 2)
    done = cli(*asked)
    first, second = tmp_path / "clip-0.mp4", tmp_path / "clip-1.mp4"
    assert (done.code, done.out) == (0, f"{first}\n{second}\n")
    said = video.read_provenance(second)
    assert said is not None
    assert (said["prompt"], said["seed"], said["index"], said["guidance"]) == (PROMPT, 4, 1, 2.0)
    before = second.read_bytes()
    first.unlink()
    done = cli(*asked)
    assert done.out == f"{first}\n{second}\n"
    assert done.err == f"{second}: was there already, made in the very same way; it stays as it is\n"
    assert second.read_bytes() == before
    assert cli(*asked, "--steps", 1).err == ""  # both are made anew
    assert second.read_bytes() != before

    done = cli("reproduce", second)
    assert done.code == 0
    assert "identical" in done.out
    frames, fps = video.read_all(second)
    video.write(second, 255 - frames, fps=fps, provenance=said)
    done = cli("reproduce", second)
    assert done.code == 1
    assert "pixels differ by up to" in done.out
    video.write(second, frames, fps=fps)
    refused(cli("reproduce", second), "does not say how it was made")


def test_generate_refuses(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    model = ("--model", runs.maker, "-o", tmp_path / "a.mp4")
    refused(cli("generate", "", *model), "prompt: empty")
    refused(cli("generate", "cat", *model), "knows no word of 'cat'")
    refused(cli("generate", "cat", "-o", tmp_path / "a.mp4"), "digits knows no word of 'cat'")
    refused(cli("generate", PROMPT, *model, "--steps", 0), "steps: 0, expected 1 to 1000")
    refused(cli("generate", PROMPT, *model, "--num", 0), "num: 0")
    refused(cli("generate", PROMPT, "--model", runs.maker, "-o", tmp_path / "a.avi"), "ends in .mp4")
    refused(cli("generate", PROMPT, "--model", runs.maker, "-o", tmp_path / "no" / "a.mp4"), "there is no folder")
    refused(cli("generate", PROMPT, "--model", runs.reader, "-o", tmp_path / "a.mp4"), "expected text_to_video")
    refused(cli("generate", PROMPT, *model, "--fps", 3.14159265), "fps: 3.14159265 can't be kept exactly")
    for device in ("foo", "cuda:99", "meta", "hpu"):
        refused(cli("generate", PROMPT, *model, "--device", device), f"device: '{device}', expected one of cpu")
    refused(cli("generate", PROMPT, "--model", "diggits"), "diggits: neither a run folder nor a shipped model")
    assert list(tmp_path.iterdir()) == []
    assert cli("generate", PROMPT, "--steps", "many").code == 2


def test_generate_from_files(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    """Every option reaches the clip's own account of itself."""
    picture, clip, out = tmp_path / "a.png", tmp_path / "a.mp4", tmp_path / "out.mp4"
    frames = torch.randint(0, 256, (16, 64, 64, 1), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    video.write(clip, frames, fps=8)
    video.write_png(picture, frames[:1])

    def made(*options: object) -> dict[str, object]:
        done = cli("generate", PROMPT, "--model", runs.maker, "--steps", 1, "-o", out, *options)
        assert (done.code, done.out, done.err) == (0, f"{out}\n", "")
        return video.read_provenance(out) or {}

    said = made("--image", picture, "--seconds", 3, "--history", 5)
    assert said["image"] == {"path": str(picture), "sha256": sha256(picture)}
    assert (said["num_frames"], said["history"]) == (24, 5)
    said = made("--video", clip, "--keep", 4)
    assert (said["video"], said["keep"]) == ({"path": str(clip), "sha256": sha256(clip)}, 4)
    said = made("--change", clip, "--strength", 0.4, "--mask", picture)
    assert (said["change"], said["mask"], said["strength"]) == (
        {"path": str(clip), "sha256": sha256(clip)}, {"path": str(picture), "sha256": sha256(picture)}, 0.4,
    )  # fmt: skip
    assert made("--negative", "digit 5", "--guidance", 2)["negative"] == "digit 5"
    assert cli("reproduce", out).out.endswith("identical: every frame is the same\n")

    done = cli("generate", PROMPT, "--model", runs.maker, "--steps", 1, "-o", out, "--seeds", "5,7", "--batch", 2)
    assert done.out == f"{tmp_path / 'out-0.mp4'}\n{tmp_path / 'out-1.mp4'}\n"
    said = video.read_provenance(tmp_path / "out-1.mp4") or {}
    assert (said["seed"], said["index"], said["batch"], said["row"]) == (7, 0, 2, 1)

    for options, message in (
        (("--seeds", "5,x"), "--seeds 5,x: expected whole numbers with commas between"),
        (("--seeds", "5,7", "--num", 3), "seeds: 2 are given"),
        (("--image", picture, "--video", clip), "image and video: both are given"),
        (("--image", tmp_path / "no.png"), "image: "),
    ):
        done = cli("generate", PROMPT, "--model", runs.maker, *options)
        assert done.code == 2 and message in done.err.replace("\n", " "), done


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_interpolate(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    cli("generate", PROMPT, "--model", runs.maker, "--steps", 1, "-o", clip)
    done = cli("interpolate", clip, "--steps", 1)
    more = tmp_path / "clip-x2.mp4"
    assert (done.code, done.out) == (0, f"{more}\n")
    said = video.read_provenance(more) or {}
    assert (said["prompt"], said["model"], said["factor"]) == (
        PROMPT,
        str(runs.maker),
        2,
    )  # as the clip's own file says
    assert (video.probe(more).num_frames, video.probe(more).fps) == (31, 16.0)
    assert "identical" in cli("reproduce", more).out

    plain = tmp_path / "plain.mp4"
    video.write(plain, video.read_all(clip)[0], fps=4)
    for options, prompt in (((), ""), (("--prompt", "digit 7"), "digit 7")):
        out = tmp_path / "out.mp4"
        assert cli("interpolate", plain, "--factor", 3, "-o", out, "--model", runs.maker, *options).code == 0
        assert (video.read_provenance(out) or {})["prompt"] == prompt
    refused(cli("interpolate", plain, "-o", plain, "--model", runs.maker), "is what the clip is made from")
    refused(cli("interpolate", clip, "--factor", 16), "factor: 16, expected 2 to 15")
    refused(cli("interpolate", clip, "--model", runs.reader), "expected text_to_video")
    refused(cli("interpolate", tmp_path / "no.mp4"), "no.mp4")
    refused(cli("interpolate", clip, "-o", tmp_path / "a.avi"), "ends in .mp4")
    refused(cli("interpolate", clip, "-o", tmp_path / "no" / "a.mp4"), "out: there is no folder")


def test_unknown_words_are_said(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    done = cli("generate", f"{PROMPT} 猫", "--model", runs.maker, "-o", tmp_path / "a.mp4", "--steps", 1)
    assert done.code == 0
    assert done.err == f"kinetext: warning: {runs.maker} does not know: 猫\n"


def test_predict(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    cli("generate", PROMPT, "--model", runs.maker, "-o", clip, "--steps", 1)
    answers = [
        json.loads(cli("predict", runs.both, *given, "--json").out)["objects"]
        for given in (("--video", clip), ("--text", PROMPT), ("--video", clip, "--text", PROMPT))
    ]
    for answer in answers:
        assert len(answer) == 20
        assert all(0 <= p <= 1 for p in answer.values())
    assert answers[0] != answers[1] != answers[2] != answers[0]
    shown = cli("predict", runs.both, "--text", PROMPT).out
    best = max(answers[1], key=answers[1].get)
    assert best in shown
    assert f"{answers[1][best]:.1%}" in shown


@pytest.mark.parametrize("suffix", [".webm", ".apng", ".gif"])
def test_every_kind_of_clip_is_made_again(cli: Cli, runs: SimpleNamespace, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"clip{suffix}"
    assert cli("generate", PROMPT, "--model", runs.maker, "-o", out).code == 0
    done = cli("reproduce", out)
    assert (done.code, "identical" in done.out) == (0, True), done


def test_predict_refuses(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    refused(cli("predict", runs.both), "neither text nor video")
    refused(cli("predict", runs.reader, "--text", "3"), "reads no text")
    refused(cli("predict", runs.reader, "--video", tmp_path / "no.mp4"), "no.mp4")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0" * 1000)
    refused(cli("predict", runs.reader, "--video", broken), "broken.mp4")
    refused(cli("predict", tmp_path), "not a run folder")


def test_train_evaluate_pack(cli: Cli, tmp_path: Path) -> None:
    recipe, out = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(READER)
    done = cli("train", recipe, "train.seed=3", "--out", out)
    assert done.code == 0
    assert "objects/exact_match" in done.out
    assert "seed = 3" in (out / "recipe.toml").read_text()
    for name in ("report.html", "README.md", "model.safetensors", "metrics.jsonl"):
        assert (out / name).is_file()
    assert "hardware" in (out / "README.md").read_text()

    refused(cli("train", recipe, "--out", out), "exists and is not an empty folder")
    assert cli("train", "--resume", out).code == 0  # nothing left to do, and that is fine
    assert cli("train", "--resume", out, "--out", tmp_path / "b").code == 2
    assert cli("train").code == 2
    refused(cli("train", "--resume", tmp_path), "not a run folder")

    numbers = json.loads(cli("evaluate", out, "--samples", 3, "--json").out)
    assert numbers["samples"] == 3
    assert {"val/objects/exact_match (95 %)"} <= set(numbers)
    plain = {name: value for name, value in numbers.items() if not name.endswith("(95 %)")}
    assert json.loads((out / "meta.json").read_text())["numbers"] == plain
    assert "| samples | 3 |" in (out / "README.md").read_text()
    refused(cli("evaluate", out, "train.lr=1"), "only data and evaluate can be changed")

    packed = tmp_path / "packed"
    assert cli("pack", out, packed).out == f"{packed}\n"
    assert json.loads(cli("evaluate", packed, "--samples", 3, "--json").out).keys() == numbers.keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.steps=3", "trian: no such section, did you mean 'train'"),
        ("data.name=digit", "data: no component 'digit', did you mean 'digits'"),
        ("data.clisp=3", "data.clisp: no such option, did you mean 'clips'"),
        ("data.clips=0", "clips: 0"),
        ("encoders.video.size=63", "decided by the assembly"),
        ("encoders.text.name=transformer", "fusion: missing"),
        ("encoders.video.name=transformer", "encoders.video"),
        ("task.name=text_to_video", "encoders: video; task text_to_video takes text"),
        ("init.task=here", "here: neither a run folder nor a shipped model"),
    ],
)
def test_train_refuses_before_writing(cli: Cli, tmp_path: Path, override: str, message: str) -> None:
    recipe, out = tmp_path / "tiny.toml", tmp_path / "run"
    recipe.write_text(READER.replace(", dim = 16, width = 4, depth = 1", "") if "video.name" in override else READER)
    refused(cli("train", recipe, override, "--out", out), message)
    assert not out.exists()


def test_embed_and_tables(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    assert set(json.loads(cli("embed", runs.both, "--text", "the digit 3").out)) == {"joint"}
    cli("data", "make", "digits", tmp_path / "clips", "num_frames=16", "--clips", 5)
    done = cli("predict", runs.both, tmp_path / "clips", "--out", tmp_path / "said.csv")
    assert done.code == 0
    assert len((tmp_path / "said.csv").read_text(encoding="utf-8").splitlines()) == 6
    (tmp_path / "clips" / "clips" / "000003.mp4").write_bytes(b"no clip")
    done = cli("predict", runs.both, tmp_path / "clips", "--out", tmp_path / "said.jsonl")
    assert done.code == 1
    assert "1 of 5 rows could not be read" in done.err
    source = (tmp_path / "clips", "--out", "a.csv")
    for wrong in (source[1:], source[:1], (*source, "--json"), ("--text", "x", "--ray"), (*source, "--workers", 2)):
        assert cli("predict", runs.both, *wrong).code == 2
    assert cli("evaluate", runs.both, "--out", tmp_path).code == 2
    assert cli("evaluate", runs.both, "--folds", "some").code == 2
    refused(cli("evaluate", runs.both, "--folds", "3"), "has no groups to make folds of")


def test_list(cli: Cli) -> None:
    done = cli("list")
    for name in ("classification", "frame_cnn", "concat", "autoencoder", "flow", "digits"):
        assert name in done.out
    of_role = cli("list", "encoders").out
    assert "flow" not in of_role
    assert "bidirectional" in of_role
    shown = cli("list", "encoders", "transformer").out
    assert "dropout" in shown
    assert "(decided by the assembly)" in shown
    refused(cli("list", "encoder"), "did you mean 'encoders'")
    refused(cli("list", "encoders", "transfromer"), "did you mean 'transformer'")


def test_data_make_and_show(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "digits"
    done = cli("data", "make", "digits", folder, "languages=['zh']", "num_frames=4", "--clips", 10)
    assert (done.code, done.out) == (0, f"{folder}\n")
    table = load(folder, multi=["objects"])
    assert [len(table.where(split)) for split in ("train", "val")] == [8, 2]
    row = table.rows[0]
    assert row.file is not None
    frames, fps = video.read_all(folder / row.file)
    assert (tuple(frames.shape), fps) == ((4, 64, 64, 3), 8.0)

    # the files hold the very samples of the dataset
    from kinetext.datasets.digits import Digits, objects_of

    sample = Digits(languages=("zh",), num_frames=4, clips=8)[0]
    assert row.text == sample.text
    assert table.names(row, "objects") == sample.labels["objects"] == objects_of(str(row.text))
    assert sample.video is not None
    assert (video.to_float(frames)[..., 0] - sample.video[0]).abs().mean() < 0.05

    done = cli("data", "show", folder, "--num", 3, "-o", tmp_path / "sheet.png")
    assert done.code == 0
    assert str(row.text) in done.out
    picture = video.probe(tmp_path / "sheet.png")
    assert (picture.width, picture.height) == (8 * 96, 3 * 96)

    with monkeypatch.context() as inside:
        inside.chdir(folder)
        assert cli("data", "show", ".", "--num", 1).out.endswith(f"{tmp_path / 'digits.png'}\n")
    assert cli("data", "show", folder / "metadata.csv", "--num", 1).out.endswith(f"{tmp_path / 'digits.png'}\n")

    refused(cli("data", "make", "digits", folder), "exists and is not an empty folder")
    refused(cli("data", "make", "digit", tmp_path / "b"), "did you mean 'digits'")
    refused(cli("data", "make", "digits", tmp_path / "b", "clips=3"), "decided by the assembly")
    refused(cli("data", "make", "digits", tmp_path / "b", "--clips", 1), "clips: 1")
    refused(cli("data", "show", tmp_path), "metadata")
    refused(cli("data", "pack", folder, tmp_path / "pack", "--size", 0), "size: 0, expected 1 to 4096")
    refused(
        cli("data", "pack", folder, tmp_path / "pack", "--num-frames", 0), "num_frames and fps: 0 and 0, expected one"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["digits", "digits.png", "sheet.png"]


def test_shapes_are_made_with_all_their_columns(cli: Cli, tmp_path: Path) -> None:
    from kinetext.datasets.folder import Folder
    from kinetext.datasets.shapes import TARGETS, Shapes, scene_of

    folder = tmp_path / "shapes"
    assert cli("data", "make", "shapes", folder, "objects=[2]", "--clips", 5).code == 0
    columns = tuple(target.name for target in TARGETS)
    data = Folder(root=str(folder), targets=columns, multi=columns[:4], num_frames=16, size=64)
    world = Shapes(objects=(2,), clips=4)
    for index in range(4):
        written, made = data[index], world[index]
        assert written.text == made.text
        scene = scene_of(written.text or "")
        assert scene is not None
        assert written.labels == made.labels == scene.labels()
        assert written.video is not None
        assert made.video is not None
        assert (written.video - made.video).abs().mean() < 0.05  # colours too survive the file
    assert "yellow" in cli("data", "show", folder, "--num", 5).out


def test_the_system_refuses(cli: Cli, runs: SimpleNamespace, tmp_path: Path) -> None:
    """A full disk, say: one line, exit code 2, nothing half written."""
    copy = shutil.copytree(runs.reader, tmp_path / "run")
    (copy / "evaluation.json").unlink(missing_ok=True)
    (copy / "evaluation.json").mkdir()
    refused(cli("evaluate", copy, "--samples", 1), "evaluation.json")
    assert not list(copy.glob(".*.tmp"))
