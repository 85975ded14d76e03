"""Four kinds of generated graphs that only their structure tells apart."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch

from datamodules.graphs.full_graph import mirrored, node_pairs, rewire_edges
from datamodules.graphs.graph_level import GraphLevelModule, GraphStore
from datamodules.loading.ranges import Depth, Fraction, Many, Seed, check_ranges
from datamodules.loading.sampling import item_generator

_GRAPHS = 22
# Even numbers with a factorisation into two factors of at least 3: each kind of graph exists in each size.
_GRIDS = {12: (3, 4), 16: (4, 4), 18: (3, 6), 20: (4, 5), 24: (4, 6), 28: (4, 7), 30: (5, 6)}

Pairs = list[tuple[int, int]]


class SyntheticGraphs(GraphLevelModule):
    """Cycles, ladders, grids and Erdos-Renyi graphs with as many edges: generated data, no real graphs.

    Class 0 is a cycle, 1 a ladder of two rails, 2 a grid, 3 an Erdos-Renyi graph G(n, m) whose m is that of a
    cycle, a ladder or a grid of its n nodes, so that its mean degree gives nothing away. All classes have the
    same sizes; nodes are shuffled; the only feature is a constant 1.
    :class:`datamodules.graphs.graph_level.GraphLevelModule` describes the batch.

    Args:
        graphs: G, in equal shares of the classes.
        edges_rewired: this fraction of each graph's edges moves to random places.
        seed: of the graphs.
        folds: number of folds.
        **kwargs: of :class:`datamodules.graphs.graph_level.GraphLevelModule`.

    Raises:
        ValueError: for impossible settings.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "graphs",
        "seed",
        "edges_rewired",
        "fold",
        "folds",
        "holdout",
        "holdout_share",
        "split_seed",
    )

    class_names = ("cycle", "ladder", "grid", "random")

    def __init__(
        self,
        graphs: Many = 600,
        edges_rewired: Fraction = 0.1,
        seed: Seed = 0,
        folds: Depth = 5,
        **kwargs: Any,
    ) -> None:
        check_ranges(SyntheticGraphs, locals())
        super().__init__(folds=folds, **kwargs)
        if graphs < 4 * folds:
            raise ValueError(f"data.init_args.graphs must be at least 4 x folds = {4 * folds}, got {graphs}")
        self.graphs, self.edges_rewired, self.seed = graphs, edges_rewired, seed

    def read(self) -> GraphStore:
        sizes, edges, labels = [], [], []
        for number in range(self.graphs):
            random = item_generator(self.seed, _GRAPHS, number)
            nodes, label = int(random.choice(list(_GRIDS))), number % 4
            pairs = node_pairs(torch.tensor(_drawn(label, nodes, random)).T)
            # keyed by the graph: a change of one graph leaves the others as they are
            pairs = rewire_edges(pairs, nodes, self.edges_rewired, int(random.integers(2**31)))
            shuffled = torch.from_numpy(random.permutation(nodes))[pairs]
            sizes.append(nodes)
            edges.append(mirrored(node_pairs(shuffled)))
            labels.append(label)
        counts = [e.shape[1] for e in edges]
        return GraphStore(
            x=torch.ones(sum(sizes), 1),
            edge_index=torch.cat(edges, dim=1),
            y=torch.tensor(labels),
            node_ptr=torch.tensor([0, *np.cumsum(sizes).tolist()]),
            edge_ptr=torch.tensor([0, *np.cumsum(counts).tolist()]),
        )


def cycle(nodes: int) -> Pairs:
    """A ring of ``nodes`` nodes."""
    return [(i, (i + 1) % nodes) for i in range(nodes)]


def grid(rows: int, columns: int) -> Pairs:
    """A grid; two rows are a ladder."""
    right = [(r * columns + c, r * columns + c + 1) for r in range(rows) for c in range(columns - 1)]
    down = [(r * columns + c, (r + 1) * columns + c) for r in range(rows - 1) for c in range(columns)]
    return right + down


def erdos_renyi(nodes: int, edges: int, random: np.random.Generator) -> Pairs:
    """G(n, m): ``edges`` of all pairs, without replacement."""
    upper = np.stack(np.triu_indices(nodes, 1), axis=1)
    chosen = random.choice(len(upper), size=edges, replace=False)
    return [(int(a), int(b)) for a, b in upper[np.sort(chosen)]]


def _drawn(label: int, nodes: int, random: np.random.Generator) -> Pairs:
    if label == 0:
        return cycle(nodes)
    if label == 1:
        return grid(2, nodes // 2)
    if label == 2:
        return grid(*_GRIDS[nodes])
    twin = _drawn(int(random.integers(3)), nodes, random)
    return erdos_renyi(nodes, len(twin), random)
