"""Work spread by Ray: in order, each item once, whatever becomes of the workers. One Ray for all tests."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kinetext import cluster, train
from kinetext.apps import predicting
from kinetext.config import Recipe
from kinetext.pipeline import Pipeline
from kinetext.types import DataError, RunError

Doubler = Callable[[Sequence[int]], list[tuple[int, int]]]


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with cluster._started(2):
        yield


def doubling(folder: str, deadly: Sequence[int] = (), times: int = 99, crew: int = 1) -> Callable[[], Doubler]:
    """A maker of work that doubles numbers once ``crew`` workers are there, and dies with each of ``deadly`` the first
    ``times`` times; it travels by value, since workers can't import tests."""

    def make() -> Doubler:
        def work(items: Sequence[int]) -> list[tuple[int, int]]:
            with open(os.path.join(folder, f"{os.getpid()}.here"), "ab"):
                until = time.monotonic() + 90
            while sum(name.endswith(".here") for name in os.listdir(folder)) < crew and time.monotonic() < until:
                time.sleep(0.05)  # or the first worker has done all before the second is there
            for item in items:
                died = os.path.join(folder, f"{item}.died")
                if item in deadly and (not os.path.exists(died) or os.path.getsize(died) < times):
                    with open(died, "ab") as file:
                        file.write(b"x")
                    os.kill(os.getpid(), signal.SIGKILL)
                if item < 0:
                    raise DataError(f"item: {item}, expected 0 or more")
            return [(2 * item, os.getpid()) for item in items]

        return work

    return make


def chunks(number: int, size: int = 3) -> list[range]:
    return [range(start, start + size) for start in range(0, number * size, size)]


def test_answers_come_in_order_from_every_worker(tmp_path: Path) -> None:
    taken = 0

    def counted() -> Iterator[range]:
        nonlocal taken
        for chunk in chunks(100):
            taken += 1
            yield chunk

    found = []
    for answers in cluster.spread(doubling(str(tmp_path), crew=2), counted(), 2):
        found += answers
        assert taken <= len(found) // 3 + 2 * cluster._AHEAD  # the rest is not held in memory
    assert [answer[0] for answer in found if isinstance(answer, tuple)] == [2 * i for i in range(300)]
    assert len({answer[1] for answer in found if isinstance(answer, tuple)}) == 2


def test_a_worker_killed_from_outside_costs_nothing(tmp_path: Path) -> None:
    found = []
    for answers in cluster.spread(doubling(str(tmp_path)), chunks(60), 2):
        found += answers
        if len(found) == 30:
            os.kill(found[-1][1], signal.SIGKILL)  # type: ignore[index]
    assert [answer[0] for answer in found] == [2 * i for i in range(180)]  # type: ignore[index]


def test_an_item_that_kills_every_worker_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_TRIES", 1)
    answers = [a for many in cluster.spread(doubling(str(tmp_path), deadly=[4]), chunks(3), 1) for a in many]
    assert [a[0] for a in answers if isinstance(a, tuple)] == [2 * i for i in range(9) if i != 4]
    assert isinstance(answers[4], cluster.Died)
    assert "the process that read it died" in answers[4].why
    assert (tmp_path / "4.died").stat().st_size == 2  # once among others, once alone


def test_what_the_work_raises_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^item: -1, expected 0 or more$"):
        list(cluster.spread(doubling(str(tmp_path)), [[1], [-1]], 1))
    with pytest.raises(RunError, match="workers: 64, expected at most 2, which is how many CPUs Ray has"):
        list(cluster.spread(doubling(str(tmp_path)), chunks(1), 64))
    with pytest.raises(RunError, match="workers: 0, expected 1 or more"):
        list(cluster.spread(doubling(str(tmp_path)), chunks(1), 0))


def test_workers_that_never_get_going_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not row after row is given up because, say, the model itself crashes them."""
    monkeypatch.setattr(cluster, "_HOPELESS", 2)

    def make() -> Doubler:
        os._exit(1)

    with pytest.raises(RunError, match="workers: 2 died before anything was done"):
        list(cluster.spread(make, chunks(9), 2))


class Mined:
    """Work that no process survives taking up once there is a file called "broken"."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], Callable[[], Doubler]], tuple[str]]:
        doubles = doubling(self.folder)

        def taken_up(folder: str) -> Callable[[], Doubler]:
            if os.path.exists(os.path.join(folder, "broken")):
                os.kill(os.getpid(), signal.SIGKILL)
            return doubles

        return taken_up, (self.folder,)


def test_workers_that_can_not_be_replaced_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when something was done before: they are not hired forever."""
    monkeypatch.setattr(cluster, "_HOPELESS", 2)
    found = cluster.spread(Mined(str(tmp_path)), chunks(30), 1)  # type: ignore[arg-type]
    (_, worker), *_ = next(found)  # type: ignore[misc]
    (tmp_path / "broken").touch()
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(RunError, match="workers: 2 in a row died before they were ready"):
        list(found)


RECIPE = """
task.name = "classification"
encoders.text = { name = "word_vectors", dim = 8 }
encoders.video = { name = "frame_cnn", dim = 8, width = 8, depth = 0, heads = 2 }
fusion = { name = "gated", dim = 8 }
data = { name = "folder", targets = ["shade"], num_frames = 2, size = 16, folds = 4 }
train = { steps = 2, batch = 4, precision = "fp32" }
"""


def test_the_table_is_the_one_that_one_process_writes(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, with a broken row, one worker killed and the driver stopped in between, called from elsewhere."""
    train.start(Recipe.parse(RECIPE, [f"data.root={clips}"]), tmp_path / "run", quiet=True)
    (clips / "3.mp4").write_bytes(b"not a clip")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predicting, "BATCH", 2)
    pipeline = Pipeline.load("run")
    source = clips.relative_to(tmp_path)
    capfd.readouterr()

    def kill_then_stop(done: int, total: int) -> None:
        for child in worker_pids()[:1] if done == 2 else ():
            os.kill(child, signal.SIGKILL)
        if done == 6:
            raise KeyboardInterrupt

    alone = predicting.predict(pipeline, source, tmp_path / "alone.jsonl")
    out = tmp_path / "spread.jsonl"
    with pytest.raises(KeyboardInterrupt):
        predicting.predict(pipeline, source, out, kill_then_stop, ray=True, workers=2)
    assert len((tmp_path / ".spread.jsonl.part").read_text().splitlines()) == 1 + 6
    spread = predicting.predict(pipeline, source, out, ray=True, workers=2)
    assert spread.path.read_bytes() == alone.path.read_bytes()
    assert (spread.rows, spread.failed) == (alone.rows, alone.failed) == (9, 1)
    said = capfd.readouterr()
    assert said.out == said.err == ""


def worker_pids() -> list[int]:
    """The processes of our workers, as Ray titles them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = status.read_bytes()
        except OSError:  # it has just ended
            continue
        if title.startswith(b"ray::_Worker"):
            found.append(int(status.parent.name))
    assert found, "no worker is there to kill"
    return found


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"pip install 'kinetext\[cluster\]'"):
        list(cluster.spread(doubling(str(tmp_path)), chunks(1), 1))
