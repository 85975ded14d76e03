"""scikit-learn's Wine, Breast Cancer and Digits as graphs of nearest neighbours, with the splits of LDS.

A batch is one PyG ``Data``, the whole set, each step the same: ``x`` float32 (N, F), ``y`` int64 (N,),
``edge_index`` int64 (2, 2 P) mirrored without self-loops, ``edge_weight`` float32 (2 P,) where edges have
weights, bool masks (N,) ``train_mask``, ``val_mask``, ``es_mask``, ``test_mask``, and ``true_edge_index``
(the same graph); see :class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask

from datamodules.graphs.full_graph import FullGraphModule
from datamodules.loading.arguments import check_choice
from datamodules.loading.ranges import Many, Seed, check_ranges
from datamodules.loading.sampling import item_generator

SetName = Literal["wine", "cancer", "digits"]
GraphKind = Literal["knn", "sparse", "dense", "rbf"]
Symmetry = Literal["upper", "max", "mean"]
Metric = Literal["cosine", "minkowski"]

# nodes of train, val and es each; the rest tests
SPLIT_SIZES = {"wine": 10, "cancer": 10, "digits": 50}
_RANDOM_GRAPH = 77


def nested_split(labels: Any, size: int, seed: int) -> list[Any]:
    """Indices of train, val, es (``size`` each) and test by LDS's three nested stratified splits.

    Each split is stratified on the labels of what is left, in the shuffled order that the one before left.
    """
    from sklearn.model_selection import train_test_split

    index = np.arange(len(labels))
    rest, test, rest_labels, _ = train_test_split(
        index,
        labels,
        train_size=3 * size,
        test_size=len(labels) - 3 * size,
        stratify=labels,
        random_state=seed,
    )
    rest, es, rest_labels, _ = train_test_split(
        rest, rest_labels, train_size=2 * size, test_size=size, stratify=rest_labels, random_state=seed
    )
    train, val = train_test_split(
        rest, train_size=size, test_size=size, stratify=rest_labels, random_state=seed
    )
    return [train, val, es, test]


def knn_matrix(features: Any, k: int, metric: str, symmetry: Symmetry) -> Any:
    """Strict upper triangle (N, N) of the k-nearest-neighbour graph, zero elsewhere.

    scikit-learn's graph is directed: entry (i, j) is 1 if j is among the k neighbours of i.

    Args:
        symmetry: ``upper`` keeps an edge i < j only if j is a neighbour of i (the released code; pairs where
            only i is a neighbour of j are lost), ``max`` if either is one of the other, ``mean`` gives pairs
            of one direction the weight 0.5.
    """
    from sklearn.neighbors import kneighbors_graph

    if k >= len(features):
        raise ValueError(f"data.init_args.k is {k}, but the graph has {len(features)} nodes")
    directed = kneighbors_graph(features, k, metric=metric).toarray()
    if symmetry == "max":
        directed = np.maximum(directed, directed.T)
    elif symmetry == "mean":
        directed = (directed + directed.T) / 2
    return np.triu(directed, 1)


def weighted_edges(upper: Any) -> tuple[Tensor, Tensor | None]:
    """Edges of a strict upper triangle (N, N), mirrored (2, 2 P), and weights (2 P,) or None if all are 1."""
    both = torch.from_numpy(upper + upper.T).float()
    edge_index = both.nonzero().T.contiguous()
    weight = both[edge_index[0], edge_index[1]]
    return edge_index, None if bool((weight == 1).all()) else weight


class KNNGraph(FullGraphModule):
    """Wine (178 x 13, 3 classes), Breast Cancer (569 x 30, 2) or Digits (1797 x 64, 10) with a graph on top.

    Wine and Cancer are standardised over all nodes, Digits keep their raw 0..16 (``standardize``). Train, val
    and es have 10 nodes each (Digits 50), the rest test. The batch is described in
    :class:`datamodules.graphs.full_graph.FullGraphModule`, with ``es_mask`` always and ``edge_weight``
    (2 P,) for weighted graphs.

    Args:
        name: of the set.
        graph: ``knn``; or, for baselines, ``sparse`` (as many random edges as the kNN graph has), ``dense``
            (all pairs, weights uniform in [0, 1]) or ``rbf`` (all pairs, weights exp(-||x - y||^2 / F)).
        k: neighbours of a node.
        metric: of the neighbours, ``cosine`` or ``minkowski`` (p = 2).
        standardize: columns to mean 0 and deviation 1 over all nodes, constant ones to 0, before the
            neighbours are looked for; by default as the paper does, all but Digits.
        knn_sym: how the directed graph becomes symmetric, see :func:`knn_matrix`; ``upper`` is LDS's.
        seed: of the split and the random graphs.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        ValueError: for unknown names or an impossible k.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "seed", "graph", "k", "metric", "knn_sym")

    of_weights: ClassVar[tuple[str, ...]] = ("standardize",)

    def __init__(
        self,
        name: SetName = "wine",
        graph: GraphKind = "knn",
        k: Many = 10,
        metric: Metric = "cosine",
        knn_sym: Symmetry = "upper",
        seed: Seed = 0,
        steps_per_epoch: Many = 1,
        standardize: bool | None = None,
    ) -> None:
        check_ranges(KNNGraph, locals())
        super().__init__(steps_per_epoch)
        for key, value, choices in (
            ("name", name, SetName),
            ("graph", graph, GraphKind),
            ("metric", metric, Metric),
            ("knn_sym", knn_sym, Symmetry),
        ):
            check_choice(key, value, choices)
        self.set_name, self.kind, self.k, self.metric = name, graph, k, metric
        self.knn_sym, self.seed = knn_sym, seed
        self.standardize = name != "digits" if standardize is None else standardize

    def read(self) -> Data:
        from sklearn import datasets

        source = {
            "wine": datasets.load_wine,
            "cancer": datasets.load_breast_cancer,
            "digits": datasets.load_digits,
        }
        raw = source[self.set_name]()
        self.class_names = list(map(str, raw.target_names))
        features, labels = np.asarray(raw.data, dtype=np.float64), np.asarray(raw.target)
        if self.standardize:
            spread = features.std(axis=0)
            features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
        if self.k >= len(features):
            raise ValueError(f"data.init_args.k is {self.k}, but {self.set_name} has {len(features)} nodes")
        edge_index, edge_weight = self._edges(features)
        data = Data(
            x=torch.from_numpy(features).float(),
            y=torch.from_numpy(labels).long(),
            edge_index=edge_index,
            true_edge_index=edge_index,
        )
        if edge_weight is not None:
            data.edge_weight = edge_weight
        parts = nested_split(labels, SPLIT_SIZES[self.set_name], self.seed)
        for key, part in zip(("train", "val", "es", "test"), parts, strict=True):
            data[f"{key}_mask"] = index_to_mask(torch.from_numpy(part), len(labels))
        return data

    def _edges(self, features: Any) -> tuple[Tensor, Tensor | None]:
        """Mirrored edges (2, 2 P) and their weights (2 P,) or None."""
        nodes, width = features.shape
        random = item_generator(self.seed, _RANDOM_GRAPH)
        upper = knn_matrix(features, self.k, self.metric, self.knn_sym)
        if self.kind == "sparse":
            row, column = np.triu_indices(nodes, 1)
            chosen = random.choice(len(row), size=int((upper > 0).sum()), replace=False)
            upper = np.zeros((nodes, nodes))
            upper[row[chosen], column[chosen]] = 1
        elif self.kind == "dense":
            upper = np.triu(random.random((nodes, nodes)), 1)
        elif self.kind == "rbf":
            from sklearn.metrics.pairwise import rbf_kernel

            upper = np.triu(rbf_kernel(features, gamma=1 / width), 1)
        return weighted_edges(upper)
