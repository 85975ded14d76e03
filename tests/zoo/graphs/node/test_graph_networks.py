"""The node architectures: sizes, symmetries, their equations, and PyG's weights."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch_geometric.nn import ChebConv, GatedGraphConv, GINConv, SAGEConv
from torch_geometric.nn import models as pyg
from torch_geometric.utils import degree, to_undirected

import zoo
from zoo.graphs.node.network import ACCEPTS, NODE_ARCHS, OPTIONS, ArchOptions, NodeNetwork, Norm
from zoo.graphs.node.operators import RecurrentGatedGraph, degree_coordinates, largest_eigenvalues
from zoo.hub.convert import parse_settings
from zoo.hub.weights import check_signature


def graph(nodes: int = 40, features: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features and mirrored edges; the last node is isolated."""
    g = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes - 1, (2, 2 * nodes), generator=g)
    pairs = pairs[:, pairs[0] != pairs[1]]
    return torch.randn(nodes, features, generator=g), to_undirected(pairs, num_nodes=nodes)


def network(arch: str, *args: object, **options: object) -> NodeNetwork:
    torch.manual_seed(1)
    built = NodeNetwork(arch, *args, **options)  # type: ignore[arg-type]
    if arch == "pna":
        built.set_degrees(torch.tensor([1, 2, 8, 9, 10, 10]))
    return built.eval()


def parameters(built: torch.nn.Module) -> int:
    return sum(p.numel() for p in built.parameters())


@pytest.mark.parametrize(("arch", "hidden", "options", "count"), [
    ("gcn", 16, {}, 23_063),
    ("cheb", 16, {"K": 2}, 46_103),
    ("cheb", 16, {"K": 3}, 69_143),
    ("gat", 64, {}, 92_373),
    ("gat", 64, {"out_heads": 8}, 95_607),
    ("sage", 64, {}, 184_391),
    ("sgc", 16, {}, 10_038),
    ("appnp", 64, {}, 92_231),
    ("mlp", 64, {}, 92_231),
])  # fmt: skip
def test_parameters_of_the_surveys_networks_on_cora(arch, hidden, options, count):
    with torch.device("meta"):
        assert parameters(NodeNetwork(arch, 1433, hidden, 7, **options)) == count


def test_parameters_of_gin_and_ggnn_without_a_head():
    assert parameters(NodeNetwork("gin", 21, 64, None, num_layers=5)) == 38_848
    assert parameters(NodeNetwork("ggnn", 64, 64, None, num_layers=3, share_weights=False)) == 37_248
    assert parameters(NodeNetwork("ggnn", 64, 64, None, num_layers=3)) == 37_248 - 2 * 64 * 64


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_outputs_move_with_the_nodes(arch):
    x, edges = graph()
    built = network(arch, 12, 16, 5, num_layers=3)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(x))
    shuffled = place[edges][:, torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(3))]
    torch.testing.assert_close(built(x[order], shuffled), built(x, edges)[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_a_batch_of_graphs_is_the_graphs_one_by_one(arch):
    """Also Cheb with the true lambda_max, which is each graph's own."""
    options = {"lambda_max": "graph"} if arch == "cheb" else {}
    built = network(arch, 12, 16, 5, num_layers=2, **options)
    (x1, e1), (x2, e2) = graph(30, seed=4), graph(50, seed=5)
    batch = torch.tensor([0] * 30 + [1] * 50)
    joined = built(torch.cat([x1, x2]), torch.cat([e1, e2 + 30], dim=1), batch=batch)
    torch.testing.assert_close(joined, torch.cat([built(x1, e1), built(x2, e2)]), atol=1e-5, rtol=1e-5)


def test_each_graph_of_a_batch_has_its_own_largest_eigenvalue():
    pair, ring = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[2, 3, 4, 3, 4, 2], [3, 4, 2, 2, 3, 4]])
    values = largest_eigenvalues(torch.cat([pair, ring], 1), None, 5, torch.tensor([0, 0, 1, 1, 1]))
    torch.testing.assert_close(values, torch.tensor([2.0, 1.5]))  # K_2: 2, K_3: 3/2


@pytest.mark.parametrize("arch", [a for a in NODE_ARCHS if a != "mlp"])
def test_messages_go_from_the_first_row_to_the_second(arch):
    x, _ = graph(3)
    options = {"cheb": {"K": 2}, "appnp": {"K": 1}}.get(arch, {})
    built = network(arch, 12, 16, 5, num_layers=1, **options)
    cycle = torch.tensor([[0, 1, 2], [1, 2, 0]])  # 0 -> 1 -> 2 -> 0
    changed = x.clone()
    changed[0] += torch.linspace(-1, 1, 12)
    before, after = built(x, cycle), built(changed, cycle)
    assert not torch.allclose(before[1], after[1], atol=1e-4)
    torch.testing.assert_close(before[2], after[2])


@pytest.mark.parametrize("arch", ["gcn", "sgc", "appnp", "gcnii", "gat", "gatv2"])
def test_self_loops_of_the_data_are_not_doubled(arch):
    x, edges = graph()
    loops = torch.arange(len(x)).expand(2, -1)
    built = network(arch, 12, 16, 5)
    torch.testing.assert_close(built(x, torch.cat([edges, loops], 1)), built(x, edges), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("arch", ["gat", "gatv2"])
def test_attention_sums_to_one_over_incoming_edges_and_the_node(arch):
    x, edges = graph()
    built = network(arch, 12, 16, 5, num_layers=1)
    structure = built.prepare(edges, len(x))
    assert structure.edge_index.shape[1] == edges.shape[1] + len(x)
    _, (index, attention) = built.convs[0](x, structure.edge_index, return_attention_weights=True)
    sums = torch.zeros(len(x), attention.shape[1]).index_add(0, index[1], attention)
    torch.testing.assert_close(sums, torch.ones_like(sums))


def test_gcn_is_the_dense_formula():
    x, edges = graph()
    built = network("gcn", 12, 16, 5, num_layers=1)
    adjacency = torch.zeros(len(x), len(x)).index_put((edges[1], edges[0]), torch.tensor(1.0)) + torch.eye(
        len(x)
    )
    scale = adjacency.sum(1).rsqrt()
    expected = scale[:, None] * adjacency * scale @ x @ built.convs[0].lin.weight.T + built.convs[0].bias
    torch.testing.assert_close(built(x, edges), expected, atol=1e-5, rtol=1e-5)


def test_cheb_equals_pyg_whichever_way_it_sums():
    x, edges = graph()
    for outputs in (5, 20):  # Clenshaw's recurrence, Chebyshev's
        for terms in (1, 2, 3, 5):
            built = network("cheb", 12, 16, outputs, num_layers=1, K=terms)
            reference = ChebConv(12, outputs, terms)
            reference.load_state_dict(built.convs[0].state_dict())
            torch.testing.assert_close(built(x, edges), reference(x, edges), atol=1e-5, rtol=1e-5)


def normalised(edges: Tensor, nodes: int) -> Tensor:
    """A^ = D~^-1/2 (A + I) D~^-1/2, dense float64."""
    adjacency = torch.eye(nodes, dtype=torch.float64)
    adjacency[edges[1], edges[0]] = 1
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


def test_cheb_with_the_true_lambda_max_equals_pygs_given_it():
    x, edges = graph()
    largest = float(largest_eigenvalues(edges, None, len(x))[0])
    assert 1.2 < largest < 1.95  # neither the bound of 2 nor a normalisation that leaves 1
    built = network("cheb", 12, 16, 5, num_layers=1, K=4, lambda_max="graph")
    reference = ChebConv(12, 5, 4)
    reference.load_state_dict(built.convs[0].state_dict())
    expected = reference(x, edges, lambda_max=torch.tensor(largest))
    torch.testing.assert_close(built(x, edges), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_sgc_is_the_power_of_the_dense_matrix(hops):
    x, edges = graph()
    built = network("sgc", 12, 16, 5, K=hops).double()
    power = torch.linalg.matrix_power(normalised(edges, len(x)), hops)
    expected = power @ x.double() @ built.convs[0].weight.T + built.convs[0].bias
    found = built(x.double(), edges)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)  # gcn_norm's weights are float32
    torch.testing.assert_close(network("sgc", 12, 16, 5, num_layers=hops).double()(x.double(), edges), found)


def test_appnp_is_ten_steps_of_the_dense_loop():
    x, edges = graph()
    built = network("appnp", 12, 16, 5, alpha=0.2).double()
    first = (x.double() @ built.convs[0].weight.T + built.convs[0].bias).relu()
    first = first @ built.convs[1].weight.T + built.convs[1].bias
    spread, z = normalised(edges, len(x)), first
    for _ in range(10):
        z = 0.8 * spread @ z + 0.2 * first
    torch.testing.assert_close(built(x.double(), edges), z, atol=1e-6, rtol=1e-6)


def test_gcnii_is_the_dense_formula_with_beta_of_the_layers_number():
    """h <- relu(((1 - alpha) A^ h + alpha h_0) ((1 - beta) I + beta W)), beta_l = log(theta / l + 1)."""
    x, edges = graph()
    built = network("gcnii", 12, 16, 5, num_layers=3, alpha=0.3, theta=0.7).double()
    spread = normalised(edges, len(x))
    h = first = (x.double() @ built.input.weight.T + built.input.bias).relu()
    for number, conv in enumerate(built.convs, start=1):
        beta = math.log(0.7 / number + 1)
        mixed = 0.7 * spread @ h + 0.3 * first
        h = ((1 - beta) * mixed + beta * mixed @ conv.weight1).relu()
    expected = h @ built.lin.weight.T + built.lin.bias
    torch.testing.assert_close(built(x.double(), edges), expected, atol=1e-6, rtol=1e-6)


def test_monets_coordinates_on_a_path_of_three_and_its_kernels():
    """0 - 1 - 2: the ends have one neighbour, the middle two."""
    path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    half = 0.5**0.5
    coordinates = degree_coordinates(path, 3)
    torch.testing.assert_close(coordinates, torch.tensor([[1, half], [half, 1], [half, 1], [1, half]]))
    # out of the source, into the target
    directed = degree_coordinates(torch.tensor([[0, 0, 1], [1, 2, 2]]), 3)
    torch.testing.assert_close(directed, torch.tensor([[half, 1], [half, half], [1, half]]))
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(6))
    conv = network("monet", 12, 16, 5, num_layers=1, kernels=2).convs[0]
    with torch.no_grad():
        conv.mu.copy_(torch.tensor([[0.5, 1.0], [1.0, 0.7]]))
        conv.sigma.copy_(torch.tensor([[0.4, 0.6], [0.5, 0.8]]))
    weights = (x @ conv.g).view(3, 2, 5)  # g_k x
    expected = x @ conv.root.weight.T + conv.bias
    for node, neighbours in enumerate(([1], [0, 2], [1])):
        for u in neighbours:
            pseudo = torch.tensor([half, 1]) if u == 1 else torch.tensor([1, half])
            kernel = (-0.5 * ((pseudo - conv.mu) / conv.sigma).square().sum(1)).exp()
            expected[node] += (kernel[:, None] * weights[u]).sum(0) / len(neighbours)
    built = network("monet", 12, 16, 5, num_layers=1, kernels=2)
    built.convs[0].load_state_dict(conv.state_dict())
    torch.testing.assert_close(built(x, path), expected, atol=1e-5, rtol=1e-5)


def test_ggnn_equals_pyg_and_shared_weights_are_one_matrix_at_all_steps():
    x, edges = graph(features=12)
    reference = GatedGraphConv(16, 3)
    own = RecurrentGatedGraph(16, 3, share_weights=False)
    own.load_state_dict(reference.state_dict())
    torch.testing.assert_close(own(x, edges)[-1], reference(x, edges), atol=1e-6, rtol=1e-5)
    shared = RecurrentGatedGraph(16, 3)
    with torch.no_grad():
        reference.weight.copy_(shared.weight.expand(3, -1, -1))
    reference.rnn.load_state_dict(shared.rnn.state_dict())
    torch.testing.assert_close(shared(x, edges)[-1], reference(x, edges), atol=1e-6, rtol=1e-5)


def test_appnp_with_alpha_1_is_the_mlp():
    x, edges = graph()
    mlp = network("mlp", 12, 16, 5)
    for alpha, same in ((1.0, True), (0.1, False)):
        appnp = network("appnp", 12, 16, 5, alpha=alpha)
        appnp.load_state_dict(mlp.state_dict())
        assert torch.allclose(appnp(x, edges), mlp(x, edges), atol=1e-6) is same


def test_sgc_with_no_hop_is_logistic_regression_and_cheb_of_one_term_ignores_the_graph():
    x, edges = graph()
    sgc = network("sgc", 12, 16, 5, K=0)
    expected = x @ sgc.convs[0].weight.T + sgc.convs[0].bias
    torch.testing.assert_close(sgc(x, edges), expected, atol=1e-6, rtol=1e-6)
    cheb = network("cheb", 12, 16, 5, K=1)
    torch.testing.assert_close(cheb(x, edges), cheb(x, edges[:, :0]))
    assert not torch.allclose(sgc(x, edges), network("sgc", 12, 16, 5, K=2)(x, edges), atol=1e-3)


def test_gin_on_constant_features_sums_degree_plus_one():
    x, edges = graph()
    built = network("gin", 1, 4, 3, num_layers=1)
    seen: list[Tensor] = []
    built.convs[0].nn.lins[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    built(torch.ones(len(x), 1), edges)
    torch.testing.assert_close(seen[0][:, 0], degree(edges[1], len(x)) + 1)


def test_sage_has_one_bias_and_no_neighbour_is_zero():
    x, edges = graph()
    built = network("sage", 12, 16, 5, num_layers=1)
    conv = built.convs[0]
    assert conv.lin_l.bias is not None
    assert conv.lin_r.bias is None
    torch.testing.assert_close(built(x, edges)[-1], conv.lin_l.bias + conv.lin_r(x[-1]))


_BASIC = {
    "gcn": (pyg.GCN, {}, {}),
    "sage": (pyg.GraphSAGE, {}, {}),
    "gin": (pyg.GIN, {"train_eps": True}, {"train_eps": True}),
    "gat": (pyg.GAT, {"heads": 4, "act": "elu"}, {"heads": 4, "out_heads": 4}),
    "gatv2": (pyg.GAT, {"heads": 4, "act": "elu", "v2": True}, {"heads": 4, "out_heads": 4}),
    "pna": (
        pyg.PNA,
        {
            "aggregators": ["mean", "min", "max", "std"],
            "scalers": ["identity", "amplification", "attenuation"],
            "deg": torch.tensor([1, 2, 8, 9, 10, 10]),
        },
        {},
    ),
}


@pytest.mark.parametrize("arch", _BASIC)
@pytest.mark.parametrize("options", [{}, {"jk": "cat"}, {"norm": "batch"}, {"jk": "max", "norm": "layer"}])
@pytest.mark.parametrize("outputs", [5, None])
def test_weights_of_pygs_basic_gnn_load_and_give_its_outputs(arch, options, outputs):
    model, theirs, ours = _BASIC[arch]
    torch.manual_seed(7)
    reference = model(12, 16, 3, outputs, **theirs, **options).eval()
    built = network(arch, 12, 16, outputs, num_layers=3, **ours, **options)
    built.load_state_dict(reference.state_dict())
    x, edges = graph()
    torch.testing.assert_close(built(x, edges), reference(x, edges), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_hidden_states_have_the_widths_that_are_announced(arch):
    x, edges = graph()
    for outputs in (5, 16, None):
        built = network(arch, 12, 16, outputs, num_layers=3)
        states, out = built.embed(x, edges)
        assert ([s.shape[1] for s in states], out.shape) == (built.hidden_widths, (len(x), outputs or 16))
        torch.testing.assert_close(out, built(x, edges))
        if outputs is None and arch != "sgc":
            torch.testing.assert_close(states[-1], out)


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_a_prepared_graph_gives_the_same_outputs(arch):
    x, edges = graph()
    built = network(arch, 12, 16, 5)
    torch.testing.assert_close(built(x, built.prepare(edges, len(x))), built(x, edges), atol=0, rtol=0)


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_edge_weights_count_or_are_refused(arch):
    x, edges = graph()
    weights = torch.rand(edges.shape[1], generator=torch.Generator().manual_seed(8))
    built = network(arch, 12, 16, 5)
    if arch == "mlp":
        torch.testing.assert_close(built(x, edges, weights), built(x, edges))
    elif "edge_weight" in ACCEPTS[arch]:
        assert not torch.allclose(built(x, edges, weights), built(x, edges), atol=1e-4)
    else:
        with pytest.raises(ValueError, match=f"{arch} takes no edge_weight; gcn, cheb"):
            built(x, edges, weights)


@pytest.mark.parametrize("arch", ["gat", "gatv2", "pna"])
def test_edge_features_count_and_need_their_width(arch):
    x, edges = graph()
    attr = torch.randn(edges.shape[1], 3, generator=torch.Generator().manual_seed(8))
    built = network(arch, 12, 16, 5, edge_dim=3)
    assert not torch.allclose(built(x, edges, edge_attr=attr), built(x, edges, edge_attr=-attr), atol=1e-4)
    with pytest.raises(ValueError, match="set edge_dim"):
        network(arch, 12, 16, 5)(x, edges, edge_attr=attr)


@pytest.mark.parametrize(("arch", "options", "message"), [
    ("gcn", {"K": 3}, "gcn has no option K .given: 3.; cheb, sgc, appnp have it"),
    ("mlp", {"alpha": 0.1}, "mlp has no option alpha"),
    ("sgc", {"jk": "cat"}, "sgc has no option jk"),
    ("cheb", {"K": 0}, "K of cheb must be at least 1"),
    ("gat", {"hidden_channels": 12}, "8 heads do not divide the width 12"),
    ("nope", {}, "arch must be one of gcn, cheb"),
    ("gcn", {"num_layers": 0}, "num_layers must be at least 1"),
    ("gcn", {"dropout": 1.0}, "dropout must lie in"),
    ("appnp", {"alpha": 1.1}, "alpha must lie in"),
])  # fmt: skip
def test_impossible_settings_get_one_line(arch, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        NodeNetwork(arch, **{"in_channels": 12, "hidden_channels": 16, "out_channels": 5} | options)
    assert "\n" not in str(caught.value)


def samples():
    """A value of each option."""
    samples = {"K": 2, "alpha": 0.2, "theta": 0.3, "aggr": "max", "eps": 0.1, "train_eps": True, "kernels": 2}
    samples |= {
        "lambda_max": "graph", "out_heads": 2, "attention_dropout": 0.1, "residual": True, "edge_dim": 2,
    }  # fmt: skip
    samples |= {"heads": 4, "towers": 2, "degree_histogram": [0, 3, 4], "share_weights": False, "act": "tanh"}
    return samples | {"norm": "graph", "jk": "last"}


def test_every_option_has_an_architecture_that_is_built_with_it():
    assert set(samples()) == set(OPTIONS)
    assert set(ArchOptions.__annotations__) == set(OPTIONS) - {"edge_dim", "degree_histogram"}
    for option, archs in OPTIONS.items():
        for arch in archs:
            network(arch, 12, 16, 5, **{option: samples()[option]})


@pytest.mark.parametrize("option", [o for o in OPTIONS if o not in ("edge_dim", "degree_histogram")])
def test_every_option_is_one_line_at_all_levels(option):
    """Edge features and degrees come from the data; an encoder of graphs has no layer of output heads."""
    value = samples()[option]
    for arch in OPTIONS[option]:
        given = {"arch": arch, option: value}
        found = [zoo.NodeClassifier(features=12, **given).encoder, zoo.LinkPredictor(**given).network.encoder]
        if option != "out_heads":
            found.append(zoo.GraphClassifier(num_layers=2, **given).network.encoder.nodes)
        assert [n.options for n in found] == [{option: value}] * len(found)
    other = next((a for a in NODE_ARCHS if a not in OPTIONS[option]), None)
    for module in (zoo.NodeClassifier, zoo.LinkPredictor, zoo.GraphClassifier):
        with pytest.raises(ValueError, match=f"{other} has no option {option}"):
            module(arch=other, **{option: value})
    if option == "out_heads":
        with pytest.raises(ValueError, match="gat has no option out_heads"):
            zoo.GraphClassifier(arch="gat", out_heads=2)


@pytest.mark.parametrize(("module", "settings"), [
    (zoo.NodeClassifier, {}),
    (zoo.GraphClassifier, {"arch": "none"}),
    (zoo.GraphClassifier, {"readout": "sort"}),
    (zoo.LinkPredictor, {"model": "jaccard"}),
])  # fmt: skip
def test_an_unknown_option_is_refused_and_one_that_is_not_given_is_stored(module, settings):
    """What is stored wins over a config beside a checkpoint: APPNP's alpha of .1 must not become its .3."""
    with pytest.raises(TypeError, match="no argument 'kernel'; did you mean kernels"):
        module(**settings, kernel=None)
    stored = module(**settings).hparams
    assert {k: stored[k] for k in ArchOptions.__annotations__} == dict.fromkeys(ArchOptions.__annotations__)


def test_stored_options_are_checked_like_other_arguments(tmp_path):
    given = {"features": 4, "arch": "appnp", "alpha": 0.3}
    file = zoo.save(zoo.NodeClassifier(**given), tmp_path / "a.safetensors")
    assert zoo.load(file).network.propagation.alpha == 0.3
    check_signature(zoo.NodeClassifier, {**given, "K": None, "heads": 8}, file)
    for wrong, value in {"kernel": 3, "options": {}}.items():
        with pytest.raises(ValueError, match=f"sets {wrong!r}, which NodeClassifier does not take"):
            check_signature(zoo.NodeClassifier, given | {wrong: value}, file)
    assert parse_settings(zoo.NodeClassifier, ["K=3", "jk=cat"]) == {"K": 3, "jk": "cat"}
    with pytest.raises(ValueError, match=r"K takes int or null, got '2\.5'"):
        parse_settings(zoo.NodeClassifier, ["K=2.5"])
    with pytest.raises(ValueError, match="no argument 'kernel'; did you mean kernels"):
        parse_settings(zoo.NodeClassifier, ["kernel=3"])


def test_parameter_parts_are_all_parameters_once():
    for arch in NODE_ARCHS:
        built = network(arch, 12, 16, 5, num_layers=3)
        parts = built.parameter_parts()
        found = [id(p) for part in parts.values() for p in part]
        assert sorted(found) == sorted(id(p) for p in built.parameters())
    gcnii = network("gcnii", 12, 16, 5, num_layers=3).parameter_parts()
    assert [len(gcnii[k]) for k in ("first", "middle", "last")] == [2, 3, 2]


@pytest.mark.parametrize("outputs", [5, 20])
@pytest.mark.parametrize("aggr", ["mean", "sum", "max"])
def test_multiplying_before_aggregating_gives_what_pyg_gives(outputs, aggr):
    x, edges = graph()
    torch.manual_seed(3)
    sage = network("sage", 12, 16, outputs, num_layers=1, aggr=aggr)
    reference = SAGEConv(12, outputs, aggr=aggr)
    reference.load_state_dict(sage.convs[0].state_dict())
    torch.testing.assert_close(sage(x, edges), reference(x, edges), atol=1e-5, rtol=1e-5)
    gin = network("gin", 12, 16, outputs, num_layers=1, aggr=aggr, eps=0.3)
    mlp = GINConv(pyg.MLP([12, outputs, outputs], norm=None), eps=0.3, aggr=aggr)
    mlp.load_state_dict(gin.convs[0].state_dict())
    torch.testing.assert_close(gin(x, edges), mlp(x, edges), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_a_compiled_network_gives_the_same(arch):
    x, edges = graph()
    built = network(arch, 12, 16, 5)
    structure = built.prepare(edges, len(x))
    expected = built(x, structure)
    built.compile(backend="eager")
    torch.testing.assert_close(built(x, structure), expected, atol=1e-5, rtol=1e-5)


NOTHING = torch.empty(2, 0, dtype=torch.long)
DEGENERATE = {
    "isolated nodes": (5, torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])),
    "no edges": (4, NOTHING),
    "one node": (1, NOTHING),
    "no nodes": (0, NOTHING),
}


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_graphs_with_nothing_in_them_have_finite_outputs_and_gradients(arch: Any) -> None:
    """Degrees, counts and norms of 0: with every norm, training or not, also of features that are all 0."""
    norms = [{}, *({"norm": n} for n in (get_args(Norm) if arch in OPTIONS["norm"] else ()))]
    norms += [{"lambda_max": "graph"}] if arch == "cheb" else []
    for options, training, (name, (nodes, edges)), scale in itertools.product(
        norms, (True, False), DEGENERATE.items(), (0.0, 1.0)
    ):
        torch.manual_seed(0)
        built = NodeNetwork(arch, 6, 8, 3, 2, 0.0, **options).train(training)
        x = (scale * torch.randn(nodes, 6)).requires_grad_()
        out = built(x, edges)
        (out * torch.randn(out.shape)).sum().backward()
        assert out.shape == (nodes, 3)
        found = [out, *(p.grad for p in [x, *built.parameters()] if p.grad is not None)]
        assert all(t.isfinite().all() for t in found), (options, training, name, scale)


@pytest.mark.parametrize("norm", ["layer", "graph", "instance", "pair"])
def test_a_batch_without_nodes_passes_every_norm(norm: Any) -> None:
    built = NodeNetwork("gin", 6, 8, 3, 2, norm=norm)
    assert built(torch.zeros(0, 6), NOTHING, batch=NOTHING[0]).shape == (0, 3)


@pytest.mark.parametrize("arch", ["gcn", "sgc", "appnp", "gcnii", "cheb"])
@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_edge_weights_without_a_square_root_are_refused(arch: Any, wrong: float) -> None:
    edges = to_undirected(torch.tensor([range(11), range(1, 12)]))
    weight = torch.ones(edges.shape[1])
    weight[3] = wrong
    with pytest.raises(ValueError, match=rf"edge 3 of the data has edge_weight {wrong:g}"):
        NodeNetwork(arch, 4, 8, 2)(torch.ones(12, 4), edges, weight)
