"""Zachary's karate club, embedded in PyG: the smallest graph on which every graph method runs."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask

from datamodules.graphs.full_graph import (
    FullGraphModule,
    coin_split,
    mirrored,
    node_pairs,
    retain_edges,
    rewire_edges,
)
from datamodules.loading.sampling import item_generator

_SPLIT = 34


class KarateClub(FullGraphModule):
    """Zachary's karate club (1977): 34 members, 78 friendships, 4 communities by modularity.

    ``x`` is the identity (34, 34). PyG's one training node per community; of the others two per community
    validate and the rest (22) test, the same whatever the seed. The batch is described in
    :class:`datamodules.graphs.full_graph.FullGraphModule`.

    Args:
        edges_retained: each edge is kept with this probability.
        edges_rewired: afterwards, this fraction of the edges moves to random places.
        early_stopping: deal the validation nodes by a fair coin to ``val_mask`` and ``es_mask``.
        seed: of the coin and the damage to the edges.
        steps_per_epoch: batches (always the same graph) of an epoch.
    """

    def __init__(
        self,
        edges_retained: float = 1.0,
        edges_rewired: float = 0.0,
        early_stopping: bool = False,
        seed: int = 0,
        steps_per_epoch: int = 1,
    ) -> None:
        super().__init__(steps_per_epoch)
        for key, value in (("edges_retained", edges_retained), ("edges_rewired", edges_rewired)):
            if not 0 <= value <= 1:
                raise ValueError(f"data.init_args.{key} is a fraction of the edges, in [0, 1], got {value}")
        self.edges_retained, self.edges_rewired = edges_retained, edges_rewired
        self.early_stopping, self.seed = early_stopping, seed

    def read(self) -> Data:
        from torch_geometric.datasets import KarateClub as Source

        raw = Source()[0]
        pairs = node_pairs(raw.edge_index)
        damaged = retain_edges(pairs, self.edges_retained, self.seed)
        damaged = rewire_edges(damaged, raw.num_nodes, self.edges_rewired, self.seed)
        data = Data(x=raw.x, edge_index=mirrored(damaged), y=raw.y, true_edge_index=mirrored(pairs))
        data.train_mask = raw.train_mask
        order = torch.from_numpy(item_generator(0, _SPLIT).permutation(raw.num_nodes))
        order = order[~raw.train_mask[order]]
        val = torch.cat([order[raw.y[order] == c][:2] for c in range(int(raw.y.max()) + 1)])
        data.val_mask = index_to_mask(val, raw.num_nodes)
        data.test_mask = ~(data.train_mask | data.val_mask)
        if self.early_stopping:
            data.val_mask, data.es_mask = coin_split(data.val_mask, self.seed)
        return data
