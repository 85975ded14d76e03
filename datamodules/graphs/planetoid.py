"""Cora, CiteSeer and PubMed in the raw Planetoid layout, also with missing or wrong edges.

A batch is one PyG ``Data``, the whole graph, each step the same: ``x`` float32 (N, F), ``y`` int64 (N,),
``edge_index`` int64 (2, 2 P) mirrored without self-loops, bool masks (N,) ``train_mask``, ``val_mask``,
``test_mask`` and (``early_stopping: true``) ``es_mask``, and ``true_edge_index``, the undamaged graph; with
``graph: knn`` and ``knn_sym: mean`` also ``edge_weight``; see
:class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch
from torch_geometric.data import Data
from torch_geometric.io import read_planetoid_data

from datamodules.graphs.full_graph import (
    FullGraphModule,
    coin_split,
    mirrored,
    node_pairs,
    random_split,
    retain_edges,
    rewire_edges,
)
from datamodules.graphs.knn_graph import Symmetry, knn_matrix, weighted_edges
from datamodules.loading.restricted_pickle import read_pickle

PlanetoidName = Literal["Cora", "CiteSeer", "PubMed"]
_PICKLES = ("x", "tx", "allx", "y", "ty", "ally", "graph")
_SOURCE = "github.com/kimiyoung/planetoid, folder data"


class Planetoid(FullGraphModule):
    """Citation graphs of Yang et al. (ICML 2016), read by PyG from the raw files: Cora, CiteSeer or PubMed.

    The files are ``<root>/<name>/raw/ind.<name in small letters>.{x,tx,allx,y,ty,ally,graph,test.index}``.
    Their pickles pass a restricted reader first, see :mod:`datamodules.loading.restricted_pickle`. The batch
    is described in :class:`datamodules.graphs.full_graph.FullGraphModule`.

    Args:
        name: of the graph. Cora: 2,708 nodes, 1,433 features, 7 classes; CiteSeer: 3,327, 3,703, 6, 48 nodes
            without edges; PubMed: 19,717, 500, 3.
        root: folder of the graphs; defaults to ``$ZOO_DATA/graphs/planetoid`` or ``data/graphs/planetoid``.
        split: ``public`` (20 training nodes per class, 500 val, 1000 test), ``full`` (all but the public val
            and test nodes train) or ``random`` (by ``seed``, of the sizes below).
        train_per_class: training nodes per class of ``random``.
        val_nodes: validation nodes of ``random``.
        test_nodes: test nodes of ``random``.
        normalize_features: divide each row of ``x`` by its sum.
        graph: ``given``, the citations; or ``knn``, nearest neighbours of the features in their place: LDS's
            table 1, where no graph is given.
        k: neighbours of a node, of ``knn``.
        metric: of the neighbours, ``cosine`` or ``minkowski`` (p = 2).
        knn_sym: see :func:`datamodules.graphs.knn_graph.knn_matrix`.
        edges_retained: each edge is kept with this probability (1: the complete graph, 0: none). It is the
            fraction kept; LDS's released script takes the fraction deleted.
        edges_rewired: afterwards, this fraction of the edges moves to random places.
        early_stopping: deal the validation nodes by a fair coin to ``val_mask`` and ``es_mask`` (LDS).
        seed: of the random split, the coin, and the damage to the edges.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files and impossible settings.
    """

    def __init__(
        self,
        name: PlanetoidName = "Cora",
        root: str | None = None,
        split: Literal["public", "full", "random"] = "public",
        train_per_class: int = 20,
        val_nodes: int = 500,
        test_nodes: int = 1000,
        normalize_features: bool = True,
        graph: Literal["given", "knn"] = "given",
        k: int = 10,
        metric: Literal["cosine", "minkowski"] = "cosine",
        knn_sym: Symmetry = "upper",
        edges_retained: float = 1.0,
        edges_rewired: float = 0.0,
        early_stopping: bool = False,
        seed: int = 0,
        steps_per_epoch: int = 1,
    ) -> None:
        super().__init__(steps_per_epoch)
        if name not in ("Cora", "CiteSeer", "PubMed"):
            raise ValueError(f"data.init_args.name must be Cora, CiteSeer or PubMed, got {name!r}")
        if split not in ("public", "full", "random"):
            raise ValueError(f"data.init_args.split must be public, full or random, got {split!r}")
        for key, value in (("edges_retained", edges_retained), ("edges_rewired", edges_rewired)):
            if not 0 <= value <= 1:
                raise ValueError(f"data.init_args.{key} is a fraction of the edges, in [0, 1], got {value}")
        for key, choice, choices in (
            ("graph", graph, ("given", "knn")),
            ("metric", metric, ("cosine", "minkowski")),
            ("knn_sym", knn_sym, ("upper", "max", "mean")),
        ):
            if choice not in choices:
                raise ValueError(f"data.init_args.{key} must be one of {', '.join(choices)}, got {choice!r}")
        if graph == "knn" and (k < 1 or (edges_retained, edges_rewired) != (1, 0)):
            raise ValueError(
                "data.init_args.graph: knn needs k of at least 1 and neither edges_retained nor edges_rewired"
                f", got {k}, {edges_retained} and {edges_rewired}"
            )
        self.kind, self.k, self.metric, self.knn_sym = graph, k, metric, knn_sym
        self.graph_name, self.split, self.seed = name, split, seed
        self.root = Path(root or Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "planetoid")
        self.sizes = (train_per_class, val_nodes, test_nodes)
        self.normalize_features, self.early_stopping = normalize_features, early_stopping
        self.edges_retained, self.edges_rewired = edges_retained, edges_rewired

    def read(self) -> Data:
        raw = self._read_raw()
        pairs = node_pairs(raw.edge_index)
        damaged = retain_edges(pairs, self.edges_retained, self.seed)
        damaged = rewire_edges(damaged, raw.num_nodes, self.edges_rewired, self.seed)
        x = raw.x / raw.x.sum(dim=1, keepdim=True).clamp(min=1) if self.normalize_features else raw.x
        masks = (raw.train_mask, raw.val_mask, raw.test_mask)
        if self.split == "full":
            masks = (~(raw.val_mask | raw.test_mask), raw.val_mask, raw.test_mask)
        elif self.split == "random":
            masks = random_split(raw.y, *self.sizes, self.seed)
        data = Data(x=x, edge_index=mirrored(damaged), y=raw.y, true_edge_index=mirrored(pairs))
        if self.kind == "knn":
            upper = knn_matrix(x.double().numpy(), self.k, self.metric, self.knn_sym)
            data.edge_index, weight = weighted_edges(upper)
            if weight is not None:
                data.edge_weight = weight
        data.train_mask, data.val_mask, data.test_mask = masks
        if self.early_stopping:
            data.val_mask, data.es_mask = coin_split(data.val_mask, self.seed)
        return data

    def _read_raw(self) -> Data:
        folder = self.root / self.graph_name / "raw"
        prefix = f"ind.{self.graph_name.lower()}"
        for part in (*_PICKLES, "test.index"):
            path = folder / f"{prefix}.{part}"
            if not path.is_file():
                raise FileNotFoundError(
                    f"no file {path}: {self.graph_name} needs {folder.name}/{prefix}.{{{','.join(_PICKLES)},"
                    f"test.index}}; take them from {_SOURCE}, then set data.init_args.root (or the "
                    "environment variable ZOO_DATA) to where they are"
                )
        for part in _PICKLES:
            read_pickle(folder / f"{prefix}.{part}")  # refuses what PyG's reader would run
        try:
            data: Data = read_planetoid_data(str(folder), self.graph_name.lower())
        except (ValueError, RuntimeError, IndexError, AttributeError, TypeError) as error:
            text = " ".join(str(error).split())[:120]
            raise ValueError(
                f"the files in {folder} do not fit together ({text}); take all eight anew from {_SOURCE}"
            ) from None
        # Lightning moves int64 labels; PyG reads one-hot rows, also of nodes without a label (class 0)
        data.y = data.y.to(torch.long)
        return data
