"""Augmentation of spectrograms and frames. Every draw comes from the generator that is passed in, which
belongs to (seed, epoch, index)."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def spec_augment(
    spectrogram: Tensor,
    rng: np.random.Generator,
    time_masks: int = 1,
    time_width: int = 192,
    frequency_masks: int = 1,
    frequency_width: int = 48,
) -> Tensor:
    """SpecAugment of a normalised spectrogram (T, M): masked cells are 0, the mean.

    A mask's width is uniform on 0..max (at most the side), then its start uniform on what is left.
    """
    masked = spectrogram.clone()
    for axis, count, most in ((0, time_masks, time_width), (1, frequency_masks, frequency_width)):
        side = spectrogram.shape[axis]
        for _ in range(count):
            width = int(rng.integers(min(most, side) + 1))
            start = int(rng.integers(side - width + 1))
            masked.narrow(axis, start, width).zero_()
    return masked


def centre_frames(frames: Tensor, size: int) -> Tensor:
    """uint8 (T, H, W, 3) -> float (3, T, S, S) in [-1, 1]: the shorter side resized to S 256 / 224, centre
    crop."""
    x = _resized(_planes(frames), round(size * 256 / 224))
    top, left = (x.shape[2] - size) // 2, (x.shape[3] - size) // 2
    return (x[:, :, top : top + size, left : left + size] * 2 - 1).transpose(0, 1).contiguous()


def augment_frames(
    frames: Tensor, rng: np.random.Generator, size: int, flip: bool = True, colour: bool = True
) -> Tensor:
    """The paper's augmentation, one draw for all frames of a clip; (T, H, W, 3) -> (3, T, S, S) in [-1, 1].

    Shorter side to S 256 / 224, scale U(0.9, 1.33), random crop S, flip; with probability 0.8 colour jitter,
    with 0.1 grey.
    """
    x = _planes(frames)
    side = round(size * 256 / 224)
    scale, across, down = rng.uniform(0.9, 1.33), rng.random(), rng.random()
    flipped, jittered, grey = rng.random() < 0.5, rng.random() < 0.8, rng.random() < 0.1
    x = _resized(x, max(size, round(side * scale)))
    top = int(down * (x.shape[2] - size + 1))
    left = int(across * (x.shape[3] - size + 1))
    x = x[:, :, top : top + size, left : left + size]
    if flip and flipped:
        x = x.flip(3)
    if colour and jittered:
        x = jitter(
            x,
            brightness=rng.uniform(-32 / 255, 32 / 255),
            saturation=rng.uniform(0.6, 1.4),
            hue=rng.uniform(-0.2, 0.2),
            contrast=rng.uniform(0.6, 1.4),
        )
    if colour and grey:
        x = luminance(x).expand(-1, 3, -1, -1)
    return (x * 2 - 1).transpose(0, 1).contiguous()


def jitter(x: Tensor, brightness: float, saturation: float, hue: float, contrast: float) -> Tensor:
    """Brightness, saturation, hue and contrast in this order; x (T, 3, H, W) in [0, 1].

    Hue is a share of the colour circle; contrast stretches around each channel's mean.
    """
    x = (x + brightness).clamp(0, 1)
    h, s, v = rgb_to_hsv(x)
    x = hsv_to_rgb((h + hue) % 1.0, (s * saturation).clamp(0, 1), v)
    mean = x.mean(dim=(2, 3), keepdim=True)
    return ((x - mean) * contrast + mean).clamp(0, 1)


def luminance(x: Tensor) -> Tensor:
    """0.2989 R + 0.587 G + 0.114 B, (T, 1, H, W)."""
    weights = x.new_tensor([0.2989, 0.587, 0.114])[:, None, None]
    return (x * weights).sum(dim=1, keepdim=True)


def rgb_to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value (T, H, W) in [0, 1] of (T, 3, H, W)."""
    r, g, b = x.unbind(1)
    v, least = x.amax(dim=1), x.amin(dim=1)
    span = v - least
    safe = torch.where(span > 0, span, 1)
    h = torch.where(v == r, (g - b) / safe, torch.where(v == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    return (h / 6) % 1.0, torch.where(v > 0, span / torch.where(v > 0, v, 1), 0), v


def hsv_to_rgb(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """(T, 3, H, W) of hue, saturation and value."""

    def channel(n: int) -> Tensor:
        k = (n + 6 * h) % 6
        return v - v * s * torch.minimum(k, 4 - k).clamp(0, 1)

    return torch.stack([channel(5), channel(3), channel(1)], dim=1)


def _planes(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2).float() / 255


def _resized(x: Tensor, shorter: int) -> Tensor:
    h, w = x.shape[2:]
    scale = shorter / min(h, w)
    size = (max(shorter, math.floor(h * scale + 0.5)), max(shorter, math.floor(w * scale + 0.5)))
    if size == (h, w):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
