"""Files of data sets: arrays read without unpickling, one line on what is damaged, no half-written file."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
READ_ERRORS = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, NotImplementedError)
"""What reading a damaged npy or npz file may raise."""


def one_line(error: object, length: int = 120) -> str:
    """The text of an error in one line of at most so many characters; its type where it has no text."""
    return " ".join(str(error).split())[:length] or type(error).__name__


def read_npz(path: Path, *keys: str) -> dict[str, Array]:
    """These arrays of an npz file; without keys all of them.

    Raises:
        ValueError: for a damaged file, or one without one of the arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            lacking = [key for key in keys if key not in file]
            if lacking:
                raise ValueError(f"no array {lacking[0]!r} in it")
            return {key: file[key] for key in keys or file.files}
    except READ_ERRORS as error:
        needed = f"; it needs the arrays {', '.join(keys)}" if keys else ""
        raise ValueError(f"{path} is damaged or has another layout ({one_line(error)}){needed}") from None


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, type) of an open npy file, which then stands at its data.

    Raises:
        ValueError: for another version of the format or a damaged header.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy format {version[0]}.{version[1]}")
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = readers[version](file)
    return found


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
