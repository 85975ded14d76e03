"""A small twin of the raw Planetoid layout, written as its authors wrote it: pickles of protocol 2."""

from __future__ import annotations

import pickle
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

SIZES = {"Cora": (7, 1433), "CiteSeer": (6, 3703), "PubMed": (3, 500)}


def fake_planetoid(root: Path, name: str = "Cora", nodes: int = 700, test: int = 60, seed: int = 0) -> Path:
    """Write ``root/name/raw``; two blocks of edges per class, features that tell the class now and then.

    The first 20 nodes of each class come first (they train), then at least 500 others (they validate), then
    ``test`` nodes whose order is shuffled in ``test.index``.
    """
    classes, features = SIZES[name]
    random = np.random.default_rng(seed)
    train = 20 * classes
    labels = np.concatenate(
        [np.repeat(np.arange(classes), 20), random.integers(classes, size=nodes - train - test)]
    )
    test_labels = random.integers(classes, size=test)
    every = np.concatenate([labels, test_labels])
    dense = (random.random((nodes, features)) < 0.01).astype(np.float32)
    dense[np.arange(nodes), every] = 1
    onehot = np.eye(classes, dtype=np.int32)[every]
    known = nodes - test
    graph: dict[int, list[int]] = defaultdict(list)
    for i in range(nodes):
        same = np.flatnonzero(every == every[i])
        for j in [*random.choice(same, 3).tolist(), int(random.integers(nodes))]:
            graph[i].append(int(j))
            graph[int(j)].append(i)
    index = known + random.permutation(test)
    # tx and ty stand in the order of the sorted test nodes, which test.index names shuffled: PyG puts
    # x[test_index] = x[sorted], so row k of tx belongs to node test_index[k]
    content = {
        "x": csr_matrix(dense[:train]),
        "y": onehot[:train],
        "allx": csr_matrix(dense[:known]),
        "ally": onehot[:known],
        "tx": csr_matrix(dense[index]),
        "ty": onehot[index],
        "graph": graph,
    }
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, value in content.items():
        (folder / f"ind.{name.lower()}.{part}").write_bytes(pickle.dumps(value, protocol=2))
    (folder / f"ind.{name.lower()}.test.index").write_text("".join(f"{i}\n" for i in index))
    return root


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    fake_planetoid(root, data["name"], nodes=720)
    flags: dict[str, Any] = {}
    if "num_nodes" in model:  # a graph is learned: from half of its edges
        flags = {"model.init_args.num_nodes": 720}
        flags |= {} if data.get("graph") == "knn" else {"data.init_args.edges_retained": 0.5}
    if "num_candidates" in model:
        flags["model.init_args.num_candidates"] = 4000
    if model.get("layers", 0) > 8:
        flags["model.init_args.layers"] = 4
    return flags


TWINS = {"datamodules.Planetoid": _twin}
