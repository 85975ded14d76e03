"""Mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019): one of them for a batch, as timm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from zoo.nn.ranges import Fraction, NonNegative, check_ranges
from zoo.randomness import derived_seed, global_seed

_DRAWS = 741  # first word of the keys of mixtures


@dataclass(frozen=True)
class Mix:
    """What one batch is mixed by.

    Attributes:
        share: lambda, of an image's own pixels and label.
        box: (top, bottom, left, right) that CutMix takes from the partner; None of mixup.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def images(self, own: Tensor, partner: Tensor) -> Tensor:
        """lambda own + (1 - lambda) partner, or own with the partner's box; (B, C, H, W)."""
        if self.box is None:
            return own if self.share == 1 else self.share * own + (1 - self.share) * partner
        top, bottom, left, right = self.box
        mixed = own.clone()
        mixed[:, :, top:bottom, left:right] = partner[:, :, top:bottom, left:right]
        return mixed

    def targets(self, own: Tensor, partner: Tensor) -> Tensor:
        """lambda own + (1 - lambda) partner of soft targets (B, K)."""
        return self.share * own + (1 - self.share) * partner


class Mixing:
    """Draws how a batch is mixed. With a partner row for each, :func:`mirrored`, it is ::

        mix = mixing.of_step(self, batch_idx, *image.shape[2:])
        target = soft_targets(label, classes, smoothing)
        image = mix.images(image, mirrored(self, image))
        loss = soft_cross_entropy(self(image), mix.targets(target, mirrored(self, target)))

    lambda ~ Beta(a, a) with a of the kind; a CutMix box of sides (1 - lambda)^.5 about a uniform middle is
    cut at the edge, and lambda is then the share that is left.

    Args:
        mixup: a of mixup; 0 turns it off.
        cutmix: a of CutMix; 0 turns it off.
        switch: probability of CutMix where both are on.
        probability: of mixing at all.

    Raises:
        ValueError: for numbers out of their ranges.
    """

    def __init__(
        self,
        mixup: NonNegative = 0.2,
        cutmix: NonNegative = 1.0,
        switch: Fraction = 0.5,
        probability: Fraction = 1.0,
    ) -> None:
        check_ranges(Mixing, locals())
        self.mixup, self.cutmix, self.switch, self.probability = mixup, cutmix, switch, probability

    def drawn(self, height: int, width: int, *key: int) -> Mix:
        """The mixture of a batch of such images, a function of the key alone."""
        draws = np.random.default_rng(derived_seed(*key))
        whether, which, y, x = draws.random(4)
        if whether >= self.probability or not (self.mixup or self.cutmix):
            return Mix(1.0)
        cut = which < self.switch if self.mixup and self.cutmix else bool(self.cutmix)
        alpha = self.cutmix if cut else self.mixup
        share = float(draws.beta(alpha, alpha))
        return _boxed(share, height, width, float(y), float(x)) if cut else Mix(share)

    def of_step(self, module: LightningModule, batch_idx: int, height: int, width: int) -> Mix:
        """The mixture of a training step, the same on all processes."""
        return self.drawn(height, width, _DRAWS, global_seed(), module.trainer.global_step, batch_idx)


def _boxed(share: float, height: int, width: int, y: float, x: float) -> Mix:
    side = (1 - share) ** 0.5
    down, across = int(height * side) // 2, int(width * side) // 2
    middle, centre = int(y * height), int(x * width)
    top, bottom = max(middle - down, 0), min(middle + down, height)
    left, right = max(centre - across, 0), min(centre + across, width)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def mirrored(module: LightningModule, rows: Tensor) -> Tensor:
    """The partners of this process's rows: row i of the global batch meets row B - 1 - i.

    Of several processes all rows are gathered, so that their number changes nothing.

    Args:
        module: in training.
        rows: (b, ...), the same number on each process; without gradient.
    """
    world = module.trainer.world_size
    if world == 1:
        return rows.flip(0)
    gathered: Any = module.all_gather(rows)  # (world, b, ...): process r has the rows r, r + world, ...
    return gathered.transpose(0, 1).flatten(0, 1).flip(0)[module.global_rank :: world]


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """1 - s + s / K at the label and s / K elsewhere (Szegedy et al., CVPR 2016), float32 (B, K).

    Args:
        labels: int64 (B,).
        classes: K.
        smoothing: s in [0, 1).

    Raises:
        ValueError: for labels outside of 0..K - 1, or s outside of its range.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels must be 0 to {classes - 1}, found {int(labels.min())} to {int(labels.max())}"
        )
    return functional.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -sum_k t_k log softmax(z)_k, in single precision.

    Args:
        logits: z, (B, K).
        targets: t, (B, K), rows that sum to 1.

    Raises:
        ValueError: for other shapes.
    """
    if logits.shape != targets.shape or logits.ndim != 2:
        raise ValueError(
            f"logits of {tuple(logits.shape)} and targets of {tuple(targets.shape)} must both be (B, K)"
        )
    with torch.autocast(logits.device.type, enabled=False):
        return -(targets.float() * functional.log_softmax(logits.float(), dim=1)).sum(dim=1).mean()
