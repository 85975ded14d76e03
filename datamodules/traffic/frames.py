"""pandas frames in HDF5 files, read as the plain arrays that they are.

``pandas.read_hdf`` goes through PyTables, which unpickles attributes: a file of speeds could run code. A
frame in pandas' fixed format is a group with ``axis0`` (columns), ``axis1`` (index) and, per type of number,
``block<i>_items`` (its columns) and ``block<i>_values`` (T, columns).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.files import Array
from datamodules.loading.hdf5 import dataset, open_hdf5, read_errors

_UNREAD = ("freq", "name", "TITLE")  # pickled or empty in every frame, and of no use to us
_BLOCKS = 64


def read_frame(path: Path) -> tuple[Array, list[str], Array]:
    """(values (T, N), names of the columns, times (T,) datetime64) of the only frame of a file.

    Raises:
        FileNotFoundError, ValueError: for another file, a frame of other things than numbers or in another
            format, or one with a pickled attribute.
    """
    with open_hdf5(path) as file, read_errors(path, "its frame"):
        key = _frame(file, path)
        group = file[key]
        names = [_name(path, n) for n in _read(file, path, f"{key}/axis0", "iuS").tolist()]
        times = _times(file, path, f"{key}/axis1")
        place = {name: i for i, name in enumerate(names)}
        if len(place) != len(names):
            raise ValueError(f"{path}: its columns have the same name twice")
        count = int(_attribute(group, path, "nblocks", 0))
        if not 1 <= count <= _BLOCKS:
            raise ValueError(f"{path}: its frame has {count} blocks of columns, 1 to {_BLOCKS} are read")
        values: Array | None = None
        left = set(names)
        for block in range(count):
            items = [_name(path, n) for n in _read(file, path, f"{key}/block{block}_items", "iuS").tolist()]
            found = _read(file, path, f"{key}/block{block}_values", "iuf", (len(times), len(items)))
            if not set(items) <= left:
                raise ValueError(f"{path}: block{block}_items names columns that axis0 does not have")
            left -= set(items)
            if values is None:
                values = np.empty((len(times), len(names)), np.float64)
            values[:, [place[name] for name in items]] = found
        if left or values is None:
            raise ValueError(f"{path}: {len(left)} of {len(names)} columns have no numbers")
        return values, names, times


def _frame(file: Any, path: Path) -> str:
    """The key of the only frame."""
    import h5py

    found = []
    for key in file:
        if isinstance(file.get(key, getlink=True), h5py.HardLink) and isinstance(file[key], h5py.Group):
            kind = _attribute(file[key], path, "pandas_type", "")
            if kind == "frame_table":
                raise ValueError(
                    f"{path}: {key} is a table of pandas, only its fixed format is read: write it anew by "
                    "frame.to_hdf(..., format='fixed')"
                )
            found += [key] * (kind == "frame")
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} frames of pandas at its top, needed is one")
    return str(found[0])


def _attribute(node: Any, path: Path, name: str, default: Any) -> Any:
    """An attribute, after a look at all of them: text that is a pickle is refused, whatever it is for."""
    for key in node.attrs:
        if key in _UNREAD:
            continue
        value = node.attrs[key]
        if isinstance(value, bytes | np.bytes_) and value.endswith(b".") and value not in (b"N.", b"."):
            raise ValueError(
                f"{path}: attribute {key!r} of {node.name} is pickled, which may run code; it was not read: "
                "write the frame anew, or put its npz or csv twin beside it"
            )
    value = node.attrs.get(name, default)
    if isinstance(value, bytes | np.bytes_):
        return value.decode("utf-8")
    if not isinstance(value, str | int | np.integer):
        raise ValueError(f"{path}: attribute {name!r} of {node.name} is neither text nor a number")
    return value


def _read(file: Any, path: Path, key: str, kinds: str, shape: tuple[int, int] | None = None) -> Array:
    node = dataset(file, path, key, (None,) if shape is None else shape, kinds=kinds)
    _attribute(node, path, "kind", "")
    if node.id.get_create_plist().get_nfilters() and node.size * node.dtype.itemsize > 2**31:
        raise ValueError(f"{path}: {key} is larger than 2 GiB and compressed")
    return np.asarray(node[()])


def _name(path: Path, value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _times(file: Any, path: Path, key: str) -> Array:
    """The index, whole numbers since 1970 in the unit that its kind names; nanoseconds without."""
    ticks = _read(file, path, key, "i")
    node = file[key]
    kind = str(_attribute(node, path, "kind", ""))
    match = re.fullmatch(r"datetime64(?:\[(s|ms|us|ns)\])?", kind)
    if match is None or str(_attribute(node, path, "tz", "N.")) != "N.":
        raise ValueError(
            f"{path}: the index of its frame must be times without a time zone, it is of kind {kind[:40]!r}"
        )
    times = ticks.astype(np.int64).view(f"datetime64[{match[1] or 'ns'}]")
    if not len(times) or np.isnat(times).any():
        raise ValueError(f"{path}: its frame has no rows, or rows without a time")
    return times
