"""The trials of a sweep: each the ordinary command line in a folder of its own, several at a time."""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from zoo.engine.launch import Launch, RunFailed, stop_children, threads_per_run
from zoo.evidence.compare.runs import read_summary
from zoo.evidence.sweep.file import Sweep
from zoo.evidence.sweep.study import Claim, Study

FAILURES = 5
"""A process gives up after so many failed trials if no more than that succeeded, as W&B's agent does."""
_PAUSE = 1.0
_INTERRUPTED = (130, 143, -2, -15)
_NEVER_BOTH = ("--ckpt_path", "--weights")


def run_trials(sweep: Sweep, study: Study, jobs: int, say: Callable[[str], None], launch: Launch) -> None:
    """Run trials until the sweep is complete, together with whatever other processes do.

    Raises:
        RuntimeError: when most trials fail.
        ValueError: for a metric that the runs do not have.
    """
    worker = _Worker(sweep, study, threads_per_run(jobs), say, launch)
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(worker.work) for _ in range(jobs)]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            worker.stopped.set()
            stop_children()
            raise


class _Worker:
    def __init__(
        self, sweep: Sweep, study: Study, threads: int, say: Callable[[str], None], launch: Launch
    ) -> None:
        self.sweep, self.study, self.threads, self.say, self.launch = sweep, study, threads, say, launch
        self.stopped = threading.Event()
        self.failed = self.succeeded = 0

    def work(self) -> None:
        """Take trials while there are any; wait while only others run, for their trials may fail."""
        while not self.stopped.is_set():
            claim = self.study.claim()
            if claim is not None:
                self._run(claim)
            elif self.study.over:
                return
            else:
                self.stopped.wait(_PAUSE)

    def _run(self, claim: Claim) -> None:
        started = time.monotonic()
        command = "zoo " + shlex.join(self.sweep.arguments(claim.values))
        result: dict[str, Any] = {"command": command}
        summary = None
        try:
            summary = self._summary(claim)
        except RunFailed as error:
            if self.stopped.is_set() or error.code in _INTERRUPTED:
                raise KeyboardInterrupt from None  # no result: the trial is given back
            result["error"] = error.last
        except RuntimeError as error:
            result["error"] = str(error)
        if summary is not None:
            final = summary["final"]
            result |= {"final": final, "steps": summary.get("steps")}
            energy = summary.get("energy") or {}
            result |= {"joules": energy.get("joules"), "energy_kind": energy.get("kind")}
            if self.sweep.metric in final:
                # a training that lost its weights is not ranked by what it had before
                lost = bool(summary.get("diverged"))
                result["value"] = math.nan if lost else float(final[self.sweep.metric])
            else:
                result["error"] = (
                    f"no metric {self.sweep.metric!r}; it has {', '.join(sorted(final)) or 'none'}"
                )
        result["seconds"] = time.monotonic() - started if summary is None else summary["seconds"]
        self.study.end(claim, result)
        self._tell(claim, result)
        if summary is not None and "value" not in result:
            raise ValueError(f"{claim.place.name} has {result['error']}")

    def _summary(self, claim: Claim) -> dict[str, Any]:
        """Summary of the finished run; a killed one goes on from its last checkpoint."""
        arguments = self.sweep.arguments(claim.values)
        place = claim.place
        if place.exists():
            try:
                if (summary := read_summary(place, "summary.json")).get("finished", True):
                    return summary
            except RuntimeError:  # none yet
                pass
            if not any(a.partition("=")[0] in _NEVER_BOTH for a in arguments):
                arguments.append("--ckpt_path=last")
        place.mkdir(parents=True, exist_ok=True)
        where = [f"--trainer.default_root_dir={place}", "--trainer.enable_progress_bar=false"]
        self.launch([*arguments, *where], place / "run.log", self.threads)
        summary = read_summary(place, "summary.json")
        if not summary.get("finished", True):
            raise RunFailed(130, "interrupted", place / "run.log")
        return summary

    def _tell(self, claim: Claim, result: dict[str, Any]) -> None:
        chosen = ", ".join(
            f"{p.name.rpartition('.')[2]} {short(claim.values[p.name])}" for p in self.sweep.searched
        )
        if "value" not in result:
            self.failed += 1
            self.say(f"{claim.place.name} failed ({chosen}): {result['error']}")
            if self.failed >= FAILURES and self.failed >= self.succeeded and self.sweep.method != "grid":
                raise RuntimeError(
                    f"{self.failed} of {self.failed + self.succeeded} trials failed, the last with: "
                    f"{result['error']} (log {claim.place / 'run.log'})"
                )
            return
        self.succeeded += 1
        diverged = "" if math.isfinite(result["value"]) else ", diverged"
        done = f"[{self.study.completed()}/{self.study.total}]"
        self.say(f"{done} {claim.place.name}: {self.sweep.metric} {result['value']:.4g}{diverged} ({chosen})")


def short(value: Any) -> str:
    """A value for a table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
