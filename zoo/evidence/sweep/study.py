"""The study of a sweep: which trial is whose. One SQLite file for many processes, any of them killed."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.trial import FrozenTrial, Trial, TrialState

from zoo.evidence.sweep.file import Sweep
from zoo.file_names import path_part
from zoo.locks import locked

HEARTBEAT = 20.0
"""Seconds between two signs of life of a process."""
SILENCE = 300.0
"""Seconds without a sign of life after which a process of another machine counts as gone."""
_ANSWERED = (TrialState.COMPLETE, TrialState.PRUNED)
_CLAIM, _AGAIN, _LIFE, _KILLED = "claim", "again", "heartbeat", "killed"


@dataclass
class Claim:
    """A trial that this process runs.

    Attributes:
        place: its folder; that of the killed trial that it repeats.
    """

    trial: Trial
    values: dict[str, Any]
    place: Path


class Study:
    """Trials of one sweep in ``folder``.

    Every decision (create, hand out, end) is made under a lock of the folder, so that two processes neither
    take the same point nor start more trials than were asked for.

    Args:
        sweep: the file.
        folder: of this sweep.
        total: completed trials to make, by all processes together.
        seed: of the search.

    Raises:
        ValueError: when the folder holds the study of another file.
    """

    def __init__(self, sweep: Sweep, folder: Path, total: int, seed: int) -> None:
        self.sweep, self.folder, self.total, self.seed = sweep, folder, total, seed
        self.space = {p.name: p.search() for p in sweep.searched}
        self._running: dict[int, Trial] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            self._study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{folder / 'study.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
                ),
                study_name=sweep.name,
                direction="maximize" if sweep.maximize else "minimize",
                load_if_exists=True,
            )
            mark = sweep.fingerprint()
            if self._study.user_attrs.setdefault("fingerprint", mark) != mark:
                raise ValueError(
                    f"{folder} holds trials of another {sweep.name}: the sweep file, a config of its command "
                    "or the zoo's version has changed since; give another --out, or remove the folder"
                )
            self._study.set_user_attr("fingerprint", mark)
        self._stopped = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials so far."""
        return self._study.get_trials(deepcopy=False)

    def claim(self) -> Claim | None:
        """The next trial to run; None when there is none at the moment."""
        with self._alone():
            self._bury()
            trials = self.trials
            waiting = any(t.state == TrialState.WAITING for t in trials)
            running = sum(t.state == TrialState.RUNNING for t in trials)
            if self._completed(trials) + running >= self.total or self._target_reached(trials):
                return None
            if not waiting:
                killed = next((t for t in trials if _to_repeat(t, trials)), None)
                point = self._next_point(trials) if killed is None and self.sweep.method == "grid" else None
                if killed is not None:
                    self._study.enqueue_trial(killed.params, user_attrs={_AGAIN: killed.number})
                elif point is not None:
                    self._study.enqueue_trial(point)
                elif self.sweep.method == "grid":
                    return None
            self._study.sampler = self._sampler(len(trials))
            trial = self._study.ask(self.space)
            claim = self._place(trial)
            self._running[trial.number] = trial
            return claim

    @property
    def over(self) -> bool:
        """Whether nothing is left to run and nobody runs anything that could still fail."""
        with self._alone():
            self._bury()
            trials = self.trials
        if self._completed(trials) >= self.total or self._target_reached(trials):
            return True
        busy = any(t.state in (TrialState.RUNNING, TrialState.WAITING) for t in trials)
        left = self.sweep.method != "grid" or self._next_point(trials) is not None
        return not (busy or left or any(_to_repeat(t, trials) for t in trials))

    def end(self, claim: Claim, result: Mapping[str, Any]) -> None:
        """Write down how a trial ended.

        Args:
            claim: the trial.
            result: ``value`` and facts, or ``error``.
        """
        value = result.get("value")
        with self._alone():
            self._running.pop(claim.trial.number, None)
            # another process may have taken it over while this machine slept
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
                claim.trial.set_user_attr("result", dict(result))
                if value is None:
                    self._study.tell(claim.trial, state=TrialState.FAIL)
                elif math.isfinite(value):
                    self._study.tell(claim.trial, value)
                else:  # diverged: an answer, and one that the search ranks last
                    self._study.tell(claim.trial, state=TrialState.PRUNED)

    def close(self) -> None:
        """Give back what this process still holds."""
        self._stopped.set()
        for trial in self._running.values():
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr(_LIFE, 0.0)

    def completed(self) -> int:
        """Trials with an answer."""
        return self._completed(self.trials)

    def _completed(self, trials: list[FrozenTrial]) -> int:
        return sum(t.state in _ANSWERED for t in trials)

    def _target_reached(self, trials: list[FrozenTrial]) -> bool:
        values = [t.value for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
        target = self.sweep.target
        if target is None or not values:
            return False
        return max(values) >= target if self.sweep.maximize else min(values) <= target

    def _next_point(self, trials: list[FrozenTrial]) -> dict[str, str] | None:
        """First point of the grid that nobody has taken; one whose asker died at once is free again."""
        taken = [t.params for t in trials if _CLAIM in t.user_attrs]
        return next((point for point in self.sweep.grid() if point not in taken), None)

    def _sampler(self, trials: int) -> optuna.samplers.BaseSampler:
        # a fixed seed would give the same suggestions again after a restart
        seed = int(np.random.SeedSequence([self.seed, trials]).generate_state(1)[0])
        if self.sweep.method == "bayes":
            return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        return optuna.samplers.RandomSampler(seed=seed)

    def _place(self, trial: Trial) -> Claim:
        """Mark a trial as ours. A killed one goes on in its folder, if that is on this machine."""
        name, repeated = f"trial_{trial.number:04d}", trial.user_attrs.get(_AGAIN)
        if repeated is not None:
            before = self.trials[repeated].user_attrs[_CLAIM]
            if before["host"] == platform.node():
                name = path_part(before["folder"], f"{self.folder / 'study.db'}: folder of a trial")
        values = self.sweep.values(trial.params)
        trial.set_user_attr(_LIFE, time.time())
        me = {"host": platform.node(), "pid": os.getpid(), "born": psutil.Process().create_time()}
        trial.set_user_attr(_CLAIM, {**me, "folder": name, "values": values})
        return Claim(trial, values, self.folder / name)

    def _bury(self) -> None:
        """End the running trials whose process is gone. Called under the lock."""
        for t in self.trials:
            if t.state == TrialState.RUNNING and t.number not in self._running and _is_dead(t):
                self._study._storage.set_trial_user_attr(t._trial_id, _KILLED, True)
                self._study.tell(t.number, state=TrialState.FAIL)

    def _live(self) -> None:
        while not self._stopped.wait(HEARTBEAT):
            for trial in list(self._running.values()):
                with contextlib.suppress(Exception):  # finished meanwhile, or a busy database: next time
                    trial.set_user_attr(_LIFE, time.time())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with locked(self.folder / ".lock"):
            yield


def _is_dead(trial: FrozenTrial) -> bool:
    claim = trial.user_attrs.get(_CLAIM)
    life = trial.user_attrs.get(_LIFE, 0.0)
    if claim is None or not life:  # its process died while it took it, or gave it back
        return True
    if claim["host"] != platform.node():
        return time.time() - life > SILENCE
    try:
        process = psutil.Process(claim["pid"])
        same = abs(process.create_time() - claim["born"]) < 60
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _to_repeat(trial: FrozenTrial, trials: list[FrozenTrial]) -> bool:
    """Whether a trial was killed, after it had begun, and nobody has begun it again."""
    killed = trial.user_attrs.get(_KILLED) and _CLAIM in trial.user_attrs
    begun = (t for t in trials if t.state == TrialState.WAITING or _CLAIM in t.user_attrs)
    return bool(killed) and all(t.user_attrs.get(_AGAIN) != trial.number for t in begun)


def was_killed(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its process; it is no result."""
    return bool(trial.user_attrs.get(_KILLED))


def result_of(trial: FrozenTrial) -> dict[str, Any]:
    """What :meth:`Study.end` wrote down, with ``values`` and ``folder``."""
    claim = trial.user_attrs[_CLAIM]
    return {"values": claim["values"], "folder": claim["folder"], **trial.user_attrs.get("result", {})}
