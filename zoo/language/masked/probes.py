"""Linear probes: what each layer's mean states tell of a property."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.reports import writing


def probe_scores(task: str, x: Any, y: Any, x_test: Any, y_test: Any) -> list[float]:
    """Of each layer the AUC of a logistic regression, or the R2 of a ridge, on the test items.

    A mean over targets, each on the items that have it; NaN where no target has a score. States are
    standardised by the training items; the strength is scikit-learn's default, 1.

    Args:
        task: ``classification`` or ``regression``.
        x: (N, layers, d).
        y: (N, T), NaN where it is not known.
        x_test: (M, layers, d).
        y_test: (M, T).
    """
    found = []
    for layer in range(x.shape[1]):
        mean, scale = x[:, layer].mean(axis=0), x[:, layer].std(axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        train, test = ((s[:, layer] - mean) / scale for s in (x, x_test))
        scores = [_score(task, train, a, test, b) for a, b in zip(y.T, y_test.T, strict=True)]
        known = [s for s in scores if np.isfinite(s)]
        found.append(float(np.mean(known)) if known else float("nan"))
    return found


def _score(task: str, x: Any, y: Any, x_test: Any, y_test: Any) -> float:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import r2_score, roc_auc_score

    x, y = x[~np.isnan(y)], y[~np.isnan(y)]
    x_test, y_test = x_test[~np.isnan(y_test)], y_test[~np.isnan(y_test)]
    if len(np.unique(y)) < 2 or len(np.unique(y_test)) < 2:
        return float("nan")
    if task == "classification":
        model = LogisticRegression(max_iter=2000).fit(x, y > 0.5)
        return float(roc_auc_score(y_test > 0.5, model.decision_function(x_test)))
    return float(r2_score(y_test, Ridge().fit(x, y).predict(x_test)))


def write_probes(path: Path, task: str, found: Sequence[float]) -> None:
    """``probes.csv``: a row for each layer, 0 are the embeddings."""
    with writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["layer", "roc_auc" if task == "classification" else "r2"])
        writer.writerows([i, f"{v:.4f}" if np.isfinite(v) else ""] for i, v in enumerate(found))
