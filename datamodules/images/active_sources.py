"""Where the images of active generation come from: digits, CIFAR, lists of ImageNet, class folders."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from datamodules.images.growing import FileImages, Images, PixelImages
from datamodules.images.image_folder import FolderImages
from datamodules.images.imagenet_meta import read_class_names, read_meta
from datamodules.images.labelled_files import read_cifar
from datamodules.loading.restricted_pickle import read_pickle
from datamodules.loading.tables import cut

Source = Literal["digits", "cifar10", "cifar100", "imagenet", "folder"]
Part = Literal["classifier", "generator"]
_GENERATOR, _CLASSIFIER = 900, 1200  # the digits' first, then up to


@dataclass
class Found:
    """What a source has.

    Attributes:
        train: images that are split and trained on.
        test: others.
        class_names: in the order of the labels; numbers where the files have no names.
        names_told: whether the files have names, which a prompt needs.
    """

    train: Images
    test: Images
    class_names: list[str]
    names_told: bool = True


def read_source(source: Source, root: Path, size: int, random_crops: bool, part: Part) -> Found:
    """Images of a source.

    Args:
        source: see :class:`datamodules.ActiveGeneration`.
        root: folder of the files.
        size: side of pictures in files.
        random_crops: of the training with these.
        part: of the digits.

    Raises:
        FileNotFoundError, ValueError: one line on a file that is missing, damaged or of another layout.
    """
    if source == "digits":
        return read_digits(part)
    if source in ("cifar10", "cifar100"):
        return _cifar(root, source == "cifar10")
    return (_listed if source == "imagenet" else _folders)(root, size, random_crops)


def read_digits(part: Part) -> Found:
    """scikit-learn's, with 8 bits as the PNG files of what is generated: within 1 / 510 of x / 16."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.from_numpy(found.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target).long()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    own = order[:_GENERATOR] if part == "generator" else order[_GENERATOR:_CLASSIFIER]
    test = order[_CLASSIFIER:]
    names = [str(i) for i in range(10)]
    return Found(PixelImages(pixels[own], labels[own]), PixelImages(pixels[test], labels[test]), names)


def _cifar(root: Path, ten: bool) -> Found:
    key, names = ("labels", "label_names") if ten else ("fine_labels", "fine_label_names")
    files = [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]
    parts = [read_cifar(root / name, key) for name in files]
    held = read_cifar(root / ("test_batch" if ten else "test"), key)
    train = [np.concatenate([p[i] for p in parts]) for i in (0, 1)]
    made = [PixelImages(torch.from_numpy(a.copy()), torch.from_numpy(b)) for a, b in (train, held)]
    path = root / ("batches.meta" if ten else "meta")
    return Found(made[0], made[1], read_cifar_names(path, names, 10 if ten else 100))


def _listed(root: Path, size: int, random_crops: bool) -> Found:
    path = root / "meta" / "classes.txt"
    names = read_class_names(path) if path.is_file() else None
    twice, many = Counter(names or [""]).most_common(1)[0]
    if many > 1:
        raise ValueError(f"{path}: {cut(twice)} names two classes; prompts could not tell them apart")
    train = read_meta(root / "meta" / "train.txt", None if names is None else len(names))
    count = int(train[1].max()) + 1 if names is None else len(names)
    held = read_meta(root / "meta" / "val.txt", count)
    made = [
        FileImages(root / part, paths, torch.from_numpy(labels), size, random_crops)
        for part, (paths, labels) in (("train", train), ("val", held))
    ]
    return Found(made[0], made[1], names or [str(i) for i in range(count)], names is not None)


def _folders(root: Path, size: int, random_crops: bool) -> Found:
    train, held = (FolderImages(root / part, size, flip=False) for part in ("train", "val"))
    if train.classes != held.classes:
        raise ValueError(f"{root}: train and val have other class folders, so labels would differ")
    made = [FileImages(d.root, d.paths, d.labels, size, random_crops) for d in (train, held)]
    return Found(made[0], made[1], [name.replace("_", " ") for name in train.classes])


def read_cifar_names(path: Path, key: str, count: int) -> list[str]:
    """Names of CIFAR's classes, blanks for underscores.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing or has no such names.
    """
    held = read_pickle(path)
    content = (
        {k.decode() if isinstance(k, bytes) else k: v for k, v in held.items()}
        if isinstance(held, dict)
        else {}
    )
    names = content.get(key)
    if not isinstance(names, list) or len(names) != count:
        raise ValueError(f"{path}: {key} must be {count} names of classes")
    found = [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]
    if not all(isinstance(n, str) and n.strip() and len(n) < 200 for n in found):
        raise ValueError(f"{path}: {key} must be texts")
    return [n.replace("_", " ") for n in found]
