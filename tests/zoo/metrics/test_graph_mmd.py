"""MMD^2, histograms, orbit counts and isomorphism, against numbers worked out by hand or by brute force."""

from __future__ import annotations

import itertools
import math

import networkx as nx
import numpy as np
import pytest
import torch

from zoo.metrics.graph_mmd import (
    GraphMMD,
    GraphQuality,
    IsomorphismClasses,
    colours,
    is_connected,
    is_grid,
    mmd_squared,
    wasserstein,
)
from zoo.metrics.graph_statistics import (
    clustering,
    clustering_histogram,
    degree_histogram,
    laplacian_spectrum,
    orbit_counts,
    orbit_histogram,
    spectrum_histogram,
)


def adjacency(graph: nx.Graph) -> np.ndarray:
    return nx.to_numpy_array(graph, dtype=np.uint8)


def random_adjacency(nodes: int, density: float, seed: int) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).random((nodes, nodes)) < density, 1)
    return (upper | upper.T).astype(np.uint8)


def batch(*graphs: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    size = max(map(len, graphs))
    padded = torch.zeros(len(graphs), size, size, dtype=torch.uint8)
    for row, graph in zip(padded, graphs, strict=True):
        row[: len(graph), : len(graph)] = torch.from_numpy(graph)
    return padded, torch.tensor([len(g) for g in graphs])


def test_w1_is_the_sum_of_cdf_differences_in_bins() -> None:
    rows = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0.5, 0, 0, 0.5]], dtype=torch.float64)
    expected = [[0, 3, 1.5], [3, 0, 1.5], [1.5, 1.5, 0]]
    assert wasserstein(rows, rows).tolist() == pytest.approx(np.array(expected))


def test_mmd_of_two_single_histograms() -> None:
    # W1 = 1: 1 + 1 - 2 exp(-1/2)
    assert float(mmd_squared([np.array([1.0, 0])], [np.array([0, 1.0])])) == pytest.approx(
        0.7869386805747332, abs=1e-15
    )
    # sigma 2: exp(-1/8)
    value = float(mmd_squared([np.array([1.0, 0])], [np.array([0, 1.0])], sigma=2))
    assert value == pytest.approx(2 - 2 * math.exp(-1 / 8), abs=1e-15)


def test_mmd_is_biased_and_pads_the_shorter_histogram() -> None:
    a = [np.array([1.0]), np.array([0, 1.0])]
    b = [np.array([0, 0, 1.0])]
    # mean k(a, a') = (2 + 2 e^-1/2) / 4 with its diagonal, k(b, b) = 1, mean k(a, b) = (e^-2 + e^-1/2) / 2
    expected = (1 + math.exp(-0.5)) / 2 + 1 - (math.exp(-2) + math.exp(-0.5))
    assert float(mmd_squared(a, b)) == pytest.approx(expected, abs=1e-15)
    assert expected == pytest.approx(1.0613993869070706, abs=1e-12)


def test_mmd_of_a_set_with_itself_is_zero_and_needs_both_sides() -> None:
    a = [np.array([0.2, 0.8]), np.array([0.5, 0.25, 0.25])]
    assert float(mmd_squared(a, a)) == pytest.approx(0, abs=1e-15)
    assert float(mmd_squared(a, a + a)) == pytest.approx(0, abs=1e-15)
    with pytest.raises(ValueError, match="graphs on both sides, got 2 and 0"):
        mmd_squared(a, [])


def test_metric_of_hand_made_sets() -> None:
    metric = GraphMMD(max_nodes=5)
    triangle, path, star = (adjacency(g) for g in (nx.cycle_graph(3), nx.path_graph(3), nx.star_graph(3)))
    metric.update(*batch(triangle), real=True)
    metric.update(*batch(path, star), real=False)
    found = {k: float(v) for k, v in metric.compute().items()}
    # degree shares: triangle (0, 0, 1); path (0, 2/3, 1/3); star (0, 3/4, 0, 1/4)
    k = lambda w: math.exp(-w * w / 2)  # noqa: E731
    path_star = 1 / 12 + 1 / 4
    degree = 1 + (2 + 2 * k(path_star)) / 4 - (k(2 / 3) + k(3 / 4 + 1 / 4))
    assert found["degree"] == pytest.approx(degree, abs=1e-12)
    # clustering: 1 against 0, nine bins of ten apart
    assert found["clustering"] == pytest.approx(2 - 2 * k(9), abs=1e-12)
    metric.reset()
    metric.update(*batch(triangle, path), real=True)
    metric.update(*batch(path, triangle), real=False)
    assert all(abs(float(v)) < 1e-12 for v in metric.compute().values())


def test_metric_adds_up_over_batches_and_ignores_padding() -> None:
    graphs = [random_adjacency(n, 0.4, n) for n in (5, 6, 7, 8)]
    whole, parts = GraphMMD(max_nodes=9), GraphMMD(max_nodes=9)
    whole.update(*batch(*graphs[:2]), real=True)
    whole.update(*batch(*graphs[2:]), real=False)
    for i, graph in enumerate(graphs):
        wide = torch.zeros(1, 9, 9, dtype=torch.uint8)
        wide[0, : len(graph), : len(graph)] = torch.from_numpy(graph)
        parts.update(wide, torch.tensor([len(graph)]), real=i < 2)
    for name, value in whole.compute().items():
        assert float(parts.compute()[name]) == pytest.approx(float(value), abs=1e-12)


def test_degree_histogram() -> None:
    assert degree_histogram(adjacency(nx.star_graph(3))).tolist() == [0, 0.75, 0, 0.25]
    assert degree_histogram(np.zeros((1, 1), dtype=np.uint8)).tolist() == [1]


@pytest.mark.parametrize("seed", range(5))
def test_clustering_is_networkxs(seed: int) -> None:
    a = random_adjacency(12, 0.4, seed)
    expected = list(nx.clustering(nx.from_numpy_array(a)).values())
    assert clustering(a) == pytest.approx(expected)


def test_clustering_bins_are_exact_at_their_edges() -> None:
    # a wheel of five: rim nodes have 2 of 3 pairs joined; the hub 5 of 10, which opens the sixth bin
    wheel = adjacency(nx.wheel_graph(6))
    assert clustering_histogram(wheel, 10).tolist() == pytest.approx([0, 0, 0, 0, 0, 1 / 6, 5 / 6, 0, 0, 0])
    assert clustering_histogram(adjacency(nx.complete_graph(4)), 10)[9] == 1  # 1 is in the last bin


def test_spectrum_is_that_of_the_normalised_laplacian() -> None:
    assert laplacian_spectrum(adjacency(nx.complete_graph(4))) == pytest.approx([0, 4 / 3, 4 / 3, 4 / 3])
    assert laplacian_spectrum(adjacency(nx.complete_bipartite_graph(2, 2))) == pytest.approx([0, 1, 1, 2])
    a = random_adjacency(9, 0.3, 1)
    a[0] = a[:, 0] = 0  # a node without edges has eigenvalue 0
    assert laplacian_spectrum(a) == pytest.approx(nx.normalized_laplacian_spectrum(nx.from_numpy_array(a)))
    square = spectrum_histogram(adjacency(nx.cycle_graph(4)), 20)
    assert {i: v for i, v in enumerate(square) if v} == {0: 0.25, 10: 0.5, 19: 0.25}


# degrees of an induced connected subgraph, sorted -> {degree: orbit}; on at most four nodes they name it
_ORBIT = {
    (1, 1): {1: 0}, (1, 1, 2): {1: 1, 2: 2}, (2, 2, 2): {2: 3}, (1, 1, 2, 2): {1: 4, 2: 5},
    (1, 1, 1, 3): {1: 6, 3: 7}, (2, 2, 2, 2): {2: 8}, (1, 2, 2, 3): {1: 9, 2: 10, 3: 11},
    (2, 2, 3, 3): {2: 12, 3: 13}, (3, 3, 3, 3): {3: 14},
}  # fmt: skip


def brute_force_orbits(a: np.ndarray) -> np.ndarray:
    found = np.zeros((len(a), 15), dtype=np.int64)
    for size in (2, 3, 4):
        for chosen in itertools.combinations(range(len(a)), size):
            inside = a[np.ix_(chosen, chosen)]
            if not is_connected(inside):
                continue
            degrees = inside.sum(axis=1).tolist()
            for node, degree in zip(chosen, degrees, strict=True):
                found[node, _ORBIT[tuple(sorted(degrees))][degree]] += 1
    return found


@pytest.mark.parametrize("seed", range(24))
def test_orbit_counts_are_those_of_brute_force(seed: int) -> None:
    a = random_adjacency(1 + seed % 10, (seed % 6 + 1) / 6.5, seed)
    assert orbit_counts(a).tolist() == brute_force_orbits(a).tolist()


def test_orbits_of_named_graphs() -> None:
    complete = orbit_counts(adjacency(nx.complete_graph(5)))
    assert complete[0].tolist() == [4, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]
    square = orbit_counts(adjacency(nx.cycle_graph(4)))
    assert square[0].tolist() == [2, 2, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert orbit_histogram(adjacency(nx.cycle_graph(4))).tolist() == pytest.approx(
        [2 / 6, 2 / 6, 1 / 6, 0, 0, 0, 0, 0, 1 / 6, 0, 0, 0, 0, 0, 0]
    )
    assert orbit_histogram(np.zeros((3, 3), dtype=np.uint8)).sum() == 0


def test_squares_of_a_large_grid() -> None:
    counts = orbit_counts(adjacency(nx.grid_2d_graph(17, 19)))
    assert (counts[:, 8].sum(), counts[:, 0].sum()) == (4 * 16 * 18, 2 * (2 * 17 * 19 - 17 - 19))
    assert counts[:, [3, 9, 10, 11, 12, 13, 14]].sum() == 0


def test_colours_do_not_depend_on_the_order_of_the_nodes() -> None:
    a = random_adjacency(14, 0.3, 0)
    order = np.random.default_rng(1).permutation(14)
    found = colours(a)
    assert [found[v] for v in order] == colours(a[np.ix_(order, order)])


def test_graphs_with_the_same_colours_are_told_apart() -> None:
    # both are cubic without triangles: Weisfeiler-Lehman colours cannot see the difference
    prism, mobius = nx.circular_ladder_graph(4), nx.circulant_graph(8, [1, 4])
    assert sorted(colours(adjacency(prism))) == sorted(colours(adjacency(mobius)))
    known = IsomorphismClasses([adjacency(prism)])
    assert adjacency(mobius) not in known
    order = np.random.default_rng(0).permutation(8)
    assert adjacency(prism)[np.ix_(order, order)] in known


def test_validity_uniqueness_and_novelty() -> None:
    quality = GraphQuality(max_nodes=9, rule="grid")
    ladder, square, path = (
        adjacency(g) for g in (nx.ladder_graph(3), nx.grid_2d_graph(3, 3), nx.path_graph(4))
    )
    quality.set_reference([square])
    order = np.random.default_rng(0).permutation(9)
    with pytest.raises(ValueError, match="got none"):
        GraphQuality(max_nodes=9).compute()
    quality.update(*batch(ladder, square))
    quality.update(*batch(square[np.ix_(order, order)], path))
    found = {k: float(v) for k, v in quality.compute().items()}
    assert found == {"validity": 0.75, "uniqueness": 0.75, "novelty": 0.5, "nodes": 7.0, "capped": 0.5}
    again = quality.graphs()
    assert [len(g) for g in again] == [6, 9, 9, 4]
    assert (again[1] == square).all()


def test_is_grid() -> None:
    a = adjacency(nx.grid_2d_graph(4, 5))
    order = np.random.default_rng(0).permutation(20)
    assert is_grid(a[np.ix_(order, order)])
    broken = a.copy()
    i, j = np.argwhere(np.triu(a))[3]
    broken[i, j] = broken[j, i] = 0
    assert not is_grid(broken)
    # as many nodes, edges and degrees as a ladder of three, but a twisted one
    assert not is_grid(adjacency(nx.path_graph(6)))
