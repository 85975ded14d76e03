"""Arms that choose from a grid, and repeats: what is run, what is chosen, what the table says."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.claims import SEEDS, FakeRuns, claim_file, flag, predicate, silent

from zoo.evidence.compare import compare
from zoo.evidence.compare.claim import read_claim
from zoo.evidence.compare.selection import Criterion, Selection, choose, read_grid

BY = [{"metric": "val/accuracy", "direction": "higher"}]
ARMS: dict[str, Any] = {
    "learns": {"grid": {"model.init_args.width": [8, 16], "model.init_args.depth": [1, 2]}},
    "frozen": {"model.init_args.width": 4},
}


def grid_claim(folder: Path, **changes: Any) -> Path:
    return claim_file(folder, **{"arms": ARMS, "selection": {"by": BY, "per": "seed"}} | changes)


def accuracy(arguments: Sequence[str], seed: int) -> float:
    """Best at (16, 2) for even seeds, at (8, 1) for odd ones; the mean likes (16, 2)."""
    width, depth = (flag(arguments, f"model.init_args.{k}") for k in ("width", "depth"))
    if width == "4":
        return 0.2 + seed % 1000 / 1000
    best = ("16", "2") if seed % 2 == 0 else ("8", "1")
    return 0.5 + (0.2 if (width, depth) == best else 0.0) + (0.15 if (width, depth) == ("16", "2") else 0.0)


def chosen_rows(folder: Path) -> list[dict[str, str]]:
    return [r for r in csv.DictReader((folder / "claim" / "choices.csv").open()) if r["chosen"] == "1"]


def test_a_grid_is_all_combinations_in_order() -> None:
    assert read_grid("x", {"a": [1, 2], "b": ["p", "q"]}) == (
        {"a": 1, "b": "p"},
        {"a": 1, "b": "q"},
        {"a": 2, "b": "p"},
        {"a": 2, "b": "q"},
    )
    assert read_grid("x", [{"a": 1}, {"a": 3, "b": 2}]) == ({"a": 1}, {"a": 3, "b": 2})


def test_each_seed_chooses_for_itself(tmp_path: Path) -> None:
    runs = FakeRuns(accuracy)
    assert compare(grid_claim(tmp_path), tmp_path, say=silent, launch=runs) == "reproduced"
    # 4 settings x 6 seeds, and the arm without a grid; the chosen runs are not made again
    assert runs.calls == 4 * 6 + 6
    expected = [{"model.init_args.width": w, "model.init_args.depth": d} for w, d in ((16, 2), (8, 1)) * 3]
    assert [json.loads(r["setting"]) for r in chosen_rows(tmp_path)] == expected
    rows = list(csv.DictReader((tmp_path / "claim" / "runs.csv").open()))
    assert [float(r["val/accuracy"]) for r in rows if r["arm"] == "learns"] == pytest.approx([0.85, 0.7] * 3)
    table = (tmp_path / "claim" / "table.md").read_text()
    assert "- learns: 4 tried; width 16, depth 2 (seeds 0, 2, 4); width 8, depth 1 (seeds 1, 3, 5)" in table
    assert "Settings chosen for each seed by val/accuracy (higher)" in table


def test_one_choice_for_the_claim_goes_by_the_mean(tmp_path: Path) -> None:
    runs = FakeRuns(accuracy)
    selection = {"by": BY, "per": "claim", "seeds": [1, 3, 4]}
    compare(grid_claim(tmp_path, selection=selection), tmp_path, say=silent, launch=runs)
    # means over seeds 1, 3, 4: (16, 2) (.65 + .65 + .85) / 3, (8, 1) (.7 + .7 + .5) / 3
    assert [json.loads(r["setting"])["model.init_args.width"] for r in chosen_rows(tmp_path)] == [16]
    assert chosen_rows(tmp_path)[0]["val/accuracy"] == str((0.65 + 0.65 + 0.85) / 3)
    # seeds 1, 3, 4 of the chosen setting are there already
    assert runs.calls == 4 * 3 + (6 - 3) + 6


def test_ties_go_to_the_next_criterion_then_to_the_first() -> None:
    by = (Criterion("val/accuracy", "higher"), Criterion("val/loss", "lower"))
    grid = [{"k": 1}, {"k": 2}, {"k": 3}, {"k": 4}]
    values = [(0.9, 0.5), (0.9, 0.4), (0.9, 0.4), (0.8, 0.1)]
    runs = [[{"metrics": {"val/accuracy": a, "val/loss": x}, "seconds": 1.0}] for a, x in values]
    assert choose("arm", Selection(by, "seed"), grid, runs).setting == {"k": 2}
    runs[1][0]["metrics"]["val/loss"] = float("nan")
    assert choose("arm", Selection(by, "seed"), grid, runs).setting == {"k": 3}


def test_overrides_are_of_the_runs_that_choose_alone(tmp_path: Path) -> None:
    seen = []

    def value(arguments: Sequence[str], seed: int) -> float:
        seen.append((flag(arguments, "model.init_args.width"), flag(arguments, "data.init_args.holdout")))
        return accuracy(arguments, seed)

    selection = {"by": BY, "per": "seed", "overrides": {"data.init_args.holdout": "{seed}"}}
    compare(grid_claim(tmp_path, selection=selection), tmp_path, say=silent, launch=FakeRuns(value))
    assert (len(seen), {h for w, h in seen[:24]}) == (4 * 6 + 6 + 6, {str(s) for s in SEEDS})
    assert {h for w, h in seen[24:]} == {None}


def test_repeats_are_averaged_and_differ(tmp_path: Path) -> None:
    """Errica's protocol: the winner of a fold is trained three times, and the mean is the fold's score."""
    asked = []

    def value(arguments: Sequence[str], seed: int) -> float:
        asked.append((seed, flag(arguments, "data.init_args.holdout_seed")))
        return accuracy(arguments, seed % 1000) + seed // 1000 / 100

    path = grid_claim(tmp_path, repeats=3, overrides={"data.init_args.holdout_seed": "{repeat}"})
    runs = FakeRuns(value)
    compare(path, tmp_path, say=silent, launch=runs)
    assert runs.calls == 4 * 6 + 2 * 6 + 3 * 6  # repeat 0 of the chosen setting is the run that chose
    assert {x for x in asked if x[0] % 1000 == 2} == {(2, "0"), (1002, "1"), (2002, "2")}
    entries = {e["metric"]: e["value"] for e in json.loads((tmp_path / "claim" / "results.json").read_text())}
    assert entries["learns/val/accuracy/mean"] == pytest.approx((0.85 + 0.7) / 2 + 0.01)
    assert entries["runs"] == 2 * 6 * 3
    assert len((tmp_path / "claim" / "runs.csv").read_text().splitlines()) == 1 + 2 * 6 * 3
    before = runs.calls
    compare(path, tmp_path, say=silent, launch=runs)
    assert runs.calls == before


def test_another_verb_does_not_repeat_what_is_done(tmp_path: Path) -> None:
    runs = FakeRuns(accuracy)
    compare(claim_file(tmp_path), tmp_path, say=silent, launch=runs)
    compare(claim_file(tmp_path, verbs=["fit", "test"]), tmp_path, say=silent, launch=runs)
    assert runs.calls == 12 + 12


def test_a_quick_look_tries_few_settings(tmp_path: Path) -> None:
    runs = FakeRuns(accuracy)
    quick = {"seeds": [1, 2], "settings": 2, "repeats": 1}
    compare(grid_claim(tmp_path, repeats=3, quick=quick), tmp_path, quick=True, say=silent, launch=runs)
    assert runs.calls == 2 * 2 + 2


@pytest.mark.parametrize(("change", "message"), [
    ({"selection": None}, "an arm has a grid; a section `selection` must say how it chooses"),
    ({"arms": {"learns": {}, "frozen": {}}}, "selection without an arm that has a grid"),
    ({"selection": {"by": []}}, "`by` needs at least one criterion"),
    ({"selection": {"by": BY, "per": "fold"}}, "`per` is seed or claim"),
    ({"selection": {"by": BY, "grid": 1}}, "is a mapping with a list `by`"),
    ({"selection": {"by": [{"metric": "val/x"}]}}, "missing 1 required positional argument: 'direction'"),
    ({"selection": {"by": [{"metric": "val/x", "direction": "up"}]}}, "direction of val/x"),
    ({"selection": {"by": [{"metric": "test/f1", "direction": "higher"}]}},
     "the test data judge, they must not choose"),
    ({"selection": {"by": BY, "seeds": [1]}}, "each seed of the claim chooses for itself"),
    ({"selection": {"by": BY, "verbs": ["fit", "test"]}}, "verbs are"),
    ({"arms": {"learns": {"grid": {"x": []}}, "frozen": {}}}, "grid must be a mapping of flags to lists"),
    ({"arms": {"learns": {"grid": {"x": 3}}, "frozen": {}}}, "grid must be a mapping of flags to lists"),
    ({"arms": {"learns": {"grid": {"x": [1]}, "x": 2}, "frozen": {}}},
     "gives x both as a flag and in its grid"),
    ({"repeats": 0}, "repeats must be an integer >= 1"),
    ({"repeats": "3"}, "repeats must be an integer >= 1"),
])  # fmt: skip
def test_what_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"claim\.yaml") as error:
        read_claim(grid_claim(tmp_path, **change))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_criterion_that_no_run_has(tmp_path: Path) -> None:
    selection = {"by": [{"metric": "val/f1", "direction": "higher"}]}
    with pytest.raises(
        ValueError, match=r"arm 'learns' cannot choose by 'val/f1'; its runs have val/accuracy"
    ):
        compare(grid_claim(tmp_path, selection=selection), tmp_path, say=silent, launch=FakeRuns(accuracy))


def test_costs_are_in_the_table(tmp_path: Path) -> None:
    runs = FakeRuns(accuracy)
    runs.change = {"parameters": 1234, "peak_memory_bytes": 3 * 2**20}
    compare(claim_file(tmp_path, predicates=[predicate()]), tmp_path, say=silent, launch=runs)
    table = (tmp_path / "claim" / "table.md").read_text()
    assert "| arm | parameters | steps | batch | seconds | MiB | val/accuracy |" in table
    assert "| frozen | 1,234 | 5 | 64 | 1.5 | 3 |" in table


def test_known_runs_are_not_made_again_and_new_seeds_are(tmp_path: Path) -> None:
    """A published comparison goes on in another folder, on another machine."""
    file, runs = tmp_path / "published" / "runs.json", FakeRuns(accuracy)
    path = claim_file(tmp_path, verbs=["fit", "test"])
    compare(path, tmp_path / "here", say=silent, launch=runs, runs_file=file)
    first, before = (tmp_path / "here" / "claim" / "table.md").read_text(), runs.calls
    compare(path, tmp_path / "there", say=silent, launch=runs, runs_file=file)
    assert ((tmp_path / "there" / "claim" / "table.md").read_text(), before, runs.calls) == (first, 24, 24)
    compare(
        claim_file(tmp_path, verbs=["fit", "test"], seeds=[*SEEDS, 6]),
        tmp_path / "there",
        say=silent,
        launch=runs,
        runs_file=file,
    )
    assert runs.calls == 24 + 4
    known = json.loads(file.read_text())
    assert len(known) == 14
    assert all(set(run["verbs"]) == {"fit", "test"} and "checkpoint" not in run for run in known.values())


def test_a_known_run_of_other_settings_does_not_count(tmp_path: Path) -> None:
    file, runs = tmp_path / "runs.json", FakeRuns(accuracy)
    compare(claim_file(tmp_path), tmp_path / "a", say=silent, launch=runs, runs_file=file)
    changed = claim_file(tmp_path, overrides={"trainer.max_steps": 6})
    compare(changed, tmp_path / "b", say=silent, launch=runs, runs_file=file)
    assert runs.calls == 24
    for text in ("[", "[1]", '{"metric": 1}', '{"a": {"value": 1}}'):  # the last two: a manifest, say
        file.write_text(text)
        with pytest.raises(ValueError, match=r"runs\.json is no file of runs"):
            compare(changed, tmp_path / "b", say=silent, launch=runs, runs_file=file)


def test_runs_of_several_commits_are_named(tmp_path: Path) -> None:
    file, runs = tmp_path / "runs.json", FakeRuns(accuracy)
    compare(claim_file(tmp_path), tmp_path / "a", say=silent, launch=runs, runs_file=file)
    assert "commits" not in (tmp_path / "a" / "claim" / "table.md").read_text()
    runs.change = {"git": "def"}
    compare(claim_file(tmp_path, seeds=[*SEEDS, 6]), tmp_path / "b", say=silent, launch=runs, runs_file=file)
    assert "of training, of commits abc, def." in (tmp_path / "b" / "claim" / "table.md").read_text()
