"""Files and folders that several processes write: one at a time, and each file whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def hold(file: int, wait: bool = True) -> None:
    """Lock an open file until it is closed; all that the zoo locks is locked by this. Nothing on Windows.

    Args:
        file: its descriptor.
        wait: for another process or thread that holds it.

    Raises:
        BlockingIOError: when another one holds it and ``wait`` is false.
        OSError: on a file system without locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise BlockingIOError(errno.EWOULDBLOCK, "another process holds it") from None


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``, which is taken away afterwards; a killed process holds nothing.

    Args:
        path: of the lock, in a folder that all see.
        wait: for another process or thread that holds it.

    Raises:
        BlockingIOError: when another one holds it and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":  # where an open file cannot be taken away
        yield
        return
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            hold(file, wait)
        except BaseException:
            os.close(file)
            raise
        if _is(file, path):
            break
        os.close(file)  # its last holder took the file away while we waited for it
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _is(file: int, path: Path) -> bool:
    """Whether an open file is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Alone with a file from reading it to replacing it."""
    with locked(path.with_name(f".{path.name}.lock")):
        yield


def write_json(path: Path, content: Any, **options: Any) -> None:
    """Replace a file at once; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1, **options) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
