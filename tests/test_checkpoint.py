"""The run folder: what is written comes back, and what can't be written leaves the last good state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kinetext.checkpoint import Meta, Run, State, pack, read_weights, whole, write_text, write_weights
from kinetext.config import Recipe
from kinetext.types import RunError, Target

RECIPE = '[task]\nname = "reconstruction"\n[codec]\nname = "autoencoder"\n[data]\nname = "digits"\n'


def make(path: Path) -> Run:
    meta = Meta("0.1.0", ("<pad>", "<unk>", "字"), (Target("objects", ("a", "b"), True),), (1, 2, 8, 8), 8.0)
    return Run.create(path, Recipe.parse(RECIPE), meta)


def state(step: int) -> State:
    weight = torch.full((2, 2), float(step))
    moments = {"model": [{"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": []}]}
    return State(step, {"w": weight}, {"w": weight / 2}, moments, {"seconds": 1.5})


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    again = Run.open(tmp_path / "run")
    assert again.meta == run.meta and again.recipe == run.recipe
    run.save(state(3))
    back = Run.open(tmp_path / "run").load()
    assert back is not None and back.step == 3 and back.progress == {"seconds": 1.5}
    assert torch.equal(back.model["w"], state(3).model["w"]) and torch.equal(back.ema["w"], state(3).ema["w"])


def test_only_the_newest_resume_point_stays_and_a_half_written_one_is_not_used(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.save(state(1))
    run.save(state(2))
    half = tmp_path / "run" / "resume" / "000000009"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"torn")
    back = run.load()
    assert back is not None and back.step == 2
    run.save(state(3))
    assert [p.name for p in (tmp_path / "run" / "resume").iterdir()] == ["000000003"]


def test_a_kill_between_the_resume_point_and_the_weights_shown_is_healed(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.save(state(1))
    old = {name: (run.path / name).read_bytes() for name in ("model.safetensors", "ema.safetensors")}
    run.save(state(2))
    new = {name: (run.path / name).read_bytes() for name in old}
    assert new != old
    for name, content in old.items():
        (run.path / name).unlink()
        (run.path / name).write_bytes(content)
    assert run.load() is not None
    assert {name: (run.path / name).read_bytes() for name in old} == new


@pytest.mark.parametrize("name", ["resume.json", "resume/000000001/optimizers.pt", "resume/000000001/progress.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"torn"])
def test_a_damaged_resume_point_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    run = make(tmp_path / "run")
    run.save(state(1))
    (run.path / name).write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        run.load()


def test_the_best_weights_are_used_then_the_average_then_the_newest(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    with pytest.raises(RunError, match="no weights yet"):
        run.weights()
    run.save(state(4))
    assert run.weights_file().name == "ema.safetensors" and float(run.weights()["w"][0, 0]) == 2.0
    before = run.weights_hash()
    write_weights(tmp_path / "run" / "best.safetensors", {"w": torch.zeros(1)})
    assert run.weights_file().name == "best.safetensors" and run.weights_hash() != before


def test_packed_runs_are_half_precision_and_read_as_float32(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.save(state(4))
    packed = pack(run, tmp_path / "packed", run.recipe, ["w"])
    assert sorted(p.name for p in (tmp_path / "packed").iterdir()) == ["meta.json", "model.safetensors", "recipe.toml"]
    assert packed.weights()["w"].dtype == torch.float32 and torch.equal(packed.weights()["w"], run.weights()["w"])


def test_what_16_bits_can_not_hold_stays_whole(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    large = replace(state(4), model={"w": torch.tensor([1e6, 1.0]), "mean": torch.tensor([2000.507])})
    run.save(replace(large, ema={}))
    weights = pack(run, tmp_path / "packed", run.recipe, ["w"]).weights()
    assert weights["w"].tolist() == [1e6, 1.0]
    assert weights["mean"].tolist() == pytest.approx([2000.507])


def test_what_is_kept_is_replaced_whole(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    for text in ("first", "second"):
        run.keep("encoders.text", lambda folder, text=text: (folder / "a.txt").write_text(text) and None)
    run.keep("encoders.video", lambda folder: None)
    assert [p.name for p in (run.path / "kept").iterdir()] == ["encoders.text"]
    assert (run.path / "kept" / "encoders.text" / "a.txt").read_text() == "second"


def test_another_format_a_damaged_file_and_a_strange_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        Run.open(tmp_path)
    run = make(tmp_path / "run")
    meta = tmp_path / "run" / "meta.json"
    raw = json.loads(meta.read_text())
    meta.write_text(json.dumps({**raw, "format": 99, "version": "9.0"}))
    with pytest.raises(RunError, match=r"run format 99, expected 1.*written by kinetext 9\.0"):
        Run.open(run.path)
    meta.write_text("{")
    with pytest.raises(RunError, match="not JSON"):
        Run.open(run.path)
    meta.write_text(json.dumps({"format": 1}))
    with pytest.raises(RunError, match="incomplete or damaged"):
        Run.open(run.path)
    (run.path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match=r"model\.safetensors: can't be read"):
        read_weights(run.path / "model.safetensors")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="boom"), whole(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("boom")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_log_lines_after_a_resume_point_are_forgotten(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    for step in (1, 2, 3):
        run.log({"step": step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')  # a line torn by a kill
    run.forget_after(2)
    assert [record["step"] for record in run.history()] == [1, 2]


def test_a_full_disk_ends_with_one_message_and_the_last_good_state(tmp_path: Path) -> None:
    """The limit on a file's size stands in for a full disk: the weights do not fit."""
    (tmp_path / "recipe.toml").write_text(RECIPE)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
        "from kinetext.cli import main; main()"
    )
    arguments = ["train", str(tmp_path / "recipe.toml"), "train.steps=2", "train.batch=2", "evaluate.samples=2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--out", str(tmp_path / "run")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert Run.open(tmp_path / "run").load() is None
