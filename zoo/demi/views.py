"""Views of images as functions of given numbers: augmentations, and restricted subviews x''.

All take uniform numbers in (0, 1), so that a view is a function of (seed, step, row) and of no generator.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from zoo.nn.rand_augment import RandAugment

Subview = Literal["cutout", "crop", "mask", "lowres"]
Augmentation = Literal["digits", "photo", "infomin"]
DRAWS = 24
"""Uniform numbers of one view of one image, beside the pixels' noise."""
_RAND = RandAugment(magnitude=10, std=0.5, layers=2)


def placed(images: Tensor, matrix: Tensor) -> Tensor:
    """Images (B, C, H, W) seen through affine maps (B, 2, 3) of [-1, 1]^2; the edge goes on outside."""
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def digit_view(images: Tensor, u: Tensor, noise: Tensor) -> Tensor:
    """Rotated by up to 20 degrees, scaled by .8 to 1.2, moved by up to 1.2 pixels, noise of .05 of the range.

    Args:
        images: (B, C, S, S) in [-1, 1].
        u: uniform (B, ``DRAWS``).
        noise: standard normal, as the images.
    """
    angle = (2 * u[:, 0] - 1) * math.radians(20)
    scale = 0.8 + 0.4 * u[:, 1]
    shift = (2 * u[:, 2:4] - 1) * 1.2 * 2 / images.shape[-1]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return placed(images, torch.cat([matrix, shift[:, :, None]], dim=2)) + 0.1 * noise


def cropped(images: Tensor, area: Tensor, log_ratio: Tensor, at: Tensor, flip: Tensor) -> Tensor:
    """Rectangles of a share of the picture's area, resized to its size.

    Args:
        images: (B, C, S, S).
        area: share (B,).
        log_ratio: log of width by height (B,).
        at: uniform (B, 2), where the free room is left.
        flip: bool (B,).
    """
    width = (area * log_ratio.exp()).sqrt().clamp(max=1)
    height = (area / log_ratio.exp()).sqrt().clamp(max=1)
    x, y = (2 * at[:, 0] - 1) * (1 - width), (2 * at[:, 1] - 1) * (1 - height)
    sign = 1 - 2 * flip.float()
    zero = torch.zeros_like(x)
    rows = [torch.stack([sign * width, zero, x], 1), torch.stack([zero, height, y], 1)]
    return placed(images, torch.stack(rows, dim=1))


def photo_view(images: Tensor, u: Tensor, rand_augment: bool = False) -> Tensor:
    """InfoMin's view: a crop of 20 to 100 %, a flip, colour, blur in a half, RandAugment, grey in a fifth.

    Colour: brightness, contrast and saturation by 1 +- .8, hue by up to .2 turns of the chroma plane, all
    in four fifths of the views. RandAugment: two operations at 10 of 10, deviation .5, each done in a half.
    """
    ratio = (2 * u[:, 1] - 1) * math.log(4 / 3)
    x = cropped(images, 0.2 + 0.8 * u[:, 0], ratio, u[:, 2:4], u[:, 4] < 0.5)
    if images.shape[1] == 3:
        changed = _coloured((x + 1) / 2, u[:, 5:9]) * 2 - 1
        x = torch.where((u[:, 9] < 0.8)[:, None, None, None], changed, x)
    sigma = 0.1 + 1.9 * u[:, 12]
    x = torch.where((u[:, 11] < 0.5)[:, None, None, None], _blurred(x, sigma), x)
    if rand_augment:
        own = u[:, DRAWS - _RAND.columns :].cpu()
        x = 2 * _RAND(((x + 1) / 2).clamp(0, 1), own).to(x) - 1
    if images.shape[1] == 3:
        grey = (u[:, 10] < 0.2)[:, None, None, None]
        x = torch.where(grey, _luma(x).expand_as(x), x)
    return x


def _luma(x: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype, device=x.device)
    return (x * weights[:, None, None]).sum(dim=1, keepdim=True)


def _coloured(x: Tensor, u: Tensor) -> Tensor:
    """Of [0, 1]: brightness, contrast, saturation, then the chroma turned in YIQ."""
    factor = (0.2 + 1.6 * u[:, :3])[:, :, None, None, None]
    x = (x * factor[:, 0]).clamp(0, 1)
    mean = _luma(x).mean(dim=(2, 3), keepdim=True)
    x = (mean + (x - mean) * factor[:, 1]).clamp(0, 1)
    grey = _luma(x)
    x = (grey + (x - grey) * factor[:, 2]).clamp(0, 1)
    to = x.new_tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle = 2 * math.pi * 0.2 * (2 * u[:, 3] - 1)
    turn = torch.zeros(len(x), 3, 3, dtype=x.dtype, device=x.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1], turn[:, 1, 2], turn[:, 2, 1], turn[:, 2, 2] = (
        angle.cos(),
        -angle.sin(),
        angle.sin(),
        angle.cos(),
    )
    whole = torch.linalg.inv(to) @ turn @ to
    return torch.einsum("bij,bjhw->bihw", whole, x).clamp(0, 1)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of each image's own width, radius about a twentieth of the side."""
    radius = max(1, x.shape[-1] // 20)
    steps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = (-(steps**2) / (2 * sigma[:, None] ** 2)).exp()
    kernel = kernel / kernel.sum(dim=1, keepdim=True)  # (B, 2r + 1)
    batch, channels, height, width = x.shape
    weight = kernel.repeat_interleave(channels, dim=0)[:, None]
    flat = functional.pad(x.reshape(1, -1, height, width), (radius,) * 4, mode="replicate")
    flat = functional.conv2d(flat, weight[:, :, None, :], groups=batch * channels)
    return functional.conv2d(flat, weight[:, :, :, None], groups=batch * channels).view_as(x)


def restricted(kind: Subview, images: Tensor, u: Tensor) -> Tensor:
    """x'' of x: what a subview leaves.

    ``cutout`` fills one rectangle of half of the area with the image's mean, ``mask`` half of a 4 x 4 grid of
    patches, ``crop`` shows a quarter of the area, ``lowres`` a quarter of the side.

    Args:
        kind: which.
        images: (B, C, S, S).
        u: uniform (B, ``DRAWS``).

    Raises:
        ValueError: for ``lowres`` or ``mask`` of a picture under 4 pixels.
    """
    size = images.shape[-1]
    if kind == "crop":
        zero = torch.zeros_like(u[:, 0])
        return cropped(images, zero + 0.25, zero, u[:, :2], zero > 0)
    if size < 4:
        raise ValueError(f"pictures of {size} pixels have no subview {kind}: 4 are the least")
    if kind == "lowres":
        small = functional.adaptive_avg_pool2d(images, max(1, size // 4))
        return functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    mean = images.mean(dim=(2, 3), keepdim=True)
    if kind == "mask":
        rank = u[:, :16].argsort(dim=1).argsort(dim=1)
        hidden = (rank < 8).float().view(-1, 1, 4, 4)
        hidden = functional.interpolate(hidden, size=(size, size), mode="nearest") > 0.5
    else:
        hidden = _rectangle(u[:, :3], size, images.device)
    return torch.where(hidden, mean, images)


def _rectangle(u: Tensor, size: int, device: torch.device) -> Tensor:
    """One rectangle (B, 1, S, S) of half the area, its height from 1/2 to 1 of the side."""
    height = (0.5 + 0.5 * u[:, 0]) * size
    height = height.round()
    width = (0.5 * size * size / height).round()
    top = (u[:, 1] * (size - height + 1)).floor()
    left = (u[:, 2] * (size - width + 1)).floor()
    place = torch.arange(size, device=device)
    rows = (place >= top[:, None]) & (place < (top + height)[:, None])
    columns = (place >= left[:, None]) & (place < (left + width)[:, None])
    return (rows[:, :, None] & columns[:, None, :])[:, None]
