"""Losses of deeply supervised saliency maps."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

Loss = Literal["bce", "bce_iou"]
Reduction = Literal["mean", "sum"]


def cross_entropy(sides: Tensor, mask: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Sigmoid cross-entropy of each side, (S,), without class balancing.

    Args:
        sides: logits (B, S, H, W).
        mask: (B, 1, H, W) in [0, 1].
        reduction: over the pixels of an image; images are averaged, so that Caffe's sum with a batch of 1
            is ``sum``.
    """
    each = functional.binary_cross_entropy_with_logits(sides, mask.expand_as(sides), reduction="none")
    return each.mean(dim=(0, 2, 3)) if reduction == "mean" else each.sum(dim=(2, 3)).mean(dim=0)


def intersection_over_union(sides: Tensor, mask: Tensor) -> Tensor:
    """IoU loss of the ports for each side, (S,): mean over images of 1 - (I + 1) / (U - I + 1).

    I = sum p g and U = sum (p + g) over the pixels of an image.
    """
    p = sides.sigmoid()
    overlap = (p * mask).sum(dim=(2, 3))
    total = (p + mask).sum(dim=(2, 3))
    return (1 - (overlap + 1) / (total - overlap + 1)).mean(dim=0)


def side_losses(sides: Tensor, mask: Tensor, loss: Loss = "bce", reduction: Reduction = "mean") -> Tensor:
    """The loss of each side (S,), fine to coarse; training minimises their sum, weight 1 each."""
    sides = sides.float()
    losses = cross_entropy(sides, mask, reduction)
    return losses if loss == "bce" else losses + intersection_over_union(sides, mask)
