"""SciPy's sparse matrices out of files: rebuilt from checked parts, since SciPy's own code trusts them.

An index that points outside its matrix makes SciPy read and write memory that is not its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.arrays import read_npz
from datamodules.loading.files import Array, check_claim, one_line

_COMPRESSED = ("csr", "csc")
LAYOUTS = (*_COMPRESSED, "coo")


def checked_matrix(layout: str, shape: Any, parts: Mapping[str, Any]) -> Any:
    """A SciPy matrix, ``csr``, ``csc`` or ``coo``, of its parts.

    Args:
        layout: one of ``LAYOUTS``.
        shape: (rows, columns).
        parts: arrays: ``data`` and ``indptr``, ``indices``, or ``data`` and ``row``, ``col``.

    Raises:
        ValueError: for parts that do not fit together.
    """
    import scipy.sparse

    if layout not in LAYOUTS:
        raise ValueError(f"a sparse matrix in layout {layout!r}; one of {', '.join(LAYOUTS)} is read")
    rows, columns = _sides(shape)
    names = ("indices", "indptr") if layout in _COMPRESSED else ("row", "col")
    data = _part(parts, "data", "biufc")
    first, second = (_part(parts, name, "iu") for name in names)
    if layout == "coo":
        if not len(data) == len(first) == len(second):
            raise ValueError("a sparse matrix whose row, col and data differ in length")
        for index, side in ((first, rows), (second, columns)):
            if len(index) and not 0 <= int(index.min()) <= int(index.max()) < side:
                raise ValueError(f"a sparse matrix with an entry outside {rows} x {columns}")
        return scipy.sparse.coo_matrix((data, (first, second)), shape=(rows, columns))
    if len(second) != (rows if layout == "csr" else columns) + 1 or len(first) != len(data):
        raise ValueError(f"a sparse matrix whose indptr, indices and data do not fit {rows} x {columns}")
    if int(second[0]) != 0 or int(second[-1]) != len(first) or (np.diff(second.astype(np.int64)) < 0).any():
        raise ValueError("a sparse matrix whose indptr does not count its entries")
    made = scipy.sparse.csr_matrix if layout == "csr" else scipy.sparse.csc_matrix
    matrix = made((data, first, second), shape=(rows, columns))
    matrix.check_format(full_check=True)
    return matrix


def _sides(shape: Any) -> tuple[int, int]:
    sides = [int(n) for n in shape] if isinstance(shape, tuple | list | np.ndarray) else []
    if len(sides) != 2 or not all(0 <= n < 2**31 for n in sides):
        raise ValueError(f"a sparse matrix of shape {one_line(shape, 40)}")
    return sides[0], sides[1]


def _part(parts: Mapping[str, Any], name: str, kinds: str) -> Array:
    part = parts.get(name)
    if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in kinds:
        raise ValueError(f"a sparse matrix whose {name} is no one-dimensional array of numbers")
    return part


def dense(matrix: Any, path: Path, what: str) -> Array:
    """A sparse matrix (N, M) as a dense array.

    Raises:
        ValueError: naming ``path`` where it would take more memory than its file can ask for.
    """
    rows, columns = matrix.shape
    check_dense(path, what, (rows, columns), matrix.nnz, matrix.dtype.itemsize)
    return np.asarray(matrix.toarray())


def check_dense(path: Path, what: str, shape: tuple[int, int], entries: int, itemsize: int = 4) -> None:
    """Refuse a sparse matrix that cannot be laid out densely: features have an entry in 1,000 places or more.

    Raises:
        ValueError: naming ``path``.
    """
    claimed = shape[0] * shape[1] * itemsize
    # ten times what check_claim gives a compressed byte: released features are as sparse as 1 in 500
    check_claim(path, f"{what} ({shape[0]:,}, {shape[1]:,})", claimed, entries * itemsize * 10)


def read_sparse(path: Path) -> Any:
    """A matrix that ``scipy.sparse.save_npz`` has written.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or damaged.
    """
    return sparse_of(path, read_npz(path))


def sparse_of(path: Path, content: Mapping[str, Array]) -> Any:
    """The matrix whose parts an npz file has, as ``scipy.sparse.save_npz`` names them."""
    try:
        layout = content["format"].item() if content["format"].ndim == 0 else ""
        name = layout.decode("ascii") if isinstance(layout, bytes) else str(layout)
        return checked_matrix(name, content["shape"], content)
    except (KeyError, ValueError, OverflowError) as error:
        lacking = f"no array {error}" if isinstance(error, KeyError) else one_line(error)
        raise ValueError(f"{path} is damaged: {lacking}") from None
