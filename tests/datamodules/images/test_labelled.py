"""Labelled images: the split of the digits, files of other shapes, and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import datamodules
from datamodules.images.labelled import read_labelled


def test_the_digits_are_split_1437_to_360_and_lie_in_the_unit_range() -> None:
    data = datamodules.LabelledImages()
    data.setup("fit")
    train, test = data.train_set.tensors, data.test_set.tensors
    assert (len(train["label"]), len(test["label"])) == (1437, 360)
    assert (train["image"].min(), train["image"].max()) == (0, 1)
    assert sorted(test["label"].unique().tolist()) == list(range(10))
    together = torch.cat([train["image"], test["image"]]).flatten(1)
    assert len(together.unique(dim=0)) == 1797  # no digit twice: none is in both
    assert (data.shape, data.num_classes, data.facts) == ((1, 8, 8), 10, {"set": "digits"})


@pytest.mark.parametrize("shape", [(6, 5, 4), (6, 5, 4, 3), (6, 3, 5, 4), (6, 1, 5, 4)])
def test_a_file_of_any_usual_layout(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.savez(tmp_path / "own.npz", image=pixels, label=np.arange(6) % 3)
    data = datamodules.LabelledImages(str(tmp_path / "own.npz"), test_items=2)
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
        datamodules.LabelledImages(test_items=1798).setup("test")
    for items in (1797, None):
        with pytest.raises(ValueError, match="leaves none for training"):
            datamodules.LabelledImages(test_items=items).setup("fit")
    with pytest.raises(ValueError, match="images is adversarial"):
        datamodules.LabelledImages(images="adversarial")
