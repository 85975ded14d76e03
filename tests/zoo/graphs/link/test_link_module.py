"""The LinkPredictor: what a step does, what evaluation uses, what predict leaves, what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from commands import run
from covering import covering
from interruption import Killed, newest_checkpoint, run_differences
from lightning.pytorch import Trainer
from quiet import quiet_trainer
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch_geometric.nn import ARGVA, GCNConv
from torch_geometric.nn.models import autoencoder as theirs

import cli
import zoo
from datamodules import KarateClub, LinkSplit
from zoo.graphs.link.module import LINK_MODELS, LinkPredictor
from zoo.graphs.link.network import sample_non_edges
from zoo.graphs.link.report import ranks, top_new_links
from zoo.graphs.node.network import NODE_ARCHS
from zoo.randomness import generator, global_seed

KARATE = {"features": 34, "hidden": 8, "embedding": 4}


def trainer(steps: int = 1, **settings: Any) -> Trainer:
    return quiet_trainer(
        **{"max_steps": steps, "num_sanity_val_steps": 0, "limit_val_batches": 0, **settings}
    )


def karate() -> LinkSplit:
    data = LinkSplit(KarateClub(), val=0.1, test=0.1)
    data.setup("fit")
    return data


def trained(steps: int, **settings: Any) -> LinkPredictor:
    torch.manual_seed(0)
    model = LinkPredictor(**{**KARATE, **settings})
    trainer(steps).fit(model, karate())
    return model


class Example(nn.Module):
    """PyG's variational encoder, examples/autoencoder.py."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv_mu, self.conv_logstd = GCNConv(34, 8), GCNConv(8, 4), GCNConv(8, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv1(x, edge_index).relu()
        return self.conv_mu(x, edge_index), self.conv_logstd(x, edge_index)


@pytest.mark.parametrize("discriminator_steps", [1, 3])
def test_steps_are_those_of_pygs_argva_example(discriminator_steps: int) -> None:
    """The same weights after six steps of the Trainer and of PyG's loop given the same draws."""
    torch.manual_seed(0)
    settings = {"discriminator_hidden": [6, 5], "discriminator_steps": discriminator_steps}
    model = LinkPredictor(**KARATE, model="arvga", **settings)  # type: ignore[arg-type]
    encoder = Example()
    disc = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))
    pyg = ARGVA(encoder, disc)  # re-initialises both
    first, last = (c.state_dict() for c in model.network.encoder.convs)  # type: ignore[union-attr]
    encoder.conv1.load_state_dict(first)
    encoder.conv_mu.load_state_dict({k: v[:4] for k, v in last.items()})
    encoder.conv_logstd.load_state_dict({k: v[4:] for k, v in last.items()})
    disc.load_state_dict(model.network.discriminator.state_dict())  # type: ignore[union-attr,arg-type]

    data = karate()
    graph, fit = data.graph, trainer(6)
    fit.fit(model, data)
    assert fit.global_step == 6  # the discriminator's steps are not counted
    rates = ((encoder, 0.01), (disc, 0.001))
    optimizers = [torch.optim.Adam(part.parameters(), lr=rate) for part, rate in rates]
    for step in range(6):
        random = generator(100, global_seed(), step, 0)
        non_edges = sample_non_edges(graph.train_edges, 34, graph.train_edges.shape[1], random)
        noise = [torch.randn(34, 4, generator=random) for _ in range(1 + discriminator_steps)]
        with mock.patch.object(theirs.torch, "randn_like", side_effect=noise):
            optimizers[0].zero_grad()
            z = pyg.encode(graph.x, graph.edge_index)
            for _ in range(discriminator_steps):
                optimizers[1].zero_grad()
                pyg.discriminator_loss(z).backward()
                optimizers[1].step()
            loss = pyg.recon_loss(z, graph.train_edges, non_edges) + pyg.reg_loss(z) + pyg.kl_loss() / 34
            loss.backward()
            optimizers[0].step()
    ours = [c.lin.weight for c in model.network.encoder.convs]  # type: ignore[union-attr]
    both = torch.cat([encoder.conv_mu.lin.weight, encoder.conv_logstd.lin.weight])
    torch.testing.assert_close(ours[0], encoder.conv1.lin.weight, rtol=0, atol=2e-6)
    torch.testing.assert_close(ours[1], both, rtol=0, atol=2e-6)
    torch.testing.assert_close(model.network.discriminator[0].weight, disc[0].weight, rtol=0, atol=2e-6)  # type: ignore


def logged(model: LinkPredictor, **draws: Any) -> dict[str, float]:
    """What one training step logs."""
    fit = trainer()
    fit.fit(model, karate())
    return {k: float(v) for k, v in fit.callback_metrics.items()}


@pytest.mark.parametrize(("given", "weight"), [(None, 1 / 34), (0.0, 0.0), (2.5, 2.5)])
def test_the_kl_term_has_a_second_weight_1_over_n(given: float | None, weight: float) -> None:
    torch.manual_seed(0)
    found = logged(LinkPredictor(**KARATE, kl_weight=given))  # type: ignore[arg-type]
    expected = found["train/reconstruction"] + weight * found["train/kl"]
    assert found["train/kl"] > 0.01
    assert found["train/loss"] == pytest.approx(expected, rel=1e-6)


def test_terms_of_each_model() -> None:
    terms = {
        "gae": set(),
        "vgae": {"kl"},
        "arga": {"regularisation", "discriminator"},
        "arvga": {"kl", "regularisation", "discriminator"},
    }
    for name, extra in terms.items():
        found = logged(LinkPredictor(**KARATE, model=name))  # type: ignore[arg-type]
        assert set(found) == {f"train/{k}" for k in {"loss", "reconstruction", *extra}}


def test_as_many_non_edges_as_edges_other_ones_each_step_by_seed_and_step() -> None:
    def drawn(steps: int) -> list[Tensor]:
        found: list[Tensor] = []

        def keep(*arguments: Any) -> Tensor:
            found.append(sample_non_edges(*arguments))
            return found[-1]

        with mock.patch("zoo.graphs.link.module.sample_non_edges", keep):
            torch.manual_seed(len(found))  # the global generator decides nothing
            trained(steps)
        return found

    first, again = drawn(3), drawn(3)
    edges = karate().graph.train_edges
    assert all(f.shape == edges.shape for f in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_disjoint_edges_are_scored_and_pass_no_message() -> None:
    model, batch = LinkPredictor(**KARATE, disjoint_share=0.25), karate().graph  # type: ignore[arg-type]
    messages, scored = model._messages(batch, torch.Generator().manual_seed(0))
    assert isinstance(messages, Tensor)
    total = batch.train_edges.shape[1]
    assert (scored.shape[1], messages.shape[1]) == (round(total / 4), 2 * (total - scored.shape[1]))
    along = {tuple(p) for p in messages.T.tolist()}
    assert not along & {tuple(p) for p in torch.cat([scored, scored.flip(0)], 1).T.tolist()}


@pytest.mark.parametrize("arch", NODE_ARCHS)
def test_every_architecture_is_one_argument(arch: Any) -> None:
    model = trained(3, arch=arch, hidden=16)
    assert torch.isfinite(model.embed(karate().graph)).all()  # type: ignore[arg-type]


def test_learning_lowers_the_loss_and_dense_learns_the_same_ranking() -> None:
    graph = karate().graph
    for loss in ("sampled", "dense"):
        model = trained(150, model="gae", loss=loss)
        edges, others = (float(model(graph, p).mean()) for p in (graph.train_edges, graph.val_non_edges))
        assert edges > others + 1


def test_evaluation_ranks_the_means_and_no_sample() -> None:
    model, data = trained(40), karate()
    last = model.network.encoder.convs[-1]  # type: ignore[union-attr]
    with torch.no_grad():
        last.bias[4:] += 4  # sigma e^4 larger: a sample would rank by noise
    mean = model.network.encode(data.graph.x, data.graph.edge_index)[0]
    (found,) = trainer().test(model, data, verbose=False)
    scores = [(mean[p[0]] * mean[p[1]]).sum(1) for p in (data.graph.test_edges, data.graph.test_non_edges)]
    truth = [1] * len(scores[0]) + [0] * len(scores[1])
    values = torch.cat(scores).detach().numpy()
    assert found["test/auc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-6)
    assert found["test/ap"] == pytest.approx(average_precision_score(truth, values), abs=1e-6)
    assert found == trainer().test(model, data, verbose=False)[0]
    model.train()
    assert torch.equal(model.embed(data.graph), model.embed(data.graph))  # type: ignore[arg-type]


def test_held_out_edges_change_no_embedding() -> None:
    model, graph = trained(5), karate().graph
    before = model.embed(graph)
    for name in ("val_edges", "test_edges"):
        graph[name] = graph[name][:, :0]
    assert torch.equal(model.embed(graph), before)  # type: ignore[arg-type]
    along = {tuple(p) for p in model._structure[1].T.tolist()}  # type: ignore[index]
    held = karate().graph
    for name in ("val_edges", "test_edges"):
        pairs = held[name]
        assert not along & {tuple(p) for p in torch.cat([pairs, pairs.flip(0)], 1).T.tolist()}


def test_ranks_tell_apart_what_a_sigmoid_does_not() -> None:
    logits = torch.tensor([40.0, 30.0, -1.0, 30.0, -120.0])
    assert (logits.sigmoid()[0], ranks(logits).tolist()) == (logits.sigmoid()[1], [1, 2 / 3, 1 / 3, 2 / 3, 0])
    assert ranks(torch.zeros(3)).tolist() == [0, 0, 0]


def test_chance_is_one_half() -> None:
    (found,) = trainer().test(LinkPredictor(features=34, model="chance"), karate(), verbose=False)
    assert (found["test/auc"], found["test/ap"]) == (0.5, 0.5)
    assert "test/kmeans_nmi" not in found


def test_labels_are_found_again_in_a_trained_code() -> None:
    (found,) = trainer().test(trained(150, model="gae"), karate(), verbose=False)
    assert found["test/kmeans_nmi"] > 0.4
    assert found["test/probe_accuracy"] > 0.6


@pytest.mark.parametrize("at_once", [1 << 20, 100])
def test_new_links_are_the_best_pairs_that_no_set_holds(at_once: int) -> None:
    torch.manual_seed(0)
    values, known = torch.randn(30, 30), torch.triu_indices(30, 30, 1)[:, ::3]
    with mock.patch("zoo.graphs.link.report._PAIRS_AT_ONCE", at_once):
        pairs, scores = top_new_links(lambda p: values[p[0], p[1]], known, 30, 25)
    free = values.clone()
    free[known[0], known[1]] = -torch.inf
    expected = free[tuple(torch.triu_indices(30, 30, 1))].sort(descending=True).values[:25]
    assert torch.equal(scores, expected)
    assert torch.equal(values[pairs[0], pairs[1]], scores)
    assert top_new_links(lambda p: values[p[0], p[1]], known, 30, 0)[0].shape == (2, 0)


@pytest.mark.parametrize("name", ["vgae", "adamic_adar"])
def test_predictions_are_files_that_a_person_reads(name: str, tmp_path: Path) -> None:
    model, data = trained(20, model=name, top_k=7), karate()
    (prediction,) = trainer().predict(model, data)  # type: ignore[misc]
    written = prediction.write(tmp_path)
    names = ["scores.csv", "links.png", *(["embedding.npz"] if name == "vgae" else [])]
    assert [p.name for p in written] == names
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    graph = data.graph
    assert [r["set"] for r in rows].count("new") == 7
    test = [r for r in rows if r["set"] == "test" and r["edge"] == "1"]
    assert [[int(r["a"]), int(r["b"])] for r in test] == graph.test_edges.T.tolist()
    expected = model(graph, graph.test_edges).sigmoid().tolist()
    assert [float(r["probability"]) for r in test] == pytest.approx(expected, abs=1e-5)
    known = {tuple(p) for n in ("train", "val", "test") for p in graph[f"{n}_edges"].T.tolist()}
    assert not known & {(int(r["a"]), int(r["b"])) for r in rows if r["set"] == "new"}
    if name == "vgae":
        content = np.load(tmp_path / "embedding.npz", allow_pickle=False)
        assert (content["embedding"].shape, content["label"].tolist()) == ((34, 4), graph.y.tolist())


@pytest.mark.parametrize(("settings", "words"), [
    ({"model": "gan"}, "model must be one of gae, vgae"),
    ({"loss": "dense", "decoder": "mlp"}, "needs decoder: dot"),
    ({"loss": "dense", "model": "jaccard"}, "a model that learns"),
    ({"arch": "gnc"}, "arch must be one of"),
    ({"model": "jaccard", "K": 3}, "model jaccard has no encoder and no option K"),
])  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LinkPredictor(**settings)


@pytest.mark.parametrize(("flags", "words"), [
    (["--model.init_args.features=35"], ["model.init_args.features is 35", "has 34; set"]),
    (["--trainer.devices=2"], ["one graph, which is one batch", "trainer.devices: 1"]),
    (["--data=datamodules.KarateClub"], ["holds out none", "datamodules.LinkSplit"]),
])  # fmt: skip
def test_mistakes_are_one_line(flags: list[str], words: list[str], tmp_path: Path, capfd: Any) -> None:
    # Lightning starts the second process, which would refuse as well, before it asks the module
    launcher = "lightning.pytorch.strategies.launchers.subprocess_script._SubprocessScriptLauncher"
    strategy = "lightning.pytorch.strategies.ddp.DDPStrategy.setup_environment"
    with mock.patch(strategy), mock.patch(f"{launcher}._call_children_scripts"):
        code = cli.main(["fit", "--config=gnn_link_karate", f"--trainer.default_root_dir={tmp_path}", *flags])
    (line,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("zoo: error")]
    assert code != 0
    assert all(w in line for w in words), line


def test_two_optimisers_refuse_a_loss_scaler() -> None:
    model = LinkPredictor(**KARATE, model="arga")  # type: ignore[arg-type]
    fit = trainer()
    scaled = mock.patch.object(type(fit), "precision", "16-mixed")
    with scaled, pytest.raises(ValueError, match="one loss scaler cannot serve"):
        fit.fit(model, karate())


def fit(root: Path, *flags: str) -> Path:
    own = ["--model.init_args.dropout=0.3"]
    often = ["--trainer.val_check_interval=5", "--trainer.log_every_n_steps=2"]
    saved = ["--trainer.max_steps=12", "--checkpoint.every_n_train_steps=4"]
    return run("fit", "gnn_link_karate", root, *own, *often, *saved, *flags)


@pytest.mark.parametrize(
    ("name", "steps"),
    covering([("arvga", (5, 8)), ("vgae", (6,)), ("jaccard", (7,))], [("arvga", (5, 8)), ("jaccard", (7,))]),
)
def test_a_killed_training_goes_on_to_the_same_bits(name: str, steps: Any, tmp_path: Path) -> None:
    flags = [f"--model.init_args.model={name}"]
    flags += ["--model.init_args.discriminator_steps=2"] * (name == "arvga")
    whole = fit(tmp_path / "whole", *flags)
    # dies after the discriminator's steps, before the encoder's
    place = "_step_encoder" if name == "arvga" else "training_step"
    original = getattr(LinkPredictor, place)
    for step in steps:

        def dying(self: LinkPredictor, *args: Any, step: int = step) -> Any:
            if self.trainer.global_step == step:
                raise Killed
            return original(self, *args)

        root = tmp_path / str(step)
        with mock.patch.object(LinkPredictor, place, dying), pytest.raises(Killed):
            fit(root, *flags)
        assert run_differences(whole, fit(root, *flags, "--ckpt_path=last")) == []


def test_a_checkpoint_holds_both_optimisers(tmp_path: Path) -> None:
    folder = fit(tmp_path, "--model.init_args.model=arga", "--model.init_args.discriminator_steps=2")
    content = torch.load(newest_checkpoint(folder), weights_only=True)
    encoder, discriminator = content["optimizer_states"]
    assert float(encoder["state"][0]["step"]) == content["global_step"] == 12
    assert float(discriminator["state"][0]["step"]) == 24


def test_every_model_is_public() -> None:
    assert zoo.LinkPredictor is LinkPredictor
    assert len(set(LINK_MODELS)) == 9


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
