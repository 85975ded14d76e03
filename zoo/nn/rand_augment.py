"""RandAugment (Cubuk et al., NeurIPS 2020) as timm has it, pixel for pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from zoo.nn import pillow_operations as pillow
from zoo.nn.pillow_operations import Interpolation, Operation
from zoo.nn.ranges import Depth, Fraction, NonNegative, check_ranges

LEVELS = 10.0
"""The largest magnitude."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
_OF_LEVELS: dict[str, Operation] = {
    "AutoContrast": pillow.auto_contrast,
    "Equalize": pillow.equalize,
    "Invert": pillow.invert,
    "Posterize": pillow.posterize,
    "Solarize": pillow.solarize,
    "SolarizeAdd": pillow.solarize_add,
    "Color": pillow.color,
    "Contrast": pillow.contrast,
    "Brightness": pillow.brightness,
    "Sharpness": pillow.sharpness,
}
OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
)
"""In timm's order; its translations are the relative ones."""


def value_of(name: str, level: Tensor, sign: Tensor, increasing: bool = False) -> Tensor:
    """What an operation gets for a level of 0 to 10, timm's.

    Args:
        name: of :data:`OPERATIONS`.
        level: (N,).
        sign: 1 or -1, (N,).
        increasing: a larger level changes more; else ``Posterize`` and ``Solarize`` change less, and the
            four blends run from .1 to 1.9.

    Returns:
        degrees of ``Rotate`` (to 30), bits of ``Posterize``, level of ``Solarize``, addend of ``SolarizeAdd``
        (to 110), factors of the blends, slopes of the shears (to .3), shares of the side of the translations
        (to .45); 0 for the others.
    """
    share = level / LEVELS
    if name == "Rotate":
        return share * 30 * sign
    if name in ("ShearX", "ShearY"):
        return share * 0.3 * sign
    if name in ("TranslateX", "TranslateY"):
        return share * 0.45 * sign
    if name == "Posterize":
        bits = (share * 4).trunc()
        return 4 - bits if increasing else bits
    if name == "Solarize":
        threshold = (share * 256).trunc().clamp(max=256)
        return 256 - threshold if increasing else threshold
    if name == "SolarizeAdd":
        return (share * 110).trunc().clamp(max=128)
    if name in ("Color", "Contrast", "Brightness", "Sharpness"):
        return (1 + share * 0.9 * sign).clamp(min=0.1) if increasing else share * 1.8 + 0.1
    return torch.zeros_like(level)


def _maps(name: str, value: Tensor, height: int, width: int) -> Tensor:
    """The affine maps (N, 6) of an operation for values (N,)."""
    if name == "Rotate":
        rows = [pillow.rotation(v, height, width) for v in value.tolist()]
        return torch.tensor(rows, dtype=torch.float64)
    maps = torch.tensor([1.0, 0, 0, 0, 1, 0], dtype=torch.float64).repeat(len(value), 1)
    place, unit = {"ShearX": (1, 1), "ShearY": (3, 1), "TranslateX": (2, width), "TranslateY": (5, height)}[
        name
    ]
    maps[:, place] = value * unit
    return maps


class RandAugment:
    """``layers`` operations on each image, each one of :data:`OPERATIONS`, done with a probability, with a
    level drawn from N(``magnitude``, ``std``^2) and cut to 0..10: timm's ``rand-m9-mstd0.5``.

    Args:
        magnitude: mean of the levels, up to 10.
        std: of the levels; 0 makes them all ``magnitude``.
        layers: operations one after another, drawn with replacement.
        probability: of doing one.
        increasing: see :func:`value_of`; timm's ``inc1``.
        fill: colour where an image ends, each channel in [0, 1]; timm takes the mean of the data set.
        interpolation: of rotations, shears and translations.

    Raises:
        ValueError: for numbers out of their ranges.
    """

    def __init__(
        self,
        magnitude: NonNegative = 9.0,
        std: NonNegative = 0.5,
        layers: Depth = 2,
        probability: Fraction = 0.5,
        increasing: bool = False,
        fill: Sequence[Fraction] = IMAGENET_MEAN,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        check_ranges(RandAugment, locals())
        if magnitude > LEVELS:
            raise ValueError(f"RandAugment.magnitude is {magnitude}, but levels end at {LEVELS:g}")
        if interpolation not in get_args(Interpolation):
            raise ValueError(f"RandAugment.interpolation must be bilinear or bicubic, got {interpolation!r}")
        self.magnitude, self.std, self.layers, self.probability = magnitude, std, layers, probability
        self.increasing, self.interpolation = increasing, interpolation
        self.fill = [round(255 * f) for f in fill]
        self.columns = 4 * layers

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Images in [0, 1] with one or three channels -> such images, rounded to 256 levels.

        Args:
            images: (B, C, H, W) on any device.
            u: uniform (B, ``columns``) on the CPU: of each layer which, whether, how much, which way.

        Raises:
            ValueError: for images outside of [0, 1] or NaN, or channels that ``fill`` has no colour for.
        """
        levels = self._levels(images)
        for part in u.double().split(4, dim=1):
            which, whether, amount, way = part.unbind(1)
            chosen = (which * len(OPERATIONS)).long()
            done = whether < self.probability
            level = (self.magnitude + self.std * torch.special.ndtri(amount)).clamp(0, LEVELS)
            sign = torch.where(way > 0.5, -1.0, 1.0).double()
            for place in sorted(set(chosen[done].tolist())):
                rows = (done & (chosen == place)).nonzero()[:, 0]
                value = value_of(OPERATIONS[place], level[rows], sign[rows], self.increasing)
                at = rows.to(levels.device)
                levels[at] = self.operation(OPERATIONS[place], levels[at], value)
        return levels.to(images.dtype) / 255

    def operation(self, name: str, levels: Tensor, value: Tensor) -> Tensor:
        """One operation on levels (N, C, H, W) with values (N,)."""
        if name in _OF_LEVELS:
            return _OF_LEVELS[name](levels, value.to(levels.device))
        return pillow.affine(levels, _maps(name, value, *levels.shape[2:]), self.fill, self.interpolation)

    def _levels(self, images: Tensor) -> Tensor:
        channels = images.shape[1]
        if channels not in (1, 3) or channels != len(self.fill):
            raise ValueError(
                f"RandAugment has a fill of {len(self.fill)} channels, the images have {channels}; it takes "
                "one or three"
            )
        low, high = (float(v) for v in images.aminmax())
        if not (low >= 0 and high <= 1):  # NaN too
            raise ValueError(f"RandAugment takes images in [0, 1], these have {low:g} to {high:g}")
        return (images * 255).round().to(torch.uint8)
