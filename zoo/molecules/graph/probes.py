"""Learned features against classical ones: what each tells of the other (float64 arrays of N molecules)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.reports import writing

_NEIGHBOURS = 5
_STRENGTH = 1.0


def linear_cka(a: Any, b: Any) -> float:
    """Linear centred kernel alignment of (N, D) and (N, E), ``|A'B|^2 / (|A'A| |B'B|)`` centred, 0 to 1.

    Kornblith et al. 2019; NaN where one does not vary.
    """
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    # by the Gram matrices where there are fewer molecules than columns
    kernels = [x @ x.T for x in (a, b)]
    scale = np.linalg.norm(kernels[0]) * np.linalg.norm(kernels[1])
    return float((kernels[0] * kernels[1]).sum() / scale) if scale > 0 else float("nan")


def ridge_r2(x: Any, y: Any, x_test: Any, y_test: Any) -> Any:
    """R2 on the test molecules of a ridge probe of each column of y (N, E) from x (N, D); NaN where y_test is
    constant. x is standardised by the training molecules, the strength is 1."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    middle = y.mean(axis=0)
    if x.shape[1] <= len(x):
        weights = np.linalg.solve(x.T @ x + _STRENGTH * np.eye(x.shape[1]), x.T @ (y - middle))
    else:
        weights = x.T @ np.linalg.solve(x @ x.T + _STRENGTH * np.eye(len(x)), y - middle)
    left = ((y_test - middle - x_test @ weights) ** 2).sum(axis=0)
    total = ((y_test - y_test.mean(axis=0)) ** 2).sum(axis=0)
    return np.where(total > 0, 1 - left / np.where(total > 0, total, 1.0), np.nan)


def common_neighbours(a: Any, b: Any) -> float:
    """Mean share of the five nearest training molecules that two similarities (N, M) have in common."""
    count = min(_NEIGHBOURS, a.shape[1])
    nearest = [np.argsort(-x, axis=1, kind="stable")[:, :count] for x in (a, b)]
    shared = [len(set(p) & set(q)) for p, q in zip(*(n.tolist() for n in nearest), strict=True)]
    return float(np.mean(shared)) / count


def write_probes(path: Path, names: Sequence[str], learned: Any) -> None:
    """``probes.csv``: R2 of each rdkit descriptor from h_G, best first; those without one at the end."""
    order = sorted(range(len(names)), key=lambda i: (not np.isfinite(learned[i]), -np.nan_to_num(learned[i])))
    with writing(path), path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["descriptor", "R2 from h_G"])
        for i in order:
            writer.writerow([names[i], f"{learned[i]:.4f}" if np.isfinite(learned[i]) else ""])
