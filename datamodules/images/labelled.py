"""Labelled images in [0, 1] for classifiers and attacks on them: embedded digits, or an npz of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from datamodules.loading.arrays import read_npz
from datamodules.loading.loaders import SplitModule, TensorItems
from datamodules.loading.ranges import Many, Workers, check_ranges
from datamodules.loading.variants import check_variants

Array = np.ndarray[Any, Any]
_LAYOUT = (
    "image, uint8 or float in [0, 1] (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, and "
    "label, whole numbers from 0 (N,)"
)
_DIGITS, _HELD_OUT = "digits", 360
_MOST_CLASSES = 100_000


class LabelledImages(SplitModule):
    """Images with labels, the last ones of a fixed permutation held out.

    Batch: ``image`` float32 (B, C, H, W) in [0, 1], ``label`` int64 (B,), ``index`` int64 (B,). Without a
    file these are scikit-learn's 1,797 real 8 x 8 digits (UCI, Alpaydin & Kaynak 1998), pixels / 16, of
    which 1,437 are for training and 360 for validation, test and prediction.

    Args:
        file: npz with ``image`` and ``label``, also ``adversarial.npz`` of a prediction with
            ``images: adversarial``; null: digits.
        images: name of the array of images in the file.
        test_items: number of held-out items; null tests on all, and there is nothing to train on.
        train_items: so many of the others are trained on, the first of the permutation; null takes all.
        batch_size: global training batch, over all devices; the last one of an epoch is smaller.
        eval_batch_size: global batch of validation, test and prediction.
        num_workers: loader processes; the data are in memory, so 0 is fastest.

    Raises:
        FileNotFoundError, ValueError: for a file that is missing, damaged, of another layout or out of range.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("file", "test_items", "train_items")
    of_variants: ClassVar[dict[str, Any]] = {"file": {"images": "the path of an npz file"}}
    drop_last = False

    def __init__(
        self,
        file: str | None = None,
        images: str = "image",
        test_items: Many | None = _HELD_OUT,
        train_items: Many | None = None,
        batch_size: Many = 128,
        eval_batch_size: Many = 360,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(LabelledImages, locals())
        check_variants(LabelledImages, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.file, self.images = file, images
        self.test_items, self.train_items = test_items, train_items
        self.num_classes = 10
        self.shape: tuple[int, ...] = (1, 8, 8)
        self.facts: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        image, label = digits() if self.file is None else read_labelled(Path(self.file), self.images)
        self.shape, self.num_classes = tuple(image.shape[1:]), int(label.max()) + 1
        self.facts = {"set": _DIGITS if self.file is None else Path(self.file).stem}
        count = len(image) if self.test_items is None else self.test_items
        given, there = f"data.init_args.test_items is {count:,}", f"there are {len(image):,} items"
        if count > len(image):
            raise ValueError(f"{given}, but {there}; set fewer, or null for all")
        if stage == "fit" and count == len(image):
            raise ValueError(f"{given} and {there}, which leaves none for training; set fewer")
        rest = len(image) - count
        if self.train_items is not None and stage == "fit" and self.train_items > rest:
            raise ValueError(
                f"data.init_args.train_items is {self.train_items:,}, but {rest:,} items are not held out; "
                "set fewer"
            )
        order = torch.arange(len(image))
        if self.test_items is not None:  # sources are ordered by class or by writer
            order = torch.randperm(len(image), generator=torch.Generator().manual_seed(0))
        train, held_out = order[:rest][: self.train_items], order[rest:]
        self.train_set = TensorItems(image=image[train], label=label[train])
        self.val_set = self.test_set = TensorItems(image=image[held_out], label=label[held_out])


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits, (1797, 1, 8, 8) in [0, 1] and their labels."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.images / 16).float()[:, None], torch.from_numpy(found.target).long()


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
