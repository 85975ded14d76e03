"""Clusters of like sequences, which a split keeps whole: those that share many 4-mers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_K = 4
_MOST = 50_000
"""Sequences whose pairs are compared."""


def clusters(sequences: Sequence[str], shared: float) -> list[list[int]]:
    """Positions of the sequences of each cluster, in the order of their first sequences.

    Two sequences belong together if at least ``shared`` of the distinct 4-mers of the one that has fewer
    stand in the other; clusters are the connected components. A sequence of fewer than 4 residues is alone.

    Raises:
        ValueError: for more than 50,000 sequences, whose pairs would take too much memory.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    if len(sequences) > _MOST:
        raise ValueError(
            f"data.init_args.split is clusters, which compares all pairs of at most {_MOST:,} sequences; "
            f"there are {len(sequences):,}: cluster them with MMseqs2 and give its representatives"
        )
    known: dict[str, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for i, text in enumerate(sequences):
        for word in {text[j : j + _K] for j in range(len(text) - _K + 1)}:
            rows.append(i)
            columns.append(known.setdefault(word, len(known)))
    shape = (len(sequences), max(1, len(known)))
    has = csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=shape)
    common = (has @ has.T).tocoo()
    own = np.diff(has.indptr)
    alike = common.data >= shared * np.minimum(own[common.row], own[common.col])
    pairs = (np.ones(int(alike.sum()), dtype=np.int8), (common.row[alike], common.col[alike]))
    _, label = connected_components(csr_matrix(pairs, shape=common.shape), directed=False)
    groups: dict[int, list[int]] = {}
    for i, number in enumerate(label.tolist()):
        groups.setdefault(number, []).append(i)
    return list(groups.values())
