"""The loop: exact resume for every kind of task, real kills, budgets, early stops."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kinetext import train
from kinetext.checkpoint import Run
from kinetext.config import Recipe
from kinetext.types import DataError, RecipeError, RunError

DATA = """
[data]
name = "digits"
clips = 24
num_frames = 2
"""
FLOW = (
    """
[task]
name = "text_to_video"
steps = 2
[encoders.text]
name = "transformer"
dim = 16
depth = 1
dropout = 0.1
[codec]
name = "autoencoder"
width = 8
latent_dim = 2
[generator]
name = "flow"
dim = 16
depth = 1
"""
    + DATA
)
CACHED = FLOW.replace("steps = 2", "steps = 2\ncache_targets = true\ntrain_frames = 1")
REWARDED = FLOW.replace(
    "steps = 2", 'steps = 2\nreward = "digits-reader"\nreward_steps = 2\nreward_share = 0.4'
).replace("frames = 2", "frames = 8")
GAN = FLOW.replace("steps = 2", "steps = 1\nguidance = 1.0").replace(
    'name = "flow"\ndim = 16\ndepth = 1',
    'name = "gan"\ndim = 8\ncritic_dim = 8\nblocks = 0\nmotion_noise = 2\nr1_every = 2\nspectral_norm = true',
)
CODEC = '[task]\nname = "reconstruction"\n[codec]\nname = "autoencoder"\nwidth = 8\n' + DATA
READER = (
    '[task]\nname = "classification"\nmodality_dropout = 0.3\n[encoders.text]\nname = "transformer"\ndim = 16\ndepth = 1\n'
    '[encoders.video]\nname = "frame_cnn"\ndim = 16\nwidth = 4\ndepth = 1\nheads = 2\ndropout = 0.2\n'
    '[fusion]\nname = "attention"\ndim = 16\nheads = 2\n' + DATA
)
TRAIN = ["train.batch=5", "train.accumulate=2", "train.warmup=2", "train.precision=fp32", "evaluate.samples=4"]


def recipe(text: str, *overrides: str) -> Recipe:
    return Recipe.parse(text, [*TRAIN, *overrides])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {f"{f}/{k}": v for f in ("model", "ema") for k, v in load_file(run / f"{f}.safetensors").items()}


def saved(run: Path) -> dict[str, list[dict[str, object]]]:
    state = Run.open(run).load()
    assert state is not None
    return state.optimizers


def assert_same(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    moments = [[o["state"] for many in saved(run).values() for o in many] for run in (one, two)]
    torch.testing.assert_close(moments[0], moments[1], rtol=0, atol=0)
    logged = [
        [{k: v for k, v in r.items() if "second" not in k} for r in Run.open(run).history()] for run in (one, two)
    ]
    assert logged[0] == logged[1]


@pytest.mark.parametrize(
    "text", [FLOW, CACHED, REWARDED, GAN, CODEC, READER], ids=["flow", "cached", "rewarded", "gan", "codec", "reader"]
)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_four_steps_are_two_and_a_stop_and_two_with_other_workers(text: str, optimizer: str, tmp_path: Path) -> None:
    # 24 clips and 10 a step: the stop is in the middle of the first epoch, the end in the second
    options = [f"train.optimizer={optimizer}", "train.decay=constant", "train.log_every=1"]
    train.start(recipe(text, *options, "train.steps=4"), tmp_path / "whole", quiet=True)
    train.start(recipe(text, *options, "train.steps=2", "train.workers=1"), tmp_path / "parts", quiet=True)
    more = (tmp_path / "parts" / "recipe.toml").read_text().replace("steps = 2\nmin", "steps = 4\nmin")
    (tmp_path / "parts" / "recipe.toml").write_text(more.replace("workers = 1", "workers = 0"))
    lines = [r for r in Run.open(tmp_path / "parts").history() if "train/lr" in r]  # without the early evaluation
    (tmp_path / "parts" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    train.resume(tmp_path / "parts", quiet=True)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def command(*arguments: str, own_group: bool = False) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "kinetext", "train", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        start_new_session=own_group,
    )


def wait_for(condition: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 120
    while not condition.exists():
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        assert time.monotonic() < end, f"{condition} did not appear"
        time.sleep(0.02)


def test_what_was_learned_is_saved_before_samples_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise OSError("no room for pictures")

    monkeypatch.setattr("kinetext.evaluate.Judge.draw_into", lambda self, folder: failing)
    with pytest.raises(OSError, match="no room"):
        train.start(recipe(FLOW, "train.steps=2"), tmp_path / "run", quiet=True)
    state = Run.open(tmp_path / "run").load()
    assert state is not None and state.step == 2


def test_a_run_killed_with_kill_9_resumes_to_the_same_weights(tmp_path: Path) -> None:
    made = recipe(FLOW, "train.steps=40", "train.save_every=3")
    (tmp_path / "recipe.toml").write_text(made.to_toml())
    killed = tmp_path / "killed"
    process = command(str(tmp_path / "recipe.toml"), "--out", str(killed))
    wait_for(killed / "resume.json", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    state = Run.open(killed).load()
    assert state is not None and 0 < state.step < 40
    process = command("--resume", str(killed))
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error.decode()
    # in a process like the other one: another number of threads would change the last bits
    process = command(str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "whole"))
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error.decode()
    first, second = weights(tmp_path / "whole"), weights(killed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_sigterm_saves_first_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(recipe(CODEC, "train.steps=100000", "train.save_every=2").to_toml())
    run = tmp_path / "run"
    process = command(str(tmp_path / "recipe.toml"), "--out", str(run))
    wait_for(run / "resume.json", process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    state = Run.open(run).load()
    assert state is not None and process.returncode == 130
    assert f"saved at step {state.step}" in error.decode() and "--resume" in error.decode()


def test_ctrl_c_of_a_terminal_reaches_the_workers_too_and_still_saves(tmp_path: Path) -> None:
    many = recipe(CODEC, "train.steps=100000", "train.save_every=2", "train.workers=2")
    (tmp_path / "recipe.toml").write_text(many.to_toml())
    run = tmp_path / "run"
    process = command(str(tmp_path / "recipe.toml"), "--out", str(run), own_group=True)
    wait_for(run / "resume.json", process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    state = Run.open(run).load()
    assert state is not None and process.returncode == 130
    assert error.decode().splitlines()[-1].startswith(f"kinetext: stopped and saved at step {state.step}")
    assert "Traceback" not in error.decode()


CHILD = """
import subprocess, sys
from kinetext.runtime import Stop

with Stop().listening() as stop:
    child = subprocess.Popen(["sleep", "3"])  # such as the compiler of train.compile
    print("ready", flush=True)
    print(child.wait(), stop.asked, flush=True)
"""


def test_ctrl_c_spares_a_compiler_and_says_at_once_that_it_was_heard() -> None:
    """It reaches the whole group; a compiler that it ended would fail the step and leave half a library in its cache."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"ready\n"
    os.killpg(process.pid, signal.SIGINT)
    told, began = process.stderr.readline() + process.stderr.readline(), time.monotonic()
    assert told.startswith(b"\nstopping after this step")
    out, _ = process.communicate(timeout=60)
    assert out == b"0 True\n" and time.monotonic() - began > 1  # it was told while the child still worked


def test_a_second_ctrl_c_ends_the_wait_for_a_compiler() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.replace('"3"', '"40"')],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"ready\n"
    began = time.monotonic()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.5)
    process.wait(timeout=30)
    assert time.monotonic() - began < 20
    os.killpg(process.pid, signal.SIGKILL)  # the child, which was spared
    assert b"KeyboardInterrupt" in process.communicate()[1]


@pytest.mark.parametrize("kind", [CODEC, GAN], ids=["one player", "a game"])
def test_two_processes_stop_after_the_same_step_and_one_reports(kind: str, tmp_path: Path) -> None:
    made = recipe(kind, "train.steps=1000000", "train.minutes=0.05", "train.log_every=1", "train.accumulate=1")
    (tmp_path / "recipe.toml").write_text(made.to_toml())
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes=2",
        "--num_machines=1",
        "--main_process_port=0",
    ]
    launch += ["--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1", "-m", "kinetext"]
    done = subprocess.run(
        [sys.executable, *launch, "train", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = Run.open(tmp_path / "run")
    state = run.load()
    assert state is not None and run.history()[-1]["step"] == state.step
    assert done.stdout.count("report: ") == 1
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_wall_clock_budget_ends_the_run_and_brings_the_rate_down(tmp_path: Path) -> None:
    began = time.monotonic()
    options = ["train.steps=1000000", "train.minutes=0.05", "train.log_every=1"]
    run = train.start(recipe(CODEC, *options), tmp_path / "run", quiet=True)
    assert time.monotonic() - began < 30
    rates = [r["train/lr"] for r in run.history() if "train/lr" in r]
    assert rates[-1] < 0.2 * max(rates)


def test_of_a_game_the_newest_weights_are_taken_and_patience_is_refused(tmp_path: Path) -> None:
    run = train.start(recipe(GAN, "train.steps=4", "train.eval_every=2", "train.ema=0"), tmp_path / "run", quiet=True)
    newest, best = (load_file(run.path / f"{name}.safetensors") for name in ("model", "best"))
    assert all(torch.equal(newest[name], best[name]) for name in newest)
    with pytest.raises(RecipeError, match=r"train\.patience: 2, but a game's val/loss is no score"):
        train.start(recipe(GAN, "train.eval_every=1", "train.patience=2"), tmp_path / "other", quiet=True)


def test_patience_stops_early_and_the_best_weights_stay(tmp_path: Path) -> None:
    options = ["train.steps=200", "train.lr=1e-9", "train.eval_every=1", "train.patience=2", "train.ema=0"]
    options += ["train.best=val/objects/exact_match"]
    run = train.start(recipe(READER, *options), tmp_path / "run", quiet=True)
    state = run.load()
    assert state is not None and state.step == 3  # the first evaluation is the best, then two without improvement
    assert (tmp_path / "run" / "best.safetensors").is_file()


def test_a_loss_that_is_not_a_number_ends_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    options = ["train.steps=60", "train.lr=1e30", "train.clip=0", "train.warmup=0", "train.ema=0", "train.log_every=1"]
    with pytest.raises(RunError, match=r"lower train\.lr"):
        train.start(recipe(CODEC, *options), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "resume.json").exists()


def test_an_unknown_best_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"train.best: 'val/magic' is not measured here, expected one of val/loss"):
        train.start(recipe(CODEC, "train.steps=1", "train.best=val/magic"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_split_that_is_not_there_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="split: 'test', expected train or val"):
        train.start(recipe(CODEC, "train.steps=1", "evaluate.split=test"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_exploded_weights_are_not_saved_at_the_end(tmp_path: Path) -> None:
    # one step: its loss was still a number, what it did to the weights shows in the evaluation alone
    options = ["train.steps=1", "train.lr=1e30", "train.clip=0", "train.warmup=0", "train.ema=0"]
    with pytest.raises(RunError, match=r"val/loss: .* after step 1; lower train\.lr"):
        train.start(recipe(CODEC, *options), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "resume.json").exists()


def test_a_recipe_edited_into_nonsense_is_refused_on_resume(tmp_path: Path) -> None:
    train.start(recipe(CODEC, "train.steps=1"), tmp_path / "run", quiet=True)
    edited = (tmp_path / "run" / "recipe.toml").read_text().replace("latent_dim", "latent_dims")
    (tmp_path / "run" / "recipe.toml").write_text(edited)
    with pytest.raises(RecipeError, match=r"codec\.latent_dims: no such option, did you mean 'latent_dim'"):
        train.resume(tmp_path / "run", quiet=True)
    (tmp_path / "run" / "recipe.toml").write_text(edited.replace("latent_dims = 4", "latent_dim = 3"))
    with pytest.raises(RunError, match=r"saved state at step 1 does not fit the run's recipe\.toml"):
        train.resume(tmp_path / "run", quiet=True)


def test_a_full_run_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        train.start(recipe(CODEC, "train.steps=1"), tmp_path, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keep.txt"]


def test_compiling_without_a_compiler_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match=r"train.compile: true, but there is no C\+\+ compiler"):
        train.start(recipe(CODEC, "train.steps=1", "train.compile=true"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    done = []
    thread = threading.Thread(
        target=lambda: done.append(train.start(recipe(CODEC, "train.steps=1"), tmp_path / "run", quiet=True))
    )
    thread.start()
    thread.join()
    assert done


def test_the_reader_learns_a_handful_of_clips(tmp_path: Path) -> None:
    options = [
        "train.steps=80",
        "train.lr=3e-3",
        "train.ema=0",
        "data.clips=8",
        "data.num_frames=4",
        "train.batch=8",
        "train.log_every=1",
    ]
    options += ["task.modality_dropout=0.0", "encoders.video.dropout=0.0", "train.accumulate=1"]
    run = train.start(recipe(READER, *options), tmp_path / "run", quiet=True)
    losses = [r["train/loss"] for r in run.history() if "train/loss" in r]
    assert math.isfinite(losses[-1]) and losses[-1] < 0.5 * losses[0]
