"""CIFAR's batches, STL-10's binaries, and labelled images of one's own: npz files, stored and compressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fakes.labelled import fake_cifar, fake_stl10
from fuzz.forked import Reader

from datamodules.images.labelled_files import read_cifar, read_labelled, read_stl10, read_stl10_labels


def cifar(folder: Path) -> Path:
    return fake_cifar(folder, ("data_batch_1",), "labels")


def labels(folder: Path) -> Path:
    fake_stl10(folder)
    return folder / "train_y.bin"


def read_labels(path: Path) -> Any:
    return read_stl10_labels(path, 12)


def own(save: Callable[..., Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3)).astype(np.uint8)
        save(folder / "own.npz", image=pixels, label=np.arange(5))
        return folder / "own.npz"

    return make


READERS = [
    Reader("CIFAR, a python batch", cifar, lambda path: read_cifar(path, "labels")),
    Reader("STL-10, images", fake_stl10, read_stl10),
    Reader("STL-10, labels", labels, read_labels),
    *(
        Reader(f"labelled images: npz, {name}", own(save), read_labelled)
        for name, save in (("stored", np.savez), ("compressed", np.savez_compressed))
    ),
]
