"""The six graphs of GAug in the layout of its release, with its own splits, as npz twins or pickles.

A batch is one PyG ``Data`` holding the whole graph, see
:class:`datamodules.graphs.full_graph.FullGraphModule`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import coalesce

from datamodules.graphs.checks import edge_ends, finite, integers, node_features, node_labels, split_masks
from datamodules.graphs.full_graph import FullGraphModule, coin_split, mirrored, node_pairs
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.arrays import read_npy, read_npz
from datamodules.loading.ranges import Many, Seed, check_ranges
from datamodules.loading.restricted_pickle import read_pickle
from datamodules.loading.sparse import check_dense, dense

Layout = Literal["auto", "npz", "pickle"]
Normalisation = Literal["auto", "l1", "zscore", "none"]
_SOURCE = "github.com/zhao-tong/GAug, folder data/graphs"
_NORMALISATION = {"ppi": "zscore", "blogcatalog": "none", "flickr": "none"}
_NPZ_KEYS = ("edges", "num_nodes", "x_row", "x_col", "x_val", "x_shape", "y", "train", "val", "test")
_PICKLES = ("adj", "features", "labels", "tvt_nids")


class GAugGraph(FullGraphModule):
    """Cora, Citeseer, Air-USA, PPI, BlogCatalog or Flickr as released with GAug (Zhao et al., AAAI 2021).

    Two layouts under ``root``. ``npz``: ``<name>.npz`` with ``edges`` (2, m), ``num_nodes``, sparse features
    ``x_row, x_col, x_val, x_shape``, ``y`` (N,) or (N, C) multi-hot, and index arrays ``train, val, test``.
    ``pickle``: ``<name>_adj.pkl`` (SciPy CSR), ``<name>_features.pkl`` (CSR or tensor), ``<name>_labels.pkl``
    and ``<name>_tvt_nids.pkl`` (three index arrays), read without running code. The released adjacencies hold
    a diagonal; it is taken off.

    With multi-hot labels (PPI) ``y`` is float32 (N, C). ``edge_probabilities`` adds ``edge_probability``
    (N, N) float32, or ``probable_pairs`` int64 (2, K) with ``pair_probability`` (K,), to the batch.

    Args:
        name: ``cora``, ``citeseer``, ``airport`` (Air-USA), ``ppi``, ``blogcatalog``, ``flickr``, or that of
            your own files in one of the layouts.
        root: folder of the files; defaults to ``$ZOO_DATA/graphs/gaug`` or ``data/graphs/gaug``.
        layout: ``npz``, ``pickle``, or ``auto``: the npz file where there is one.
        normalize: features by ``l1`` (rows sum to 1), ``zscore`` (columns) or ``none``; ``auto`` is the
            paper's: z-score for ppi, none for blogcatalog and flickr, else l1.
        edge_probabilities: file of edge probabilities for GAug-M, a path or a name under ``root``: a released
            ``<name>_graph_<i>_logits.pkl`` (N, N), the same as ``.npy``, or an ``.npz`` with ``pairs`` (2, K)
            and ``probability`` (K,), a list of the likeliest pairs and the edges; of a pair listed twice the
            higher one counts.
        early_stopping: deal the validation nodes by a fair coin to ``val_mask`` and ``es_mask`` (LDS).
        seed: of the coins.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files and impossible settings.
    """

    split_of_weights: ClassVar[tuple[str, ...]] = ("name", "layout", "seed")

    of_weights: ClassVar[tuple[str, ...]] = ("normalize",)

    def __init__(
        self,
        name: str = "cora",
        root: str | None = None,
        layout: Layout = "auto",
        normalize: Normalisation = "auto",
        edge_probabilities: str | None = None,
        early_stopping: bool = False,
        seed: Seed = 0,
        steps_per_epoch: Many = 1,
    ) -> None:
        check_ranges(GAugGraph, locals())
        super().__init__(steps_per_epoch)
        check_choice("layout", layout, Layout)
        check_choice("normalize", normalize, Normalisation)
        self.name, self.layout, self.edge_probabilities = name, layout, edge_probabilities
        self.early_stopping, self.seed = early_stopping, seed
        self.normalize = _NORMALISATION.get(name, "l1") if normalize == "auto" else normalize
        self.root = data_folder(root, "graphs/gaug")

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.graph.y.ndim == 2:
            self.num_classes = int(self.graph.y.shape[1])

    def read(self) -> Data:
        npz = self.root / f"{self.name}.npz"
        packed = npz.is_file() if self.layout == "auto" else self.layout == "npz"
        edges, x, y, splits = self._read_npz(npz) if packed else self._read_pickles()
        where = npz if packed else self.root / f"{self.name}_*.pkl"
        nodes = len(x)
        pairs = node_pairs(edge_ends(where, "edges", edges, nodes))
        y = node_labels(where, "labels", y, nodes)
        data = Data(x=normalised(x, self.normalize), edge_index=mirrored(pairs), y=y)
        data.true_edge_index = data.edge_index
        named = dict(zip(("train", "val", "test"), splits, strict=True))
        data.train_mask, data.val_mask, data.test_mask = split_masks(where, named, nodes)
        if self.early_stopping:
            data.val_mask, data.es_mask = coin_split(data.val_mask, self.seed)
        self._add_probabilities(data)
        return data

    def _read_npz(self, path: Path) -> tuple[Any, Tensor, Any, list[Any]]:
        """Edges, features, labels and splits as the file has them, the features checked."""
        if not path.is_file():
            raise FileNotFoundError(self._missing(path))
        content = read_npz(path, *_NPZ_KEYS)
        x = _sparse_features(path, content)
        stated = integers(path, "num_nodes", content["num_nodes"], 0, None, ndim=0)
        if int(stated) != len(x):
            raise ValueError(f"{path}: num_nodes is {int(stated)}, but x_shape has {len(x)} rows")
        return content["edges"], x, content["y"], [content[k] for k in ("train", "val", "test")]

    def _read_pickles(self) -> tuple[Any, Tensor, Any, list[Any]]:
        paths = {part: self.root / f"{self.name}_{part}.pkl" for part in _PICKLES}
        for path in paths.values():
            if not path.is_file():
                raise FileNotFoundError(self._missing(path))
        content = {part: read_pickle(path, tensors=True) for part, path in paths.items()}
        if not hasattr(content["adj"], "tocoo"):
            raise ValueError(f"{paths['adj']} must hold a SciPy sparse matrix")
        splits = content["tvt_nids"]
        if not isinstance(splits, list | tuple) or len(splits) != 3:
            raise ValueError(f"{paths['tvt_nids']} must hold three arrays: train, validation and test nodes")
        x = content["features"]
        x = dense(x, paths["features"], "features") if hasattr(x, "toarray") else x
        x = node_features(paths["features"], "features", x)
        adjacency = content["adj"].tocoo()
        if adjacency.shape != (len(x), len(x)):
            raise ValueError(
                f"{paths['adj']} is {adjacency.shape[0]} x {adjacency.shape[1]}, but {paths['features'].name}"
                f" has {len(x)} rows"
            )
        finite(paths["adj"], "adj", adjacency.data, 1, low=0)
        kept = adjacency.data != 0
        edges = np.stack([adjacency.row[kept], adjacency.col[kept]])
        return edges, x, content["labels"], list(splits)

    def _missing(self, path: Path) -> str:
        return (
            f"no file {path}: the layouts are {self.name}.npz or {self.name}_{{{','.join(_PICKLES)}}}.pkl; "
            f"take them from {_SOURCE}, then set data.init_args.root (or the environment variable ZOO_DATA) "
            "to where they are"
        )

    def _add_probabilities(self, data: Data) -> None:
        if self.edge_probabilities is None:
            return
        path = Path(self.edge_probabilities)
        path = path if path.is_file() else self.root / path
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; data.init_args.edge_probabilities is a path or a name")
        nodes = len(data.x)
        if path.suffix == ".npz":
            content = read_npz(path, "pairs", "probability")
            pairs = edge_ends(path, "pairs", content["pairs"], nodes)
            values = finite(path, "probability", content["probability"], 1)
            if pairs.shape[1] != len(values) or bool((pairs[0] == pairs[1]).any()):
                raise ValueError(
                    f"{path}: pairs must be (2, K) of two different nodes of 0..{nodes - 1}, probability (K,)"
                )
            data.probable_pairs, data.pair_probability = coalesce(
                pairs.sort(dim=0).values, values, num_nodes=nodes, reduce="max"
            )
            return
        read = read_pickle(path, tensors=True) if path.suffix == ".pkl" else read_npy(path)
        read = dense(read, path, "edge probabilities") if hasattr(read, "toarray") else read
        matrix = finite(path, "edge probabilities", read, 2)
        if matrix.shape != (nodes, nodes):
            raise ValueError(
                f"{path} is {' x '.join(map(str, matrix.shape))}, the graph has {nodes} nodes: edge "
                f"probabilities are {nodes} x {nodes}"
            )
        data.edge_probability = matrix


def normalised(x: Tensor, how: str) -> Tensor:
    """Features (N, F) with rows of absolute sum 1 (``l1``) or columns of mean 0, deviation 1 (``zscore``)."""
    if how == "l1":
        return torch.nn.functional.normalize(x, p=1, dim=1)
    if how == "zscore":  # in double: of a constant column, rounding alone would be divided by 1e-12
        exact = x.double()
        return ((exact - exact.mean(dim=0)) / (exact.std(dim=0, correction=0) + 1e-12)).float()
    return x


def _sparse_features(path: Path, content: dict[str, Any]) -> Tensor:
    """Features (N, F) of their places ``x_row``, ``x_col`` and values ``x_val`` in ``x_shape``."""
    sides = integers(path, "x_shape", content["x_shape"], 1, None)
    if len(sides) != 2:
        raise ValueError(f"{path}: x_shape must be (nodes, features), got {sides.tolist()[:4]}")
    shape = (int(sides[0]), int(sides[1]))
    values = finite(path, "x_val", content["x_val"], 1)
    check_dense(path, "x_shape", shape, len(values))
    row = integers(path, "x_row", content["x_row"], 0, shape[0] - 1)
    column = integers(path, "x_col", content["x_col"], 0, shape[1] - 1)
    if not len(row) == len(column) == len(values):
        raise ValueError(f"{path}: {len(row)} x_row, {len(column)} x_col and {len(values)} x_val")
    x = torch.zeros(shape).index_put_((row, column), values, accumulate=True)
    return node_features(path, "features", x)
