"""GraphRNN: rows of an ordered graph, what a step sees, and sampling by the same probabilities."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from datamodules import GraphSet
from datamodules.graphs.graph_sets import bfs_order, neighbours, span
from zoo.graphs.generation.graphrnn import GraphRNN, decode, edges_out_of_band, encode, masked_bce, sequences
from zoo.metrics.graph_mmd import IsomorphismClasses

# nodes 0-1-2-3 in a row, and 0-2
KITE = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0]], dtype=torch.uint8)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_rows_hold_the_nearest_node_first() -> None:
    assert encode(KITE[None], 3)[0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert encode(KITE[None], 2)[0].tolist() == [[1, 0], [1, 1], [1, 0]]
    assert encode(KITE[None], 1)[0].tolist() == [[1], [1], [1]]
    assert edges_out_of_band(KITE[None], 1).tolist() == [1]
    assert edges_out_of_band(KITE[None], 2).tolist() == [0]


@pytest.mark.parametrize("name", ["grid_small", "ladder_small", "community_small", "grid"])
def test_decoded_rows_are_the_graph_itself(name: str) -> None:
    """Trap 13: with the bandwidth that the data ask for, decode(encode(A)) is isomorphic to A."""
    data = GraphSet(name, bfs_draws=300)  # type: ignore[arg-type]
    data.setup("fit")
    random = np.random.default_rng(5)
    for graph in data.graphs["train"][:12]:
        order = bfs_order(neighbours(graph), random)
        ordered = graph[np.ix_(order, order)]
        bandwidth = max(data.bandwidth, span(ordered))
        again = decode(encode(torch.from_numpy(ordered)[None], bandwidth))[0].numpy()
        assert (again == ordered).all()
        assert again in IsomorphismClasses([graph])
        lost = decode(encode(torch.from_numpy(ordered)[None], span(ordered) - 1))[0].numpy()
        assert lost.sum() < ordered.sum()


def test_decode_ignores_entries_before_the_first_node() -> None:
    rows = torch.ones(1, 2, 3)
    assert decode(rows)[0].tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]


def test_a_step_sees_the_row_before_and_predicts_the_next_one() -> None:
    adjacency = torch.zeros(2, 5, 5, dtype=torch.uint8)
    adjacency[0, :4, :4] = KITE
    adjacency[1, :2, :2] = torch.tensor([[0, 1], [1, 0]])
    inputs, targets, valid = sequences(adjacency, torch.tensor([4, 2]), 2)
    assert inputs[0].tolist() == [[1, 1], [1, 0], [1, 1], [1, 0], [0, 0]]
    assert targets[0].tolist() == [[1, 0], [1, 1], [1, 0], [0, 0], [0, 0]]
    # entry j exists from node j + 1 on; the stop counts, what comes after it does not
    assert valid[0].int().tolist() == [[1, 0], [1, 1], [1, 1], [1, 1], [0, 0]]
    assert valid[1].int().tolist() == [[1, 0], [1, 1], [0, 0], [0, 0], [0, 0]]
    assert targets[1, 1].tolist() == [0, 0]


@pytest.mark.parametrize("edge_hidden", [0, 5])
def test_padding_changes_nothing_and_the_batch_is_the_loop(edge_hidden: int) -> None:
    data = GraphSet("community_small", bfs_draws=0)
    data.setup("fit")
    batch = data.sets["train"].__getitems__([(0, i) for i in range(6)])
    network = GraphRNN(18, 12, 8, 2, edge_hidden, 4).double()

    def loss(adjacency: torch.Tensor, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, targets, valid = (x.double() for x in sequences(adjacency, nodes, 18))
        with torch.no_grad():
            return masked_bce_double(network(inputs, targets, valid.bool()), targets, valid.bool())

    total, count = loss(batch["adjacency"], batch["nodes"])
    assert int(count) == sum(min(t + 1, 18) for n in batch["nodes"].tolist() for t in range(n))
    wide = functional.pad(batch["adjacency"], (0, 5, 0, 5))
    assert float(loss(wide, batch["nodes"])[0]) == pytest.approx(float(total), rel=1e-12)
    graphs = zip(batch["adjacency"], batch["nodes"].tolist(), strict=True)
    alone = [loss(a[None, :n, :n], torch.tensor([n])) for a, n in graphs]
    assert float(sum(t for t, _ in alone)) == pytest.approx(float(total), rel=1e-12)


def masked_bce_double(logits: Any, targets: Any, valid: Any) -> tuple[torch.Tensor, torch.Tensor]:
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return losses[valid].sum(), valid.sum()


def test_masked_bce_of_known_numbers() -> None:
    logits = torch.tensor([[[0.0, 50.0], [2.0, -50.0]]])
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    valid = torch.tensor([[[True, False], [True, True]]])
    total, count = masked_bce(logits, targets, valid)
    # ln 2 + ln(1 + e^2) + 0
    assert (float(total), int(count)) == (pytest.approx(0.6931472 + 2.1269280, abs=1e-6), 3)


def test_the_release_has_these_parameter_counts() -> None:
    # node: Linear M -> 64, GRU 64 -> 128 in 4 layers; MLP 128 -> 64 -> M
    assert parameters(GraphRNN(40)) == 2_624 + 371_712 + 8_256 + 2_600
    # edge: 128 -> 64 -> 16; Linear 1 -> 8, GRU 8 -> 16 in 4 layers; 16 -> 8 -> 1
    assert parameters(GraphRNN(40, edge_hidden=16)) == 2_624 + 371_712 + 9_296 + 16 + 6_144 - 0 + 145


def test_biases_of_the_grus_start_at_a_quarter() -> None:
    gru = GraphRNN(5, 8, 8, 2).node.gru
    assert all(bool((p == 0.25).all()) for n, p in gru.named_parameters() if "bias" in n)


@pytest.mark.parametrize("edge_hidden", [0, 6])
def test_sampling_uses_the_probabilities_of_teacher_forcing(edge_hidden: int) -> None:
    torch.manual_seed(3)
    network = GraphRNN(4, 10, 8, 2, edge_hidden, 4)
    with torch.no_grad():  # spread the probabilities, so that the graphs differ
        for p in network.parameters():
            p.add_(torch.randn_like(p) * 0.4)
        if edge_hidden:  # and let them hang on the entry before
            network.edge.embed.weight.fill_(2)
            network.edge.gru.weight_ih_l0.mul_(4)
    uniform = torch.rand(40, 11, 4)
    rows, nodes = network.sample(uniform)
    assert len(set(nodes.tolist())) > 4
    adjacency = decode(rows)
    inputs, targets, valid = sequences(adjacency, nodes, 4)
    with torch.no_grad():
        probability = network(inputs, targets, valid).sigmoid()[:, :11]
    drawn = (uniform < probability) & valid[:, :11]
    for graph, n in enumerate(nodes.tolist()):
        assert torch.equal(drawn[graph, : n - 1].float(), rows[graph, : n - 1])
        assert rows[graph, : n - 1].any(dim=1).all()
        if n < 12:
            assert not drawn[graph, n - 1].any()  # the row that stops it
        assert not rows[graph, n - 1 :].any()


def test_a_graph_ends_at_its_first_row_of_zeros() -> None:
    network = GraphRNN(2, 4, 4, 1)
    with torch.no_grad():
        for p in network.output.parameters():
            p.zero_()  # every probability is 1/2
    uniform = torch.tensor([[0.1, 0.9], [0.9, 0.4], [0.9, 0.9], [0.1, 0.1]])
    rows, nodes = network.sample(uniform[None])
    assert (nodes.tolist(), rows[0].tolist()) == ([3], [[1, 0], [0, 1], [0, 0], [0, 0]])
    # the second entry of the first row is before the first node: it does not keep the graph alive
    _, nodes = network.sample(torch.tensor([[[0.9, 0.1], [0.1, 0.1]]]))
    assert nodes.tolist() == [1]
    # no row of zeros: as many nodes as there is room for
    _, nodes = network.sample(torch.zeros(1, 4, 2))
    assert nodes.tolist() == [5]


def test_graphs_are_connected_whatever_is_drawn() -> None:
    rows, nodes = GraphRNN(3, 6, 4, 1, 4, 4).sample(torch.rand(30, 9, 3))
    for graph, n in zip(decode(rows).numpy(), nodes.tolist(), strict=True):
        assert nx.is_connected(nx.from_numpy_array(graph[:n, :n]))
