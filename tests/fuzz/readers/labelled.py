"""CIFAR's batches and STL-10's binaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.labelled import fake_cifar, fake_stl10
from fuzz.forked import Reader

from datamodules.images.labelled import read_cifar, read_stl10, read_stl10_labels


def cifar(folder: Path) -> Path:
    return fake_cifar(folder, ("data_batch_1",), "labels")


def labels(folder: Path) -> Path:
    fake_stl10(folder)
    return folder / "train_y.bin"


def read_labels(path: Path) -> Any:
    return read_stl10_labels(path, 12)


READERS = [
    Reader("CIFAR, a python batch", cifar, lambda path: read_cifar(path, "labels")),
    Reader("STL-10, images", fake_stl10, read_stl10),
    Reader("STL-10, labels", labels, read_labels),
]
