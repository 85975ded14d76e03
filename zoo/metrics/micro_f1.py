"""Micro-F1 and loss of classified items, summed over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class MicroF1(Metric):
    """Micro-averaged F1, which for single labels is the accuracy, and the mean loss.

    ``update`` takes scores (N, C), classes int64 (N,) or labels (N, C) of 0 and 1, and the mean loss of these
    N. Labels are predicted where the score, a logit, is above 0. Without true positives the value is 0.
    """

    full_state_update = False
    hits: Tensor
    predicted: Tensor
    actual: Tensor
    loss: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("hits", "predicted", "actual", "items"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("loss", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Tensor, target: Tensor, loss: Tensor) -> None:
        if target.ndim == 1:
            self.hits += (scores.argmax(dim=1) == target).sum()
            self.predicted += len(target)
            self.actual += len(target)
        else:
            positive, truth = scores > 0, target > 0
            self.hits += (positive & truth).sum()
            self.predicted += positive.sum()
            self.actual += truth.sum()
        self.items += len(target)
        self.loss += loss.double() * len(target)

    def compute(self) -> dict[str, Tensor]:
        """``micro_f1`` and ``loss``."""
        total = (self.predicted + self.actual).clamp(min=1)
        return {
            "micro_f1": 2.0 * self.hits / total,
            "loss": (self.loss / self.items.clamp(min=1)).float(),
        }
