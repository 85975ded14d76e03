"""How alike neighbours are: homophily of labels and the Dirichlet energy of features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import degree


def same_class(edge_index: Tensor, y: Tensor) -> Tensor:
    """Whether the ends of each edge share their class, or with multi-hot ``y`` (N, C) one label; (E,)."""
    a, b = y[edge_index[0]], y[edge_index[1]]
    return a == b if y.ndim == 1 else ((a > 0) & (b > 0)).any(dim=1)


def edge_homophily(edge_index: Tensor, y: Tensor) -> float:
    """Share of the edges within a class; 0 without edges."""
    return float(same_class(edge_index, y).float().mean()) if edge_index.shape[1] else 0.0


def node_homophily(edge_index: Tensor, y: Tensor) -> Tensor:
    """Share of the incoming edges of each node that come from its class, nan without any; (N,)."""
    zeros = torch.zeros(len(y), device=y.device)
    alike = zeros.index_add(0, edge_index[1], same_class(edge_index, y).float())
    return alike / degree(edge_index[1], len(y))


def dirichlet_energy(h: Tensor, edge_index: Tensor) -> float:
    r"""Normalised Dirichlet energy of h (N, F), in [0, 2]; over-smoothed features have 0.

    .. math:: \frac{tr(H^T \tilde L H)}{tr(H^T H)} =
        \frac{\sum_{(u,v)} \|h_u / \sqrt{1 + d_u} - h_v / \sqrt{1 + d_v}\|^2}{2 \sum_u \|h_u\|^2}

    The sum of Cai and Wang (2020) over directed edges of a mirrored graph, divided by the squared norm, so
    that small features are not taken for smooth ones.
    """
    h = h.detach().float()
    scaled = h * (1 + degree(edge_index[1], len(h))).rsqrt()[:, None]
    difference = (scaled[edge_index[0]] - scaled[edge_index[1]]).square().sum()
    return float(difference / (2 * h.square().sum()).clamp(min=1e-30))
