"""Small twins of the raw layouts of PPI and Reddit, as PyG's downloads lie on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, save_npz


def fake_ppi(
    root: Path, graphs: tuple[int, int, int] = (4, 2, 2), features: int = 50, labels: int = 121
) -> Path:
    """Write ``root/raw``; graphs of 30 to 40 nodes whose labels follow the features. One node has no edge."""
    folder = root / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    weights = random.standard_normal((features, labels))
    first_id = 1
    for split, count in zip(("train", "valid", "test"), graphs, strict=True):
        sizes = random.integers(30, 41, size=count)
        graph_id = np.repeat(np.arange(first_id, first_id + count), sizes)
        first_id += count
        x = random.standard_normal((len(graph_id), features))
        links, start = [], 0
        for size in sizes.tolist():
            for _ in range(3 * size):  # the first node of each graph stays alone
                a, b = (start + 1 + random.integers(size - 1, size=2)).tolist()
                links.append({"source": a, "target": b})
            start += size
        graph = {
            "directed": False,
            "multigraph": False,
            "graph": {},
            "nodes": [{"id": i} for i in range(len(x))],
            "links": links,
        }
        np.save(folder / f"{split}_feats.npy", x)
        np.save(folder / f"{split}_graph_id.npy", graph_id)
        np.save(folder / f"{split}_labels.npy", (x @ weights > 0).astype(np.int64))
        (folder / f"{split}_graph.json").write_text(json.dumps(graph))
    return root


def fake_reddit(root: Path, nodes: int = 300, features: int = 602, classes: int = 41) -> Path:
    """Write ``root/raw``; every class trains, neighbours are mostly of the same class."""
    folder = root / "raw"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    label = np.arange(nodes) % classes
    feature = random.standard_normal((nodes, features)) + 2 * np.eye(classes, features)[label]
    kind = np.where(np.arange(nodes) < nodes // 2, 1, np.where(np.arange(nodes) < 3 * nodes // 4, 2, 3))
    row = random.integers(nodes, size=10 * nodes)
    column = (row + classes * random.integers(1, nodes // classes, size=len(row))) % nodes
    both = (np.concatenate([row, column]), np.concatenate([column, row]))
    save_npz(folder / "reddit_graph.npz", coo_matrix((np.ones(len(both[0])), both), (nodes, nodes)))
    ids = np.arange(nodes)
    np.savez(folder / "reddit_data.npz", feature=feature, label=label, node_types=kind, node_ids=ids)
    return root


def _ppi(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_ppi(root)
    return {"model.init_args.hidden": 32}


def _reddit(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_reddit(root)
    return {"data.init_args.batch_size": 50, "data.init_args.num_workers": 0}


TWINS = {"datamodules.PPI": _ppi, "datamodules.Reddit": _reddit}
