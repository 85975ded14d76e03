"""Where shapes lie: in memory, or in the official HDF5 files, read as they were released.

Keys: ``pixels`` (N, V, 137, 137), ``voxels`` (N, 64, 64, 64, 1), ``points_R`` (N, P, 3) and ``values_R``
(N, P, 1) at R = 16, 32, 64, all uint8. The second release has indices of the 256^3 grid whatever the key, the
first of the R^3 grid; which one it is, is seen and not asked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datamodules.loading.files import one_line, written_whole
from datamodules.loading.hdf5 import bytes_per_row, dataset, open_hdf5, read_errors, slabs
from datamodules.shapes.voxels import BUDGETS_V1, FINE

Array = np.ndarray[Any, Any]
RESOLUTIONS = (16, 32, 64)
LAYOUT = (
    "all_vox256_img_train.hdf5 of github.com/czq142857/IM-NET-pytorch with voxels (N, 64, 64, 64, 1), "
    "points_R and values_R for R = 16, 32, 64, and pixels for single views"
)
_POINTS = range(1, 128**3 + 1)
_SIDES = range(128, 1025)
_AXES: dict[str, tuple[int | range | None, ...]] = {
    "voxels": (None, 64, 64, 64, 1),
    **{f"{k}_{r}": (None, _POINTS, n) for r in RESOLUTIONS for k, n in (("points", 3), ("values", 1))},
    "pixels": (None, range(1, 1001), _SIDES, _SIDES),
    "fine": (None, 64, 64, 64),
    "surface": (None, 4096, 6),
}
_OPTIONAL = {"pixels": "u", "fine": "biu", "surface": "f"}  # key -> kinds of its numbers
_CODE = 65536  # numbers of a code, at most
_COSTLY = 2**20  # bytes decompressed for a row that are worth a copy


class Store(Protocol):
    """Shapes by row."""

    size: int
    grids: dict[int, int]

    def rows(self, key: str, index: Sequence[int]) -> Array:
        """Rows of a key, in the order asked for."""

    def row_parts(self, key: str, index: Sequence[int], part: Sequence[int]) -> Array:
        """``part[n]`` of row ``index[n]``: one view of each shape."""

    def slabs(self, key: str, stop: int) -> Iterator[tuple[int, Array]]:
        """The first ``stop`` rows in order, (first row, rows) by rows."""

    def shape(self, key: str) -> tuple[int, ...]:
        """Of all rows, () for a key that is missing."""

    def arrange(self, keys: Iterable[str]) -> None:
        """Make sure that single rows of these keys can be read fast."""


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

    def slabs(self, key: str, stop: int) -> Iterator[tuple[int, Array]]:
        yield 0, self.arrays[key][:stop]

    def shape(self, key: str) -> tuple[int, ...]:
        return self.arrays[key].shape if key in self.arrays else ()

    def arrange(self, keys: Iterable[str]) -> None:
        """Rows in memory need nothing."""


class HDF5Store:
    """An official file, opened once per process at its first use.

    The release lies in chunks of about a thousand shapes, so that a row of voxels decompresses 574 MB.
    :meth:`arrange` copies arrays once into files of a chunk a shape, which are then read in its place.

    Args:
        path: of the file.
        cache: folder of the copies; null is that of the file.

    Attributes:
        version: ``v1`` or ``v2``, the release that the file is of.
        grids: resolution of a key -> side of the grid that its points count.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, broken or of another layout.
    """

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        self.path = path
        self.copies = (cache or path.parent) / f"{path.stem}.rows"
        self._datasets: dict[str, Any] = {}
        self._process = -1
        if not path.is_file():
            raise FileNotFoundError(
                f"no file {path}: expected {LAYOUT}; set data.init_args.root to its folder"
            )
        with open_hdf5(path) as file, read_errors(path):
            self._shapes = self._checked(file)
        self.size = self._shapes["voxels"][0]
        self.grids = dict.fromkeys(RESOLUTIONS, FINE)
        self.version = self._version()
        self.grids = {r: r if self.version == "v1" else FINE for r in RESOLUTIONS}

    def _checked(self, file: Any) -> dict[str, tuple[int, ...]]:
        """Shapes of the arrays, by their headers."""
        missing = [k for k in _AXES if k not in file and k not in _OPTIONAL]
        if missing:
            raise ValueError(
                f"{self.path} has no {missing[0]} but {', '.join(sorted(file)[:12]) or 'nothing'}: "
                f"expected {LAYOUT}"
            )
        shapes = {
            k: tuple(dataset(file, self.path, k, axes, _OPTIONAL.get(k, "biu")).shape)
            for k, axes in _AXES.items()
            if k in file
        }
        if len({shape[0] for shape in shapes.values()}) > 1:
            text = ", ".join(f"{k} {shape[0]}" for k, shape in shapes.items())
            raise ValueError(f"{self.path}: its arrays have different numbers of shapes ({text})")
        for r in RESOLUTIONS:
            points, values = shapes[f"points_{r}"], shapes[f"values_{r}"]
            if points[:2] != values[:2]:
                raise ValueError(
                    f"{self.path}: points_{r} is {points} and values_{r} is {values}: each point has a value"
                )
        if (sides := shapes.get("pixels", (0, 0))[2:]) and sides[0] != sides[1]:
            raise ValueError(f"{self.path}: pixels has views of {sides}, expected squares")
        return shapes

    def _version(self) -> str:
        if not self.size:
            return "v2"
        if self._shapes["points_64"][1] == BUDGETS_V1[64]:
            return "v1"
        return "v1" if self.rows("points_16", range(min(self.size, 4))).max() < 16 else "v2"

    # --- copies by row --------------------------------------------------------------------------------------

    def arrange(self, keys: Iterable[str]) -> None:
        """Copy those of the arrays whose rows cost many times their size, once, with a progress bar.

        Raises:
            OSError: where the folder of the copies cannot be written.
        """
        for key in keys:
            if key not in self._shapes or self._copied(key):
                continue
            with open_hdf5(self.path) as file:
                found = dataset(file, self.path, key)
                cost = bytes_per_row(found)
                if cost > _COSTLY and cost * found.shape[0] > 8 * found.size * found.dtype.itemsize:
                    self._copy(key, found, cost)

    def _copy(self, key: str, found: Any, cost: int) -> None:
        import h5py
        from tqdm import tqdm

        chunk = (1, 1, *found.shape[2:]) if key == "pixels" else (1, *found.shape[1:])
        settings: Any = {"compression": "gzip", "compression_opts": 1, "fletcher32": True}
        bar = tqdm(total=len(found), desc=f"{self.path.name}: {key} shape by shape, once", unit=" shapes")
        try:
            with bar, written_whole(self.copies / f"{key}.hdf5") as path, h5py.File(path, "w") as copy:
                copy.attrs["source"] = self._stamp()
                rows = copy.create_dataset(key, found.shape, found.dtype, chunks=chunk, **settings)
                for start, block in slabs(found, self.path, key):
                    rows[start : start + len(block)] = block
                    bar.update(len(block))
        except OSError as error:
            raise OSError(
                f"{self.copies} cannot be written ({one_line(error)}): a shape's {key} in {self.path} "
                f"decompresses {cost / 1e6:,.0f} MB, so that a copy by shape is made once; set "
                "data.init_args.cache to a folder with room"
            ) from None

    def _stamp(self) -> str:
        state = self.path.stat()
        return f"{self.path.name} {state.st_size} {state.st_mtime_ns}"

    def _copied(self, key: str) -> bool:
        """Whether there is a copy of this very file; one of another file is made anew."""
        path = self.copies / f"{key}.hdf5"
        if not path.is_file():
            return False
        try:
            with open_hdf5(path) as file:
                dataset(file, path, key, self._shapes[key])
                return bool(file.attrs.get("source", "") == self._stamp())
        except ValueError:
            return False

    # --- reading --------------------------------------------------------------------------------------------

    def _dataset(self, key: str) -> tuple[Any, Path]:
        """The array, of its copy where there is one, and the path of its file."""
        # a handle that a fork inherits shares its position with the parent's
        if self._process != os.getpid():
            self._datasets, self._process = {}, os.getpid()
        if key not in self._datasets:
            path = self.copies / f"{key}.hdf5" if self._copied(key) else self.path
            self._datasets[key] = dataset(open_hdf5(path), path, key, self._shapes[key]), path
        found: tuple[Any, Path] = self._datasets[key]
        return found

    def _read(self, key: str, where: Any) -> Array:
        found, path = self._dataset(key)
        with read_errors(path, f"{key} of shape {where}"):
            values: Array = found[where]
        return self._judged(key, values)

    def _judged(self, key: str, values: Array) -> Array:
        """Labels are 0 and 1, points lie in their grid: damage inside of a chunk is not trained on."""
        if key in _OPTIONAL:
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{self.path}: {key} holds NaN or infinity; it is damaged")
            return values
        grid = self.grids[int(key.split("_")[1])] if key.startswith("points_") else 2
        if values.size and not (values.min() >= 0 and values.max() < grid):
            raise ValueError(
                f"{self.path}: {key} holds {values.min()} to {values.max()}, expected 0 to {grid - 1}; "
                "it is damaged or of another layout"
            )
        return values

    def rows(self, key: str, index: Sequence[int]) -> Array:
        return np.stack([self._read(key, int(i)) for i in index])

    def row_parts(self, key: str, index: Sequence[int], part: Sequence[int]) -> Array:
        return np.stack([self._read(key, (int(i), int(p))) for i, p in zip(index, part, strict=True)])

    def slabs(self, key: str, stop: int) -> Iterator[tuple[int, Array]]:
        found, path = self._dataset(key)
        for start, values in slabs(found, path, key, stop):
            yield start, self._judged(key, values)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes.get(key, ())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_datasets": {}, "_process": -1}


def write_hdf5(path: Path, arrays: dict[str, Array]) -> Path:
    """Arrays under the official keys as an official file, in place only when whole."""
    size = len(next(iter(arrays.values())))
    return write_rows(path, ({k: v[i] for k, v in arrays.items() if i < len(v)} for i in range(size)))


def write_rows(path: Path, rows: Iterable[dict[str, Array]], **attributes: str) -> Path:
    """Shapes one after another as an official file, in place only when whole; a row is a chunk."""
    import h5py

    settings: Any = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
    with written_whole(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(attributes)
        for row in rows:
            for key, values in row.items():
                if key not in file:
                    shape = values.shape
                    file.create_dataset(
                        key,
                        (0, *shape),
                        values.dtype,
                        maxshape=(None, *shape),
                        chunks=(1, *shape),
                        **settings,
                    )
                found: Any = file[key]
                found.resize(len(found) + 1, axis=0)
                found[-1] = values
    return path


def read_codes(path: Path, sizes: Sequence[int]) -> Array:
    """Codes ``zs`` (N, Z) float32 of an autoencoder; N is one of ``sizes``.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, broken or of other shapes.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no codes at {path}: `zoo predict` of a zoo.IMAE with data.init_args.evaluate_on: train writes "
            "codes.hdf5"
        )
    with open_hdf5(path) as file:
        try:
            found = dataset(file, path, "zs", kinds="f")
        except ValueError as error:
            raise ValueError(f"{path} holds no codes zs (N, Z) that can be read ({error})") from None
        if found.ndim != 2 or len(found) not in sizes or not 0 < found.shape[1] <= _CODE:
            raise ValueError(
                f"{path}: zs is {found.shape}, the training data have {sizes[0]} shapes; make it with "
                "data.init_args.evaluate_on: train"
            )
        with read_errors(path, "zs"):
            codes = np.asarray(found[()], dtype=np.float32)
    if not np.isfinite(codes).all():
        raise ValueError(f"{path}: zs holds NaN or infinity; make it anew")
    return codes
