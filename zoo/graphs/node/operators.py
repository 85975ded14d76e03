"""Operators of graph networks that PyG lacks, and what its layers want to know about a graph."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import ChebConv, GINConv, GraphNorm, InstanceNorm, LayerNorm, PairNorm, SAGEConv
from torch_geometric.nn.resolver import activation_resolver
from torch_geometric.utils import degree, get_laplacian, scatter, to_scipy_sparse_matrix

warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
_DENSE = 400  # nodes up to which the dense eigenvalue solver is the faster one


class RecurrentGatedGraph(nn.Module):
    r"""Gated graph network (Li et al., ICLR 2016), :math:`h^{t+1} = GRU(A^T h^t W, h^t)`, h^0 = (x, 0).

    PyG's ``GatedGraphConv`` has one W per step; with ``share_weights`` all steps share one, which makes it
    the recurrent network of the survey. The GRU's input is the message, its state the node.

    Args:
        channels: width of the state.
        steps: T.
        share_weights: one W for all steps.

    Shapes: x (N, F) with F <= channels, edge_index (2, E), edge_weight (E,) -> states of the T steps, each
    (N, channels).

    Raises:
        ValueError: for inputs wider than the state.
    """

    def __init__(self, channels: int, steps: int, share_weights: bool = True) -> None:
        super().__init__()
        self.channels, self.steps = channels, steps
        # PyG's start: uniform in +-1 / sqrt(channels); and its names, so that its weights load
        bound = channels**-0.5
        self.weight = nn.Parameter(
            torch.empty(1 if share_weights else steps, channels, channels).uniform_(-bound, bound)
        )
        self.rnn = nn.GRUCell(channels, channels)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None) -> list[Tensor]:
        if x.shape[1] > self.channels:
            raise ValueError(
                f"a gated graph network pads its {x.shape[1]} inputs to its state of {self.channels}"
            )
        h = functional.pad(x, (0, self.channels - x.shape[1]))
        states = []
        for step in range(self.steps):
            message = (h @ self.weight[min(step, len(self.weight) - 1)])[edge_index[0]]
            if edge_weight is not None:
                message = message * edge_weight[:, None]
            h = self.rnn(scatter(message, edge_index[1], dim=0, dim_size=x.shape[0]), h)
            states.append(h)
        return states


class ChebyshevConv(ChebConv):
    r"""PyG's ``ChebConv`` over a scaled Laplacian that was computed once, sum_k T_k(L~) x W_k + b.

    By Clenshaw's recurrence where the outputs are narrower than the inputs: b_k = x W_k + 2 L~ b_{k+1} -
    b_{k+2}, y = x W_0 + L~ b_1 - b_2, so that messages are as wide as the outputs (Cora: 16 instead of
    1,433). Weights as PyG's.
    """

    def forward(self, x: Tensor, edge_index: Tensor, norm: Tensor) -> Tensor:
        """x (N, F), edge_index (2, E) and entries (E,) of L~ -> (N, C)."""
        if self.in_channels <= self.out_channels:
            terms = [x]
            for _ in self.lins[1:]:
                spread = self.propagate(edge_index, x=terms[-1], norm=norm)
                terms.append(2 * spread - terms[-2] if len(terms) > 1 else spread)
            out = sum(lin(t) for lin, t in zip(self.lins, terms, strict=True))
        else:
            after: Tensor | None = None
            out = self.lins[-1](x)
            for lin in reversed(self.lins[:-1]):
                spread = self.propagate(edge_index, x=out, norm=norm)
                last = lin is self.lins[0]
                step = lin(x) + (spread if last else 2 * spread)
                out, after = (step if after is None else step - after), out
        return out if self.bias is None else out + self.bias


class NarrowSAGEConv(SAGEConv):
    """PyG's ``SAGEConv``, whose linear map goes before the mean where it makes messages narrower.

    x may be sparse. A mean or sum of products is the product of the mean or sum; a maximum is not.
    """

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """x (N, F), edge_index (2, E) -> (N, C)."""
        if self.aggr == "max" or self.in_channels <= self.out_channels:
            wide: Tensor = super().forward(x, edge_index)
            return wide
        h = functional.linear(x, self.lin_l.weight)
        out: Tensor = self.propagate(edge_index, x=(h, h), size=None)
        return out + self.lin_l.bias + self.lin_r(x)


class NarrowGINConv(GINConv):
    """PyG's ``GINConv`` of a two-layer MLP, whose first linear map goes before the sum where it makes
    messages narrower; x may be sparse. The MLP's norm knows which graph a node belongs to, PyG's does not."""

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        """x (N, F), edge_index (2, E), batch (N,) -> (N, C)."""
        first, second = self.nn.lins
        narrow = self.aggr != "max" and first.in_channels > first.out_channels
        h = functional.linear(x, first.weight) if narrow else x
        h = self.propagate(edge_index, x=(h, h), size=None) + (1 + self.eps) * h
        h = h + first.bias if narrow else first(h)
        out: Tensor = second(self.nn.act(normalised(self.nn.norms[0], h, batch)))
        return out


def normalised(norm: nn.Module, x: Tensor, batch: Tensor | None) -> Tensor:
    """Node states (N, H) through one of PyG's norms; those over whole graphs are told each node's, (N,)."""
    if not isinstance(norm, GraphNorm | InstanceNorm | LayerNorm | PairNorm):
        plain: Tensor = norm(x)
        return plain
    if batch is None and len(x) == 1:
        batch = x.new_zeros(1, dtype=torch.long)  # without it InstanceNorm refuses a graph of one node
    out: Tensor = norm(x, batch) if len(x) else x
    return out


def degree_coordinates(edge_index: Tensor, nodes: int) -> Tensor:
    """MoNet's pseudo-coordinates of each edge u -> v: (deg_u^-1/2, deg_v^-1/2), (E, 2).

    The out-degree of the source and the in-degree of the target, so that neither is 0.
    """
    source, target = edge_index
    out, into = degree(source, nodes), degree(target, nodes)
    return torch.stack([out[source], into[target]], dim=1).rsqrt()


def thin(x: Tensor) -> Tensor | None:
    """Features (N, F) as a CSR matrix where less than a tenth of them is not 0 (bags of words), else None.

    Linear layers take it: input dropout draws for the entries alone, and products touch nothing else. On
    CPUs, in float32; GPUs are fast enough.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.count_nonzero() >= 0.1 * x.numel():
        return None
    return x.to_sparse_csr()


def sparse_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout of a CSR matrix (N, F)."""
    values = functional.dropout(x.values(), rate)
    dropped: Tensor = torch.sparse_csr_tensor(
        x.crow_indices(), x.col_indices(), values, x.shape, check_invariants=False
    )
    return dropped


def largest_eigenvalues(
    edge_index: Tensor, edge_weight: Tensor | None, nodes: int, batch: Tensor | None = None
) -> Tensor:
    """Largest eigenvalue of L = I - D^-1/2 A D^-1/2 of each graph of a batch, float32 (B,).

    ChebNet scales each graph's spectrum by its own. For undirected graphs.
    """
    if not nodes:
        return torch.ones(1, device=edge_index.device)
    if batch is None:
        batch = torch.zeros(nodes, dtype=torch.long, device=edge_index.device)
    index, weight = get_laplacian(edge_index, edge_weight, "sym", torch.float64, nodes)
    laplacian = to_scipy_sparse_matrix(index.cpu(), weight.cpu(), nodes).tocsr()
    values = []
    for graph in range(int(batch.max()) + 1):
        members = (batch == graph).nonzero()[:, 0].cpu().numpy()
        values.append(_largest(laplacian[members][:, members]))
    return torch.tensor(values, dtype=torch.float32, device=edge_index.device)


def _largest(matrix: object) -> float:
    from scipy.sparse.linalg import eigsh

    size = matrix.shape[0]  # type: ignore[attr-defined]
    if size <= _DENSE:
        return float(np.linalg.eigvalsh(matrix.toarray())[-1]) if size else 1.0  # type: ignore[attr-defined]
    start = np.random.Generator(np.random.Philox(0)).standard_normal(size)
    return float(eigsh(matrix, k=1, which="LM", return_eigenvectors=False, v0=start)[0])


def activation(name: str) -> nn.Module:
    """``relu``, ``elu``, ``prelu``, ``tanh``, ... as PyG names them."""
    found: nn.Module = activation_resolver(name)
    return found
