"""Labelled images: the split of the digits, CIFAR, STL-10, files of one's own, and files that are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes.labelled import fake_cifar, fake_labelled, fake_stl10

from datamodules import LabelledImages
from datamodules.images.labelled_files import read_cifar, read_labelled, read_stl10, read_stl10_labels


def test_the_digits_are_split_1437_to_360_and_lie_in_the_unit_range() -> None:
    data = LabelledImages()
    data.setup("fit")
    train, test = (s.__getitems__(range(len(s))) for s in (data.train_set, data.test_set))
    assert (len(train["label"]), len(test["label"])) == (1437, 360)
    assert (train["image"].min(), train["image"].max()) == (0, 1)
    assert sorted(test["label"].unique().tolist()) == list(range(10))
    together = torch.cat([train["image"], test["image"]]).flatten(1)
    assert len(together.unique(dim=0)) == 1797  # no digit twice: none is in both
    assert (data.shape, data.num_classes) == ((1, 8, 8), 10)


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 3), (6, 3, 5, 4), (6, 1, 5, 4)])
def test_a_file_of_any_usual_layout(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.savez(tmp_path / "own.npz", image=pixels, label=np.arange(6) % 3)
    data = LabelledImages("npz", file=str(tmp_path / "own.npz"), test_items=2)
    data.setup("fit")
    channels = 3 if 3 in shape else 1
    assert data.shape == (channels, 5, 4)
    assert (len(data.train_set), len(data.test_set), data.num_classes) == (4, 2, 3)
    image, _ = read_labelled(tmp_path / "own.npz")
    expected = pixels[0, 1, 2, 0] if shape == (6, 5, 4, 3) else pixels.reshape(6, channels, 5, 4)[0, 0, 1, 2]
    assert image[0, 0, 1, 2].item() == pytest.approx(expected / 255)


LABEL = np.arange(4)
IMAGE = np.full((4, 3, 3), 0.5, dtype=np.float32)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": IMAGE}, "no array 'label'"),
        ({"image": IMAGE * np.nan, "label": LABEL}, "holds NaN"),
        ({"image": IMAGE * 300, "label": LABEL}, "runs from 150 to 150"),
        ({"image": IMAGE - 1, "label": LABEL}, "runs from -0.5"),
        ({"image": IMAGE.astype(np.int64), "label": LABEL}, "image is int64"),
        ({"image": IMAGE[:0], "label": LABEL[:0]}, "image has shape"),
        ({"image": np.zeros((4, 2, 3, 4), np.uint8), "label": LABEL}, "image has shape"),
        ({"image": IMAGE, "label": LABEL[:3]}, "label is int64"),
        ({"image": IMAGE, "label": LABEL / 2}, "label is float64"),
        ({"image": IMAGE, "label": LABEL - 1}, "labels run from -1"),
        ({"image": IMAGE, "label": LABEL * 10**9}, "labels run from 0 to 3000000000"),
    ],
)
def test_a_file_of_another_layout_is_refused_in_one_line(
    arrays: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=words) as caught:
        read_labelled(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test_items is 1,798, but there are 1,797"):
        LabelledImages(test_items=1798).setup("test")
    for items in (1797, "all"):
        with pytest.raises(ValueError, match="leaves none for training"):
            LabelledImages(test_items=items).setup("fit")
        LabelledImages(test_items=items).setup("test")
    with pytest.raises(ValueError, match="train_items is 1,438, but there are 1,437 items for training"):
        LabelledImages(train_items=1438).setup("fit")
    with pytest.raises(ValueError, match="images is adversarial"):
        LabelledImages(images="adversarial")
    with pytest.raises(ValueError, match="file to the path"):
        LabelledImages("npz")


def test_parts_of_sets_with_a_split_of_their_own(tmp_path: Path) -> None:
    fake_labelled(tmp_path)
    data = LabelledImages("cifar10", str(tmp_path / "cifar10"), test_items=5, train_items=7)
    data.setup("fit")
    whole = LabelledImages("cifar10", str(tmp_path / "cifar10"))
    whole.setup("fit")
    assert torch.equal(data.test_set.pixels, whole.test_set.pixels[:5])  # as released
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:7]
    assert torch.equal(data.train_set.labels, whole.train_set.labels[rows])
    folders = LabelledImages("folder", str(tmp_path / "folder"), size=20, test_items=5, train_items=7)
    folders.setup("fit")
    assert (len(folders.train_set), len(folders.test_set), folders.num_classes) == (7, 5, 3)
    assert len(folders.test_set.labels.unique()) > 1  # the first ones of the folders are all of one class
    batch = folders.test_set.__getitems__([0, 4])
    assert torch.equal(batch["label"], folders.test_set.labels[[0, 4]])
    assert 0 <= float(batch["image"].min()) < float(batch["image"].max()) <= 1


def test_stl10_is_stored_by_columns_and_counts_from_1(tmp_path: Path) -> None:
    path = fake_stl10(tmp_path)
    raw = np.fromfile(path, dtype=np.uint8)
    assert read_stl10(path)[2, 1, 5, 7] == raw[2 * 27_648 + 9216 + 7 * 96 + 5]
    assert read_stl10_labels(tmp_path / "train_y.bin", 12)[:4].tolist() == [0, 1, 2, 0]
    data = LabelledImages("stl10", str(tmp_path), unlabelled=True)
    data.setup("fit")
    assert len(data.train_set) == 24
    assert data.train_set.labels[12:].unique().tolist() == [-1]


def test_cifar_is_stored_by_rows_and_channels(tmp_path: Path) -> None:
    fake_labelled(tmp_path)
    held = pickle.loads((tmp_path / "cifar10" / "data_batch_1").read_bytes())
    data = LabelledImages("cifar10", str(tmp_path / "cifar10"))
    data.setup("fit")
    assert (len(data.train_set), len(data.test_set)) == (60, 12)
    assert int(data.train_set.pixels[3, 1, 4, 9]) == held["data"][3, 1024 + 4 * 32 + 9]


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = fake_cifar(tmp_path, ("data_batch_1",), "labels")
    with pytest.raises(ValueError, match="no batch of CIFAR"):
        read_cifar(path, "fine_labels")
    whole: dict[str, Any] = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**whole, "labels": [10] * 12}, protocol=2))
    with pytest.raises(ValueError, match="from 0 to 9"):
        read_cifar(path, "labels")

    class Harm:
        def __reduce__(self) -> Any:
            return os.system, ("touch harm",)

    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="nothing was run"):
        read_cifar(path, "labels")
    pixels = fake_stl10(tmp_path)
    pixels.write_bytes(pixels.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no whole number of images"):
        read_stl10(pixels)
    labels = tmp_path / "train_y.bin"
    with pytest.raises(ValueError, match="12 labels for 11 images"):
        read_stl10_labels(labels, 11)
    labels.write_bytes(bytes([0] * 12))
    with pytest.raises(ValueError, match="must be 1 to 10"):
        read_stl10_labels(labels, 12)
    with pytest.raises(FileNotFoundError):
        read_stl10(tmp_path / "no.bin")
