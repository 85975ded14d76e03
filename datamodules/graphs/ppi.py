"""Protein-protein interaction graphs of GraphSAGE in PyG's raw layout: inductive, several labels a node.

A batch is a PyG ``Batch`` of whole graphs, see :class:`PPI`.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch_geometric.data import Batch, Data

from datamodules.graphs.full_graph import mirrored, node_pairs
from datamodules.loading.sampling import TrainLoader, as_is, batch_keys, evaluation_loader, train_loader

_URL = "https://data.dgl.ai/dataset/ppi.zip"
_SPLITS = {"train": "train", "val": "valid", "test": "test"}
_PARTS = ("feats.npy", "graph_id.npy", "graph.json", "labels.npy")
_FILES = tuple(f"{split}_{part}" for split in _SPLITS.values() for part in _PARTS)


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
        with zipfile.ZipFile(archive) as packed:
            for member in packed.namelist():
                if Path(member).name in missing:
                    temporary = folder / f".{Path(member).name}.tmp"
                    temporary.write_bytes(packed.read(member))
                    os.replace(temporary, folder / Path(member).name)
        archive.unlink()
        missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"no file {folder / missing[0]}: needed are {', '.join(files)} there, from {url}; put them "
            "there, set the root to where they are, or set download: true"
        )


class Graphs(Dataset[Data]):
    """Whole graphs; a batch of them is a PyG ``Batch``."""

    def __init__(self, graphs: Sequence[Data]) -> None:
        self.graphs = graphs

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, key: int | tuple[int, int]) -> Data:
        return self.graphs[key[1] if isinstance(key, tuple) else key]

    def __getitems__(self, keys: Sequence[int] | Sequence[tuple[int, int]]) -> Any:
        _, index = batch_keys(keys)
        return Batch.from_data_list([self.graphs[i] for i in index.tolist()])


class PPI(LightningDataModule):
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

    def __init__(self, root: str | None = None, batch_size: int = 2, download: bool = False) -> None:
        super().__init__()
        self.root = Path(root or Path(os.environ.get("ZOO_DATA", "data")) / "graphs" / "ppi")
        self.batch_size, self.download = batch_size, download

    def prepare_data(self) -> None:
        fetch(self.root / "raw", _FILES, _URL, self.download)

    def setup(self, stage: str) -> None:
        fetch(self.root / "raw", _FILES, _URL, False)
        self.train_graphs, self.val_graphs, self.test_graphs = (self._read(s) for s in _SPLITS.values())
        first = self.train_graphs[0]
        self.num_features, self.num_classes = int(first.x.shape[1]), int(first.y.shape[1])

    def _read(self, split: str) -> list[Data]:
        folder = self.root / "raw"
        try:
            x, graph_id, y = (
                torch.from_numpy(np.load(folder / f"{split}_{part}.npy", allow_pickle=False))
                for part in ("feats", "graph_id", "labels")
            )
            links = json.loads((folder / f"{split}_graph.json").read_text())["links"]
            edges = torch.tensor([[e["source"], e["target"]] for e in links], dtype=torch.long).view(-1, 2).T
        except (ValueError, KeyError, OSError, EOFError, TypeError) as error:
            text = " ".join(str(error).split())[:120]
            raise ValueError(f"{folder}/{split}_*: damaged files ({text}); take all twelve anew") from None
        if not len(x) == len(y) == len(graph_id) or (edges.numel() and int(edges.max()) >= len(x)):
            raise ValueError(
                f"{folder}/{split}_*: {len(x)} features, {len(y)} labels, {len(graph_id)} graph ids and the "
                "edges do not agree"
            )
        return [self._graph(x, y, edges, graph_id == g) for g in graph_id.unique().tolist()]

    def _graph(self, x: Tensor, y: Tensor, edges: Tensor, mask: Tensor) -> Data:
        """One graph, its nodes numbered from 0 in the order of the files."""
        number = mask.cumsum(0) - 1
        inside = edges[:, mask[edges[0]] & mask[edges[1]]]
        pairs = node_pairs(number[inside])
        return Data(x=x[mask].float(), y=y[mask].float(), edge_index=mirrored(pairs))

    def train_dataloader(self) -> TrainLoader:
        return train_loader(self, Graphs(self.train_graphs), self.batch_size)

    def _one_by_one(self, graphs: list[Data]) -> DataLoader[Any]:
        return evaluation_loader(self, Graphs(graphs), 1, collate_fn=as_is)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._one_by_one(self.val_graphs)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._one_by_one(self.test_graphs)

    def predict_dataloader(self) -> DataLoader[Any]:
        return self._one_by_one(self.test_graphs)
