"""Graph classification sets of TU Dortmund in their raw layout (Morris et al. 2020)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.io import read_tu_data
from torch_geometric.utils import degree, one_hot

from datamodules.graphs.graph_level import GraphLevelModule, GraphStore
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import one_line, written_whole

Features = Literal["auto", "given", "degree", "degree_onehot", "constant"]
_SOURCE = "https://www.chrsmrrs.com/graphkerneldatasets"
_FORMAT = 1  # of the cached tensors


def check_tu_files(raw: Path, name: str) -> list[Path]:
    """The files of set ``name`` in the folder ``raw``.

    Raises:
        FileNotFoundError: where one that every set has is missing.
    """
    files = sorted(raw.glob(f"{name}_*.txt"))
    names = {p.name for p in files}
    for part in ("A", "graph_indicator", "graph_labels"):
        if f"{name}_{part}.txt" not in names:
            raise FileNotFoundError(
                f"no file {raw / f'{name}_{part}.txt'}: unpack {_SOURCE}/{name}.zip so that its files lie in "
                f"<root>/{name}/raw, then set data.init_args.root (or the environment variable ZOO_DATA) to "
                "where they are"
            )
    return files


def tu_folder(root: str | None, name: str) -> Path:
    """The raw folder of set ``name``; ``root`` defaults to ``$ZOO_DATA/graphs/tu`` or ``data/graphs/tu``."""
    return data_folder(root, "graphs/tu") / name / "raw"


def read_tu(raw: Path, name: str) -> dict[str, Tensor]:
    """A whole set by PyG's reader, without self-loops and double edges.

    Args:
        raw: folder of the files.
        name: of the set.

    Returns:
        ``node_ptr``, ``edge_ptr`` (G + 1,), where the nodes and edges of each of G graphs begin;
        ``edge_index`` (2, E) counted from the first node of its graph; ``y`` (G,); ``node_attributes``,
        ``node_labels`` (N, .), ``edge_attributes``, ``edge_labels`` (E, .), labels one-hot, without columns
        where the set has none.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files.
    """
    check_tu_files(raw, name)
    try:
        data, slices, sizes = read_tu_data(str(raw), name)
        counts = torch.tensor(data._num_nodes) if data.x is None else slices["x"].diff()
        nodes = int(counts.sum())
        x = torch.empty(nodes, 0) if data.x is None else data.x
        edges = data.edge_index.shape[1]
        edge_attr = torch.empty(edges, 0) if data.edge_attr is None else data.edge_attr
        graphs, ends = len(data.y), data.edge_index
        if graphs != len(counts) or graphs != len(slices["edge_index"]) - 1:
            raise ValueError(f"{len(counts)} graphs have nodes, {graphs} have labels")
        owner = torch.repeat_interleave(torch.arange(graphs), slices["edge_index"].diff())
        if edges and (int(ends.min()) < 0 or bool((ends >= counts[owner]).any())):
            raise ValueError("an edge leaves its graph")
    except (ValueError, RuntimeError, IndexError, AssertionError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the files in {raw} are damaged or do not fit together ({one_line(error)}); take them anew from "
            f"{_SOURCE}/{name}.zip"
        ) from None
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
    attributes, edge_attributes = sizes["num_node_attributes"], sizes["num_edge_attributes"]
    return {
        "node_attributes": x[:, :attributes].float().clone(),
        "node_labels": x[:, attributes:].float().clone(),
        "edge_attributes": edge_attr[:, :edge_attributes].float().clone(),
        "edge_labels": edge_attr[:, edge_attributes:].float().clone(),
        "edge_index": data.edge_index,
        "y": data.y.long(),
        "node_ptr": ptr,
        "edge_ptr": slices["edge_index"].long(),
    }


class TUGraphs(GraphLevelModule):
    """A set of TU Dortmund, ENZYMES, DD, NCI1, PROTEINS, IMDB-BINARY, COLLAB and so on, read by PyG's reader.

    The files are ``<root>/<name>/raw/<name>_{A,graph_indicator,graph_labels}.txt`` and, where the set has
    them, ``_{node_labels,node_attributes,edge_labels,edge_attributes}.txt``; ids count from 1. They are only
    read: what was parsed goes to ``cache``. Labels are one-hot after the attributes; self-loops and double
    edges are taken out. The batch is described in :class:`datamodules.graphs.graph_level.GraphLevelModule`.

    Args:
        name: of the set and its files.
        root: folder of the sets; defaults to ``$ZOO_DATA/graphs/tu`` or ``data/graphs/tu``.
        features: ``given``: attributes and labels of the nodes; ``degree``: one number; ``degree_onehot``;
            ``constant``: ones; ``auto``: given where the set has them, else degree, as in the paper.
        use_node_attr: take the node attributes into ``given`` and ``auto``, else the labels alone.
        use_edge_attr: take the edge attributes into ``edge_attr``, else the edge labels alone.
        max_degree: of ``degree_onehot``: larger degrees share its last column, max_degree + 1 columns in all.
        splits: a JSON file of splits in the layout of Errica et al.'s release; null makes them, see ``fold``,
            and keeps them in ``cache``.
        cache: folder of parsed data and splits; defaults to ``$ZOO_CACHE`` or ``~/.cache/zoo``.
        **kwargs: of :class:`datamodules.graphs.graph_level.GraphLevelModule`.

    Raises:
        FileNotFoundError, ValueError: for missing or damaged files and impossible settings.
    """

    of_weights: ClassVar[tuple[str, ...]] = ("features", "use_node_attr", "use_edge_attr", "max_degree")

    def __init__(
        self,
        name: str = "ENZYMES",
        root: str | None = None,
        features: Features = "auto",
        use_node_attr: bool = True,
        use_edge_attr: bool = True,
        max_degree: int = 64,
        splits: str | None = None,
        cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("features", features, Features)
        if max_degree < 1:
            raise ValueError(f"data.init_args.max_degree must be at least 1, got {max_degree}")
        self.set_name, self.features, self.max_degree = name, features, max_degree
        self.use_node_attr, self.use_edge_attr = use_node_attr, use_edge_attr
        self.raw = tu_folder(root, name)
        self.given_splits = None if splits is None else Path(splits)
        folder = cache or os.environ.get("ZOO_CACHE") or Path.home() / ".cache" / "zoo"
        self.cache = Path(folder) / "tu" / name

    def prepare_data(self) -> None:
        self._parsed()

    def split_file(self) -> Path | None:
        if self.given_splits is not None:
            if not self.given_splits.is_file():
                raise FileNotFoundError(f"no file {self.given_splits}, which data.init_args.splits names")
            return self.given_splits
        share = f"{self.holdout_share:g}".replace(".", "")
        return self.cache / f"splits_{self.folds}_{share}_{self.split_seed}.json"

    def read(self) -> GraphStore:
        parsed = self._parsed()
        attributes, labels = parsed["node_attributes"], parsed["node_labels"]
        given = torch.cat([attributes, labels], dim=1) if self.use_node_attr else labels
        edges = torch.cat([parsed["edge_attributes"], parsed["edge_labels"]], dim=1)
        edges = edges if self.use_edge_attr else parsed["edge_labels"]
        nodes = int(parsed["node_ptr"][-1])
        raw = np.loadtxt(self.raw / f"{self.set_name}_graph_labels.txt", delimiter=",", dtype=int)
        self.class_names = list(map(str, np.unique(raw)))  # classes are the file's labels in order
        return GraphStore(
            x=self._features(given, parsed, nodes),
            edge_index=parsed["edge_index"],
            y=parsed["y"],
            node_ptr=parsed["node_ptr"],
            edge_ptr=parsed["edge_ptr"],
            edge_attr=edges if edges.shape[1] else None,
        )

    def _features(self, given: Tensor, parsed: dict[str, Tensor], nodes: int) -> Tensor:
        kind = self.features
        if kind == "auto":
            kind = "given" if given.shape[1] else "degree"
        if kind == "given":
            if not given.shape[1]:
                raise ValueError(
                    f"{self.set_name} has no node {'attributes or ' if self.use_node_attr else ''}labels; "
                    "set data.init_args.features: degree (or degree_onehot, constant)"
                )
            return given
        if kind == "constant":
            return torch.ones(nodes, 1)
        owner = torch.repeat_interleave(torch.arange(len(parsed["y"])), parsed["edge_ptr"].diff())
        target = parsed["edge_index"][1] + parsed["node_ptr"][owner]
        degrees = degree(target, nodes)
        if kind == "degree":
            return degrees[:, None]
        return one_hot(degrees.clamp(max=self.max_degree).long(), self.max_degree + 1)

    # --- files ----------------------------------------------------------------------------------------------

    def _parsed(self) -> dict[str, Tensor]:
        files = check_tu_files(self.raw, self.set_name)
        stamp = [_FORMAT, *(n for p in files for n in (p.stat().st_size, p.stat().st_mtime_ns))]
        path = self.cache / "data.pt"
        if path.is_file():
            try:
                found: dict[str, Any] = torch.load(path, weights_only=True)
                if found.pop("stamp") == stamp:
                    return found
            except (RuntimeError, OSError, EOFError, KeyError, ValueError, AttributeError):
                pass  # another version's or a broken file: parse anew
        parsed = read_tu(self.raw, self.set_name)
        with written_whole(path) as temporary:
            torch.save({**parsed, "stamp": stamp}, temporary)
        return parsed
