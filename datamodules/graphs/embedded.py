"""Graphs that need no file: Zachary's karate club, and a block model as large as wanted.

A batch is one PyG ``Data``, the whole graph, each step the same; see
:class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask

from datamodules.graphs.full_graph import DamagedGraphModule, node_pairs, random_split
from datamodules.loading.ranges import Fraction, Many, NonNegative, Positive, Size, check_ranges
from datamodules.loading.sampling import item_generator

# Second words of the keys of this module's random streams.
_SPLIT, _NODES = 34, 55


class KarateClub(DamagedGraphModule):
    """Zachary's karate club (1977): 34 members, 78 friendships, 4 communities by modularity.

    ``x`` is the identity (34, 34). PyG's one training node per community; of the others two per community
    validate and the rest (22) test, the same whatever the seed. The batch is described in
    :class:`datamodules.graphs.full_graph.FullGraphModule`.
    The arguments are those of :class:`datamodules.graphs.full_graph.DamagedGraphModule`.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("seed", "edges_retained", "edges_rewired")

    def read(self) -> Data:
        from torch_geometric.datasets import KarateClub as Source

        raw = Source()[0]
        order = torch.from_numpy(item_generator(0, _SPLIT).permutation(raw.num_nodes))
        order = order[~raw.train_mask[order]]
        val = torch.cat([order[raw.y[order] == c][:2] for c in range(int(raw.y.max()) + 1)])
        val_mask = index_to_mask(val, raw.num_nodes)
        masks = (raw.train_mask, val_mask, ~(raw.train_mask | val_mask))
        return self.damaged(raw.x, raw.y, node_pairs(raw.edge_index), masks)


class BlockModel(DamagedGraphModule):
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
        **kwargs: of :class:`datamodules.graphs.full_graph.DamagedGraphModule`.

    Raises:
        ValueError: for impossible settings.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "seed",
        "nodes",
        "classes",
        "features",
        "degree",
        "homophily",
        "signal",
        "train_per_class",
        "val_nodes",
        "test_nodes",
        "edges_retained",
        "edges_rewired",
    )

    def __init__(
        self,
        nodes: Many = 400,
        classes: Size = 4,
        features: Many = 16,
        degree: Positive = 8.0,
        homophily: Fraction = 0.8,
        signal: NonNegative = 1.0,
        train_per_class: Many = 10,
        val_nodes: Many = 80,
        test_nodes: Many = 200,
        **kwargs: Any,
    ) -> None:
        check_ranges(BlockModel, locals())
        super().__init__(**kwargs)
        if classes < 2 or nodes < 2 * classes or degree >= nodes / classes / 2:
            raise ValueError(
                "data.init_args.nodes, classes and degree must leave classes of two and a sparse graph, "
                f"got {nodes}, {classes} and {degree}"
            )
        self.nodes, self.classes, self.features, self.degree = nodes, classes, features, degree
        self.homophily, self.signal = homophily, signal
        self.sizes = (train_per_class, val_nodes, test_nodes)

    def read(self) -> Data:
        random = item_generator(self.seed, _NODES)
        labels = random.permutation(np.arange(self.nodes) % self.classes)
        means = random.standard_normal((self.classes, self.features))
        means *= self.signal / np.linalg.norm(means, axis=1, keepdims=True)
        x = means[labels] + random.standard_normal((self.nodes, self.features))
        y = torch.from_numpy(labels).long()
        pairs = self._pairs(labels, random)
        masks = random_split(y, *self.sizes, self.seed)
        return self.damaged(torch.from_numpy(x).float(), y, pairs, masks)

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
