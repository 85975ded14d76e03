"""Augmentations of images as functions of uniform numbers: a picture depends on (seed, step, row) alone.

Each has ``columns``, how many numbers an image takes; :func:`uniform` and :func:`step_uniform` draw them, on
the CPU, whatever the images are on. Colours and maps are in :mod:`zoo.nn.rand_augment`, mixtures of two
images in :mod:`zoo.nn.mixing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from zoo.nn.pillow_operations import Interpolation
from zoo.nn.ranges import Depth, Finite, Fraction, Positive, Share, Size, SizeOrZero, check_ranges
from zoo.randomness import generator, global_seed, local_rows

Fill = Literal["pixel", "colour", "constant"]
_DRAWS = 740  # first word of the keys of augmentations
_ATTEMPTS = 10


class Augmentation(Protocol):
    """What :class:`Chain` joins."""

    columns: int

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Images (B, C, H, W) and uniform numbers (B, ``columns``) of theirs -> images."""
        ...


def uniform(count: int, columns: int, *key: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 (``count``, ``columns``), a function of the key alone."""
    return torch.rand(count, columns, generator=generator(*key), dtype=torch.float64)


def step_uniform(module: LightningModule, batch_idx: int, rows: int, columns: int, stream: int = 0) -> Tensor:
    """This process's rows of the numbers of a training step, drawn for the global batch.

    Args:
        module: in training.
        batch_idx: of the batch in the epoch.
        rows: of this process.
        columns: numbers of a row.
        stream: tells several draws of one step apart.
    """
    key = (_DRAWS, global_seed(), module.trainer.global_step, batch_idx, stream)
    return local_rows(module, uniform(rows * module.trainer.world_size, columns, *key))


class Chain:
    """Augmentations one after another, each with columns of its own."""

    def __init__(self, parts: Sequence[Augmentation]) -> None:
        self.parts = list(parts)
        self.columns = sum(part.columns for part in parts)

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        for part, own in zip(self.parts, u.split([p.columns for p in self.parts], dim=1), strict=True):
            images = part(images, own)
        return images


class RandomCrop:
    """A crop at a uniform place of the picture with a border around it; torchvision's with ``padding``.

    Args:
        padding: pixels of the border on each side.
        size: side of the crop; None keeps the picture's.
        fill: of the border.

    Raises:
        ValueError: for numbers out of their ranges.
    """

    columns = 2

    def __init__(self, padding: SizeOrZero = 4, size: Size | None = None, fill: Finite = 0.0) -> None:
        check_ranges(RandomCrop, locals())
        self.padding, self.size, self.fill = padding, size, fill

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W) or (B, C, ``size``, ``size``).

        Raises:
            ValueError: for pictures smaller than the crop.
        """
        wide = torch.nn.functional.pad(images, (self.padding,) * 4, value=self.fill)
        height, width = (self.size, self.size) if self.size else images.shape[2:]
        room = torch.tensor([wide.shape[2] - height, wide.shape[3] - width], dtype=torch.float64)
        if room.min() < 0:
            raise ValueError(
                f"pictures of {images.shape[2]} x {images.shape[3]} have no crop of {height} x {width} with "
                f"{self.padding} pixels around them"
            )
        places = (u.double() * (room + 1)).long().tolist()
        crops = (image[:, t : t + height, x : x + width] for image, (t, x) in zip(wide, places, strict=True))
        return torch.stack(list(crops))


class RandomResizedCrop:
    """A rectangle of a random area and ratio, resized to a square (Inception's crop), as torchvision has it.

    The area is uniform, the ratio of width to height log-uniform; of ten tries the first that lies within the
    picture is taken, else the largest one in its middle whose ratio is allowed. The pictures of a batch have
    one size; a data module that crops photographs of their own sizes sees more of them.

    Args:
        size: side of the result.
        least: share of the area.
        most: share of the area.
        ratio: of width to height, the least; the largest is its inverse.
        interpolation: ``bicubic`` or ``bilinear``, both with antialiasing, as Pillow's.

    Raises:
        ValueError: for numbers out of their ranges.
    """

    columns = 4 * _ATTEMPTS

    def __init__(
        self,
        size: Size = 224,
        least: Share = 0.08,
        most: Share = 1.0,
        ratio: Share = 3 / 4,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        check_ranges(RandomResizedCrop, locals())
        if interpolation not in get_args(Interpolation):
            raise ValueError(
                f"RandomResizedCrop.interpolation must be bilinear or bicubic, got {interpolation!r}"
            )
        if least > most:
            raise ValueError(f"RandomResizedCrop.least is {least}, more than most: {most}")
        self.size, self.least, self.most, self.ratio = size, least, most, ratio
        self.interpolation: Interpolation = interpolation

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> (B, C, ``size``, ``size``) in [0, 1]."""
        found = []
        for image, numbers in zip(images, u.tolist(), strict=True):
            top, left, height, width = self.rectangle(numbers, *images.shape[2:])
            part = image[None, :, top : top + height, left : left + width]
            resized = torch.nn.functional.interpolate(
                part, (self.size, self.size), mode=self.interpolation, antialias=True, align_corners=False
            )
            found.append(resized.clamp(0, 1))  # a cubic overshoots
        return torch.cat(found)

    def rectangle(self, u: Sequence[float], height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of uniform numbers, four for each try: area, ratio, top, left."""
        for area, ratio, top, left in zip(*(iter(u),) * 4, strict=True):
            target = (self.least + area * (self.most - self.least)) * height * width
            by = math.exp((2 * ratio - 1) * math.log(1 / self.ratio))
            h, w = round(math.sqrt(target / by)), round(math.sqrt(target * by))
            if 0 < h <= height and 0 < w <= width:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        h = min(height, round(width / self.ratio))
        w = min(width, round(height / self.ratio))
        return (height - h) // 2, (width - w) // 2, h, w


class HorizontalFlip:
    """Mirrors left and right with a probability."""

    columns = 1

    def __init__(self, probability: Fraction = 0.5) -> None:
        check_ranges(HorizontalFlip, locals())
        self.probability = probability

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        flipped = (u[:, 0] < self.probability).to(images.device)
        return torch.where(flipped[:, None, None, None], images.flip(3), images)


class Standardise:
    """(x - mean) / std of each channel; takes no numbers."""

    columns = 0

    def __init__(self, mean: Sequence[Finite], std: Sequence[Positive]) -> None:
        check_ranges(Standardise, locals())
        self.mean, self.std = list(mean), list(std)

    def __call__(self, images: Tensor, u: Tensor | None = None) -> Tensor:
        """Raises ValueError for another number of channels than there are means."""
        if not images.shape[1] == len(self.mean) == len(self.std):
            raise ValueError(
                f"images of {images.shape[1]} channels meet {len(self.mean)} means and {len(self.std)} "
                "deviations"
            )
        mean, std = (images.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std


class RandomErasing:
    """Replaces a rectangle with a probability (Zhong et al., AAAI 2020), as timm does; after standardisation.

    The area is uniform, the ratio of height to width log-uniform; of ten tries the first that is smaller than
    the picture on both sides is taken, and none if there is none.

    Args:
        probability: of a rectangle.
        mode: ``pixel``, a standard normal number for each value; ``colour``, one for each channel;
            ``constant``, 0.
        least: share of the area.
        most: share of the area.
        ratio: of height to width, the least; the largest is its inverse.

    Raises:
        ValueError: for numbers out of their ranges.
    """

    columns = 2 + 4 * _ATTEMPTS

    def __init__(
        self,
        probability: Fraction = 0.25,
        mode: Fill = "pixel",
        least: Share = 0.02,
        most: Share = 1 / 3,
        ratio: Share = 0.3,
    ) -> None:
        check_ranges(RandomErasing, locals())
        if mode not in get_args(Fill):
            raise ValueError(f"RandomErasing.mode must be one of {', '.join(get_args(Fill))}, got {mode!r}")
        if least > most:
            raise ValueError(f"RandomErasing.least is {least}, more than most: {most}")
        self.probability, self.mode, self.least, self.most, self.ratio = probability, mode, least, most, ratio

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        images = images.clone()
        for row in (u[:, 0] < self.probability).nonzero()[:, 0].tolist():
            box = self.rectangle(u[row, 2:].tolist(), *images.shape[2:])
            if box is not None:
                top, left, height, width = box
                patch = images[row, :, top : top + height, left : left + width]
                patch.copy_(self._filled(patch, float(u[row, 1])))
        return images

    def rectangle(self, u: Sequence[float], height: int, width: int) -> tuple[int, int, int, int] | None:
        """(top, left, height, width) of uniform numbers, four for each try: area, ratio, top, left."""
        for area, ratio, top, left in zip(*(iter(u),) * 4, strict=True):
            target = (self.least + area * (self.most - self.least)) * height * width
            by = math.exp((2 * ratio - 1) * math.log(1 / self.ratio))
            h, w = round(math.sqrt(target * by)), round(math.sqrt(target / by))
            if h < height and w < width:
                return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
        return None

    def _filled(self, patch: Tensor, u: float) -> Tensor:
        if self.mode == "constant":
            return torch.zeros_like(patch)
        shape = patch.shape if self.mode == "pixel" else (len(patch), 1, 1)
        own = generator(_DRAWS, int(u * 2**53))
        return torch.randn(*shape, generator=own).to(patch).expand_as(patch)


class Jigsaw:
    """A picture in ``grid`` x ``grid`` cells, from each a crop at a uniform place, in a random order: the
    second branch of InfoMin (Tian et al., NeurIPS 2020) after PIRL (Misra and van der Maaten, CVPR 2020).

    Args:
        grid: cells on a side.
        crop: side of the crops.

    Raises:
        ValueError: for numbers out of their ranges.
    """

    def __init__(self, grid: Depth = 3, crop: Size = 64) -> None:
        check_ranges(Jigsaw, locals())
        self.grid, self.crop = grid, crop
        self.columns = 3 * grid**2

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, ``grid``^2, C, ``crop``, ``crop``).

        Raises:
            ValueError: for cells smaller than the crop.
        """
        cell = [side // self.grid for side in images.shape[2:]]
        if min(cell) < self.crop:
            raise ValueError(
                f"pictures of {images.shape[2]} x {images.shape[3]} have cells of {cell[0]} x {cell[1]}, "
                f"no crops of {self.crop}; {self.grid * self.crop} pixels are the least"
            )
        down, right, order = u.double().chunk(3, dim=1)
        place = torch.arange(self.grid)
        top = (down * (cell[0] - self.crop + 1)).long() + (place * cell[0]).repeat_interleave(self.grid)
        left = (right * (cell[1] - self.crop + 1)).long() + (place * cell[1]).repeat(self.grid)
        order = order.argsort(dim=1)
        places = torch.stack([top.gather(1, order), left.gather(1, order)], dim=2).tolist()
        side = self.crop
        crops = [
            image[:, t : t + side, x : x + side]
            for image, own in zip(images, places, strict=True)
            for t, x in own
        ]
        return torch.stack(crops).unflatten(0, (len(images), -1))
