"""A noisy nearest-neighbour graph over real handwritten digits: node classification without any download.

A batch is one PyG ``Data`` holding the whole graph, see
:class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask

from datamodules.graphs.full_graph import FullGraphModule, coin_split, mirrored, node_pairs, rewire_edges
from datamodules.loading.arguments import check_choice
from datamodules.loading.ranges import Fraction, Many, Seed, check_ranges
from datamodules.loading.sampling import item_generator

Normalisation = Literal["l1", "none"]
# Second words of the keys of this module's random streams; rewire_edges has its own.
_SUBSET, _SPLIT, _MASK = 11, 12, 13


class DigitsGraph(FullGraphModule):
    """scikit-learn's real 8 x 8 digits, joined to their nearest neighbours, with a share of edges rewired.

    ``x`` float32 (N, 64): pixels / 16. Edges: each digit and its ``neighbors`` nearest by cosine, made
    symmetric; ``true_edge_index`` is this graph, ``edge_index`` the rewired one. The images are real, the
    graph is built. The data depend on ``seed`` alone, not on ``seed_everything``.

    Args:
        nodes: equally many of each digit, at most 1,740 (174 of the rarest); 1,797 takes all.
        neighbors: k.
        rewired: share of the edges moved to random places.
        train_per_class: training nodes of each digit.
        val_per_class: validation nodes of each digit; the rest tests.
        masked_pixels: share of the pixels of each image set to 0, to give the graph a role.
        normalize: ``l1`` makes the features of each node sum to 1, ``none`` leaves pixels / 16.
        early_stopping: deal the validation nodes by a fair coin to ``val_mask`` and ``es_mask`` (LDS).
        seed: of the subset, the split, the coins, the rewiring and the mask.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        ValueError: for impossible sizes.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "seed",
        "nodes",
        "neighbors",
        "rewired",
        "train_per_class",
        "val_per_class",
    )

    num_classes = 10
    num_features = 64

    of_weights: ClassVar[tuple[str, ...]] = ("masked_pixels", "normalize")

    def __init__(
        self,
        nodes: Many = 600,
        neighbors: Many = 5,
        rewired: Fraction = 0.4,
        train_per_class: Many = 5,
        val_per_class: Many = 20,
        masked_pixels: Fraction = 0.0,
        normalize: Normalisation = "none",
        early_stopping: bool = False,
        seed: Seed = 0,
        steps_per_epoch: Many = 1,
    ) -> None:
        check_ranges(DigitsGraph, locals())
        super().__init__(steps_per_epoch)
        check_choice("normalize", normalize, Normalisation)
        if nodes != 1797 and (nodes % 10 or not 10 <= nodes <= 1740):
            raise ValueError(f"data.init_args.nodes must be 1797 or a multiple of 10 up to 1740, got {nodes}")
        if train_per_class + val_per_class >= nodes // 10:
            raise ValueError(
                f"data.init_args.train_per_class {train_per_class} and val_per_class {val_per_class} leave "
                f"nothing to test of {nodes} nodes"
            )
        if neighbors >= nodes:
            raise ValueError(f"data.init_args.neighbors must lie in 1..{nodes - 1}, got {neighbors}")
        self.nodes, self.neighbors, self.rewired, self.seed = nodes, neighbors, rewired, seed
        self.train_per_class, self.val_per_class = train_per_class, val_per_class
        self.masked_pixels, self.normalize = masked_pixels, normalize
        self.early_stopping = early_stopping

    def read(self) -> Data:
        from sklearn.datasets import load_digits

        digits = load_digits()
        chosen = self._subset(digits.target)
        x = torch.from_numpy(digits.data[chosen] / 16).float()
        y = torch.from_numpy(digits.target[chosen]).long()
        pairs = nearest_neighbour_pairs(x, self.neighbors)
        noisy = rewire_edges(pairs, len(x), self.rewired, self.seed)
        random = item_generator(self.seed, _MASK)
        x = x * torch.from_numpy(random.random(x.shape) >= self.masked_pixels)
        if self.normalize == "l1":
            x = torch.nn.functional.normalize(x, p=1, dim=1)
        data = Data(x=x, edge_index=mirrored(noisy), y=y, true_edge_index=mirrored(pairs))
        data.train_mask, data.val_mask = self._split(y)
        data.test_mask = ~(data.train_mask | data.val_mask)
        if self.early_stopping:
            data.val_mask, data.es_mask = coin_split(data.val_mask, self.seed)
        return data

    def _subset(self, target: np.ndarray) -> np.ndarray:
        if self.nodes == len(target):
            return np.arange(self.nodes)
        random = item_generator(self.seed, _SUBSET)
        chosen = [random.permutation(np.flatnonzero(target == c))[: self.nodes // 10] for c in range(10)]
        return np.sort(np.concatenate(chosen))

    def _split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        random, masks = item_generator(self.seed, _SPLIT), []
        parts: list[list[np.ndarray]] = [[], []]
        for c in range(10):
            members = random.permutation(np.flatnonzero(y.numpy() == c))
            parts[0].append(members[: self.train_per_class])
            parts[1].append(members[self.train_per_class : self.train_per_class + self.val_per_class])
        for part in parts:
            masks.append(index_to_mask(torch.from_numpy(np.concatenate(part)), len(y)))
        return masks[0], masks[1]


def nearest_neighbour_pairs(x: Tensor, neighbors: int) -> Tensor:
    """Pairs i < j (2, P) of which one is among the ``neighbors`` most similar of the other, by cosine."""
    unit = torch.nn.functional.normalize(x.double(), dim=1)
    similarity = (unit @ unit.T).fill_diagonal_(-torch.inf)
    nearest = similarity.topk(neighbors, dim=1).indices
    rows = torch.arange(len(x)).repeat_interleave(neighbors)
    return node_pairs(torch.stack([rows, nearest.flatten()]))
