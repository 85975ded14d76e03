"""Mini-batches of a large graph: some nodes with sampled neighbours of theirs.

A batch is one PyG ``Data``, see :class:`NeighborSampling`. No compiled extension is needed, and a draw is a
function of (seed, epoch, node, hop), so that resumed and distributed runs sample what one process would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Data

from datamodules.graphs.full_graph import FullGraphModule
from datamodules.loading.loaders import SplitModule
from datamodules.loading.ranges import Fanout, Many, Workers, check_ranges
from datamodules.loading.sampling import Keys, batch_keys, global_seed, item_seeds


def incoming(edge_index: Tensor, nodes: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Edges by target: their columns in ``edge_index`` (E,), and where each node's begin, (N + 1,)."""
    order = edge_index[1].argsort(stable=True)
    counts = torch.bincount(edge_index[1], minlength=nodes)
    return order.numpy(), np.concatenate([[0], counts.cumsum(0).numpy()])


class SampledNeighborhoods(Dataset[Data]):
    """Nodes of a graph, each batch of them with sampled neighbours.

    Args:
        graph: the whole graph.
        nodes: (M,) that are dealt out.
        neighbors: of each hop, how many incoming edges a node keeps: all where it has no more, else so many
            drawn with replacement; -1 keeps all.
        seed: of the draws.
        edges: what :func:`incoming` gives, where it is known.
    """

    def __init__(
        self,
        graph: Data,
        nodes: Tensor,
        neighbors: Sequence[int],
        seed: int = 0,
        edges: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None,
    ) -> None:
        self.graph, self.nodes, self.neighbors, self.seed = graph, nodes, list(neighbors), seed
        self._incoming, self._start = edges or incoming(graph.edge_index, graph.num_nodes)
        self._source = graph.edge_index[0].numpy()
        self._place = np.full(graph.num_nodes, -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, key: int | tuple[int, int]) -> Data:
        return self.__getitems__([key if isinstance(key, tuple) else (0, key)])

    def __getitems__(self, keys: Keys) -> Data:
        epochs, index = batch_keys(keys)
        found = self.nodes[torch.from_numpy(index)].numpy()
        nodes, edges, columns, frontier = [found], [], [], found
        place = self._place
        place[found] = np.arange(len(found))
        total = len(found)
        for hop, count in enumerate(self.neighbors):
            column, target = self._draw(frontier, count, int(epochs[0]), hop)
            source = self._source[column]
            new = np.unique(source[place[source] < 0])
            place[new] = np.arange(total, total + len(new))
            total += len(new)
            edges.append(np.stack([place[source], place[target]]))
            columns.append(column)
            nodes.append(new)
            frontier = new
        every = np.concatenate(nodes)
        place[every] = -1
        chosen, graph = torch.from_numpy(every), self.graph
        kept = torch.from_numpy(np.concatenate(columns))
        return Data(
            x=graph.x[chosen],
            y=graph.y[chosen],
            edge_index=torch.from_numpy(np.concatenate(edges, axis=1)),
            n_id=chosen,
            batch_size=len(found),
            **{name: graph[name][kept] for name in ("edge_weight", "edge_attr") if name in graph},
        )

    def _draw(
        self, targets: np.ndarray[Any, Any], count: int, epoch: int, hop: int
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Columns in ``edge_index`` and targets of the edges that the targets keep."""
        degree = self._start[targets + 1] - self._start[targets]
        drawn = degree > count if count >= 0 else np.zeros(len(targets), dtype=bool)
        kept = np.where(drawn, count, degree)
        owner = np.repeat(np.arange(len(targets)), kept)
        slot = np.arange(len(owner)) - np.repeat(np.cumsum(kept) - kept, kept)
        random = item_seeds(self.seed * 16 + hop, np.full(len(owner), epoch), targets[owner] * 2**20 + slot)
        place = np.where(drawn[owner], random % degree[owner].clip(min=1).astype(np.uint64), slot)
        return self._incoming[self._start[targets[owner]] + place.astype(np.int64)], targets[owner]


class NeighborSampling(SplitModule):
    """Sampled neighbourhoods of another data module's graph (Hamilton et al., NeurIPS 2017).

    A batch (training, validation, test and prediction alike) is a PyG ``Data``: ``x`` (n, F), ``y`` (n,),
    ``edge_index`` (2, e) towards the sampled nodes, ``n_id`` (n,) their numbers in the graph, and
    ``batch_size``: the first so many nodes are the ones that count, of the training, validation or test set;
    ``edge_weight`` (e,) and ``edge_attr`` (e, D) of the sampled edges where the graph has them.
    Batches of evaluation are always the same; prediction is of the test nodes.

    Args:
        source: the graph.
        neighbors: incoming edges that a node keeps at each hop, one number a layer; -1 keeps all.
        batch_size: nodes of a batch over all devices.
        num_workers: processes that sample.

    Raises:
        ValueError: for impossible settings.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("source",)

    num_classes: int
    num_features: int
    graph: Data

    def __init__(
        self,
        source: FullGraphModule,
        neighbors: Sequence[Fanout] = (25, 10),
        batch_size: Many = 1024,
        num_workers: Workers = 0,
    ) -> None:
        check_ranges(NeighborSampling, locals())
        super().__init__(batch_size, batch_size, num_workers)
        if not neighbors or any(n < 1 and n != -1 for n in neighbors):
            raise ValueError(
                "data.init_args.neighbors holds a positive number or -1 for each layer, got "
                f"{list(neighbors)}"
            )
        self.source, self.neighbors = source, list(neighbors)

    def prepare_data(self) -> None:
        self.source.prepare_data()

    def setup(self, stage: str) -> None:
        self.source.setup(stage)
        self.graph = self.source.graph
        self.num_classes, self.num_features = self.source.num_classes, self.source.num_features
        self.class_names = getattr(self.source, "class_names", None)
        edges = incoming(self.graph.edge_index, self.graph.num_nodes)
        self.train_set, self.val_set, self.test_set = (
            SampledNeighborhoods(
                self.graph, self.graph[name].nonzero()[:, 0], self.neighbors, global_seed(), edges
            )
            for name in ("train_mask", "val_mask", "test_mask")
        )
