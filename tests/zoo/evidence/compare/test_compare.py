"""``zoo compare``: verdicts over real runs, stopped and gone on with, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes.claims import SEEDS, FakeRuns, better_when_learning, claim_file, flag, predicate, silent
from PIL import Image

import cli
from zoo.engine import run as run_callback
from zoo.evidence import manifest
from zoo.evidence.compare import compare
from zoo.evidence.compare.claim import Arm, read_claim
from zoo.evidence.compare.report import _spent
from zoo.evidence.compare.runs import KnownRuns, read_summary, run_arguments
from zoo.hub.catalog import config_folder, find_config

ROOT = Path(cli.__file__).resolve().parent
SHIPPED = sorted((config_folder() / "claims").glob("*.yaml"))


def test_claims_true_false_and_undecided_get_their_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real training of three arms over six seeds through the command line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_callback, "plot_curves", lambda folder: None)

    def in_process(arguments: Sequence[str], log: Path, threads: int) -> None:
        assert cli.main(arguments) == 0

    budget = {"trainer.max_steps": 40, "trainer.val_check_interval": 20}
    arms: dict[str, Any] = {
        "learns": {},
        "frozen": {
            "model.init_args.optimizer": "torch.optim.SGD",
            "model.init_args.optimizer.init_args.lr": 0.0,
        },
        "same": {"trainer.log_every_n_steps": 3},
    }
    verdicts = {}
    for name, better, worse in (
        ("true", "learns", "frozen"),
        ("false", "frozen", "learns"),
        ("open", "learns", "same"),
    ):
        path = claim_file(
            tmp_path, overrides=budget, arms=arms, predicates=[predicate(better=better, worse=worse)]
        )
        # one folder: the second and third claim find their runs finished
        verdicts[name] = compare(path, tmp_path / "out", say=silent, launch=in_process)
    assert verdicts == {"true": "reproduced", "false": "not reproduced", "open": "undecided"}
    assert len(list((tmp_path / "out").rglob("version_*"))) == 18


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    """Seeds differ by more than the arms do: only the pairing shows the gain."""
    runs = FakeRuns(
        lambda a, s: 5.0 * s % 7 + (0.1 + s / 500 if flag(a, "model.init_args.width") is None else 0.0)
    )
    assert compare(claim_file(tmp_path), tmp_path, say=silent, launch=runs) == "reproduced"
    assert "| +0.105 | +0.101 to +0.109 | 6 of 6 | 0.031 | reproduced |" in table(tmp_path)


def table(folder: Path) -> str:
    return (folder / "claim" / "table.md").read_text()


def test_lower_turns_the_difference_round(tmp_path: Path) -> None:
    path = claim_file(tmp_path, predicates=[predicate(direction="lower")])
    assert compare(path, tmp_path, say=silent, launch=FakeRuns(better_when_learning)) == "not reproduced"


def test_one_failed_predicate_fails_the_claim(tmp_path: Path) -> None:
    path = claim_file(tmp_path, predicates=[predicate(), predicate(least_effect=0.2)])
    assert compare(path, tmp_path, say=silent, launch=FakeRuns(better_when_learning)) == "not reproduced"
    assert "learns higher than frozen by more than 0.2" in table(tmp_path)


def test_outputs_hold_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "docs" / "claim.json"
    compare(
        claim_file(tmp_path),
        tmp_path,
        2,
        results_file=file,
        say=silent,
        launch=FakeRuns(better_when_learning),
    )
    folder = tmp_path / "claim"
    assert table(tmp_path).endswith(capsys.readouterr().out.rstrip("\n") + "\n")
    rows = list(csv.DictReader((folder / "runs.csv").open()))
    assert [(r["arm"], r["seed"]) for r in rows] == [(a, str(s)) for a in ("learns", "frozen") for s in SEEDS]
    assert float(rows[3]["val/accuracy"]) == 0.63
    assert rows[6]["command"].startswith("zoo fit --config=digit_classifier_digits --trainer.max_steps=5")
    entries = {e["metric"]: e["value"] for e in manifest.read(file)}
    assert entries["learns/val/accuracy/mean"] == pytest.approx(0.625)
    assert entries["learns-frozen/val/accuracy/difference"] == pytest.approx(0.1)
    assert entries["verdict"] == entries["learns-frozen/val/accuracy/verdict"] == "reproduced"
    assert json.loads((folder / "results.json").read_text()) == manifest.read(file)


def test_plot_shows_every_seed(tmp_path: Path) -> None:
    """A seed far away from the others must be in the picture, not hidden in a mean."""
    pictures = []
    for outlier in (0.0, 0.4):
        runs = FakeRuns(lambda a, s, o=outlier: better_when_learning(a, s) + (o if s == 2 else 0.0))
        compare(claim_file(tmp_path), tmp_path / str(outlier), say=silent, launch=runs)
        pictures.append(np.asarray(Image.open(tmp_path / str(outlier) / "claim" / "plot.png").convert("RGB")))
    colours = len({tuple(c) for c in pictures[0].reshape(-1, 3)[::7]})
    assert colours > 30
    assert (pictures[0] != pictures[1]).mean() > 0.01


def test_finished_runs_are_not_repeated(tmp_path: Path) -> None:
    runs, path = FakeRuns(better_when_learning), claim_file(tmp_path, verbs=["fit", "test"])
    compare(path, tmp_path, say=silent, launch=runs)
    first, before = table(tmp_path), runs.calls
    compare(path, tmp_path, say=silent, launch=runs)
    assert (before, runs.calls, table(tmp_path)) == (24, 24, first)


def test_a_failed_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    runs = FakeRuns(better_when_learning)

    def fails_at_seed_3(arguments: Sequence[str], log: Path, threads: int) -> None:
        if flag(arguments, "seed_everything") == "3":
            raise RuntimeError("a run failed with exit code 1: no memory")
        runs(arguments, log, threads)

    with pytest.raises(RuntimeError, match="no memory"):
        compare(claim_file(tmp_path), tmp_path, say=silent, launch=fails_at_seed_3)
    done = runs.calls
    assert compare(claim_file(tmp_path), tmp_path, say=silent, launch=runs) == "reproduced"
    assert 6 <= done < 12
    assert runs.calls == 12


@pytest.mark.parametrize(
    "change", [{"overrides": {"trainer.max_steps": 6}}, {"config": "digit_classifier_mnist"}]
)
def test_a_changed_claim_runs_again_only_when_asked_to(tmp_path: Path, change: dict[str, Any]) -> None:
    """A comment in a config or an upgrade must not cost days of training."""
    runs = FakeRuns(better_when_learning)
    compare(claim_file(tmp_path), tmp_path, say=silent, launch=runs)
    kept = {p: p.read_bytes() for p in (tmp_path / "claim" / "runs").rglob("*") if p.is_file()}
    with pytest.raises(
        ValueError, match=r"learns/seed_0 \(and 11 more\) holds a run with another .* or --fresh"
    ):
        compare(claim_file(tmp_path, **change), tmp_path, say=silent, launch=runs)
    assert {p: p.read_bytes() for p in (tmp_path / "claim" / "runs").rglob("*") if p.is_file()} == kept
    compare(claim_file(tmp_path, **change), tmp_path, say=silent, launch=runs, fresh=True)
    assert runs.calls == 24


def test_what_no_comparison_has_made_stays(tmp_path: Path) -> None:
    precious = tmp_path / "claim" / "runs" / "learns" / "seed_0" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("x")
    for held in (None, "another"):
        if held:
            (precious.parent / "fingerprint").write_text(held)
        with pytest.raises(ValueError, match=r"no comparison has made|is not removed"):
            compare(claim_file(tmp_path), tmp_path, say=silent, launch=FakeRuns(square), fresh=True)
    assert precious.read_text() == "x"


def square(arguments: Sequence[str], seed: int) -> float:
    return float(seed**2)


def test_tables_that_no_comparison_has_made_stay(tmp_path: Path) -> None:
    table = tmp_path / "claim" / "table.md"
    table.parent.mkdir()
    table.write_text("precious")
    with pytest.raises(ValueError, match=r"claim/table\.md: no comparison has made it; move it, or give"):
        compare(claim_file(tmp_path), tmp_path, say=silent, launch=FakeRuns(square))
    assert table.read_text() == "precious"
    table.unlink()
    for _ in range(2):  # its own it writes again
        compare(claim_file(tmp_path), tmp_path, say=silent, launch=FakeRuns(square))


@pytest.mark.parametrize(
    "change", [{"final": {"val/accuracy": math.nan}}, {"diverged": "net.weight holds NaN or infinity"}]
)
def test_a_run_that_ends_in_nan_is_not_judged_by_what_it_had_before(
    change: dict[str, Any], tmp_path: Path
) -> None:
    """Its best accuracy came before the weights were lost."""
    runs = FakeRuns(better_when_learning)

    def diverges(arguments: Sequence[str], log: Path, threads: int) -> None:
        lost = flag(arguments, "seed_everything") == "3" and flag(arguments, "model.init_args.width") is None
        runs.change = change if lost else {}
        runs(arguments, log, threads)

    verdict = compare(
        claim_file(tmp_path), tmp_path, say=silent, launch=diverges, results_file=tmp_path / "r.json"
    )
    assert verdict == "undecided"
    assert "Diverged, not finite at the end: val/accuracy of learns (seeds 3)." in table(tmp_path)
    assert "| diverged |  | 5 of 6 |  | undecided |" in table(tmp_path)
    json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_newest_summary_is_that_of_the_highest_number(tmp_path: Path) -> None:
    """Clocks are set back, and a copy of a folder has times of its own."""
    for number in (9, 10, 2):
        folder = tmp_path / "x" / f"version_{number}"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"final": {}, "number": number}))
    assert read_summary(tmp_path, "summary.json")["number"] == 10


def test_comparisons_that_share_a_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    a, b = KnownRuns(path), KnownRuns(path)
    a.add("r1", {"verbs": ["fit", "test"]})
    b.add("r2", {"verbs": ["fit"]})
    b.add("r1", {"verbs": ["fit"]})  # less than what is held
    assert {k: v["verbs"] for k, v in json.loads(path.read_text()).items()} == {
        "r1": ["fit", "test"],
        "r2": ["fit"],
    }
    shared = dict.fromkeys(manifest.FIELDS, "")
    file = tmp_path / "results.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: manifest.update(file, [shared | {"metric": i}]), map(str, range(40))))
    assert {e["metric"] for e in manifest.read(file)} == set(map(str, range(40)))
    assert {p.name for p in tmp_path.iterdir()} == {"runs.json", "results.json"}


def test_jobs_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    runs = FakeRuns(better_when_learning)
    compare(claim_file(tmp_path), tmp_path, jobs=3, say=silent, launch=runs)
    assert runs.threads == {2}


def test_an_arm_of_another_method_leaves_overrides_out(tmp_path: Path) -> None:
    flag = "model.init_args.routing_seed"
    arms = {"learns": {}, "frozen": {"model.init_args.width": 3, "without": [flag, "unknown.flag"]}}
    arms = read_claim(claim_file(tmp_path, overrides={flag: 1}, arms=arms)).arms
    assert (arms["learns"].flags, arms["frozen"].flags) == ({flag: 1}, {"model.init_args.width": 3})


def test_threads_that_the_user_set_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    runs = FakeRuns(better_when_learning)
    compare(claim_file(tmp_path), tmp_path, jobs=3, say=silent, launch=runs)
    assert runs.threads == {1}


def test_seed_reaches_a_flag(tmp_path: Path) -> None:
    path = claim_file(tmp_path, overrides={"model.init_args.routing_seed": "{seed}"})
    arm = read_claim(path).arms["frozen"]
    assert run_arguments(arm, 3)[1:] == [
        "--model.init_args.routing_seed=3",
        "--model.init_args.width=4",
        "--seed_everything=3",
    ]


def test_an_arm_may_have_a_config_of_its_own(tmp_path: Path) -> None:
    path = claim_file(tmp_path, arms={"learns": {}, "frozen": {"config": "digit_classifier_mnist"}})
    claim = read_claim(path)
    assert [a.config for a in claim.arms.values()] == ["digit_classifier_digits", "digit_classifier_mnist"]


def test_two_comparisons_in_one_folder_are_refused(tmp_path: Path) -> None:
    runs = FakeRuns(better_when_learning)

    def starts_another(arguments: Sequence[str], log: Path, threads: int) -> None:
        with pytest.raises(RuntimeError, match="another `zoo compare` is at work"):
            compare(claim_file(tmp_path), tmp_path, say=silent, launch=runs)
        runs(arguments, log, threads)

    compare(claim_file(tmp_path), tmp_path, say=silent, launch=starts_another)
    assert runs.calls == 12


def wait_for(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return value


@pytest.mark.slow
def test_killed_comparison_resumes_to_the_same_numbers(tmp_path: Path) -> None:
    """SIGKILL in the middle of the second run; the finished run is kept, the other goes on."""
    overrides = {
        "trainer.max_steps": 400,
        "trainer.val_check_interval": 50,
        "checkpoint.every_n_train_steps": 50,
    }
    path = claim_file(tmp_path, overrides=overrides, seeds=[0, 1, 2], predicates=[predicate(test="t")])
    command = [sys.executable, str(ROOT / "cli.py"), "compare", str(path), "--out"]
    whole = subprocess.run([*command, "whole"], cwd=tmp_path, check=True, capture_output=True, text=True)
    process = subprocess.Popen([*command, "killed"], cwd=tmp_path)
    runs = tmp_path / "killed" / "claim" / "runs"
    wait_for(lambda: list(runs.glob("frozen/seed_0/*/version_0/checkpoints/*.ckpt")), 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = (runs / "learns" / "seed_0" / "result.json").stat().st_mtime_ns
    resumed = subprocess.run([*command, "killed"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert (runs / "learns" / "seed_0" / "result.json").stat().st_mtime_ns == finished
    assert len(list(runs.glob("*/*/*/version_1"))) == 0

    def metrics(name: str) -> list[dict[str, str]]:
        rows = csv.DictReader((tmp_path / name / "claim" / "runs.csv").open())
        measured = ("seconds", "peak_memory_bytes", "costs")  # of a process, not of what it computes
        return [{key: value for key, value in row.items() if key not in measured} for row in rows]

    assert metrics("killed") == metrics("whole")
    assert "Overall: **" in whole.stdout
    assert "Overall: **" in resumed.stdout


@pytest.mark.parametrize(("change", "message"), [
    ({"titel": "x"}, "unknown key 'titel'"),
    ({"arms": None}, "key 'arms' is missing"),
    ({"arms": {"learns": {}}}, "names arm 'frozen'"),
    ({"arms": [1]}, "arms must be a mapping"),
    ({"arms": {"learns": {}, "frozen": 3}}, "arm 'frozen' must be a mapping"),
    ({"config": None}, "arm 'learns' has no config"),
    ({"arms": {"/abs/victim": {}, "frozen": {}}}, "arm: '/abs/victim' becomes the name of a folder"),
    ({"arms": {"../../../../up": {}, "frozen": {}}}, "becomes the name of a folder"),
    ({"arms": {"..": {}, "frozen": {}}}, "becomes the name of a folder"),
    ({"arms": {"x": {}, "X": {}}}, "two arms are called 'X'"),
    ({"arms": {"learns": {"weights": "x"}, "frozen": {}}}, "arm 'learns' sets weights, which a comparison"),
    ({"overrides": {"seed_everything": 3}}, "sets seed_everything, which a comparison"),
    ({"seeds": [0, 1, 2, 3, 4]}, "5 seeds cannot carry a verdict, at least 6"),
    ({"seeds": [0, 1], "predicates": [predicate(test="t")]}, "2 seeds cannot carry a verdict, at least 3"),
    ({"seeds": [0, 0, 1, 2, 3, 4]}, "different integers"),
    ({"seeds": [True, 2]}, "different integers"),
    ({"seeds": 6}, "different integers"),
    ({"predicates": []}, "at least one entry"),
    ({"predicates": ["x"]}, "predicate x"),
    ({"predicates": [predicate(effect=1)]}, "unexpected keyword argument 'effect'"),
    ({"predicates": [predicate(worse="nobody")]}, "names arm 'nobody'; arms are learns, frozen"),
    ({"predicates": [predicate(worse="learns")]}, "with itself"),
    ({"predicates": [predicate(direction="up")]}, "direction is lower or higher"),
    ({"predicates": [predicate(test="u")]}, "test is sign or t"),
    ({"predicates": [predicate(least_effect=-1)]}, "least_effect must be a number >= 0"),
    ({"predicates": [predicate(least_effect=float("nan"))]}, "least_effect must be a number >= 0"),
    ({"predicates": [predicate(better=["learns"])]}, "better must be a text"),
    ({"metrics": "val/accuracy"}, "metrics must be a list of names"),
    ({"seeds": [[0], 1]}, "different integers"),
    ({"config": ["digit_classifier_digits"]}, "arm 'learns' has no config"),
    ({"verbs": ["test"]}, "verbs are fit and"),
    ({"verbs": ["fit", "predict"]}, "verbs are fit and"),
    ({"budget": ["seconds"]}, "budget names keys"),
    ({"budget": []}, "it may be empty only where grids choose"),
    ({"arms": {"learns": {"trainer.max_steps": 9}, "frozen": {}}},
     "trainer.max_steps differs: learns 9, frozen 5"),
    ({"arms": {"learns": {"data.init_args.batch_size": 9}, "frozen": {}}},
     "data.init_args.batch_size differs"),
])  # fmt: skip
def test_a_claim_that_cannot_be_judged_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    runs = FakeRuns(better_when_learning)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compare(claim_file(tmp_path, **change), tmp_path, say=silent, launch=runs)
    assert runs.calls == 0


def test_unequal_budgets_get_no_verdict(tmp_path: Path) -> None:
    runs = FakeRuns(better_when_learning)

    def spends_more(arguments: Sequence[str], log: Path, threads: int) -> None:
        runs.change = {"steps": 6} if flag(arguments, "model.init_args.width") else {}
        runs(arguments, log, threads)

    with pytest.raises(ValueError, match="no verdict over unequal budgets: steps is learns 5; frozen 6"):
        compare(claim_file(tmp_path), tmp_path, say=silent, launch=spends_more)


def test_budgets_must_be_equal_only_where_arms_are_compared(tmp_path: Path) -> None:
    """A ladder compares pairs at several budgets in one file."""
    pair = {"learns": {}, "frozen": {"model.init_args.width": 4}}
    arms = {
        f"{name}_{steps}": flags | {"trainer.max_steps": steps}
        for steps in (5, 50)
        for name, flags in pair.items()
    }
    rungs = [predicate(better=f"learns_{steps}", worse=f"frozen_{steps}") for steps in (5, 50)]
    runs = FakeRuns(better_when_learning)

    def spends(arguments: Sequence[str], log: Path, threads: int) -> None:
        runs.change = {"steps": int(flag(arguments, "trainer.max_steps") or 0)}
        runs(arguments, log, threads)

    assert (
        compare(claim_file(tmp_path, arms=arms, predicates=rungs), tmp_path, say=silent, launch=spends)
        == "reproduced"
    )
    rungs[0]["worse"] = "frozen_50"
    with pytest.raises(ValueError, match=r"trainer.max_steps differs: learns_5 5, frozen_50 50"):
        compare(claim_file(tmp_path, arms=arms, predicates=rungs), tmp_path, say=silent, launch=spends)


def test_a_claim_may_leave_the_steps_to_early_stopping(tmp_path: Path) -> None:
    runs = FakeRuns(better_when_learning)

    def stops_early(arguments: Sequence[str], log: Path, threads: int) -> None:
        runs.change = {"steps": 6} if flag(arguments, "model.init_args.width") else {}
        runs(arguments, log, threads)

    path = claim_file(tmp_path, budget=["effective_batch"])
    assert compare(path, tmp_path, say=silent, launch=stops_early) == "reproduced"


def test_the_table_has_each_batch_that_a_grid_chose() -> None:
    runs = [{"steps": 5, "effective_batch": b, "seconds": 2.0, "parameters": 9} for b in (128, 32, 128)]
    assert _spent(runs) == ["9", "5", "32, 128", "2", ""]
    assert _spent([{**runs[0], "effective_batch": None}])[2] == "full"


def test_a_missing_metric_is_named_with_what_there_is(tmp_path: Path) -> None:
    path = claim_file(tmp_path, predicates=[predicate(metric="val/iou")])
    with pytest.raises(
        ValueError, match="arm 'learns' has no metric 'val/iou' at seed 0; it has val/accuracy"
    ):
        compare(path, tmp_path, say=silent, launch=FakeRuns(better_when_learning))


def test_quick_gives_no_verdict(tmp_path: Path) -> None:
    path = claim_file(tmp_path, quick={"seeds": [4], "overrides": {"trainer.max_steps": 1}})
    runs = FakeRuns(better_when_learning)
    assert compare(path, tmp_path, quick=True, say=silent, launch=runs) is None
    assert runs.calls == 2
    assert set(read_claim(path, quick=True).arms["frozen"].flags.values()) == {
        1,
        5,
        4,
    }  # steps, interval, width
    assert "no verdict (quick)" in (tmp_path / "claim_quick" / "table.md").read_text()
    with pytest.raises(ValueError, match="--quick needs a section `quick`"):
        compare(claim_file(tmp_path), tmp_path, quick=True, say=silent, launch=runs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no config 'nothing'"),
        (["claim.yaml", "--jobs", "0"], "--jobs must be at least 1"),
        (["claim.yaml", "--job", "2"], "unrecognized arguments: --job"),
        ([], "the following arguments are required: claim"),
        (["broken.yaml"], "broken.yaml, line 1: not valid YAML"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    claim_file(tmp_path)
    (tmp_path / "broken.yaml").write_text("title: [")
    assert cli.main(["compare", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def kinds_of_arms() -> dict[Path, list[Arm]]:
    """Of all shipped arms of one model and data with the same flags, the first."""
    kinds: dict[Path, list[Arm]] = {}
    seen = set()
    for path in SHIPPED:
        for arm in read_claim(path).arms.values():
            config = yaml.safe_load(find_config(arm.config).read_text())
            classes = re.findall(r"class_path: \S+", yaml.safe_dump([config["model"], config["data"]]))
            kind = (*classes, *sorted(arm.flags))
            if kind not in seen:
                seen.add(kind)
                kinds.setdefault(path, []).append(arm)
    return kinds


def test_shipped_claims_are_judgeable() -> None:
    for path in SHIPPED:
        claim = read_claim(path)
        read_claim(path, quick=True)
        assert claim.paper
        runs = {repr((arm.config, arm.flags, arm.grid)) for arm in claim.arms.values()}
        assert len(runs) == len(claim.arms), path


def test_each_shipped_claim_has_a_verdict_of_a_known_commit_or_says_why_not() -> None:
    for path in SHIPPED:
        file = ROOT / "docs" / "results" / f"claim_{path.stem}.json"
        entries = manifest.read(file) if file.is_file() else []
        commits = {str(entry.get("git")) for entry in entries}
        verdicts = [e["value"] for e in entries if e["metric"] == "verdict"]
        judged = verdicts and verdicts[0] in ("reproduced", "not reproduced", "undecided")
        known = commits and not any(c == "None" or c.endswith("-dirty") for c in commits)
        assert bool(judged and known) == (not read_claim(path).status), path


@pytest.mark.parametrize("arms", [pytest.param(arms, id=path.stem) for path, arms in kinds_of_arms().items()])
def test_each_kind_of_shipped_arm_parses(
    arms: list[Arm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arm in arms:
        assert cli.main(["fit", *run_arguments(arm, 0), "--print_config"]) == 0, arm


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_no_two_arms_of_a_shipped_claim_are_the_same_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = {}
    for name, arm in read_claim(path).arms.items():
        assert cli.main(["fit", *run_arguments(arm, 0), "--print_config"]) == 0
        seen[name] = capsys.readouterr().out + repr(arm.grid)  # a grid makes more runs of one start
    assert len(set(seen.values())) == len(seen)


@pytest.mark.slow
def test_quick_look_at_the_flagship_claim(tmp_path: Path) -> None:
    """The real command, shortened further: its arms, metrics and predicates fit together."""
    content = yaml.safe_load((config_folder() / "claims" / "dtr.yaml").read_text())
    content["quick"] = {"seeds": [0], "overrides": {"trainer.max_steps": 2, "trainer.val_check_interval": 2}}
    content["overrides"]["data.init_args.test_passes"] = 1
    content["overrides"]["model.init_args.sampling_steps"] = 2
    (tmp_path / "dtr.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, str(ROOT / "cli.py"), "compare", "dtr.yaml", "--quick", "--jobs", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "no verdict (quick)" in done.stdout
    assert len(list(csv.reader((tmp_path / "runs/compare/dtr_quick/runs.csv").open()))) == 10
    shutil.rmtree(tmp_path / "runs")


def test_one_seed_has_neither_spread_nor_interval(tmp_path: Path) -> None:
    """JSON has no infinity, a table no nan."""
    path, results = claim_file(tmp_path, quick={"seeds": [0]}), tmp_path / "results.json"
    compare(
        path, tmp_path, quick=True, results_file=results, say=silent, launch=FakeRuns(better_when_learning)
    )
    text = (tmp_path / "claim_quick" / "table.md").read_text()
    assert "One seed, 0." in text
    assert "nan" not in text
    assert "inf" not in text
    json.loads(results.read_text(), parse_constant=lambda name: pytest.fail(name))
