"""Where shapes lie: in memory, or in the official HDF5 files, read as they were released.

Keys: ``pixels`` (N, V, 137, 137), ``voxels`` (N, 64, 64, 64, 1), ``points_R`` (N, P, 3) and ``values_R``
(N, P, 1) at R = 16, 32, 64, all uint8. The second release has indices of the 256^3 grid whatever the key, the
first of the R^3 grid; which one it is, is seen and not asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datamodules.loading.files import one_line, written_whole
from datamodules.shapes.voxels import BUDGETS_V1, FINE

Array = np.ndarray[Any, Any]
RESOLUTIONS = (16, 32, 64)
LAYOUT = (
    "all_vox256_img_train.hdf5 of github.com/czq142857/IM-NET-pytorch with voxels (N, 64, 64, 64, 1), "
    "points_R and values_R for R = 16, 32, 64, and pixels for single views"
)


class Store(Protocol):
    """Shapes by row."""

    size: int
    grids: dict[int, int]

    def rows(self, key: str, index: Sequence[int]) -> Array:
        """Rows of a key, in the order asked for."""

    def row_parts(self, key: str, index: Sequence[int], part: Sequence[int]) -> Array:
        """``part[n]`` of row ``index[n]``: one view of each shape."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Of all rows, () for a key that is missing."""


class MemoryStore:
    """Arrays under the official keys."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self.arrays = arrays
        self.size = len(arrays["voxels"])
        self.grids = dict.fromkeys(RESOLUTIONS, FINE)

    def rows(self, key: str, index: Sequence[int]) -> Array:
        found: Array = self.arrays[key][np.asarray(index)]
        return found

    def row_parts(self, key: str, index: Sequence[int], part: Sequence[int]) -> Array:
        found: Array = self.arrays[key][np.asarray(index), np.asarray(part)]
        return found

    def shape(self, key: str) -> tuple[int, ...]:
        return self.arrays[key].shape if key in self.arrays else ()


class HDF5Store:
    """An official file, opened once per process at its first use.

    Attributes:
        version: ``v1`` or ``v2``, the release that the file is of.
        grids: resolution of a key -> side of the grid that its points count.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, broken or of another layout.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._process = -1
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}: expected {LAYOUT}; set data.init_args.root to its folder"
            )
        file = self._open()
        self._check(file)
        self.size = len(file["voxels"])
        self.version = self._version(file)
        self.grids = {r: r if self.version == "v1" else FINE for r in RESOLUTIONS}

    def _open(self) -> Any:
        # a handle that a fork inherits shares its position with the parent's
        if self._file is None or self._process != os.getpid():
            import h5py

            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise ValueError(
                    f"{self.path} cannot be read as HDF5 ({one_line(error, 100)}); it is broken or was not "
                    "fetched whole: fetch it again"
                ) from None
            self._process = os.getpid()
        return self._file

    def _check(self, file: Any) -> None:
        keys = ["voxels", *(f"{k}_{r}" for r in RESOLUTIONS for k in ("points", "values"))]
        missing = [k for k in keys if k not in file]
        if missing:
            raise ValueError(
                f"{self.path} has no {missing[0]} but {', '.join(sorted(file)[:12]) or 'nothing'}: "
                f"expected {LAYOUT}"
            )
        if file["voxels"].ndim != 5 or file["voxels"].shape[4] != 1:
            raise ValueError(
                f"{self.path}: voxels is {file['voxels'].shape}, expected (N, 64, 64, 64, 1) with "
                "N the number of shapes"
            )
        lengths = {k: len(file[k]) for k in keys}
        if len(set(lengths.values())) > 1:
            text = ", ".join(f"{k} {n}" for k, n in lengths.items())
            raise ValueError(f"{self.path}: its arrays have different numbers of shapes ({text})")

    def _version(self, file: Any) -> str:
        if not self.size:
            return "v2"
        if file["points_64"].shape[1] == BUDGETS_V1[64]:
            return "v1"
        return "v1" if self.rows("points_16", range(min(self.size, 4))).max() < 16 else "v2"

    def _read(self, key: str, where: Any) -> Array:
        try:
            found: Array = self._open()[key][where]
        except OSError as error:
            raise ValueError(
                f"{self.path}: {key} of shape {where} cannot be read ({one_line(error, 80)})"
            ) from None
        return found

    def rows(self, key: str, index: Sequence[int]) -> Array:
        return np.stack([self._read(key, int(i)) for i in index])

    def row_parts(self, key: str, index: Sequence[int], part: Sequence[int]) -> Array:
        return np.stack([self._read(key, (int(i), int(p))) for i, p in zip(index, part, strict=True)])

    def shape(self, key: str) -> tuple[int, ...]:
        file = self._open()
        return tuple(file[key].shape) if key in file else ()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def write_hdf5(path: Path, arrays: dict[str, Array]) -> Path:
    """Arrays under the official keys as an official file, in place only when whole."""
    import h5py

    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        for key, values in arrays.items():
            file.create_dataset(key, data=values, compression="gzip", compression_opts=4)
    return path


def read_codes(path: Path, sizes: Sequence[int]) -> Array:
    """Codes ``zs`` (N, Z) float32 of an autoencoder; N is one of ``sizes``.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, broken or of other shapes.
    """
    import h5py

    if not path.is_file():
        raise FileNotFoundError(
            f"no codes at {path}: `zoo predict` of a zoo.IMAE with data.init_args.evaluate_on: train writes "
            "codes.hdf5"
        )
    try:
        with h5py.File(path, "r") as file:
            codes = np.asarray(file["zs"], dtype=np.float32)
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} holds no codes zs (N, Z) that can be read ({one_line(error)})") from None
    if codes.ndim != 2 or len(codes) not in sizes:
        raise ValueError(
            f"{path}: zs is {codes.shape}, the training data have {sizes[0]} shapes; make it with "
            "data.init_args.evaluate_on: train"
        )
    return codes
