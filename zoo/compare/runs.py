"""The runs of a claim: each arm at each seed, as the ordinary command line, once."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zoo
from zoo.catalog import find_config
from zoo.compare.claim import Arm, Claim
from zoo.launch import Launch, run_command, stop_children, threads_per_run

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""arm -> seed -> what ``result.json`` of a run holds: metrics, steps, effective_batch, seconds, ..."""

_FACTS = ("steps", "epochs", "effective_batch", "seconds", "git", "device")


def run_arguments(arm: Arm, seed: int) -> list[str]:
    """Arguments after the verb, without the output folder. ``{seed}`` in a flag becomes the seed."""
    flags = [f"--{key}={_text(value, seed)}" for key, value in arm.flags.items()]
    return [f"--config={arm.config}", *flags, f"--seed_everything={seed}"]


def _text(value: Any, seed: int) -> str:
    return value.replace("{seed}", str(seed)) if isinstance(value, str) else json.dumps(value)


def fingerprint(arm: Arm, seed: int, verbs: Sequence[str]) -> str:
    """Changes when the run would: arguments, the config's text, the zoo's version."""
    text = json.dumps([run_arguments(arm, seed), list(verbs), zoo.__version__])
    return hashlib.sha256((text + find_config(arm.config).read_text()).encode()).hexdigest()[:16]


def run_one(
    arm: Arm, seed: int, verbs: Sequence[str], place: Path, threads: int, launch: Launch = run_command
) -> dict[str, Any]:
    """One arm at one seed in folder ``place``. A finished run is read, a killed one goes on.

    Raises:
        RuntimeError: when a run fails, with its last line.
    """
    done, mark = place / "result.json", fingerprint(arm, seed, verbs)
    if done.is_file() and (result := json.loads(done.read_text()))["fingerprint"] == mark:
        return dict(result)
    marker = place / "fingerprint"
    if place.exists() and (not marker.is_file() or marker.read_text() != mark):
        shutil.rmtree(place)  # of an older claim file, config or version
    place.mkdir(parents=True, exist_ok=True)
    marker.write_text(mark)
    arguments = run_arguments(arm, seed)
    where = [f"--trainer.default_root_dir={place}", "--trainer.enable_progress_bar=false"]
    command = "zoo fit " + shlex.join(arguments)
    result = {"fingerprint": mark, "seed": seed, "command": command, "metrics": {}}
    for verb in verbs:
        if verb == "fit":
            finished = _find_summary(place, "summary.json")
            if finished is None or not json.loads(finished.read_text())["finished"]:
                launch(["fit", *arguments, *where, "--ckpt_path=last"], place / "fit.log", threads)
            summary = read_summary(place, "summary.json")
            result |= {key: summary[key] for key in _FACTS} | {"versions": summary["versions"]}
            checkpoint = summary["checkpoint"]
        else:
            launch([verb, *arguments, *where, f"--ckpt_path={checkpoint}"], place / f"{verb}.log", threads)
            summary = read_summary(place, f"summary_{verb}.json")
        result["metrics"] |= summary["final"]
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1))
    os.replace(temporary, done)
    return result


def _find_summary(place: Path, name: str) -> Path | None:
    paths = list(place.glob(f"*/version_*/{name}"))
    return max(paths, key=lambda p: p.stat().st_mtime) if paths else None


def read_summary(place: Path, name: str) -> dict[str, Any]:
    """Newest summary of that name in the run folders under ``place``.

    Raises:
        RuntimeError: when there is none.
    """
    path = _find_summary(place, name)
    if path is None:
        raise RuntimeError(f"{place} has no {name}: the run ended without results")
    return dict(json.loads(path.read_text()))


def run_all(
    claim: Claim, folder: Path, jobs: int, say: Callable[[str], None], launch: Launch = run_command
) -> Results:
    """All arms over all seeds, seed by seed, so that a stopped comparison is balanced."""
    threads = threads_per_run(jobs)
    tasks = [(arm, seed) for seed in claim.seeds for arm in claim.arms]
    results: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in claim.arms}
    with _only_one(folder), ThreadPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(run_one, claim.arms[arm], seed, claim.verbs, place, threads, launch): (arm, seed)
            for arm, seed in tasks
            for place in [folder / "runs" / arm / f"seed_{seed}"]
        }
        try:
            for count, future in enumerate(as_completed(futures), start=1):
                arm, seed = futures[future]
                results[arm][seed] = future.result()
                metrics = results[arm][seed]["metrics"]
                values = ", ".join(f"{m} {metrics[m]:.4g}" for m in claim.shown_metrics if m in metrics)
                say(f"[{count}/{len(tasks)}] {arm}, seed {seed}: {values}")
        except BaseException:
            for future in futures:
                future.cancel()
            stop_children()
            raise
    return results


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two comparisons in one folder would run the same runs at the same time.

    Raises:
        RuntimeError: when another one is at work; the lock ends with its process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ModuleNotFoundError:  # no such locks on Windows
            pass
        except BlockingIOError:
            raise RuntimeError(
                f"another `zoo compare` is at work in {folder}; wait for it, or give another --out"
            ) from None
        yield
