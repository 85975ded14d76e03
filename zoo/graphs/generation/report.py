"""What ``zoo predict`` leaves of a graph generator: edge lists, a table of numbers, a sheet of drawings."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path
from torch import Tensor

from zoo.drawing import drawing
from zoo.metrics.graph_mmd import RULES, IsomorphismClasses, is_connected, trimmed
from zoo.metrics.graph_statistics import Array, clustering, orbit_counts

_COLUMNS, _ROWS = 8, 3  # drawings of each kind on the sheet
_COLUMN_NAMES = (
    *("source", "index", "nodes", "edges", "mean_degree", "mean_clustering", "triangles", "squares"),
    *("diameter", "connected"),
)
_STRESS_LIMIT = 60  # nodes; larger graphs are drawn as they are scaled


@dataclass
class GeneratedGraphs:
    """A set of generated graphs and the graphs that they were learned from.

    Attributes:
        adjacency: uint8 (B, N, N), padded with zeros.
        nodes: int64 (B,).
        training: uint8 (n, n) each.
        rule: of a valid graph.
        title: of the picture.
    """

    adjacency: Tensor
    nodes: Tensor
    training: list[Array]
    rule: str
    title: str

    def write(self, folder: Path) -> list[Path]:
        """``graphs.jsonl``, ``graphs.npz``, ``statistics.csv`` and ``graphs.png`` in ``folder``.

        The JSON lines are ``{"index", "nodes", "edges": [[i, j], ...]}`` with i < j. The npz has ``nodes``
        (B,) and all edges i < j (E, 2) in ``edges``, those of graph b in rows ``start[b]`` to ``start[b +
        1]``.
        """
        outputs = [folder / f"{n}" for n in ("graphs.jsonl", "graphs.npz", "statistics.csv", "graphs.png")]
        graphs = trimmed(self.adjacency, self.nodes)
        pairs = [np.argwhere(np.triu(g)) for g in graphs]
        with outputs[0].open("w") as file:
            for index, (graph, edges) in enumerate(zip(graphs, pairs, strict=True)):
                line = {"index": index, "nodes": len(graph), "edges": edges.tolist()}
                file.write(json.dumps(line) + "\n")
        start = np.cumsum([0, *map(len, pairs)])
        np.savez(outputs[1], nodes=self.nodes.numpy(), edges=np.concatenate(pairs), start=start)
        self._write_statistics(outputs[2], graphs)
        self._draw(outputs[3], graphs)
        return outputs

    def _write_statistics(self, path: Path, graphs: Sequence[Array]) -> None:
        known, seen = IsomorphismClasses(self.training), IsomorphismClasses()
        valid = RULES[self.rule]
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*_COLUMN_NAMES, f"valid_{self.rule}", "first_of_its_kind", "in_training"])
            for index, graph in enumerate(graphs):
                first = int(seen.add(graph))
                row = [int(valid(graph)), first, int(graph in known)]
                writer.writerow(["generated", index, *_numbers(graph), *row])
            for index, graph in enumerate(self.training):
                writer.writerow(["training", index, *_numbers(graph), int(valid(graph)), "", 1])

    def _draw(self, path: Path, graphs: Sequence[Array]) -> None:
        shown: list[tuple[str, Array | None]] = [("generated", g) for g in graphs[: _COLUMNS * _ROWS]]
        shown += [("", None)] * (-len(shown) % _COLUMNS)
        shown += [("training", g) for g in self.training[: _COLUMNS * _ROWS]]
        rows = -(-len(shown) // _COLUMNS)
        with drawing(path, rows, _COLUMNS, figsize=(1.7 * _COLUMNS, 1.75 * rows), squeeze=False, dpi=80) as (
            figure,
            axes,
        ):
            for axis in axes.flat:
                axis.axis("off")
            for axis, (source, graph) in zip(axes.flat, shown, strict=False):
                if graph is not None:
                    draw_graph(axis, graph, "tab:blue" if source == "generated" else "tab:gray")
                    axis.set_title(f"{source}, {len(graph)} nodes", fontsize=7)
            figure.suptitle(self.title, fontsize=11)


def _numbers(graph: Array) -> list[Any]:
    degree = graph.sum(axis=1)
    orbits = orbit_counts(graph)
    connected = is_connected(graph)
    diameter = nx.diameter(nx.from_numpy_array(graph)) if connected else ""
    shares = [f"{x:.4f}" for x in (degree.mean(), clustering(graph).mean())]
    counts = [int(orbits[:, 3].sum()) // 3, int(orbits[:, 8].sum()) // 4]
    return [len(graph), int(degree.sum()) // 2, *shares, *counts, diameter, int(connected)]


def layout(graph: Array) -> Array:
    """Places (n, 2) of the nodes: classical scaling of hop distances, for small graphs then least stress.

    The start matters: from a circle, stress leaves ladders twisted and grids folded.
    """
    n = len(graph)
    if n < 3:
        return np.linspace(0, 1, n)[:, None] * np.array([[1.0, 0.0]])
    hops = shortest_path(csr_matrix(graph), directed=False, unweighted=True)
    hops[np.isinf(hops)] = hops[np.isfinite(hops)].max() + 1
    centred = hops**2 - (hops**2).mean(axis=0)
    values, vectors = np.linalg.eigh(-(centred - centred.mean(axis=1, keepdims=True)) / 2)
    places = vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 1e-9))
    # nodes with the same neighbours lie on one point: a push, or stress divides by zero
    places += 1e-3 * np.random.default_rng(0).standard_normal(places.shape)
    if n <= _STRESS_LIMIT:
        rows = {v: dict(enumerate(row)) for v, row in enumerate(hops.tolist())}
        start = dict(enumerate(places))
        found = nx.kamada_kawai_layout(nx.from_numpy_array(graph), dist=rows, pos=start)
        places = np.stack([found[v] for v in range(n)])
    return places


def draw_graph(axis: Any, graph: Array, colour: str) -> None:
    """A node-link drawing on a matplotlib axis."""
    from matplotlib.collections import LineCollection

    places = layout(graph)
    ends = np.argwhere(np.triu(graph))
    axis.add_collection(LineCollection(list(places[ends]), colors="0.45", linewidths=0.7, zorder=1))
    axis.scatter(places[:, 0], places[:, 1], s=200 / (len(graph) + 8), color=colour, linewidths=0, zorder=2)
    axis.set_aspect("equal", adjustable="datalim")
    axis.margins(0.08)
