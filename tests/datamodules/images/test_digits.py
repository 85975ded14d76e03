"""The embedded digits: sizes, ranges, splits, labels to sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import MNIST, Digits


@pytest.fixture(scope="module", params=[Digits, MNIST])
def data(request: pytest.FixtureRequest) -> Any:
    module = request.param()
    module.setup("fit")
    return module


def test_splits_have_the_stated_sizes(data: Any) -> None:
    expected = {Digits: (1400, 397), MNIST: (4000, 1000)}[type(data)]
    assert ((len(data.train_set), len(data.val_set)), len(data.test_set)) == (expected, expected[1])


def test_images_are_in_range_and_of_the_stated_shape(data: Any) -> None:
    images = data.train_set.tensors["image"]
    assert (images.dtype, tuple(images.shape[1:])) == (torch.float32, data.shape)
    assert (images.min().item(), images.max().item()) == (-1, 1)
    labels = data.train_set.tensors["label"]
    assert (labels.dtype, labels.unique().tolist()) == (torch.int64, list(range(10)))


def test_digits_are_scikit_learns_pixels_over_eight_minus_one() -> None:
    data = Digits()
    images, labels = data.read()
    source = load_digits()
    assert np.allclose(images[:, 0].numpy(), source.images / 8 - 1, atol=1e-7)
    assert np.array_equal(labels.numpy(), source.target)


def test_train_and_held_out_are_disjoint_and_complete(data: Any) -> None:
    images, _ = data.read()
    rows = torch.cat([data.train_set.tensors["image"], data.val_set.tensors["image"]]).flatten(1)

    def sorted_rows(x: torch.Tensor) -> np.ndarray[Any, Any]:
        x_ = x.flatten(1).numpy()
        return x_[np.lexsort(x_.T)]

    assert len(rows) == len(images)
    assert np.array_equal(sorted_rows(rows), sorted_rows(images))


def test_the_split_is_a_fixed_permutation_not_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Digits(), Digits()
    first.setup("fit")
    torch.manual_seed(77)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    second.setup("fit")
    assert torch.equal(first.train_set.tensors["image"], second.train_set.tensors["image"])
    shares = first.val_set.tensors["label"].bincount(minlength=10) / 397
    assert shares.min().item() > 0.06, "the source is ordered; the split is not"


def test_each_split_has_every_class_and_index_counts(data: Any) -> None:
    batch = next(iter(data.val_dataloader()))
    assert (batch["index"].tolist(), batch.keys()) == (list(range(250)), {"image", "label", "index"})


def test_test_passes_repeat_the_held_out_images_with_new_indices() -> None:
    data = Digits(test_passes=3)
    data.setup("test")
    batches = list(data.test_dataloader())
    index = torch.cat([b["index"] for b in batches])
    images = torch.cat([b["image"] for b in batches])
    assert index.tolist() == list(range(3 * 397))
    assert torch.equal(images[:397], images[397:794])


@pytest.mark.parametrize("count", [10, 100, 25])
def test_prediction_labels_cover_the_classes_evenly(count: int) -> None:
    data = Digits(predict_samples=count)
    data.setup("predict")
    batch = next(iter(data.predict_dataloader()))
    assert batch.keys() == {"label", "index"}
    counts = batch["label"].bincount(minlength=10)
    assert counts.sum().item() == count
    assert (counts.max() - counts.min()).item() <= 1
    assert batch["label"].dtype == torch.int64


def test_training_batches_are_shuffled_full_and_change_by_epoch() -> None:
    data = Digits(batch_size=128)
    data.setup("fit")
    loader = data.train_dataloader()
    epochs = [[b["index"].tolist() for b in loader] for _ in range(2)]
    assert [len(b) for b in epochs[0]] == [128] * 10
    flat = [i for b in epochs[0] for i in b]
    assert len(set(flat)) == 1280
    assert flat != sorted(flat)
    assert epochs[0] != epochs[1]
    again = [b["index"].tolist() for b in data.train_dataloader()]
    assert again == epochs[0]
