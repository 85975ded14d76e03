"""Zachary's karate club, embedded in PyG: the smallest graph on which every graph method runs."""

from __future__ import annotations

import torch
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask

from datamodules.graphs.full_graph import DamagedGraphModule, node_pairs
from datamodules.loading.sampling import item_generator

_SPLIT = 34


class KarateClub(DamagedGraphModule):
    """Zachary's karate club (1977): 34 members, 78 friendships, 4 communities by modularity.

    ``x`` is the identity (34, 34). PyG's one training node per community; of the others two per community
    validate and the rest (22) test, the same whatever the seed. The batch is described in
    :class:`datamodules.graphs.full_graph.FullGraphModule`.
    The arguments are those of :class:`datamodules.graphs.full_graph.DamagedGraphModule`.
    """

    def read(self) -> Data:
        from torch_geometric.datasets import KarateClub as Source

        raw = Source()[0]
        order = torch.from_numpy(item_generator(0, _SPLIT).permutation(raw.num_nodes))
        order = order[~raw.train_mask[order]]
        val = torch.cat([order[raw.y[order] == c][:2] for c in range(int(raw.y.max()) + 1)])
        val_mask = index_to_mask(val, raw.num_nodes)
        masks = (raw.train_mask, val_mask, ~(raw.train_mask | val_mask))
        return self.damaged(raw.x, raw.y, node_pairs(raw.edge_index), masks)
