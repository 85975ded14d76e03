"""Cora, CiteSeer and PubMed in the raw Planetoid layout, also with missing or wrong edges.

A batch is one PyG ``Data``, the whole graph, each step the same: ``x`` float32 (N, F), ``y`` int64 (N,),
``edge_index`` int64 (2, 2 P) mirrored without self-loops, bool masks (N,) ``train_mask``, ``val_mask``,
``test_mask`` and (``early_stopping: true``) ``es_mask``, and ``true_edge_index``, the undamaged graph; with
``graph: knn`` and ``knn_sym: mean`` also ``edge_weight``; see
:class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import index_to_mask

from datamodules.graphs.checks import edge_ends, integers, node_features
from datamodules.graphs.full_graph import DamagedGraphModule, node_pairs, random_split
from datamodules.graphs.knn_graph import Metric, Symmetry, knn_matrix, weighted_edges
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import check_claim, one_line
from datamodules.loading.ranges import Many, check_ranges
from datamodules.loading.restricted_pickle import read_pickle
from datamodules.loading.sparse import dense
from datamodules.loading.tables import numbers, read_rows

PlanetoidName = Literal["Cora", "CiteSeer", "PubMed"]
Split = Literal["public", "full", "random"]
Edges = Literal["given", "knn"]
_PICKLES = ("x", "tx", "allx", "y", "ty", "ally", "graph")
_SOURCE = "github.com/kimiyoung/planetoid, folder data"


class Planetoid(DamagedGraphModule):
    """Citation graphs of Yang et al. (ICML 2016), from the raw files: Cora, CiteSeer or PubMed.

    The files are ``<root>/<name>/raw/ind.<name in small letters>.{x,tx,allx,y,ty,ally,graph,test.index}``.
    Their pickles are read by :mod:`datamodules.loading.restricted_pickle`, never by Python's own unpickler,
    and put together as PyG does it. The batch is described in
    :class:`datamodules.graphs.full_graph.FullGraphModule`.

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

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "name",
        "split",
        "seed",
        "train_per_class",
        "val_nodes",
        "test_nodes",
        "graph",
        "k",
        "metric",
        "knn_sym",
        "edges_retained",
        "edges_rewired",
    )

    of_weights: ClassVar[tuple[str, ...]] = ("normalize_features",)

    def __init__(
        self,
        name: PlanetoidName = "Cora",
        root: str | None = None,
        split: Split = "public",
        train_per_class: Many = 20,
        val_nodes: Many = 500,
        test_nodes: Many = 1000,
        normalize_features: bool = True,
        graph: Edges = "given",
        k: Many = 10,
        metric: Metric = "cosine",
        knn_sym: Symmetry = "upper",
        **kwargs: Any,
    ) -> None:
        check_ranges(Planetoid, locals())
        super().__init__(**kwargs)
        for key, choice, choices in (
            ("name", name, PlanetoidName),
            ("split", split, Split),
            ("graph", graph, Edges),
            ("metric", metric, Metric),
            ("knn_sym", knn_sym, Symmetry),
        ):
            check_choice(key, choice, choices)
        if graph == "knn" and (self.edges_retained, self.edges_rewired) != (1, 0):
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
        files = {part: folder / f"{prefix}.{part}" for part in (*_PICKLES, "test.index")}
        try:
            return _assembled(files)
        except (ValueError, TypeError) as error:
            if any(str(path) in str(error) for path in files.values()):
                raise
            raise ValueError(
                f"the files in {folder} do not fit together ({one_line(error)}); take all eight anew from "
                f"{_SOURCE}"
            ) from None


def _rows(path: Path) -> Tensor:
    """Features or one-hot labels (n, F) float32 of a pickle."""
    content = read_pickle(path)
    return node_features(
        path, "its matrix", dense(content, path, "its matrix") if hasattr(content, "toarray") else content
    )


def _assembled(files: dict[str, Path]) -> Data:
    """The graph as PyG's ``read_planetoid_data`` puts it together.

    Nodes are those of ``allx`` and then those that ``test.index`` numbers; row k of ``tx`` is the k-th of the
    sorted ones, row ``test.index[k]`` gets it. Numbers that ``test.index`` leaves out (CiteSeer) are nodes
    without features. Nodes without a label are of class 0.
    """
    allx, tx, ally, ty, y = (_rows(files[part]) for part in ("allx", "tx", "ally", "ty", "y"))
    known = len(allx)
    path = files["test.index"]
    lines = numbers(path, read_rows(path), whole=True, width=1)
    # a node that test.index leaves out has no citation either: there are few
    test = integers(path, "test nodes", lines[:, 0], known, 2 * (known + len(tx)))
    if len(test.unique()) != len(test) or len(test) != len(tx) or not len(test):
        raise ValueError(
            f"{len(test)} test nodes, {len(test.unique())} of them different, {len(tx)} rows of tx"
        )
    if allx.shape[1] != tx.shape[1] or ally.shape[1] != ty.shape[1]:
        raise ValueError(
            f"{allx.shape[1]} and {tx.shape[1]} features, {ally.shape[1]} and {ty.shape[1]} classes"
        )
    if len(ally) != known or len(ty) != len(tx):
        raise ValueError(f"{known} and {len(tx)} rows of features, {len(ally)} and {len(ty)} of labels")
    nodes = int(test.max()) + 1
    check_claim(path, f"{nodes:,} nodes", nodes * allx.shape[1] * 4)
    place = test.sort().values
    x, labels = torch.zeros(nodes, allx.shape[1]), torch.zeros(nodes, ally.shape[1])
    for every, first, rest in ((x, allx, tx), (labels, ally, ty)):
        every[:known] = first
        every[place] = rest
        every[test] = every[place]
    train, val = torch.arange(len(y)), torch.arange(len(y), len(y) + 500)
    if len(y) + 500 > nodes:
        raise ValueError(f"{len(y)} training nodes and 500 of validation in a graph of {nodes}")
    data = Data(x=x, y=labels.argmax(dim=1), edge_index=_citations(files["graph"], nodes))
    data.train_mask, data.val_mask, data.test_mask = (index_to_mask(i, nodes) for i in (train, val, test))
    return data


def _citations(path: Path, nodes: int) -> Tensor:
    """Edges (2, E) of a mapping from a node to its neighbours."""
    graph = read_pickle(path)
    if not isinstance(graph, dict) or not all(isinstance(near, list) for near in graph.values()):
        raise ValueError(f"{path} must hold a mapping from each node to the list of its neighbours")
    ends = [
        [node for node, near in graph.items() for _ in near],
        [n for near in graph.values() for n in near],
    ]
    try:
        edges = np.array(ends) if ends[0] else np.empty((2, 0), np.int64)
    except (ValueError, OverflowError):
        edges = np.empty((2, 1), np.float64)  # neighbours that are no numbers
    return edge_ends(path, "its nodes", edges, nodes)
