"""Closed forms of Gaussian information: the truths, and optimal critics that need no training.

The family of the synthetic experiment: x_1 .. x_n are subviews, least informed first, y = sum_i r_i u_i +
noise with u_i what x_i has beyond x_1 .. x_{i-1}, all of d independent components and unit variance. Then
y | x_1 .. x_i is Gaussian with a mean and a variance that the data tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_information(
    covariance: Tensor, a: Sequence[int], b: Sequence[int], given: Sequence[int] = ()
) -> float:
    """I(A; B | C) = (log|S_AC| + log|S_BC| - log|S_ABC| - log|S_C|) / 2 of Gaussian columns, in nats.

    Args:
        covariance: S, (D, D).
        a: columns of A.
        b: columns of B.
        given: columns of C; none is I(A; B).

    Raises:
        ValueError: where a block's determinant is not positive.
    """
    a, b, c = list(a), list(b), list(given)

    def log_det(columns: list[int]) -> float:
        if not columns:
            return 0.0
        sign, value = torch.linalg.slogdet(covariance.double()[columns][:, columns])
        if not sign > 0:
            raise ValueError(f"the covariance of columns {columns} is not positive definite")
        return float(value)

    return 0.5 * (log_det(a + c) + log_det(b + c) - log_det(a + b + c) - log_det(c))


def correlation_of(information: float, dim: int) -> float:
    """The correlation of d component pairs with so many nats: I = -(d/2) log(1 - rho^2)."""
    return math.sqrt(-math.expm1(-2 * information / dim))


def log_density(y: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(y; mean, variance I) over the last axis; ``variance`` broadcasts against the axes before it."""
    squares = ((y - mean) ** 2).sum(dim=-1)
    return -0.5 * (squares / variance + y.shape[-1] * (2 * math.pi * variance).log())


def oracle_scores(y: Tensor, mean: Tensor, variance: Tensor, stage: int, since: int) -> Tensor:
    """The optimal critic log p(y_k | x_1 .. x_stage) / p(y_k | x_1 .. x_since) of every row, (B, K).

    psi* of I_NCE(x_1; y) has stages 1 and 0, phi* of the i-th term i and i - 1, InfoNCE's critic n and 0.

    Args:
        y: candidates, (K, d) for all rows or (B, K, d).
        mean: E[y | x_1 .. x_i], (B, n, d), of i = 1 .. n.
        variance: of one component of y given x_1 .. x_i, (B, n).
        stage: number of subviews that the numerator knows.
        since: of the denominator; 0 is the marginal, N(0, I).
    """

    def at(known: int) -> Tensor:
        if not known:
            return log_density(y, torch.zeros_like(y[..., :1]), y.new_ones(1))
        return log_density(y, mean[:, known - 1, None], variance[:, known - 1, None])

    return at(stage) - at(since)


def divergence(mean: Tensor, variance: Tensor, tau_mean: Tensor, tau_log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance I) || N(tau_mean, diag exp tau_log_variance)) of each row, (B,).

    Args:
        mean: (B, d).
        variance: (B,).
        tau_mean: (B, d).
        tau_log_variance: (B, d).
    """
    own = variance[:, None]
    ratio = (own + (mean - tau_mean) ** 2) * (-tau_log_variance).exp()
    return 0.5 * (ratio - 1 + tau_log_variance - own.log()).sum(dim=1)
