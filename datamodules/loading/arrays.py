"""npy and npz files of others: never unpickled, nothing allocated that the file cannot fill.

Every ``.npy`` and ``.npz`` of a data set passes here. The sizes that headers declare are compared with the
size of the file and with the limit of :func:`datamodules.loading.files.check_claim` first, those of
compressed members too; a member's checksum is verified.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from datamodules.loading.files import READ_ERRORS, Array, check_claim, memory_named, one_line

_KINDS = "biufcSU"  # no objects, records, times
_CHUNK = 2**20


def npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, type) of an open npy file, which then stands at its data.

    Raises:
        ValueError: for another version of the format, a damaged header, or a type that is no plain number or
            text.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"npy format {version[0]}.{version[1]}")
    try:
        shape, fortran, dtype = readers[version](file)
    except ValueError:
        raise
    except Exception as error:  # the header is a Python literal, whose parser raises whatever it likes
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from None
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are never loaded")
    if dtype.kind not in _KINDS or dtype.subdtype is not None or not dtype.itemsize:
        raise ValueError(f"it holds {dtype}, neither numbers nor text")
    if any(isinstance(n, bool) or n < 0 for n in shape):
        raise ValueError(f"its header says shape {shape}")
    return shape, fortran, dtype


def array_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of an array, without the overflow of fixed-size integers."""
    return math.prod(shape) * dtype.itemsize


@contextlib.contextmanager
def _one_line(path: Path, layout: str = "") -> Iterator[None]:
    try:
        with memory_named(path, "an array"):
            yield
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except READ_ERRORS as error:
        if str(error).startswith(f"{path}:"):
            raise
        raise ValueError(f"{path} is damaged or has another layout ({one_line(error)}){layout}") from None


def read_npy(path: Path, mmap: bool = False) -> Array:
    """The array of an npy file whose size is what its header says.

    Args:
        path: of the file.
        mmap: map it, read-only, instead of reading it: any size is admitted then.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, damaged or too large.
    """
    with _one_line(path):
        return plain_npy(path, mmap)


def plain_npy(path: Path, mmap: bool = False) -> Array:
    """:func:`read_npy` without the file's name in what it raises, for readers that say more of it.

    Raises:
        ValueError: in few words, as those of ``READ_ERRORS``.
    """
    with path.open("rb") as file:
        shape, fortran, dtype = npy_header(file)
        start, size = file.tell(), array_bytes(shape, dtype)
        found = path.stat().st_size
        if found != start + size:
            raise ValueError(f"expected {start + size:,} bytes, found {found:,}")
        order: Any = "F" if fortran else "C"
        if mmap and size:
            return np.memmap(path, dtype, "r", start, shape, order)
        check_claim(path, f"{dtype} {shape}", size)
        return _filled(file, shape, order, dtype)


def read_npz(path: Path, *keys: str) -> dict[str, Array]:
    """These arrays of an npz file; without keys all of them.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged or too large, or without one of the
            arrays.
    """
    needed = f"; it needs the arrays {', '.join(keys)}" if keys else ""
    with _one_line(path, needed), zipfile.ZipFile(path) as archive:
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        lacking = [key for key in keys if key not in members]
        if lacking:
            raise ValueError(f"no array {lacking[0]!r} in it")
        found, claimed = {}, 0
        for key in keys or members:
            info = members[key]
            with archive.open(info) as member:
                shape, fortran, dtype = npy_header(member)
                size, head = array_bytes(shape, dtype), member.tell()
                if info.file_size != head + size:
                    raise ValueError(f"{key} has {info.file_size - head:,} bytes for {dtype} {shape}")
                stored = None if info.compress_type == zipfile.ZIP_STORED else info.compress_size
                if stored is None and info.compress_size != info.file_size:
                    raise ValueError(f"{key} has two sizes")
                claimed += size
                check_claim(path, f"{key} {dtype} {shape}", size, stored)
                check_claim(path, f"all up to {key}", claimed)
                found[key] = _filled(member, shape, "F" if fortran else "C", dtype)
                if member.read(1):  # at its end the checksum is compared
                    raise ValueError(f"{key} goes on behind its end")
    return found


def _filled(file: IO[bytes], shape: tuple[int, ...], order: Any, dtype: np.dtype[Any]) -> Array:
    """An array read piece by piece, so that memory grows with what really comes."""
    array = np.empty(math.prod(shape), dtype)
    if array.nbytes:
        raw = array.view(np.uint8)
        for start in range(0, len(raw), _CHUNK):
            piece = file.read(min(_CHUNK, len(raw) - start))
            if len(piece) != min(_CHUNK, len(raw) - start):
                raise ValueError("it ends too early")
            raw[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        if dtype.kind == "b" and bool((raw > 1).any()):
            raise ValueError("truth values other than 0 and 1")
        if dtype.kind == "U" and bool(
            (raw.view(np.dtype("u4").newbyteorder(dtype.byteorder)) > 0x10FFFF).any()
        ):
            raise ValueError("text of characters that there are not")
    return array.reshape(shape, order=order)
