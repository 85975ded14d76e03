"""The classifiers of GAug-O (by hand) and GAug-M (PyG): sizes, equations, and what differs between them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from zoo.gaug.adjacency import symmetrically_normalised, with_self_loops
from zoo.gaug.network import (
    BACKBONES,
    AugmentedClassifier,
    Backbone,
    DenseAttentionLayer,
    ModifiedClassifier,
    normalised_for,
)


def graph(nodes: int = 9) -> tuple[Tensor, Tensor]:
    """(features, symmetric edge_index without loops)."""
    g = torch.Generator().manual_seed(0)
    upper = (torch.rand(nodes, nodes, generator=g) < 0.3).triu(1)
    index = upper.nonzero().T
    return torch.randn(nodes, 6, generator=g), torch.cat([index, index.flip(0)], dim=1)


@pytest.mark.parametrize(("backbone", "parameters"), [
    ("gcn", 184_455),
    ("gsage", 1433 * 128 + 128 * 7),
    ("gat", 1433 * 16 + 2 * 8 * 16 + 16 + 128 * 7 + 2 * 7 + 7),  # W and bias shared by the eight heads
    ("jknet", 1433 * 128 + 2 * 128 * 128 + 384 * 7 + 7),
])  # fmt: skip
def test_cora_sizes(backbone: Backbone, parameters: int) -> None:
    network = AugmentedClassifier(backbone, 1433, 7)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_few_heads_keep_their_width() -> None:
    layer = AugmentedClassifier("gat", 50, 121, heads=2).layers[0]
    assert isinstance(layer, DenseAttentionLayer)
    assert layer.left.shape == (2, 16)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("training", [False, True])
def test_dense_and_sparse_graphs_give_the_same_scores(backbone: Backbone, training: bool) -> None:
    x, index = graph()
    network = AugmentedClassifier(backbone, 6, 3, dropout=0.0).train(training)
    listed = with_self_loops(index, len(x))
    sparse = network(x.to_sparse_coo(), normalised_for(backbone, listed))
    dense = network(x, normalised_for(backbone, listed.to_dense()))
    torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-6)


def test_attention_is_the_papers_equation() -> None:
    x, index = graph()
    a = with_self_loops(index, len(x)).to_dense()
    layer = DenseAttentionLayer(6, 4, heads=2, dropout=0.6).eval()
    torch.nn.init.normal_(layer.bias)
    out = layer(x, a)
    h = x @ layer.weight
    for head in range(2):
        for i in range(len(x)):
            neighbours = a[i].nonzero()[:, 0]
            sums = [layer.left[head] @ h[i] + layer.right[head] @ h[j] for j in neighbours]
            scores = functional.leaky_relu(torch.stack(sums), 0.2)
            expected = scores.softmax(0) @ h[neighbours] + layer.bias
            torch.testing.assert_close(out[i, 4 * head : 4 * head + 4], expected)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_gat_alone_gives_the_sampled_graph_no_gradient(backbone: Backbone) -> None:
    x, index = graph()
    a = with_self_loops(index, len(x)).to_dense().requires_grad_()
    AugmentedClassifier(backbone, 6, 3)(x, normalised_for(backbone, a)).sum().backward()
    assert (a.grad is None) == (backbone == "gat")


def test_dropout_stands_before_the_second_layer_only() -> None:
    x, index = graph()
    adjacency = normalised_for("gcn", with_self_loops(index, len(x)))
    network = AugmentedClassifier("gcn", 6, 3).train()
    first = [network.embed(x, adjacency)[0] for _ in range(2)]
    assert torch.equal(*first)
    scores = [network(x, adjacency) for _ in range(2)]
    assert not torch.equal(*scores)


def test_gcn_of_gaug_m_is_the_normalised_product_with_uniform_weights() -> None:
    x, index = graph()
    network = ModifiedClassifier("gcn", 6, 3, hidden=16).eval()
    a = symmetrically_normalised(with_self_loops(index, len(x)))
    p = dict(network.named_parameters())
    hidden = (a @ (x @ p["layers.0.lin.weight"].T) + p["layers.0.bias"]).relu()
    expected = a @ (hidden @ p["layers.1.lin.weight"].T) + p["layers.1.bias"]
    torch.testing.assert_close(network(x, index), expected, rtol=1e-4, atol=1e-5)
    for name, outputs in (("layers.0", 16), ("layers.1", 3)):
        bound = 1 / math.sqrt(outputs)
        weight, bias = p[f"{name}.lin.weight"], p[f"{name}.bias"]
        assert 0.7 * bound < weight.abs().max() <= bound
        assert 0 < bias.abs().max() <= bound


def test_graphsage_of_gaug_m_counts_the_node_twice() -> None:
    x, index = graph()
    network = ModifiedClassifier("gsage", 6, 3).eval()
    layer, loop = network.layers[0], torch.arange(9).expand(2, -1)
    out = layer(x, torch.cat([index, loop, loop], dim=1))
    a = torch.zeros(9, 9)
    a[index[0], index[1]] = 1
    mean = (a @ x + 2 * x) / (a.sum(dim=1, keepdim=True) + 2)
    torch.testing.assert_close(out, mean @ layer.lin_l.weight.T + layer.lin_l.bias)
    assert layer.lin_r is None if hasattr(layer, "lin_r") else True
    hidden, second = out.relu(), network.layers[1]
    mean = (a @ hidden + 2 * hidden) / (a.sum(dim=1, keepdim=True) + 2)
    torch.testing.assert_close(network(x, index), mean @ second.lin_l.weight.T + second.lin_l.bias)


def test_graphsage_of_gaug_o_counts_the_node_once_and_has_no_bias() -> None:
    x, index = graph()
    network = AugmentedClassifier("gsage", 6, 3).eval()
    a = with_self_loops(index, 9).to_dense()
    rows = a / a.sum(dim=1, keepdim=True)
    w0, w1 = network.parameters()
    torch.testing.assert_close(network(x, normalised_for("gsage", a)), rows @ (rows @ x @ w0).relu() @ w1)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_classifier_of_gaug_m_learns(backbone: Backbone) -> None:
    x, index = graph()
    y = torch.arange(9) % 3
    network = ModifiedClassifier(backbone, 6, 3, dropout=0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(x, index), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4
