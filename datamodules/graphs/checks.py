"""One checker of graphs: what files, and users' own data modules, hand over is judged here and nowhere else.

Readers call the functions of the parts, whose types are those of the file still; every batch passes
:func:`check_graph` (one graph) or :func:`check_store` (many) before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from datamodules.loading.files import Array

_CLASSES = 1000  # more classes than this, and than nodes, are no classes
MASKS = ("train_mask", "val_mask", "es_mask", "test_mask")


def source_name(data: Any) -> str:
    """A data module for the words: its class, and where its files lie."""
    root = getattr(data, "root", None) or getattr(data, "raw", None)
    return type(data).__name__ + (f" of {root}" if root else "")


def _array(where: object, name: str, values: Any) -> Array:
    if isinstance(values, Tensor):
        return values.detach().numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(f"{where}: {name} has rows of different lengths") from None


def _kind(array: Array) -> str:
    return f"{array.dtype} {array.shape}"


def integers(where: object, name: str, values: Any, low: int, high: int | None, ndim: int = 1) -> Tensor:
    """Whole numbers in ``low`` to ``high`` as an int64 tensor of ``ndim`` axes.

    Raises:
        ValueError: for another type (fractions, truth values), number of axes or range.
    """
    array = _array(where, name, values)
    if array.ndim != ndim or (array.dtype.kind not in "iu" and array.size):
        raise ValueError(f"{where}: {name} must be whole numbers of {ndim} dimensions, got {_kind(array)}")
    if array.size:
        least, most = int(array.min()), int(array.max())
        if least < low or most > (2**63 - 1 if high is None else high):
            raise ValueError(
                f"{where}: {name} must lie in {low}..{'' if high is None else high}, got {least}..{most}"
            )
    return torch.from_numpy(array.astype(np.int64, copy=False))


def edge_ends(where: object, name: str, edges: Any, nodes: int) -> Tensor:
    """Edges (2, m) between nodes of 0..nodes - 1, int64.

    Raises:
        ValueError: for another shape, type or range.
    """
    array = _array(where, name, edges)
    if array.ndim != 2 or array.shape[0] != 2:
        raise ValueError(
            f"{where}: {name} must be (2, m), a row of sources and one of targets, got {_kind(array)}"
        )
    return integers(where, name, array, 0, nodes - 1, ndim=2)


def finite(where: object, name: str, values: Any, ndim: int | None, low: float | None = None) -> Tensor:
    """Finite numbers as a float32 tensor of ``ndim`` axes (None: one or two), none below ``low``.

    Raises:
        ValueError: for another type, number of axes, NaN, or what float32 cannot hold.
    """
    array = _array(where, name, values)
    axes = (1, 2) if ndim is None else (ndim,)
    if array.ndim not in axes or array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: {name} must be numbers of {axes[-1]} dimensions, got {_kind(array)}")
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: {name} holds NaN or infinite values")
    if low is not None and array.size and float(array.min()) < low:
        raise ValueError(f"{where}: {name} must not lie below {low:g}, got {float(array.min()):g}")
    return torch.from_numpy(array)


def node_features(where: object, name: str, values: Any) -> Tensor:
    """Features (N, F) of at least one node and column, float32 and finite."""
    x = finite(where, name, values, 2)
    if not x.numel():
        raise ValueError(
            f"{where}: {name} is {tuple(x.shape)}, a graph has at least one node and one feature"
        )
    return x


def node_labels(where: object, name: str, values: Any, nodes: int) -> Tensor:
    """Classes (N,) int64 from 0 on, or several labels a node (N, C) float32 of 0 and 1.

    Raises:
        ValueError: for others, or for another number of nodes.
    """
    array = _array(where, name, values)
    if array.ndim not in (1, 2) or len(array) != nodes:
        raise ValueError(
            f"{where}: {name} must be ({nodes},) or ({nodes}, C), a row a node, got {_kind(array)}"
        )
    if array.ndim == 1:
        return integers(where, name, array, 0, max(nodes, _CLASSES) - 1)
    several = finite(where, name, array, 2)
    if not several.shape[1] or not bool(((several == 0) | (several == 1)).all()):
        raise ValueError(f"{where}: {name} of several labels a node must be 0 or 1, got {_kind(array)}")
    return several


def split_masks(where: object, splits: Mapping[str, Any], nodes: int) -> list[Tensor]:
    """The masks (N,) of splits that are given as node numbers, each once, or as boolean masks.

    Raises:
        ValueError: for an empty split, repeated or unknown nodes, or splits that overlap.
    """
    masks = {}
    for name, split in splits.items():
        array = _array(where, name, split)
        if array.dtype.kind == "b":
            if array.shape != (nodes,):
                raise ValueError(f"{where}: {name} is a mask {array.shape}, the graph has {nodes} nodes")
            mask = torch.from_numpy(array.copy())
        else:
            index = integers(where, name, array, 0, nodes - 1)
            mask = torch.zeros(nodes, dtype=torch.bool)
            mask[index] = True
            if int(mask.sum()) != len(index):
                raise ValueError(f"{where}: {name} names {len(index) - int(mask.sum())} nodes more than once")
        if not bool(mask.any()):
            raise ValueError(f"{where}: {name} is empty")
        masks[name] = mask
    _check_disjoint(where, masks)
    return list(masks.values())


def _check_disjoint(where: object, masks: Mapping[str, Tensor]) -> None:
    for (first, a), (second, b) in combinations(masks.items(), 2):
        if bool((a & b).any()):
            raise ValueError(f"{where}: {first} and {second} overlap in {int((a & b).sum())} nodes")


def check_graph(data: Data, where: object) -> Data:
    """One whole graph as it is, see :class:`datamodules.graphs.full_graph.FullGraphModule`.

    Raises:
        ValueError: for what no model can be trained on: no nodes, NaN, edges or labels out of range, negative
            edge weights, splits that overlap.
    """
    for name in ("x", "y", "edge_index"):
        if not isinstance(data.get(name), Tensor):
            raise ValueError(f"{where}: the graph has no tensor {name}")
    if not data.x.is_floating_point() or data.edge_index.dtype != torch.int64:
        raise ValueError(
            f"{where}: x must be float and edge_index int64, got {data.x.dtype} and {data.edge_index.dtype}"
        )
    if data.y.ndim == 1 and data.y.dtype != torch.int64:
        raise ValueError(f"{where}: y of one label a node must be int64, got {data.y.dtype}")
    nodes = len(node_features(where, "x", data.x))
    node_labels(where, "y", data.y, nodes)
    for name in ("edge_index", "true_edge_index"):
        if name in data:
            edge_ends(where, name, data[name], nodes)
    limits: list[tuple[str, int | None, float | None]] = [("edge_weight", 1, 0.0), ("edge_attr", None, None)]
    for name, ndim, low in limits:
        if data.get(name) is not None:
            values = finite(where, name, data[name], ndim, low)
            if len(values) != data.edge_index.shape[1]:
                raise ValueError(
                    f"{where}: {len(values)} rows of {name} for {data.edge_index.shape[1]} edges"
                )
    masks = {name: data[name] for name in MASKS if name in data}
    for name, mask in masks.items():
        if mask.dtype != torch.bool or mask.shape != (nodes,):
            raise ValueError(f"{where}: {name} must be bool ({nodes},), got {mask.dtype} {tuple(mask.shape)}")
    if "train_mask" in masks and not bool(masks["train_mask"].any()):
        raise ValueError(f"{where}: train_mask is empty")
    _check_disjoint(where, masks)
    return data


def check_store(store: Any, where: object) -> Any:
    """Many graphs as they are, a :class:`datamodules.graphs.graph_level.GraphStore`.

    Raises:
        ValueError: for no graphs, NaN, or parts that do not fit together.
    """
    graphs, nodes, edges = len(store.y), len(store.x), store.edge_index.shape[1]
    if not graphs:
        raise ValueError(f"{where}: no graphs")
    finite(where, "x", store.x, 2)
    integers(where, "y", store.y, 0, max(graphs, _CLASSES) - 1)
    for name, ptr, total in (("node_ptr", store.node_ptr, nodes), ("edge_ptr", store.edge_ptr, edges)):
        counts = integers(where, name, ptr, 0, total).diff()
        if len(ptr) != graphs + 1 or int(ptr[0]) or int(ptr[-1]) != total or bool((counts < 0).any()):
            raise ValueError(f"{where}: {name} does not count {total} items of {graphs} graphs")
    ends = edge_ends(where, "edge_index", store.edge_index, max(nodes, 1))
    owner = torch.repeat_interleave(torch.arange(graphs), store.edge_ptr.diff())
    if edges and bool((ends >= store.sizes[owner]).any()):
        raise ValueError(f"{where}: an edge leaves its graph")
    if store.edge_attr is not None and len(finite(where, "edge_attr", store.edge_attr, None)) != edges:
        raise ValueError(f"{where}: {len(store.edge_attr)} rows of edge_attr for {edges} edges")
    return store
