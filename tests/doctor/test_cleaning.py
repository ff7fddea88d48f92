"""The command: exit codes, a cleaned table, nothing else touched, stopped and gone on with."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kinetext.cli import main
from kinetext.doctor import examination, shortcut

REPAIRED = {
    "row-broken", "range-empty", "range-outside", "file-missing", "file-empty", "file-audio-only", "file-truncated",
    "file-unreadable", "duplicate-across-splits", "label-spaces", "label-variants", "label-conflict",
}  # fmt: skip


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> SimpleNamespace:
    monkeypatch.setattr(sys, "argv", ["kinetext", "doctor", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    out, err = capsys.readouterr()
    return SimpleNamespace(code=stop.value.code or 0, out=out, err=err)


def everything(folder: Path) -> dict[str, str]:
    """What stands in every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def known(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of this file share what was found of the files; shortcuts are looked for with few trees."""
    monkeypatch.setattr(shortcut, "_TREES", 8)
    monkeypatch.setattr(shortcut, "_TREES_OF_ONE", 4)
    cache = tmp_path_factory.getbasetemp() / "doctor cache"
    monkeypatch.setenv("KINETEXT_CACHE", str(cache))


@pytest.mark.usefixtures("known")
def test_a_cleaned_table(
    broken_set: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(broken_set.root)
    made, page = tmp_path / "clean.csv", tmp_path / "page.html"
    done = call(monkeypatch, capsys, broken_set.root, "--write", made, "--report", page, "--json")
    assert done.code == 1
    assert everything(broken_set.root) == before
    said = json.loads(done.out)
    with (broken_set.root / "metadata.csv").open(encoding="utf-8", newline="") as file:
        old = list(csv.DictReader(file, restkey="more"))
    with made.open(encoding="utf-8", newline="") as file:
        new = list(csv.DictReader(file))
    _every_change_is_listed(said["changes"], old, new)
    assert {one["code"] for one in said["findings"]} >= REPAIRED
    _is_a_page(page.read_text(encoding="utf-8"))
    # the cleaned table among its clips has none of the errors that were repaired
    again = shutil.copy(made, broken_set.root / "clean.csv")
    done = call(monkeypatch, capsys, again, "--json")
    Path(again).unlink()
    left = {one["code"] for one in json.loads(done.out)["findings"]}
    assert not left & REPAIRED
    assert "group-across-splits" in left, "which rows to give up is not the doctor's to decide"


def _every_change_is_listed(
    changes: list[dict[str, Any]], old: list[dict[str, Any]], new: list[dict[str, str]]
) -> None:
    gone = {one["row"] for one in changes if one["what"].startswith("left out")}
    kept = [row for number, row in enumerate(old, 1) if number not in gone]
    assert len(new) == len(kept)
    differ = {old.index(was) + 1 for was, now in zip(kept, new, strict=True) if was != now}
    assert differ == {one["row"] for one in changes} - gone
    assert {now["label"] for now in new} >= {"run", "jump", "wave"}
    assert not {"wave ", "ＲＵＮ"} & {now["label"] for now in new}


def _is_a_page(text: str) -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.pictures, self.links = 0, 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = dict(attrs)
            source = values.get("src") or values.get("href") or ""
            self.pictures += tag == "img" and source.startswith("data:image/jpeg;base64,")
            self.links += bool(source) and not source.startswith("data:")
            if tag not in ("meta", "img", "input"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert reader.links == 0, "nothing from elsewhere"
    assert reader.pictures > 10
    for words in ("duplicate-across-splits", "一个人在公园里走路", "ＲＵＮ", "Shortcuts: label", "Balance: level"):
        assert words in text


@pytest.mark.usefixtures("known")
def test_exit_codes(
    clean_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = call(monkeypatch, capsys, clean_set)
    assert done.code == 0
    assert "48 rows, 48 files: 0 errors, 0 warnings" in done.out
    old = tmp_path / "old.html"
    old.touch()
    # what is asked for wrongly is said before a file is read
    monkeypatch.setattr(examination, "survey", lambda *words, **more: pytest.fail("files are read"))
    for words, message in (
        ([tmp_path / "nowhere"], "no folder"),
        ([tmp_path], "expected exactly one of"),
        ([clean_set, "--write", clean_set / "metadata.csv"], "is there already"),
        ([clean_set, "--write", tmp_path / "clean.txt"], "ends in .csv"),
        ([clean_set, "--write", tmp_path / "no" / "clean.csv"], f"there is no folder {tmp_path / 'no'}"),
        ([clean_set, "--report", clean_set / "metadata.csv"], "ends in .html"),
        ([clean_set, "--report", tmp_path / "no" / "page.html"], f"there is no folder {tmp_path / 'no'}"),
        ([clean_set, "--report", old], "is there already"),
        ([clean_set, "--recipe", tmp_path / "no.toml"], "can't be read"),
    ):
        done = call(monkeypatch, capsys, *words)
        assert done.code == 2, words
        assert message in done.err
        assert done.err.count("\n") == 1


# the shell that started the tests in the background may have made them, and all that they start, deaf to Ctrl-C
_HEARING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from kinetext.cli import main
main()
"""


def test_stopped_and_gone_on_with(clean_set: Path, tmp_path: Path) -> None:
    """Ctrl-C ends it within seconds; what was read is there for the next time."""
    many = tmp_path / "many"
    shutil.copytree(clean_set, many)
    lines = (many / "metadata.csv").read_text(encoding="utf-8").splitlines()
    for number in range(400):  # the same pictures, but each another file
        data = (many / "clips" / f"{1001 + number % 48}.mp4").read_bytes()
        (many / "clips" / f"more {number}.mp4").write_bytes(data + b"\0\0\x40\0free%016376d" % number)
        lines.append(f"clips/more {number}.mp4,text {number},run,1,,,g,train,")
    (many / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    environment = {**os.environ, "KINETEXT_CACHE": str(tmp_path / "cache")}
    running = subprocess.Popen(
        [sys.executable, "-c", _HEARING, "doctor", str(many)],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not any((tmp_path / "cache").rglob("*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130, err
    assert "goes on" in err
    assert 0 < len(list((tmp_path / "cache").rglob("*.json"))) < 448
