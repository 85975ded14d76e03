"""Numbers that describe one graph: degrees, clustering, spectrum, and exact counts of four-node orbits."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ORBITS = 15
_EDGE = 1e-5  # eigenvalues on the edge of two bins must not fall by rounding


def degree_histogram(adjacency: Array) -> Array:
    """Share of the nodes (d_max + 1,) of each degree, of a symmetric 0/1 adjacency (n, n)."""
    degrees = adjacency.sum(axis=1, dtype=np.int64)
    return np.bincount(degrees) / len(degrees)


def _triangles(adjacency: Array) -> tuple[Array, Array]:
    """Degrees and triangles (n,) at each node."""
    a = adjacency.astype(np.float64)
    return a.sum(axis=1).astype(np.int64), np.rint(((a @ a) * a).sum(axis=1) / 2).astype(np.int64)


def clustering(adjacency: Array) -> Array:
    """Local clustering coefficients 2 t / (d (d - 1)) (n,); 0 for degrees below 2."""
    degree, triangles = _triangles(adjacency)
    return 2 * triangles / np.maximum(degree * (degree - 1), 1)


def clustering_histogram(adjacency: Array, bins: int) -> Array:
    """Share of the nodes in ``bins`` equal bins of [0, 1], the last one closed."""
    degree, triangles = _triangles(adjacency)
    # in whole numbers: .3 or .7 must not fall into the bin below by rounding
    place = np.minimum(2 * triangles * bins // np.maximum(degree * (degree - 1), 1), bins - 1)
    return np.bincount(place, minlength=bins) / len(degree)


def laplacian_spectrum(adjacency: Array) -> Array:
    """Eigenvalues (n,) of I - D^(-1/2) A D^(-1/2), rising; a node without edges has a zero row."""
    a = adjacency.astype(np.float64)
    degree = a.sum(axis=1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0)
    return np.linalg.eigvalsh(np.diag((degree > 0).astype(np.float64)) - scale[:, None] * a * scale[None, :])


def spectrum_histogram(adjacency: Array, bins: int) -> Array:
    """Share of the eigenvalues of the normalised Laplacian in ``bins`` equal bins of [0, 2]."""
    place = ((laplacian_spectrum(adjacency) + _EDGE) * bins / 2).astype(np.int64)
    return np.bincount(np.clip(place, 0, bins - 1), minlength=bins) / len(adjacency)


def orbit_counts(adjacency: Array) -> Array:
    """How often each node is in each orbit of the induced connected subgraphs of 2 to 4 nodes; int64 (n, 15).

    The orbits are those of Przulj (2007) and of ORCA: 0 edge; 1 end, 2 middle of a path of 3; 3 triangle; 4
    end, 5 inner of a path of 4; 6 leaf, 7 centre of a star of 4; 8 cycle of 4; 9 tail, 10 far, 11 joint of a
    triangle with a tail; 12 two, 13 three edges of a diamond; 14 complete graph of 4.

    Subgraphs with these edges (and perhaps more) are counted by sums over walks and common neighbours; then
    the ones that have more edges are taken off, from the complete graph downwards.
    """
    a = adjacency.astype(np.float64)
    d = a.sum(axis=1)
    common = a @ a  # of u and v: their common neighbours
    np.fill_diagonal(common, 0)
    at_edges = common * a
    t = at_edges.sum(axis=1) / 2
    beyond = a @ (d - 1)
    found = np.zeros((len(a), ORBITS))
    found[:, 0] = d
    found[:, 1] = beyond - 2 * t
    found[:, 2] = d * (d - 1) / 2 - t
    found[:, 3] = t

    complete = _complete_four(a)
    # diamonds: two degree-2 nodes around an edge, the hubs
    two = ((a @ (at_edges - a)) * a).sum(axis=1) / 2 if len(a) else t
    three = (a * common * (common - 1) / 2).sum(axis=1)
    o14 = complete
    o12 = two - 3 * o14
    o13 = three - 3 * o14
    tail = a @ t - at_edges.sum(axis=1)
    far = at_edges @ (d - 2)
    joint = t * (d - 2)
    o9 = tail - 2 * o12 - 3 * o14
    o10 = far - 2 * o12 - 2 * o13 - 6 * o14
    o11 = joint - 2 * o13 - 3 * o14
    o8 = (common * (common - 1) / 2).sum(axis=1) - o12 - o13 - 3 * o14
    o7 = d * (d - 1) * (d - 2) / 6 - o11 - o13 - o14
    o6 = a @ ((d - 1) * (d - 2) / 2) - o9 - o10 - 2 * o12 - o13 - 3 * o14
    end = a @ beyond - d * (d - 1) - 2 * t
    inner = (d - 1) * beyond - 2 * t
    o4 = end - 2 * o8 - 2 * o9 - o10 - 4 * o12 - 2 * o13 - 6 * o14
    o5 = inner - 2 * o8 - o10 - 2 * o11 - 2 * o12 - 4 * o13 - 6 * o14
    found[:, 4:] = np.stack([o4, o5, o6, o7, o8, o9, o10, o11, o12, o13, o14], axis=1)
    return np.rint(found).astype(np.int64)


def _complete_four(a: Array) -> Array:
    """Complete graphs of four nodes at each node: triangles among its neighbours."""
    found = np.zeros(len(a))
    for v, row in enumerate(a):
        near = np.flatnonzero(row)
        if len(near) >= 3:
            inside = a[np.ix_(near, near)]
            found[v] = ((inside @ inside) * inside).sum() / 6
    return found


def orbit_histogram(adjacency: Array) -> Array:
    """Share of each orbit (15,) in the orbit counts of all nodes; zeros for a graph without edges."""
    total = orbit_counts(adjacency).sum(axis=0)
    return total / max(1, total.sum())
