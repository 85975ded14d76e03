"""Files of data sets: what they may claim, one line on what is damaged, no half-written file."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.limits import LIFT, lifted

Array = np.ndarray[Any, Any]
READ_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, NotImplementedError)
"""What reading a damaged npy or npz file may raise."""
_LIMIT, _SMALL, _RATIO = 4 * 2**30, 64 * 2**20, 100  # bytes, bytes, bytes claimed for one stored


def one_line(error: object, length: int = 120) -> str:
    """The text of an error in one line of at most so many characters; its type where it has no text."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def check_claim(path: Path, what: str, claimed: int, stored: int | None = None) -> None:
    """Refuse what a file claims to hold before memory is taken for it.

    Args:
        path: of the file.
        what: claims so much: the name of an array with its shape.
        claimed: bytes that it takes in memory.
        stored: bytes of the file that stand for them, where they are compressed. Beyond 64 MiB more than 100
            times as many are refused.

    Raises:
        ValueError: naming the file, both sizes and ``ZOO_LIMITS=off``, which lifts both limits.
    """
    reason = ""
    if lifted():
        return
    if claimed > _LIMIT:
        reason = f"more than the {_LIMIT:,} that are read"
    elif stored is not None and claimed > max(_SMALL, _RATIO * stored):
        reason = f"and has {stored:,} for them"
    if reason:
        raise ValueError(
            f"{path}: {what} claims {claimed:,} bytes, {reason}; if the file is meant to, lift the "
            f"limit with {LIFT}=off in the environment, else take it anew from its source"
        )


@contextlib.contextmanager
def memory_named(path: Path, what: str) -> Iterator[None]:
    """One line with the file's name where the memory is too small for what is read within."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error):
            raise
        raise ValueError(f"{path}: {what} claims more memory than there is") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file: no NaN, which JSON does not have, and no nesting without end.

    Raises:
        OSError: for a file that cannot be read.
        ValueError: for what is no JSON, in few words, without the file's name.
    """
    check_claim(path, "the file", path.stat().st_size)
    return json_of(path.read_bytes())


def json_of(content: bytes) -> Any:
    """:func:`read_json` of what was read already."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(content, parse_constant=refuse)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` at the end: nobody finds half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
