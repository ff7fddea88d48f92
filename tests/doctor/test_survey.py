"""Files are read once: kept by content, in as many processes as asked; one that crashes a decoder is one file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinetext import doctor, video
from kinetext.doctor import survey
from kinetext.doctor.looking import Look
from kinetext.doctor.survey import WHOLE, Facts
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
    found = survey.survey(root, {"0.mp4": [WHOLE, (0.5, None), (0.0, 9.0)], "gone.mp4": [WHOLE]})
    facts = found["0.mp4"]
    assert (facts.num_frames, facts.fps, facts.seconds, facts.width, facts.height) == (8, 8.0, 1.0, 32, 32)
    assert facts.size == (root / "0.mp4").stat().st_size
    mean = video.read_all(root / "0.mp4")[0].float().mean((0, 1, 2)).tolist()
    whole = facts.looks[WHOLE]
    assert isinstance(whole, Look)
    assert whole.colour == pytest.approx(mean, abs=1.0)
    assert isinstance(facts.looks[0.5, None], Look)
    assert str(facts.looks[0.0, 9.0]).startswith("end 9.0 s, expected")
    assert found["gone.mp4"].trouble == "missing"


def test_facts_are_kept_as_text(root: Path) -> None:
    for facts in survey.survey(root, {"1.mp4": [WHOLE, (0.25, 0.75), (5.0, 9.0)], "bad.mp4": [WHOLE]}).values():
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
    first = survey.survey(root, ranges(root), cache=cache)
    shutil.copytree(root, tmp_path / "elsewhere")
    read: list[Path] = []
    probe = video.probe
    monkeypatch.setattr(video, "probe", lambda path: (read.append(path), probe(path))[1])
    assert survey.survey(tmp_path / "elsewhere", ranges(root), cache=cache) == first
    assert read == [], "the same content is known wherever it lies"
    changed = tmp_path / "elsewhere" / "0.mp4"
    shutil.copy(root / "1.mp4", changed)
    changed.write_bytes(changed.read_bytes() + bytes(8))
    survey.survey(tmp_path / "elsewhere", ranges(root), cache=cache)
    assert read == [changed]


@pytest.mark.parametrize("damage", ["", "kinetext doctor 0\n{}", "{"])
def test_a_damaged_cache_is_made_anew(root: Path, tmp_path: Path, damage: str) -> None:
    cache = tmp_path / "cache"
    first = survey.survey(root, {"0.mp4": [WHOLE]}, cache=cache)
    (kept,) = cache.rglob("*.json")
    kept.write_text(damage)
    assert survey.survey(root, {"0.mp4": [WHOLE]}, cache=cache) == first


def test_a_cache_that_cant_be_written(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="KINETEXT_CACHE"):
        survey.survey(root, ranges(root), cache=tmp_path / "cache", processes=1)
    with pytest.raises(DataError, match="KINETEXT_CACHE"):
        survey.survey(root, {"1.mp4": [WHOLE]}, cache=tmp_path / "cache", processes=2)


def test_a_crash_is_one_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies of a file, as a decoder's fault would make it, takes no other file with it."""
    program = (
        "import os; from kinetext.doctor import survey; read = survey._read\n"
        "survey._read = lambda job: os.abort() if job.file == '2.mp4' else read(job)\n"
        "survey.serve()"
    )
    monkeypatch.setattr(survey, "_PROGRAM", program)
    jobs = [survey._Job(str(root), name, (WHOLE,), None) for name in ranges(root)]
    found = {job.file: facts for job, facts in survey._in_processes(jobs, 1)}
    assert found["2.mp4"].trouble == "unreadable"
    assert "crashes" in found["2.mp4"].why
    assert [name for name, facts in found.items() if facts.trouble] == ["2.mp4", "bad.mp4"]


def test_its_processes_end_with_it(root: Path) -> None:
    """At once, also while whoever was interrupted still holds the traceback."""

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt) as held:
        survey.survey(root, ranges(root), processes=2, progress=stop)
    assert held.tb is not None and threading.active_count() == before


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
    assert survey.survey(tmp_path, {"none": [WHOLE]})["none"].trouble == "empty"
