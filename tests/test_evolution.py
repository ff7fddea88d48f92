"""The machinery of the evolution benchmark: prompts, jobs, budgets, numbers, pages; and one run through all of it."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from kinetext import assemble
from kinetext.checkpoint import Meta, Run
from kinetext.config import Component, Recipe
from kinetext.types import KinetextError, Sample

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import evolution  # noqa: E402
import evolution_judging  # noqa: E402
import evolution_page  # noqa: E402
import evolution_second  # noqa: E402
import evolution_worlds  # noqa: E402
from centroid_judge import Reading  # noqa: E402
from evolution_jobs import Job, alone, work  # noqa: E402
from evolution_plan import Plan  # noqa: E402
from evolution_sampling import slope  # noqa: E402
from evolution_worlds import WORLDS, columns_apart, digits_kind, digits_parts, draw, shapes_kind  # noqa: E402

DIGITS = assemble.resolve(Recipe.load(ROOT / "recipes" / "evolution_flow.toml"))


def said(*objects: str) -> dict[str, frozenset[str]]:
    return {"objects": frozenset(objects)}


def test_digit_and_motion_apart() -> None:
    true = said("3 up and down")
    assert digits_parts(true, true) == {"digit": True, "motion": True}
    assert digits_parts(said("3 left and right"), true) == {"digit": True, "motion": False}
    assert digits_parts(said("8 up and down"), true) == {"digit": False, "motion": True}
    assert digits_parts(said("3 up and down", "8 up and down"), true) == {"digit": False, "motion": True}
    assert digits_parts(said(), true) == {"digit": False, "motion": False}


def test_columns_apart() -> None:
    true = {"colour": frozenset({"red"}), "background": frozenset({"blue"})}
    assert columns_apart({**true, "colour": frozenset({"red", "blue"})}, true) == {"colour": False, "background": True}


def test_which_prompts_are_unseen() -> None:
    """Even digits train moving left and right, odd ones up and down."""
    kinds = [
        digits_kind(Sample("", labels={"objects": names}))
        for names in [("4 left and right",), ("4 up and down",), ("4 left and right", "4 up and down")]
    ]
    assert kinds == ["seen", "unseen", None]
    data = assemble.find("data", "shapes")
    for split, kind in (("train", "seen"), ("val", "unseen")):
        made = data(split=split, composition="compositional", objects=(1, 2))
        assert {shapes_kind(made.still(place)) for place in range(60)} == {kind}


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_prompts_and_real_clips(name: str) -> None:
    recipe = (
        DIGITS if name == "digits" else assemble.resolve(Recipe.load(ROOT / "recipes" / "evolution_shapes_flow.toml"))
    )
    # eight real shapes of the same labels are rare, and looked for long
    world, sizes = WORLDS[name], (6, 2 if name == "digits" else 0, 2)
    sets = draw(world, recipe, *sizes)
    assert [len(one) for one in (sets.seen, sets.unseen, sets.repeats, sets.again)] == [6, 6, 2 * sizes[1], 12]
    assert {world.kind(one) for one in sets.seen.samples} == {"seen"}
    assert {world.kind(one) for one in sets.unseen.samples} == {"unseen"}
    assert all(len(one.video) == len(one) and one.video.dtype == torch.uint8 for one in (sets.seen, sets.repeats))
    if name == "digits":
        first, second = sets.repeats.samples[:2]
        assert first.labels == second.labels and first.text == second.text
        assert not torch.equal(*sets.repeats.video[:2])
    again = draw(world, recipe, *sizes, texts_only=True)
    assert [one.text for one in again.prompts()] == [one.text for one in sets.prompts()]
    assert again.seen.video.numel() == 0 and len(again.again) == 0
    shown = evolution_page.strip_prompts(sets)
    assert len(set(shown)) == len(shown) and {kind for kind, _ in shown} == {"seen", "unseen"}


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_every_prompt_has_another_real_clip_of_its_labels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The floor of the Frechet distance: other labels would put it above what a perfect method has."""
    recipe = assemble.resolve(Recipe.load(WORLDS[name].recipe("flow")))
    clips = 25 if name == "digits" else 5  # 20 labels of digits, so that some stand there twice
    sets = draw(WORLDS[name], recipe, clips, 0, 0)
    real = [*sets.seen.samples, *sets.unseen.samples]
    assert [one.labels for one in sets.again.samples] == [one.labels for one in real]
    assert len({one.key for one in [*real, *sets.again.samples]}) == 4 * clips
    assert sets.again.video.shape == (2 * clips, *sets.seen.video.shape[1:])
    assert torch.equal(draw(WORLDS[name], recipe, clips, 0, 0).again.video, sets.again.video)
    monkeypatch.setattr(evolution_worlds, "MOST_MORE", 3)
    with pytest.raises(KinetextError, match=r"no other one of the labels \{.* in 3 more; choose fewer --clips"):
        draw(WORLDS[name], recipe, clips, 0, 0)


def test_the_floor_is_that_of_the_other_real_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = draw(WORLDS["digits"], DIGITS, 6, 0, 0)
    video = torch.cat([sets.seen.video, sets.unseen.video])
    floors = []
    for again in (sets.again, replace(sets.again, video=video)):
        judged = replace(sets, again=again)
        jury = evolution_judging.Jury(WORLDS["digits"], DIGITS, judged, "digits-reader", 1)
        monkeypatch.setattr(jury, "judged", lambda clips, read: {})
        floors.append(jury.ceiling()["frechet"])
    assert floors[0]["distance"] > 0.1 and floors[0]["clips"] == 12
    assert floors[1]["distance"] == pytest.approx(0, abs=1e-3)


def test_wilson_interval() -> None:
    """Of 8 of 10: (8 + z^2 / 2 -+ z sqrt(8 * 2 / 10 + z^2 / 4)) / (10 + z^2)."""
    z = 1.959964
    ends = [(8 + z * z / 2 + sign * z * math.sqrt(1.6 + z * z / 4)) / (10 + z * z) for sign in (-1, 1)]
    assert evolution_judging.wilson(8, 10) == pytest.approx(ends)
    assert ends == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert evolution_judging.wilson(0, 10)[0] == 0 and evolution_judging.wilson(10, 10)[1] == pytest.approx(1)


def test_what_the_second_judge_finds_right() -> None:
    asked = [Sample("", labels={"objects": ("3 up and down",)})] * 4
    read = [
        Reading(3, "up and down", (1, 1), True),
        Reading(3, "up and down", (1, 1), False),
        Reading(8, "up and down", (1, 1), True),
        Reading(why="nothing"),
    ]
    rights = evolution_second.centroid_rights(read, asked)
    assert rights["exact"] == [True, True, False, False]
    assert rights["exact_and_smooth"] == [True, False, False, False]
    assert rights["motion"] == [True, True, True, False]
    assert evolution_judging.shares(rights, 0, 4)["unreadable"] == 0.25


def test_a_further_frame_costs_the_slope() -> None:
    assert slope({"8": 1.0, "16": 1.8, "32": "too long", "64": 6.6}) == pytest.approx(0.1)
    assert slope({"16": 1.0, "8": "no"}) is None


def test_diversity_is_relative_to_real_clips() -> None:
    real = {"pixels": 2.0, "features": 4.0, "prompts": 20.0, "start": 0.0}
    assert evolution_judging.relative({"pixels": 1.0, "features": 4.0, "prompts": 20.0, "start": 1.0}, real) == {
        "pixels": 0.5, "features": 1.0,
    }  # fmt: skip


def test_a_recipe_is_planned_after_those_it_starts_from(tmp_path: Path) -> None:
    words = ["--world", "shapes", "--runs", str(tmp_path), "--set", "train.batch=2", "--set", "task.cache_targets=true"]
    asked = evolution.arguments(words)
    plan = Plan(asked, WORLDS["shapes"])
    name = plan.add(WORLDS["shapes"].recipe("flow"), 4)
    places = {one: place for place, one in enumerate(plan.needs)}
    assert all(places[first] < places[one] for one, needs in plan.needs.items() for first in needs)
    assert plan.others(name) == ["shapes_codec"]
    recipe = plan.recipe(f"{name}_images")
    assert recipe.init["codec"] == str(tmp_path / "shapes_codec") and recipe.train.batch == 2
    assert (recipe.train.minutes, recipe.train.clock) == ((2, "processor") if alone() else (1, "wall"))
    codec = plan.recipe("shapes_codec")
    assert (codec.train.minutes, codec.train.batch) == (15, 64), "a codec has its own budget, and its own options"
    assert "cache_targets" not in codec.task.args and recipe.task.args["cache_targets"]
    job = plan.job(name)
    assert job is not None and job.needs == (f"{name}_frames",) and "--out" in job.command
    reader = plan.add(ROOT / "recipes" / "shapes_reader.toml", 4)
    assert plan.needs[reader] == ("shapes_reader_frames",), "one stage, though two of its parts go on in the next"


def test_stages_share_the_budget_of_their_method(tmp_path: Path) -> None:
    asked = evolution.arguments(["--world", "digits", "--runs", str(tmp_path)])
    plan = Plan(asked, WORLDS["digits"])
    name = plan.add(WORLDS["digits"].recipe("flow"), 10)
    stages = plan.stages[name]
    assert set(stages) == {name, f"{name}_images", f"{name}_frames"} and plan.others(name) == []
    times = 2 if alone() else 1
    own = {stage: Recipe.load(ROOT / "recipes" / f"{stage}.toml").train.minutes for stage in stages}
    given = {stage: plan.recipe(stage).train.minutes for stage in stages}
    assert sum(given.values()) == pytest.approx(10 * times, rel=1e-4)
    assert given[name] / own[name] == pytest.approx(given[f"{name}_images"] / own[f"{name}_images"], rel=1e-4)
    assert plan.recipe(name).init["task"] == str(tmp_path / f"{name}_frames")
    tokens = plan.add(WORLDS["digits"].recipe("autoregressive"), 10)
    assert plan.others(tokens) == ["evolution_vq"] and plan.recipe("evolution_vq").train.minutes == 30


def test_what_started_from_a_stage_is_not_finished_without_it(tmp_path: Path) -> None:
    """The stage is trained anew, so the clips of the old one would be judged under its name."""
    plan = Plan(evolution.arguments(["--runs", str(tmp_path)]), WORLDS["digits"])
    name = plan.add(WORLDS["digits"].recipe("flow"), 10)
    for stage in plan.stages[name]:
        Run.create(plan.run(stage), assemble.resolve(plan.recipe(stage)), Meta("0.1.0", (), (), (1, 16, 64, 64)))
        (plan.run(stage) / "evaluation.json").write_text("{}")
    assert plan.finished(name) and plan.minutes(name) == pytest.approx(10, rel=1e-4)
    evolution.check_budget(plan, name, 10)
    with pytest.raises(KinetextError, match="trained with a budget of 10 minutes, expected --budget 40"):
        evolution.check_budget(plan, name, 40)
    shutil.rmtree(plan.run(f"{name}_images"))
    with pytest.raises(KinetextError, match="started from evolution_flow_images, which is to be trained anew"):
        plan.finished(name)


def test_starts_are_compared_prompt_by_prompt() -> None:
    """Clips of one prompt that all begin at its own place are not diverse, however far that of another prompt is."""
    at = [Reading(3, "up and down", start, True) for start in [(0.0, 0.0), (0.0, 0.0), (30.0, 30.0), (30.0, 30.0)]]
    assert evolution_second.start_spread(at, ["a", "a", "b", "b"]) == 0
    assert evolution_second.start_spread(at, ["a", "b", "a", "b"]) == pytest.approx(30)
    assert evolution_second.start_spread([Reading(why="nothing")] * 2, ["a", "a"]) == 0


def test_results_measured_otherwise_are_not_mixed(tmp_path: Path) -> None:
    def clips(args: dict[str, object]) -> dict[str, object]:
        return evolution.defaults("digits") | evolution.data_of(Component("digits", args))

    path = tmp_path / "results.json"
    assert evolution.known_results(path, {"budget": 40}) == {"methods": {}, "sizes": {"budget": 40}}
    noted = {"name": "digits", "root": "mnist", "digits": [1]}  # before there were other options
    path.write_text(json.dumps({"methods": {"gan": {}}, "sizes": {"budget": 40, "data": noted}}))
    same, other = ({"root": root, "digits": (1,), "roaming": 0.0} for root in ("../data/mnist", ""))
    assert "gan" in evolution.known_results(path, {"budget": 40, "data": clips(same)})["methods"]
    for measured in ({"budget": 3}, {"data": clips(other)}, {"data": clips(same | {"roaming": 0.5})}):
        with pytest.raises(KinetextError, match=r"results.json: measured with .* choose another --results"):
            evolution.known_results(path, measured)
    for world in ("digits", "shapes"):  # what is written is read again; an option that is gone is another measurement
        sizes = {"data": evolution.defaults(world)}
        path.write_text(json.dumps({"methods": {"gan": {}}, "sizes": sizes}))
        assert evolution.known_results(path, sizes)["sizes"] == sizes
        path.write_text(json.dumps({"methods": {"gan": {}}, "sizes": {"data": sizes["data"] | {"gone": 1}}}))
        with pytest.raises(KinetextError, match=r"results.json: measured with data .*'gone': 1"):
            evolution.known_results(path, sizes)


@pytest.mark.parametrize("sizes", [{"budget": 4}, {"budget": 4, "clock": "wall"}])
def test_results_of_another_clock_are_not_mixed(sizes: dict[str, object], tmp_path: Path) -> None:
    """In older results only the rows say by which clock they were trained; of what is newer nothing is known."""
    path, rows = tmp_path / "results.json", {"gan": {"training": {"clock": "wall"}}}
    own = {"flow": {"at": "runs/mine", "training": {"clock": "processor"}}}  # not under the budget
    path.write_text(json.dumps({"methods": rows | own, "sizes": sizes}))
    with pytest.raises(KinetextError, match=r"measured with clock wall, and this is processor; choose another"):
        evolution.known_results(path, {"budget": 4, "clock": "processor"})
    same = {"budget": 4, "clock": "wall", "batch": 16, "device": "cpu"}
    assert evolution.known_results(path, same)["sizes"] == same
    assert evolution.known_results(path, {"budget": 4})["sizes"]["clock"] == "wall", "still, beside a run of one's own"
    path.write_text(json.dumps({"methods": rows, "sizes": same}))
    for name, value in (("batch", 8), ("device", "cuda")):
        with pytest.raises(KinetextError, match=f"measured with {name} "):
            evolution.known_results(path, {**same, name: value})


def test_methods_of_several_clocks_are_not_compared(tmp_path: Path) -> None:
    """Half as many minutes of two cores are the same budget, and not the same work as those on the wall."""
    plan = Plan(evolution.arguments(["--world", "shapes", "--runs", str(tmp_path)]), WORLDS["shapes"])
    names = []
    for method, clock, minutes in (("recurrent_vae", "wall", 4), ("seq2seq", "processor", 8)):
        names.append(plan.add(WORLDS["shapes"].recipe(method), 4))
        recipe = plan.recipe(names[-1]).changed([f"train.clock={clock}", f"train.minutes={minutes}"])
        Run.create(plan.run(names[-1]), assemble.resolve(recipe), Meta("0.1.0", (), (), (3, 16, 64, 64)))
        evolution.check_budget(plan, names[-1], 4)
        assert evolution.clock_of(plan, names[-1:]) == clock
    with pytest.raises(KinetextError, match=r"recurrent_vae wall, .*seq2seq processor.; they can't be compared"):
        evolution.clock_of(plan, names)


@pytest.mark.parametrize("world", ["digits", "shapes"])
def test_the_results_that_are_there_can_be_added_to(world: str) -> None:
    path = ROOT / "benchmarks" / "results" / f"evolution_{world}.json"
    noted = json.loads(path.read_text(encoding="utf-8"))
    clock = next(row["training"]["clock"] for row in noted["methods"].values() if "at" not in row)
    measured = {"budget": noted["sizes"]["budget"], "batch": 16, "device": "cpu", "clock": clock}
    assert evolution.known_results(path, measured)["methods"] == noted["methods"]
    with pytest.raises(KinetextError, match=f"measured with clock {clock}, and this is another"):
        evolution.known_results(path, measured | {"clock": "another"})


def test_jobs_run_after_what_they_need_and_not_after_what_failed(tmp_path: Path) -> None:
    def job(name: str, code: str, *needs: str) -> Job:
        return Job(name, [sys.executable, "-S", "-c", code], tmp_path / "log", needs, tmp_path / f"{name}.json")

    made = tmp_path / "made"
    failed = work(
        [
            job("late", f"import pathlib; pathlib.Path({str(tmp_path / 'late')!r}).write_text(open({str(made)!r}).read())", "early"),
            job("early", f"open({str(made)!r}, 'w').write('here')"),
            job("lost", "raise SystemExit(3)"),
            job("never", f"open({str(tmp_path / 'never')!r}, 'w')", "lost"),
        ],
        2,
    )  # fmt: skip
    assert failed == ["lost", "never"]
    assert (tmp_path / "late").read_text() == "here" and not (tmp_path / "never").exists()
    assert json.loads((tmp_path / "early.json").read_text())["peak_kb"] > 1000


def test_a_run_goes_through_all_of_it(runs: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model is judged: its clips, its numbers, its row, its pictures; then again, from what is there."""
    monkeypatch.setitem(evolution_second.TEACHING, "digits", 200)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("images"))
    words = [
        "--judge-only",
        "--at",
        f"flow={runs.maker}",
        "--clips",
        "5",
        "--prompts",
        "2",
        "--times",
        "2",
        "--batch",
        "8",
    ]
    words += [f"--{name}={tmp_path / name}" for name in ("results", "docs", "runs", "data")] + [
        "--methods",
        "flow",
        "--pool",
        "20",
    ]
    assert evolution.main(words) == 0
    results = json.loads((tmp_path / "results" / "evolution_digits.json").read_text(encoding="utf-8"))
    found, real = results["methods"]["flow"], results["real"]
    assert real["reader"]["seen"]["exact"] >= 0.8 and real["second"]["seen"]["motion"] == 1
    assert real["memorisation"]["ratio"] == pytest.approx(1) and real["frechet"]["clips"] == 10
    assert found["reader"]["unseen"]["exact"] == 0 and found["second"]["unseen"]["unreadable"] == 1
    assert found["training"]["steps"] == 2 and found["training"]["clips"] == 4
    assert found["sampling"]["seconds_per_clip"] > 0 and set(found["sampling"]["seconds_by_frames"]) == {
        "8",
        "16",
        "32",
        "64",
    }
    page = (tmp_path / "docs" / "evolution.md").read_text(encoding="utf-8")
    assert found["at"] == str(runs.maker) and results["sizes"]["batch"] == 8 and "clock" not in results["sizes"]
    assert "| `flow` (a run of one's own) | **0.0** |" in page and "| `gan` | not run yet |" in page
    with Image.open(tmp_path / "docs" / "images" / "evolution_digits_samples.gif") as sheet:
        assert sheet.n_frames == 16  # type: ignore[attr-defined]
    assert (tmp_path / "docs" / "images" / "evolution_digits.png").is_file()
    path = tmp_path / "results" / "evolution_digits.json"
    path.write_text(json.dumps({**results, "real": {**real, "frechet": "of another time"}}))
    data = ["data.clips=24", "data.digits=[1, 2]", "data.composition=all"]
    assert evolution.main([*words, "--real-only", *(f"--set={change}" for change in data)]) == 0
    anew = json.loads(path.read_text(encoding="utf-8"))
    assert anew["methods"] == results["methods"] and anew["sizes"] == results["sizes"]
    assert anew["real"]["frechet"] == real["frechet"]
    with pytest.raises(KinetextError, match=r"measured with .* choose another --results"):
        asked = evolution.arguments([*words, "--pool", "21"])
        evolution.judge({"flow": runs.maker}, asked, Plan(asked, WORLDS["digits"]))


def test_wrong_method_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evolution.arguments(["--methods", "flwo"])
    assert "flwo: no method, expected one of recurrent_vae" in capsys.readouterr().err


def test_the_second_judge_of_shapes_reads_real_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taught by few clips it knows colours and backgrounds, and it refuses noise."""
    monkeypatch.setitem(evolution_second.TEACHING, "shapes", 200)
    recipe = assemble.resolve(Recipe.load(ROOT / "recipes" / "evolution_shapes_flow.toml"))
    second = evolution_second.SECOND["shapes"](WORLDS["shapes"], recipe)
    shown = draw(WORLDS["shapes"], recipe, 20, 0, 0).seen
    rights, unreadable = second.rights(shown.video, shown.samples)
    assert sum(rights["colour"]) >= 19 and sum(rights["background"]) == 20 and not unreadable
    columns = [rights[name] for name in ("colour", "shape", "size", "motion", "background")]
    assert rights["exact"] == [all(row) for row in zip(*columns, strict=True)] and any(rights["exact"])
    noise = torch.randint(0, 256, shown.video.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rights, unreadable = second.rights(noise, shown.samples)
    assert all(rights["unreadable"]) and sum(unreadable.values()) == 20 and not any(rights["exact"])
