"""GraphVAE: losses with known values, the order of nodes, matching; and the random graphs as baselines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from datamodules.graphs.graph_sets import grid
from zoo.graphs.generation.graphvae import (
    GraphVAE,
    kl_divergence,
    most_likely,
    pooling_match,
    reconstruction_loss,
    reordered,
    with_nodes,
)
from zoo.graphs.generation.random_graphs import RandomGraphs
from zoo.metrics.graph_mmd import is_connected

EDGE = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)


def test_the_target_has_nodes_on_its_diagonal_and_padding_elsewhere() -> None:
    assert with_nodes(EDGE, torch.tensor([2]), 3)[0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_reconstruction_of_known_numbers() -> None:
    logits, target = torch.zeros(1, 3, 3), with_nodes(EDGE, torch.tensor([2]), 3)
    assert float(reconstruction_loss(logits, target)) == pytest.approx(2 * math.log(2), abs=1e-6)
    # says that an absent node is there: ln(1 + e^2) in the place of ln 2, a third of it
    logits[0, 2, 2] = 2.0
    expected = 2 * math.log(2) + (math.log(1 + math.exp(2)) - math.log(2)) / 3
    assert float(reconstruction_loss(logits, target)) == pytest.approx(expected, abs=1e-6)
    logits[0, 0, 1] = logits[0, 1, 0] = 2.0  # right about the edge: two of six ordered pairs
    expected += (math.log(1 + math.exp(-2)) - math.log(2)) / 3
    assert float(reconstruction_loss(logits, target)) == pytest.approx(expected, abs=1e-6)


def test_kl_of_known_numbers() -> None:
    mean = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    log_variance = torch.tensor([[0.0, 0.0], [0.0, math.log(4)]])
    # (mu^2 + s^2 - 1 - ln s^2) / 2 summed
    expected = [0, 0.5 + (4 + 4 - 1 - math.log(4)) / 2]
    assert kl_divergence(mean, log_variance).tolist() == pytest.approx(expected)


def test_the_code_depends_on_neither_order_nor_padding() -> None:
    network, a = GraphVAE(16), torch.from_numpy(grid(3, 4))
    order = torch.from_numpy(np.random.default_rng(0).permutation(12))
    wide = torch.nn.functional.pad(a, (0, 4, 0, 4))

    def code(adjacency: torch.Tensor) -> torch.Tensor:
        return torch.cat(network.encode(adjacency[None], torch.tensor([12])), dim=1)

    assert torch.allclose(code(a), code(a[order][:, order]), atol=1e-5)
    assert torch.allclose(code(a), code(wide), atol=1e-5)
    assert not torch.allclose(code(a), code(torch.from_numpy(grid(2, 6))), atol=1e-3)


def test_logits_are_symmetric() -> None:
    logits = GraphVAE(6)(torch.randn(3, 40))
    assert logits.shape == (3, 6, 6)
    assert torch.equal(logits, logits.mT)


def test_most_likely_graph_drops_absent_nodes_and_loops() -> None:
    logits = torch.full((1, 4, 4), -1.0)
    logits[0, [1, 3, 2], [1, 3, 2]] = torch.tensor([1.0, 1.0, -1.0])
    logits[0, 1, 3] = logits[0, 3, 1] = 0.5
    logits[0, 1, 2] = logits[0, 2, 1] = 5.0  # an edge to a node that is not there
    adjacency, nodes = most_likely(logits)
    assert nodes.tolist() == [2]
    assert adjacency[0].int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert most_likely(torch.full((1, 3, 3), -1.0))[1].tolist() == [1]


def test_matching_is_max_pooling_over_the_whole_similarity_tensor() -> None:
    """Against the definition, with s_ia,jb written out: O(N^4)."""
    torch.manual_seed(1)
    n, iterations = 6, 7
    target = with_nodes(torch.from_numpy(grid(1, 5))[None], torch.tensor([5]), n)
    logits = torch.randn(1, n, n)
    logits = logits + logits.mT
    p, t = logits[0].sigmoid(), target[0]
    similarity = torch.zeros(n, n, n, n)
    for i, a, j, b in np.ndindex(n, n, n, n):
        if i == j and a == b:
            similarity[i, a, j, b] = t[i, i] * p[a, a]
        elif i != j and a != b:
            similarity[i, a, j, b] = t[i, j] * t[i, i] * t[j, j] * p[a, b] * p[a, a] * p[b, b]
    x = torch.full((n, n), 1 / n)
    for _ in range(iterations):
        pooled = sum((similarity[:, :, j] * x[j]).amax(dim=2) for j in range(n))
        # for j = i the maximum over b is the one at b = a: s_ia,ia x_ia
        x = pooled
        x = x / x.norm()
    best = linear_sum_assignment(x.numpy(), maximize=True)[1]
    found = pooling_match(target, logits, iterations)[0]
    assert sorted(found.tolist()) == list(range(n))
    # by score: nodes that are alike may change places
    assert float(x[range(n), found].sum()) == pytest.approx(float(x[range(n), best].sum()), abs=1e-5)
    assert float(x.diagonal().sum()) < float(x[range(n), best].sum()) - 0.01


def test_matching_lowers_the_loss_of_unsure_decoders() -> None:
    torch.manual_seed(0)
    target = with_nodes(torch.from_numpy(grid(2, 4))[None].expand(40, 8, 8), torch.full((40,), 8), 10)
    logits = torch.randn(40, 10, 10)
    logits = logits + logits.mT
    matched = reconstruction_loss(reordered(logits, pooling_match(target, logits)), target)
    assert float((matched - reconstruction_loss(logits, target)).mean()) < -0.1


@pytest.mark.parametrize(("kind", "edges"), [("er", 30.0), ("ba", 32.0)])
def test_random_graphs_have_the_sizes_and_densities_of_the_set(kind: str, edges: float) -> None:
    network = RandomGraphs(kind, 20)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has not been fitted"):
        network.sample([0])
    # a quarter 10 nodes and 9 edges, three quarters 18 nodes and 28 or 32 edges
    network.fit(torch.tensor([10, 18, 18, 18]), torch.tensor([9, 28, 32, 30]))
    adjacency, nodes = network.sample(list(range(800)))
    assert nodes.unique().tolist() == [10, 18]
    assert float((nodes == 10).float().mean()) == pytest.approx(0.25, abs=0.04)
    mean = float(adjacency[nodes == 18].sum() / 2 / (nodes == 18).sum())
    # Barabasi-Albert has m (n - m) edges: 2 x 16 is the nearest to 30
    assert mean == pytest.approx(edges, abs=0.5 if kind == "er" else 0)
    assert torch.equal(adjacency, adjacency.mT)
    assert not adjacency.diagonal(dim1=1, dim2=2).any()
    if kind == "ba":
        assert all(is_connected(a[:n, :n].numpy()) for a, n in zip(adjacency[:50], nodes[:50], strict=True))
    again, _ = network.sample([5, 3])
    assert torch.equal(again, adjacency[[5, 3]])
