"""Erdos-Renyi and Barabasi-Albert graphs fitted to a set: what a learned generator has to beat."""

from __future__ import annotations

from typing import Literal

import networkx as nx
import numpy as np
import torch
from torch import Tensor, nn

RandomKind = Literal["er", "ba"]


class RandomGraphs(nn.Module):
    """G(n, p) or Barabasi-Albert graphs with the sizes and densities of a training set.

    A graph takes its number of nodes n from the training set's distribution. ``er``: every pair is an edge
    with the share of edges that the training graphs of n nodes have, the maximum-likelihood p given n.
    ``ba``: the number m of edges of a new node is the one whose m (n - m) comes nearest to their mean number
    of edges.

    Args:
        kind: ``er`` or ``ba``.
        max_nodes: of a graph.
    """

    def __init__(self, kind: RandomKind, max_nodes: int) -> None:
        super().__init__()
        self.kind, self.max_nodes = kind, max_nodes
        # parameters, so that they are saved, converted and loaded; no gradient ever reaches them
        self.graphs = nn.Parameter(torch.zeros(max_nodes + 1))
        self.edges = nn.Parameter(torch.zeros(max_nodes + 1))

    @torch.no_grad()
    def fit(self, nodes: Tensor, edges: Tensor) -> None:
        """Count the graphs and average the edges (G,) of each size ``nodes`` (G,)."""
        count = torch.bincount(nodes, minlength=self.max_nodes + 1)
        total = torch.bincount(nodes, weights=edges.double(), minlength=self.max_nodes + 1)
        self.graphs.copy_(count)
        self.edges.copy_(total / count.clamp(min=1))

    def density(self) -> Tensor:
        """Share of the pairs (max_nodes + 1,) that are edges, by number of nodes; 0 for sizes never seen."""
        n = torch.arange(self.max_nodes + 1, device=self.edges.device)
        return self.edges.detach() / (n * (n - 1) / 2).clamp(min=1)

    def sample(self, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """One graph a seed: adjacency uint8 (B, max_nodes, max_nodes) and nodes (B,).

        Raises:
            ValueError: before ``fit``.
        """
        weight = self.graphs.detach().double().cpu().numpy()
        if not weight.sum():
            raise ValueError(f"the {self.kind} baseline has not been fitted: run `zoo fit` first")
        adjacency = torch.zeros(len(seeds), self.max_nodes, self.max_nodes, dtype=torch.uint8)
        nodes = torch.zeros(len(seeds), dtype=torch.long)
        for place, seed in enumerate(seeds):
            graph = self._one(weight / weight.sum(), np.random.default_rng(seed))
            nodes[place] = len(graph)
            adjacency[place, : len(graph), : len(graph)] = torch.from_numpy(graph)
        return adjacency, nodes

    def _one(self, weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
        n = int(random.choice(self.max_nodes + 1, p=weight))
        edges = float(self.edges.detach()[n])
        if self.kind == "er":
            upper = np.triu(random.random((n, n)) < edges / max(1.0, n * (n - 1) / 2), 1)
            return (upper | upper.T).astype(np.uint8)
        if n < 2:
            return np.zeros((n, n), dtype=np.uint8)
        m = min(range(1, n), key=lambda k: abs(k * (n - k) - edges))
        graph = nx.barabasi_albert_graph(n, m, seed=int(random.integers(2**31)))
        return nx.to_numpy_array(graph, dtype=np.uint8)
