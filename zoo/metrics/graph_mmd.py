"""How far a set of generated graphs is from a set of real ones: MMD of histograms, uniqueness, novelty."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.metrics.graph_statistics import (
    ORBITS,
    Array,
    clustering_histogram,
    degree_histogram,
    orbit_histogram,
    spectrum_histogram,
)

STATISTICS = ("degree", "clustering", "orbit", "spectrum")


def padded(histograms: Sequence[Array] | Tensor, bins: int = 0) -> Tensor:
    """Histograms of different lengths as float64 (G, B), the shorter ones with zeros behind."""
    rows = [torch.as_tensor(h, dtype=torch.float64) for h in histograms]
    width = max([bins, *map(len, rows)])
    return torch.stack([torch.nn.functional.pad(r, (0, width - len(r))) for r in rows])


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """W1 in bins, the sum of |cdf difference|, between all rows of a (G, B) and of b (H, B); (G, H)."""
    return torch.cdist(a.cumsum(dim=1), b.cumsum(dim=1), p=1)


def mmd_squared(a: Sequence[Array] | Tensor, b: Sequence[Array] | Tensor, sigma: float = 1.0) -> Tensor:
    """Squared maximum mean discrepancy of two sets of histograms, biased: the diagonals are in; scalar
    float64.

    mean k(a, a') + mean k(b, b') - 2 mean k(a, b) with k = exp(-W1^2 / (2 sigma^2)). Histograms are taken as
    they are (normalise them first); shorter ones are padded with zeros.

    Raises:
        ValueError: for an empty set.
    """
    if not len(a) or not len(b):
        raise ValueError(f"MMD needs graphs on both sides, got {len(a)} and {len(b)}")
    width = max(len(h) for h in [*a, *b])
    a, b = padded(a, width), padded(b, width)

    def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-wasserstein(x, y).square() / (2 * sigma**2)).mean()

    return mean_kernel(a, a) + mean_kernel(b, b) - 2 * mean_kernel(a, b)


def trimmed(adjacency: Tensor, nodes: Tensor) -> list[Array]:
    """Padded adjacency (B, N, N) -> uint8 (n, n) each."""
    graphs = adjacency.detach().to("cpu", torch.uint8).numpy()
    return [g[:n, :n] for g, n in zip(graphs, nodes.tolist(), strict=True)]


class GraphMMD(Metric):
    """MMD^2 of degree, clustering, orbit and Laplacian-spectrum histograms between real and generated graphs.

    Histograms are normalised; the kernel is exp(-W1^2 / (2 sigma^2)), W1 in bins. All pairs of graphs enter,
    so that the histograms themselves are the state, gathered over processes.

    Args:
        max_nodes: of any graph: degrees are below it.
        sigma: of the kernel, in bins.
        clustering_bins: of [0, 1]. Ten with sigma 1 is the bandwidth .1 of GraphRNN's released code.
        spectrum_bins: of [0, 2].
        **kwargs: of :class:`torchmetrics.Metric`.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    def __init__(
        self,
        max_nodes: int,
        sigma: float = 1.0,
        clustering_bins: int = 10,
        spectrum_bins: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sigma, self.bins = sigma, (max_nodes, clustering_bins, ORBITS, spectrum_bins)
        self.real: list[Tensor] | Tensor
        self.fake: list[Tensor] | Tensor
        for side in ("real", "fake"):
            self.add_state(side, [], dist_reduce_fx="cat")

    def histograms(self, graph: Array) -> Tensor:
        """The four histograms of a graph, one behind the other; float64."""
        longest, clusters, _, spectrum = self.bins
        degree = degree_histogram(graph)
        found = (
            np.pad(degree, (0, longest - len(degree))),
            clustering_histogram(graph, clusters),
            orbit_histogram(graph),
            spectrum_histogram(graph, spectrum),
        )
        return torch.from_numpy(np.concatenate(found))

    def update(self, adjacency: Tensor, nodes: Tensor, real: bool) -> None:
        """Add graphs: adjacency (B, N, N) with ``nodes`` (B,) nodes, the rest padding."""
        side = self.real if real else self.fake
        assert isinstance(side, list)
        rows = torch.stack([self.histograms(g) for g in trimmed(adjacency, nodes)])
        side.append(rows.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """MMD^2 by statistic, float64.

        Raises:
            ValueError: without graphs on a side.
        """
        sides = []
        for side in (self.real, self.fake):
            empty = torch.zeros(0, sum(self.bins), dtype=torch.float64, device=self.device)
            sides.append(torch.cat([empty, *side]) if isinstance(side, list) else side)
        parts = [s.cpu().double().split(list(self.bins), dim=1) for s in sides]
        return {
            name: mmd_squared(real, fake, self.sigma)
            for name, real, fake in zip(STATISTICS, *parts, strict=True)
        }


# --- isomorphism --------------------------------------------------------------------------------------------


def colours(graph: Array, rounds: int = 8) -> list[int]:
    """Weisfeiler-Lehman colours of the nodes: the same on isomorphic graphs, in every process."""
    neighbours = [np.flatnonzero(row).tolist() for row in graph]
    triangles = ((graph.astype(np.float64) @ graph) * graph).sum(axis=1)
    found = [int(d) * 1_000_003 + int(t) for d, t in zip(graph.sum(axis=1), triangles, strict=True)]
    for _ in range(rounds):
        words = [(found[v], sorted(found[u] for u in near)) for v, near in enumerate(neighbours)]
        new = [int.from_bytes(hashlib.blake2b(repr(w).encode(), digest_size=8).digest()) for w in words]
        settled = len(set(new)) == len(set(found))
        found = new
        if settled:
            break
    return found


class IsomorphismClasses:
    """Tells whether a graph has been seen before, up to the names of its nodes.

    Weisfeiler-Lehman colours sort graphs into buckets; inside a bucket VF2 decides exactly.
    """

    def __init__(self, graphs: Sequence[Array] = ()) -> None:
        self._buckets: dict[tuple[int, ...], list[nx.Graph]] = {}
        self.count = 0
        for graph in graphs:
            self.add(graph)

    def _find(self, graph: Array) -> tuple[tuple[int, ...], nx.Graph, bool]:
        found = colours(graph)
        key = (len(graph), *sorted(found))
        candidate = nx.from_numpy_array(graph)
        nx.set_node_attributes(candidate, dict(enumerate(found)), "colour")
        same = nx.algorithms.isomorphism.categorical_node_match("colour", 0)
        seen = any(nx.is_isomorphic(g, candidate, node_match=same) for g in self._buckets.get(key, []))
        return key, candidate, seen

    def __contains__(self, graph: Array) -> bool:
        return self._find(graph)[2]

    def add(self, graph: Array) -> bool:
        """Remember a graph; True if it is the first of its class."""
        key, candidate, seen = self._find(graph)
        if not seen:
            self._buckets.setdefault(key, []).append(candidate)
            self.count += 1
        return not seen


def is_connected(graph: Array) -> bool:
    """Whether there is a path between all nodes."""
    return bool(nx.is_connected(nx.from_numpy_array(graph)))


def is_grid(graph: Array) -> bool:
    """Whether the graph is an a x b grid with a, b >= 2, ladders among them."""
    nodes, edges = len(graph), int(graph.sum()) // 2
    shapes = ((a, nodes // a) for a in range(2, int(nodes**0.5) + 1) if nodes % a == 0)
    known = IsomorphismClasses(
        [
            nx.to_numpy_array(nx.grid_2d_graph(a, b), dtype=np.uint8)
            for a, b in shapes
            if 2 * nodes - a - b == edges
        ]
    )
    return graph in known


RULES: dict[str, Callable[[Array], bool]] = {"connected": is_connected, "grid": is_grid}


class GraphQuality(Metric):
    """Shares of generated graphs that are valid, unique and novel.

    Unique: isomorphism classes over graphs. Novel: graphs that are isomorphic to no training graph, over
    graphs.
    Also ``nodes``, their mean number, and ``capped``, the share that has ``max_nodes``. Valid: what the rule
    says (``connected`` or ``grid``), over graphs.

    Args:
        max_nodes: of any graph.
        rule: of validity.
        **kwargs: of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, max_nodes: int, rule: str = "connected", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_nodes, self.rule = max_nodes, RULES[rule]
        self.reference = IsomorphismClasses()
        self.bits: list[Tensor] | Tensor
        self.nodes: list[Tensor] | Tensor
        self.add_state("bits", [], dist_reduce_fx="cat")
        self.add_state("nodes", [], dist_reduce_fx="cat")

    def set_reference(self, graphs: Sequence[Array]) -> None:
        """The graphs that novelty is measured against."""
        self.reference = IsomorphismClasses(graphs)

    def update(self, adjacency: Tensor, nodes: Tensor) -> None:
        """Add generated graphs (B, N, N) with ``nodes`` (B,) nodes."""
        upper = np.triu_indices(self.max_nodes, 1)
        full = np.zeros((len(nodes), self.max_nodes, self.max_nodes), dtype=np.uint8)
        for row, graph in zip(full, trimmed(adjacency, nodes), strict=True):
            row[: len(graph), : len(graph)] = graph
        packed = np.packbits(full[:, upper[0], upper[1]], axis=1)
        assert isinstance(self.bits, list)
        assert isinstance(self.nodes, list)
        self.bits.append(torch.from_numpy(packed).to(self.device))
        self.nodes.append(nodes.to(self.device))

    def graphs(self) -> list[Array]:
        """All graphs, of all processes once the metric is computed."""
        bits, nodes = (torch.cat(x) if isinstance(x, list) else x for x in (self.bits, self.nodes))
        upper = np.triu_indices(self.max_nodes, 1)
        full = np.zeros((len(nodes), self.max_nodes, self.max_nodes), dtype=np.uint8)
        full[:, upper[0], upper[1]] = np.unpackbits(bits.cpu().numpy(), axis=1, count=len(upper[0]))
        full |= full.transpose(0, 2, 1)
        return [g[:n, :n] for g, n in zip(full, nodes.tolist(), strict=True)]

    def compute(self) -> dict[str, Tensor]:
        """``validity``, ``uniqueness``, ``novelty``, ``nodes`` and ``capped``, float32.

        Raises:
            ValueError: without graphs.
        """
        if not len(self.bits):
            raise ValueError("quality needs generated graphs, got none")
        graphs = self.graphs()
        shares = {
            "validity": sum(map(self.rule, graphs)),
            "uniqueness": IsomorphismClasses(graphs).count,
            "novelty": sum(g not in self.reference for g in graphs),
            "nodes": sum(map(len, graphs)),
            "capped": sum(len(g) == self.max_nodes for g in graphs),
        }
        return {name: torch.tensor(count / len(graphs)) for name, count in shares.items()}
