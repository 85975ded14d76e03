"""Standard deviation of features over all items of an evaluation: whether representations collapse."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Spread(Metric):
    """Mean over d features of their unbiased standard deviation over N vectors.

    ``update`` takes (B, d). Isotropic unit vectors have 1 / sqrt(d), equal ones 0; so has a single one.

    Args:
        width: d.
    """

    full_state_update = False
    items: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("items", torch.tensor(0), dist_reduce_fx="sum")
        for name in ("total", "squares"):
            self.add_state(name, torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, vectors: Tensor) -> None:
        values = vectors.detach().double()
        self.items += len(values)
        self.total += values.sum(dim=0)
        self.squares += values.square().sum(dim=0)

    def compute(self) -> Tensor:
        count = self.items.clamp(min=2).double()
        variance = (self.squares - self.total.square() / count) / (count - 1)
        return variance.clamp(min=0).sqrt().mean().float() * (self.items > 1)
