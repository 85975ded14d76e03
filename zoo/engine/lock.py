"""One process trains in a run's folder."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

from zoo.locks import hold
from zoo.reports import say, writing

LOCK = ".lock"
_held: set[int] = set()


class FolderLock:
    """Holds the folder of a run until :meth:`release` or the end of the process, SIGKILL included.

    Args:
        folder: of the run.

    Raises:
        BlockingIOError: when another process trains in it.
        CannotWrite: when the folder is read-only.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        with writing(path):
            self._file: int | None = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        _held.add(self._file)
        try:
            hold(self._file, wait=False)
        except BlockingIOError:
            holder = path.read_text(errors="replace").strip()
            self.release()
            raise BlockingIOError(
                f"{folder} is in use: {holder or 'another process'} trains there; wait for it to end, or "
                "leave out --ckpt_path last for a run of its own"
            ) from None
        except OSError as error:
            say(f"note: {path} cannot be locked ({error.strerror}); resume this run once at a time only")
            return
        with contextlib.suppress(OSError):  # a full disk: the name of the holder is a courtesy
            os.ftruncate(self._file, 0)
            os.write(self._file, f"process {os.getpid()} on {platform.node()}\n".encode())

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            _held.discard(self._file)
            os.close(self._file)
            self._file = None


def _leave_in_child() -> None:
    """A worker shares the lock of the process that forked it, and may outlive that one for seconds."""
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_in_child)
