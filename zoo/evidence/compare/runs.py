"""The runs of a claim: each arm at each seed, as the ordinary command line, once."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zoo
from zoo.engine.launch import Launch, run_command, stop_children, threads_per_run
from zoo.evidence.compare.claim import Arm, Claim
from zoo.evidence.compare.selection import Choice, choose
from zoo.file_names import MARKER, is_own, make_own, remove_own
from zoo.hub.catalog import find_config
from zoo.locks import changing, locked, write_json

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""arm -> seed -> what ``result.json`` of a run holds: metrics, steps, effective_batch, seconds, ..."""

_FACTS = ("steps", "epochs", "effective_batch", "seconds", "git", "device")
_COSTS = ("parameters", "peak_memory_bytes")
_FINGERPRINT = "fingerprint"
REPEAT_STRIDE = 1000
"""Repeat r of seed s has the global seed s + 1000 r."""


@dataclass(frozen=True)
class Task:
    """A run to make: an arm without anything left to choose, its seed, its verbs and its folder."""

    name: str
    arm: Arm
    seed: int
    repeat: int
    verbs: tuple[str, ...]
    place: Path


@dataclass(frozen=True)
class Runs:
    """All runs of a claim.

    Attributes:
        results: see :data:`Results`; of repeats, ``metrics`` holds the means and ``runs`` each of them.
        choices: arm -> seed -> what the grid came to, for arms that have one.
    """

    results: Results
    choices: Mapping[str, Mapping[int, Choice]]


def run_arguments(arm: Arm, seed: int, repeat: int = 0) -> list[str]:
    """Arguments after the verb, without the output folder; ``{seed}`` and ``{repeat}`` are put in."""
    flags = [f"--{key}={_text(value, seed, repeat)}" for key, value in arm.flags.items()]
    return [f"--config={arm.config}", *flags, f"--seed_everything={seed + REPEAT_STRIDE * repeat}"]


def _text(value: Any, seed: int, repeat: int) -> str:
    if isinstance(value, str):
        return value.replace("{seed}", str(seed)).replace("{repeat}", str(repeat))
    return json.dumps(value)


def fingerprint(arguments: Sequence[str], arm: Arm) -> str:
    """Changes when the run would: arguments, the config's text, the zoo's version."""
    text = json.dumps([list(arguments), zoo.__version__])
    return hashlib.sha256((text + find_config(arm.config).read_text()).encode()).hexdigest()[:16]


class KnownRuns:
    """Finished runs in a file, so that a comparison can go on elsewhere, or be extended by seeds and arms.

    Several comparisons may share the file.

    Args:
        path: JSON, fingerprint -> result; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._runs = {} if path is None else _read_runs(path)

    def get(self, mark: str, verbs: Sequence[str]) -> dict[str, Any] | None:
        """The run of that fingerprint, if all ``verbs`` are done."""
        run = self._runs.get(mark)
        return run if run is not None and set(verbs) <= set(run["verbs"]) else None

    def add(self, mark: str, run: Mapping[str, Any]) -> None:
        """Keep a run. Its checkpoint stays where it was made."""
        if self.path is None:
            return
        kept = {key: value for key, value in run.items() if key != "checkpoint"}
        with changing(self.path):
            held = _read_runs(self.path)  # another comparison may have added some
            if len(held.get(mark, {"verbs": []})["verbs"]) <= len(kept["verbs"]):
                held[mark] = kept
            write_json(self.path, held, sort_keys=True)
        self._runs = held


def _read_runs(path: Path) -> dict[str, dict[str, Any]]:
    """What :class:`KnownRuns` wrote; nothing where there is no file."""
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--runs {path} is no file of runs: {error}") from None
    if not isinstance(held, dict) or not all(
        isinstance(r, dict) and isinstance(r.get("verbs"), list) for r in held.values()
    ):
        raise ValueError(f"--runs {path} is no file of runs, give one that `zoo compare --runs` wrote")
    return held


def run_one(
    task: Task, threads: int, launch: Launch, known: KnownRuns, fresh: bool = False
) -> dict[str, Any]:
    """One run in its folder. Verbs that it has finished are read, a killed one goes on.

    Raises:
        RuntimeError: when a run fails, with its last line.
        ValueError: for a folder of another run, or of something else, see :func:`check_places`.
    """
    mark = _mark(task)
    if (finished_before := known.get(mark, task.verbs)) is not None:
        return finished_before
    check_places([task], known, fresh)
    place, marker = task.place, task.place / _FINGERPRINT
    if marker.is_file() and marker.read_text() != mark:
        remove_own(place)
    make_own(place)
    marker.write_text(mark)
    result = _run_verbs(task, threads, launch)
    known.add(mark, result)
    return result


def _mark(task: Task) -> str:
    return fingerprint(run_arguments(task.arm, task.seed, task.repeat), task.arm)


def check_places(tasks: Sequence[Task], known: KnownRuns, fresh: bool) -> None:
    """Refuse, before anything runs, to throw away what is not ours, or what took days.

    Args:
        tasks: runs to make.
        known: those that need no folder.
        fresh: the user wants runs of other settings to be removed.

    Raises:
        ValueError: naming a folder that holds another run, or what no comparison has made.
    """
    others = []
    for task in tasks:
        place, mark = task.place, _mark(task)
        if known.get(mark, task.verbs) is not None or not _is_used(place):
            continue
        marker = place / _FINGERPRINT
        held = marker.read_text(errors="replace") if marker.is_file() else ""
        if re.fullmatch("[0-9a-f]{16}", held):
            (place / MARKER).touch()  # a version without that file made it
        if not held and not is_own(place):
            raise ValueError(f"{place} holds what no comparison has made; move it, or give another --out")
        if held and held != mark:
            others.append(place)
    if others and not fresh:
        many = f" (and {len(others) - 1:,} more)" if len(others) > 1 else ""
        raise ValueError(
            f"{others[0]}{many} holds a run with another setting, text of its config or version of the zoo; "
            "give another --out to keep it, or --fresh to remove it and train anew"
        )


def _is_used(place: Path) -> bool:
    return place.exists() and (not place.is_dir() or any(place.iterdir()))


def _run_verbs(task: Task, threads: int, launch: Launch) -> dict[str, Any]:
    place, arguments = task.place, run_arguments(task.arm, task.seed, task.repeat)
    done = place / "result.json"
    command = "zoo fit " + shlex.join(arguments)
    result: dict[str, Any] = {"seed": task.seed, "command": command, "metrics": {}, "verbs": []}
    if done.is_file():
        result = json.loads(done.read_text())
    where = [f"--trainer.default_root_dir={place}", "--trainer.enable_progress_bar=false"]
    for verb in task.verbs:
        if verb in result["verbs"]:
            continue
        if verb == "fit":
            finished = _find_summary(place, "summary.json")
            if finished is None or not json.loads(finished.read_text())["finished"]:
                launch(["fit", *arguments, *where, "--ckpt_path=last"], place / "fit.log", threads)
            summary = read_summary(place, "summary.json")
            result |= {key: summary[key] for key in _FACTS} | {"versions": summary["versions"]}
            result |= {key: summary.get(key) for key in (*_COSTS, "checkpoint")}
            result["energy_kind"] = (summary.get("energy") or {}).get("kind")
        else:
            checkpoint = f"--ckpt_path={result['checkpoint']}"
            launch([verb, *arguments, *where, checkpoint], place / f"{verb}.log", threads)
            summary = read_summary(place, f"summary_{verb}.json")
        result["metrics"] |= _final(summary)
        result["costs"] = {**result.get("costs", {}), **(summary.get("costs") or {})}
        result["verbs"].append(verb)
        write_json(done, result)
    return result


def _final(summary: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of a run; a training that lost its weights is not judged by what it had before."""
    lost = bool(summary.get("diverged"))
    return {k: math.nan if lost and k.startswith("val/") else v for k, v in summary["final"].items()}


def _find_summary(place: Path, name: str) -> Path | None:
    """Of the newest run by its number: a clock may be set back, and a copy has times of its own."""
    numbered = {
        int(match[1]): path
        for path in sorted(place.glob(f"*/version_*/{name}"))
        if (match := re.fullmatch(r"version_(\d+)", path.parent.name))
    }
    return numbered[max(numbered)] if numbered else None


def read_summary(place: Path, name: str) -> dict[str, Any]:
    """Newest summary of that name in the run folders under ``place``.

    Raises:
        RuntimeError: when there is none, or it cannot be read.
    """
    path = _find_summary(place, name)
    if path is None:
        raise RuntimeError(f"{place} has no {name}: the run ended without results")
    try:
        summary = json.loads(path.read_text())
        summary["final"].items()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RuntimeError(f"{path} is no summary of a run ({error}); remove it and start again") from None
    return dict(summary)


def run_all(
    claim: Claim,
    folder: Path,
    jobs: int,
    say: Callable[[str], None],
    launch: Launch = run_command,
    runs_file: Path | None = None,
    fresh: bool = False,
) -> Runs:
    """All arms over all seeds, seed by seed, so that a stopped comparison is balanced.

    Arms with a grid first run all of its settings and choose. Runs that ``runs_file`` holds are not made.
    With ``fresh`` runs of other settings are removed, which are an error else.
    """
    known = KnownRuns(runs_file)
    with _only_one(folder):
        trials = _trials(claim, folder)
        if trials:
            say(f"{len(trials)} runs choose the settings of {len({t.name for t, _ in trials})} arms")
        shown = [c.metric for c in claim.selection.by] if claim.selection else []
        tried = _run_tasks([task for task, _ in trials], jobs, shown, say, launch, known, fresh)
        choices = _choices(claim, trials, tried)
        tasks = _final_tasks(claim, folder, choices)
        made = _run_tasks(tasks, jobs, claim.shown_metrics, say, launch, known, fresh)
    grouped: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for task, result in zip(tasks, made, strict=True):
        grouped.setdefault(task.name, {}).setdefault(task.seed, []).append(result)
    results = {name: {s: average(runs) for s, runs in seeds.items()} for name, seeds in grouped.items()}
    return Runs(results, choices)


def _trials(claim: Claim, folder: Path) -> list[tuple[Task, int]]:
    """The runs that choose, each with the index of its setting."""
    if (selection := claim.selection) is None:
        return []
    trials = []
    for seed in selection.seeds or claim.seeds:
        for name, arm in claim.arms.items():
            for index, setting in enumerate(arm.grid):
                trial = arm.with_flags(setting, selection.overrides)
                place = _place(folder, name, index, "chooses" if selection.overrides else "", seed, 0)
                trials.append((Task(name, trial, seed, 0, selection.verbs, place), index))
    return trials


def _place(folder: Path, name: str, index: int | None, role: str, seed: int, repeat: int) -> Path:
    """Folder of a run. A run that chooses without overrides is also the first final run of its setting."""
    parts = [] if index is None else [f"setting_{index}"]
    parts += [role] if role else []
    place = folder.joinpath("runs", name, *parts, f"seed_{seed}")
    return place.with_name(f"{place.name}_repeat_{repeat}") if repeat else place


def _choices(
    claim: Claim, trials: Sequence[tuple[Task, int]], results: Sequence[Mapping[str, Any]]
) -> dict[str, dict[int, Choice]]:
    if (selection := claim.selection) is None:
        return {}
    choices: dict[str, dict[int, Choice]] = {}
    for name, arm in claim.arms.items():
        if not arm.grid:
            continue
        groups = [[s] for s in claim.seeds]
        if selection.per == "claim":
            groups = [list(selection.seeds or claim.seeds)]
        chosen = []
        for group in groups:
            runs: list[list[Mapping[str, Any]]] = [[] for _ in arm.grid]
            for (task, index), result in zip(trials, results, strict=True):
                if task.name == name and task.seed in group:
                    runs[index].append(result)
            chosen.append(choose(f"arm {name!r}", selection, arm.grid, runs))
        shared = chosen * len(claim.seeds) if selection.per == "claim" else chosen
        choices[name] = dict(zip(claim.seeds, shared, strict=True))
    return choices


def _final_tasks(claim: Claim, folder: Path, choices: Mapping[str, Mapping[int, Choice]]) -> list[Task]:
    tasks = []
    for seed in claim.seeds:
        for name, arm in claim.arms.items():
            choice = choices[name][seed] if name in choices else None
            final = arm if choice is None else arm.with_flags(choice.setting)
            for repeat in range(claim.repeats):
                place = _place(folder, name, None if choice is None else choice.index, "", seed, repeat)
                tasks.append(Task(name, final, seed, repeat, tuple(claim.verbs), place))
    return tasks


def _run_tasks(
    tasks: Sequence[Task],
    jobs: int,
    shown: Sequence[str],
    say: Callable[[str], None],
    launch: Launch,
    known: KnownRuns,
    fresh: bool,
) -> list[dict[str, Any]]:
    check_places(tasks, known, fresh)
    threads = threads_per_run(jobs)
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_one, task, threads, launch, known, fresh) for task in tasks]
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                task, metrics = tasks[futures.index(future)], future.result()["metrics"]
                values = ", ".join(f"{m} {metrics[m]:.4g}" for m in shown if m in metrics)
                repeat = f", repeat {task.repeat}" if task.repeat else ""
                say(f"[{count}/{len(tasks)}] {task.name}, seed {task.seed}{repeat}: {values}")
        except BaseException:
            for future in futures:
                future.cancel()
            stop_children()
            raise
    return [future.result() for future in futures]


def average(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The repeats of an arm at a seed as one: mean metrics, all seconds, the most of the rest."""
    merged = dict(runs[0])
    if len(runs) == 1:
        return merged
    common = [m for m in merged["metrics"] if all(m in run["metrics"] for run in runs)]
    merged["metrics"] = {m: statistics.fmean(run["metrics"][m] for run in runs) for m in common}
    merged["seconds"] = sum(run["seconds"] for run in runs)
    merged["costs"] = _mean_costs([run.get("costs") or {} for run in runs])
    for key in ("steps", "epochs", "peak_memory_bytes"):
        values = [run[key] for run in runs if run.get(key) is not None]
        merged[key] = max(values) if values else None
    return merged | {"runs": list(runs)}


def _mean_costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the numbers that all repeats have."""
    names = [
        n for n, v in costs[0].items() if all(type(c.get(n)) in (int, float) for c in costs) and v is not None
    ]
    return {name: statistics.fmean(c[name] for c in costs) for name in names}


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two comparisons in one folder would run the same runs at the same time.

    Raises:
        RuntimeError: when another one is at work; the lock ends with its process.
    """
    try:
        with locked(folder / ".lock", wait=False):
            yield
    except BlockingIOError:
        raise RuntimeError(
            f"another `zoo compare` is at work in {folder}; wait for it, or give another --out"
        ) from None
