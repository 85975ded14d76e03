"""Augmentation and loss of a classifier's training step, as the recipes have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from zoo.nn.augment import Chain, HorizontalFlip, RandomCrop, RandomErasing, step_uniform
from zoo.nn.mixing import Mixing, mirrored, soft_targets
from zoo.nn.rand_augment import RandAugment

_PIXELS, _ERASED = 1, 2  # streams of draws of one step


class Augmenting:
    """Crop, flip, RandAugment on pixels in [0, 1]; erasing on standardised ones; mixup and CutMix.

    Args:
        h: hyperparameters of the classifier.
    """

    def __init__(self, h: Mapping[str, Any]) -> None:
        parts: list[Any] = [RandomCrop(h["crop_padding"])] if h["crop_padding"] else []
        parts += [HorizontalFlip()] if h["flip"] else []
        if h["rand_augment"]:
            if h["channels"] != 3:
                raise ValueError(
                    f"model.init_args.rand_augment is of pictures in colour, not of {h['channels']} channels"
                )
            mean = list(h["mean"]) * (1 if len(h["mean"]) == 3 else 3)
            fill = [min(1.0, max(0.0, m)) for m in mean]
            parts.append(RandAugment(h["rand_augment"], h["rand_augment_std"], fill=fill))
        self.pixels = Chain(parts) if parts else None
        self.erasing = RandomErasing(h["erasing"]) if h["erasing"] else None
        self.mixing = Mixing(h["mixup"], h["cutmix"]) if h["mixup"] or h["cutmix"] else None
        self.classes = h["num_classes"]

    def __call__(
        self, module: LightningModule, batch_idx: int, image: Tensor, label: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Standardised images as they are trained on, and soft targets (B, K)."""
        network: Any = module.network
        if self.pixels is not None:
            u = step_uniform(module, batch_idx, len(image), self.pixels.columns, _PIXELS)
            image = self.pixels(image, u)
        image = (image - network.mean) / network.std
        target = soft_targets(label, self.classes)
        if self.mixing is not None:
            mix = self.mixing.of_step(module, batch_idx, *image.shape[2:])
            image = mix.images(image, mirrored(module, image))
            target = mix.targets(target, mirrored(module, target))
        if self.erasing is not None:
            image = self.erasing(
                image, step_uniform(module, batch_idx, len(image), self.erasing.columns, _ERASED)
            )
        return image, target


def weighted_loss(scores: Tensor, target: Tensor, generated: Tensor, weight: float) -> Tensor:
    """Soft-target cross entropy, the generated images' with a weight: sum_i w_i l_i / B.

    Args:
        scores: (B, K).
        target: (B, K).
        generated: bool (B,).
        weight: of generated images; 1 is the paper's.
    """
    with torch.autocast(scores.device.type, enabled=False):
        each = -(target.float() * F.log_softmax(scores.float(), dim=1)).sum(dim=1)
    return torch.where(generated, weight * each, each).mean()
