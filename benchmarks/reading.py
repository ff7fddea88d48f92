"""The reading recipes on real data, beside what simpler readers reach, as a table.

    python benchmarks/reading.py [ROW ...] [--seeds 3] [--data ../shared/data] [--out runs/reading]

Every row of ROWS is a recipe of recipes/ with its overrides, trained once a seed and judged on the split that its
protocol names; nothing is chosen by that split. Runs that are in --out are not trained again. The simpler readers are measured
beside it, by scikit-learn.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kinetext import manifest
from kinetext.apps.folds import cross_validate, trained
from kinetext.checkpoint import Run
from kinetext.config import Recipe
from kinetext.evaluate import Evaluation, recorded
from kinetext.report import finish
from kinetext.runtime import hardware

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        recipe: of recipes/.
        folder: of the data, under --data, or made by ``prepare``.
        number: that is shown, without its split.
        split: it is judged on.
        changes: to the recipe.
        before: a recipe of recipes/ whose encoder of video this one starts from.
        folds: "" trains on the table's own splits; a number of parts of the groups, or "group".
        aim: what the issue asks for, in %.
    """

    recipe: str
    folder: str
    number: str
    split: str = "val"
    changes: tuple[str, ...] = ()
    before: str = ""
    folds: str = ""
    aim: str = ""


ACCURACY = "label/accuracy"
FUSIONS = ("concat", "gated", "late", "attention", "joint_attention", "bottleneck")
ROWS = {
    **{
        f"mosi {name}": Row("mosi", "mosi", ACCURACY, "test", (f"fusion.name={name}", "fusion.dim=64"), aim="79")
        for name in FUSIONS
    },
    "mosi transcript": Row("mosi_transcript", "mosi", ACCURACY, "test", aim="79"),
    "exercises category": Row("exercises_fused", "exercises", "category/accuracy", aim="85"),
    "exercises equipment": Row("exercises_equipment", "exercises", "equipment/accuracy"),
    "ut_interaction": Row("ut_interaction", "ut_interaction", ACCURACY, folds="group", aim="80"),
    "fights": Row("fights", "surveillance_fights", ACCURACY, folds="5", aim="78"),
    "sentiment sst2": Row("sentiment", "sst2", ACCURACY, "test"),
    "sentiment hotel": Row("sentiment_zh", "hotel", ACCURACY, "test"),
    "grid retrieval": Row("grid_retrieval", "grid_speaker1", "video_to_text/r1", before="grid_words", aim="15"),
}


def prepare(data: Path, out: Path) -> None:
    """Tables of the two sets of sentences: SST-2 with its official splits, hotel reviews with one group a review text."""
    source = data / "text_sentiment"
    rows = []
    for split, name in (("train", "sst2_train.tsv"), ("val", "sst2_dev.tsv"), ("test", "sst2_test.tsv")):
        for line in (source / name).read_text(encoding="utf-8").splitlines():
            text, label = line.rsplit("\t", 1)
            rows.append((text, "positive" if label == "1" else "negative", split))
    _table(out / "sst2", ("text", "label", "split"), rows)
    with (source / "chnsenticorp_hotel.csv").open(encoding="utf-8-sig", newline="") as file:
        reviews = [(r["review"], "positive" if r["label"] == "1" else "negative") for r in csv.DictReader(file)]
    _table(out / "hotel", ("text", "label", "group"), [(text, label, text) for text, label in reviews if text.strip()])


def _table(folder: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "metadata.csv").exists():
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])


def measure(name: str, row: Row, seed: int, data: Path, out: Path) -> tuple[Evaluation, float]:
    """A row with one seed: what was found, and the minutes that its training took."""
    changes = [f"data.root={data}", f"train.seed={seed}", *row.changes]
    path, before = out / name.replace(" ", "-") / f"seed-{seed}", 0.0
    if row.before:
        first = out / row.before / f"seed-{seed}"
        judged(row.before, [f"data.root={data}", f"train.seed={seed}"], first)
        changes.append(f"init.encoders.video={first}")
        before = minutes(first)
    if row.folds:
        recipe = Recipe.load(ROOT / "recipes" / f"{row.recipe}.toml", changes)
        found = cross_validate(recipe, "group" if row.folds == "group" else int(row.folds), path, print).found
    else:
        found = recorded(judged(row.recipe, changes, path))
    return found, before + minutes(path)


def judged(name: str, changes: Sequence[str], path: Path) -> Run:
    """A finished run of a recipe at ``path``, made or found there, and what it reached."""
    run = trained(Recipe.load(ROOT / "recipes" / f"{name}.toml", changes), path)
    if not (path / "evaluation.json").is_file():
        finish(run)
    return run


def minutes(path: Path) -> float:
    """How long all runs under ``path`` trained."""
    logs = [file.read_text(encoding="utf-8").splitlines() for file in path.rglob("metrics.jsonl")]
    return sum(max(json.loads(line).get("train/seconds", 0.0) for line in lines) for lines in logs) / 60


def line(name: str, row: Row, found: Sequence[Evaluation], spent: Sequence[float]) -> str:
    """A row of the Markdown table: means over the seeds, the interval of the first."""

    def mean(side: str, number: str) -> str:
        key = f"{row.split}/{side}{number}"
        values = [one.numbers[key] for one in found if key in one.numbers]
        return f"{100 * statistics.mean(values):.1f}" if values else ""

    each = [100 * one.numbers[f"{row.split}/{row.number}"] for one in found]
    low, high = found[0].intervals.get(f"{row.split}/{row.number}", (0.0, 0.0))
    majority = (
        mean("", row.number.replace("accuracy", "majority_accuracy"))
        if "accuracy" in row.number
        else mean("", "chance_r1")
    )
    cells = [
        name, majority, mean("text_only/", row.number), mean("video_only/", row.number),
        f"**{statistics.mean(each):.1f}**", " ".join(f"{e:.1f}" for e in each), f"{100 * low:.0f} to {100 * high:.0f}",
        row.aim, f"{statistics.mean(spent):.1f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def simple_text(folder: Path) -> list[str]:
    """TF-IDF and logistic regression; which n-grams and how much regularisation is chosen on val."""
    table = manifest.with_splits(manifest.load(folder), seed=0)
    text = {s: [r.text for r in table.where(s)] for s in manifest.SPLITS}
    label = {s: [r.labels["label"] for r in table.where(s)] for s in manifest.SPLITS}
    tried: list[tuple[float, float, str]] = []
    for analyzer, most in (("word", 1), ("word", 2), ("char", 2), ("char", 3)):
        words = {"token_pattern": r"\S+"} if analyzer == "word" else {}
        vectors = TfidfVectorizer(analyzer=analyzer, ngram_range=(1, most), sublinear_tf=True, **words)
        seen = {s: vectors.fit_transform(t) if s == "train" else vectors.transform(t) for s, t in text.items()}
        for c in (0.3, 1.0, 3.0, 10.0, 30.0):
            model = LogisticRegression(C=c, max_iter=3000).fit(seen["train"], label["train"])
            val, test = (100 * model.score(seen[s], label[s]) for s in ("val", "test"))
            tried.append((val, test, f"{analyzer} 1-{most}, C = {c:g}"))
    val, test, how = max(tried, key=lambda one: one[0])
    best = max(tried, key=lambda one: one[1])
    return [
        f"TF-IDF and logistic regression, chosen on val ({how}): val {val:.1f}, test {test:.1f}",
        f"TF-IDF and logistic regression, the best of {len(tried)} on test itself ({best[2]}): {best[1]:.1f}",
    ]


def simple_vectors(folder: Path) -> list[str]:
    """Logistic regression on the vectors of MOSI."""
    with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    place, label = [int(r["row"]) for r in rows], np.array([r["label"] for r in rows])
    train_rows = np.array([r["split"] == "train" for r in rows])
    with np.load(folder / "features.npz") as arrays:
        vectors = {name: arrays[name][place] for name in ("text", "video")}
    vectors["text and video"] = np.concatenate([vectors["text"], vectors["video"]], axis=1)
    said = []
    for name, x in vectors.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=3000)).fit(
            x[train_rows], label[train_rows]
        )
        said.append(
            f"logistic regression (C = 0.01) on {name}: {100 * model.score(x[~train_rows], label[~train_rows]):.1f}"
        )
    return said


SIMPLE: dict[str, Callable[[Path], list[str]]] = {
    "mosi": simple_vectors, "sst2": simple_text, "hotel": simple_text,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help=f"of: {', '.join(ROWS)}; or the first word of several")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=ROOT / ".." / "shared" / "data")
    parser.add_argument("--out", type=Path, default=Path("runs/reading"))
    asked = parser.parse_args()
    wanted = [n for n in ROWS if not asked.rows or n in asked.rows or n.split()[0] in asked.rows]
    prepare(asked.data, asked.out / "data")
    print(hardware())
    lines, said = [], {}
    for name in wanted:
        row = ROWS[name]
        made = asked.out / "data" / row.folder
        folder = (made if made.is_dir() else asked.data / row.folder).resolve()
        runs = [measure(name, row, seed, folder, asked.out) for seed in range(asked.seeds)]
        lines.append(line(name, row, [found for found, _ in runs], [spent for _, spent in runs]))
        print(lines[-1], flush=True)
        if row.folder in SIMPLE and row.folder not in said:
            said[row.folder] = SIMPLE[row.folder](folder)
    titles = (
        "row",
        "majority or chance",
        "text only",
        "video only",
        "mean",
        "each seed",
        "95 % of resamples by group",
        "aim",
        "minutes",
    )
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    print("\n".join(lines))
    for folder, found in said.items():
        print("\n".join(f"{folder}: {one}" for one in found))


if __name__ == "__main__":
    main()
