"""The page of the evolution benchmark: what it says of its numbers, and its pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kinetext import assemble
from kinetext.config import Recipe
from kinetext.types import KinetextError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import evolution_judging  # noqa: E402
import evolution_page  # noqa: E402
from evolution_worlds import WORLDS, draw  # noqa: E402
from wrapping import wrapped  # noqa: E402

DIGITS = assemble.resolve(Recipe.load(ROOT / "recipes" / "evolution_flow.toml"))


def test_page_shows_what_has_been_run_and_what_has_not() -> None:
    results: dict[str, dict[str, object]] = {"methods": {}}
    text = evolution_page.right_table(WORLDS["digits"], results)
    assert text.count("not run yet") == 6 and "`recurrent_vae` | not run yet |" in text
    page = "a\n<!-- digits: made by benchmarks/evolution.py -->\nold\n<!-- digits: end -->\nb\n"
    new = evolution_page.between(page, "digits", "new \\1")
    assert new == "a\n<!-- digits: made by benchmarks/evolution.py -->\n\nnew \\1\n\n<!-- digits: end -->\nb\n"
    with pytest.raises(ValueError, match="no <!-- shapes"):
        evolution_page.between(page, "shapes", "")
    assert wrapped("a large red circle bounces", lambda line: len(line) <= 12) == ["a large red", "circle", "bounces"]
    assert wrapped("unbreakable red", lambda line: len(line) <= 5) == ["unbreakable", "red"]
    assert wrapped("数字7正在上下运动", lambda line: len(line) <= 4) == ["数字7正", "在上下运", "动"]
    assert wrapped("", lambda line: False) == []
    assert evolution_page.table(["a", "b"], [["1"]]) == "| a | b |\n| --- | --- |\n| 1 |  |"


def noted() -> dict[str, Any]:
    """The results of digits in the repository, to change."""
    path = ROOT / "benchmarks" / "results" / "evolution_digits.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_where_a_row_was_trained_is_said_if_it_was_not_where_it_was_judged() -> None:
    results = noted()
    row = {"date": "today", "commit": "abc", "hardware": "two cores"}
    results["methods"] = {
        "flow": {**row, "training": {"hardware": "a card"}},
        "gan": {**row, "training": {"hardware": "two cores"}},
    }
    said = evolution_page.origins(WORLDS["digits"], results)
    assert "- `flow`: today, commit abc; two cores; trained on a card" in said
    assert said.count("trained on") == 1


def test_the_page_says_what_was_measured_on_what_and_what_was_not() -> None:
    results, world = noted(), WORLDS["digits"]
    results["real"]["memorisation"]["training_clips"] = 1234
    results["methods"]["flow"]["training"]["memory_mb"] = None
    assert "; the nearest training clip among 1,234; budget 40 minutes:" in evolution_page.origins(world, results)
    (row,) = (line for line in evolution_page.cost_table(world, results).splitlines() if line.startswith("| `flow` |"))
    assert row.split(" | ")[6] == "not measured"


@pytest.mark.parametrize(("minutes", "said"), [(7.03, "its own 7.0 minutes"), (0.0, "minutes not known")])
def test_a_run_of_ones_own_is_marked_on_the_page(minutes: float, said: str) -> None:
    results, world = noted(), WORLDS["digits"]
    results["methods"]["flow"] |= {"at": "runs/mine"}
    results["methods"]["flow"]["training"]["minutes"] = minutes
    tables = (evolution_page.right_table, evolution_page.kin_table, evolution_page.cost_table)
    for text in (one(world, results) for one in tables):
        assert "| `flow` (a run of one's own) |" in text and text.count("of one's own") == 1
    (line,) = (one for one in evolution_page.origins(world, results).splitlines() if "under the budget" in one)
    assert line.startswith("- `flow` (a run of one's own): ")
    assert line.endswith(f"; not under the budget: {said}, last stage alone")


def test_pictures_appear_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves the picture that was there."""

    def full(self: object, path: Path, *args: object, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    world, sets = WORLDS["digits"], draw(WORLDS["digits"], DIGITS, 4, 0, 0)
    clips = evolution_judging.Clips(sets.seen.video, sets.unseen.video, sets.repeats.video)
    evolution_page.write_strip(tmp_path, world, "real", sets, clips)
    sheet, plot = tmp_path / "sheet.gif", tmp_path / "plot.png"
    sheet.write_bytes(b"before")
    plot.write_bytes(b"before")
    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    notes = evolution_page.prompt_notes(sets)
    for write in (
        lambda: evolution_page.write_sheet(tmp_path, world, ["real"], notes, sheet),
        lambda: evolution_page.write_plot(plot, world, noted()),
        lambda: evolution_page.write_strip(tmp_path, world, "real", sets, clips),
    ):
        with pytest.raises(KinetextError, match="could not be written"):
            write()
    assert sheet.read_bytes() == plot.read_bytes() == b"before"
    with Image.open(evolution_page.strip_path(tmp_path, world, "real")) as strip:
        assert strip.width == 16 * 66 and strip.load()


def test_labels_do_not_stand_on_each_other() -> None:
    assert evolution_page.spaced([60.0, 1.0, 3.0, 0.0, 20.0]) == [60.0, 5.0, 10.0, 0.0, 20.0]
