"""The folder that ``checkpoint.dirpath`` names: of one training, and never over files of another.

A note in it says whose it is, and one in the run's folder where it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from zoo.engine.lock import LOCK, FolderLock
from zoo.reports import replace_file, writing

PLACE = ".checkpoints_in"
"""File in a run's folder: where its checkpoints are, if elsewhere."""
_OWNER = ".checkpoints_of"
_LOCK = ".checkpoints.lock"
_OURS = re.compile(r"\.?(best|step=\d+)\.ckpt(\..+)?")


def owner(folder: Path) -> Path | None:
    """The run's folder whose checkpoints are kept in ``folder``; None where no run has noted it."""
    noted = _text(folder / _OWNER)
    if noted is None and folder.name == "checkpoints" and (folder.parent / LOCK).exists():
        return folder.resolve().parent
    return None if noted is None else Path(noted)


def checkpoints_of(run: Path) -> Path:
    """Where the checkpoints of a run are: in its folder, or where it has noted, if that is still its own."""
    elsewhere = _text(run / PLACE)
    if elsewhere is not None and owner(Path(elsewhere)) == run.resolve():
        return Path(elsewhere)
    return run / "checkpoints"


def hold(folder: Path) -> FolderLock:
    """Keep other trainings out of ``folder`` until the lock is released.

    Raises:
        BlockingIOError: when another one writes there.
    """
    return FolderLock(folder, _LOCK, "choose another checkpoint.dirpath")


def claim(folder: Path, run: Path, goes_on: Path | None) -> FolderLock:
    """Make ``folder`` that of a run's checkpoints, and hold it.

    Files besides checkpoints are left alone. Checkpoints there must be the run's own, or those of the
    training that it goes on with.

    Args:
        folder: made where it is missing.
        run: the run's folder.
        goes_on: checkpoint that ``--ckpt_path last`` or ``best`` found, or None.

    Raises:
        ValueError: for checkpoints of another training, or files that have their names.
        BlockingIOError: when another process writes there.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder)
    try:
        before = owner(folder)
        in_it = goes_on is not None and goes_on.resolve().parent == folder.resolve()
        if before != run.resolve() and not in_it:
            _refuse_others(folder, before)
        replace_file(folder / _OWNER, f"{run.resolve()}\n")
        replace_file(run / PLACE, f"{folder.resolve()}\n")
    except BaseException:
        lock.release()
        raise
    return lock


def _refuse_others(folder: Path, before: Path | None) -> None:
    if before is not None and folder.resolve() == before / "checkpoints":
        raise ValueError(f"checkpoint.dirpath {folder} is that of another run; choose another folder")
    found = sorted(p.name for p in folder.iterdir() if _OURS.fullmatch(p.name))
    if not found:
        return
    whose = "that this run did not write" if before is None else f"of {before}"
    or_else = "if they are of this training, go on with it" if before is None else "go on with that training"
    raise ValueError(
        f"checkpoint.dirpath {folder} holds {found[0]}{f' and {len(found) - 1} more' if found[1:] else ''} "
        f"{whose}; choose another folder, or {or_else}: --ckpt_path last"
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None
