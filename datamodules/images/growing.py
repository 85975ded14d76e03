"""Training images that grow: a part held out that returns, generated ones that are appended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.loading.loaders import BatchItems, TrainLoader
from datamodules.loading.pictures import read_picture, read_rgb
from datamodules.loading.sampling import (
    Keys,
    batch_keys,
    batches_of_an_epoch,
    global_seed,
    item_generator,
    item_seeds,
)

Array = np.ndarray[Any, Any]
Index = Sequence[int] | Array
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of ImageNet's random crops
_SHOWN = 0.875  # share of the shorter side that the evaluation's crop has
_TRIES = 10


class Images(Protocol):
    """Pictures by number, in memory or in files.

    Attributes:
        labels: int64 (N,).
        shape: (C, S, S).
    """

    labels: Tensor
    shape: tuple[int, int, int]

    def __len__(self) -> int: ...

    def evaluated(self, index: Index) -> Tensor:
        """As the evaluation shows them, float32 (B, C, S, S) in [0, 1]."""
        ...

    def trained(self, index: Index, seeds: Array) -> Tensor:
        """As the training shows them, a function of a seed for each."""
        ...

    def read(self, path: Path) -> Any:
        """A generated picture, to be held by :class:`GrowingItems`."""
        ...

    def held(self, kept: Sequence[Any], seeds: Array | None) -> Tensor:
        """Generated pictures as training shows them; without seeds whole, as they were made."""
        ...


class PixelImages:
    """Images in memory; the training shows them as they are.

    Args:
        pixels: uint8 (N, C, S, S).
        labels: int64 (N,).
    """

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels, labels
        self.shape: tuple[int, int, int] = tuple(pixels.shape[1:])  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.labels)

    def evaluated(self, index: Index) -> Tensor:
        return self.pixels[torch.as_tensor(np.asarray(index), dtype=torch.long)] / 255

    def trained(self, index: Index, seeds: Array) -> Tensor:
        return self.evaluated(index)

    def read(self, path: Path) -> Tensor:
        channels, side, _ = self.shape
        picture = read_picture(path).convert("L" if channels == 1 else "RGB")
        if picture.size != (side, side):
            raise ValueError(
                f"{path} has {picture.width} x {picture.height} pixels, the training images {side} x {side}"
            )
        pixels = np.asarray(picture)
        return torch.from_numpy(pixels.copy()).view(side, side, channels).permute(2, 0, 1).contiguous()

    def held(self, kept: Sequence[Tensor], seeds: Array | None) -> Tensor:
        return torch.stack(list(kept)) / 255


class FileImages:
    """Pictures in files, decoded when they are asked for.

    Training: a random part of 8 to 100 % of the area and an aspect of 3/4 to 4/3, bicubic to the side.
    Evaluation: the shorter side to size / .875, the centre. Without random crops the training has
    real pictures as the evaluation, and generated ones, which vary such a centre, whole.

    Args:
        root: folder that the names are relative to.
        paths: relative names, an array of bytes: a million texts are copied into every worker.
        labels: one each.
        size: S.
        random_crops: of the training.
    """

    def __init__(
        self, root: Path, paths: Array, labels: Tensor, size: int, random_crops: bool = True
    ) -> None:
        self.root, self.paths, self.labels, self.size = root, paths, labels, size
        self.random_crops = random_crops
        self.shape = (3, size, size)

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Where a picture lies."""
        return self.root / os.fsdecode(self.paths[index])

    def evaluated(self, index: Index) -> Tensor:
        return self._stacked([self._centre(read_rgb(self.path(int(i)))) for i in index])

    def trained(self, index: Index, seeds: Array) -> Tensor:
        if not self.random_crops:
            return self.evaluated(index)
        return self._stacked(
            [self._random(read_rgb(self.path(int(i))), int(s)) for i, s in zip(index, seeds, strict=True)]
        )

    def read(self, path: Path) -> Path:
        return path

    def held(self, kept: Sequence[Path], seeds: Array | None) -> Tensor:
        if seeds is None or not self.random_crops:
            side = (self.size, self.size)
            return self._stacked([read_rgb(p).resize(side, Image.Resampling.BICUBIC) for p in kept])
        return self._stacked([self._random(read_rgb(p), int(s)) for p, s in zip(kept, seeds, strict=True)])

    @staticmethod
    def _stacked(pictures: Sequence[Image.Image]) -> Tensor:
        pixels = np.stack([np.asarray(p) for p in pictures])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() / 255

    def _centre(self, picture: Image.Image) -> Image.Image:
        shorter = round(self.size / _SHOWN)
        scale = shorter / min(picture.size)
        width, height = (max(shorter, round(x * scale)) for x in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        return picture.crop((left, top, left + self.size, top + self.size))

    def _random(self, picture: Image.Image, seed: int) -> Image.Image:
        left, top, width, height = random_part(picture.size, np.random.default_rng(seed))
        box = (left, top, left + width, top + height)
        return picture.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)


def random_part(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, width and height of ImageNet's random crop (Szegedy et al. 2015): ten tries, then the
    largest centred part of an allowed aspect."""
    full_width, full_height = size
    for _ in range(_TRIES):
        area = full_width * full_height * rng.uniform(*_SCALE)
        aspect = np.exp(rng.uniform(*np.log(_RATIO)))
        width, height = round(float(np.sqrt(area * aspect))), round(float(np.sqrt(area / aspect)))
        if 0 < width <= full_width and 0 < height <= full_height:
            left = int(rng.integers(full_width - width + 1))
            return left, int(rng.integers(full_height - height + 1)), width, height
    width = min(full_width, round(full_height * _RATIO[1]))
    height = min(full_height, round(full_width / _RATIO[0]))
    return (full_width - width) // 2, (full_height - height) // 2, width, height


class EvaluatedItems(BatchItems):
    """Some of the images as the evaluation shows them.

    Args:
        images: all.
        members: which.
    """

    def __init__(self, images: Images, members: Index | None = None) -> None:
        self.images = images
        self.members = np.arange(len(images)) if members is None else np.asarray(members, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.members)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        index = batch_keys(keys)[1]
        rows = self.members[index]
        return {
            "image": self.images.evaluated(rows),
            "label": self.images.labels[torch.from_numpy(rows)],
            "index": torch.from_numpy(index),
        }


class GrowingItems(BatchItems):
    """The training images: first the real ones, then what was generated, in its order, then what returned.

    Args:
        images: all real training images.
        members: which of them are trained on from the beginning.
    """

    def __init__(self, images: Images, members: Index) -> None:
        self.images = images
        self.members = np.asarray(members, dtype=np.int64)
        self.returned = np.empty(0, dtype=np.int64)
        self.generated: list[Any] = []
        self.generated_labels: list[int] = []

    def __len__(self) -> int:
        return len(self.members) + len(self.generated) + len(self.returned)

    def append(self, paths: Sequence[Path], labels: Sequence[int]) -> None:
        """Take in generated pictures."""
        self.generated += [self.images.read(path) for path in paths]
        self.generated_labels += [int(label) for label in labels]

    def give_back(self, members: Index) -> None:
        """Take in the part that was held out.

        Raises:
            ValueError: where it has been taken in before.
        """
        if len(self.returned):
            raise ValueError("the held-out images are in the training set already")
        self.returned = np.asarray(members, dtype=np.int64)

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        epochs, index = batch_keys(keys)
        seeds = item_seeds(global_seed(), epochs, index)
        first, after = len(self.members), len(self.members) + len(self.generated)
        made = (index >= first) & (index < after)
        real = np.concatenate([self.members, np.full(len(self.generated), -1), self.returned])[index]
        image = torch.empty(len(index), *self.images.shape)
        label = torch.empty(len(index), dtype=torch.long)
        if not made.all():
            rows = torch.from_numpy(np.flatnonzero(~made))
            image[rows] = self.images.trained(real[~made], seeds[~made])
            label[rows] = self.images.labels[torch.from_numpy(real[~made])]
        if made.any():
            rows = torch.from_numpy(np.flatnonzero(made))
            places = (index[made] - first).tolist()
            image[rows] = self.images.held([self.generated[i] for i in places], seeds[made])
            label[rows] = torch.tensor([self.generated_labels[i] for i in places])
        return {
            "image": image,
            "label": label,
            "index": torch.from_numpy(index),
            "generated": torch.from_numpy(made),
        }


class GrowingSampler:
    """Batches of an epoch of a set that may be larger later, as lists of (epoch, index).

    Uniform over all items: a permutation of (seed, epoch), the last partial batch left out.

    Args:
        size: items of this epoch.
        batch_size: global, over all processes.
        epoch: from 0, in which the set got its size.
        seed: of the permutations.
        rank: this process takes items rank, rank + world_size, ... of each batch.
        world_size: number of processes.
        limit: cut the epoch after so many batches, or, of a float, that share of them.
        position: tells how many batches since the beginning of that epoch the training has had when an
            iteration begins; it may be in a later epoch of the same size.

    Raises:
        ValueError: if the data hold less than one batch or ``world_size`` does not divide the batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        epoch: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        limit: int | float | None = None,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                "data.init_args.batch_size is global and must be a positive multiple of the number of "
                f"devices, got {batch_size} for {world_size}"
            )
        if size < batch_size:
            raise ValueError(
                f"data.init_args.batch_size is {batch_size}, but the training data hold {size} items"
            )
        self.size, self.batch_size, self.epoch, self.seed = size, batch_size, epoch, seed
        self.rank, self.world_size, self._position = rank, world_size, position
        self.whole = size // batch_size
        self.batches = batches_of_an_epoch(self.whole, limit)
        self._length = self.whole if isinstance(limit, float) else self.batches

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        later, position = divmod(self._position(), self.batches)
        return self._batches(self.epoch + later, position)

    def _batches(self, epoch: int, position: int) -> Iterator[list[tuple[int, int]]]:
        order = item_generator(self.seed, epoch).permutation(self.size)
        for place in range(position, self.batches):
            batch = order[place * self.batch_size : (place + 1) * self.batch_size]
            yield [(epoch, int(i)) for i in batch[self.rank :: self.world_size]]


class GrowingLoader(TrainLoader):
    """A loader that goes on where the epoch stands. How many items it has, the data module keeps."""

    batch_sampler: GrowingSampler

    def state_dict(self) -> dict[str, int]:
        return {"batch_size": self.batch_sampler.batch_size}
