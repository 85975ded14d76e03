"""Generated images and the reference that judges them, in the npz files of ADM's evaluator."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from datamodules.loading.arrays import array_bytes, npy_header
from datamodules.loading.files import READ_ERRORS, check_claim, one_line
from datamodules.loading.loaders import BatchItems, evaluation_loader
from datamodules.loading.ranges import Many, Workers, check_ranges

Array = np.ndarray[Any, Any]
FEATURES = ("pool_3", "spatial", "logits")
_FORMAT = (
    "arr_0 uint8 (N, H, W, 3), as `zoo predict` and ADM's samplers write it, or features pool_3 (N, 2048), "
    "spatial (N, 2023) and logits (N, 1008) of Inception"
)
_SOURCE = "the reference batches of github.com/openai/guided-diffusion (evaluations)"


def _damaged(path: Path, what: object) -> ValueError:
    return ValueError(f"{path} is no readable npz file ({one_line(what)}); write or download it anew")


class NpzArray:
    """Rows of one array of an npz file. Memory holds the rows that were asked for and no others.

    A stored member (``np.savez``) is memory-mapped where it lies in the archive. A compressed one is read as
    a stream, which goes forward for rows in rising order and starts anew for others.

    Args:
        path: of the npz file.
        name: of the array, without ``.npy``.

    Raises:
        ValueError: for an archive that is damaged or cut off.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
                info = archive.getinfo(f"{name}.npy")
                self.shape, fortran, self.dtype = npy_header(member)
                self._header = member.tell()
            if fortran or not self.shape:
                raise ValueError("an array in Fortran order or without rows")
            self._stored = info.compress_type == zipfile.ZIP_STORED
            with path.open("rb") as file:
                file.seek(info.header_offset + 26)  # lengths of name and extra field in the local header
                lengths = np.frombuffer(file.read(4), dtype="<u2")
            self._offset = info.header_offset + 30 + int(lengths.sum()) + self._header
        except READ_ERRORS as error:
            raise _damaged(path, error) from None
        self._row = array_bytes(self.shape[1:], self.dtype)
        if info.file_size != self._header + len(self) * self._row or (
            self._stored and info.compress_size != info.file_size
        ):
            raise _damaged(path, f"{name} is cut off")
        check_claim(path, f"a row of {name}", self._row, None if self._stored else info.compress_size)
        self._open: Any = None
        self._position = 0

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}  # each worker opens the file itself

    def rows(self, indices: Sequence[int]) -> Array:
        """The rows of these indices, (len(indices), ...)."""
        try:
            if self._stored:
                if self._open is None:
                    self._open = np.memmap(self.path, self.dtype, "r", self._offset, self.shape)
                return np.array(self._open[list(indices)])
            return np.stack([self._next(i) for i in indices])
        except READ_ERRORS as error:
            raise _damaged(self.path, error) from None

    def _next(self, index: int) -> Array:
        if self._open is None or index < self._position:
            archive = zipfile.ZipFile(self.path)
            self._open = archive.open(f"{self.name}.npy")
            self._open.read(self._header)
            self._position = 0
        for _ in range(self._position, index):
            self._open.read(self._row)
        data = self._open.read(self._row)
        if len(data) != self._row:
            raise ValueError(f"{self.name} ends too early")
        self._position = index + 1
        return np.frombuffer(data, dtype=self.dtype).reshape(self.shape[1:])


class NpzItems(BatchItems):
    """Images or features of an npz file, a batch at a time.

    Raises:
        ValueError: for a file with neither, or with arrays of another shape or type.
    """

    def __init__(self, path: Path) -> None:
        held = array_names(path)
        names = [n for n in FEATURES if n in held] if "pool_3" in held else ["arr_0"]
        if names == ["arr_0"] and "arr_0" not in held:
            raise ValueError(f"{path} holds {', '.join(held) or 'nothing'}; needed is {_FORMAT}")
        self.arrays = {name: NpzArray(path, name) for name in names}
        self.images = names == ["arr_0"]
        for name, array in self.arrays.items():
            shape = array.shape
            fits = len(shape) == 2 and np.issubdtype(array.dtype, np.floating)
            if self.images:
                fits = len(shape) == 4 and shape[3] == 3 and array.dtype == np.uint8
            if not fits or len(array) != len(self) or not len(array):
                raise ValueError(
                    f"{path}: {name} is {array.dtype} ({', '.join(map(str, shape))}); needed is {_FORMAT}"
                )

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        rows = {name: torch.from_numpy(array.rows(indices)) for name, array in self.arrays.items()}
        for name, values in rows.items():
            if not self.images and not bool(values.isfinite().all()):
                raise ValueError(f"{self.arrays[name].path}: {name} holds NaN or infinite values")
        if self.images:
            rows = {"image": rows["arr_0"].permute(0, 3, 1, 2)}
        return {**rows, "index": torch.tensor(list(indices))}


def array_names(path: Path) -> list[str]:
    """Names of the arrays of an npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sorted(n.removesuffix(".npy") for n in archive.namelist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from None


class SampleFiles(LightningDataModule):
    """Generated images against a reference, for ``zoo test`` of :class:`zoo.ADMEvaluation`.

    Batches: ``image`` uint8 (B, 3, H, W), or ``pool_3`` (B, 2048), ``spatial`` (B, 2023) and ``logits``
    (B, 1008) float where a file holds features; ``index`` int64 (B,). The first test loader has the samples,
    the second, where the reference holds images or features, the reference.

    Args:
        samples: npz of generated images or their features; or the folder of a ``zoo predict`` run.
        reference: npz of ADM's reference batches, ``VIRTUAL_imagenet256_labeled.npz``: statistics ``mu``,
            ``sigma``, ``mu_s``, ``sigma_s`` and 10,000 images ``arr_0``; one of the two is enough.
        batch_size: global, over all devices.
        num_workers: loader processes.
    """

    def __init__(self, samples: str, reference: str, batch_size: Many = 64, num_workers: Workers = 0) -> None:
        check_ranges(SampleFiles, locals())
        super().__init__()
        self.samples, self.reference = Path(samples), Path(reference)
        self.batch_size, self.num_workers = batch_size, num_workers

    def setup(self, stage: str) -> None:
        """Open the files and check what they hold."""
        path = self.samples
        if path.is_dir():
            path = next(
                (p for p in (path / "predictions/samples.npz", path / "samples.npz") if p.is_file()), path
            )
        if not path.is_file():
            raise FileNotFoundError(
                f"data.init_args.samples: no samples at {self.samples}; `zoo predict` writes samples.npz, or "
                f"give an npz with {_FORMAT}"
            )
        if not self.reference.is_file():
            raise FileNotFoundError(
                f"data.init_args.reference: no reference at {self.reference}; {_SOURCE} have "
                "VIRTUAL_imagenet256_labeled.npz"
            )
        self.sample_items = NpzItems(path)
        has_items = {"arr_0", "pool_3"} & set(array_names(self.reference))
        self.reference_items = NpzItems(self.reference) if has_items else None

    def test_dataloader(self) -> Any:
        return [
            evaluation_loader(self, items, self.batch_size, self.num_workers)
            for items in (self.sample_items, self.reference_items)
            if items is not None
        ]
