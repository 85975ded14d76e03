"""Small graphs to try networks on."""

from __future__ import annotations

import torch
from torch import Tensor

GRAPH_DIMS: dict[str, dict[int, str]] = {"x": {0: "nodes"}, "edge_index": {1: "edges"}}
"""Free dimensions of a network over features x (N, F) and edge_index (2, E), for ``zoo export``."""


def example_edges(nodes: int, device: torch.device | str = "cpu") -> Tensor:
    """Entries (2, E) of a random graph, each edge in both directions, without self-loops.

    A path, from five nodes on with random chords and a last node of its own: what a graph network must take,
    with one node that of no edge at all.
    """
    linked = nodes - 1 if nodes >= 5 else nodes
    pairs = torch.triu_indices(linked, linked, 1)
    chosen = (pairs[1] - pairs[0] == 1) | (torch.rand(pairs.shape[1]) < 2 / max(linked, 1))
    pairs = pairs[:, chosen]
    return torch.cat([pairs, pairs.flip(0)], dim=1).to(device)
