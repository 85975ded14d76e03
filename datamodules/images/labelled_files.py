"""Files of labelled images: CIFAR's python batches, STL-10's binaries, an npz of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arrays import read_npz
from datamodules.loading.files import check_claim
from datamodules.loading.restricted_pickle import read_pickle

Array = np.ndarray[Any, Any]
_LAYOUT = (
    "image, uint8 or float in [0, 1] (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, and "
    "label, whole numbers from 0 (N,)"
)
_MOST_CLASSES = 100_000


def read_cifar(path: Path, labels: str) -> tuple[Array, Array]:
    """A python batch of CIFAR: uint8 (N, 3, 32, 32) and labels (N,).

    Args:
        path: of the pickle, of which nothing is run.
        labels: its key, ``labels`` of CIFAR-10, ``fine_labels`` of CIFAR-100.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or is no such batch.
    """
    held = read_pickle(path)
    found = (
        {k.decode() if isinstance(k, bytes) else k: v for k, v in held.items()}
        if isinstance(held, dict)
        else {}
    )
    data, given = found.get("data"), found.get(labels)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072 or data.dtype != np.uint8:
        raise ValueError(f"{path} is no batch of CIFAR: its data must be uint8 (N, 3072)")
    if not isinstance(given, list) or len(given) != len(data):
        raise ValueError(f"{path} is no batch of CIFAR: it needs {len(data)} {labels}, one an image")
    most = 10 if labels == "labels" else 100
    if not all(isinstance(x, int) and not isinstance(x, bool) and 0 <= x < most for x in given):
        raise ValueError(f"{path}: {labels} must be whole numbers from 0 to {most - 1}")
    return data.reshape(-1, 3, 32, 32), np.array(given, dtype=np.int64)


def read_stl10(path: Path) -> Array:
    """Images of STL-10, uint8 (N, 3, 96, 96): the file has them column by column.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or of another length.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    size = path.stat().st_size
    check_claim(path, "the file", size)
    if not size or size % 27_648:
        raise ValueError(f"{path} has {size:,} bytes, which is no whole number of images of 27,648")
    return np.fromfile(path, dtype=np.uint8).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)


def read_stl10_labels(path: Path, count: int) -> Array:
    """Labels of STL-10 from 0 to 9 (the file's are 1 to 10).

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, or others than ``count`` labels.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if path.stat().st_size != count:
        raise ValueError(f"{path} has {path.stat().st_size:,} labels for {count:,} images")
    found = np.fromfile(path, dtype=np.uint8).astype(np.int64)
    if found.min() < 1 or found.max() > 10:
        raise ValueError(f"{path}: labels must be 1 to 10, found {found.min()} to {found.max()}")
    return found - 1


def read_labelled(path: Path, images: str = "image") -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) in [0, 1] and labels (N,) of an npz file.

    Raises:
        FileNotFoundError, ValueError: one line with the file's name.
    """
    found = read_npz(path, images, "label")
    image, label = found[images], found["label"]

    def wrong(what: str) -> ValueError:
        return ValueError(f"{path}: {what}; needed is {_LAYOUT}")

    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise wrong(f"{images} is {image.dtype}")
    if image.ndim == 3:
        image = image[:, None]
    elif image.ndim == 4 and image.shape[1] not in (1, 3) and image.shape[3] in (1, 3):
        image = np.moveaxis(image, 3, 1)
    if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.size:
        raise wrong(f"{images} has shape {found[images].shape}")
    if label.dtype.kind not in "iu" or label.shape != (len(image),):
        raise wrong(f"label is {label.dtype} {label.shape} for {len(image):,} images")
    if int(label.min()) < 0 or int(label.max()) >= _MOST_CLASSES:
        raise wrong(f"labels run from {int(label.min())} to {int(label.max())}")
    values = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    if image.dtype == np.uint8:
        values = values / 255
    if not bool(values.isfinite().all()):
        raise wrong(f"{images} holds NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise wrong(f"{images} runs from {low:g} to {high:g}")
    return values, torch.from_numpy(label.astype(np.int64))
