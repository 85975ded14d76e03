"""Graph auto-encoders: PyG's losses to the last digit, sampling, the encoder, the neighbour scores."""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import ARGA, ARGVA, GAE, VGAE, GCNConv
from torch_geometric.nn.models import autoencoder as theirs

from zoo.graphs.link.neighbours import CalibratedHeuristic, neighbour_scores
from zoo.graphs.link.network import (
    LinkAutoencoder,
    dense_reconstruction_loss,
    discriminator_loss,
    draw_code,
    kl_loss,
    pair_codes,
    pairs_of,
    reconstruction_loss,
    regularisation_loss,
    sample_non_edges,
)


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def some_pairs(count: int, nodes: int, seed: int = 0) -> Tensor:
    return torch.randint(nodes, (2, count), generator=torch.Generator().manual_seed(seed))


def decode(z: Tensor, pairs: Tensor) -> Tensor:
    return (z[pairs[0]] * z[pairs[1]]).sum(dim=1)


@pytest.mark.parametrize("scale", [0.3, 3.0])  # 3: logits of 100, probabilities of exactly 0 and 1
def test_reconstruction_equals_pygs_in_float64(scale: float) -> None:
    z, edges, others = numbers(20, 8, scale=scale), some_pairs(40, 20, 1), some_pairs(40, 20, 2)
    expected = GAE(nn.Identity()).recon_loss(z, edges, others)
    assert abs(reconstruction_loss(decode(z, edges), decode(z, others)) - expected) <= 1e-15
    by_hand = -np.log(1 / (1 + np.exp(-decode(z, edges).numpy())) + 1e-15).mean()
    by_hand -= np.log(1 - 1 / (1 + np.exp(-decode(z, others).numpy())) + 1e-15).mean()
    assert float(expected) == pytest.approx(by_hand, rel=1e-12)


def test_a_hopeless_pair_costs_34_point_5() -> None:
    """log(1e-15): the constant is inside the logarithm, where it bounds the loss."""
    z = torch.zeros(1, dtype=torch.double)
    assert float(reconstruction_loss(z - 800, z)) == pytest.approx(-math.log(1e-15) + math.log(2), abs=1e-9)
    assert -math.log(1e-15) == pytest.approx(34.54, abs=0.01)


def test_kl_is_a_node_mean_and_equals_pygs() -> None:
    mean, log_sigma = numbers(12, 5), numbers(12, 5, seed=1)
    assert abs(kl_loss(mean, log_sigma) - VGAE(nn.Identity()).kl_loss(mean, log_sigma)) <= 1e-15
    assert float(kl_loss(torch.zeros(7, 3), torch.zeros(7, 3))) == 0
    # mu 2, sigma e: 1/2 (4 + e^2 - 1 - 2) per dimension, summed over dimensions, not over nodes
    value = 0.5 * (4 + math.e**2 - 1 - 2)
    for nodes in (1, 10):
        found = kl_loss(torch.full((nodes, 3), 2.0), torch.ones(nodes, 3))
        assert float(found) == pytest.approx(3 * value, rel=1e-6)


@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_adversarial_losses_equal_pygs_in_float64(scale: float) -> None:
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1)).double()
    model = ARGA(nn.Identity(), discriminator)
    z, noise = numbers(30, 5, scale=scale).requires_grad_(), numbers(30, 5, seed=1)
    with mock.patch.object(theirs.torch, "randn_like", return_value=noise):
        expected = model.discriminator_loss(z)
    found = discriminator_loss(discriminator(noise), discriminator(z.detach()))
    assert abs(found - expected) <= 1e-15
    assert abs(regularisation_loss(discriminator(z)) - model.reg_loss(z)) <= 1e-15


def test_dense_loss_is_kipf_and_wellings() -> None:
    z, edges = numbers(9, 4), torch.tensor([[0, 0, 2, 4], [1, 5, 3, 8]])
    adjacency = np.zeros((9, 9))
    for a, b in edges.T.tolist():
        adjacency[a, b] = adjacency[b, a] = 1
    total = adjacency.sum()
    weight, norm = (81 - total) / total, 81 / ((81 - total) * 2)
    logits, labels = (z @ z.T).numpy(), adjacency + np.eye(9)
    # tf.nn.weighted_cross_entropy_with_logits
    entropy = weight * labels * np.log1p(np.exp(-logits)) + (1 - labels) * np.log1p(np.exp(logits))
    assert float(dense_reconstruction_loss(z, edges)) == pytest.approx(norm * entropy.mean(), rel=1e-12)


def test_pair_codes_count_the_upper_triangle_and_go_back() -> None:
    pairs = torch.triu_indices(11, 11, 1)
    assert pair_codes(pairs, 11).tolist() == list(range(55))
    assert torch.equal(pairs_of(torch.arange(55), 11), pairs)
    big = torch.tensor([[0, 99_998, 99_997, 5], [1, 99_999, 99_999, 70_000]])
    assert torch.equal(pairs_of(pair_codes(big, 100_000), 100_000), big)


def test_sampled_pairs_are_never_edges_and_uniform_over_the_rest() -> None:
    edges = torch.triu_indices(6, 6, 1)[:, [0, 4, 5, 14]]
    drawn = sample_non_edges(edges, 6, 11_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(pair_codes(drawn, 6), minlength=15)
    assert bool((drawn[0] < drawn[1]).all())
    assert counts[pair_codes(edges, 6)].tolist() == [0, 0, 0, 0]
    rest = counts[counts > 0]
    assert len(rest) == 11
    assert bool(((rest - 1000).abs() < 130).all())  # standard deviation 30


def test_a_complete_graph_is_refused() -> None:
    with pytest.raises(ValueError, match="graph of 5 nodes is complete"):
        sample_non_edges(torch.triu_indices(5, 5, 1), 5, 3, torch.Generator())


class Example(nn.Module):
    """The variational encoder of PyG's examples/autoencoder.py."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = GCNConv(features, 2 * outputs)
        self.conv_mu = GCNConv(2 * outputs, outputs)
        self.conv_logstd = GCNConv(2 * outputs, outputs)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(x, edge_index).relu()
        return self.conv_mu(x, edge_index), self.conv_logstd(x, edge_index)


def load_example(network: LinkAutoencoder, example: Example) -> None:
    """PyG's three layers into ours: mu and log sigma are the halves of the last."""
    first, last = network.encoder.convs
    first.load_state_dict(example.conv1.state_dict())
    both = [m.state_dict() for m in (example.conv_mu, example.conv_logstd)]
    last.load_state_dict({k: torch.cat([s[k] for s in both]) for k in both[0]})


def test_one_last_layer_of_two_halves_is_pygs_encoder() -> None:
    torch.manual_seed(0)
    example = Example(12, 4).double()
    network = LinkAutoencoder(12, hidden=8, embedding=4, variational=True).double()
    load_example(network, example)
    x, pairs = numbers(15, 12), some_pairs(30, 15)
    edges = torch.cat([pairs, pairs.flip(0)], dim=1)
    graph = network.encoder.prepare(edges, 15, torch.ones(60, dtype=torch.double))
    for ours, pygs in zip(network.encode(x, graph), example(x, edges), strict=True):
        torch.testing.assert_close(ours, pygs, rtol=0, atol=1e-14)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in example.parameters())


def test_log_sigma_is_clamped_above_at_10_and_nowhere_else() -> None:
    network = LinkAutoencoder(3, hidden=4, embedding=2, variational=True)
    last = network.encoder.convs[-1]
    with torch.no_grad():
        last.lin.weight.zero_()
        last.bias.copy_(torch.tensor([50.0, -60.0, 70.0, -80.0]))
    edges = torch.tensor([[0, 1], [1, 0]])
    mean, log_sigma = network.encode(torch.ones(2, 3), edges)
    assert mean[0].tolist() == [50, -60]
    assert log_sigma is not None
    assert log_sigma[0].tolist() == [10, -80]


def test_a_code_without_sigma_is_its_mean_and_noise_follows_the_generator() -> None:
    mean, log_sigma = numbers(6, 3), numbers(6, 3, seed=1)
    assert draw_code(mean, None, torch.Generator()) is mean
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    found = draw_code(mean, log_sigma, torch.Generator().manual_seed(5))
    assert torch.equal(found, mean + noise * log_sigma.exp())


def test_the_mlp_decoder_is_symmetric() -> None:
    network = LinkAutoencoder(3, hidden=4, embedding=2, decoder="mlp")
    z, pairs = torch.randn(5, 2), torch.tensor([[0, 1, 4], [2, 3, 1]])
    assert torch.equal(network.decode(z, pairs), network.decode(z, pairs.flip(0)))


def test_pyg_and_zoo_agree_along_a_training_in_turns() -> None:
    """Ten steps of PyG's ARGVA example: discriminator steps on the detached code, then the encoder's."""
    torch.manual_seed(0)
    example = Example(12, 4).double()
    network = LinkAutoencoder(12, hidden=8, embedding=4, variational=True, discriminator=[16, 6]).double()
    load_example(network, example)
    assert network.discriminator is not None
    other: Any = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 1))
    model = ARGVA(example, other.double())
    load_example(network, example)  # ARGVA re-initialises
    network.discriminator.load_state_dict(other.state_dict())
    x, edges, pairs = numbers(15, 12), some_pairs(30, 15), some_pairs(30, 15, 3)
    both = torch.cat([edges, edges.flip(0)], dim=1)
    graph = network.encoder.prepare(both, 15, torch.ones(60, dtype=torch.double))
    rates = ((network.encoder, 0.01), (network.discriminator, 0.001))
    ours = [torch.optim.Adam(part.parameters(), lr=rate) for part, rate in rates]
    pygs = [torch.optim.Adam(example.parameters(), lr=0.01), torch.optim.Adam(other.parameters(), lr=0.001)]
    for step in range(10):
        noise = [numbers(15, 4, seed=100 * step + i) for i in range(3)]
        with mock.patch.object(theirs.torch, "randn_like", side_effect=noise):
            z = model.encode(x, both)
            for _ in range(2):
                pygs[1].zero_grad()
                model.discriminator_loss(z).backward()
                pygs[1].step()
            pygs[0].zero_grad()
            loss = model.recon_loss(z, edges, pairs) + model.reg_loss(z) + model.kl_loss() / 15
            loss.backward()
            pygs[0].step()
        mean, log_sigma = network.encode(x, graph)
        assert log_sigma is not None
        code = mean + noise[0] * log_sigma.exp()
        for draw in noise[1:]:
            ours[1].zero_grad()
            disc = network.discriminator
            discriminator_loss(disc(draw), disc(code.detach())).backward()
            ours[1].step()
        ours[0].zero_grad()
        found = reconstruction_loss(decode(code, edges), decode(code, pairs))
        found = found + regularisation_loss(network.discriminator(code)) + kl_loss(mean, log_sigma) / 15
        found.backward()
        ours[0].step()
        assert float(found) == pytest.approx(float(loss), abs=1e-12)


@pytest.mark.parametrize("steps", [1 << 22, 7])
def test_neighbour_scores_are_networkx(steps: int) -> None:
    graph = networkx.gnp_random_graph(40, 0.15, seed=1)
    graph.remove_edges_from(list(graph.edges(3)))  # a node without neighbours
    edges = torch.tensor(list(graph.edges)).T
    both = torch.cat([edges, edges.flip(0)], dim=1)
    pairs = torch.triu_indices(40, 40, 1)
    asked = [tuple(p) for p in pairs.T.tolist()]
    expected = {
        "adamic_adar": [s for *_, s in networkx.adamic_adar_index(graph, asked)],
        "jaccard": [s for *_, s in networkx.jaccard_coefficient(graph, asked)],
        "common_neighbours": [len(list(networkx.common_neighbors(graph, a, b))) for a, b in asked],
    }
    with mock.patch("zoo.graphs.link.neighbours._STEPS", steps):
        for kind, values in expected.items():
            found = neighbour_scores(both, pairs, 40, kind)  # type: ignore[arg-type]
            assert found.tolist() == pytest.approx(values, abs=1e-12)
            assert max(values) > 0


def test_calibration_leaves_the_ranking_alone() -> None:
    model = CalibratedHeuristic("features")
    x, edges, pairs = torch.rand(9, 4), some_pairs(6, 9), some_pairs(20, 9, 1)
    raw = model.scores(x, edges, pairs)
    with torch.no_grad():
        model.log_scale.fill_(-5)
        model.bias.fill_(-3)
    order = model(x, edges, edges, pairs).argsort()
    assert torch.equal(order, raw.argsort())
    assert raw.tolist() == pytest.approx([float(x[a] @ x[b]) for a, b in pairs.T.tolist()])


def test_losses_without_edges_are_finite():
    none, z = torch.empty(0), torch.randn(4, 3, requires_grad=True)
    found = [
        reconstruction_loss(none, none),
        dense_reconstruction_loss(z, torch.empty(2, 0, dtype=torch.long)),
    ]
    found[1].backward()
    assert all(t.isfinite().all() for t in (*found, z.grad))
