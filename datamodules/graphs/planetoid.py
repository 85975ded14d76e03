"""Cora, CiteSeer and PubMed in the raw Planetoid layout, also with missing or wrong edges.

A batch is one PyG ``Data``, the whole graph, each step the same: ``x`` float32 (N, F), ``y`` int64 (N,),
``edge_index`` int64 (2, 2 P) mirrored without self-loops, bool masks (N,) ``train_mask``, ``val_mask``,
``test_mask`` and (``early_stopping: true``) ``es_mask``, and ``true_edge_index``, the undamaged graph; with
``graph: knn`` and ``knn_sym: mean`` also ``edge_weight``; see
:class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch_geometric.data import Data
from torch_geometric.io import read_planetoid_data

from datamodules.graphs.full_graph import DamagedGraphModule, node_pairs, random_split
from datamodules.graphs.knn_graph import Metric, Symmetry, knn_matrix, weighted_edges
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import one_line
from datamodules.loading.restricted_pickle import read_pickle

PlanetoidName = Literal["Cora", "CiteSeer", "PubMed"]
Split = Literal["public", "full", "random"]
Edges = Literal["given", "knn"]
_PICKLES = ("x", "tx", "allx", "y", "ty", "ally", "graph")
_SOURCE = "github.com/kimiyoung/planetoid, folder data"


class Planetoid(DamagedGraphModule):
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
        **kwargs: of :class:`datamodules.graphs.full_graph.DamagedGraphModule`.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files and impossible settings.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("normalize_features",)

    def __init__(
        self,
        name: PlanetoidName = "Cora",
        root: str | None = None,
        split: Split = "public",
        train_per_class: int = 20,
        val_nodes: int = 500,
        test_nodes: int = 1000,
        normalize_features: bool = True,
        graph: Edges = "given",
        k: int = 10,
        metric: Metric = "cosine",
        knn_sym: Symmetry = "upper",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for key, choice, choices in (
            ("name", name, PlanetoidName),
            ("split", split, Split),
            ("graph", graph, Edges),
            ("metric", metric, Metric),
            ("knn_sym", knn_sym, Symmetry),
        ):
            check_choice(key, choice, choices)
        if graph == "knn" and (k < 1 or (self.edges_retained, self.edges_rewired) != (1, 0)):
            raise ValueError(
                "data.init_args.graph: knn needs k of at least 1 and neither edges_retained nor edges_rewired"
                f", got {k}, {self.edges_retained} and {self.edges_rewired}"
            )
        self.kind, self.k, self.metric, self.knn_sym = graph, k, metric, knn_sym
        self.graph_name, self.split = name, split
        self.root = data_folder(root, "graphs/planetoid")
        self.sizes = (train_per_class, val_nodes, test_nodes)
        self.normalize_features = normalize_features

    def read(self) -> Data:
        raw = self._read_raw()
        x = raw.x / raw.x.sum(dim=1, keepdim=True).clamp(min=1) if self.normalize_features else raw.x
        masks = (raw.train_mask, raw.val_mask, raw.test_mask)
        if self.split == "full":
            masks = (~(raw.val_mask | raw.test_mask), raw.val_mask, raw.test_mask)
        elif self.split == "random":
            masks = random_split(raw.y, *self.sizes, self.seed)
        data = self.damaged(x, raw.y, node_pairs(raw.edge_index), masks)
        if self.kind == "knn":
            upper = knn_matrix(x.double().numpy(), self.k, self.metric, self.knn_sym)
            data.edge_index, weight = weighted_edges(upper)
            if weight is not None:
                data.edge_weight = weight
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
            raise ValueError(
                f"the files in {folder} do not fit together ({one_line(error)}); take all eight anew from "
                f"{_SOURCE}"
            ) from None
        # Lightning moves int64 labels; PyG reads one-hot rows, also of nodes without a label (class 0)
        data.y = data.y.to(torch.long)
        return data
