"""``zoo sweep``: trials handed out once, over kills, crashes, restarts and several processes."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import pytest
import yaml
from fakes.sweeps import COMMAND, POINTS, FakeRuns, crash, silent, square, sweep_file
from PIL import Image

import cli
from zoo.engine import run as run_callback
from zoo.engine.launch import RunFailed
from zoo.evidence.sweep import report, sweep, trials
from zoo.evidence.sweep import study as study_room
from zoo.evidence.sweep.file import read_sweep
from zoo.evidence.sweep.report import overlay
from zoo.evidence.sweep.study import Study

ROOT = Path(cli.__file__).resolve().parent
RANGE = {"a": {"distribution": "log_uniform_values", "min": 0.1, "max": 100}, "b": {"min": 0.0, "max": 50.0}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Short pauses; no pictures but where they are looked at, for they take longer than all else."""
    monkeypatch.setattr(trials, "_PAUSE", 0.02)
    if "plot" not in request.node.name:
        monkeypatch.setattr(report, "plot", lambda *args: None)


def study_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="toy", storage=f"sqlite:///{folder / 'study.db'}")
    return study.get_trials(deepcopy=False)


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "trials.csv").open()))


# --- search


def test_grid_runs_every_point_once_in_order_and_says_so(tmp_path: Path) -> None:
    runs, said = FakeRuns(square), list[str]()
    sweep(sweep_file(tmp_path), tmp_path, say=said.append, launch=runs)
    assert runs.points("a", "b") == POINTS
    assert any("the grid is finished: all 6 points" in line for line in said)
    places = [call["trainer.default_root_dir"] for call in runs.calls]
    assert len(set(places)) == 6
    assert all((Path(p) / "run.log").is_file() for p in places)


def test_a_search_costs_what_all_its_trials_cost(tmp_path: Path) -> None:
    runs, said = FakeRuns(square), list[str]()
    runs.change = {"energy": {"joules": 600.0, "kind": "modelled (cpu cpu_time)"}}
    sweep(sweep_file(tmp_path), tmp_path, say=said.append, launch=runs)
    line = "energy of the search: 3600 J = 0.001 kWh in 6 trials, modelled (cpu cpu_time)"
    assert line in said
    assert line in (tmp_path / "toy" / "table.md").read_text()
    assert {row["joules"] for row in rows_of(tmp_path / "toy")} == {"600.0"}

    def half(flags: Mapping[str, str]) -> float:
        if flags["a"] == "1":
            raise crash(tmp_path / "log")
        return square(flags)

    runs, said = FakeRuns(half), []
    runs.change = {"energy": {"joules": 600.0, "kind": "modelled (cpu cpu_time)"}}
    sweep(sweep_file(tmp_path / "two"), tmp_path / "two", say=said.append, launch=runs)
    assert any("2400 J = 0.000667 kWh in 4 trials, 2 more of unknown energy" in x for x in said)


def test_tables_that_no_sweep_has_made_stay(tmp_path: Path) -> None:
    best = tmp_path / "toy" / "best.yaml"
    best.parent.mkdir()
    best.write_text("precious")
    with pytest.raises(ValueError, match=r"toy/best\.yaml: no sweep has made it; move it, or give"):
        sweep(sweep_file(tmp_path), tmp_path, say=lambda _: None, launch=FakeRuns(square))
    assert best.read_text() == "precious"
    best.unlink()
    for _ in range(2):
        sweep(sweep_file(tmp_path), tmp_path, say=lambda _: None, launch=FakeRuns(square))


def test_random_search_is_seeded_and_stays_in_range(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, method="random", parameters=RANGE)
    found = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        runs = FakeRuns(square)
        sweep(path, tmp_path / name, 4, seed=seed, say=silent, launch=runs)
        found[name] = runs.points("a", "b")
    assert found["one"] == found["same"]
    assert not set(found["one"]) & set(found["other"])
    assert len(set(found["one"])) == 4
    assert all(0.1 <= a <= 100 and 0 <= b <= 50 for a, b in found["one"])


def test_bayes_draws_what_tpe_draws_and_learns(tmp_path: Path) -> None:
    """The draws of Optuna's TPE, seeded with (seed, trial), which keep to the better half of the decades."""

    def bowl(flags: Mapping[str, str]) -> float:
        return float(abs(np.log10(float(flags["a"]) / 3)))

    runs, path = FakeRuns(bowl), sweep_file(tmp_path, method="bayes", parameters=RANGE)
    sweep(path, tmp_path, 30, seed=3, say=silent, launch=runs)
    space = {p.name: p.search() for p in read_sweep(path).searched}
    study, values = optuna.create_study(), []
    for number in range(30):
        seed = int(np.random.SeedSequence([3, number]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = study.ask(space)
        values.append(bowl({"a": str(trial.params["a"])}))
        study.tell(trial, values[-1])
    assert [bowl(call) for call in runs.calls] == pytest.approx(values, abs=1e-12)
    assert np.mean(values[15:]) < 0.75 * np.mean(values[:10])


def test_a_restart_does_not_repeat_suggestions(tmp_path: Path) -> None:
    path, runs = sweep_file(tmp_path, method="random", parameters=RANGE), FakeRuns(square)
    for count in (2, 4, 6):
        sweep(path, tmp_path, count, say=silent, launch=runs)
    assert len(set(runs.points("a", "b"))) == 6


# --- count, target, finished


def test_count_is_of_completed_trials_over_restarts(tmp_path: Path) -> None:
    path, runs = sweep_file(tmp_path), FakeRuns(square)
    made = []
    for count in (2, 2, 4, None, None):
        sweep(path, tmp_path, count, say=silent, launch=runs)
        made.append(len(runs.calls))
    assert made == [2, 2, 4, 6, 6]
    assert runs.points("a", "b") == POINTS


def test_a_target_ends_the_sweep(tmp_path: Path) -> None:
    runs = FakeRuns(square)
    metric = {"name": "val/loss", "goal": "minimize", "target": 0.15}
    sweep(sweep_file(tmp_path, metric=metric), tmp_path, say=silent, launch=runs)
    assert runs.points("a", "b") == POINTS[:3]


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    sweep(sweep_file(tmp_path), tmp_path, 1, say=silent, launch=FakeRuns(square))
    runs = FakeRuns(square)
    for changes in (
        {"parameters": {"a": {"values": [1]}, "b": {"values": [10]}}},
        {"metric": {"name": "val/loss", "goal": "maximize"}},
        {"command": [*COMMAND, "--seed_everything=1"]},
    ):
        with pytest.raises(ValueError, match="holds trials of another toy: the sweep file, a config"):
            sweep(sweep_file(tmp_path, **changes), tmp_path, say=silent, launch=runs)
    sweep(sweep_file(tmp_path, name="A title", project="p"), tmp_path, 1, say=silent, launch=runs)
    assert runs.calls == []


# --- failures


def test_a_crash_is_one_failed_trial(tmp_path: Path) -> None:
    def value(flags: Mapping[str, str]) -> float:
        if flags["a"] == "2":
            raise crash(Path(flags["trainer.default_root_dir"]) / "run.log")
        return square(flags)

    runs = FakeRuns(value)
    for _ in range(2):  # and a second sweep does not try it again
        sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=runs)
    assert runs.points("a", "b") == POINTS
    failed = [row for row in rows_of(tmp_path / "toy") if row["state"] == "failed"]
    assert [(row["a"], row["b"], row["error"]) for row in failed] == [
        ("2", "10", "zoo: error: no memory"),
        ("2", "20", "zoo: error: no memory"),
    ]
    assert (tmp_path / "toy" / "table.md").read_text().count("zoo: error: no memory") == 2


def test_a_search_in_which_everything_crashes_ends(tmp_path: Path) -> None:
    def value(flags: Mapping[str, str]) -> float:
        raise crash(Path(flags["trainer.default_root_dir"]) / "run.log", "zoo: error: unknown key")

    runs = FakeRuns(value)
    path = sweep_file(tmp_path, method="random", parameters=RANGE)
    with pytest.raises(RuntimeError, match="5 of 5 trials failed, the last with: zoo: error: unknown key"):
        sweep(path, tmp_path, 20, say=silent, launch=runs)
    assert len(runs.calls) == 5


def test_a_diverged_trial_is_an_answer_that_ranks_last(tmp_path: Path) -> None:
    runs = FakeRuns(lambda f: float("nan") if f["a"] == "1" else square(f))
    sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=runs)
    assert len(runs.calls) == 6
    lines = (tmp_path / "toy" / "table.md").read_text().splitlines()
    assert lines[2].startswith("| 2 | 0.1 | 2 | 10 |")
    assert [line.endswith("| diverged |") for line in lines[2:]] == [False] * 4 + [True] * 2


def test_a_diverged_trial_is_one_of_those_that_were_asked_for(tmp_path: Path) -> None:
    runs = FakeRuns(lambda f: math.nan if len(runs.calls) < 3 else square(f))
    sweep(sweep_file(tmp_path, method="random", parameters=RANGE), tmp_path, 4, say=silent, launch=runs)
    assert [row["state"] for row in rows_of(tmp_path / "toy")] == ["diverged"] * 2 + ["complete"] * 2


def test_a_trial_whose_metric_was_never_a_number_diverged_too(tmp_path: Path) -> None:
    """The other trials run."""
    runs = FakeRuns(square)

    def launch(arguments: Sequence[str], log: Path, threads: int) -> None:
        lost = "--a=1" in arguments
        runs.final = {"train/loss": 1.0, "val/loss": math.nan} if lost else {}
        runs(arguments, log, threads)

    sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=launch)
    states = [(row["a"], row["state"]) for row in rows_of(tmp_path / "toy")]
    assert states == [(str(a), "diverged" if a == 1 else "complete") for a, _ in POINTS]


def test_a_trial_that_lost_its_weights_is_not_ranked_by_what_it_had_before(tmp_path: Path) -> None:
    runs = FakeRuns(square)

    def launch(arguments: Sequence[str], log: Path, threads: int) -> None:
        runs.change = {"diverged": "net.weight holds NaN or infinity"} if "--a=1" in arguments else {}
        runs(arguments, log, threads)

    sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=launch)
    states = [(row["a"], row["state"]) for row in rows_of(tmp_path / "toy")]
    assert states == [(str(a), "diverged" if a == 1 else "complete") for a, _ in POINTS]


def test_a_missing_metric_names_those_there_are(tmp_path: Path) -> None:
    runs = FakeRuns(square)
    runs.final = {"val/mse": 1.0, "train/loss": 2.0}
    with pytest.raises(ValueError, match="no metric 'val/loss'; it has train/loss, val/mse"):
        sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=runs)
    assert len(runs.calls) == 1


# --- killed


def test_an_interrupted_trial_is_run_again_and_goes_on(tmp_path: Path) -> None:
    """Ctrl-C reaches the run too, which ends with 130: no failed trial, and it goes on in its folder."""
    runs = FakeRuns(square)

    def interrupted(arguments: Sequence[str], log: Path, threads: int) -> None:
        if len(runs.calls) == 2:
            raise RunFailed(130, "interrupted", log)
        runs(arguments, log, threads)

    with pytest.raises(KeyboardInterrupt):
        sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=interrupted)
    sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=runs)
    assert runs.points("a", "b") == POINTS
    assert Path(runs.calls[2]["trainer.default_root_dir"]).name == "trial_0002"
    assert ["--ckpt_path=last" in a for a in runs.arguments] == [False, False, True, False, False, False]
    assert len(rows_of(tmp_path / "toy")) == 6


def half_taken(place: Path, **claim: Any) -> Study:
    """A study whose first trial is claimed by somebody else."""
    study = Study(read_sweep(sweep_file(place.parent)), place, 6, 0)
    taken = study.claim()
    assert taken is not None
    study._running.clear()
    trial = taken.trial
    trial.set_user_attr("claim", trial.user_attrs["claim"] | claim)
    return study


def test_only_trials_of_gone_processes_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {"pid": os.getpid(), "born": psutil.Process().create_time()}
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    cases = {
        "alive": ({}, False),
        "gone": ({"pid": gone.pid}, True),
        "number_used_again": ({"born": mine["born"] - 3600}, True),
        "other_machine": ({"host": "elsewhere", "pid": gone.pid}, False),
    }
    for name, (claim, dead) in cases.items():
        study = half_taken(tmp_path / name / "toy", **claim)
        taken = study.claim()
        assert taken is not None
        assert (taken.values == {"a": 1, "b": 10}) is dead, name
    monkeypatch.setattr(study_room, "SILENCE", -1.0)
    study = half_taken(tmp_path / "silent" / "toy", host="elsewhere")
    taken = study.claim()
    assert taken is not None
    assert taken.values == {"a": 1, "b": 10}
    assert taken.place.name == "trial_0001"  # what the other machine wrote stays its own


def test_a_trials_folder_out_of_the_study_stays_in_the_sweeps(tmp_path: Path) -> None:
    for folder in ("../../up", "/victim"):
        study = half_taken(tmp_path / folder[-2:] / "toy", born=0.0, folder=folder)
        with pytest.raises(
            ValueError, match=rf"study\.db: folder of a trial: '{folder}' becomes the name of"
        ):
            study.claim()


@pytest.mark.parametrize("moment", ["enqueued", "asked"])
def test_a_kill_while_a_point_is_taken_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed between the writes of a claim: of a fresh point, and of one that was killed before."""
    path, runs = sweep_file(tmp_path), FakeRuns(square)

    class Killed(BaseException):
        pass

    def die(*args: Any, **kwargs: Any) -> None:
        raise Killed

    target = (optuna.Study, "ask") if moment == "enqueued" else (Study, "_place")
    folder = tmp_path / "toy"
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(*target, die)
            with pytest.raises(Killed):
                Study(read_sweep(path), folder, 6, 0).claim()
        half = Study(read_sweep(path), folder, 6, 0)
        taken = half.claim()
        assert taken is not None
        assert taken.values == {"a": 1, "b": 10}
        taken.trial.set_user_attr("heartbeat", 0.0)  # killed after it had begun
    sweep(path, tmp_path, say=silent, launch=runs)
    assert sorted(runs.points("a", "b")) == POINTS


# --- several at a time


def test_jobs_and_processes_share_a_study(tmp_path: Path) -> None:
    """Two sweeps at once, three jobs each, as two processes would: each point once, both see all."""
    path = sweep_file(tmp_path, parameters={"a": {"min": 1, "max": 4}, "b": {"values": [10, 20, 30]}})

    def value(flags: Mapping[str, str]) -> float:
        time.sleep(0.02)
        return square(flags)

    runs, said = FakeRuns(value), list[str]()

    def go() -> None:
        sweep(path, tmp_path, 10, jobs=3, say=said.append, launch=runs)

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs.calls) == len(set(runs.points("a", "b"))) == 10
    assert len(rows_of(tmp_path / "toy")) == 10
    assert sum(line.startswith("best: trial") for line in said) == 2


def test_a_joiner_takes_over_what_another_lost(tmp_path: Path) -> None:
    """It waits for the last trial of the other instead of ending, for that may still be killed."""
    study = half_taken(tmp_path / "toy")
    taken = study.trials[0]
    runs = FakeRuns(square)
    thread = threading.Thread(
        target=lambda: sweep(sweep_file(tmp_path), tmp_path, say=silent, launch=runs), daemon=True
    )
    thread.start()
    while len(runs.calls) < 5:
        time.sleep(0.02)
    time.sleep(0.2)
    assert thread.is_alive()
    assert (len(runs.calls), len({*runs.points("a", "b")})) == (5, 5)
    study._study._storage.set_trial_user_attr(taken._trial_id, "heartbeat", 0.0)
    thread.join(30)
    assert not thread.is_alive()
    assert sorted(runs.points("a", "b")) == POINTS


SCRIPT = """
import sys, time
from pathlib import Path
from fakes.sweeps import FakeRuns, square
from zoo.evidence.sweep import sweep

def value(flags):
    with open(Path(sys.argv[2]) / "calls.txt", "a") as file:
        file.write(flags["a"] + " " + flags["b"] + "\\n")
    time.sleep(float(sys.argv[3]))
    return square(flags)

sweep(Path(sys.argv[1]), Path(sys.argv[2]), launch=FakeRuns(value))
"""


def started(tmp_path: Path, seconds: float) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-c", SCRIPT, str(sweep_file(tmp_path)), str(tmp_path), str(seconds)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)


def called(tmp_path: Path) -> list[tuple[int, ...]]:
    file = tmp_path / "calls.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(map(int, line.split())) for line in lines]


def test_killed_processes_lose_no_point(tmp_path: Path) -> None:
    """Two real processes on one study, one of them SIGKILLed within a trial: the other finishes the grid."""
    first, second = started(tmp_path, 0.3), started(tmp_path, 0.3)
    while len(called(tmp_path)) < 3:
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert second.wait(60) == 0
    calls = called(tmp_path)
    assert set(calls) == set(POINTS)
    assert len(calls) <= len(POINTS) + 1  # the killed one again
    done = [t for t in study_of(tmp_path / "toy") if t.state == optuna.trial.TrialState.COMPLETE]
    assert sorted((t.params["a"], t.params["b"]) for t in done) == sorted((str(a), str(b)) for a, b in POINTS)


# --- what it leaves


def test_outputs_rank_the_trials(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = list[str]()
    results = tmp_path / "results.json"
    sweep(sweep_file(tmp_path), tmp_path, results_file=results, say=said.append, launch=FakeRuns(square))
    folder = tmp_path / "toy"
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[0] == "| trial | val/loss | a | b | seconds | note |"
    assert [line.split(" | ")[1] for line in lines[2:]] == ["0.1", "0.2", "1.1", "1.1", "1.2", "1.2"]
    assert lines[2] == "| 2 | 0.1 | 2 | 10 | 2 | best |"
    assert capsys.readouterr().out.splitlines()[1].split() == ["2", "0.1", "2", "10", "2", "best"]
    row = rows_of(folder)[2]
    assert (row["trial"], row["state"], row["val/loss"], row["a"]) == ("2", "complete", "0.1", "2")
    assert row["command"] == "zoo fit --config digit_classifier_digits --a=2 --b=10"
    assert yaml.safe_load((folder / "best.yaml").read_text()) == {"a": 2, "b": 10}
    assert said[-1] == (
        "best: trial 2, val/loss 0.1; again: zoo fit --config digit_classifier_digits "
        f"--config={folder / 'best.yaml'}"
    )
    entries = {e["metric"]: e["value"] for e in json.loads(results.read_text())}
    assert (entries["best/a"], entries["best/val/loss"], entries["trials"]) == (2, 0.1, 6)


def test_maximize_turns_the_order_round(tmp_path: Path) -> None:
    metric = {"name": "val/loss", "goal": "maximize"}
    sweep(sweep_file(tmp_path, metric=metric), tmp_path, say=silent, launch=FakeRuns(square))
    assert yaml.safe_load((tmp_path / "toy" / "best.yaml").read_text())["b"] == 20


def test_plot_shows_every_trial(tmp_path: Path) -> None:
    """One more trial, or a failed one, changes the picture."""
    pictures = []
    for name, count, bad in (("three", 3, None), ("four", 4, None), ("failed", 4, "20")):

        def value(flags: Mapping[str, str], bad: str | None = bad) -> float:
            if flags["a"] == "2" and flags["b"] == bad:
                raise crash(Path(flags["trainer.default_root_dir"]) / "run.log")
            return square(flags)

        sweep(sweep_file(tmp_path), tmp_path / name, count, say=silent, launch=FakeRuns(value))
        picture = Image.open(tmp_path / name / "toy" / "plot.png").convert("RGB")
        pictures.append(np.asarray(picture))
    assert len({p.shape for p in pictures}) == 1
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert (pictures[i] != pictures[j]).any(axis=-1).sum() > 100


def test_overlay_nests_flags() -> None:
    flags = {
        "ema.decay": 0.9,
        "model": {"init_args": {"alpha": 2}},
        "model.init_args.optimizer": "torch.optim.SGD",
        "model.init_args.optimizer.init_args.lr": 1e-5,
        "weights": "null",
    }
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-5}}
    assert overlay(flags) == {
        "ema": {"decay": 0.9},
        "model": {"init_args": {"alpha": 2, "optimizer": optimizer}},
        "weights": None,
    }


def test_search_does_not_import_torch() -> None:
    code = "import sys, zoo.evidence.sweep; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count must be at least 1, got 0"),
        (["--jobs", "-1"], "--jobs must be at least 1, got -1"),
        (["--cuont", "3"], "unrecognized arguments: --cuont"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["sweep", str(sweep_file(tmp_path)), "--out", str(tmp_path), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "toy").exists()


def test_an_unknown_sweep_names_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "dtr_dit_digts", "--count", "1"]) == 1
    assert "did you mean" in capsys.readouterr().err


def test_best_yaml_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real runs of nested and dotted parameters, then the overlay through ``zoo fit``: the same result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_callback, "plot_curves", lambda folder: None)
    parameters = {
        "model": {"parameters": {"init_args": {"parameters": {"width": {"values": [4, 8]}}}}},
        "model.init_args.optimizer.init_args.lr": {"value": 3e-3},
    }
    budget = ["--trainer.max_steps=4", "--trainer.val_check_interval=4"]
    metric = {"name": "val/accuracy", "goal": "maximize"}
    path = sweep_file(tmp_path, metric=metric, parameters=parameters, command=[*COMMAND, *budget])

    def in_process(arguments: Sequence[str], log: Path, threads: int) -> None:
        assert cli.main(arguments) == 0

    said = list[str]()
    sweep(path, tmp_path / "out", say=said.append, launch=in_process)
    again = said[-1].partition("again: zoo ")[2].split()
    assert cli.main([*again, "--trainer.enable_progress_bar=false"]) == 0
    summaries = [json.loads(p.read_text()) for p in sorted((tmp_path / "runs").rglob("summary.json"))]
    assert len(summaries) == 1
    best = max(rows_of(tmp_path / "out" / "toy"), key=lambda r: float(r["val/accuracy"]))
    assert summaries[0]["final"]["val/accuracy"] == float(best["val/accuracy"])
    assert said[-1].startswith(f"best: trial {best['trial']}, ")


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_orphan_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL of the command in the middle of its first two real trials."""
    budget = [
        "--trainer.max_steps=200",
        "--trainer.val_check_interval=200",
        "--checkpoint.every_n_train_steps=10",
    ]
    path = sweep_file(
        tmp_path,
        metric={"name": "val/accuracy", "goal": "maximize"},
        parameters={"model.init_args.width": {"values": [4, 8, 12]}},
        command=[*COMMAND, *budget],
    )
    command = [sys.executable, str(ROOT / "cli.py"), "sweep", str(path), "--out", str(tmp_path), "--jobs=2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    folder = tmp_path / "toy"
    while len({p.parts[-5] for p in folder.glob("trial_*/*/*/checkpoints/step=*.ckpt")}) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(children) == 2
    assert psutil.wait_procs(children, timeout=30)[1] == []
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the grid is finished: all 3 points" in result.stdout
    rows = rows_of(folder)
    assert sorted((int(r["model.init_args.width"]), r["state"]) for r in rows) == [
        (w, "complete") for w in (4, 8, 12)
    ]
    assert sorted(p.name for p in folder.glob("trial_*")) == ["trial_0000", "trial_0001", "trial_0004"]
    assert "zoo: resumed at step" in (folder / "trial_0000" / "run.log").read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "zoo: [" not in again.stdout
