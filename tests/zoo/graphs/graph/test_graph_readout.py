"""Readouts and graph-level layers: invariance, equations with known values, PyG's as the reference."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GINConv, NNConv, SortAggregation
from torch_geometric.nn import dense_diff_pool as pyg_diff_pool
from torch_geometric.utils import to_dense_adj, to_undirected

from zoo.graphs.graph.network import (
    EDGE_ARCHS,
    GRAPH_ARCHS,
    EdgeConditionedConv,
    GraphEncoder,
    GraphNetwork,
    RandomWalkConv,
)
from zoo.graphs.graph.readout import (
    READOUTS,
    SortPool,
    assignment_entropy,
    dense_diff_pool,
    flat_readout,
    pool_nodes,
    sort_pool,
    sparse_diff_pool,
)
from zoo.graphs.node.network import OPTIONS, NodeNetwork, Norm

Case = tuple[str, str]
CASES = list(itertools.product(GRAPH_ARCHS, READOUTS))


def graph(nodes: int, density: float, seed: int, features: int = 3) -> Data:
    g = torch.Generator().manual_seed(seed)
    upper = (torch.rand(nodes, nodes, generator=g) < density).triu(1).nonzero().T
    edges = torch.cat([upper, upper.flip(0)], dim=1)
    attr = torch.randn(upper.shape[1], 2, generator=g).repeat(2, 1)
    return Data(x=torch.randn(nodes, features, generator=g), edge_index=edges, edge_attr=attr)


def shuffled(given: Data, seed: int) -> Data:
    """The same graph with its nodes in another order, and its edges too."""
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(given.num_nodes, generator=g)
    edges = torch.randperm(given.num_edges, generator=g)
    index = order.argsort()[given.edge_index][:, edges]
    return Data(x=given.x[order], edge_index=index, edge_attr=given.edge_attr[edges])


def network(arch: str, readout: str, norm: str | None = None, **changes: Any) -> GraphNetwork:
    torch.manual_seed(1)
    own = {"cheb": {"lambda_max": "graph"}, "gat": {"heads": 2}, "gatv2": {"heads": 2}}
    options: dict[str, Any] = own.get(arch, {}) | ({} if norm is None else {"norm": norm})
    settings: dict[str, Any] = {
        "layers": "cat", "head": 6, "edge_dim": 2 if arch in EDGE_ARCHS else 0, "pool_nodes": 10,
        "pool_levels": 2, "options": options, **changes,
    }  # fmt: skip
    return GraphNetwork(arch, 3, 4, 8, 2, readout, **settings).eval()  # type: ignore[arg-type]


def embed(net: GraphNetwork, graphs: list[Data]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    batch = Batch.from_data_list(graphs)
    attr = batch.edge_attr if net.encoder.uses_edge_attr else None
    with torch.no_grad():
        return net.embed(batch.x, batch.edge_index, batch.batch, batch.num_graphs, attr)


GRAPHS = [graph(n, p, s) for s, (n, p) in enumerate([(12, 0.3), (17, 0.2), (9, 0.4), (30, 0.1)])]


@pytest.mark.parametrize(("arch", "readout"), CASES)
def test_scores_do_not_depend_on_the_order_of_the_nodes(arch: str, readout: str) -> None:
    net = network(arch, readout)
    scores, vectors, losses = embed(net, GRAPHS)
    again, moved, other = embed(net, [shuffled(g, 7) for g in GRAPHS])
    assert (scores - again).abs().max() <= 1e-5
    assert (vectors - moved).abs().max() <= 1e-5 * max(1, float(vectors.abs().max()))
    for name, value in losses.items():
        assert float(value) == pytest.approx(float(other[name]), abs=1e-6)
    assert (scores[0] - scores[1]).abs().max() > 1e-4  # and they do depend on the graph


@pytest.mark.parametrize(
    ("arch", "norm", "readout"),
    [
        pytest.param(a, n, r, marks=[pytest.mark.slow] if n is not None and r != "sum" else [])
        for a, r in CASES
        for n in (None, *(get_args(Norm) if a in OPTIONS["norm"] else ()))
    ],
)
def test_a_graph_in_a_batch_is_the_graph_alone(arch: str, norm: str | None, readout: str) -> None:
    """No padding, no neighbour in the batch, no lambda_max and no mean of another graph reaches it."""
    net = network(arch, readout, norm=norm)
    together, _, losses = embed(net, GRAPHS)
    alone = [embed(net, [g]) for g in GRAPHS]
    assert (together - torch.cat([a[0] for a in alone])).abs().max() <= 1e-5
    for name, value in losses.items():
        assert float(value) == pytest.approx(sum(float(a[2][name]) for a in alone) / 4, abs=1e-6)


@pytest.mark.parametrize("norm", ["layer", "graph", "instance", "pair"])
def test_gin_that_multiplies_first_normalises_each_graph_on_its_own(norm: Any) -> None:
    torch.manual_seed(0)
    net = NodeNetwork("gin", 12, 4, None, 2, norm=norm, act_last=True).eval()
    graphs = [graph(9, 0.4, 1, features=12), graph(20, 0.2, 2, features=12)]
    batch = Batch.from_data_list(graphs)
    alone = torch.cat([net(g.x, g.edge_index, batch=torch.zeros(len(g.x), dtype=torch.long)) for g in graphs])
    torch.testing.assert_close(net(batch.x, batch.edge_index, batch=batch.batch), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arch", "readout", "edge_dim"), [(*c, d) for c in CASES for d in ([0, 2] if c[0] in EDGE_ARCHS else [0])]
)
def test_bfloat16_has_the_scores_and_gradients_of_float32_but_for_rounding(arch, readout, edge_dim):
    net = network(arch, readout, edge_dim=edge_dim, pool_nodes=18)
    batch, found = Batch.from_data_list(GRAPHS[:2]), []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            attr = batch.edge_attr if edge_dim else None
            scores = net(batch.x, batch.edge_index, batch.batch, 2, attr)
        nn.functional.cross_entropy(scores.float(), torch.tensor([0, 3])).backward()
        found.append((scores.float().detach(), [p.grad for p in net.parameters() if p.grad is not None]))
    (exact, gradients), (rounded, others) = found
    if readout not in ("sort", "sagpool", "topk"):  # which choose nodes: rounding may choose another
        torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.1)
    assert len(others) == len(gradients)
    assert all(g.isfinite().all() for g in others)


EMPTY = {
    "first": [0, 5], "middle": [4, 0, 5], "last": [5, 0], "all": [0, 0], "one node": [1], "edgeless": [2, 2],
}  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("arch", "readout"), [*((a, "sum") for a in GRAPH_ARCHS), *(("gcn", r) for r in READOUTS if r != "sum")]
)
def test_graphs_without_nodes_or_edges_have_finite_scores_and_gradients(
    arch: str, readout: str, training: bool
) -> None:
    """At whatever place of the batch, and where the batch holds nothing else."""
    for name, sizes in EMPTY.items():
        net = network(arch, readout).train(training)
        graphs = [graph(n, 0.0 if name == "edgeless" else 0.6, i) for i, n in enumerate(sizes)]
        batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        edges = torch.cat([g.edge_index + at for g, at in zip(graphs, starts, strict=True)], dim=1)
        attr = torch.cat([g.edge_attr for g in graphs]) if net.encoder.uses_edge_attr else None
        x = torch.cat([g.x for g in graphs]).requires_grad_()
        scores, vectors, losses = net.embed(x, edges, batch, len(sizes), attr)
        assert scores.shape == (len(sizes), 4)
        (scores * torch.randn(scores.shape)).sum().backward()
        gradients = [p.grad for p in [x, *net.parameters()] if p.grad is not None]
        found = [scores, vectors, *losses.values(), *gradients]
        assert all(t.isfinite().all() for t in found), name


@pytest.mark.parametrize("readout", READOUTS)
def test_a_graph_without_edges_at_the_end_is_counted(readout: str) -> None:
    none = torch.empty(2, 0, dtype=torch.long)
    lone = Data(x=torch.randn(1, 3), edge_index=none, edge_attr=torch.empty(0, 2))
    scores, _, _ = embed(network("gin", readout), [GRAPHS[0], lone])
    assert scores.shape == (2, 4)
    assert scores.isfinite().all()


@pytest.mark.parametrize("readout", ["sum", "mean", "max"])
def test_added_layer_scores_are_invariant_and_linear_in_the_readouts(readout: str) -> None:
    net = network("gin", readout, layers="sum", head=0)
    scores, vectors, _ = embed(net, GRAPHS)
    again, _, _ = embed(net, [shuffled(g, 3) for g in GRAPHS])
    assert (scores - again).abs().max() <= 1e-5
    weight = torch.cat([h.weight for h in net.heads], dim=1)
    bias = torch.stack([h.bias for h in net.heads]).sum(dim=0)
    assert vectors.shape[1] == 3 + 8 + 8  # the features have a classifier too
    assert torch.allclose(scores, vectors @ weight.T + bias, atol=1e-5)


def test_flat_readouts() -> None:
    x, batch = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([0, 0, 2])
    assert flat_readout(x, batch, 4, "sum")[:, 0].tolist() == [3, 0, 5, 0]
    assert flat_readout(x, batch, 4, "mean")[:, 0].tolist() == [1.5, 0, 5, 0]
    assert flat_readout(x, batch, 4, "max")[:, 0].tolist() == [2, 0, 5, 0]


def test_gin_of_constant_features_counts_degrees() -> None:
    """epsilon 0: the input of GIN's MLP is degree + 1."""
    encoder = GraphEncoder("gin", 1, 4, 1, 0.0, 0, {})
    conv = encoder.nodes.convs[0]
    seen: list[torch.Tensor] = []
    conv.nn.lins[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    given = graph(9, 0.3, 1)
    degrees = torch.bincount(given.edge_index[1], minlength=9)
    conv(torch.ones(9, 1), given.edge_index)
    assert torch.equal(seen[0][:, 0], degrees + 1.0)


def test_sort_pool_is_pygs_where_nothing_ties() -> None:
    batch = Batch.from_data_list(GRAPHS)
    x = torch.randn(len(batch.x), 5)
    for k in (4, 10, 40):
        assert torch.equal(sort_pool(x, batch.batch, 4, k).flatten(1), SortAggregation(k)(x, batch.batch))


def test_sort_pool_breaks_ties_by_the_channel_before() -> None:
    x = torch.tensor([[1.0, 3.0, 0.0], [2.0, 3.0, 0.0], [9.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    batch = torch.zeros(4, dtype=torch.long)
    expected = [[0.0, 0.0, 5.0], [2.0, 3.0, 0.0], [1.0, 3.0, 0.0], [9.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    for order in itertools.permutations(range(4)):
        assert sort_pool(x[list(order)], batch, 1, 5)[0].tolist() == expected


def test_sort_pool_has_gradients_of_the_kept_nodes_alone() -> None:
    x = torch.tensor([[3.0], [1.0], [2.0]], requires_grad=True)
    sort_pool(x, torch.zeros(3, dtype=torch.long), 1, 2).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [1, 0, 1]


def test_sort_pools_convolutions_are_dgcnns() -> None:
    pool = SortPool(97, 30)
    assert (pool.nodes.weight.shape, pool.neighbours.weight.shape) == ((16, 1, 97), (32, 16, 5))
    assert pool.width == 32 * 11  # (30 - 2) / 2 + 1 = 15, 15 - 5 + 1 = 11
    given = GRAPHS[0]
    out = pool(torch.randn(12, 97), given.edge_index, torch.zeros(12, dtype=torch.long), 1).vectors
    assert out.shape == (1, pool.width)
    with pytest.raises(ValueError, match="pool_nodes of at least 10, got 9"):
        SortPool(97, 9)


def test_pooled_sizes_come_from_the_quantile_and_the_largest_graph() -> None:
    sizes = [*range(11, 21), *range(31, 41)]
    assert (pool_nodes("sort", 0.5, sizes), pool_nodes("sort", 0.9, sizes)) == (20, 38)
    assert (pool_nodes("sort", 0.05, [3, 4, 5]), pool_nodes("diffpool", 0.25, sizes)) == (10, 10)
    assert pool_nodes("diffpool", 0.1, [126]) == 13


def one_graph() -> tuple[Tensor, Tensor, Tensor]:
    given = GRAPHS[1]
    return given.x.double(), torch.randn(17, 6, dtype=torch.float64), given.edge_index


def test_sparse_diff_pool_is_pygs_on_one_graph() -> None:
    x, logits, edges = one_graph()
    zero = torch.zeros(17, dtype=torch.long)
    ours = sparse_diff_pool(x, logits.softmax(dim=1), edges, zero, 1)
    theirs = pyg_diff_pool(x, to_dense_adj(edges, max_num_nodes=17).double(), logits)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-12)
    dense = dense_diff_pool(x[None], to_dense_adj(edges).double(), logits.softmax(dim=1)[None])
    for a, b in zip(dense, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_link_loss_is_the_norm_over_n_squared_and_not_its_square() -> None:
    """A path of three nodes, all in one cluster: A - S S^T has the entries -1, 0; five of nine are not 0."""
    edges = to_undirected(torch.tensor([[0, 1], [1, 2]]))
    s = torch.ones(3, 1)
    _, a, link, entropy = sparse_diff_pool(torch.eye(3), s, edges, torch.zeros(3, dtype=torch.long), 1)
    assert float(link) == pytest.approx(5**0.5 / 9)
    assert float(a) == 4  # both directions of two edges
    assert float(entropy) == pytest.approx(0, abs=1e-6)


def test_entropy_is_the_mean_over_nodes() -> None:
    s = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    assert assignment_entropy(s).tolist() == pytest.approx([0.693147, 0.0], abs=1e-6)


def test_padding_does_not_reach_diff_pool() -> None:
    """A large graph in the batch changes neither the pooled graph nor the losses of a small one."""
    small, large = GRAPHS[2], GRAPHS[3]
    logits = torch.randn(39, 5).softmax(dim=1)
    edges = torch.cat([small.edge_index, large.edge_index + 9], dim=1)
    owner, x = torch.tensor([0] * 9 + [1] * 30), torch.cat([small.x, large.x])
    both = sparse_diff_pool(x, logits, edges, owner, 2)
    first = sparse_diff_pool(small.x, logits[:9], small.edge_index, torch.zeros(9, dtype=torch.long), 1)
    second = sparse_diff_pool(large.x, logits[9:], large.edge_index, torch.zeros(30, dtype=torch.long), 1)
    assert torch.allclose(both[0][0], first[0][0], atol=1e-6)
    assert torch.allclose(both[1][0], first[1][0], atol=1e-6)
    for k in (2, 3):
        assert float(both[k]) == pytest.approx(float(first[k] + second[k]) / 2, abs=1e-7)


def test_a_perfect_assignment_has_no_infinite_gradient() -> None:
    edges = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]])
    logits = torch.zeros(2, 1, requires_grad=True)
    link = sparse_diff_pool(torch.eye(2), logits.softmax(1), edges, torch.zeros(2, dtype=torch.long), 1)[2]
    link.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("root", [True, False])
def test_edge_conditioned_convolution_is_pygs_with_its_weights(root: bool) -> None:
    torch.manual_seed(0)
    ours = EdgeConditionedConv(3, 5, 2, root)
    mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 15))
    theirs = NNConv(3, 5, mlp, aggr="mean", root_weight=root)
    theirs.load_state_dict(ours.state_dict())  # after the constructor, which re-initialises the network
    given = GRAPHS[0]
    expected = theirs(given.x, given.edge_index, given.edge_attr)
    assert torch.allclose(ours(given.x, given.edge_index, given.edge_attr), expected, atol=1e-5)


def test_without_edge_features_every_edge_has_the_feature_one() -> None:
    ours, given = EdgeConditionedConv(3, 5, 1), GRAPHS[0]
    ones = torch.ones(given.num_edges, 1)
    assert torch.allclose(ours(given.x, given.edge_index), ours(given.x, given.edge_index, ones), atol=1e-5)


@pytest.mark.parametrize("arch", [a for a in GRAPH_ARCHS if a in EDGE_ARCHS])
def test_edge_features_change_the_scores(arch: str) -> None:
    net = network(arch, "sum")
    other = [Data(x=g.x, edge_index=g.edge_index, edge_attr=-g.edge_attr) for g in GRAPHS]
    assert (embed(net, GRAPHS)[0] - embed(net, other)[0]).abs().max() > 1e-3


def test_dgcnns_layer_averages_the_node_and_its_neighbours() -> None:
    conv, given = RandomWalkConv(3, 2), GRAPHS[0]
    looped = to_dense_adj(given.edge_index, max_num_nodes=12)[0] + torch.eye(12)
    expected = (looped / looped.sum(dim=1, keepdim=True)) @ given.x @ conv.lin.weight.T + conv.lin.bias
    assert torch.allclose(conv(given.x, given.edge_index), expected, atol=1e-6)


def test_dgcnn_sorts_by_a_layer_of_one_channel() -> None:
    encoder = GraphEncoder("dgcnn", 3, 8, 3, 0.0, 0, {})
    assert encoder.widths == [8, 8, 8, 1]
    states = encoder(GRAPHS[0].x, GRAPHS[0].edge_index, torch.zeros(12, dtype=torch.long))
    assert [s.shape[1] for s in states] == encoder.widths
    assert all(float(s.detach().abs().max()) <= 1 for s in states)  # tanh


def test_the_baseline_sees_no_edge() -> None:
    for arch in ("none", "mlp"):
        net = network(arch, "sum")
        edges: dict[str, Any] = {"edge_index": torch.zeros(2, 1, dtype=torch.long)}
        other = [Data(x=g.x, edge_attr=torch.zeros(1, 2), **edges) for g in GRAPHS]
        assert torch.equal(embed(net, GRAPHS)[0], embed(net, other)[0])


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_named_models_on_enzymes() -> None:
    def count(arch: str, readout: str, hidden: int, depth: int, **settings: Any) -> int:
        with torch.device("meta"):
            return parameters(
                GraphNetwork(arch, 21, 6, hidden, depth, readout, **settings)  # type: ignore[arg-type]
            )

    with torch.device("meta"):
        # the survey's, without a head
        assert parameters(GraphEncoder("gin", 21, 64, 5, 0.0, 0, {})) == 38_848
        # batch norm inside and behind each MLP: 2 x 64 x 2 a layer
        assert parameters(GraphEncoder("gin", 21, 64, 5, 0.0, 0, {"norm": "batch"})) == 38_848 + 5 * 256
    linear = 21 * 6 + 6 + 5 * (64 * 6 + 6)
    assert count("gin", "sum", 64, 5, layers="sum") == 38_848 + linear
    sage = (21 * 2 + 1) * 64 + 2 * (64 * 2 + 1) * 64
    assert count("sage", "max", 64, 3, head=64) == sage + (192 + 1) * 64 + 65 * 6
    walk = 22 * 64 + 2 * 65 * 64 + 65
    sort = 16 * (193 + 1) + 32 * (16 * 5 + 1)
    dense = 32 * (36 // 2 - 4) * 128 + 128 + 129 * 6
    assert count("dgcnn", "sort", 64, 3, head=128, pool_nodes=36) == walk + sort + dense
    assert count("none", "sum", 1, 1, head=128) == 22 * 128 + 129 * 6
    assert count("mlp", "sum", 128, 1, head=128) == 22 * 128 + 129 * 128 + 129 * 6
    filters = (2 * 16 + 17 * 21 * 64 + 21 * 64 + 64) + (2 * 16 + 17 * 64 * 64 + 64 * 64 + 64) + 2 * 128
    assert count("ecc", "mean", 64, 2, layers="last", head=64) == filters + 65 * 64 + 65 * 6


def test_weights_loaded_into_gin_are_those_it_uses() -> None:
    """GINConv re-initialises the MLP that it is given: weights must be loaded after it is built."""
    source, target = network("gin", "sum"), network("gin", "sum")
    for p in target.parameters():
        nn.init.normal_(p)
    target.load_state_dict(source.state_dict())
    assert torch.equal(embed(target, GRAPHS)[0], embed(source, GRAPHS)[0])
    # the trap itself: what was loaded before the layer is built is lost
    mlp = nn.Sequential(nn.Linear(3, 3))
    with torch.no_grad():
        mlp[0].weight.fill_(7.0)
    assert not torch.equal(GINConv(mlp).nn[0].weight, torch.full((3, 3), 7.0))
