"""CIFAR, STL-10 and digits by our own readers."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.labelled import fake_cifar, fake_labelled, fake_stl10

from datamodules import LabelledImages
from datamodules.images.labelled import read_cifar, read_stl10, read_stl10_labels


def test_digits_are_the_spec_s_split() -> None:
    data = LabelledImages()
    data.setup("fit")
    assert (len(data.train_set), len(data.test_set), data.shape) == (1437, 360, (1, 8, 8))
    image = data.train_set.__getitems__([0, 1])["image"]
    assert float(image.min()) == -1
    assert float(image.max()) == pytest.approx(1)


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
