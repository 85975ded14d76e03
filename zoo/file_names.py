"""Names that come out of files and become paths, and folders that nobody but the zoo may remove.

An arm, a sweep, a picture or a clip is called what its author likes. A path is made of such a name only
after one of these functions has had it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

MARKER = ".made_by_zoo"
"""File in a folder that the zoo has made and may remove."""
_LONGEST = 200  # bytes; a file system takes 255, and suffixes are still to come


def path_part(name: object, where: str) -> str:
    """``name`` if it is one harmless part of a path.

    Args:
        name: as read.
        where: file and key that it comes from, for the error.

    Raises:
        ValueError: for a separator, a hidden name, ``.`` or ``..``, control characters, too long a name.
    """
    text = str(name)
    harmless = re.fullmatch(r"[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*", text) and text == text.strip()
    if not harmless or len(text.encode(errors="replace")) > _LONGEST or not _is_unicode(text):
        shown = text if len(text) <= 60 else text[:57] + "..."
        raise ValueError(
            f"{where}: {shown!r} becomes the name of a folder or file: it must have no slash, backslash or "
            f"control character, not begin with a dot, and be 1 to {_LONGEST} bytes long"
        )
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def new_file(folder: Path, name: str) -> Path:
    """Path of a file to be made in ``folder``; a ``/`` in ``name`` makes a folder.

    Raises:
        ValueError: for a name that leaves ``folder``, or one that is taken already.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file in {folder}: it would be written elsewhere")
    path = folder.joinpath(*parts)
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} is there already: two inputs have the same name; rename one of them")
    return path


def make_own(folder: Path) -> None:
    """Make a folder that :func:`remove_own` may remove; one that is ours already, or empty, will do.

    Raises:
        ValueError: for a folder that holds what the zoo has not made.
    """
    if folder.is_dir() and not is_own(folder) and any(folder.iterdir()):
        raise ValueError(
            f"{folder} holds files that the zoo has not made; move them, or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()


def claim_outputs(folder: Path, names: Sequence[str], evidence: Sequence[str], what: str) -> None:
    """Make sure that files of these names in ``folder`` are written by us alone, now and when it goes on.

    Args:
        folder: made, if it is not there.
        names: files that are going to be written, or written anew.
        evidence: of these, one shows that a ``what`` wrote the others; the first is made here.
        what: writes them, for the error.

    Raises:
        ValueError: for a file of such a name where nothing of the evidence is.
    """
    if not any((folder / name).exists() for name in evidence):
        for name in names:
            if (folder / name).exists() or (folder / name).is_symlink():
                raise ValueError(f"{folder / name}: no {what} has made it; move it, or give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / evidence[0]).touch()


def is_own(folder: Path) -> bool:
    """Whether the zoo has made ``folder``."""
    return (folder / MARKER).is_file() and not folder.is_symlink()


def remove_own(folder: Path) -> None:
    """Remove a folder that :func:`make_own` has made, with all that is in it; none is no error.

    Raises:
        ValueError: for any other folder.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not is_own(folder):
        raise ValueError(
            f"{folder} is not removed: the zoo has not made it; move it, or choose another folder"
        )
    shutil.rmtree(folder)
