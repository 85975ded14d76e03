"""A small set of graphs in the TU layout, without features: for the readers of graph sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def fake_tu_set(root: Path, name: str = "ENZYMES", graphs: int = 15, seed: int = 0) -> Path:
    """Write ``<root>/<name>/raw/<name>_{A,graph_indicator,graph_labels}.txt``; returns ``root``.

    Graph i is a ring of 10 + i nodes with a chord; graph 1 has a second component of two nodes, graph 2 only
    5 nodes. Both directions of an edge are in the file, and one self-loop.
    """
    random = np.random.default_rng(seed)
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    pairs: list[tuple[int, int]] = []
    owner: list[int] = []
    for i in range(graphs):
        n = 5 if i == 2 else 10 + i
        first = len(owner)
        ring = [(v, (v + 1) % n) for v in range(n)] + [(0, int(random.integers(2, n - 1)))]
        if i == 1:
            ring.append((n, n + 1))
            n += 2
        pairs += [(first + a, first + b) for a, b in ring] + [(first + b, first + a) for a, b in ring]
        owner += [i + 1] * n
    pairs.append((0, 0))
    lines = [f"{a + 1}, {b + 1}" for a, b in pairs]
    (folder / f"{name}_A.txt").write_text("\n".join(lines) + "\n")
    (folder / f"{name}_graph_indicator.txt").write_text("\n".join(map(str, owner)) + "\n")
    (folder / f"{name}_graph_labels.txt").write_text("\n".join(str(i % 2 + 1) for i in range(graphs)) + "\n")
    return root
