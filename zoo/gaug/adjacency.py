"""Adjacency matrices, dense (N, N) or as a list of weighted entries, behind the same few operations.

Gradients reach the weights of a list without an (N, N) buffer: that is the sparse path of GAug-O.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Entries whose gradient is formed at once in the backward pass of a product, to bound its memory.
_CHUNK = 1 << 15


class _WeightedSum(torch.autograd.Function):
    """sum_e weight[e] x[column[e]] into rows, with the gradient of the weights formed entry by entry.

    torch's own sparse product forms the gradient of a sparse factor as a dense (N, N) matrix first.
    """

    @staticmethod
    def forward(ctx: Any, index: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight, x)
        return _product(index, weight, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        index, weight, x = ctx.saved_tensors
        to_weight = to_x = None
        if ctx.needs_input_grad[1]:
            parts = [(gradient[i[0]] * x[i[1]]).sum(dim=1) for i in index.split(_CHUNK, dim=1)]
            to_weight = torch.cat(parts) if parts else torch.zeros_like(weight)
        if ctx.needs_input_grad[2]:
            to_x = _product(index.flip(0), weight, gradient)
        return None, to_weight, to_x


def _product(index: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    matrix = torch.sparse_coo_tensor(index, weight.detach(), (len(x), len(x)), check_invariants=False)
    with torch.autocast(x.device.type, enabled=False):
        product: Tensor = torch.sparse.mm(matrix, x.detach())
    return product


@dataclass(frozen=True)
class EdgeList:
    """A square matrix by its entries; several entries at one place add up.

    Attributes:
        index: int64 (2, E), rows and columns.
        weight: float (E,), entries; may carry a gradient, also where they are 0.
        nodes: N.
    """

    index: Tensor
    weight: Tensor
    nodes: int

    def __matmul__(self, x: Tensor) -> Tensor:
        """(N, N) times (N, F), in float32: sparse products know no half precision on a CPU."""
        if torch.compiler.is_exporting():  # neither torch.export nor ONNX has sparse matrices
            row, column = self.index
            messages = self.weight[:, None] * x.index_select(0, column)
            return x.new_zeros(self.nodes, x.shape[1]).index_add(0, row, messages)
        product: Tensor = _WeightedSum.apply(self.index, self.weight.float(), x.float())
        return product

    def to_dense(self) -> Tensor:
        """The (N, N) matrix, differentiable."""
        dense = self.weight.new_zeros(self.nodes * self.nodes)
        return dense.index_add(0, self.index[0] * self.nodes + self.index[1], self.weight).view(
            self.nodes, self.nodes
        )


Adjacency = Tensor | EdgeList


def with_self_loops(edge_index: Tensor, nodes: int) -> EdgeList:
    """A~ of the paper: the entries of ``edge_index`` (2, E), no self-loops, and a diagonal *set* to 1."""
    off_diagonal = edge_index[:, edge_index[0] != edge_index[1]]
    diagonal = torch.arange(nodes, device=edge_index.device).expand(2, -1)
    index = torch.cat([off_diagonal, diagonal], dim=1)
    return EdgeList(index, torch.ones(index.shape[1], device=edge_index.device), nodes)


def symmetrically_normalised(adjacency: Adjacency) -> Adjacency:
    r"""GCN's D^{-1/2} A D^{-1/2}; D is the plain row sum, so absent pairs get a gradient through it too.

    Needs positive row sums, which a diagonal of ones gives.
    """
    if isinstance(adjacency, EdgeList):
        scale = _row_sums(adjacency, adjacency.weight).rsqrt()
        row, column = adjacency.index
        return EdgeList(adjacency.index, scale[row] * adjacency.weight * scale[column], adjacency.nodes)
    scale = adjacency.sum(dim=1).rsqrt()
    return scale[:, None] * adjacency * scale[None, :]


def row_normalised(adjacency: Adjacency) -> Adjacency:
    """GraphSAGE's D^{-1} A with D = sum_j |a_ij|, whose derivative at 0 is 0: absent pairs get no gradient
    through the degree, as in the release (``F.normalize(A, p=1)``). A plain sum has equal values, other
    gradients."""
    if isinstance(adjacency, EdgeList):
        degree = _row_sums(adjacency, adjacency.weight.abs())
        return EdgeList(adjacency.index, adjacency.weight / degree[adjacency.index[0]], adjacency.nodes)
    return functional.normalize(adjacency, p=1, dim=1)


def _row_sums(adjacency: EdgeList, values: Tensor) -> Tensor:
    return values.new_zeros(adjacency.nodes).index_add(0, adjacency.index[0], values)


def mean_degree(adjacency: Adjacency) -> Tensor:
    """Mean number of neighbours of a 0/1 matrix with a diagonal of ones, the node itself not counted."""
    if isinstance(adjacency, EdgeList):
        return adjacency.weight.detach().sum() / adjacency.nodes - 1
    return adjacency.detach().sum() / len(adjacency) - 1


def sparse_if_thin(features: Tensor, share: float = 0.1) -> Tensor:
    """Features (N, F) as a sparse matrix when fewer than ``share`` of them are not 0 (bags of words)."""
    if features.is_sparse or features.count_nonzero() >= share * features.numel():
        return features
    return features.to_sparse_coo().coalesce()


def feature_product(features: Tensor, weight: Tensor) -> Tensor:
    """X W, dense (N, H), for X dense or sparse."""
    if not features.is_sparse:
        return features @ weight
    # sparse products know no half precision on a CPU; autocast does not look at them either
    with torch.autocast(features.device.type, enabled=False):
        product: Tensor = torch.sparse.mm(features, weight.to(features.dtype))
    return product
