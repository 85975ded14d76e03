"""Errors of forecasts where some measurements are missing (METR-LA writes them as 0)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def known(target: Tensor, null: float | None) -> Tensor:
    """Where ``target`` is a measurement: neither ``null`` nor NaN; bool, of its shape."""
    there = ~target.isnan()
    return there if null is None else there & (target != null)


class _MaskedMean(Metric):
    """Mean of an error over the targets that are known, in numerator and count alike; NaN without any.

    Args:
        null: what a missing target is written as; None has no such value.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, null: float | None = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.null = null
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.long), dist_reduce_fx="sum")

    def error(self, forecast: Tensor, target: Tensor) -> Tensor:
        """The error of each pair."""
        raise NotImplementedError

    def update(self, forecast: Tensor, target: Tensor) -> None:
        """Add forecasts and targets of one shape, in the unit of the data."""
        if forecast.shape != target.shape:
            raise ValueError(f"forecast has shape {list(forecast.shape)}, target {list(target.shape)}")
        chosen = known(target, self.null)
        self.total += self.error(forecast[chosen].double(), target[chosen].double()).sum()
        self.count += chosen.sum()

    def compute(self) -> Tensor:
        return (self.total / self.count).float()


class MaskedMAE(_MaskedMean):
    """Mean absolute error of the known targets."""

    def error(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (forecast - target).abs()


class MaskedRMSE(_MaskedMean):
    """Root of the mean squared error of the known targets."""

    def error(self, forecast: Tensor, target: Tensor) -> Tensor:
        return (forecast - target).square()

    def compute(self) -> Tensor:
        return super().compute().sqrt()


class MaskedMAPE(_MaskedMean):
    """Mean absolute error in per cent of the known targets; a target of 0 has no such error and is left
    out."""

    def error(self, forecast: Tensor, target: Tensor) -> Tensor:
        return 100 * ((forecast - target) / target).abs()

    def update(self, forecast: Tensor, target: Tensor) -> None:
        super().update(forecast, torch.where(target == 0, torch.nan, target))
