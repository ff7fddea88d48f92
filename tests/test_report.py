from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from kinetext import assemble, report, video
from kinetext.checkpoint import Run
from kinetext.evaluate import Confusion, Evaluation, record
from kinetext.metrics.classification import ClassScore

EMPTY = {"meta", "img", "br", "input", "link"}


class Balanced(HTMLParser):
    """Fails where a tag is not closed; collects what the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Closed as it opens."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: str) -> Balanced:
    found = Balanced()
    found.feed(page)
    assert found.open == []
    return found


@pytest.fixture
def run(runs: SimpleNamespace, tmp_path: Path) -> Run:
    return Run.open(shutil.copytree(runs.both, tmp_path / "a <run>"))


def test_the_page_needs_nothing_else(run: Run, tmp_path: Path) -> None:
    import torch

    (run.path / "samples").mkdir(exist_ok=True)
    video.write_png(run.path / "samples" / "000000002.png", torch.zeros(1, 1, 8, 8))
    video.write(run.path / "samples" / "000000004.mp4", torch.zeros(1, 2, 16, 16), fps=8)
    matrix = Confusion(("cat & dog", "数<b>"), ((3, 1), (0, 2)))
    numbers = {"val/x/accuracy": 0.75, "val/text_only/x/accuracy": 0.5, "samples": 6.0}
    scores = {"val/x": (ClassScore("cat & dog", 1.0, 0.75, 0.857, 4),)}
    record(run, Evaluation(numbers, {"x": matrix}, scores, {"val/x/accuracy": (0.5, 1.0)}), {})
    report.write(run)
    page = (run.path / "report.html").read_text(encoding="utf-8")
    loads = parsed(page).loads
    assert len(loads) == 2
    assert all(source.startswith(("data:image/png;base64,", "data:video/mp4;base64,")) for source in loads)
    assert "http" not in page
    assert "a &lt;run&gt;" in page
    assert "cat &amp; dog" in page
    assert "数&lt;b&gt;" in page
    assert re.search(r"--share:75%.>3<.*--share:25%.>1<.*--share:100%.>2<", page)
    # the same number on all, and with the other modality taken away, side by side
    assert re.search(
        r"<th>held-out</th><th>text only</th>.*<th>x/accuracy</th><td>0.75 \[0.5, 1\]</td><td>0.5</td>", page
    )
    assert "<th>cat &amp; dog</th><td>1.000</td><td>0.750</td><td>0.857</td><td>4</td>" in page
    assert "prefers-color-scheme: dark" in page


def test_curves_come_from_the_log(run: Run) -> None:
    page = report.page(run, Evaluation({}))
    parsed(page)
    assert page.count("<svg") >= 2  # loss and learning rate, at least
    assert "train/seconds" not in page


def test_a_chart_is_to_scale() -> None:
    svg = report.chart("loss", {"train": [(0, 2.0), (5, 1.0), (10, 0.0)], "val": [(10, 1.0)]})
    tree = ET.fromstring(svg)
    lines = [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in tree.iter("polyline")
    ]
    (x0, y0), (x1, y1), (x2, y2) = lines[0]
    assert (x0 + x2) / 2 == pytest.approx(x1, abs=0.1)
    assert (y0 + y2) / 2 == pytest.approx(y1, abs=0.1)
    assert y0 < y1 < y2  # up is more
    assert lines[1] == [(x2, y1)]


def test_a_flat_line_and_a_single_point_are_drawn() -> None:
    ET.fromstring(report.chart("lr", {"train": [(3, 0.1)]}))
    ET.fromstring(report.chart("lr", {"train": [(3, 0.1), (4, 0.1)]}))


def test_the_card_says_what_was_measured(run: Run) -> None:
    found = report.finish(run)
    card = (run.path / "README.md").read_text(encoding="utf-8")
    for name, value in found.numbers.items():
        assert f"| {name} | {value:.4g} |" in card
    for fact in ("task", "data", "hardware", "trained", "parameters", "clips"):
        assert f"| {fact} | " in card
    assert f"| parameters | {sum(p.numel() for p in assemble.restore(run).parameters()):,} |" in card
    assert "2 steps of 2 samples" in card
    assert "16 frames of 64x64, grey, 8 frames a second" in card
    assert "--text" in card
    assert "--video" in card


def test_a_shipped_model_keeps_its_card(runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = shutil.copytree(runs.reader, tmp_path / "models" / "reader")
    before = (shipped / "meta.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(assemble.runs, "MODELS", tmp_path / "models")
        found, card = report.judge("reader", ["evaluate.samples=2"])
    assert found.numbers["samples"] == 2
    assert card is None
    assert (shipped / "meta.json").read_bytes() == before
