"""Link prediction on one graph: edges held out for validation and test, each beside as many non-edges."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from datamodules.graphs.checks import check_graph
from datamodules.graphs.embedded import BlockModel
from datamodules.graphs.full_graph import FullGraphModule, mirrored, node_pairs
from datamodules.loading.ranges import Many, Part, Seed, check_ranges
from datamodules.loading.sampling import item_generator

# Second words of the keys of this module's random streams.
_HELD_OUT, _NON_EDGES = 71, 72


def sampled_non_edges(pairs: Tensor, nodes: int, count: int, seed: int) -> Tensor:
    """``count`` different pairs i < j (2, count) that are none of ``pairs`` (2, P), uniformly; seeded.

    Memory is that of the edges: a rank among the free pairs becomes a pair by binary search.

    Raises:
        ValueError: if the graph has fewer free pairs.
    """
    starts = np.arange(nodes, dtype=np.int64)
    starts = starts * nodes - starts * (starts + 1) // 2  # of row i's pairs (i, i + 1), (i, i + 2), ...
    first, second = pairs.numpy()
    taken = np.sort(starts[first] + second - first - 1)
    free = nodes * (nodes - 1) // 2 - len(taken)
    if count > free:
        raise ValueError(f"{count} non-edges are wanted for evaluation, the graph has {free} free pairs")
    rank = item_generator(seed, _NON_EDGES).choice(free, count, replace=False)
    code = rank + np.searchsorted(taken - np.arange(len(taken)), rank, side="right")
    row = np.searchsorted(starts, code, side="right") - 1
    return torch.from_numpy(np.stack([row, code - starts[row] + row + 1]))


class LinkSplit(FullGraphModule):
    """Edges of a graph split into training, validation and test edges, with fixed non-edges to rank against.

    Batch: the source's ``x``, ``y`` and node masks (see
    :class:`datamodules.graphs.full_graph.FullGraphModule`) and

    - ``edge_index`` int64 (2, 2 P): training edges in both directions, all that messages may pass along, in
      evaluation too;
    - ``train_edges`` (2, P): the same as pairs i < j, each once, sorted;
    - ``val_edges``, ``test_edges`` (2, K): held-out edges, i < j;
    - ``val_non_edges``, ``test_non_edges`` (2, K): as many pairs that are edges of no set, all different.

    Counts are rounded down, as by PyG's ``RandomLinkSplit`` and by Kipf & Welling. The split is a function of
    ``seed`` alone, where RandomLinkSplit draws from two global generators; and its negatives are directed, so
    that one pair may be a negative of both validation and test.

    Args:
        source: the graph; by default the block model of 400 nodes in 4 blocks with edge probabilities of
            about .06 inside and .01 between them.
        val: share of the edges that validate.
        test: share of the edges that test.
        seed: of the split and the non-edges.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        ValueError: for impossible shares, and in ``setup`` for a source with edge weights or features.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("source", "val", "test", "seed")

    def __init__(
        self,
        source: FullGraphModule | None = None,
        val: Part = 0.05,
        test: Part = 0.1,
        seed: Seed = 0,
        steps_per_epoch: Many = 1,
    ) -> None:
        check_ranges(LinkSplit, locals())
        super().__init__(steps_per_epoch)
        if val + test >= 1:
            raise ValueError(
                "data.init_args.val and data.init_args.test are shares of the edges, above 0 and below 1 "
                f"together, got {val} and {test}"
            )
        # degree and homophily of p_in .06, p_out .01: 99 * .06 + 300 * .01 neighbours, 5.94 of them inside
        self.source = source or BlockModel(degree=8.94, homophily=0.6644, seed=seed)
        self.val, self.test, self.seed = val, test, seed

    def read(self) -> Data:
        given = check_graph(self.source.read(), f"data.init_args.source ({type(self.source).__name__})")
        for name in ("edge_weight", "edge_attr"):
            if name in given:
                raise ValueError(
                    f"data.init_args.source ({type(self.source).__name__}) has {name}, which "
                    "datamodules.LinkSplit cannot pass on: choose a graph without"
                )
        nodes, pairs = int(given.num_nodes), node_pairs(given.edge_index)
        total = pairs.shape[1]
        val, test = int(self.val * total), int(self.test * total)
        if not val or not test:
            raise ValueError(
                f"the graph has {total} edges, of which data.init_args.val {self.val} and test {self.test} "
                f"hold out {val} and {test}; each needs at least one"
            )
        order = torch.from_numpy(item_generator(self.seed, _HELD_OUT).permutation(total))
        held = {"test": order[:test], "val": order[test : test + val]}
        train = pairs[:, order[test + val :].sort().values]
        data = Data(x=given.x, y=given.y, edge_index=mirrored(train), train_edges=train)
        for name in ("train_mask", "val_mask", "test_mask"):
            if name in given:
                data[name] = given[name]
        others = sampled_non_edges(pairs, nodes, val + test, self.seed)
        data.test_edges, data.val_edges = pairs[:, held["test"]], pairs[:, held["val"]]
        data.test_non_edges, data.val_non_edges = others[:, :test], others[:, test:]
        return data
