"""SIGTERM and Ctrl-C while training: the checkpoint of the step is written before the run ends."""

from __future__ import annotations

import os
import signal
import threading
import weakref
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer


class Stopped(SystemExit):
    """Raised behind the checkpoint that a signal asked for; the exit code is the signal's, 130 or 143.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


class StopSignals:
    """Remembers a signal until the training can stop. A second Ctrl-C ends the run at once.

    Attributes:
        number: of the signal that came, 0 without one.
    """

    def __init__(self) -> None:
        self.number = 0
        self._speaks = False
        self._active = False
        self._before: dict[int, Any] = {}

    def catch(self, trainer: Trainer) -> None:
        """From now on signals wait. Called again when Lightning has put handlers of its own in place.

        Under SLURM that starts runs again, SIGTERM stays what Lightning makes of it.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        cluster = trainer._accelerator_connector.cluster_environment
        requeued = isinstance(cluster, SLURMEnvironment) and cluster.auto_requeue
        self._speaks, self._active = trainer.is_global_zero, True
        _catching.add(self)
        for number in (signal.SIGINT,) if requeued else (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) == signal.SIG_IGN:  # nohup, or the background of a script
                continue
            before = signal.signal(number, self._remember)
            self._before.setdefault(number, before or signal.SIG_DFL)

    def release(self) -> None:
        """Signals end the process again, as before."""
        self._active = False
        _catching.discard(self)
        for number, before in self._before.items():
            if signal.getsignal(number) == self._remember:
                signal.signal(number, before)

    def asked(self, trainer: Trainer) -> bool:
        """Whether the run is to stop, on all processes alike: a signal may come to one alone. Collective."""
        if trainer.world_size == 1:
            return self.number != 0
        return bool(trainer.strategy.reduce_boolean_decision(self.number != 0, all=False))

    def _remember(self, number: int, frame: FrameType | None) -> None:
        # Lightning puts this handler back after the training, when it is no longer wanted
        if not self._active or (number == signal.SIGINT and self.number == signal.SIGINT):
            before = self._before[number]
            signal.signal(number, before)
            if callable(before):
                before(number, frame)
            else:
                os.kill(os.getpid(), number)
            return
        self.number = number
        if self._speaks:
            again = "; Ctrl-C again ends it at once" if number == signal.SIGINT else ""
            name = signal.Signals(number).name
            line = f"zoo: {name}: this step's checkpoint is written, then the run ends{again}\n"
            os.write(1, line.encode())  # print is not to be entered twice


_catching: weakref.WeakSet[StopSignals] = weakref.WeakSet()


def _ignore_in_child() -> None:
    """Ctrl-C reaches data workers too; the step that is to be finished needs them."""
    if _catching:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ignore_in_child)
