"""A small twin of the raw layout of TU Dortmund's sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np


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
    """Write ``root/name/raw``; graphs of class c are denser the larger c, the last graph ends in a lone node.

    Each graph has one self-loop and one edge written twice, as some of the real files have.
    """
    random = np.random.default_rng(seed)
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    rows: list[tuple[int, int]] = []
    indicator: list[int] = []
    start = 0
    targets = [g % classes for g in range(graphs)]
    for g, label in enumerate(targets):
        nodes = int(random.integers(6, 14))
        upper = np.stack(np.triu_indices(nodes - (g + 1 == graphs), 1), axis=1)
        chosen = upper[random.random(len(upper)) < 0.2 + 0.5 * label / max(1, classes - 1)]
        both = [(a, b) for a, b in chosen.tolist()] + [(b, a) for a, b in chosen.tolist()]
        both += [(0, 0), *both[:1]]
        rows += [(start + a + 1, start + b + 1) for a, b in both]
        indicator += [g + 1] * nodes
        start += nodes

    def write(part: str, lines: list[str]) -> None:
        (folder / f"{name}_{part}.txt").write_text("\n".join(lines) + "\n")

    write("A", [f"{a}, {b}" for a, b in rows])
    write("graph_indicator", [str(i) for i in indicator])
    write("graph_labels", [str(t + 1) for t in targets])
    if attributes:
        values = random.standard_normal((start, attributes))
        write("node_attributes", [", ".join(f"{v:.4f}" for v in row) for row in values])
    if labels:
        # each label occurs: the width of the one-hot is the number of labels
        write("node_labels", [str(i % labels + 1) for i in range(start)])
    if edge_labels:
        write("edge_labels", [str(i % edge_labels) for i in range(len(rows))])
    return root
