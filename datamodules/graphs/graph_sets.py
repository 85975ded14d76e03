"""Sets of small undirected graphs to learn a generator from: grids, ladders, communities, and TU files.

An item is the adjacency matrix of one graph in an order of its nodes, which is a pure function of
(seed, epoch, index); see :class:`GraphSetModule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from torch import Tensor

from datamodules.graphs.tu_graphs import read_tu, tu_folder
from datamodules.loading.arguments import check_choice
from datamodules.loading.loaders import BatchItems, SplitModule, TensorItems, evaluation_loader
from datamodules.loading.ranges import Many, ManyOrZero, Seed, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, global_seed, item_generator

Array = np.ndarray[Any, Any]
Order = Literal["bfs", "canonical"]
SetName = Literal["grid_small", "ladder_small", "community_small", "grid", "community"]
# Second words of the keys of this module's random streams; the splits follow each other.
_GRAPH, _SHUFFLE, _ORDER = 201, 202, 203
_SPLITS = {"train": 0, "val": 1, "test": 2}


def grid(rows: int, columns: int) -> Array:
    """Adjacency (rows columns, rows columns) of a two-dimensional grid, row by row."""
    index = np.arange(rows * columns).reshape(rows, columns)
    across = np.stack([index[:, :-1].ravel(), index[:, 1:].ravel()])
    down = np.stack([index[:-1].ravel(), index[1:].ravel()])
    return from_pairs(np.concatenate([across, down], axis=1), rows * columns)


def community(nodes: int, inside: float, between: float, random: np.random.Generator) -> Array:
    """Two communities, G(n/2, inside) each, and max(1, round(between n)) edges from one to the other.

    The largest connected component of it (GraphRNN, section 4.1, takes p = .3 and .05 n edges).
    """
    half = nodes // 2
    upper = np.triu(random.random((nodes, nodes)) < inside, 1)
    side = np.arange(nodes) < half
    upper &= side[:, None] == side[None, :]
    crossing = random.choice(half * (nodes - half), size=max(1, round(between * nodes)), replace=False)
    upper[crossing // (nodes - half), half + crossing % (nodes - half)] = True
    return largest_component((upper | upper.T).astype(np.uint8))


def from_pairs(pairs: Array, nodes: int) -> Array:
    """Symmetric uint8 adjacency without self-loops of pairs (2, P)."""
    adjacency = np.zeros((nodes, nodes), dtype=np.uint8)
    adjacency[pairs[0], pairs[1]] = adjacency[pairs[1], pairs[0]] = 1
    np.fill_diagonal(adjacency, 0)
    return adjacency


def largest_component(adjacency: Array) -> Array:
    """The connected component with most nodes; the first of equally large ones."""
    count, label = connected_components(csr_matrix(adjacency), directed=False)
    if count == 1:
        return adjacency
    kept = np.flatnonzero(label == np.bincount(label).argmax())
    return adjacency[np.ix_(kept, kept)]


def component_of(pairs: Array, nodes: int) -> tuple[Array, int]:
    """Edges (2, P) of the largest connected component, its nodes renumbered in order, and their number."""
    ends = (np.ones(pairs.shape[1], np.uint8), (pairs[0], pairs[1]))
    _, label = connected_components(csr_matrix(ends, shape=(nodes, nodes)), directed=False)
    inside = label == np.bincount(label).argmax()
    return (np.cumsum(inside) - 1)[pairs[:, inside[pairs[0]]]], int(inside.sum())


def neighbours(adjacency: Array) -> list[list[int]]:
    """The neighbours of each node, in ascending index."""
    return [np.flatnonzero(row).tolist() for row in adjacency]


def bfs_order(near: Sequence[Sequence[int]], random: np.random.Generator) -> Array:
    """Breadth-first order (n,) from a random start after a random permutation of the nodes (GraphRNN).

    A queue; the neighbours of a node enter it in ascending index after the permutation. The graph, given by
    its :func:`neighbours`, is connected.
    """
    permutation = random.permutation(len(near)).tolist()
    rank = [0] * len(near)
    for place, node in enumerate(permutation):
        rank[node] = place
    start = permutation[int(random.integers(len(near)))]
    order, seen = [start], {start}
    for node in order:  # grows while it is gone through: the queue
        new = sorted((u for u in near[node] if u not in seen), key=rank.__getitem__)
        order += new
        seen.update(new)
    return np.array(order)


def canonical_order(adjacency: Array) -> Array:
    """One breadth-first order (n,) per graph: from a node of highest degree, neighbours by falling degree.

    Ties go by index: it is the same for the same matrix, not for every isomorphic one.
    """
    by_degree = np.argsort(-adjacency.sum(axis=1, dtype=np.int64), kind="stable")
    sorted_matrix = csr_matrix(adjacency[np.ix_(by_degree, by_degree)])
    return by_degree[breadth_first_order(sorted_matrix, 0, return_predecessors=False)]


def span(ordered: Array) -> int:
    """Largest i - j over the edges (i, j) of an ordered adjacency: the bandwidth M that it needs."""
    i, j = np.nonzero(np.tril(ordered))
    return int((i - j).max()) if len(i) else 0


class OrderedGraphs(BatchItems):
    """Adjacency matrices, each in an order of its nodes.

    Args:
        graphs: uint8 (n, n) each, connected.
        order: of the nodes: ``bfs``, random and new in every epoch, or ``canonical``, always the same.
        seed: of the random orders, with split, epoch and index.
        split: number of the split.
        items: go through the graphs again and again until so many items; None is once.
    """

    def __init__(
        self, graphs: Sequence[Array], order: Order, seed: int, split: int = 0, items: int | None = None
    ) -> None:
        self.graphs, self.order, self.seed, self.split = graphs, order, seed, split
        self.items = len(graphs) if items is None else items
        self._neighbours = [neighbours(g) for g in graphs]
        self._canonical = [canonical_order(g) for g in graphs] if order == "canonical" else []

    def __len__(self) -> int:
        return self.items

    def ordered(self, epoch: int, index: int) -> Array:
        """The adjacency of item ``index`` in epoch ``epoch``."""
        graph = self.graphs[index % len(self.graphs)]
        if self.order == "canonical":
            order = self._canonical[index % len(self.graphs)]
        else:
            near = self._neighbours[index % len(self.graphs)]
            order = bfs_order(near, item_generator(self.seed, _ORDER, self.split, epoch, index))
        return graph[np.ix_(order, order)]

    def __getitems__(self, keys: Keys) -> dict[str, Tensor]:
        found = [self.ordered(int(e), int(i)) for e, i in zip(*batch_keys(keys), strict=True)]
        nodes = [len(g) for g in found]
        adjacency = torch.zeros(len(found), max(nodes), max(nodes), dtype=torch.uint8)
        for row, graph in zip(adjacency, found, strict=True):
            row[: len(graph), : len(graph)] = torch.from_numpy(graph)
        index = torch.from_numpy(batch_keys(keys)[1])
        return {"adjacency": adjacency, "nodes": torch.tensor(nodes), "index": index}


class GraphSetModule(SplitModule):
    """A set of connected undirected graphs; subclasses give it in ``read``.

    Batch: ``adjacency`` uint8 (B, N, N), 0 or 1, symmetric, zero diagonal, N the largest graph of the batch,
    padded with zeros; ``nodes`` int64 (B,); ``index`` int64 (B,). Prediction batches have ``index`` alone,
    one batch for all graphs to generate.

    The split is GraphRNN's: a fixed shuffle, 80 % train, 20 % test, and of the training graphs the first
    20 % validate (they are taken out of training, as in the paper; its release leaves them in).

    Attributes:
        max_nodes: of all graphs, known after ``setup``.
        bandwidth: the largest M that ``bfs_draws`` random breadth-first orders (at least one per training,
            validation and test graph) needed; known after ``setup``.

    Args:
        batch_size: global training batch, over all devices.
        eval_batch_size: global batch of validation and test.
        order: ``bfs``, random breadth-first orders (GraphRNN), or ``canonical``, one fixed per graph
            (one-shot decoders).
        items_per_epoch: an epoch has so many items, the graphs in turn, each time in a new order (GraphRNN:
            1024, 32 batches of 32); null is each graph once.
        bfs_draws: orders that estimate ``bandwidth``.
        predict_samples: graphs that ``zoo predict`` generates.
        num_workers: loader processes.
    """

    max_nodes: int
    bandwidth: int

    def __init__(
        self,
        batch_size: Many = 32,
        eval_batch_size: Many = 32,
        order: Order = "bfs",
        items_per_epoch: Many | None = None,
        bfs_draws: ManyOrZero = 2000,
        predict_samples: Many = 64,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(GraphSetModule, locals())
        super().__init__(batch_size, eval_batch_size, num_workers)
        check_choice("order", order, Order)
        self.order: Order = order
        self.items_per_epoch, self.bfs_draws = items_per_epoch, bfs_draws
        self.predict_samples = predict_samples

    def read(self) -> list[Array]:
        """All graphs, uint8 (n, n) each."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        graphs = self.read()
        if len(graphs) < 5:
            raise ValueError(f"a split in train, val and test needs at least 5 graphs, got {len(graphs)}")
        # the split does not depend on the seed of a run
        graphs = [graphs[i] for i in item_generator(0, _SHUFFLE).permutation(len(graphs))]
        held_out = round(0.8 * len(graphs))
        val = max(1, round(0.2 * held_out))
        self.graphs = {"train": graphs[val:held_out], "val": graphs[:val], "test": graphs[held_out:]}
        self.max_nodes = max(map(len, graphs))
        self.bandwidth = self._needed_bandwidth(graphs)
        self.sets = {
            name: OrderedGraphs(
                found,
                self.order,
                global_seed(),
                _SPLITS[name],
                self.items_per_epoch if name == "train" else None,
            )
            for name, found in self.graphs.items()
        }
        self.train_set, self.val_set, self.test_set = self.sets.values()
        self.predict_set = TensorItems(item=torch.arange(self.predict_samples))

    def _needed_bandwidth(self, graphs: Sequence[Array]) -> int:
        if self.order == "canonical":
            return max(span(g[np.ix_(o, o)]) for g in graphs for o in [canonical_order(g)])
        random = item_generator(0, _ORDER)  # not the run's: the same answer for every seed
        near, needed = [neighbours(g) for g in graphs], 0
        for i in range(max(len(graphs), self.bfs_draws)):
            order = bfs_order(near[i % len(graphs)], random)
            needed = max(needed, span(graphs[i % len(graphs)][np.ix_(order, order)]))
        return needed

    def predict_dataloader(self) -> Any:
        return evaluation_loader(self, self.predict_set, self.predict_samples)


def _shapes(low: int, high: int) -> list[tuple[int, int]]:
    """Grids a x b, 2 <= a <= b, of ``low`` to ``high`` nodes."""
    return [(a, b) for a in range(2, high) for b in range(a, high) if low <= a * b <= high]


def _in_turn(shapes: Sequence[tuple[int, int]]) -> Callable[[int, np.random.Generator], Array]:
    return lambda index, random: grid(*shapes[index % len(shapes)])


def _communities(low: int, high: int, inside: float) -> Callable[[int, np.random.Generator], Array]:
    return lambda index, random: community(int(random.integers(low, high + 1)), inside, 0.05, random)


# name -> number of graphs, and graph i from its own random stream
SETS: dict[SetName, tuple[int, Callable[[int, np.random.Generator], Array]]] = {
    "grid_small": (110, _in_turn(_shapes(10, 20))),
    "ladder_small": (60, _in_turn([(2, b) for b in range(5, 11)])),
    "community_small": (100, _communities(12, 20, 0.7)),
    "grid": (100, _in_turn([(a, b) for a in range(10, 20) for b in range(10, 20)])),
    "community": (500, _communities(60, 160, 0.3)),
}


class GraphSet(GraphSetModule):
    """Generated graphs, no file needed: grids, ladders, two-community graphs, small and at GraphRNN's
    size.

    - ``grid_small``: 110 grids of 10 to 20 nodes, the 11 shapes in turn, so that train, val and test share
      them: what is learned is the set of shapes, and novelty is a fault;
    - ``ladder_small``: 60 ladders of 10 to 20 nodes, the 6 lengths in turn;
    - ``community_small``: 100 graphs of two communities, 12 to 20 nodes, p = .7 inside, one edge between;
    - ``grid``: GraphRNN's 100 grids, 10 x 10 to 19 x 19 (100 to 361 nodes);
    - ``community``: GraphRNN's 500 graphs of two communities, 60 to 160 nodes, p = .3 inside and .05 n edges
      between.

    The batch, the split and the other arguments are described in :class:`GraphSetModule`.

    Args:
        name: of the set.
        set_seed: of the random sets; the same graphs for every seed of a run.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "set_seed")

    def __init__(
        self,
        name: SetName = "community_small",
        set_seed: Seed = 0,
        **kwargs: Any,
    ) -> None:
        check_ranges(GraphSet, locals())
        super().__init__(**kwargs)
        check_choice("name", name, SetName)
        self.set_name, self.set_seed = name, set_seed

    def read(self) -> list[Array]:
        count, graph = SETS[self.set_name]
        return [graph(i, item_generator(self.set_seed, _GRAPH, i)) for i in range(count)]


class TUGraphSet(GraphSetModule):
    """Graphs of a TU data set without features or labels: ENZYMES is GraphRNN's "protein"-like small set.

    Reads the files that :class:`datamodules.TUGraphs` reads. Of a disconnected graph the largest component
    counts; graphs outside ``min_nodes`` to ``max_graph_nodes`` are left out. The batch, the split and the
    other arguments are described in :class:`GraphSetModule`.

    Args:
        name: of the data set, which is its folder.
        root: folder of the data sets; defaults to ``$ZOO_DATA/graphs/tu`` or ``data/graphs/tu``.
        min_nodes: least size that is kept (GraphRNN keeps at least 10).
        max_graph_nodes: largest size that is kept.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "min_nodes", "max_graph_nodes")

    def __init__(
        self,
        name: str = "ENZYMES",
        root: str | None = None,
        min_nodes: ManyOrZero = 10,
        max_graph_nodes: Many = 1000,
        **kwargs: Any,
    ) -> None:
        check_ranges(TUGraphSet, locals())
        super().__init__(**kwargs)
        self.set_name, self.raw = name, tu_folder(root, name)
        self.sizes = (min_nodes, max_graph_nodes)

    def read(self) -> list[Array]:
        parsed = read_tu(self.raw, self.set_name)
        edges, edge_ptr, sizes = (parsed[key].numpy() for key in ("edge_index", "edge_ptr", "node_ptr"))
        low, high = self.sizes
        found = []
        for i, nodes in enumerate((sizes[1:] - sizes[:-1]).tolist()):
            if nodes < low:
                continue
            pairs, kept = component_of(edges[:, edge_ptr[i] : edge_ptr[i + 1]], nodes)
            if low <= kept <= high:  # only now a matrix: its memory grows with the square
                found.append(from_pairs(pairs, kept))
        return found
