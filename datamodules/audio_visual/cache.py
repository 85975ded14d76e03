"""Cache files of decoded clips, npz: log-mel features, frames as JPEGs one after another, and their bounds.

Neither writing nor reading holds the frames of a clip at once: memory does not grow with its length.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.audio_visual.media import MediaError, from_picture, to_jpeg
from datamodules.loading.arrays import npy_header
from datamodules.loading.files import READ_ERRORS, one_line, written_whole

Array = np.ndarray[Any, Any]
_FEATURES, _BOUNDS, _FRAMES = "log_mel.npy", "bounds.npy", "frames.npy"


def write_cache(path: Path, log_mel: Tensor | None, frames: Iterable[Array]) -> None:
    """Write a clip; frames uint8 (h, w, 3) are taken one by one."""
    bounds = [0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent) as spool, written_whole(path) as temporary:
        for frame in frames:
            bounds.append(bounds[-1] + spool.write(to_jpeg(frame)))
        spool.seek(0)
        with zipfile.ZipFile(temporary, "w") as archive:
            if log_mel is not None:
                with archive.open(_FEATURES, "w") as member:
                    np.lib.format.write_array(member, log_mel.numpy())
            with archive.open(_BOUNDS, "w") as member:
                np.lib.format.write_array(member, np.array(bounds))
            with archive.open(_FRAMES, "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (bounds[-1],)}
                np.lib.format.write_array_header_1_0(member, header)
                shutil.copyfileobj(spool, member)


class CachedFrames:
    """Frames of a cache file, which is read anew each time.

    Args:
        path: of the cache file.
        bounds: (N + 1,) bytes at which the frames begin.
    """

    def __init__(self, path: Path, bounds: Array) -> None:
        self.path, self.bounds = path, bounds

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def pixels(self, numbers: Collection[int]) -> dict[int, Array]:
        """uint8 (h, w, 3) of the frames of these numbers."""
        found = {}
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(_FRAMES) as member:
                npy_header(member)
                start = member.tell()
                for number in sorted(numbers):  # forwards: going back reads from the beginning again
                    member.seek(start + int(self.bounds[number]))
                    found[number] = member.read(int(self.bounds[number + 1] - self.bounds[number]))
        except READ_ERRORS as error:
            raise _damaged(self.path, error) from None
        return {number: from_picture(content) for number, content in found.items()}


def read_cache(path: Path) -> tuple[Tensor | None, CachedFrames]:
    """Features and frames of a cache file.

    Raises:
        FileNotFoundError: no such file.
        MediaError: a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            features = _array(archive, _FEATURES, "f") if _FEATURES in names else None
            bounds = _array(archive, _BOUNDS, "i")
            size = archive.getinfo(_FRAMES).file_size
        if bounds.ndim != 1 or not len(bounds) or bounds[0] < 0 or (np.diff(bounds) < 0).any():
            raise ValueError("the frames' bounds are no rising numbers")
        if bounds[-1] > size or (features is not None and features.ndim != 2):
            raise ValueError("it is cut off")
    except FileNotFoundError:
        raise
    except READ_ERRORS as error:
        raise _damaged(path, error) from None
    return None if features is None else torch.from_numpy(features), CachedFrames(path, bounds)


def _array(archive: zipfile.ZipFile, name: str, kind: str) -> Array:
    """A member whose size is what its header says, of floats or integers."""
    with archive.open(name) as member:
        shape, fortran, dtype = npy_header(member)
        left = archive.getinfo(name).file_size - member.tell()
        if dtype.kind != kind or fortran or left != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
            raise ValueError(f"{name} is not what its header says")
        return np.frombuffer(bytearray(member.read(left)), dtype).reshape(shape)


def _damaged(path: Path, error: object) -> MediaError:
    return MediaError(f"{path} is no readable cache file ({one_line(error)}); delete it and run again")
