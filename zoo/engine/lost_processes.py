"""The processes of one run: which of them is gone when the others lose their connection."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from zoo.engine.errors import claim, explain, speaks

_LOST = re.compile(
    r"gloo/transport|Connection (closed|reset|refused)|Socket (closed|timeout)|remote process exited"
)
_GRACE = 3.0
"""Seconds in which the main thread notices by itself. Lightning kills everything, silently, after five."""


class ProcessGone(RuntimeError):
    """Another process of the run has ended."""


class Ranks:
    """Knows the processes that Lightning's launcher started, or the one that started this process.

    Args:
        trainer: of the run.
        started_here: whether a launcher of the run itself started this process.
    """

    def __init__(self, trainer: Trainer, started_here: bool) -> None:
        self._world = trainer.world_size
        self._first = trainer.node_rank * trainer.num_devices
        self._started: Sequence[subprocess.Popen[bytes]] = getattr(trainer.strategy.launcher, "procs", [])
        self._parent = os.getppid() if started_here else None
        self._over = threading.Event()

    def gone(self) -> str | None:
        """``process 1 of 2 is gone (SIGKILL)``, or None as far as can be seen from here."""
        if self._parent is not None and os.getppid() != self._parent:
            return f"process {self._first} of {self._world} is gone"
        for i, process in enumerate(self._started, 1):
            if code := process.poll():
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                return f"process {self._first + i} of {self._world} is gone ({how})"
        return None

    def explain(self, error: BaseException) -> str | None:
        """The process whose end is behind a lost connection; None for another error."""
        lost = isinstance(error, RuntimeError) and _LOST.search(str(error))
        if self._world == 1 or not (lost or isinstance(error, torch.distributed.DistError)):
            return None
        for _ in range(10):  # its connections go before its exit code comes
            if line := self.gone():
                return line
            time.sleep(0.1)
        return f"another of the {self._world} processes is gone" if lost else None

    def watch(self, folder: Path, rank: int, advice: Callable[[], str]) -> None:
        """End this process when another was killed and the main thread waits for it, as NCCL lets it."""

        def look() -> None:
            while not self._killed():
                if self._over.wait(0.5):
                    return
            line = self.gone()
            if self._over.wait(_GRACE):
                return
            error = ProcessGone(f"{line}; {advice()}")
            claim(error, folder, rank)
            if speaks(error):
                print(f"zoo: error: {explain(error)}", file=sys.stderr, flush=True)
            for process in self._started:
                process.kill()
            os._exit(1)

        if self._world > 1:
            threading.Thread(target=look, daemon=True, name="zoo-ranks").start()

    def over(self) -> None:
        """The training has ended: others may go."""
        self._over.set()

    def _killed(self) -> bool:
        """A process that ended by an error of its own says so itself."""
        if self._parent is not None and os.getppid() != self._parent:
            return True
        return any((process.poll() or 0) < 0 for process in self._started)
