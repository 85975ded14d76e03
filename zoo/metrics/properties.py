"""Scores of predicted properties, over all molecules of an epoch and all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

Task = Literal["regression", "classification"]


def rmse(predicted: Any, target: Any) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted - target) ** 2)))


def mae(predicted: Any, target: Any) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(predicted - target)))


def r2(predicted: Any, target: Any) -> float:
    """1 - residual / total sum of squares; NaN where all targets are equal."""
    total = float(np.sum((target - target.mean()) ** 2))
    return 1 - float(np.sum((predicted - target) ** 2)) / total if total > 0 else float("nan")


def roc_auc(predicted: Any, target: Any) -> float:
    """Area under the ROC curve; NaN where there is one class alone: it is undefined, and not .5."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(target, predicted)) if 0 < target.mean() < 1 else float("nan")


def pr_auc(predicted: Any, target: Any) -> float:
    """Average precision; NaN where there is one class alone."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(target, predicted)) if 0 < target.mean() < 1 else float("nan")


SCORES: dict[str, dict[str, Callable[[Any, Any], float]]] = {
    "regression": {"rmse": rmse, "mae": mae, "r2": r2},
    "classification": {"roc_auc": roc_auc, "pr_auc": pr_auc},
}


def by_task(task: Task, predicted: Any, target: Any) -> dict[str, list[float]]:
    """Each score of each column of (N, T), missing targets left out; NaN where it is undefined."""
    found: dict[str, list[float]] = {name: [] for name in SCORES[task]}
    for p, t in zip(predicted.T, target.T, strict=True):
        known = ~np.isnan(t)
        for name, score in SCORES[task].items():
            found[name].append(score(p[known], t[known]) if known.any() else float("nan"))
    return found


def averaged(scores: dict[str, list[float]]) -> dict[str, float]:
    """Means over the columns that have each score; a score that none has is left out."""
    known = {name: [v for v in values if np.isfinite(v)] for name, values in scores.items()}
    return {name: float(np.mean(values)) for name, values in known.items() if values}


def undefined(scores: dict[str, list[float]], names: Sequence[str]) -> list[str]:
    """Names of the columns without the first score."""
    first = next(iter(scores.values()))
    return [name for name, value in zip(names, first, strict=True) if not np.isfinite(value)]


class Collected(Metric):
    """Predictions, deviations and targets of an epoch, of all processes.

    Args:
        columns: T.
    """

    full_state_update = False
    predicted: list[Tensor] | Tensor
    deviation: list[Tensor] | Tensor
    target: list[Tensor] | Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        for name in ("predicted", "deviation", "target"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, deviation: Tensor, target: Tensor) -> None:
        """(B, T) of each; a missing target is NaN."""
        for name, value in (("predicted", predicted), ("deviation", deviation), ("target", target)):
            getattr(self, name).append(value.detach().double())

    def compute(self) -> Tensor:
        """(3, N, T), in an order that the number of processes decides."""
        if isinstance(self.predicted, list) and not self.predicted:
            return torch.zeros(3, 0, self.columns, dtype=torch.float64)
        return torch.stack([dim_zero_cat(v) for v in (self.predicted, self.deviation, self.target)])
