"""A tiny twin of GAug's released files: a random graph of two-block structure, in both layouts."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch


def fake_gaug(
    root: Path, name: str, nodes: int = 60, features: int = 12, classes: int = 3, several: bool = False
) -> Path:
    """Write ``<name>.npz`` and the four pickles as the release does; returns ``root``.

    The pickled adjacency has a diagonal of ones, the features of odd releases are tensors.

    Args:
        several: multi-hot labels (N, classes), as PPI has.
    """
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    group = np.arange(nodes) % classes
    near = group[:, None] == group[None, :]
    upper = np.triu(random.random((nodes, nodes)) < np.where(near, 0.3, 0.04), 1)
    edges = np.stack(np.nonzero(upper)).astype(np.int32)
    x = (random.random((nodes, features)) < 0.15).astype(np.float32)
    x[np.arange(nodes), group % features] = 1
    y: Any = np.eye(classes, dtype=np.float32)[group] if several else group.astype(np.int64)
    if several:
        y[random.random(y.shape) < 0.1] = 1
    order = random.permutation(nodes)
    splits = [np.sort(order[:20]), np.sort(order[20:35]), np.sort(order[35:])]
    row, column = np.nonzero(x)
    np.savez(
        root / f"{name}.npz",
        edges=edges,
        num_nodes=nodes,
        x_row=row.astype(np.int32),
        x_col=column.astype(np.int32),
        x_val=x[row, column],
        x_shape=np.array(x.shape),
        y=y,
        train=splits[0],
        val=splits[1],
        test=splits[2],
    )
    adjacency = scipy.sparse.csr_matrix((upper | upper.T).astype(np.float64) + np.eye(nodes))
    parts: dict[str, Any] = {
        "adj": adjacency,
        "features": torch.from_numpy(x) if several else scipy.sparse.csr_matrix(x),
        "labels": torch.from_numpy(y),
        "tvt_nids": splits,
    }
    for part, content in parts.items():
        with (root / f"{name}_{part}.pkl").open("wb") as file:
            pickle.dump(content, file, protocol=4)
    return root


def _twin(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Each layout with one of the two methods; all phases of a method within eight steps."""
    name, of_o = config["data"]["init_args"]["name"], "pretrain_ep" in config["model"]["init_args"]
    fake_gaug(root, name, several=name == "ppi")
    short = {"epochs": 3, "features": 12, "num_classes": 3}
    short |= {"pretrain_ep": 3, "pretrain_nc": 2} if of_o else {"predictor_epochs": 5}
    flags: dict[str, Any] = {f"model.init_args.{k}": v for k, v in short.items()}
    return {**flags, "data.init_args.layout": "pickle" if of_o else "npz", "trainer.max_steps": 8}


TWINS = {"datamodules.GAugGraph": _twin}
