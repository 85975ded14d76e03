"""The Reddit graph of GraphSAGE in PyG's raw layout.

A batch is one PyG ``Data``, the whole graph; :class:`datamodules.graphs.neighbors.NeighborSampling` deals out
parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.utils import coalesce

from datamodules.graphs.full_graph import FullGraphModule
from datamodules.graphs.ppi import fetch
from datamodules.loading.arguments import data_folder
from datamodules.loading.files import READ_ERRORS, one_line, read_npz

_URL = "https://data.dgl.ai/dataset/reddit.zip"
_FILES = ("reddit_data.npz", "reddit_graph.npz")


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

    def __init__(self, root: str | None = None, download: bool = False, steps_per_epoch: int = 1) -> None:
        super().__init__(steps_per_epoch)
        self.root = data_folder(root, "graphs/reddit")
        self.download = download

    def prepare_data(self) -> None:
        fetch(self.root / "raw", _FILES, _URL, self.download)

    def read(self) -> Data:
        fetch(self.root / "raw", _FILES, _URL, False)
        from scipy.sparse import load_npz

        nodes_file, graph_file = (self.root / "raw" / name for name in _FILES)
        try:
            x, y, kind = read_npz(nodes_file, "feature", "label", "node_types").values()
            adjacency: Any = load_npz(graph_file).tocoo()
        except READ_ERRORS as error:
            raise ValueError(
                f"the files in {nodes_file.parent} are damaged ({one_line(error)}); take both anew"
            ) from None
        if not len(x) == len(y) == len(kind) == adjacency.shape[0]:
            raise ValueError(
                f"the files in {nodes_file.parent} do not fit together: {len(x)} rows of features, {len(y)} "
                f"labels, {adjacency.shape[0]} nodes of the graph"
            )
        edges = torch.from_numpy(np.stack([adjacency.row, adjacency.col]).astype(np.int64))
        data = Data(
            x=torch.from_numpy(x).float(),
            y=torch.from_numpy(y).long(),
            edge_index=coalesce(edges, num_nodes=len(x)),
        )
        split = torch.from_numpy(kind)
        data.train_mask, data.val_mask, data.test_mask = split == 1, split == 2, split == 3
        return data
