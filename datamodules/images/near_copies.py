"""Training images that another image may be a near copy of, without decoding all for each question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.images.growing import Array, GrowingItems, Images, PixelImages

_CELLS = 8
_BLOCK = 64  # pictures that are decoded before their means alone are kept
_ROUNDED = 0.5 / 255  # by which a mean kept as uint8 may be off


def cell_means(images: Tensor) -> Tensor:
    """Means of 8 x 8 cells, float32 (B, C, 8, 8), of images (B, C, S, S), beyond whose edge all is 0."""
    side = math.ceil(images.shape[-1] / _CELLS)
    beyond = side * _CELLS - images.shape[-1]
    return F.avg_pool2d(F.pad(images.float(), (0, beyond, 0, beyond)), side)


def least_possible_distance(means: Tensor, others: Tensor, size: int) -> Tensor:
    """What the root mean squared difference of images is at least, by their :func:`cell_means`.

    A cell's squared mean difference is at most the mean of its squared differences.

    Args:
        means: (1, C, 8, 8).
        others: (N, C, 8, 8).
        size: S of the images.
    """
    return (others - means).pow(2).flatten(1).mean(dim=1).sqrt() * _padding(size)


def _padding(size: int) -> float:
    """Side of all cells in sides of the image, 1 or more."""
    return math.ceil(size / _CELLS) * _CELLS / size


class NearCopies:
    """Real and generated images of a class that an image may be a copy of.

    Images in memory are all given. Of files the means of 8 x 8 cells are kept, 192 bytes each: every file is
    decoded once, when its class is first asked for, and again only where the means leave it possible that it
    is near. None that is nearer than asked for is left out.

    Args:
        images: all real ones.
        threads: that decode files.
    """

    def __init__(self, images: Images, threads: int = 1) -> None:
        self.images, self.threads = images, max(1, threads)
        self._real: dict[int, tuple[Array, Tensor]] = {}
        self._made: dict[int, Tensor] = {}

    def possible(
        self, label: int, members: Array, items: GrowingItems, image: Tensor, distance: float
    ) -> Tensor:
        """Images of a class, float32 (N, C, S, S) in [0, 1], among which is each nearer than ``distance``.

        Args:
            label: the class.
            members: real images that are, or will be, trained on.
            items: the training set, for generated ones.
            image: (C, S, S) in [0, 1], as the evaluation shows the others.
            distance: root mean squared difference of pixels.
        """
        rows = members[(self.images.labels[torch.from_numpy(members)] == label).numpy()]
        made = [i for i, own in enumerate(items.generated_labels) if own == label]
        if not isinstance(self.images, PixelImages):
            size = image.shape[-1]
            means, slack = cell_means(image[None]), distance + _ROUNDED * _padding(size)
            if len(rows):
                rows = rows[(least_possible_distance(means, self._means(label, rows), size) < slack).numpy()]
            held = {i: self._mean_of_made(items, i) for i in made}
            made = [i for i in made if float(least_possible_distance(means, held[i], size)) < slack]
        found = [self.images.evaluated(rows)] if len(rows) else []
        if made:
            found.append(self.images.held([items.generated[i] for i in made], None))
        return torch.cat(found) if found else torch.empty(0, *self.images.shape)

    def _means(self, label: int, rows: Array) -> Tensor:
        """Of real images of a class, in the order of ``rows``, in [0, 1]."""
        known = self._real.get(label)
        if known is None or not np.array_equal(known[0], rows):
            blocks: Sequence[Array] = np.split(rows, range(_BLOCK, len(rows), _BLOCK))
            with ThreadPoolExecutor(self.threads) as pool:
                parts = list(pool.map(lambda block: _kept(self.images.evaluated(block)), blocks))
            self._real[label] = known = (rows, torch.cat(parts))
        return known[1] / 255

    def _mean_of_made(self, items: GrowingItems, place: int) -> Tensor:
        if place not in self._made:
            self._made[place] = _kept(self.images.held([items.generated[place]], None))
        return self._made[place] / 255


def _kept(images: Tensor) -> Tensor:
    """Cell means as uint8, a quarter of the memory."""
    return (cell_means(images) * 255).round().to(torch.uint8)
