"""Matrices that forecasting networks multiply a signal with, made from a weighted graph.

``adjacency[i, j]`` is the weight of the edge i -> j; a support acts from the left, (P x)_i = sum_j P_ij x_j.
"""

from __future__ import annotations

import torch
from torch import Tensor


def transition(adjacency: Tensor) -> Tensor:
    """D_O^{-1} W: rows divided by their sums, rows without edges stay 0; (N, N)."""
    degree = adjacency.sum(dim=1, keepdim=True)
    return torch.where(degree > 0, adjacency / degree.clamp(min=1e-30), torch.zeros_like(adjacency))


def diffusion_supports(adjacency: Tensor, order: int) -> Tensor:
    """Powers of both random walks, [P_f, ..., P_f^K, P_b, ..., P_b^K], (2 K, N, N).

    P_f = D_O^{-1} W follows the edges forward, P_b = D_I^{-1} W^T backward (DCRNN, equation 2).
    """
    powers = []
    for walk in (transition(adjacency), transition(adjacency.T)):
        power = walk
        for _ in range(order):
            powers.append(power)
            power = walk @ power
    return torch.stack(powers)


def undirected(adjacency: Tensor) -> Tensor:
    """The elementwise larger of W and W^T, without self-loops (the METR matrices have ones on the
    diagonal)."""
    both = torch.maximum(adjacency, adjacency.T)
    return both - torch.diag(both.diagonal())


def _normalised(symmetric: Tensor) -> Tensor:
    scale = symmetric.sum(dim=1).pow(-0.5)
    scale = torch.where(torch.isfinite(scale), scale, torch.zeros_like(scale))
    return scale[:, None] * symmetric * scale


def scaled_laplacian(adjacency: Tensor) -> Tensor:
    """2 L / lambda_max - I with L = I - D^{-1/2} W D^{-1/2} and the true largest eigenvalue; (N, N)."""
    weights = undirected(adjacency.double())
    identity = torch.eye(len(weights), dtype=weights.dtype, device=weights.device)
    laplacian = identity - _normalised(weights)
    largest = torch.linalg.eigvalsh(laplacian)[-1]
    return (2 * laplacian / largest - identity).to(adjacency.dtype)


def chebyshev(support: Tensor, order: int) -> Tensor:
    """T_0 = I, T_1 = S, T_k = 2 S T_{k-1} - T_{k-2}; (order, N, N)."""
    terms = [torch.eye(len(support), dtype=support.dtype, device=support.device), support]
    while len(terms) < order:
        terms.append(2 * support @ terms[-1] - terms[-2])
    return torch.stack(terms[:order])


def renormalised(adjacency: Tensor) -> Tensor:
    """D~^{-1/2} (W + I) D~^{-1/2} of the undirected graph (STGCN's first-order kernel); (N, N)."""
    weights = undirected(adjacency)
    return _normalised(weights + torch.eye(len(weights), dtype=weights.dtype, device=weights.device))
