"""Runs of the command line in processes of their own that do not outlive the one that started them.

Importing torch and Lightning takes longer than many a small run. Where a process may be forked, the imports
are made once, in a server process that runs nothing itself, and each run is a fork of it.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

_STOP_WITH_PARENT = "ZOO_STOP_WITH_PARENT"
_ROOT = Path(__file__).resolve().parents[2]
_IMPORTS = ["zoo.engine.runner", "torch_geometric.nn"]
# A GPU's driver does not survive a fork; there, runs are long and their start does not matter.
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


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


class _Child(Protocol):
    def terminate(self) -> None: ...


_children: set[_Child] = set()
_lock = threading.Lock()

Launch = Callable[[Sequence[str], Path, int], None]
"""``launch(arguments, log, threads)`` runs the command line, or raises RunFailed with its last line."""


def threads_per_run(jobs: int) -> int:
    """CPU threads of one of ``jobs`` runs: ``OMP_NUM_THREADS`` where it is set, else a fair share."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) else max(1, (os.cpu_count() or 1) // jobs)


def run_command(arguments: Sequence[str], log: Path, threads: int) -> None:
    """Run ``zoo *arguments`` with ``threads`` CPU threads, its output appended to ``log``.

    The run holds the read end of a pipe whose write end is ours: however this process ends, SIGKILL included,
    the pipe closes and the run leaves.

    Raises:
        RunFailed: when it fails, with the last line of its output.
    """
    code = (_forked if can_fork() else _spawned)(arguments, log, threads)
    if code:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise RunFailed(code, last[0], log)


def can_fork() -> bool:
    """Whether runs are forks of a server that has made the imports: Linux without a GPU."""
    return sys.platform == "linux" and not any(Path(driver).exists() for driver in _DRIVERS)


def _spawned(arguments: Sequence[str], log: Path, threads: int) -> int:
    command = [sys.executable, str(_ROOT / "cli.py"), *arguments]
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
    return code


def _forked(arguments: Sequence[str], log: Path, threads: int) -> int:
    context: Any = multiprocessing.get_context("forkserver")
    ours, theirs = multiprocessing.Pipe()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with _lock:
        _start_server(context, threads)
        process: BaseProcess = context.Process(
            target=_run, args=(list(arguments), str(log), threads, environment, os.getcwd(), theirs)
        )
        process.start()
        theirs.close()
        _children.add(process)
    wait([process.sentinel])
    with _lock:  # a start looks at the other children, and two readers of one exit code would clash
        process.join()
        _children.discard(process)
    ours.close()
    code = process.exitcode
    return 1 if code is None else code


def _start_server(context: Any, threads: int) -> None:
    """OpenMP's variables are read when torch is loaded, hence in the server. One server for the process."""
    from multiprocessing import forkserver

    ours = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    ours["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    before = {key: os.environ.get(key) for key in ours}
    context.set_forkserver_preload(_IMPORTS)
    os.environ.update(ours)
    try:
        forkserver.ensure_running()
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _run(
    arguments: list[str],
    log: str,
    threads: int,
    environment: Mapping[str, str],
    folder: str,
    parent: Connection,
) -> None:
    """A run, in the fork: as the command line would start in a process of its own."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(_ROOT / "cli.py"), *arguments]  # what Lightning starts again for DDP

    def leave_with_parent() -> None:
        try:
            parent.recv()
        except EOFError:
            os._exit(130)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    import torch

    if torch.get_num_threads() != threads:  # the server was started for another number
        torch.set_num_threads(threads)
    runpy.run_path(sys.argv[0], run_name="__main__")


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
