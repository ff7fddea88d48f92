"""Numbers -> docs/evolution.md between its markers, the plot, and the contact sheet, which plays.

Part of ``benchmarks/evolution.py``. Everything is made again from benchmarks/results/*.json and the strips of samples in docs/images.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot, ticker
from PIL import Image, ImageDraw, ImageFont

from evolution_judging import Clips, relative
from evolution_worlds import KINDS, Kind, Sets, World, as_video
from kinetext.checkpoint import whole, write_text
from kinetext.evaluate import save_grid
from kinetext.types import Sample
from wrapping import wrapped

EACH = 4  # prompts of either kind on a strip
SIDE = 64  # pixels of a frame
EDGE = 1  # pixels around a frame on a strip
LEFT, LINE, GAP = 118, 13, 6  # pixels of the sheet
COLOURS = 128
FRAME_MS = 125
NOT_RUN = "not run yet"
Result = Mapping[str, Any]


def strip_path(docs: Path, world: World, name: str) -> Path:
    """The picture of a method's samples."""
    return docs / "images" / f"evolution_{world.name}_{name}.png"


def strip_prompts(sets: Sets) -> list[tuple[Kind, int]]:
    """Prompts that samples are shown of: English ones of either kind, each as unlike those before as can be."""
    chosen: list[tuple[Kind, int]] = []
    for kind, shown in zip(KINDS, (sets.seen, sets.unseen), strict=True):
        places = [place for place, sample in enumerate(shown.samples) if (sample.text or "").isascii()]
        said: Counter[str] = Counter()
        for _ in range(min(EACH, len(places))):
            best = min(places, key=lambda place: sum(said[word] for word in _words(shown.samples[place])))
            places.remove(best)
            said.update(_words(shown.samples[best]))
            chosen.append((kind, best))
    return chosen


def _words(sample: Sample) -> set[str]:
    """What the labels of a sample say."""
    return {word for names in sample.labels.values() for name in names for word in name.split()}


def write_strip(docs: Path, world: World, name: str, sets: Sets, clips: Clips) -> None:
    """Writes samples of a method: a row a prompt, a column a frame."""
    of, path = {"seen": clips.seen, "unseen": clips.unseen}, strip_path(docs, world, name)
    rows = torch.stack([of[kind][place] for kind, place in strip_prompts(sets)])
    save_grid(as_video(rows), path)
    picture = Image.open(path)
    few = 32 if picture.mode == "L" else 256
    with whole(path) as temporary:
        small = picture.quantize(few, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(temporary, "PNG", optimize=True)


def write_page(docs: Path, world: World, results: Result) -> None:
    """Writes the world's part of evolution.md, with its pictures."""
    images = docs / "images"
    have = [name for name in ("real", *world.methods) if strip_path(docs, world, name).is_file()]
    have = [name for name in have if name == "real" or name in results["methods"]]
    parts = [
        right_table(world, results),
        kin_table(world, results),
        cost_table(world, results),
        origins(world, results),
    ]
    if results["methods"]:
        write_plot(images / f"evolution_{world.name}.png", world, results)
        parts.insert(0, f"![The plot of these numbers](images/evolution_{world.name}.png)")
    if len(have) > 1:
        write_sheet(docs, world, have, results["prompts"], images / f"evolution_{world.name}_samples.gif")
        frame_by_frame = ", ".join(f"[{_title(name)}](images/{strip_path(docs, world, name).name})" for name in have)
        parts.append(
            f"![Samples of every method](images/evolution_{world.name}_samples.gif)\n\n"
            f"The same prompts for all, the first clips that were made. Frame by frame: {frame_by_frame}."
        )
    page = docs / "evolution.md"
    write_text(page, between(page.read_text(encoding="utf-8"), world.name, "\n\n".join(filter(None, parts))))


def between(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the markers called ``name``.

    Raises:
        ValueError: they are not there.
    """
    begin, end = f"<!-- {name}: made by benchmarks/evolution.py -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"page: no {begin} ... {end} in it, expected both")
    return pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", page)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a row that is short is filled up."""
    lines = [titles, ["---"] * len(titles), *([*row, *[""] * (len(titles) - len(row))] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(world: World, results: Result) -> list[tuple[str, Result | None]]:
    """Title and numbers of every row: real clips first, then the methods in order, whether they have been run or not."""
    methods = results["methods"]
    real = [("real clips", results["real"])] if "real" in results else []
    own = {name: " (a run of one's own)" for name, found in methods.items() if "at" in found}
    return [*real, *((_title(name) + own.get(name, ""), methods.get(name)) for name in world.methods)]


def _title(name: str) -> str:
    return "real clips" if name == "real" else f"`{name}`"


def right_table(world: World, results: Result) -> str:
    """How many clips show what their text asks for, in %."""
    every = [found for _, found in _rows(world, results) if found]
    parts = [name for name in every[0]["reader"]["unseen"] if name not in ("exact", "interval")] if every else []
    titles = ["method", "**unseen, exact**", "95 %", "seen, exact", *(f"unseen, {name}" for name in parts)]
    second = {
        "exact": "exact",
        **({"exact_and_smooth": "exact and smooth"} if world.tracks else {}),
        "unreadable": "unreadable",
    }
    titles += ["second judge: seen, exact", *(f"unseen, {said}" for said in second.values())]
    rows = []
    for title, found in _rows(world, results):
        if not found:
            rows.append([title, NOT_RUN])
            continue
        seen, unseen = (found["reader"][kind] for kind in ("seen", "unseen"))
        low, high = unseen["interval"]
        cells = [
            title,
            f"**{_percent(unseen['exact'])}**",
            f"{100 * low:.0f} to {100 * high:.0f}",
            _percent(seen["exact"]),
        ]
        cells += [_percent(unseen[name]) for name in parts]
        seen, unseen = (found["second"][kind] for kind in ("seen", "unseen"))
        cells += [_percent(seen["exact"]), *(_percent(unseen[name]) for name in second)]
        rows.append(cells)
    return "How many clips show what their text asks for, in %:\n\n" + table(titles, rows)


def kin_table(world: World, results: Result) -> str:
    """How the clips stand to real ones."""
    names = ["pixels", "features", *(["start"] if world.tracks else [])]
    said = {
        "pixels": "diversity, pixels",
        "features": "diversity, reader's features",
        "start": "diversity of the start",
    }
    titles = [
        "method",
        "Frechet distance",
        "of clips",
        *(said[name] for name in names),
        "nearest training clip",
        "copies, %",
    ]
    rows = []
    for title, found in _rows(world, results):
        if not found:
            rows.append([title, NOT_RUN])
            continue
        spread, near = relative(found["diversity"], results["real"]["diversity"]), found["memorisation"]
        cells = [title, f"{found['frechet']['distance']:.1f}", f"{found['frechet']['clips']:,}"]
        cells += [f"{spread[name]:.2f}" if name in spread else "" for name in names]
        rows.append([*cells, f"{near['ratio']:.2f}", f"{100 * near['copies']:.1f}"])
    return (
        "How they stand to real clips, which have 1 in the columns of diversity and of the nearest training clip:\n\n"
        + table(titles, rows)
    )


def cost_table(world: World, results: Result) -> str:
    """What the methods cost."""
    titles = [
        "method", "parameters, M", "of the codec, M", "minutes (clock)", "steps", "training clips seen", "memory of training, MB",
        "memory of sampling, MB", "sampler steps", "guidance", "seconds a clip", "seconds a further frame",
    ]  # fmt: skip
    rows = []
    for title, found in _rows(world, results):
        if title == "real clips":
            continue
        if not found:
            rows.append([title, NOT_RUN])
            continue
        made, cost = found["training"], found["sampling"]
        memory = "not measured" if made["memory_mb"] is None else f"{made['memory_mb']:,.0f}"
        further = "no other length" if cost["seconds_per_frame"] is None else f"{cost['seconds_per_frame']:.4f}"
        rows.append([
            title, f"{made['parameters'] / 1e6:.2f}", f"{made['codec_parameters'] / 1e6:.2f}", f"{made['minutes']:.1f} ({made['clock']})",
            f"{made['steps']:,}", f"{made['clips']:,.0f}", memory, f"{cost['memory_mb']:,.0f}", "" if cost["steps"] is None else str(cost["steps"]),
            "" if cost["guidance"] is None else f"{cost['guidance']:g}", f"{cost['seconds_per_clip']:.3f}", further,
        ])  # fmt: skip
    return "What they cost:\n\n" + table(titles, rows)


def origins(world: World, results: Result) -> str:
    """Where, when and by which code each row was measured."""
    lines = []
    for title, found in _rows(world, results):
        if not found:
            continue
        made = found.get("training", {})
        stages = f", in {made['stages']} stages" if made.get("stages", 1) > 1 else ""
        before = "".join(
            f", after {first} ({minutes:.1f} minutes)" for first, minutes in made.get("before", {}).items()
        )
        trained = made.get("hardware", "")
        where = f"; trained on {trained}" if trained not in ("", found["hardware"]) else ""
        budget = f"; not under the budget: {_own_minutes(made)}, last stage alone" if "at" in found else ""
        lines.append(
            f"- {title}: {found['date']}, commit {found['commit']}{stages}{before}; {found['hardware']}{where}{budget}"
        )
    if not lines:
        return ""
    sizes, training = results["sizes"], results["real"]["memorisation"]["training_clips"]
    how = (
        f"Measured on {sizes['clips']:,} prompts of either kind; diversity on {sizes['prompts']} prompts, {sizes['times']} times each; "
        f"the nearest training clip among {training:,}; budget {sizes['budget']:g} minutes:"
    )
    return how + "\n\n" + "\n".join(lines)


def _own_minutes(made: Result) -> str:
    """How long a run from elsewhere was trained; a shipped model has no log that says it."""
    return f"its own {made['minutes']:.1f} minutes" if made["minutes"] else "minutes not known"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def write_plot(path: Path, world: World, results: Result) -> None:
    """What is right, what a clip costs by its length, and both at once."""
    matplotlib.use("Agg")
    done = [name for name in world.methods if name in results["methods"]]
    found = [results["methods"][name] for name in done]
    figure, (right, length, both) = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    place = np.arange(len(done))
    for shift, kind, colour in ((-0.2, "unseen", "#0b68cb"), (0.2, "seen", "#9cc3ea")):
        right.barh(place + shift, [100 * one["reader"][kind]["exact"] for one in found], 0.38, color=colour, label=kind)
        shares = [100 * one["second"][kind]["exact"] for one in found]
        label = "second judge" if kind == "seen" else None
        right.scatter(shares, place + shift, 18, "#cc4e00", label=label, zorder=3)
    right.axvline(
        100 * results["real"]["reader"]["unseen"]["exact"], color="#60646c", ls="--", lw=1, label="real clips"
    )
    right.set(yticks=place, yticklabels=done, xlim=(0, 102), xlabel="clips that show what their text asks for, %")
    right.invert_yaxis()
    right.legend(loc="upper right", fontsize=8, framealpha=1)
    for name, one in zip(done, found, strict=True):
        times = {int(k): v for k, v in one["sampling"]["seconds_by_frames"].items() if not isinstance(v, str)}
        length.plot(list(times), list(times.values()), marker="o", ms=4, label=name)
    points = [(one["sampling"]["seconds_per_clip"], 100 * one["reader"]["unseen"]["exact"]) for one in found]
    for (seconds, share), height, name in zip(points, spaced([share for _, share in points]), done, strict=True):
        (colour,) = both.scatter(seconds, share, 30).get_facecolor()
        both.text(1.15 * seconds, height, name, fontsize=8, va="center", color=colour)
    length.set(xscale="log", yscale="log", xlabel="frames of a clip", ylabel="seconds to make one")
    slowest, fastest = (f(seconds for seconds, _ in points) for f in (max, min))
    both.set(
        xscale="log",
        xlim=(fastest / 1.5, 4 * slowest),
        ylim=(0, 102),
        xlabel="seconds a clip",
        ylabel="unseen, exact, %",
    )
    length.set_xticks([8, 16, 32, 64], ["8", "16", "32", "64"], minor=False)
    length.xaxis.set_minor_locator(ticker.NullLocator())
    for axis in (length.yaxis, both.xaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    length.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def spaced(heights: Sequence[float], least: float = 5.0) -> list[float]:
    """Where labels stand that would like to stand at ``heights``: none less than ``least`` above another."""
    placed = dict[int, float]()
    for place in sorted(range(len(heights)), key=heights.__getitem__):
        placed[place] = max(heights[place], max(placed.values(), default=-least) + least)
    return [placed[place] for place in range(len(heights))]


def write_sheet(docs: Path, world: World, names: Sequence[str], prompts: Sequence[Result], path: Path) -> None:
    """The contact sheet, a GIF: a row a method, a column a prompt."""
    strips = [Image.open(strip_path(docs, world, name)) for name in names]
    cell, font = SIDE + 2 * EDGE, ImageFont.load_default(11)
    said = ["\n".join(wrapped(prompt["short"], lambda line: len(line) <= 12)[:4]) for prompt in prompts]
    top = 6 + LINE * (1 + max(text.count("\n") + 1 for text in said))
    width, height = LEFT + len(prompts) * (cell + GAP), top + len(names) * (cell + GAP)
    frames = []
    for time in range(strips[0].width // cell):
        page = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(page)
        for column, prompt in enumerate(prompts):
            x = LEFT + column * (cell + GAP)
            draw.text((x, 4), prompt["kind"], "#0b68cb" if prompt["kind"] == "unseen" else "#60646c", font)
            draw.multiline_text((x, 4 + LINE), said[column], "#1c2024", font, spacing=1)
        for row, (name, strip) in enumerate(zip(names, strips, strict=True)):
            y = top + row * (cell + GAP)
            draw.text((6, y + cell // 2 - 7), name, "#1c2024", font)
            for column in range(len(prompts)):
                box = (time * cell, column * cell, (time + 1) * cell, (column + 1) * cell)
                page.paste(strip.crop(box), (LEFT + column * (cell + GAP), y))
        # by what is rare too: a small shape must keep its colour beside a method that makes noise
        frames.append(page.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE))
    with whole(path) as temporary:
        frames[0].save(
            temporary, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=True
        )


def prompt_notes(sets: Sets) -> list[dict[str, str]]:
    """What the strips and the sheet show: kind, text, and labels in short, "orange square small up brown"."""
    of = {"seen": sets.seen.samples, "unseen": sets.unseen.samples}
    notes = []
    for kind, place in strip_prompts(sets):
        sample = of[kind][place]
        words = [word for names in sample.labels.values() for name in names for word in name.split()]
        notes.append({"kind": kind, "text": sample.text or "", "short": " ".join(dict.fromkeys(words))})
    return notes
