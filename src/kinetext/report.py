"""What a run shows for itself: report.html (curves, samples, confusion matrices) and README.md, the model card."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kinetext import assemble, checkpoint, runtime
from kinetext.checkpoint import Run, write_text
from kinetext.config import Recipe
from kinetext.evaluate import Confusion, Evaluation, evaluate, record, recorded, side_by_side
from kinetext.metrics.classification import ClassScore
from kinetext.types import Progress

# A validation number stands beside the training number of the same name in one chart.
_SIDES = ("train/", "val/")
_HIDDEN = frozenset({"train/seconds"})


def finish(run: Run, progress: Progress | None = None) -> Evaluation:
    """Judges a run that has just trained, and writes its report and card."""
    found = evaluate(run, progress=progress)
    record(run, found, training_facts(run))
    write(run)
    return found


def judge(
    name: str, overrides: Sequence[str] = (), device: str | None = None, progress: Progress | None = None
) -> tuple[Evaluation, Path | None]:
    """Judges a run, and notes the numbers in its folder.

    A shipped model keeps the card that it came with, and so does a folder that can't be written.

    Returns:
        What was found, and the card that now says so, or None.
    """
    run = assemble.open_run(name)
    found = evaluate(run, overrides, device=assemble.device(device), progress=progress)
    if assemble.is_shipped(run) or not os.access(run.path, os.W_OK):
        return found, None
    record(run, found, {"evaluated with": " ".join(overrides) or "the recipe's own settings"})
    write(run)
    return found, run.path / "README.md"


def pack(name: str | Path, folder: Path, overrides: Sequence[str] = (), *, half: bool = True) -> Path:
    """Writes a small copy of a run to share: recipe, meta, card and the best weights, as float16 or as they are.

    Args:
        overrides: of the copy's sections data and evaluate, such as 'data.root=""'.
    """
    run = assemble.open_run(str(name))
    recipe = assemble.with_data(run.recipe, overrides)
    # running statistics, and the scale of a column of numbers, need all their bits
    halved = [name for name, _ in assemble.restore(run).named_parameters()] if half else []
    packed = checkpoint.pack(run, folder, recipe, halved)
    write_text(folder / "README.md", card(packed))
    return packed.path


def write(run: Run) -> None:
    """Writes report.html and README.md from what the run folder holds."""
    found = recorded(run)
    write_text(run.path / "README.md", card(run))
    write_text(run.path / "report.html", page(run, found))


def training_facts(run: Run) -> dict[str, str]:
    """What the card says about how a run came to be."""
    recipe, shape, last = run.recipe, run.meta.video_shape, run.latest()
    facts = {
        "task": recipe.task.name,
        "parts": ", ".join(f"{role} {name}" for role, name in _parts(run)),
        "parameters": f"{sum(p.numel() for p in assemble.restore(run).parameters()):,}",
        "data": ", ".join(f"{k} = {v!r}" for k, v in {"name": recipe.data.name, **recipe.data.args}.items()),
        "trained": f"{last.get('step', 0):,} steps of {recipe.train.batch * recipe.train.accumulate} samples, "
        f"{last.get('train/seconds', 0.0) / 60:.1f} minutes",
        "hardware": runtime.hardware(),
        "weights": run.weights_file().name,
    }
    if shape:
        fps = f", {run.meta.fps:g} frames a second" if run.meta.fps else ""
        facts["clips"] = f"{shape[1]} frames of {shape[3]}x{shape[2]}, {'grey' if shape[0] == 1 else 'colour'}{fps}"
    if recipe.init:
        facts["started from"] = ", ".join(f"{part}: {source}" for part, source in recipe.init.items())
    return facts


def card(run: Run) -> str:
    """The model card, Markdown."""
    meta, name = run.meta, run.path.name
    lines = [f"# {name}", "", f"A kinetext {run.recipe.task.name} model, made with kinetext {meta.version}.", ""]
    lines += ["| | |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in meta.facts.items()), ""]
    if meta.numbers:
        rows = [f"| {_cell(k)} | {_number(v)} |" for k, v in sorted(meta.numbers.items())]
        lines += ["## Measured", "", "| number | value |", "|---|---|", *rows, ""]
        lines += [f"{text}  " for prefix, text in _LEGEND if any(k.startswith(prefix) for k in meta.numbers)] + [""]
    for target in meta.targets:
        if target.numeric:
            lines += [f"`{target.name}`: a number", ""]
            continue
        several = "any number of" if target.multi else "one of"
        lines += [f"`{target.name}`: {several} {len(target.classes)} classes: {', '.join(target.classes)}", ""]
    lines += ["## Use", "", "```", *_usage(run), "```", ""]
    return "\n".join(lines)


def page(run: Run, found: Evaluation) -> str:
    """The report: one HTML file that needs nothing else."""
    name = html.escape(run.path.name)
    parts = [f"<header><h1>{name}</h1><p>{html.escape(run.recipe.task.name)}, kinetext {run.meta.version}</p></header>"]
    if found.numbers:
        parts.append(_section("Measured", _numbers(found)))
    parts += [_section(f"Confusion: {column}", _matrix(m)) for column, m in found.confusion.items()]
    parts += [_section(f"Classes: {column}", _classes(scores)) for column, scores in found.classes.items()]
    charts = "".join(chart(title, lines) for title, lines in _curves(run.history()).items())
    if charts:
        parts.append(_section("Training", f'<div class="charts">{charts}</div>'))
    if pictures := _pictures(run.path / "samples"):
        parts.append(_section("Samples", pictures))
    parts.append(_section("Facts", _rows(run.meta.facts.items())))
    parts.append(_section("Recipe", f"<pre>{html.escape(run.recipe.to_toml())}</pre>"))
    return shell(run.path.name, "\n".join(parts))


def folds_page(name: str, found: Evaluation, each: Sequence[Mapping[str, float]], recipe: Recipe) -> str:
    """The page of a cross-validation: all folds together, then every fold by itself."""
    columns = [n for n in each[0] if n.startswith("val/") and not any(s in n for s in ("/text_only/", "/video_only/"))]
    head = "".join(f"<th>{html.escape(n.removeprefix('val/'))}</th>" for n in columns)
    body = "".join(
        f"<tr><th>{place}</th>{''.join(f'<td>{_number(one[n]) if n in one else str()}</td>' for n in columns)}</tr>"
        for place, one in enumerate(each)
    )
    parts = [
        f"<header><h1>{html.escape(name)}</h1><p>{len(each)} folds, {html.escape(recipe.task.name)}</p></header>",
        _section("All folds together", _numbers(found)),
        *(_section(f"Confusion: {column}", _matrix(m)) for column, m in found.confusion.items()),
        *(_section(f"Classes: {column}", _classes(scores)) for column, scores in found.classes.items()),
        _section("Every fold", f'<div class="scroll"><table><tr><th>fold</th>{head}</tr>{body}</table></div>'),
        _section("Recipe", f"<pre>{html.escape(recipe.to_toml())}</pre>"),
    ]
    return shell(name, "\n".join(parts))


def shell(title: str, body: str) -> str:
    """A whole HTML page, light or dark as the reader's system is."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def chart(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A line chart as inline SVG; ``lines`` maps a name to (step, value) points, one line at least."""
    points = [point for line in lines.values() for point in line]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)
    wide, tall = 360.0, 150.0

    def at(x: float, y: float) -> tuple[str, str]:
        across = (x - low_x) / (high_x - low_x) if high_x > low_x else 0.5
        up = (y - low_y) / (high_y - low_y) if high_y > low_y else 0.5
        return f"{56 + across * (wide - 66):.1f}", f"{tall - 20 - up * (tall - 40):.1f}"

    drawn, legend = [], []
    for number, (name, line) in enumerate(lines.items()):
        places = [at(*point) for point in line]
        x, y = places[-1]
        dot = f'<circle cx="{x}" cy="{y}" r="2.5"/>'
        path = " ".join(f"{x},{y}" for x, y in places)
        drawn.append(f'<g class="line{number % 3}"><polyline points="{path}"/>{dot}</g>')
        legend.append(f'<span class="line{number % 3}">{html.escape(name)} {_number(line[-1][1])}</span>')
    return (
        f'<figure><figcaption>{html.escape(title)} {" ".join(legend)}</figcaption><svg viewBox="0 0 {wide:g} {tall:g}">'
        f'<path class="axis" d="M56 14V{tall - 20:g}H{wide - 10:g}"/>'
        f'<text x="52" y="24" text-anchor="end">{high_y:.3g}</text>'
        f'<text x="52" y="{tall - 20:g}" text-anchor="end">{low_y:.3g}</text>'
        f'<text x="56" y="{tall - 6:g}">{low_x:g}</text>'
        f'<text x="{wide - 10:g}" y="{tall - 6:g}" text-anchor="end">step {high_x:g}</text>{"".join(drawn)}</svg></figure>'
    )


_LEGEND = (
    ("val/", "`val/`: on held-out data."),
    ("test/", "`test/`: on the test split."),
    ("val/text_only/", "`text_only/`: the same, the videos taken away."),
    ("val/video_only/", "`video_only/`: the same, the texts taken away."),
    (
        "generated/",
        "`generated/`: how a reader, never trained on generated clips, reads clips made from held-out texts.",
    ),
    (
        "decoded/",
        "`decoded/`: how a reader, never trained on decoded clips, reads held-out clips that the codec gives back.",
    ),
    ("real/", "`real/`: how the same reader reads the real held-out clips of these texts."),
)


def _parts(run: Run) -> list[tuple[str, str]]:
    recipe = run.recipe
    parts = [(f"{modality} encoder", component.name) for modality, component in recipe.encoders.items()]
    optional = {"fusion": recipe.fusion, "codec": recipe.codec, "generator": recipe.generator, "method": recipe.method}
    return parts + [(role, component.name) for role, component in optional.items() if component]


def _usage(run: Run) -> list[str]:
    path = run.path.name
    evaluation = f"kinetext evaluate {path}"
    if run.recipe.task.name == "text_to_video":
        return [f'kinetext generate "..." --model {path} -o clip.mp4', evaluation]
    if run.recipe.task.name == "video_to_text":
        return [f"kinetext caption {path} --video clip.mp4", evaluation]
    if run.recipe.task.name in ("classification", "regression", "retrieval"):
        verb = "embed" if run.recipe.task.name == "retrieval" else "predict"
        if run.meta.vector_dims and verb == "predict":
            return [f"kinetext predict {path} metadata.csv --out said.csv", evaluation]
        gives = {"video": "--video clip.mp4", "text": '--text "..."'}
        return [f"kinetext {verb} {path} {' '.join(gives[m] for m in sorted(run.recipe.encoders))}", evaluation]
    return [evaluation]


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Chart title -> line name -> points."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in history:
        for name, value in line.items():
            side = next((side for side in _SIDES if name.startswith(side)), None)
            if side and name not in _HIDDEN:
                title = name.removeprefix(side)
                curves.setdefault(title, {}).setdefault(side.rstrip("/"), []).append((line["step"], value))
    return curves


def _pictures(folder: Path, most: int = 4) -> str:
    """The newest sample pictures, clips and captions, embedded."""
    kinds = {".png": "image/png", ".mp4": "video/mp4", ".txt": ""}
    found = sorted(path for path in folder.glob("*") if path.suffix in kinds and not path.name.startswith("."))
    shown = []
    for path in found[-most:]:
        if path.suffix == ".txt":
            said = html.escape(path.read_text(encoding="utf-8"))
            shown.append(f"<figure><figcaption>{html.escape(path.stem)}</figcaption><pre>{said}</pre></figure>")
            continue
        source = f"data:{kinds[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
        tag = f'<img src="{source}" alt="">' if path.suffix == ".png" else f'<video src="{source}" {PLAYING}></video>'
        shown.append(f"<figure><figcaption>{html.escape(path.stem)}</figcaption>{tag}</figure>")
    return f'<div class="samples">{"".join(reversed(shown))}</div>' if shown else ""


PLAYING = "autoplay loop muted playsinline"


def _matrix(matrix: Confusion) -> str:
    """Rows are true classes; a cell is darker the larger its share of the row."""
    rows = []
    for place, (name, counts) in enumerate(zip(matrix.classes, matrix.counts, strict=True)):
        total = max(sum(counts), 1)
        cells = "".join(
            f'<td class="{"hit" if i == place else "miss"}" style="--share:{100 * n / total:.0f}%">{n or ""}</td>'
            for i, n in enumerate(counts)
        )
        rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    names = "".join(f"<th><span>{html.escape(name)}</span></th>" for name in matrix.classes)
    return (
        f'<p>Rows: the true class. Columns: the class that was predicted.</p><div class="scroll">'
        f'<table class="matrix"><tr><td></td>{names}</tr>{"".join(rows)}</table></div>'
    )


def _numbers(found: Evaluation) -> str:
    """Numbers of the same name side by side, and the rest below."""
    titles, rows, rest = side_by_side(found)
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows.items()
    )
    sure = "<p>[low, high]: where 95 % of resamples by group fall.</p>" if found.intervals else ""
    table = f'<div class="scroll"><table><tr><td></td>{head}</tr>{body}</table></div>' if rows else ""
    return table + sure + _rows((k, _number(v)) for k, v in rest.items())


def _classes(scores: Sequence[ClassScore]) -> str:
    names = "".join(f"<th>{name}</th>" for name in ("class", "precision", "recall", "F1", "rows"))
    rows = "".join(
        f"<tr><th>{html.escape(s.name)}</th><td>{s.precision:.3f}</td><td>{s.recall:.3f}</td><td>{s.f1:.3f}</td>"
        f"<td>{s.support}</td></tr>"
        for s in scores
    )
    return f'<div class="scroll"><table><tr>{names}</tr>{rows}</table></div>'


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in pairs)
    return f"<table>{rows}</table>" if rows else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --edge: #d9d9e0; --back: #fcfcfd; --card: #fff;
  --a: #0b68cb; --b: #cc4e00; --c: #18794e; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba; --edge: #363a3f; --back: #111113;
  --card: #18191b; --a: #70b8ff; --b: #ffa057; --c: #3dd68c; } }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h1 { margin: 0; font-size: 28px; } h2 { margin: 0 0 12px; font-size: 17px; } header p { margin: 0; color: var(--soft); }
section { margin-top: 20px; padding: 16px 20px; background: var(--card); border: 1px solid var(--edge);
  border-radius: 10px; }
table { border-collapse: collapse; } th, td { padding: 3px 14px 3px 0; text-align: left; vertical-align: top;
  font-variant-numeric: tabular-nums; } th { font-weight: 500; color: var(--soft); } .scroll { overflow-x: auto; }
pre { overflow-x: auto; margin: 0; font-size: 13px; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 13px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px; }
svg { width: 100%; } svg text { fill: var(--soft); font-size: 10px; } polyline { fill: none; stroke-width: 1.5; }
.axis { fill: none; stroke: var(--edge); }
.line0 { color: var(--a); stroke: var(--a); fill: var(--a); } .line1 { color: var(--b); stroke: var(--b); fill: var(--b); }
.line2 { color: var(--c); stroke: var(--c); fill: var(--c); }
span.line0, span.line1, span.line2 { margin-left: 8px; }
.samples { display: grid; gap: 14px; } img, video { max-width: 100%; image-rendering: pixelated; border-radius: 6px; }
.matrix td { min-width: 30px; padding: 4px; text-align: center; }
.matrix th span { writing-mode: vertical-rl; transform: rotate(180deg); } .matrix tr th:first-child { padding-right: 10px; }
.hit { background: color-mix(in srgb, var(--c) calc(var(--share) * .7), transparent); }
.miss { background: color-mix(in srgb, var(--b) calc(var(--share) * .7), transparent); }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 18px; }
.clips video { width: 100%; } .right { color: var(--c); } .wrong { color: var(--b); }
"""
