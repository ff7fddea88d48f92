"""The doctor's report as a part of an HTML page: findings with their rows and pictures, balance, shortcuts, changes."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from kinetext import video
from kinetext.doctor.examination import Report
from kinetext.doctor.findings import SEVERITIES, Finding, counted
from kinetext.doctor.shortcut import TOGETHER, Score, Shortcut
from kinetext.doctor.subject import Subject
from kinetext.manifest import SPLITS, Row, place
from kinetext.types import DataError

_ROWS = 500  # of a finding that the page lists; the JSON has all
_PICTURES = 6  # of a finding
_ALL_PICTURES = 150  # of a page
_FRAMES, _SIDE = 4, 72  # of a picture: frames side by side, and their pixels
_CLASSES = 60  # of a column, in the chart


def body(report: Report) -> str:
    """All sections, to stand in a page of its own."""
    shown = _Pictures(report.subject)
    table = report.subject.table
    counts = ", ".join(counted(report.count(severity), severity) for severity in SEVERITIES)
    parts = [
        f"<style>{_STYLE}</style>",
        f"<header><h1>{html.escape(table.root.resolve().name)}</h1><p>{counted(len(table.rows), 'row')} of "
        f"{html.escape(table.path.name)}, {counted(len(report.subject.facts), 'file')}: {counts}. "
        f"Label columns: {html.escape(', '.join(report.subject.columns) or 'none')}.</p></header>",
        '<p><input id="filter" placeholder="filter rows: a number, a file, a word" size="40"></p>',
    ]
    for severity in SEVERITIES:
        some = [one for one in report.findings if one.severity == severity]
        if some:
            parts.append(_section(f"{severity.capitalize()}s", "".join(_finding(one, shown) for one in some)))
    parts += [_section(f"Shortcuts: {column}", chart) for column, chart in _shortcuts(report.shortcuts).items()]
    parts += [
        _section(f"Balance: {column}", _balance(classes)) for column, classes in report.balance.items() if classes
    ]
    if report.trial:
        parts.append(_section("What the recipe would do", _pairs(report.trial)))
    if report.changes:
        rows = "".join(f"<tr><td>{one.row}</td><td>{html.escape(one.what)}</td></tr>" for one in report.changes)
        parts.append(_section("Changes in the cleaned table", f'<table class="rows">{rows}</table>'))
    return "\n".join([*parts, f"<script>{_SCRIPT}</script>"])


class _Pictures:
    """Frames of rows as JPEG, for as many rows as a page can bear."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.left = subject, _ALL_PICTURES
        self.rows = {row.number: row for row in subject.rows}

    def of(self, numbers: Sequence[int]) -> str:
        """The first few of these rows, each with its number and file."""
        made: list[str] = []
        for number in numbers:
            if len(made) == _PICTURES or not self.left:
                break
            row = self.rows[number]
            if self.subject.look(row) and (source := self._source(row)):
                what = f"row {number}: {html.escape(row.file or '')}"
                made.append(f'<figure><img src="{source}" alt=""><figcaption>{what}</figcaption></figure>')
                self.left -= 1
        return f'<div class="strip">{"".join(made)}</div>' if made else ""

    def _source(self, row: Row) -> str:
        assert row.file is not None
        try:
            clip = video.read_clip(
                place(self.subject.table.root, row.file),
                num_frames=_FRAMES,
                size=_SIDE,
                start=row.start,
                end=row.end,
                fit="pad",
            )
        except DataError:
            return ""  # it could be read a while ago; the page does without
        frames = video.to_bytes(clip).permute(2, 1, 3, 0).reshape(_SIDE, _FRAMES * _SIDE, 3)
        kept = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(frames.numpy())).save(kept, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(kept.getvalue()).decode()}"


def _finding(one: Finding, pictures: _Pictures) -> str:
    listed = list(one.details.items())
    files = pictures.rows
    cells = "".join(
        f"<tr><td>{row}</td><td>{html.escape(files[row].file or '')}</td><td>{html.escape(what)}</td></tr>"
        for row, what in listed[:_ROWS]
    )
    more = f"<p>and {len(listed) - _ROWS:,} more; --json has all of them</p>" if len(listed) > _ROWS else ""
    rows = (
        f"<details><summary>{counted(len(listed), 'row')}</summary>"
        f'<div class="scroll"><table class="rows">{cells}</table></div>{more}</details>'
    )
    strip = pictures.of(one.rows) if one.severity != "note" else ""
    return (
        f'<article class="{one.severity}"><h3><code>{one.code}</code></h3><p>{html.escape(one.text)}</p>'
        f"<p class='advice'>{html.escape(one.advice)}</p>{strip}{rows if listed else ''}</article>"
    )


def _shortcuts(shortcuts: Sequence[Shortcut]) -> dict[str, str]:
    """Column -> its bars: as files first, then as read."""
    charts: dict[str, str] = {}
    for one in shortcuts:
        if one.column not in charts:
            charts[one.column] = (
                f"<p>How often the label is guessed right in held-out groups ({counted(one.groups, 'group')}, "
                f"{counted(one.rows, 'row')}) from this alone. The line is the majority class, {one.chance:.1%}; a bar is the "
                "99 % interval, and orange where the label is told above chance.</p>"
            )
        title = "as files" if one.way == "as files" else f'as read with fit = "{one.way}"'
        chosen = " (this is how clips are read)" if one.recommended else ""
        scores = {**({TOGETHER: one.together} if one.together else {}), **one.alone}
        bars = "".join(_bar(name, score, one) for name, score in scores.items())
        charts[one.column] += f"<h3>{title}{chosen}</h3>" + (bars or "<p>nothing differs between clips</p>")
    return charts


def _bar(name: str, score: Score, one: Shortcut) -> str:
    return (
        f'<div class="bar"><span>{html.escape(name)}</span><div class="track">'
        f'<i class="{"leak" if score.leaks else "calm"}" style="left:{100 * score.low:.1f}%;width:{100 * (score.high - score.low):.1f}%"></i>'
        f'<b style="left:{100 * score.accuracy:.1f}%"></b><u style="left:{100 * one.chance:.1f}%"></u></div>'
        f"<span>{score.accuracy:.1%} [{score.low:.1%}, {score.high:.1%}]</span></div>"
    )


def _balance(classes: Mapping[str, Mapping[str, int]]) -> str:
    splits = [split for split in (*SPLITS, "all") if any(split in counts for counts in classes.values())]
    most = max(sum(counts.values()) for counts in classes.values())
    rows = []
    for name, counts in list(classes.items())[:_CLASSES]:
        parts = "".join(
            f'<i class="split{place}" style="width:{100 * counts.get(split, 0) / most:.2f}%"></i>'
            for place, split in enumerate(splits)
        )
        said = ", ".join(f"{split} {counts.get(split, 0)}" for split in splits)
        rows.append(
            f'<div class="bar"><span>{html.escape(name)}</span><div class="flow">{parts}</div><span>{said}</span></div>'
        )
    rest = f"<p>and {len(classes) - _CLASSES} classes more</p>" if len(classes) > _CLASSES else ""
    return "".join(rows) + rest


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in pairs.items())
    return f"<table>{rows}</table>"


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{inside}</section>"


_STYLE = """
article { border-left: 4px solid var(--edge); padding: 2px 0 6px 14px; margin: 14px 0; }
article.error { border-color: #ce2c31; } article.warning { border-color: var(--b); } article.note { border-color: var(--a); }
article p { margin: 2px 0; } h3 { margin: 10px 0 4px; font-size: 15px; } .advice { color: var(--soft); }
.strip { display: flex; flex-wrap: wrap; gap: 8px; margin: 6px 0; } .strip img { display: block; }
.strip figcaption { max-width: 288px; overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: minmax(90px, 180px) 1fr minmax(120px, 220px); gap: 10px; align-items: center;
  font-size: 13px; } .bar span { overflow-wrap: anywhere; }
.track { position: relative; height: 12px; background: color-mix(in srgb, var(--edge) 45%, transparent); border-radius: 3px; }
.track i { position: absolute; top: 3px; height: 6px; border-radius: 3px; } .leak { background: var(--b); } .calm { background: var(--c); }
.track b { position: absolute; top: 0; width: 2px; height: 12px; background: var(--ink); }
.track u { position: absolute; top: -2px; width: 1px; height: 16px; background: var(--a); }
.flow { display: flex; height: 10px; } .flow i { height: 10px; }
.split0 { background: var(--a); } .split1 { background: var(--b); } .split2 { background: var(--c); } .split3 { background: var(--a); }
#filter { font: inherit; padding: 4px 8px; border: 1px solid var(--edge); border-radius: 6px; background: var(--card); color: var(--ink); }
"""
_SCRIPT = """
const field = document.getElementById("filter");
field.addEventListener("input", () => {
  const words = field.value.trim().toLowerCase();
  for (const row of document.querySelectorAll("table.rows tr"))
    row.hidden = words !== "" && ![...row.cells].some((cell, place) =>
      place === 0 ? cell.textContent === words : cell.textContent.toLowerCase().includes(words));
  for (const box of document.querySelectorAll("details"))
    box.open = words !== "" && [...box.querySelectorAll("tr")].some((row) => !row.hidden);
});
"""
