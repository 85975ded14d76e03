"""Small twins of the raw layout of TU Dortmund's sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Edges = list[tuple[int, int]]


def write_tu(root: Path, name: str, edges: Edges, sizes: Sequence[int], targets: Sequence[int]) -> Path:
    """Write ``root/name/raw/name_{A,graph_indicator,graph_labels}.txt``; returns the folder.

    Args:
        edges: pairs of nodes, counted from 0 over all graphs.
        sizes: nodes of each graph.
        targets: class of each graph.
    """
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    write_part(folder, "A", [f"{a + 1}, {b + 1}" for a, b in edges])
    write_part(folder, "graph_indicator", np.repeat(np.arange(len(sizes)) + 1, sizes).tolist())
    write_part(folder, "graph_labels", targets)
    return folder


def write_part(folder: Path, part: str, lines: Sequence[object]) -> None:
    """One file of a set: a line a node, edge or graph."""
    (folder / f"{folder.parent.name}_{part}.txt").write_text("\n".join(map(str, lines)) + "\n")


def fake_tu(
    root: Path,
    name: str = "ENZYMES",
    graphs: int = 40,
    classes: int = 2,
    attributes: int = 0,
    labels: int = 3,
    edge_labels: int = 0,
    seed: int = 0,
) -> Path:
    """A set to classify: graphs of class c are denser the larger c, the last graph ends in a lone node.

    Each graph has one self-loop and one edge written twice, as some of the real files have.
    """
    random = np.random.default_rng(seed)
    edges: Edges = []
    sizes: list[int] = []
    targets = [g % classes for g in range(graphs)]
    for g, label in enumerate(targets):
        nodes, start = int(random.integers(6, 14)), sum(sizes)
        upper = np.stack(np.triu_indices(nodes - (g + 1 == graphs), 1), axis=1)
        chosen = upper[random.random(len(upper)) < 0.2 + 0.5 * label / max(1, classes - 1)]
        both = [(a, b) for a, b in chosen.tolist()] + [(b, a) for a, b in chosen.tolist()]
        both += [(0, 0), *both[:1]]
        edges += [(start + a, start + b) for a, b in both]
        sizes.append(nodes)
    folder, nodes = write_tu(root, name, edges, sizes, [t + 1 for t in targets]), sum(sizes)
    if attributes:
        values = random.standard_normal((nodes, attributes))
        write_part(folder, "node_attributes", [", ".join(f"{v:.4f}" for v in row) for row in values])
    if labels:
        # each label occurs: the width of the one-hot is the number of labels
        write_part(folder, "node_labels", [i % labels + 1 for i in range(nodes)])
    if edge_labels:
        write_part(folder, "edge_labels", [i % edge_labels for i in range(len(edges))])
    return root


def fake_tu_set(root: Path, name: str = "ENZYMES", graphs: int = 15, seed: int = 0) -> Path:
    """A set to generate: graph i is a ring of 10 + i nodes with a chord; returns ``root``.

    Graph 1 has a second component of two nodes, graph 2 only 5 nodes. Both directions of an edge are in the
    file, and one self-loop.
    """
    random = np.random.default_rng(seed)
    edges: Edges = []
    sizes: list[int] = []
    for i in range(graphs):
        n, first = 5 if i == 2 else 10 + i, sum(sizes)
        ring = [(v, (v + 1) % n) for v in range(n)] + [(0, int(random.integers(2, n - 1)))]
        ring += [(n, n + 1)] if i == 1 else []
        edges += [(first + a, first + b) for a, b in ring] + [(first + b, first + a) for a, b in ring]
        sizes.append(n + 2 * (i == 1))
    write_tu(root, name, [*edges, (0, 0)], sizes, [i % 2 + 1 for i in range(graphs)])
    return root


def _classified(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_tu(root, classes=6, graphs=60, attributes=18, labels=3)
    return {"data.init_args.batch_size": 12}


def _generated(root: Path, config: dict[str, Any]) -> dict[str, Any]:
    fake_tu_set(root)
    return {"data.init_args.num_workers": 0, "model.init_args.val_samples": 3}


TWINS = {"datamodules.TUGraphs": _classified, "datamodules.TUGraphSet": _generated}
