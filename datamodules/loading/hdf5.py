"""HDF5 files of others, bounded: what they declare is compared with what they hold before anything is read.

Arrays are plain numbers that lie in the file itself: links to other files, virtual and external arrays,
strings and objects are refused. A deflated byte stands for 1,032 at most, so that a file of a megabyte cannot
ask for a terabyte; a chunk, which HDF5 decompresses as a whole, has a limit of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.files import one_line, written_whole
from datamodules.loading.limits import LIFT, limit

Array = np.ndarray[Any, Any]
CHUNK_LIMIT = 512 * 2**20
"""Bytes of the largest chunk that is read; ``ZOO_LIMITS=off`` lifts it."""
SLAB_LIMIT = 2**30
"""Bytes that :func:`slabs` holds at once."""
_DEFLATE, _SHUFFLE, _FLETCHER, _LZF = 1, 2, 3, 32000  # numbers of HDF5 filters
_RATIO = {_DEFLATE: 1032, _LZF: 132}  # no stream of theirs grows by more
_SMALL = 2**20  # arrays up to this size may be all fill value
_ERRORS = (
    OSError,
    KeyError,
    ValueError,
    RuntimeError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    NotImplementedError,
    MemoryError,
)


@contextlib.contextmanager
def read_errors(path: Path, what: str = "", how: str = "", advice: str = "") -> Iterator[None]:
    """One line with the file's name for whatever h5py raises on a damaged file within."""
    try:
        yield
    except PermissionError:
        raise PermissionError(f"{path} cannot be opened: no right to read it") from None
    except _ERRORS as error:
        if isinstance(error, ValueError) and str(path) in str(error):  # of ours already
            raise
        what = f"{what} " if what else ""
        raise ValueError(f"{path}: {what}cannot be read{how} ({one_line(error)}){advice}") from None


def open_hdf5(path: Path) -> Any:
    """An HDF5 file opened to read, an ``h5py.File``.

    Raises:
        FileNotFoundError, PermissionError, ValueError: one line on a file that cannot be read.
    """
    import h5py

    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    advice = "; it is broken or was not fetched whole: fetch it again"
    with read_errors(path, how=" as HDF5", advice=advice):
        return h5py.File(path, "r")


def _linked(file: Any, key: str) -> Any:
    """The object at ``key``, each part of whose path lies in this file."""
    import h5py

    found = file
    for part in key.strip("/").split("/"):
        if not isinstance(found, h5py.Group) or found.get(part, getlink=True) is None:
            raise ValueError(f"it has no {key} but {', '.join(sorted(file)[:12]) or 'nothing'}")
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise ValueError(f"{key} is a link to elsewhere, which is not followed; copy the array into it")
        found = found[part]
    return found


def dataset(
    file: Any, path: Path, key: str, axes: Sequence[int | range | None] | None = None, kinds: str = "biuf"
) -> Any:
    """The array at ``key`` of an open file, judged by its header alone, an ``h5py.Dataset``.

    Args:
        file: of :func:`open_hdf5`.
        path: of the file, for the words.
        key: of the array; parts of a path between slashes.
        axes: what each axis must be: a size, a range of sizes, or None for any; None is any array.
        kinds: of numbers, NumPy's letters.

    Raises:
        ValueError: one line on an array that is missing, of another shape or type, that does not lie in this
            file, or claims more than the file can hold.
    """
    import h5py

    with read_errors(path, key):
        found = _linked(file, key)
        if not isinstance(found, h5py.Dataset):
            raise ValueError(f"{path}: {key} is a folder, not an array")
        if found.dtype.kind not in kinds or found.dtype.hasobject or found.dtype.subdtype:
            raise ValueError(f"{path}: {key} holds {found.dtype}, expected numbers of kind {kinds}")
        if axes is not None:
            _check_axes(path, key, found.shape, axes)
        _check_claims(found, path, key)
        return found


def _check_axes(path: Path, key: str, shape: Any, axes: Sequence[int | range | None]) -> None:
    def fits(size: int, axis: int | range | None) -> bool:
        return axis is None or (size in axis if isinstance(axis, range) else size == axis)

    if shape is None or len(shape) != len(axes) or not all(map(fits, shape, axes)):
        words = (
            "any" if a is None else f"{a.start} to {a.stop - 1}" if isinstance(a, range) else str(a)
            for a in axes
        )
        raise ValueError(f"{path}: {key} is {shape}, expected ({', '.join(words)})")


def _check_claims(found: Any, path: Path, key: str) -> None:
    """Refuse what lies elsewhere, and more bytes than the file can stand for."""
    if found.shape is None or found.is_virtual or found.external:
        raise ValueError(f"{path}: {key} does not hold its numbers itself; copy the array into the file")
    properties = found.id.get_create_plist()
    filters = [properties.get_filter(n)[0] for n in range(properties.get_nfilters())]
    unknown = set(filters) - {_SHUFFLE, _FLETCHER, *_RATIO}
    packed = [_RATIO[f] for f in filters if f in _RATIO]
    if unknown or len(packed) > 1:
        raise ValueError(
            f"{path}: {key} is compressed by filters {filters}, read is one of gzip and lzf; write it anew"
        )
    claimed = int(np.prod(found.shape, dtype=object)) * found.dtype.itemsize
    held = min(found.id.get_storage_size(), path.stat().st_size)
    if claimed > max(_SMALL, held * (packed[0] if packed else 1)):
        raise ValueError(
            f"{path} claims {claimed:,} bytes of {key} {tuple(found.shape)}, of which it can hold at most "
            f"{held * (packed[0] if packed else 1):,}; it is broken or was not fetched whole"
        )
    if (size := chunk_bytes(found)) > (most := limit(CHUNK_LIMIT)):
        raise ValueError(
            f"{path}: {key} lies in chunks of {size:,} bytes, which are read as a whole, the limit is "
            f"{most:,}; write it anew with smaller chunks, or lift the limit with {LIFT}=off in the "
            "environment"
        )


def chunk_bytes(found: Any) -> int:
    """Of a chunk of a dataset, 0 where it has none."""
    return int(np.prod(found.chunks, dtype=object)) * int(found.dtype.itemsize) if found.chunks else 0


def bytes_per_row(found: Any) -> int:
    """How many bytes HDF5 decompresses for one row (0 of a dataset that is not chunked)."""
    if not found.chunks:
        return 0
    touched = [-(-size // chunk) for size, chunk in zip(found.shape[1:], found.chunks[1:], strict=True)]
    return int(np.prod(touched, dtype=object)) * chunk_bytes(found)


def slabs(found: Any, path: Path, key: str, stop: int | None = None) -> Iterator[tuple[int, Array]]:
    """All rows in order, (first row, rows), so that each chunk is decompressed once.

    The rows lie in one buffer, which the next ones overwrite.

    Args:
        found: of :func:`dataset`.
        path: of its file, for the words.
        key: of the dataset, for the words.
        stop: behind the last row that is wanted; None is all.
    """
    stop = len(found) if stop is None else min(stop, len(found))
    row = max(1, int(np.prod(found.shape[1:], dtype=object)) * found.dtype.itemsize)
    most, deep = max(1, SLAB_LIMIT // row), found.chunks[0] if found.chunks else 1
    step = most // deep * deep or most
    buffer = np.empty((min(step, stop), *found.shape[1:]), found.dtype)
    for start in range(0, stop, step):
        count = min(step, stop - start)
        with read_errors(path, f"{key} of rows {start} to {start + count - 1}"):
            found.read_direct(buffer, np.s_[start : start + count], np.s_[:count])
        yield start, buffer[:count]


class _Sink:
    """A file for HDF5 to write to, which never fails it: HDF5 crashes the process when a last write fails.

    The first error is kept, and nothing is written after it.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self.error: OSError | None = None

    def _unless_failed(self, work: Callable[[], Any]) -> None:
        if self.error is None:
            try:
                work()
            except OSError as error:
                self.error = error

    def write(self, content: Any) -> int:
        def all_of_it() -> None:
            left = memoryview(content)
            while len(left):  # a disk that is nearly full takes a part
                left = left[self.file.write(left) :]

        self._unless_failed(all_of_it)
        return len(content)

    def truncate(self, size: int) -> int:
        self._unless_failed(lambda: self.file.truncate(size))
        return size

    def flush(self) -> None:
        self._unless_failed(self.file.flush)

    def read(self, count: int = -1) -> bytes:
        found: bytes = self.file.read(count)
        return found

    def readinto(self, buffer: Any) -> int:
        count: int = self.file.readinto(buffer)
        return count

    def seek(self, place: int, whence: int = 0) -> int:
        if self.error is not None:
            return place
        found: int = self.file.seek(place, whence)
        return found

    def tell(self) -> int:
        found: int = self.file.tell()
        return found


@contextlib.contextmanager
def written_hdf5(path: Path) -> Iterator[tuple[Any, Callable[[], None]]]:
    """An ``h5py.File`` to write, in place only when whole, and a check to call now and then.

    Raises:
        OSError: at the check or the end, when something could not be written; the file's name is in it.
    """
    import h5py

    with written_whole(path) as temporary, temporary.open("w+b", buffering=0) as raw:
        sink = _Sink(raw)

        def check() -> None:
            if sink.error is not None:
                reason = sink.error.strerror or one_line(sink.error)
                raise OSError(sink.error.errno, f"{reason} while {path} was written")

        with h5py.File(sink, "w") as file:
            yield file, check
        check()
