"""Runs of the command line as subprocesses that do not outlive the process that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

_STOP_WITH_PARENT = "ZOO_STOP_WITH_PARENT"


class RunFailed(RuntimeError):
    """A run that ended with an exit code.

    Args:
        code: exit code, negative for a signal.
        last: last line of its output.
        log: the whole output.
    """

    def __init__(self, code: int, last: str, log: Path) -> None:
        super().__init__(f"a run failed with exit code {code}: {last} (log {log})")
        self.code, self.last = code, last


_children: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()

Launch = Callable[[Sequence[str], Path, int], None]
"""``launch(arguments, log, threads)`` runs the command line, or raises RunFailed with its last line."""


def threads_per_run(jobs: int) -> int:
    """CPU threads of each of ``jobs`` runs at a time: ``OMP_NUM_THREADS`` where it is set, else a share."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else max(1, (os.cpu_count() or 1) // jobs)


def run_command(arguments: Sequence[str], log: Path, threads: int) -> None:
    """Run ``zoo *arguments`` with ``threads`` CPU threads, its output appended to ``log``.

    The child holds the read end of a pipe whose write end is ours: however this process ends, SIGKILL
    included, the pipe closes and the child leaves (:func:`stop_with_parent`).

    Raises:
        RunFailed: when it fails, with the last line of its output.
    """
    command = [sys.executable, str(Path(__file__).resolve().parent.parent / "cli.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), _STOP_WITH_PARENT: "1"}
    with log.open("ab") as file, _lock:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        _children.add(process)
    code = process.wait()
    with _lock:
        _children.discard(process)
    if process.stdin is not None:
        process.stdin.close()
    if code:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise RunFailed(code, last[0], log)


def stop_children() -> None:
    """Ask every running child to leave."""
    with _lock:
        for child in _children:
            child.terminate()


def stop_with_parent() -> None:
    """Called by a child: end this process when the one that started it is gone."""
    if os.environ.pop(_STOP_WITH_PARENT, None) is None:
        return

    def wait() -> None:
        os.read(0, 1)  # returns only when the other end is closed
        os._exit(130)

    threading.Thread(target=wait, daemon=True).start()
