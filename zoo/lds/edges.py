"""Edge probabilities and graphs drawn from them, over all pairs of nodes or over candidate pairs alone.

Both classes hold theta (P,) over pairs i < j in row-major order: the diagonal and the lower triangle do not
exist. A drawn graph is a *leaf* a of the recursion: the matrix A (N, N) over all pairs, or the directed
values (2 P,) of the candidates, first row i column j, then row j column i. All entries of a leaf are
independent, so its gradient has G_ij and G_ji apart (LDS, method 6).

The gradient with respect to A is of low rank: each product A B adds (dL/d(A B)) B^T, and the row sums add
r 1^T. :class:`Graph` multiplies by the few edges that were drawn and notes these factors; the gradient of
absent edges is formed from them once, at the end of a chunk (:class:`Factors`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

# Above this share of edges among the pairs a dense product is faster.
_DENSE_SHARE = 0.05
# Candidates whose gradient is formed at once.
_BLOCK = 4096


def draw_edges(theta: Tensor, uniform: Tensor) -> Tensor:
    """floor(u + theta) in {0, 1}: an edge with probability theta; 0 never gives one, 1 always does."""
    return torch.floor(uniform + theta)


def project(theta: Tensor) -> Tensor:
    """Nearest feasible theta: clipped to [0, 1]."""
    return theta.clamp(0, 1)


@dataclass
class Factors:
    """A gradient with respect to every entry of A, as sum_k U_k V_k^T + r 1^T.

    Attributes:
        left: U_k, (N, width) each.
        right: V_k, (N, width) each.
        rows: r, (N,) each.
    """

    left: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def whole(self) -> tuple[Tensor, Tensor, Tensor]:
        """U and V (N, K) with all widths side by side, and r (N,)."""
        return torch.cat(self.left, dim=1), torch.cat(self.right, dim=1), torch.stack(self.rows).sum(dim=0)


class Graph:
    """A drawn graph in the recursion: products with A, and where asked for the factors of A's gradient.

    Args:
        matrix: A (N, N), dense or sparse.
        transpose: A^T.
        degree: (N,), row sums of A + I. A leaf of its own.
    """

    def __init__(self, matrix: Tensor, transpose: Tensor, degree: Tensor) -> None:
        self.matrix, self.transpose = matrix, transpose
        self.degree = degree.detach().requires_grad_()
        self.factors: Factors | None = None

    def propagate(self, signal: Tensor) -> Tensor:
        """D^-1/2 (A + I) D^-1/2 B for a signal B (N, C)."""
        scale = self.degree.rsqrt()[:, None]
        scaled = scale * signal
        product: Tensor = _Product.apply(scaled, self, False)
        return scale * (scaled + product)

    @contextmanager
    def noting(self, factors: Factors) -> Iterator[None]:
        """Backward passes inside add to ``factors``; the gradient of ``degree`` is the caller's to add."""
        self.factors = factors
        try:
            yield
        finally:
            self.factors = None


class _Product(torch.autograd.Function):
    """A B or A^T B. Its backward is itself, so it differentiates twice; A's gradient stays factors."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, graph: Graph, transposed: bool) -> Tensor:
        ctx.graph, ctx.transposed = graph, transposed
        ctx.save_for_backward(signal)
        return (graph.transpose if transposed else graph.matrix) @ signal

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (signal,), factors = gradients, ctx.saved_tensors, ctx.graph.factors
        if factors is not None:
            left, right = (signal, gradient) if ctx.transposed else (gradient, signal)
            factors.left.append(left.detach())
            factors.right.append(right.detach())
        return _Product.apply(gradient, ctx.graph, not ctx.transposed), None, None


def _sparse(row: Tensor, column: Tensor, values: Tensor, nodes: int) -> Tensor:
    """Matrix (N, N) from entries in any order."""
    order = (row * nodes + column).argsort()
    starts = torch.zeros(nodes + 1, dtype=torch.long, device=row.device)
    starts[1:] = row.bincount(minlength=nodes).cumsum(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*CSR tensor support is in beta.*")
        return torch.sparse_csr_tensor(
            starts, column[order], values[order], (nodes, nodes), check_invariants=False
        )


def _undirected(pairs: Tensor, values: Tensor, nodes: int) -> Graph:
    """The symmetric graph of pairs i < j (2, K) with ``values`` (K,)."""
    row, column, both = torch.cat([pairs[0], pairs[1]]), torch.cat([pairs[1], pairs[0]]), values.repeat(2)
    matrix = _sparse(row, column, both, nodes)
    return Graph(matrix, matrix, values.new_ones(nodes).index_add(0, row, both))


def propagate_along(row: Tensor, column: Tensor, weight: Tensor, signal: Tensor) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 B for entries (E,) of A and a signal B (N, C); differentiable twice."""
    degree = signal.new_ones(signal.shape[0]).index_add(0, row, weight)
    scale = degree.rsqrt()[:, None]
    scaled = scale * signal
    messages = weight[:, None] * scaled.index_select(0, column)
    return scale * scaled.index_add(0, row, messages)


class Edges(Protocol):
    """What the recursion needs of a set of pairs."""

    num_nodes: int
    count: int

    def leaf(self, values: Tensor) -> Tensor:
        """The leaf of a symmetric graph with these values (P,) on the pairs."""

    def drawn(self, values: Tensor) -> Graph:
        """The same graph, holding its edges alone."""

    def graph(self, leaf: Tensor) -> Graph:
        """The graph of a leaf."""

    def gradient(self, factors: Factors) -> Tensor:
        """Gradient of a leaf from its factors."""

    def propagate(self, leaf: Tensor, signal: Tensor) -> Tensor:
        """D^-1/2 (A + I) D^-1/2 B for a signal B (N, C), D the row sums of A + I; differentiable twice."""

    def pair_gradient(self, gradient: Tensor, symmetric: bool) -> Tensor:
        """Gradient of a leaf -> of theta (P,): G_ij + G_ji, or G_ij alone (the released code)."""

    def pairs(self) -> Tensor:
        """The pairs i < j, (2, P)."""


class AllPairs:
    """Every pair of N nodes is a possible edge: P = N (N - 1) / 2, leaves are matrices.

    Args:
        num_nodes: N.
        device: of the tensors made here.
    """

    def __init__(self, num_nodes: int, device: torch.device | str = "cpu") -> None:
        self.num_nodes, self.count = num_nodes, num_nodes * (num_nodes - 1) // 2
        self._upper = torch.ones(num_nodes, num_nodes, dtype=torch.bool, device=device).triu_(1)

    def leaf(self, values: Tensor) -> Tensor:
        upper = values.new_zeros(self.num_nodes, self.num_nodes)
        # reads the values row by row, as triu_indices numbers the pairs, without the indices' 16 bytes a pair
        upper.masked_scatter_(self._upper, values)
        return upper + upper.T

    def drawn(self, values: Tensor) -> Graph:
        present = values.nonzero()[:, 0]
        if len(present) > _DENSE_SHARE * self.count:
            return self.graph(self.leaf(values))
        return _undirected(self._numbered(present), values[present], self.num_nodes)

    def _numbered(self, index: Tensor) -> Tensor:
        """Nodes i < j (2, K) of the pairs with these numbers, without the 16 bytes of every pair."""
        node = torch.arange(self.num_nodes, device=index.device)
        starts = node * (2 * self.num_nodes - node - 1) // 2
        row = torch.searchsorted(starts, index, right=True) - 1
        # the last two rows start at the same number: the last has no pairs
        row = row.clamp(max=max(self.num_nodes - 2, 0))
        return torch.stack([row, index - starts[row] + row + 1])

    def graph(self, leaf: Tensor) -> Graph:
        return Graph(leaf, leaf.T, 1 + leaf.sum(dim=1))

    def gradient(self, factors: Factors) -> Tensor:
        left, right, rows = factors.whole()
        return torch.addmm(rows[:, None], left, right.T)

    def propagate(self, leaf: Tensor, signal: Tensor) -> Tensor:
        scale = (1 + leaf.sum(dim=1)).rsqrt()[:, None]
        scaled = scale * signal
        return scale * (scaled + leaf @ scaled)

    def pair_gradient(self, gradient: Tensor, symmetric: bool) -> Tensor:
        matrix = gradient + gradient.T if symmetric else gradient
        return matrix[self._upper]

    def pairs(self) -> Tensor:
        return torch.triu_indices(self.num_nodes, self.num_nodes, 1, device=self._upper.device)


class CandidatePairs:
    """Only the given pairs are possible edges; memory and time are linear in their number.

    Candidates drawn as 0 stay in the list: their gradient is how an edge appears. The self-loop is added in
    closed form.

    Args:
        pairs: (2, P) with i < j, each once, sorted by row.
        num_nodes: N.

    Raises:
        ValueError: for pairs that are out of range, doubled or not i < j in order.
    """

    def __init__(self, pairs: Tensor, num_nodes: int) -> None:
        if pairs.ndim != 2 or len(pairs) != 2:
            raise ValueError(f"candidate pairs must be (2, P), got {list(pairs.shape)}")
        code = pairs[0] * num_nodes + pairs[1]
        if bool((pairs[0] >= pairs[1]).any()) or bool((code[1:] <= code[:-1]).any()):
            raise ValueError("candidate pairs must be i < j, each once, sorted by i, then j")
        if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < num_nodes:
            raise ValueError(f"candidate pairs name nodes outside 0..{num_nodes - 1}")
        self.num_nodes, self.count = num_nodes, pairs.shape[1]
        self._pairs = pairs
        self._row = torch.cat([pairs[0], pairs[1]])
        self._column = torch.cat([pairs[1], pairs[0]])

    def leaf(self, values: Tensor) -> Tensor:
        return torch.cat([values, values])

    def drawn(self, values: Tensor) -> Graph:
        present = values.nonzero()[:, 0]
        return _undirected(self._pairs[:, present], values[present], self.num_nodes)

    def graph(self, leaf: Tensor) -> Graph:
        nodes = self.num_nodes
        matrix = _sparse(self._row, self._column, leaf, nodes)
        transpose = _sparse(self._column, self._row, leaf, nodes)
        return Graph(matrix, transpose, leaf.new_ones(nodes).index_add(0, self._row, leaf))

    def gradient(self, factors: Factors) -> Tensor:
        left, right, rows = factors.whole()
        parts = zip(self._row.split(_BLOCK), self._column.split(_BLOCK), strict=True)
        return torch.cat([(left[i] * right[j]).sum(dim=1) + rows[i] for i, j in parts])

    def propagate(self, leaf: Tensor, signal: Tensor) -> Tensor:
        return propagate_along(self._row, self._column, leaf, signal)

    def pair_gradient(self, gradient: Tensor, symmetric: bool) -> Tensor:
        forward, backward = gradient[: self.count], gradient[self.count :]
        return forward + backward if symmetric else forward

    def pairs(self) -> Tensor:
        return self._pairs


def initial_values(pairs: Tensor, num_nodes: int, edge_index: Tensor, edge_weight: Tensor | None) -> Tensor:
    """theta_0 (P,) over ``pairs``: the weight (1 without weights) of each given edge, 0 elsewhere.

    Args:
        pairs: (2, P), i < j, sorted.
        edge_index: (2, E), both directions of each edge.
        edge_weight: (E,) in [0, 1], equal in both directions, or None.

    Raises:
        ValueError: for a weight that is no probability.
    """
    if edge_weight is not None and bool((wrong := ~((edge_weight >= 0) & (edge_weight <= 1))).any()):
        raise ValueError(
            "LDS takes edge weights of the data for probabilities, in [0, 1], but edge_weight holds "
            f"{float(edge_weight[wrong][0]):g}; scale the weights of the data, or leave them out"
        )
    upper = edge_index[0] < edge_index[1]
    given = edge_index[:, upper]
    weight = torch.ones(given.shape[1], device=pairs.device) if edge_weight is None else edge_weight[upper]
    codes, wanted = pairs[0] * num_nodes + pairs[1], given[0] * num_nodes + given[1]
    values = torch.zeros(pairs.shape[1], device=pairs.device)
    place = torch.searchsorted(codes, wanted).clamp(max=max(len(codes) - 1, 0))
    found = codes[place] == wanted if len(codes) else torch.zeros_like(wanted, dtype=torch.bool)
    values[place[found]] = weight[found].to(values.dtype)
    return values


def choose_candidates(
    edge_index: Tensor,
    features: Tensor,
    count: int,
    random_count: int,
    generator: torch.Generator,
    block: int = 1024,
) -> Tensor:
    """Exactly ``count`` pairs that may become edges; (2, count), sorted.

    The given edges come first, then ``random_count`` pairs at random, then pairs of nodes with similar
    features (cosine): the first neighbours of all nodes, the second ones, ... until the number is reached.

    Args:
        edge_index: (2, E), given edges in both directions.
        features: (N, F).
        generator: of the random pairs, on the CPU.
        block: rows of the similarity matrix that exist at a time.

    Raises:
        ValueError: if ``count`` cannot hold the given edges and random pairs, or exceeds all pairs.
    """
    nodes = len(features)
    total = nodes * (nodes - 1) // 2
    upper = edge_index[0] < edge_index[1]
    chosen = torch.unique(edge_index[0, upper] * nodes + edge_index[1, upper]).cpu()
    if not len(chosen) + random_count <= count <= total:
        raise ValueError(
            f"model.init_args.num_candidates is {count}, but the data have {len(chosen)} given edges, "
            f"model.init_args.random_candidates adds {random_count}, and there are {total} pairs in all"
        )
    chosen = _add_random(chosen, nodes, random_count, generator)
    neighbours = max(8, 4 * (count - len(chosen)) // max(nodes, 1))
    while len(chosen) < count:
        ranked = _neighbour_codes(features, min(neighbours, nodes - 1), block)
        fresh = ranked[~torch.isin(ranked, chosen)]
        first = _first_of_each(fresh)[: count - len(chosen)]
        chosen = torch.cat([chosen, first])
        if neighbours >= nodes - 1:
            break
        neighbours *= 2
    chosen = _add_random(chosen.unique(), nodes, count - len(chosen), generator).unique()
    return torch.stack([chosen // nodes, chosen % nodes]).to(features.device)


def _add_random(chosen: Tensor, nodes: int, count: int, generator: torch.Generator) -> Tensor:
    while count > 0:
        ends = torch.randint(nodes, (2, 2 * count + 16), generator=generator)
        code = ends.min(dim=0).values * nodes + ends.max(dim=0).values
        code = code[(ends[0] != ends[1]) & ~torch.isin(code, chosen)]
        new = _first_of_each(code)[:count]
        chosen, count = torch.cat([chosen, new]), count - len(new)
    return chosen


def _first_of_each(codes: Tensor) -> Tensor:
    """Distinct values in the order of their first appearance."""
    values, inverse = codes.unique(return_inverse=True)
    first = torch.full((len(values),), len(codes)).scatter_reduce(
        0, inverse, torch.arange(len(codes)), "amin"
    )
    return codes[first.sort().values]


def _neighbour_codes(features: Tensor, neighbours: int, block: int) -> Tensor:
    """Codes i N + j of the pairs (node, neighbour), all nearest neighbours first; on the CPU."""
    nodes = len(features)
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    nearest = []
    for start in range(0, nodes, block):
        similarity = unit[start : start + block] @ unit.T
        rows = torch.arange(len(similarity), device=features.device)
        similarity[rows, rows + start] = -torch.inf
        nearest.append(similarity.topk(neighbours, dim=1).indices)
    other = torch.cat(nearest).cpu()
    own = torch.arange(nodes)[:, None].expand_as(other)
    code = torch.minimum(own, other) * nodes + torch.maximum(own, other)
    return code.T.reshape(-1)
