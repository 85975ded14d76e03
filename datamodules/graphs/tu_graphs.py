"""Graph classification sets of TU Dortmund in their raw layout (Morris et al. 2020)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils import coalesce, degree, one_hot, remove_self_loops

from datamodules.graphs.checks import edge_ends
from datamodules.graphs.graph_level import GraphLevelModule, GraphStore
from datamodules.loading.arguments import check_choice, data_folder
from datamodules.loading.files import one_line, written_whole
from datamodules.loading.ranges import Many, check_ranges
from datamodules.loading.tables import numbers, read_rows
from datamodules.loading.tensors import read_tensors

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
    """A whole set as PyG's reader gives it, without self-loops and double edges.

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
    present = {path.name for path in check_tu_files(raw, name)}
    try:
        return _assembled(raw, name, present)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the files in {raw} are damaged or do not fit together ({one_line(error, 200)}); mend them, or, "
            f"of a released set, take them anew from {_SOURCE}/{name}.zip"
        ) from None


def _assembled(raw: Path, name: str, present: set[str]) -> dict[str, Tensor]:
    def part(kind: str, rows: int | None = None, width: int | None = None, whole: bool = True) -> Tensor:
        """A file as (rows, columns), without columns where the set has none."""
        path = raw / f"{name}_{kind}.txt"
        if path.name not in present:
            return torch.empty(rows or 0, 0, dtype=torch.long if whole else torch.float64)
        table = torch.from_numpy(numbers(path, read_rows(path), whole=whole, width=width))
        if rows is not None and len(table) != rows:
            raise ValueError(f"{path.name} has {len(table)} lines, expected {rows}")
        return table

    targets, owner = part("graph_labels", width=1)[:, 0], part("graph_indicator", width=1)[:, 0] - 1
    graphs, nodes = len(targets), len(owner)
    if not graphs or not nodes:
        raise ValueError("no graphs or no nodes")
    if bool((owner.diff() < 0).any()) or not 0 <= int(owner[0]) <= int(owner[-1]) < graphs:
        raise ValueError(
            f"{name}_graph_indicator.txt must count up from 1 to the {graphs} graphs of "
            f"{name}_graph_labels.txt, it claims {int(owner.min()) + 1}..{int(owner.max()) + 1}"
        )
    ends = part("A", width=2).T - 1
    ends = edge_ends(f"{name}_A.txt", "nodes - 1", ends, nodes)
    attributes = part("node_attributes", nodes, whole=False).float()
    labels = _one_hot(part("node_labels", nodes), f"{name}_node_labels.txt")
    edge_attributes = part("edge_attributes", ends.shape[1], whole=False).float()
    edge_labels = _one_hot(part("edge_labels", ends.shape[1]), f"{name}_edge_labels.txt")
    for found, kind in ((attributes, "node"), (edge_attributes, "edge")):
        if not bool(found.isfinite().all()):
            raise ValueError(f"{name}_{kind}_attributes.txt holds numbers beyond float32")
    ends, features = remove_self_loops(ends, torch.cat([edge_attributes, edge_labels], dim=1))
    ends, features = coalesce(ends, features, nodes)
    if bool((owner[ends[0]] != owner[ends[1]]).any()):
        raise ValueError("an edge leaves its graph")
    node_ptr = _starts(torch.bincount(owner, minlength=graphs))
    width = edge_attributes.shape[1]
    return {
        "node_attributes": attributes,
        "node_labels": labels,
        "edge_attributes": features[:, :width].clone(),
        "edge_labels": features[:, width:].clone(),
        "edge_index": ends - node_ptr[owner[ends[0]]],
        "y": targets.unique(sorted=True, return_inverse=True)[1],
        "node_ptr": node_ptr,
        "edge_ptr": _starts(torch.bincount(owner[ends[0]], minlength=graphs)),
    }


def _starts(counts: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])


def _one_hot(labels: Tensor, file: str) -> Tensor:
    """Labels (n, k) -> float32, for each of the k a column for every number from its least to its largest."""
    columns = []
    for label in labels.unbind(dim=1):
        low, high = (int(label.min()), int(label.max())) if len(label) else (0, -1)
        # a column a number: labels that span more than the file has lines are none
        if high - low >= max(1024, len(label)):
            raise ValueError(f"{file} claims labels from {low} to {high} on {len(label)} lines")
        columns.append(one_hot(label - low, high - low + 1))
    return torch.cat(columns, dim=1) if columns else torch.empty(len(labels), 0)


class TUGraphs(GraphLevelModule):
    """A set of TU Dortmund, ENZYMES, DD, NCI1, PROTEINS, IMDB-BINARY, COLLAB and so on, as PyG reads it.

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

    split_of_weights: ClassVar[tuple[str, ...]] = (
        "name",
        "fold",
        "folds",
        "holdout",
        "holdout_share",
        "split_seed",
        "splits",
    )

    of_weights: ClassVar[tuple[str, ...]] = ("features", "use_node_attr", "use_edge_attr", "max_degree")

    def __init__(
        self,
        name: str = "ENZYMES",
        root: str | None = None,
        features: Features = "auto",
        use_node_attr: bool = True,
        use_edge_attr: bool = True,
        max_degree: Many = 64,
        splits: str | None = None,
        cache: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_ranges(TUGraphs, locals())
        super().__init__(**kwargs)
        check_choice("features", features, Features)
        self.set_name, self.features, self.max_degree = name, features, max_degree
        self.use_node_attr, self.use_edge_attr = use_node_attr, use_edge_attr
        self.raw = tu_folder(root, name)
        self.given_splits = None if splits is None else Path(splits)
        self.makes_splits = splits is None
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
        path = self.raw / f"{self.set_name}_graph_labels.txt"
        labels_of_file = numbers(path, read_rows(path), whole=True, width=1)
        self.class_names = list(map(str, np.unique(labels_of_file)))  # classes are the file's labels in order
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
                found: dict[str, Any] = read_tensors(path)
                if found.pop("stamp") == stamp:
                    return found
            except (OSError, KeyError, ValueError, AttributeError):
                pass  # another version's or a broken file: parse anew
        parsed = read_tu(self.raw, self.set_name)
        with written_whole(path) as temporary:
            torch.save({**parsed, "stamp": stamp}, temporary)
        return parsed
