"""A generated graph with communities: as large as wanted, and its true edges are known.

A batch is one PyG ``Data``, the whole graph, each step the same; see
:class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from datamodules.graphs.full_graph import (
    FullGraphModule,
    coin_split,
    mirrored,
    node_pairs,
    random_split,
    retain_edges,
    rewire_edges,
)
from datamodules.loading.sampling import item_generator

_NODES = 55


class BlockModel(FullGraphModule):
    """A stochastic block model with Gaussian features: generated data, no real graph.

    Classes have equal shares of the nodes. A node has ``degree`` edges on average, the share ``homophily`` of
    them within its class. Features are unit Gaussian noise around a class mean of length ``signal``.
    :class:`datamodules.graphs.full_graph.FullGraphModule` describes the batch.

    Args:
        nodes: N.
        classes: C.
        features: F.
        degree: expected neighbours of a node.
        homophily: share of the edges within a class.
        signal: length of the class means.
        train_per_class: training nodes of each class.
        val_nodes: validation nodes.
        test_nodes: test nodes.
        edges_retained: each edge is kept with this probability.
        edges_rewired: afterwards, this fraction of the edges moves to random places.
        early_stopping: deal the validation nodes by a fair coin to ``val_mask`` and ``es_mask``.
        seed: of all of it.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        ValueError: for impossible settings.
    """

    def __init__(
        self,
        nodes: int = 400,
        classes: int = 4,
        features: int = 16,
        degree: float = 8.0,
        homophily: float = 0.8,
        signal: float = 1.0,
        train_per_class: int = 10,
        val_nodes: int = 80,
        test_nodes: int = 200,
        edges_retained: float = 1.0,
        edges_rewired: float = 0.0,
        early_stopping: bool = False,
        seed: int = 0,
        steps_per_epoch: int = 1,
    ) -> None:
        super().__init__(steps_per_epoch)
        for key, value in (
            ("homophily", homophily),
            ("edges_retained", edges_retained),
            ("edges_rewired", edges_rewired),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"data.init_args.{key} is a fraction of the edges, in [0, 1], got {value}")
        if classes < 2 or nodes < 2 * classes or not 0 < degree < nodes / classes / 2:
            raise ValueError(
                "data.init_args.nodes, classes and degree must leave classes of two and a sparse graph, "
                f"got {nodes}, {classes} and {degree}"
            )
        self.nodes, self.classes, self.features, self.degree = nodes, classes, features, degree
        self.homophily, self.signal, self.seed = homophily, signal, seed
        self.sizes = (train_per_class, val_nodes, test_nodes)
        self.edges_retained, self.edges_rewired = edges_retained, edges_rewired
        self.early_stopping = early_stopping

    def read(self) -> Data:
        random = item_generator(self.seed, _NODES)
        labels = random.permutation(np.arange(self.nodes) % self.classes)
        means = random.standard_normal((self.classes, self.features))
        means *= self.signal / np.linalg.norm(means, axis=1, keepdims=True)
        x = means[labels] + random.standard_normal((self.nodes, self.features))
        y = torch.from_numpy(labels).long()
        pairs = self._pairs(labels, random)
        damaged = retain_edges(pairs, self.edges_retained, self.seed)
        damaged = rewire_edges(damaged, self.nodes, self.edges_rewired, self.seed)
        data = Data(
            x=torch.from_numpy(x).float(), y=y, edge_index=mirrored(damaged), true_edge_index=mirrored(pairs)
        )
        data.train_mask, data.val_mask, data.test_mask = random_split(y, *self.sizes, self.seed)
        if self.early_stopping:
            data.val_mask, data.es_mask = coin_split(data.val_mask, self.seed)
        return data

    def _pairs(self, labels: np.ndarray, random: np.random.Generator) -> torch.Tensor:
        """Edges (2, P), drawn end by end: memory is that of the edges, not of all pairs."""
        count = round(self.nodes * self.degree / 2)
        members = [np.flatnonzero(labels == c) for c in range(self.classes)]
        first = random.integers(self.nodes, size=count)
        second = random.integers(self.nodes, size=count)
        inside = random.random(count) < self.homophily
        for c, group in enumerate(members):
            chosen = inside & (labels[first] == c)
            second[chosen] = random.choice(group, size=int(chosen.sum()))
        # outside its class: move on to another class until the other end lies there
        clash = ~inside & (labels[first] == labels[second])
        while clash.any():
            second[clash] = random.integers(self.nodes, size=int(clash.sum()))
            clash = ~inside & (labels[first] == labels[second])
        return node_pairs(torch.from_numpy(np.stack([first, second])))
