"""What a masked language model and its heads are worth, over all batches and processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from zoo.metrics.properties import averaged, by_task

IGNORED = -100


def token_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the tokens that have a label: (-log p in nats, float64; hits).

    Args:
        logits: (B, T, V).
        labels: (B, T), -100 without.
    """
    found = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    hits = (logits.argmax(dim=-1) == labels).sum()
    return found.double().sum(), hits


class TokenScores(Metric):
    """``nll`` (nats a token), ``perplexity`` = exp(total / tokens), not a mean over batches, and
    ``accuracy``; NaN without a token."""

    full_state_update = False
    nll: Tensor
    hits: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nll", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("hits", "count"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """See :func:`token_nll`."""
        nll, hits = token_nll(logits, labels)
        self.nll += nll
        self.hits += hits
        self.count += (labels != IGNORED).sum()

    def compute(self) -> dict[str, Tensor]:
        mean = self.nll / self.count if self.count else torch.full_like(self.nll, math.nan)
        return {"nll": mean, "perplexity": mean.exp(), "accuracy": self.hits.double() / self.count}


def mcc(probability: Any, target: Any) -> float:
    """Matthews' correlation at one half; NaN where there is one class alone."""
    from sklearn.metrics import matthews_corrcoef

    if not 0 < target.mean() < 1:
        return float("nan")
    return float(matthews_corrcoef(target > 0.5, probability > 0.5))


def property_scores(task: Any, predicted: Any, target: Any) -> dict[str, float]:
    """Means over the columns of (N, T) of ``roc_auc, pr_auc, mcc, accuracy``, or of ``rmse, mae, r2``.

    A score that no column has, the AUC of one class for instance, is left out.
    """
    found = by_task(task, predicted, target)
    if task == "classification":
        columns = [(p[~np.isnan(t)], t[~np.isnan(t)]) for p, t in zip(predicted.T, target.T, strict=True)]
        nothing = float("nan")
        found["mcc"] = [mcc(p, t) if len(t) else nothing for p, t in columns]
        found["accuracy"] = [
            float(((p > 0.5) == (t > 0.5)).mean()) if len(t) else nothing for p, t in columns
        ]
    return averaged(found)


def property_loss(task: str, out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over the known targets, how many there are) of the cross-entropy or the squared error.

    Args:
        task: ``classification`` or ``regression``.
        out: (B, T) logits, or numbers in units of the standardised targets.
        target: (B, T), NaN where it is not known.
    """
    known = ~target.isnan()
    count, out, target = known.sum(), out[known].float(), target[known]
    if task == "classification":
        return functional.binary_cross_entropy_with_logits(out, target, reduction="sum"), count
    return functional.mse_loss(out, target, reduction="sum"), count
