"""How sure a prediction is: mean and variance of an ensemble, conformal intervals, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.molecules.chemistry import chem

LEVELS = tuple(range(1, 100))
"""Nominal coverages in per cent."""
LEAST_VARIANCE = 1e-6
"""And the least deviation that errors are divided by."""
NO_INTERVAL = -1.0
"""Half width of a level that has no interval."""


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """``(log v + (y - m)^2 / v) / 2`` of each, without the constant."""
    return 0.5 * (variance.log() + (target - mean).square() / variance)


def mixture(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, T) of a mixture of M equal Gaussians (M, B, T): ``mean(v + m^2) - mean(m)^2``."""
    mean = means.mean(dim=0)
    return mean, variances.mean(dim=0) + (means - mean).square().mean(dim=0)


def conformal_widths(residual: Any, sigma: Any) -> Any:
    """Half widths, in units of sigma, of intervals that cover each of ``LEVELS``; float64 (99,).

    Split conformal prediction by ``crepes`` from N calibration molecules that training did not see: of the
    scores ``|y - m| / sigma`` the ceil((N + 1) p)-th smallest. NaN where N is too small for a level.
    """
    made = chem("crepes").ConformalRegressor().fit(np.asarray(residual), sigmas=np.asarray(sigma))
    widths = []
    for level in LEVELS:
        if np.ceil((len(residual) + 1) * level / 100 - 1e-9) > len(residual):
            widths.append(np.nan)
            continue
        # crepes rounds (1 - .9) (N + 1) = 9.999... down and would take one score more
        sure = level / 100 - 1e-9
        interval = made.predict_int(np.zeros(1), sigmas=np.ones(1), confidence=sure)
        widths.append(float(interval[0, 1]))
    return np.array(widths)


def gaussian_widths() -> Any:
    """Half widths in units of sigma where errors were Gaussian: ``Phi^-1((1 + p) / 2)``, float64 (99,)."""
    half = torch.tensor(LEVELS, dtype=torch.float64) / 200 + 0.5
    return (torch.special.ndtri(half)).numpy()


def observed_coverage(score: Any, widths: Any) -> Any:
    """Share of ``|y - m| / sigma`` within each half width; NaN where there is none; float64 (99,)."""
    inside = np.asarray(score)[:, None] <= np.asarray(widths)[None]
    return np.where(np.isnan(widths), np.nan, inside.mean(axis=0))


def miscalibration_area(observed: Any) -> float:
    """Area between observed and nominal coverage over the levels that have an interval, 0 to .5."""
    nominal = np.array(LEVELS) / 100
    gap = np.abs(np.asarray(observed) - nominal)
    return float(np.nanmean(gap)) if np.isfinite(gap).any() else float("nan")


def calibrated(values: Tensor, sigma: Tensor) -> Tensor:
    """Conformal half widths float32 (T, 99), ``NO_INTERVAL`` where there are too few molecules.

    Args:
        values: predictions, deviations and targets of the calibration molecules (3, N, T).
        sigma: (N, T), what their errors are measured in.
    """
    predicted, _, target = values
    rows = []
    for column in range(target.shape[1]):
        known = ~target[:, column].isnan()
        residual = (target - predicted)[known, column].abs()
        widths = conformal_widths(residual.cpu().numpy(), sigma[known, column].cpu().numpy())
        rows.append(torch.from_numpy(np.nan_to_num(widths, nan=NO_INTERVAL)).float())
    return torch.stack(rows)


def interval_scores(
    predicted: Tensor, target: Tensor, sigma: Any, widths: Any, level: int
) -> dict[str, list[float]]:
    """Coverage and mean width of the asked intervals, and miscalibration area, of the columns that have them.

    Args:
        predicted: (N, T).
        target: likewise, NaN where nothing is known.
        sigma: likewise, what intervals are measured in.
        widths: half widths (T, 99), NaN where there is no interval.
        level: the asked one's place in ``LEVELS``.
    """
    found: dict[str, list[float]] = {"coverage": [], "interval_width": [], "miscalibration_area": []}
    for column, half in enumerate(widths):
        known = ~target[:, column].isnan().numpy()
        if np.isnan(half).all() or not known.any():
            continue
        own = sigma[known, column]
        score = np.abs((predicted - target).numpy()[known, column]) / own
        observed = observed_coverage(score, half)
        found["coverage"].append(float(observed[level]))
        found["interval_width"].append(float(2 * half[level] * own.mean()))
        found["miscalibration_area"].append(miscalibration_area(observed))
    return found
