"""Attackers without a ball of their own choice: SPSA and Spatial."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from zoo.caa.attack import Outcome, Setting, Start
from zoo.caa.draws import derived, image_keys, signs
from zoo.caa.victim import Victim

SPSA_EPS = 16 / 255
SPSA_STEPS, SPSA_DIRECTIONS = 100, 128
_SPSA_DELTA, _SPSA_RATE = 0.01, 0.01
_ROWS = 16384  # images in one pass of SPSA
GRID = 5
_SHIFT, _ANGLE = 5.0, 31.0
SPATIAL_TRIALS = GRID**3


def spsa(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """Gradients from differences (Uesato et al., ICML 2018): 100 Adam steps down z_y - max_{j != y} z_j.

    The gradient is the mean over 128 directions v in {-1, +1}^(C, H, W), the same for all images, of
    (L(x + 0.01 v) - L(x - 0.01 v)) / (0.02 v); |delta| <= 16/255 and x + delta in [0, 1]. No backward pass,
    25,600 forward passes an image; neither magnitude nor steps are used.
    """
    part = max(1, _ROWS // (2 * SPSA_DIRECTIONS))
    pieces = [_spsa(victim, start.rows(torch.arange(i, min(i + part, len(start)))), setting)
              for i in range(0, len(start), part)]  # fmt: skip
    return Outcome(torch.cat(pieces), free=True)


def _spsa(victim: Victim, start: Start, setting: Setting) -> Tensor:
    image, shape = start.image, start.image.shape[1:]
    delta = torch.zeros_like(image)
    optimizer = torch.optim.Adam([delta], lr=_SPSA_RATE)
    rows = start.rows(torch.arange(len(start)).repeat_interleave(2 * SPSA_DIRECTIONS))
    for i in range(SPSA_STEPS):
        numbers = torch.arange(SPSA_DIRECTIONS, device=image.device)
        v = signs(derived(image_keys(i, numbers), 3), shape)
        both = _SPSA_DELTA * torch.cat([v, -v])  # (256, C, H, W)
        tried = ((image + delta)[:, None] + both).flatten(0, 1)
        losses = -rows.lead(victim.logits(tried)).view(len(image), 2, SPSA_DIRECTIONS)
        slopes = (losses[:, 0] - losses[:, 1]) / (2 * _SPSA_DELTA)
        delta.grad = torch.einsum("nd,dchw->nchw", slopes, v) / SPSA_DIRECTIONS  # 1 / v = v
        optimizer.step()
        delta.clamp_(-SPSA_EPS, SPSA_EPS)
        delta.copy_((image + delta).clamp(0, 1) - image)
    return (image + delta).clamp(0, 1)


def spatial(victim: Victim, start: Start, setting: Setting) -> Outcome:
    """The worst of 5 x 5 x 5 shifts by up to 5 pixels and turns by up to 31 degrees (Engstrom et al. 2019).

    Bilinear, black outside. A misclassified trial wins over others, among those the one of greatest
    cross-entropy. 125 forward passes, no backward.
    """
    best = start.image.clone()
    value = start.image.new_full((len(start),), -math.inf)
    fooled = torch.zeros(len(start), dtype=torch.bool, device=best.device)
    shifts, turns = torch.linspace(-_SHIFT, _SHIFT, GRID), torch.linspace(-_ANGLE, _ANGLE, GRID)
    for down in shifts.tolist():
        for right in shifts.tolist():
            for turn in turns.tolist():
                moved = turned(start.image, down, right, turn)
                logits = victim.logits(moved)
                loss, wrong = start.entropy(logits), start.reached(logits)
                better = (wrong & ~fooled) | ((wrong == fooled) & (loss > value))
                best[better], value[better] = moved[better], loss[better]
                fooled |= wrong
    return Outcome(best, fooled, free=True)


def turned(images: Tensor, down: float, right: float, degrees: float) -> Tensor:
    """Images (N, C, H, W) turned about their centre, then shifted by pixels; black comes in."""
    height, width = images.shape[2:]
    a = math.radians(degrees)
    # affine_grid says where an output pixel comes from, in coordinates that run from -1 to 1 along each side
    cos, sin = math.cos(a), math.sin(a)
    x, y = -2 * right / width, -2 * down / height
    ratio = height / width
    rows = [
        [cos, sin * ratio, cos * x + sin * ratio * y],
        [-sin / ratio, cos, -sin / ratio * x + cos * y],
    ]
    theta = images.new_tensor(rows).expand(len(images), 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    ).clamp(0, 1)
