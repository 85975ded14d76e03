"""One vector per graph from node states: sums, sorting (DGCNN), learned clusters (DiffPool), top-k choices.

Graphs of a batch lie beside each other; ``batch`` (N,) says whose a node is and ``graphs`` how many there
are, also where the last ones have no edges.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch_geometric.nn import DenseSAGEConv, SAGPooling, TopKPooling
from torch_geometric.utils import scatter, to_dense_batch

Readout = Literal["sum", "mean", "max", "sort", "diffpool", "sagpool", "topk"]
READOUTS: tuple[Readout, ...] = get_args(Readout)
FLAT: tuple[Readout, ...] = ("sum", "mean", "max")
SIZED: tuple[Readout, ...] = ("sort", "diffpool")
"""Readouts whose layers depend on a number of nodes, ``pool_nodes``."""
POOL_RATIOS: dict[str, float] = {"sort": 0.6, "diffpool": 0.25, "sagpool": 0.5, "topk": 0.5}
_KERNEL, _LEAST_SORTED = 5, 10


@dataclass
class Pooled:
    """What a readout gives.

    Attributes:
        vectors: (B, W).
        losses: auxiliary losses by name, each a scalar, mean over the graphs.
    """

    vectors: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


def flat_readout(x: Tensor, batch: Tensor, graphs: int, kind: Readout) -> Tensor:
    """Sum, mean or maximum of the nodes of each graph, (N, F) -> (B, F)."""
    out: Tensor = scatter(x, batch, dim=0, dim_size=graphs, reduce=kind)
    return out


def pool_nodes(kind: Readout, ratio: float, sizes: list[int]) -> int:
    """Nodes that ``sort`` keeps or clusters that ``diffpool`` makes, from the sizes of the training graphs.

    ``sort``: the quantile ``ratio`` of the sizes, so that this share of the graphs has no more nodes, and at
    least 10 (DGCNN's release). ``diffpool``: ``ratio`` times the largest size, rounded up.
    """
    ordered = sorted(sizes)
    if kind == "sort":
        return max(_LEAST_SORTED, ordered[math.ceil(ratio * len(ordered)) - 1])
    return max(1, math.ceil(ratio * ordered[-1]))


# --- SortPool -------------------------------------------------------------------------------------------


def sort_pool(x: Tensor, batch: Tensor, graphs: int, k: int) -> Tensor:
    """The first ``k`` nodes of each graph, by the last channel downwards, (B, k, F); 0 where none is left.

    Ties of the last channel are broken by the one before it, and so on (DGCNN, section 3.3); PyG leaves them
    to the order of the nodes, which an invariant readout must not see.
    """
    if not len(x):
        return x.new_zeros(graphs, k, x.shape[1])
    # ranks of the rows in lexicographic order, the last channel first; equal rows have equal ranks
    ranks = torch.unique(x.detach().flip(1), dim=0, return_inverse=True)[1]
    order = torch.argsort(batch * (len(x) + 1) + (ranks.max() - ranks), stable=True)
    counts = torch.bincount(batch, minlength=graphs)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(x), device=x.device) - starts[batch[order]]
    kept = place < k
    out = x.new_zeros(graphs, k, x.shape[1])
    return out.index_put((batch[order][kept], place[kept]), x[order][kept])


class SortPool(nn.Module):
    """DGCNN's readout: sort, then 1-D convolutions over the sorted nodes (Zhang et al., AAAI 2018).

    Conv1d(1, 16, F, stride F), ReLU, max-pool 2, Conv1d(16, 32, 5), ReLU; flattened.

    Args:
        channels: F.
        k: nodes kept of each graph; 2 (5 - 1) + 2 = 10 or more.

    Raises:
        ValueError: for a smaller ``k``.
    """

    def __init__(self, channels: int, k: int) -> None:
        super().__init__()
        if k < 2 * _KERNEL:
            raise ValueError(f"readout sort needs pool_nodes of at least {2 * _KERNEL}, got {k}")
        self.k = k
        self.nodes = nn.Conv1d(1, 16, channels, channels)
        self.neighbours = nn.Conv1d(16, 32, _KERNEL)
        self.width = 32 * (k // 2 - _KERNEL + 1)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, graphs: int) -> Pooled:
        rows = sort_pool(x, batch, graphs, self.k).flatten(1)[:, None]  # (B, 1, k F)
        out = nn.functional.max_pool1d(self.nodes(rows).relu(), 2)
        return Pooled(self.neighbours(out).relu().flatten(1))


# --- DiffPool -------------------------------------------------------------------------------------------


def assignment_entropy(s: Tensor) -> Tensor:
    """sum_c -S log(S + 1e-15) of each row of S (..., N, C) -> (..., N)."""
    return -(s * (s + 1e-15).log()).sum(dim=-1)


def _norm(squared: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0."""
    return squared.clamp(min=1e-12).sqrt()


def sparse_diff_pool(
    x: Tensor, s: Tensor, edge_index: Tensor, batch: Tensor, graphs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""DiffPool of sparse graphs: X' = S^T X, A' = S^T A S, no (N, N) matrix and no padded node anywhere.

    The link loss of a graph of N nodes is :math:`||A - S S^T||_F / N^2`, by :math:`||A||^2 - 2 \sum_{uv
    \in E} s_u \cdot s_v + ||S^T S||^2`; its entropy is the mean of its nodes'. Both are means over the
    graphs, so that a graph's losses do not depend on the others (PyG's take the padded size for N).

    Shapes: x (N, F), s (N, C) rows of a softmax, edge_index (2, E) without double edges -> x' (B, C, F),
    a' (B, C, C), link loss, entropy.
    """
    source, target = edge_index
    spread = torch.zeros_like(s).index_add(0, source, s[target])  # A S
    dense_s = to_dense_batch(s, batch, batch_size=graphs)[0].transpose(1, 2)  # (B, C, n)
    dense_x = to_dense_batch(x, batch, batch_size=graphs)[0]
    dense_spread = to_dense_batch(spread, batch, batch_size=graphs)[0]
    pooled_x, pooled_a = dense_s @ dense_x, dense_s @ dense_spread
    sizes = torch.bincount(batch, minlength=graphs).clamp(min=1).to(s.dtype)
    edges = scatter(torch.ones_like(source, dtype=s.dtype), batch[source], 0, graphs, "sum")
    agreement = scatter((s[source] * s[target]).sum(dim=1), batch[source], 0, graphs, "sum")
    gram = (dense_s @ dense_s.transpose(1, 2)).square().sum(dim=(1, 2))
    link = _norm(edges - 2 * agreement + gram) / sizes.square()
    entropy = scatter(assignment_entropy(s), batch, 0, graphs, "sum") / sizes
    return pooled_x, pooled_a, link.mean(), entropy.mean()


def dense_diff_pool(x: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same of graphs of equally many nodes with weighted edges: x (B, n, F), a (B, n, n), s (B, n, C)."""
    transposed = s.transpose(1, 2)
    link = _norm((a - s @ transposed).square().sum(dim=(1, 2))) / a.shape[1] ** 2
    return transposed @ x, transposed @ a @ s, link.mean(), assignment_entropy(s).mean()


class DenseStack(nn.Module):
    """GraphSAGE layers on dense graphs, each with ReLU and batch norm (B, n, F) -> (B, n, H)."""

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * layers]
        self.convs = nn.ModuleList(DenseSAGEConv(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(layers))

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x, a).relu()
            x = norm(x.flatten(0, 1)).view_as(x)
        return x


class DiffPool(nn.Module):
    """Hierarchical pooling into learned clusters (Ying et al., NeurIPS 2018); maxima of each level, in a row.

    The encoder of the whole network makes the first level's node states; ``assign``, another one, gives the
    logits of its clusters. Deeper levels use dense GraphSAGE layers.

    Args:
        channels: width of the node states.
        clusters: of the first pooling.
        hidden: width of the dense layers.
        levels: poolings; each next has ``ratio`` times the clusters of the one before.
        ratio: see ``levels``.
        layers: dense layers per level.
    """

    def __init__(
        self, channels: int, clusters: int, hidden: int, levels: int = 1, ratio: float = 0.25, layers: int = 1
    ) -> None:
        super().__init__()
        self.clusters = clusters
        self.embed, self.assign = nn.ModuleList(), nn.ModuleList()
        width, count = channels, clusters
        for level in range(levels):
            self.embed.append(DenseStack(width, hidden, layers))
            width = hidden
            if level + 1 < levels:
                count = max(1, math.ceil(ratio * count))
                self.assign.append(
                    nn.ModuleList([DenseStack(width, hidden, layers), nn.Linear(hidden, count)])
                )
        self.width = channels + levels * hidden

    def forward(self, x: Tensor, logits: Tensor, edge_index: Tensor, batch: Tensor, graphs: int) -> Pooled:
        """x (N, F) and the logits (N, clusters) of the first assignment."""
        vectors = [flat_readout(x, batch, graphs, "max")]
        dense, a, link, entropy = sparse_diff_pool(x, logits.softmax(dim=1), edge_index, batch, graphs)
        for level, embed in enumerate(self.embed):
            dense = embed(dense, a)
            vectors.append(dense.max(dim=1).values)
            if level < len(self.assign):
                s = self._assignment(level, dense, a)
                dense, a, next_link, next_entropy = dense_diff_pool(dense, a, s)
                link, entropy = link + next_link, entropy + next_entropy
        return Pooled(torch.cat(vectors, dim=1), {"link_loss": link, "entropy_loss": entropy})

    def _assignment(self, level: int, x: Tensor, a: Tensor) -> Tensor:
        part: Any = self.assign[level]
        s: Tensor = part[1](part[0](x, a)).softmax(dim=-1)
        return s


# --- choosing nodes -------------------------------------------------------------------------------------


class TopK(nn.Module):
    """The best-scored share of the nodes, scaled by tanh of their scores; mean and maximum of what is left.

    ``sagpool``: scores by a graph convolution (Lee et al., ICML 2019, the global architecture); ``topk``: by
    a projection (Gao and Ji, ICML 2019).

    Args:
        channels: F.
        ratio: share of the nodes of each graph that stays, rounded up.
        attention: ``sagpool``.
    """

    def __init__(self, channels: int, ratio: float, attention: bool) -> None:
        super().__init__()
        self.pool = SAGPooling(channels, ratio) if attention else TopKPooling(channels, ratio)
        self.width = 2 * channels

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, graphs: int) -> Pooled:
        kept, _, _, owner, _, _ = self.pool(x, edge_index, batch=batch)
        parts = [flat_readout(kept, owner, graphs, kind) for kind in ("mean", "max")]
        return Pooled(torch.cat(parts, dim=1))
