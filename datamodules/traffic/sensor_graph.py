"""Weighted graphs of sensors: from distances, and cut to a neighbourhood.

``adjacency[i, j]`` is the weight of the edge i -> j throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def without_roads(distances: Array) -> Array:
    """A matrix of distances in which 0 off the diagonal, as tables write "no road", is infinite."""
    absent = (distances == 0) & ~np.eye(len(distances), dtype=bool)
    return np.where(absent | ~np.isfinite(distances), np.inf, distances)


def stgcn_weights(
    distances: Array, sigma2: float = 0.1, epsilon: float = 0.5, unit: float = 10_000.0
) -> Array:
    """Weights of STGCN (Yu et al., IJCAI 2018, eq. 10): w_ij = exp(-d^2 / sigma2) if >= epsilon, i != j.

    Args:
        distances: (N, N) in metres; infinite, NaN or (off the diagonal) 0 where there is no road.
        sigma2: in units squared.
        epsilon: smallest weight.
        unit: metres of the unit in which sigma2 is given, 10 km.

    Returns:
        float32 (N, N) with an empty diagonal.
    """
    distances = without_roads(distances) / unit
    weights = np.exp(-(distances**2) / sigma2)
    weights[weights < epsilon] = 0
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)


def dcrnn_weights(distances: Array, threshold: float = 0.1) -> Array:
    """Weights of DCRNN (Li et al., ICLR 2018): exp(-d^2 / sigma^2), those below ``threshold`` cut to 0.

    sigma is the population standard deviation of all finite distances, the zeros of the diagonal among them;
    the diagonal of ones stays.

    Args:
        distances: (N, N) along the roads, infinite or NaN where none was measured; a 0 is a measured one.
        threshold: smallest weight.
    """
    distances = np.where(np.isfinite(distances), distances, np.inf).astype(np.float64)
    sigma = distances[np.isfinite(distances)].std()
    if not sigma > 0:
        raise ValueError("the distances are all equal, which gives the kernel no width")
    weights = np.exp(-np.square(distances / sigma))
    weights[weights < threshold] = 0
    return weights.astype(np.float32)


def neighbourhood(adjacency: Array, nodes: int) -> Array:
    """Indices of ``nodes`` sensors that lie together, in rising order.

    They are found from the sensor with most neighbours (the first of equals), breadth first over the edges in
    both directions, strong ones first. Sensors that no path reaches follow in their order.

    Raises:
        ValueError: for a number that is not in 1..N.
    """
    total = len(adjacency)
    if not 1 <= nodes <= total:
        raise ValueError(f"data.init_args.nodes must lie in 1..{total}, the number of sensors, got {nodes}")
    both = np.maximum(adjacency, adjacency.T).astype(np.float64)
    np.fill_diagonal(both, 0)
    queue = [int((both > 0).sum(axis=1).argmax())]
    seen = set(queue)
    for node in queue:  # grows while it is gone through
        for other in np.argsort(-both[node], kind="stable").tolist():
            if both[node, other] > 0 and other not in seen:
                seen.add(other)
                queue.append(other)
    queue += [i for i in range(total) if i not in seen]
    return np.sort(np.array(queue[:nodes]))
