"""Node classification: recipes, selection, DGI, diagnostics, what is refused, and exact resume."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from commands import run
from interruption import Killed, newest_checkpoint, run_differences
from lightning.pytorch import LightningDataModule, Trainer
from quiet import quiet_trainer
from torch.nn import functional
from torch_geometric.nn import DeepGraphInfomax, GCNConv
from torch_geometric.utils import to_undirected
from torchmetrics.functional.classification import multilabel_f1_score

from datamodules import BlockModel, KarateClub
from zoo.graphs.node.infomax import probe
from zoo.graphs.node.module import NodeClassifier
from zoo.graphs.node.network import NODE_ARCHS, NodeNetwork
from zoo.graphs.node.smoothness import dirichlet_energy, edge_homophily, node_homophily
from zoo.metrics.micro_f1 import MicroF1

KARATE: dict[str, Any] = {"features": 34, "num_classes": 4}


def trainer(**settings: Any) -> Trainer:
    return quiet_trainer(**({"val_check_interval": 1, "check_val_every_n_epoch": None} | settings))


def trained(module: NodeClassifier, data: LightningDataModule, steps: int, **settings: Any) -> Trainer:
    t = trainer(max_steps=steps, **settings)
    t.fit(module, data)
    return t


def test_training_is_the_loop_of_pygs_example_with_decay_on_the_first_layer_alone():
    torch.manual_seed(0)
    module = NodeClassifier(**KARATE, dropout=0.0, first_layer_weight_decay=0.1, patience=None)
    first, second = GCNConv(34, 16), GCNConv(16, 4)
    first.load_state_dict(module.encoder.convs[0].state_dict())
    second.load_state_dict(module.encoder.convs[1].state_dict())
    data = KarateClub()
    data.setup("fit")
    graph = data.graph
    groups = [{"params": first.parameters(), "weight_decay": 0.1}, {"params": second.parameters()}]
    optimizer = torch.optim.Adam(groups, lr=0.01)
    for _ in range(8):
        optimizer.zero_grad()
        scores = second(first(graph.x, graph.edge_index).relu(), graph.edge_index)
        functional.cross_entropy(scores[graph.train_mask], graph.y[graph.train_mask]).backward()
        optimizer.step()
    trained(module, KarateClub(steps_per_epoch=4), 8)
    for ours, theirs in zip(module.encoder.convs, (first, second), strict=True):
        for key, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("arguments", "decays"), [
    ({}, {"first": 5e-4, "last": 0.003}),
    ({"first_layer_weight_decay": None}, {"first": 0.003, "last": 0.003}),
    ({"arch": "gcnii", "first_layer_weight_decay": None, "middle_weight_decay": 0.01},
     {"first": 0.003, "middle": 0.01, "last": 0.003}),
])  # fmt: skip
def test_each_layer_has_the_decay_of_the_recipe(arguments, decays):
    adam = partial(torch.optim.Adam, lr=0.01, weight_decay=0.003)
    module = NodeClassifier(**KARATE, **arguments, optimizer=adam)
    groups = module.configure_optimizers().param_groups
    found = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert len(found) == len(list(module.parameters()))
    for part, parameters in module.encoder.parameter_parts().items():
        assert {found[id(p)] for p in parameters} <= {decays.get(part)}


@pytest.mark.parametrize("arch", [*NODE_ARCHS, "dgi"])
def test_one_argument_swaps_the_architecture(arch):
    extra = {"layers": 1} if arch == "dgi" else {}
    torch.manual_seed(0)
    module = NodeClassifier(arch=arch, features=16, num_classes=4, patience=None, **extra)
    data = BlockModel(nodes=120, val_nodes=20, test_nodes=40)
    t = trained(module, data, 30)
    (result,) = t.test(module, data, verbose=False)
    assert t.global_step == 30
    assert result["test/micro_f1"] > (0.2 if arch in ("pna", "dgi", "mlp") else 0.35)  # chance is .25


def test_pna_takes_its_degrees_from_the_training_graph_and_keeps_them_with_the_weights():
    module = NodeClassifier(arch="pna", **KARATE)
    trained(module, KarateClub(), 1)
    scaler = module.encoder.convs[0].aggr_module
    assert float(scaler.avg_deg_lin) == pytest.approx(2 * 78 / 34)
    assert "network.convs.0.aggr_module.avg_deg_log" in module.state_dict()


def test_patience_stops_and_is_of_validations_without_a_better_score():
    module = NodeClassifier(**KARATE, patience=3, optimizer=lambda p: torch.optim.Adam(p, lr=0.0))
    t = trained(module, KarateClub(), 50, num_sanity_val_steps=2)
    assert t.global_step == 4  # the first is better than none, then three that are not
    assert module.waiting.waited == 3


@pytest.mark.parametrize("select", ["accuracy", "loss"])
def test_the_score_is_what_selects(select):
    module = NodeClassifier(**KARATE, select=select)
    t = trained(module, KarateClub(), 3)
    values = {k: float(v) for k, v in t.callback_metrics.items()}
    expected = values["val/micro_f1"] if select == "accuracy" else -values["val/loss"]
    assert values["val/score"] == pytest.approx(expected)


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_sparse_features_give_what_dense_ones_give(arch):
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(60, 80, generator=g) < 0.05).float() * torch.rand(60, 80, generator=g)
    edges = to_undirected(torch.randint(60, (2, 150), generator=g))
    torch.manual_seed(0)
    network = NodeNetwork(arch, 80, 16, 5, input_dropout=0.0 if arch == "sgc" else 0.5).eval()
    graph = network.prepare(edges, 60)
    expected = network(x, graph)
    expected.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters()}
    network.zero_grad()
    network.keep_features(x, graph)
    assert (graph.features is None) == (arch == "pna")
    found = network(x, graph)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=1e-4)


def test_input_dropout_of_sparse_features_keeps_the_mean():
    x = torch.zeros(40, 50)
    x[torch.arange(40), torch.arange(40)] = 1.0
    network = NodeNetwork("mlp", 50, 16, 5, dropout=0.0, input_dropout=0.25)
    graph = network.prepare(torch.zeros(2, 0, dtype=torch.long), 40)
    network.keep_features(x, graph)
    torch.manual_seed(0)
    seen = torch.stack([network._input(x, graph).to_dense().diagonal() for _ in range(400)])
    assert sorted(seen.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert float(seen.mean()) == pytest.approx(1.0, abs=0.02)


def dgi() -> NodeClassifier:
    torch.manual_seed(0)
    return NodeClassifier(arch="dgi", **KARATE, hidden=32, layers=1, dropout=0.0)


def test_dgi_has_pygs_loss_and_score():
    module, data = dgi(), KarateClub()
    data.setup("fit")
    graph = data.graph
    order = torch.randperm(34, generator=torch.Generator().manual_seed(5))
    parts = {"summary": lambda z, *_: z.mean(dim=0).sigmoid(), "corruption": lambda x, e: (x[order], e)}
    reference = DeepGraphInfomax(32, encoder=module.encoder, **parts)
    reference.load_state_dict(module.network.state_dict())
    loss = module._contrast(graph, torch.Generator().manual_seed(5))
    torch.testing.assert_close(loss, reference.loss(*reference(graph.x, graph.edge_index)))
    trained(module, data, 20)
    (result,) = trainer().test(module, data, verbose=False)
    z = module.eval().encoder(graph.x, graph.edge_index)
    right = probe(z, graph.y, graph.train_mask, 4).argmax(dim=1) == graph.y
    assert result["test/micro_f1"] == pytest.approx(float(right[graph.test_mask].float().mean()))


def test_dgis_probe_learns_from_codes_as_small_as_dgis():
    """Without a penalty 100 steps of Adam are the release's; scikit-learn's C = 1 holds weights near 0."""
    torch.manual_seed(0)
    codes, y = 0.006 * torch.randn(60, 32), torch.arange(60) % 3
    codes[torch.arange(60), y] += 0.006
    train = torch.arange(60) < 45
    scores = probe(codes, y, train, 4)
    linear = torch.nn.Linear(32, 4)
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.zero_()
    optimizer = torch.optim.Adam(linear.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        functional.cross_entropy(linear(codes[train]), y[train]).backward()
        optimizer.step()
    torch.testing.assert_close(scores[:, :3], linear(codes)[:, :3])
    assert (scores[:, 3] == -1e4).all()  # no training node has the class
    confidence = scores[train].softmax(dim=1)[torch.arange(45), y[train]].mean()
    assert confidence > 0.345  # C = 1 gives .34, a third being chance


def test_dgi_never_sees_a_label_in_training():
    modules = []
    for change in (False, True):
        module, data = dgi(), KarateClub()
        read = data.read

        def changed(read: Any = read, change: bool = change) -> Any:
            graph = read()
            if change:
                graph.y = 3 - graph.y
            return graph

        data.read = changed
        trained(module, data, 5)
        modules.append(module)
    for a, b in zip(*(m.state_dict().values() for m in modules), strict=True):
        assert torch.equal(a, b)


def test_micro_f1_over_batches_is_that_of_the_whole():
    g = torch.Generator().manual_seed(0)
    scores, y = torch.randn(50, 6, generator=g), (torch.rand(50, 6, generator=g) < 0.3).float()
    metric = MicroF1()
    for part in (slice(0, 7), slice(7, 50)):
        loss = functional.binary_cross_entropy_with_logits(scores[part], y[part])
        metric.update(scores[part], y[part], loss)
    found = metric.compute()
    expected = multilabel_f1_score(scores.sigmoid(), y.long(), 6, average="micro")
    torch.testing.assert_close(found["micro_f1"], expected)
    torch.testing.assert_close(found["loss"], functional.binary_cross_entropy_with_logits(scores, y))
    accuracy = MicroF1()
    accuracy.update(torch.eye(3), torch.tensor([0, 1, 0]), torch.tensor(1.0))
    assert float(accuracy.compute()["micro_f1"]) == pytest.approx(2 / 3)


def test_the_energy_is_the_quotient_of_the_normalised_laplacian():
    edges = to_undirected(torch.tensor([[0, 1, 2, 2], [1, 2, 3, 4]]))
    adjacency = torch.zeros(5, 5).index_put((edges[0], edges[1]), torch.tensor(1.0)) + torch.eye(5)
    scale = adjacency.sum(1).rsqrt()
    laplacian = torch.eye(5) - scale[:, None] * adjacency * scale
    h = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = (h * (laplacian @ h)).sum() / h.square().sum()
    assert dirichlet_energy(h, edges) == pytest.approx(float(expected), rel=1e-5)
    assert dirichlet_energy(adjacency.sum(1).sqrt()[:, None], edges) == pytest.approx(0, abs=1e-6)


def test_homophily_of_edges_and_nodes():
    edges, y = to_undirected(torch.tensor([[0, 1, 2], [1, 2, 3]])), torch.tensor([0, 0, 1, 1, 1])
    assert edge_homophily(edges, y) == pytest.approx(2 / 3)
    assert node_homophily(edges, y)[:4].tolist() == [1.0, 0.5, 0.5, 1.0]
    assert bool(node_homophily(edges, y)[4].isnan())
    several = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert edge_homophily(edges, several) == pytest.approx(2 / 3)


def test_sixteen_layers_of_gcn_smooth_and_gcnii_does_not():
    data = BlockModel()
    data.setup("fit")
    energy = {}
    for arch, layers in (("gcn", 2), ("gcn", 16), ("gcnii", 16)):
        torch.manual_seed(0)
        network = NodeNetwork(arch, 16, 64, 4, num_layers=layers).eval()
        states, _ = network.embed(data.graph.x, data.graph.edge_index)
        energy[arch, layers] = dirichlet_energy(states[-1], data.graph.edge_index)
    assert energy["gcn", 16] < 0.02
    assert energy["gcn", 2] > 4 * energy["gcn", 16]
    assert energy["gcnii", 16] > 4 * energy["gcn", 16]


@pytest.mark.slow
def test_a_gcn_of_sixteen_layers_falls_and_appnp_and_gcnii_do_not():
    scores = {}
    for arch, layers, extra in (("gcn", 2, {}), ("gcn", 16, {}), ("appnp", 2, {"K": 16}), ("gcnii", 16, {})):
        torch.manual_seed(0)
        module = NodeClassifier(arch=arch, features=16, num_classes=4, layers=layers, patience=None, **extra)
        data = BlockModel()
        t = trained(module, data, 150, limit_val_batches=0)
        scores[arch, layers] = t.test(module, data, verbose=False)[0]["test/micro_f1"]
    assert scores["gcn", 16] < scores["gcn", 2] - 0.1
    assert min(scores["appnp", 2], scores["gcnii", 16]) > scores["gcn", 16] + 0.1


@pytest.mark.parametrize(("arguments", "message"), [
    ({"K": 3}, "gcn has no option K"),
    ({"select": "luck"}, "select must be accuracy or loss"),
    ({"arch": "dgi", "multi_label": True}, "no multi_label"),
])  # fmt: skip
def test_impossible_arguments_get_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        NodeClassifier(**(KARATE | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arguments", "settings", "message"), [
    ({"features": 33}, {}, "features is 33, but the data .datamodules.KarateClub. has 34"),
    ({"num_classes": 3}, {}, "num_classes is 3, but"),
    ({"multi_label": True}, {}, "multi_label is True, but .* has one class per node; set it to False"),
    ({}, {"accumulate_grad_batches": 2}, "accumulate_grad_batches: 1"),
])  # fmt: skip
def test_data_that_do_not_fit_get_one_line(arguments, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        trained(NodeClassifier(**(KARATE | arguments)), KarateClub(), 1, **settings)
    assert "\n" not in str(caught.value)


def test_several_processes_on_one_graph_are_refused():
    module, data = NodeClassifier(**KARATE), KarateClub()
    data.setup("fit")
    module._trainer = mock.Mock(world_size=2, accumulate_grad_batches=1, datamodule=data)
    message = r"2 processes would do the same work; set trainer.devices: 1 and .* sampled neighbours"
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


def test_edge_weights_that_the_network_cannot_use_are_refused_before_training():
    class Weighted(KarateClub):
        def read(self) -> Any:
            graph = super().read()
            graph.edge_weight = torch.ones(graph.edge_index.shape[1])
            return graph

    with pytest.raises(ValueError, match="has edge_weight, which sage does not take"):
        trained(NodeClassifier(arch="sage", **KARATE), Weighted(), 1)
    trained(NodeClassifier(arch="gcn", **KARATE), Weighted(), 1)


def test_prediction_writes_every_node_and_a_picture(tmp_path):
    module, data = NodeClassifier(**KARATE), KarateClub()
    t = trained(module, data, 5)
    (result,) = t.predict(module, data)
    paths = result.write(tmp_path)
    assert [p.name for p in paths] == ["scores.csv", "nodes.png"]
    with paths[0].open() as file:
        rows = list(csv.DictReader(file))
    assert ([int(r["name"]) for r in rows], [r["split"] for r in rows].count("train")) == (list(range(34)), 4)
    scores = np.array([[float(r[str(c)]) for c in range(4)] for r in rows])
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert [int(r["prediction"]) for r in rows] == scores.argmax(axis=1).tolist()
    assert paths[1].stat().st_size > 10_000


def fit(root: Path, *flags: str) -> Path:
    often = ["--trainer.val_check_interval=3", "--trainer.log_every_n_steps=2"]
    short = ["--model.init_args.patience=9", "--trainer.max_steps=14", "--checkpoint.every_n_train_steps=4"]
    return run("fit", "gnn_node_karate", root, *often, *short, *flags)


def dying(step: int) -> Any:
    """The process dies before optimiser step ``step`` is done."""
    original = NodeClassifier.training_step

    def training_step(self: NodeClassifier, *args: Any) -> Any:
        if self.trainer.global_step == step:
            raise Killed
        return original(self, *args)

    return mock.patch.object(NodeClassifier, "training_step", training_step)


@pytest.mark.parametrize("flags", [[], ["--model.init_args.arch=dgi", "--model.init_args.layers=1"]])
def test_a_killed_run_goes_on_to_the_same_bits(flags, tmp_path):
    whole = fit(tmp_path / "whole", *flags)
    for step in (5, 9):
        with dying(step), pytest.raises(Killed):
            fit(tmp_path / "killed", *flags, *(["--ckpt_path=last"] if step > 5 else []))
    assert run_differences(whole, fit(tmp_path / "killed", *flags, "--ckpt_path=last")) == []


def test_patience_goes_on_counting_after_a_resume(tmp_path):
    """Rate 0: better at step 3 alone, stopped at 9. A count that began anew at step 4 would stop at 12."""
    flags = ["--model.init_args.patience=2", "--model.init_args.optimizer=torch.optim.Adam"]
    flags += ["--model.init_args.optimizer.init_args.lr=0.0", "--checkpoint.every_n_train_steps=4"]
    whole = fit(tmp_path / "whole", *flags)
    assert newest_checkpoint(whole).name == "step=00000009.ckpt"
    with dying(5), pytest.raises(Killed):
        fit(tmp_path / "killed", *flags)
    assert run_differences(whole, fit(tmp_path / "killed", *flags, "--ckpt_path=last")) == []
