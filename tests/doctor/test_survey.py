"""Files are read once: kept by content, in as many processes as asked; one that crashes a decoder is one file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import av
import numpy as np
import pytest
import torch
from PIL import Image

from kinetext import doctor, video
from kinetext.doctor import survey
from kinetext.doctor.facts import WHOLE, Facts
from kinetext.doctor.looking import Look
from kinetext.runtime import rng
from kinetext.types import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(5):
        noise = torch.randint(0, 256, (8 + number, 32, 32, 3), generator=rng("survey", number)).to(torch.uint8)
        video.write(folder / f"{number}.mp4", noise, fps=8.0)
    (folder / "bad.mp4").write_bytes(b"nothing")
    return folder


def ranges(root: Path) -> dict[str, list[survey.Range]]:
    return {path.name: [WHOLE] for path in sorted(root.iterdir())}


def test_what_a_file_holds(root: Path) -> None:
    found = survey.survey(root, {"0.mp4": [WHOLE, (0.5, None), (0.0, 9.0)], "gone.mp4": [WHOLE]}, processes=1)
    facts = found["0.mp4"]
    assert (facts.num_frames, facts.fps, facts.seconds, facts.width, facts.height) == (8, 8.0, 1.0, 32, 32)
    assert facts.size == (root / "0.mp4").stat().st_size
    mean = video.read_all(root / "0.mp4")[0].float().mean((0, 1, 2)).tolist()
    whole = facts.looks[WHOLE]
    assert isinstance(whole, Look)
    assert whole.colour == pytest.approx(mean, abs=1.0)
    assert isinstance(facts.looks[0.5, None], Look)
    assert str(facts.looks[0.0, 9.0]).startswith("end 9")
    assert found["gone.mp4"].trouble == "missing"


def test_facts_are_kept_as_text(root: Path) -> None:
    for facts in survey.survey(
        root, {"1.mp4": [WHOLE, (0.25, 0.75), (5.0, 9.0)], "bad.mp4": [WHOLE]}, processes=1
    ).values():
        assert Facts.from_json(facts.to_json()) == facts


def test_processes_find_the_same(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    alone = survey.survey(root, ranges(root), processes=1)
    together = survey.survey(
        root,
        ranges(root),
        processes=2,
        cache=tmp_path / "cache",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert together == alone
    assert list(together) == list(alone), "in the order asked"
    assert seen == [(number, 6) for number in range(1, 7)]


def test_what_was_read_is_not_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    first = survey.survey(root, ranges(root), cache=cache, processes=1)
    shutil.copytree(root, tmp_path / "elsewhere")
    read: list[Path] = []
    probe = video.probe
    monkeypatch.setattr(video, "probe", lambda path: (read.append(path), probe(path))[1])
    assert survey.survey(tmp_path / "elsewhere", ranges(root), cache=cache, processes=1) == first
    assert read == [], "the same content is known wherever it lies"
    changed = tmp_path / "elsewhere" / "0.mp4"
    shutil.copy(root / "1.mp4", changed)
    changed.write_bytes(changed.read_bytes() + bytes(8))
    survey.survey(tmp_path / "elsewhere", ranges(root), cache=cache, processes=1)
    assert read == [changed]


@pytest.mark.parametrize("damage", ["", "kinetext doctor 0\n{}", "{", f"{survey._head()}\n{{}}"])
def test_a_damaged_cache_is_made_anew(root: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    first = survey.survey(root, {"0.mp4": [WHOLE]}, cache=cache, processes=1)
    (kept,) = cache.rglob("*.json")
    kept.write_text(damage)
    assert survey.survey(root, {"0.mp4": [WHOLE]}, cache=cache, processes=1) == first


def test_what_another_version_found_is_found_anew(root: Path, tmp_path: Path) -> None:
    """A file that an older PyAV could not decode is read again by this one."""
    first = survey.survey(root, {"0.mp4": [WHOLE]}, cache=tmp_path / "cache", processes=1)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    head, _, body = kept.read_text().partition("\n")
    failed = replace(Facts.from_json(body), trouble="unreadable", why="no decoder for its video")
    kept.write_text(f"{head}\n{failed.to_json()}")
    assert survey.survey(root, {"0.mp4": [WHOLE]}, cache=tmp_path / "cache", processes=1)["0.mp4"].trouble
    kept.write_text(f"{head.replace(f'av {av.__version__}', 'av 1.0')}\n{failed.to_json()}")
    assert survey.survey(root, {"0.mp4": [WHOLE]}, cache=tmp_path / "cache", processes=1) == first


def test_a_cache_that_cant_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="KINETEXT_CACHE"):
        survey.survey(root, ranges(root), cache=tmp_path / "cache", processes=1)
    with pytest.raises(DataError, match="KINETEXT_CACHE"):
        survey.survey(root, {"1.mp4": [WHOLE]}, cache=tmp_path / "cache", processes=2)


def patched(before: str) -> str:
    """A program that reads files, with ``before`` in front of each reading."""
    return (
        "import os; from kinetext.doctor import survey; read = survey._read\n"
        f"def own(job):\n    {before}\n    return read(job)\n"
        "survey._read = own\nsurvey.serve()"
    )


def test_a_crash_is_one_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies of a file, as a decoder's fault would make it, takes no other file with it, nor the doctor; also
    where there are few files, and one process is enough. What it prints is no answer.
    """
    monkeypatch.setattr(survey, "_PROGRAM", patched("print('hello'); job.file == '2.mp4' and os.abort()"))
    found = survey.survey(root, ranges(root))
    assert found["2.mp4"].trouble == "unreadable"
    assert "crashes" in found["2.mp4"].why
    assert [name for name, facts in found.items() if facts.trouble] == ["2.mp4", "bad.mp4"]


def test_what_goes_wrong_in_a_thread_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        survey, "_PROGRAM", "print('ready', flush=True); input(); print('no JSON', flush=True); input()"
    )
    with pytest.raises(json.JSONDecodeError):
        survey.survey(root, ranges(root), processes=2)


def test_what_is_known_needs_no_process(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {**ranges(root), "gone.mp4": [WHOLE]}
    first = survey.survey(root, files, cache=tmp_path / "cache", processes=1)
    monkeypatch.setattr(survey, "_PROGRAM", "raise SystemExit")
    again = survey.survey(root, {name: files[name] for name in files if name != "bad.mp4"}, cache=tmp_path / "cache")
    assert again == {name: facts for name, facts in first.items() if name != "bad.mp4"}


def test_a_process_that_starts_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before a process is ready: it would first start, and then read a whole file."""
    monkeypatch.setattr(survey, "_PROGRAM", "import time; time.sleep(20)")
    todo: SimpleQueue[survey._Job] = SimpleQueue()
    todo.put(survey._Job("", "a.mp4", (), None))
    reader = survey._Reader(todo, SimpleQueue())
    reader.thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    reader.end()
    assert time.monotonic() - began < 5 and reader.done.empty()


def test_a_name_that_no_file_can_have(root: Path) -> None:
    """A text in the column of files."""
    found = survey.survey(root, {"a" * 300: [WHOLE], "0.mp4": [WHOLE]}, processes=1)
    assert found["a" * 300].trouble == "unreadable" and "too long" in found["a" * 300].why
    assert not found["0.mp4"].trouble


def test_what_lies_in_the_folder_is_no_code(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset of strangers may hold a platform.py."""
    (tmp_path / "platform.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w'); raise RuntimeError('executed')")
    monkeypatch.chdir(tmp_path)
    found = survey.survey(root, ranges(root), processes=2)
    assert len(found) == len(ranges(root)) and not (tmp_path / "ran").exists()


def test_its_processes_end_with_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, also while whoever was interrupted still holds the traceback. What they answer is the same for all files."""
    answer = json.dumps({"facts": Facts("a digest", 1).to_json()})
    program = f"import sys\nprint('ready', flush=True)\nfor line in sys.stdin: print({answer!r}, flush=True)"
    monkeypatch.setattr(survey, "_PROGRAM", program)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt) as held:
        survey.survey(root, ranges(root), processes=2, progress=stop)
    assert held.tb is not None and set(threading.enumerate()) <= before


def test_no_file_is_blamed_for_a_process_that_does_not_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "_PROGRAM", "raise SystemExit")
    with pytest.raises(DataError, match="no process"):
        survey.survey(root, ranges(root), processes=2)


def test_a_script_without_a_guard_is_not_run_again(root: Path, tmp_path: Path) -> None:
    """multiprocessing would run it once more in each process."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\nfrom pathlib import Path\nfrom kinetext.doctor.survey import survey, WHOLE\n"
        f"found = survey(Path({str(root)!r}), {{'1.mp4': [WHOLE]}}, processes=2)\n"
        "print(len(found))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", "1"]


def test_looks_of_two_tables_are_kept_together(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tables that name other stretches of a file don't take each other's looks away."""
    cache = tmp_path / "cache"
    tables = ({"0.mp4": [WHOLE]}, {"0.mp4": [(0.0, 0.5)]}, {"0.mp4": [(0.25, 1.0)]})
    for table in tables:
        survey.survey(root, table, cache=cache, processes=1)
    monkeypatch.setattr(video, "probe", lambda path: pytest.fail(f"{path} is read again"))
    for table in tables:
        looks = survey.survey(root, table, cache=cache, processes=1)["0.mp4"].looks
        assert set(looks) >= set(table["0.mp4"])


def test_a_folder_of_pictures_is_a_clip(tmp_path: Path) -> None:
    """It is looked at, known by its pictures, and none of them is a clip that no row names."""
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        (tmp_path / name).mkdir()
        for number in range(6):
            pixels = np.random.default_rng(10 * seed + number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number:03}.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "alone.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\none,a\ntwo,a\nthree,b\n", encoding="utf-8")
    report = doctor.examine(tmp_path, cache=tmp_path / ".cache", processes=1)
    assert report.codes("error") == set()
    facts = report.subject.facts["one"]
    assert (facts.num_frames, facts.width, facts.trouble) == (6, 32, "")
    assert facts.size == sum(path.stat().st_size for path in (tmp_path / "one").iterdir())
    told = {one.code: one for one in report.findings}
    assert told["duplicate"].rows == (1, 2)
    assert "alone.png" in told["untracked"].text
    assert "000.png" not in told["untracked"].text


def test_an_empty_folder_is_no_clip(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    assert survey.survey(tmp_path, {"none": [WHOLE]}, processes=1)["none"].trouble == "empty"
