"""Which residues touch, from attention maps (Rao et al. 2021): a logistic regression on corrected maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

SEPARATION = 6
"""Pairs that are nearer in the chain are left out."""
_STRENGTH = 0.15  # C of the L1 penalty, as in the paper


def corrected(maps: Tensor) -> Tensor:
    """Average product correction of symmetrised maps: F - F_i F_j / F.

    Args:
        maps: (..., L, L) of attention.

    Returns:
        of the same shape, symmetric; the correction of a map without any attention is 0.
    """
    both = maps + maps.transpose(-1, -2)
    rows, columns = both.sum(-1, keepdim=True), both.sum(-2, keepdim=True)
    whole = both.sum((-1, -2), keepdim=True)
    return both - torch.where(whole > 0, rows * columns / whole.clamp(min=1e-30), torch.zeros_like(whole))


def features(attentions: Tensor) -> Tensor:
    """(L, L, layers * heads) of one sequence's attention (layers, heads, L + 2, L + 2), ends left out."""
    inner = attentions[..., 1:-1, 1:-1].flatten(0, 1)
    return corrected(inner).permute(1, 2, 0)


def fitted(given: Sequence[Tensor], contacts: Sequence[Any]) -> tuple[Any, float]:
    """(weights (layers * heads,), bias) of a logistic regression with an L1 penalty.

    Args:
        given: :func:`features` of each sequence.
        contacts: (L, L) of 0 and 1, or truth values; NaN where it is not known.

    Raises:
        ValueError: for maps of another size, and where all pairs are contacts or none is.
    """
    from sklearn.linear_model import LogisticRegression

    rows, labels = [], []
    for number, (x, y) in enumerate(zip(given, contacts, strict=True)):
        y = np.asarray(y, dtype=np.float64)
        if y.shape != tuple(x.shape[:2]):
            raise ValueError(
                f"contacts {number} have shape {y.shape}, its sequence has {x.shape[0]} residues"
            )
        i, j = np.triu_indices(len(y), SEPARATION)
        known = ~np.isnan(y[i, j])
        rows.append(x[i[known], j[known]].double().cpu().numpy())
        labels.append(y[i, j][known] > 0)
    label = np.concatenate(labels) if labels else np.zeros(0, bool)
    if len({*label.tolist()}) < 2:
        raise ValueError(
            f"of {len(label):,} pairs at least {SEPARATION} residues apart all are contacts, or none is: a "
            "regression needs both"
        )
    found = LogisticRegression(l1_ratio=1.0, C=_STRENGTH, solver="liblinear").fit(np.concatenate(rows), label)
    return found.coef_[0], float(found.intercept_[0])


def precision_at_length(probability: Any, contacts: Any) -> float:
    """Share of contacts among the L likeliest pairs at least 6 residues apart; NaN without known pairs."""
    probability, y = np.asarray(probability), np.asarray(contacts, dtype=np.float64)
    i, j = np.triu_indices(len(y), SEPARATION)
    known = ~np.isnan(y[i, j])
    p, t = probability[i, j][known], y[i, j][known] > 0
    if not len(p):
        return float("nan")
    best = np.argsort(-p, kind="stable")[: len(y)]
    return float(t[best].mean())
