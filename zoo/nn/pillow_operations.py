"""Operations of Pillow on batches of images, rounding included, so that any device sees the same pictures.

They take levels, uint8 (N, C, H, W) with one or three channels, and a number for each image, and give levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]
Operation = Callable[[Tensor, Tensor], Tensor]


# --- a table of 256 levels for each channel of each image ---------------------------------------------------


def _looked_up(levels: Tensor, table: Tensor) -> Tensor:
    """Levels through tables (N, C, 256)."""
    return table.gather(2, levels.flatten(2).long()).view_as(levels)


def _histograms(levels: Tensor) -> Tensor:
    """Counts of the levels, int64 (N, C, 256)."""
    n, c = levels.shape[:2]
    place = torch.arange(n * c, device=levels.device).view(n, c, 1) * 256
    return torch.bincount((levels.flatten(2) + place).flatten(), minlength=n * c * 256).view(n, c, 256)


def auto_contrast(levels: Tensor, value: Tensor) -> Tensor:
    """Each channel stretched from its darkest and brightest level to 0 and 255; a flat one stays."""
    low = levels.flatten(2).amin(dim=2, keepdim=True).double()
    high = levels.flatten(2).amax(dim=2, keepdim=True).double()
    scale = 255.0 / (high - low).clamp(min=1)
    own = torch.arange(256, device=levels.device, dtype=torch.float64)
    stretched = (own * scale + -low * scale).trunc().clamp(0, 255)
    return _looked_up(levels, torch.where(high > low, stretched, own).to(torch.uint8))


def equalize(levels: Tensor, value: Tensor) -> Tensor:
    """Each channel's histogram made even; one of fewer than 255 pixels besides its brightest level stays."""
    counts = _histograms(levels)
    own = torch.arange(256, device=levels.device)
    last = torch.where(counts > 0, own, 0).amax(dim=2, keepdim=True)
    step = (counts.sum(dim=2, keepdim=True) - counts.gather(2, last)) // 255
    before = counts.cumsum(dim=2) - counts
    even = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    return _looked_up(levels, torch.where(step > 0, even, own).to(torch.uint8))


def invert(levels: Tensor, value: Tensor) -> Tensor:
    """255 - level."""
    return 255 - levels


def posterize(levels: Tensor, value: Tensor) -> Tensor:
    """The ``value`` highest bits stay; of 0 bits, which Pillow now refuses, a black image."""
    unit = (2 ** (8 - _of_image(value, torch.int32))).to(torch.int32)
    return (levels.to(torch.int32) // unit * unit).to(torch.uint8)


def solarize(levels: Tensor, value: Tensor) -> Tensor:
    """Levels from ``value`` on are inverted."""
    return torch.where(levels.to(torch.int32) < _of_image(value, torch.int32), levels, 255 - levels)


def solarize_add(levels: Tensor, value: Tensor) -> Tensor:
    """``value`` is added to levels below 128, up to 255."""
    added = (levels.to(torch.int32) + _of_image(value, torch.int32)).clamp(max=255).to(torch.uint8)
    return torch.where(levels < 128, added, levels)


def _of_image(value: Tensor, kind: torch.dtype) -> Tensor:
    return value.to(kind).view(-1, 1, 1, 1)


# --- blends with something plainer --------------------------------------------------------------------------


def _blended(plain: Tensor, levels: Tensor, value: Tensor) -> Tensor:
    """plain + value (level - plain) in single precision, cut to 0..255 and rounded down."""
    plain, own = plain.float(), levels.float()
    return (plain + _of_image(value, torch.float32) * (own - plain)).clamp(0, 255).to(torch.uint8)


def _grey(levels: Tensor) -> Tensor:
    """Pillow's grey (N, 1, H, W), ITU-R 601 in 16 bits; one channel is grey already."""
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.to(torch.int32).split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8)


def color(levels: Tensor, value: Tensor) -> Tensor:
    """From grey (0) to the image (1) and beyond."""
    return _blended(_grey(levels).expand_as(levels), levels, value)


def contrast(levels: Tensor, value: Tensor) -> Tensor:
    """From the mean grey (0) to the image (1) and beyond."""
    grey = _grey(levels).flatten(1).to(torch.int64)
    count = grey.shape[1]
    mean = (2 * grey.sum(dim=1) + count) // (2 * count)
    return _blended(_of_image(mean, torch.float32).expand_as(levels), levels, value)


def brightness(levels: Tensor, value: Tensor) -> Tensor:
    """From black (0) to the image (1) and beyond."""
    return _blended(torch.zeros_like(levels), levels, value)


def sharpness(levels: Tensor, value: Tensor) -> Tensor:
    """From a blurred image (0) to the image (1) and beyond: 3 x 3 ones with 5 in the middle, by 13; the edge
    is not blurred."""
    height, width = levels.shape[2:]
    if min(height, width) < 3:
        return levels
    wide = levels.to(torch.int32)
    total = 4 * wide[:, :, 1:-1, 1:-1]
    for top in range(3):
        for left in range(3):
            total = total + wide[:, :, top : height - 2 + top, left : width - 2 + left]
    blurred = levels.clone()
    blurred[:, :, 1:-1, 1:-1] = ((2 * total + 13) // 26).to(torch.uint8)
    return _blended(blurred, levels, value)


# --- affine maps --------------------------------------------------------------------------------------------


def affine(levels: Tensor, matrix: Tensor, fill: Sequence[int], interpolation: Interpolation) -> Tensor:
    """Pixel (x, y) of the result is that of the image at (a x + b y + c, d x + e y + f), centres at halves.

    Args:
        levels: uint8 (N, C, H, W).
        matrix: float64 (N, 6), a to f, Pillow's.
        fill: level of each channel where the image ends.
        interpolation: of levels; both cut off what is behind the point, and the edge goes on.

    Shapes:
        -> uint8 (N, C, H, W)
    """
    n, c, height, width = levels.shape
    x, y = (torch.arange(s, device=levels.device, dtype=torch.float64) + 0.5 for s in (width, height))
    a, b, c0, d, e, f = (m[:, None, None] for m in matrix.to(levels.device, torch.float64).unbind(1))
    at_x = a * x + b * y[:, None] + c0  # (N, H, W)
    at_y = d * x + e * y[:, None] + f
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    left, top = (at_x - 0.5).floor(), (at_y - 0.5).floor()
    dx, dy = (at_x - 0.5 - left)[:, None], (at_y - 0.5 - top)[:, None]
    flat = levels.flatten(2)

    def row(down: int) -> list[Tensor]:
        line = (top.long() + down).clamp(0, height - 1) * width
        taps = range(-1, 3) if interpolation == "bicubic" else range(2)
        return [
            flat.gather(
                2, (line + (left.long() + right).clamp(0, width - 1)).view(n, 1, -1).expand(-1, c, -1)
            )
            .view_as(levels)
            .double()
            for right in taps
        ]

    if interpolation == "bicubic":
        found = _cubic([_cubic(row(down), dx) for down in range(-1, 3)], dy)
    else:
        upper, lower = (v[0] + (v[1] - v[0]) * dx for v in (row(0), row(1)))
        found = upper + (lower - upper) * dy
    outside = torch.tensor(fill, dtype=torch.uint8, device=levels.device).view(1, -1, 1, 1)
    return torch.where(inside[:, None], found.clamp(0, 255).to(torch.uint8), outside)


def _cubic(v: list[Tensor], d: Tensor) -> Tensor:
    """Cubic convolution with a = -1, as Pillow's maps have it (its resize has -1/2)."""
    p2, p3, p4 = v[2] - v[0], 2 * (v[0] - v[1]) + v[2] - v[3], -v[0] + v[1] - v[2] + v[3]
    return v[1] + d * (p2 + d * (p3 + d * p4))


def rotation(degrees: float, height: int, width: int) -> list[float]:
    """The map that turns an image about its middle, counter-clockwise."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return [cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y]
