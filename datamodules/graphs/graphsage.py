"""The data of GraphSAGE in PyG's raw layout: PPI, graphs with several labels a node, and Reddit, one graph.

A batch of PPI is a PyG ``Batch`` of whole graphs. A batch of Reddit is one ``Data``, the whole graph;
:class:`datamodules.graphs.neighbors.NeighborSampling` deals out parts.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data
from torch_geometric.utils import coalesce

from datamodules.graphs.checks import check_graph, edge_ends, finite, integers, node_features, node_labels
from datamodules.graphs.full_graph import FullGraphModule, mirrored, node_pairs
from datamodules.loading.arguments import data_folder
from datamodules.loading.arrays import read_npy, read_npz
from datamodules.loading.files import READ_ERRORS, check_claim, one_line, read_json, written_whole
from datamodules.loading.loaders import SplitModule
from datamodules.loading.ranges import Many, check_ranges
from datamodules.loading.sampling import Keys, batch_keys
from datamodules.loading.sparse import read_sparse

_PPI = "https://data.dgl.ai/dataset/ppi.zip"
_REDDIT = "https://data.dgl.ai/dataset/reddit.zip"
_REDDIT_FILES = ("reddit_data.npz", "reddit_graph.npz")
_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_PARTS = ("feats.npy", "graph_id.npy", "graph.json", "labels.npy")
_PPI_FILES = tuple(f"{split}_{part}" for split in _SPLITS.values() for part in _PARTS)


def fetch(folder: Path, files: Sequence[str], url: str, download: bool) -> None:
    """Check that ``files`` are in ``folder``; with ``download`` take missing ones out of the zip at ``url``.

    Raises:
        FileNotFoundError: for the first one that is missing.
    """
    missing = [name for name in files if not (folder / name).is_file()]
    if missing and download:
        from torch_geometric.data import download_url

        folder.mkdir(parents=True, exist_ok=True)
        archive = Path(download_url(url, str(folder)))
        try:
            _unpack(archive, folder, missing)
        except READ_ERRORS as error:
            raise ValueError(f"{archive} is damaged ({one_line(error)}); delete it and run again") from None
        archive.unlink()
        missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"no file {folder / missing[0]}: needed are {', '.join(files)} there, from {url}; put them "
            "there, set the root to where they are, or set download: true"
        )


def _unpack(archive: Path, folder: Path, wanted: Sequence[str]) -> None:
    """The wanted members of a zip file, wherever they lie in it, into a folder."""
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            name = Path(member.filename).name
            if name in wanted:
                check_claim(archive, name, member.file_size, member.compress_size)
                with written_whole(folder / name) as temporary, temporary.open("wb") as file:
                    shutil.copyfileobj(packed.open(member), file)


class Graphs(Dataset[Data]):
    """Whole graphs; a batch of them is a PyG ``Batch``."""

    def __init__(self, graphs: Sequence[Data]) -> None:
        self.graphs = graphs

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, key: int | tuple[int, int]) -> Data:
        return self.graphs[key[1] if isinstance(key, tuple) else key]

    def __getitems__(self, keys: Keys) -> Any:
        _, index = batch_keys(keys)
        return Batch.from_data_list([self.graphs[i] for i in index.tolist()])


def _links(path: Path, nodes: int) -> Tensor:
    """Edges (2, m) of a graph in networkx's JSON layout."""
    try:
        links = read_json(path)["links"]
        ends = [[link["source"] for link in links], [link["target"] for link in links]]
        edges = np.array(ends) if links else np.empty((2, 0), np.int64)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({one_line(error)}); take all twelve files anew") from None
    return edge_ends(path, "links", edges, nodes)


def _separated(x: Tensor, y: Tensor, edges: Tensor, graph_id: Tensor) -> list[Data]:
    """The graphs by rising id, the nodes of each numbered from 0 in the order of the files."""
    _, graph, sizes = graph_id.unique(return_inverse=True, return_counts=True)
    order = graph.argsort(stable=True)  # nodes, graph after graph
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order)) - torch.repeat_interleave(sizes.cumsum(0) - sizes, sizes)
    inside = edges[:, graph[edges[0]] == graph[edges[1]]]
    owner = graph[inside[0]]
    links = number[inside[:, owner.argsort(stable=True)]]
    counts = torch.bincount(owner, minlength=len(sizes)).tolist()
    return [
        Data(x=x[nodes], y=y[nodes].float(), edge_index=mirrored(node_pairs(ends)))
        for nodes, ends in zip(order.split(sizes.tolist()), links.split(counts, dim=1), strict=True)
    ]


class PPI(SplitModule):
    """24 graphs of proteins in human tissues, 20 train, 2 validate, 2 test (Zitnik and Leskovec, 2017).

    The files are ``<root>/raw/{train,valid,test}_{feats.npy,graph_id.npy,graph.json,labels.npy}``. A batch
    is a PyG ``Batch`` of whole graphs: ``x`` float32 (N, 50), ``y`` float32 (N, 121) of 0 and 1,
    ``edge_index`` int64 (2, E) both ways without self-loops, ``batch`` (N,). Validation and test go graph by
    graph.

    Attributes:
        num_classes: C, known after ``setup``.
        num_features: F, known after ``setup``.
        train_graphs: list of ``Data``.
        val_graphs: list of ``Data``.
        test_graphs: list of ``Data``.

    Args:
        root: folder; defaults to ``$ZOO_DATA/graphs/ppi`` or ``data/graphs/ppi``.
        batch_size: graphs of a training batch over all devices.
        download: fetch the files from data.dgl.ai where they are missing; never without this.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files.
    """

    num_classes: int
    num_features: int
    multi_label = True
    train_graphs: list[Data]
    val_graphs: list[Data]
    test_graphs: list[Data]

    def __init__(self, root: str | None = None, batch_size: Many = 2, download: bool = False) -> None:
        check_ranges(PPI, locals())
        super().__init__(batch_size, eval_batch_size=1)
        self.root = data_folder(root, "graphs/ppi")
        self.download = download

    def prepare_data(self) -> None:
        fetch(self.root / "raw", _PPI_FILES, _PPI, self.download)

    def setup(self, stage: str) -> None:
        fetch(self.root / "raw", _PPI_FILES, _PPI, False)
        self.train_graphs, self.val_graphs, self.test_graphs = (self._read(s) for s in _SPLITS.values())
        self.train_set, self.val_set, self.test_set = (
            Graphs(found) for found in (self.train_graphs, self.val_graphs, self.test_graphs)
        )
        first = self.train_graphs[0]
        self.num_features, self.num_classes = int(first.x.shape[1]), int(first.y.shape[1])

    def _read(self, split: str) -> list[Data]:
        folder, where = self.root / "raw", f"{self.root / 'raw'}/{split}_*"
        feats, ids, labels = (folder / f"{split}_{part}.npy" for part in ("feats", "graph_id", "labels"))
        x = node_features(feats, "features", read_npy(feats))
        graph_id = integers(ids, "graph ids", read_npy(ids), 0, None)
        y = finite(labels, "labels", read_npy(labels), 2)
        if not len(x) == len(y) == len(graph_id):
            raise ValueError(
                f"{where}: {len(x)} features, {len(y)} labels and {len(graph_id)} graph ids do not agree"
            )
        y = node_labels(labels, "labels", y, len(x))
        edges = _links(folder / f"{split}_graph.json", len(x))
        return [check_graph(graph, where) for graph in _separated(x, y, edges, graph_id)]


class Reddit(FullGraphModule):
    """Posts of 41 communities: 232,965 nodes, 114,615,892 directed edges, 602 features (GraphSAGE, 2017).

    ``<root>/raw/reddit_data.npz`` (``feature`` (N, F), ``label`` (N,), ``node_types`` (N,) of 1 train, 2 val,
    3 test) and ``reddit_graph.npz`` (SciPy sparse matrix). The batch is described in
    :class:`datamodules.graphs.full_graph.FullGraphModule`, without ``true_edge_index``.

    Args:
        root: folder; defaults to ``$ZOO_DATA/graphs/reddit`` or ``data/graphs/reddit``.
        download: fetch the files from data.dgl.ai where they are missing (1.5 GB); never without this.
        steps_per_epoch: batches (always the same graph) of an epoch.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files.
    """

    def __init__(self, root: str | None = None, download: bool = False, steps_per_epoch: Many = 1) -> None:
        check_ranges(Reddit, locals())
        super().__init__(steps_per_epoch)
        self.root = data_folder(root, "graphs/reddit")
        self.download = download

    def prepare_data(self) -> None:
        fetch(self.root / "raw", _REDDIT_FILES, _REDDIT, self.download)

    def read(self) -> Data:
        fetch(self.root / "raw", _REDDIT_FILES, _REDDIT, False)
        nodes_file, graph_file = (self.root / "raw" / name for name in _REDDIT_FILES)
        feature, label, kind = read_npz(nodes_file, "feature", "label", "node_types").values()
        adjacency = read_sparse(graph_file).tocoo()
        x = node_features(nodes_file, "feature", feature)
        split = integers(nodes_file, "node_types", kind, 1, 3)
        if not len(x) == len(label) == len(split) == adjacency.shape[0] == adjacency.shape[1]:
            raise ValueError(
                f"the files in {nodes_file.parent} do not fit together: {len(x)} rows of features, "
                f"{len(label)} labels, {len(split)} node_types, {adjacency.shape[0]} x {adjacency.shape[1]} "
                "nodes of the graph"
            )
        ends = np.stack([adjacency.row, adjacency.col])
        edges = edge_ends(graph_file, "the graph", ends, len(x))
        y = node_labels(nodes_file, "label", label, len(x))
        data = Data(x=x, y=y, edge_index=coalesce(edges, num_nodes=len(x)))
        data.train_mask, data.val_mask, data.test_mask = split == 1, split == 2, split == 3
        return data
