"""What the two LightningModules do step by step: phases, losses, evaluation, selection, refusals."""

from __future__ import annotations

import copy
import csv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run, summary, words
from fakes.gaug import fake_gaug
from lightning.pytorch import Callback, Trainer
from quiet import quiet_trainer
from torch import Tensor

import cli
from datamodules import DigitsGraph, GAugGraph, KarateClub
from zoo import GAugM, GAugO
from zoo.gaug.adjacency import EdgeList, symmetrically_normalised
from zoo.gaug.blocks import block_around, sparse_candidates
from zoo.gaug.edges import relaxed_bernoulli
from zoo.gaug.graph import f1_by_degree, micro_f1, prepare
from zoo.gaug.network import normalised_for
from zoo.gaug.predictor import balance, reconstruction_loss
from zoo.metrics.epoch_end import Patience
from zoo.randomness import generator

SMALL_O: dict[str, Any] = {
    "features": 34, "num_classes": 4, "hidden": 16, "embedding": 8, "alpha": 0.5, "pretrain_ep": 3,
    "pretrain_nc": 2, "epochs": 5,
}  # fmt: skip
SMALL_M: dict[str, Any] = {
    "features": 34, "num_classes": 4, "hidden": 16, "remove": 10.0, "add": 20.0, "predictor_epochs": 4,
    "epochs": 4,
}  # fmt: skip


class Recorder(Callback):
    """Parameters before each step, and losses."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []
        self.moments: list[int] = []
        self.rates: list[tuple[float, ...]] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, *args: Any) -> None:
        self.states.append(copy.deepcopy(module.network.state_dict()))

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        state = trainer.optimizers[0].state
        self.moments.append(max((int(s["step"]) for s in state.values()), default=0))
        self.rates.append(tuple(g["lr"] for g in trainer.optimizers[0].param_groups))

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        self.states.append(copy.deepcopy(module.network.state_dict()))

    def moved(self, step: int, part: str) -> bool:
        a, b = self.states[step], self.states[step + 1]
        return any(not torch.equal(a[k], b[k]) for k in a if k.startswith(part))


def train(module: Any, data: Any = None, steps: int = 10, **trainer_arguments: Any) -> Recorder:
    recorder = Recorder()
    often = {"val_check_interval": 1, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    trainer = quiet_trainer(max_steps=steps, callbacks=[recorder], **often, **trainer_arguments)
    trainer.fit(module, data or KarateClub(steps_per_epoch=50))
    return recorder


def karate() -> Any:
    data = KarateClub()
    data.setup("fit")
    return data.graph


def test_phases_train_the_predictor_then_the_classifier_then_both() -> None:
    recorder = train(GAugO(**SMALL_O))
    assert [recorder.moved(s, "predictor") for s in range(10)] == [True] * 3 + [False] * 2 + [True] * 5
    assert [recorder.moved(s, "classifier") for s in range(10)] == [False] * 3 + [True] * 7
    # the joint training begins with fresh moments
    assert recorder.moments == [1, 2, 3, 3, 3, 1, 2, 3, 4, 5]


def test_the_predictor_stands_still_in_the_first_epoch_of_a_warmup() -> None:
    recorder = train(GAugO(**SMALL_O, warmup=5.0))
    assert (recorder.rates[0], recorder.rates[5]) == ((0.01, 0.01), (0.01, 0.0))
    assert recorder.rates[-1] == (0.01, 0.01)
    assert not recorder.moved(5, "predictor")
    assert recorder.moved(5, "classifier")
    assert recorder.moved(6, "predictor")


def test_losses_are_logged_apart_and_add_up() -> None:
    last = train(GAugO(**SMALL_O, beta=0.7)).logged[-1]
    both = last["train/node_loss"] + 0.7 * last["train/edge_loss"]
    assert last["train/loss"] == pytest.approx(both, rel=1e-6)
    assert last["train/node_loss"] != last["train/loss"]


def test_the_edge_loss_is_the_papers() -> None:
    """pos_weight and norm count the self-loops of A~; the target is A~ itself."""
    module, graph = GAugO(**SMALL_O), prepare(karate())
    a = torch.zeros(34, 34)
    a[graph.pairs[0], graph.pairs[1]] = 1
    a = a + a.T + torch.eye(34)
    z = module.network.predictor.embed(graph.x, graph.normalised)
    expected = reconstruction_loss(z @ z.T, a, *balance(34, 2 * 78 + 34))
    loss, _ = module._edges(graph, a, z, generator(0), sample=False)
    torch.testing.assert_close(loss, expected)


def test_the_sparse_edge_loss_and_graph_cover_all_pairs_when_asked() -> None:
    module = GAugO(**SMALL_O, sparse=True, candidates=None)
    graph = prepare(karate())
    z = module.network.predictor.embed(graph.x, graph.normalised).detach()
    sparse, _ = module._edges(graph, None, z, generator(0), sample=True)
    dense, _ = module._edges(graph, graph.looped.to_dense(), z, generator(0), sample=True)
    torch.testing.assert_close(sparse, dense)


def test_candidates_hold_edges_likely_and_random_pairs() -> None:
    graph = prepare(karate())
    z = torch.rand(34, 4, generator=torch.Generator().manual_seed(0))
    pairs, m, drawn = sparse_candidates(z, graph.pairs, 3, 0.5, generator(1))
    assert m == 78
    assert torch.equal(pairs[:, :m], graph.pairs)
    assert drawn.shape[1] == 39
    codes = pairs[0] * 34 + pairs[1]
    assert len(codes.unique()) == pairs.shape[1]
    assert (pairs[0] < pairs[1]).all()
    logits = (z @ z.T).fill_diagonal_(-torch.inf)
    for i in range(34):
        for j in logits[i].topk(3).indices.tolist():
            assert min(i, j) * 34 + max(i, j) in codes


def test_evaluation_is_on_the_given_graph_and_repeats() -> None:
    module = GAugO(**SMALL_O)
    train(module)
    module.eval()
    batch = karate()
    first, second = module(batch), module(batch)
    assert torch.equal(first, second)
    graph = prepare(batch)
    given = normalised_for("gcn", graph.looped)
    assert torch.equal(first, module.network.classifier(graph.x, given))
    # a sampled graph would give something else
    z = module.network.predictor.embed(graph.x, graph.normalised)
    _, sampled = module._edges(graph, graph.looped.to_dense(), z, generator(0), sample=True)
    assert sampled is not None
    assert not torch.allclose(first, module.network.classifier(graph.x, normalised_for("gcn", sampled)))


def test_alpha_zero_gives_the_predictor_no_classification_gradient() -> None:
    graph, gradients = prepare(karate()), {}
    for alpha in (0.0, 0.5):
        module = GAugO(**{**SMALL_O, "alpha": alpha, "beta": 0.0})
        z = module.network.predictor.embed(graph.x, graph.normalised)
        _, sampled = module._edges(graph, graph.looped.to_dense(), z, generator(0), sample=True)
        assert sampled is not None
        module.network.classifier(graph.x, normalised_for("gcn", sampled)).square().sum().backward()
        gradients[alpha] = float(module.network.predictor.w0.grad.abs().max())  # type: ignore[union-attr]
    assert gradients[0.0] == 0
    assert gradients[0.5] > 0


@pytest.mark.parametrize("backbone", ["gcn", "gsage", "gat", "jknet"])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_classifier_trains_dense_and_sparse(backbone: Any, sparse: bool) -> None:
    recorder = train(GAugO(**SMALL_O, backbone=backbone, sparse=sparse))
    assert recorder.moved(9, "classifier")
    assert all(np.isfinite(row["train/loss"]) for row in recorder.logged)


@pytest.mark.parametrize("settings", [
    {"sampler": "add_round"}, {"sampler": "rand"}, {"sampler": "edge"},
    {"probability": "sigmoid"}, {"predictor": "vgae"}, {"batch_norm": True, "layers": 3},
    {"seeds_per_step": 2, "pretrain_lr": 0.02}, {"seeds_per_step": 2, "sparse": True, "batch_cap": 9},
])  # fmt: skip
def test_every_switch_trains(settings: dict[str, Any]) -> None:
    recorder = train(GAugO(**SMALL_O, **settings))
    assert recorder.moved(9, "classifier")
    assert recorder.moved(9, "predictor")
    if "pretrain_lr" in settings:
        assert (recorder.rates[0], recorder.rates[5]) == ((0.02, 0.02), (0.01, 0.01))


def test_the_kl_term_is_in_the_pretraining_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(mean: Tensor, log_std: Tensor) -> Tensor:
        calls.append(1)
        return mean.sum() * 0

    monkeypatch.setattr("zoo.gaug.module_o.kl_term", counted)
    train(GAugO(**SMALL_O, predictor="vgae"))
    assert len(calls) == 3


def test_a_block_is_the_induced_neighbourhood_of_its_seeds() -> None:
    graph = prepare(karate())
    block = block_around(graph, 2, 1000, generator(3))
    assert int(block.masks["train"].sum()) == 2
    whole = graph.looped.to_dense()
    nodes = block.x.to_dense().argmax(dim=1).tolist()  # features are the identity
    torch.testing.assert_close(block.looped.to_dense(), whole[nodes][:, nodes])
    seeds = [n for n, s in zip(nodes, block.masks["train"].tolist(), strict=True) if s]
    reach = (torch.linalg.matrix_power(whole, 2)[seeds].sum(dim=0) > 0).nonzero()[:, 0]
    assert nodes == reach.tolist()
    capped = block_around(graph, 2, 9, generator(3))
    assert (capped.nodes, int(capped.masks["train"].sum())) == (9, 2)


def test_blocks_need_no_matrix_of_the_whole_graph_in_tests_and_predictions(monkeypatch: Any) -> None:
    module = GAugO(**{**SMALL_O, "alpha": 0.0}, seeds_per_step=2)
    sizes: list[int] = []
    to_dense = EdgeList.to_dense
    monkeypatch.setattr(EdgeList, "to_dense", lambda a: sizes.append(a.nodes) or to_dense(a))
    batch = karate()
    graph, predicted = module._given(batch), module.predict_step(batch, 0)
    assert sizes == []
    # alpha 0: the sample is the given graph
    assert {*map(tuple, predicted.changed.T.tolist())} == {*map(tuple, graph.pairs.T.tolist())}


def test_a_dense_sample_and_a_dead_predictor_are_told() -> None:
    with pytest.warns(UserWarning, match="mean degree"):
        train(GAugO(**{**SMALL_O, "features": 64, "num_classes": 10}, sampler="rand"), DigitsGraph(nodes=300))
    module = GAugO(**SMALL_O)
    torch.nn.init.zeros_(module.network.predictor.w1)
    with pytest.warns(UserWarning, match="predictor died"):
        train(module)


@pytest.mark.parametrize(
    ("remove", "add", "edges"), [(10.0, 20.0, 78 - 7 + 15), (0.0, 0.0, 78), (50.0, 0.0, 39)]
)
def test_the_classifier_sees_the_modified_graph(remove: float, add: float, edges: int) -> None:
    module = GAugM(**{**SMALL_M, "remove": remove, "add": add})
    recorder = train(module, steps=8)
    assert module._changed is not None
    assert module._changed.shape[1] == edges
    assert [recorder.moved(s, "predictor") for s in (0, 1, 2, 3, 5, 6, 7)] == [True] * 4 + [False] * 3
    assert [recorder.moved(s, "classifier") for s in range(8)] == [False] * 4 + [True] * 4
    assert recorder.moments == [1, 2, 3, 4, 1, 2, 3, 4]


def test_the_predictor_of_the_best_validation_roc_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([(0.6, 0.0), (0.9, 0.0), (0.9, 0.0), (0.7, 0.0)])
    monkeypatch.setattr("zoo.gaug.module_m.edge_quality", lambda *a: next(scores))
    recorder = train(GAugM(**SMALL_M), steps=6)
    # .9 first came from the weights before step 1; an equal later score does not replace them
    for key, value in recorder.states[-1].items():
        if key.startswith("predictor"):
            assert torch.equal(value, recorder.states[1][key]), key


@pytest.mark.parametrize("backbone", ["gcn", "gsage", "gat", "jknet"])
def test_every_classifier_trains_on_the_modified_graph(backbone: Any) -> None:
    assert train(GAugM(**SMALL_M, backbone=backbone), steps=8).moved(7, "classifier")


def test_original_evaluation_uses_the_given_graph() -> None:
    module = GAugM(**SMALL_M, eval_on="original")
    train(module, steps=8)
    module.eval()
    batch, graph = karate(), prepare(karate())
    index = torch.cat([graph.pairs, graph.pairs.flip(0)], dim=1)
    assert torch.equal(module(batch), module.network.classifier(batch.x, index))
    module.hparams["eval_on"] = "modified"
    assert not torch.allclose(module(batch), module.network.classifier(batch.x, index))


def test_the_controls_and_baselines_change_what_they_should() -> None:
    plain = GAugM(**SMALL_M, augmentation="none")
    train(plain, steps=4)
    assert plain._changed is None
    assert plain.network.predictor is None
    control = GAugM(**SMALL_M, augmentation="random")
    train(control, steps=4)
    assert control._changed is not None
    assert control._changed.shape[1] == 78 - 7 + 15
    drop = GAugM(**SMALL_M, augmentation="dropedge", drop_rate=0.5)
    train(drop, steps=4)
    assert drop._changed is None  # evaluation on the whole graph


def test_adaedge_adjusts_the_graph_and_begins_a_new_classifier() -> None:
    module = GAugM(**{**SMALL_M, "epochs": 40, "add": 50.0}, augmentation="adaedge", ada_confidence=0.4)
    recorder = train(module, steps=44)
    assert module._changed is not None
    assert not torch.equal(module._changed, prepare(karate()).pairs)
    assert recorder.moments[39:42] == [40, 1, 2]


def test_a_released_probability_file_takes_the_predictors_place(tmp_path: Path) -> None:
    root = fake_gaug(tmp_path, "own")
    label = np.arange(60) % 3
    q = np.where(label[:, None] == label[None, :], 0.9, 0.1) + np.random.default_rng(0).random((60, 60)) / 100
    np.save(root / "own_graph_0.npy", np.triu(q, 1) + np.triu(q, 1).T)
    pairs = np.stack(np.nonzero(np.triu(q, 1)))
    np.savez(root / "own_top.npz", pairs=pairs, probability=q[pairs[0], pairs[1]])
    changed = []
    for name in ("own_graph_0.npy", "own_top.npz"):
        data = GAugGraph("own", str(root), edge_probabilities=name, steps_per_epoch=10)
        sizes = {**SMALL_M, "features": 12, "num_classes": 3}
        module = GAugM(**sizes, predictor="file")
        train(module, data, steps=4)
        assert module.network.predictor is None
        assert module._changed is not None
        changed.append({tuple(p) for p in module._changed.T.tolist()})
    assert changed[0] == changed[1]
    with pytest.raises(ValueError, match=r"data\.init_args\.edge_probabilities"):
        train(GAugM(**sizes, predictor="file"), GAugGraph("own", str(root)), steps=4)


def test_the_sampled_loss_is_an_estimate_of_the_whole_one() -> None:
    module, graph = GAugM(**SMALL_M, sampled_loss=True), prepare(karate())
    z = torch.randn(34, 4, generator=torch.Generator().manual_seed(0))
    pos_weight, norm = balance(34, 2 * 78)
    target = torch.eye(34)
    target[graph.pairs[0], graph.pairs[1]] = 1
    whole = float(reconstruction_loss(z @ z.T, target, pos_weight, norm))
    draws = torch.stack([module._sampled_loss(z, graph, pos_weight, norm, generator(i)) for i in range(500)])
    assert abs(float(draws.mean()) - whole) < 3 * float(draws.std()) / 500**0.5
    train(module, steps=8)


def test_a_collapsed_predictor_is_told() -> None:
    module = GAugM(**SMALL_M)
    predictor, batch = module.network.predictor, karate()
    assert predictor is not None
    for weight, value in ((predictor.w0, 1.0), (predictor.w1, 0.0), (predictor.w2, -10.0)):
        torch.nn.init.constant_(weight, value)  # type: ignore[arg-type]
    graph = prepare(batch)
    with pytest.warns(UserWarning, match="collapsed"):
        module._modified(batch, graph)


def test_raw_features_are_the_predictors_alone_beside_a_classifier_on_l1_ones(tmp_path: Path) -> None:
    """On data left raw; where the data have L1 rows already, ``predictor_l1: false`` would change nothing."""
    raw = GAugGraph("cora", root=str(fake_gaug(tmp_path, "cora")), normalize="none")
    raw.setup("fit")
    small = {**SMALL_M, "features": 12, "num_classes": 3}
    module = GAugM(**small, predictor_l1=False, classifier_l1=True)
    graph = module._given(raw.graph)
    rows = raw.graph.x.sum(dim=1)
    assert (rows > 1.5).any()
    assert torch.equal(module._predictor_features(graph).to_dense(), raw.graph.x)
    torch.testing.assert_close(module._classifier_features(graph), raw.graph.x / rows[:, None])
    released = GAugGraph("cora", root=str(tmp_path))
    released.setup("fit")
    with pytest.raises(ValueError, match=r"predictor_l1 is false, but .* set data.init_args.normalize: none"):
        GAugM(**small, predictor_l1=False)._given(released.graph)
    GAugM(**small, predictor_l1=False, augmentation="none")._given(released.graph)  # no predictor to ask


def test_selection_is_strict_and_needs_a_score_above_zero() -> None:
    selection = Patience(2, best=0.0)
    assert [selection.exhausted(s) for s in (0.0, 0.5, 0.5, 0.6, 0.6, 0.1)] == [False] * 5 + [True]
    assert (selection.best, selection.state()) == (0.6, {"best": 0.6, "waited": 2})


@pytest.mark.parametrize(
    "module", [GAugO(**{**SMALL_O, "epochs": 50}, patience=3), GAugM(**SMALL_M, patience=2)]
)
def test_patience_counts_the_epochs_that_matter_alone(module: Any) -> None:
    torch.nn.init.zeros_(next(module.network.classifier.parameters()))
    with torch.no_grad():
        for p in module.network.parameters():
            p.zero_()
    module.selection.best = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recorder = train(module, steps=40)
    start = getattr(module, "joint_start", None) or module.start
    assert len(recorder.logged) == start + module.hparams["patience"]


def test_micro_f1_of_single_and_several_labels() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, -1.0]])
    assert micro_f1(logits, torch.tensor([0, 0, 0])) == pytest.approx(2 / 3)
    several = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    # predicted 1 1 / 0 1 / 1 0: two hits, four predicted, three true
    assert micro_f1(logits, several) == pytest.approx(2 * 2 / 7)
    assert micro_f1(-torch.ones(2, 2), torch.ones(2, 2)) == 0


def test_groups_by_degree_are_quarters_from_few_to_many_neighbours() -> None:
    graph = prepare(karate())
    logits = torch.nn.functional.one_hot(graph.y, 4).float()
    nodes = graph.masks["test"].nonzero()[:, 0]
    few = nodes[graph.degree[nodes].argsort(stable=True)][:6]
    logits[few] = -logits[few]
    values = f1_by_degree(logits, graph, "test")
    assert values["f1_degree_q1"] == 0
    assert values["f1_degree_q3"] == values["f1_degree_q4"] == 1


@pytest.mark.parametrize(("cls", "small"), [(GAugO, SMALL_O), (GAugM, SMALL_M)])
def test_multi_hot_labels_train_with_binary_losses(cls: Any, small: dict[str, Any], tmp_path: Path) -> None:
    root = fake_gaug(tmp_path, "own", several=True)
    data = GAugGraph("own", str(root), steps_per_epoch=20)
    recorder = train(cls(**{**small, "features": 12, "num_classes": 3}), data, steps=15)
    assert recorder.moved(7, "classifier")
    assert len(recorder.logged) == (10 if cls is GAugO else 8)  # the epochs bound the run
    assert 0 <= recorder.logged[-1]["val/micro_f1"] <= 1


@pytest.mark.parametrize("name", ["GAugO", "GAugM"])
def test_other_sizes_and_accumulation_are_refused(name: str, tmp_path: Path, capsys: Any) -> None:
    base = ["fit", f"--model=zoo.{name}", "--data=datamodules.KarateClub", "--trainer.max_steps=2"]
    base += [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu"]
    cases = {
        "features is 33, but the data (datamodules.KarateClub) has 34; set": "--model.init_args.features=33",
        "model.init_args.num_classes is 7": "--model.init_args.num_classes=7",
        "accumulate_grad_batches: 1": "--trainer.accumulate_grad_batches=2",
    }
    for text, flag in cases.items():
        assert cli.main([*base, flag]) == 1
        (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("zoo: error")]
        assert text in line


@pytest.mark.parametrize(("cls", "small"), [(GAugO, SMALL_O), (GAugM, SMALL_M)])
def test_two_processes_are_refused(cls: Any, small: dict[str, Any]) -> None:
    """DDP is refused: the one graph is one batch, a second process would repeat the first one's work."""
    module = cls(**small)

    class TwoProcesses:
        world_size, accumulate_grad_batches, datamodule = 2, 1, None
        barebones = False

    module._trainer = TwoProcesses()
    message = r"one batch: 2 processes would do the same work; set trainer\.devices: 1"
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


def test_settings_that_make_no_sense_are_refused() -> None:
    of_o = {"alpha": 1.5, "temperature": 0, "sampler": "x", "epochs": 0, "backbone": "mlp"}
    of_m = {"remove": 120, "augmentation": "x", "eval_on": "x", "drop_rate": 1}
    for module, small, wrong in ((GAugO, SMALL_O, of_o), (GAugM, SMALL_M, of_m)):
        for name, value in wrong.items():
            with pytest.raises(ValueError, match=name):
                module(**{**small, name: value})


@pytest.mark.parametrize("config", ["gaug_o_digits", "gaug_m_digits"])
def test_the_command_line_trains_tests_and_predicts(config: str, tmp_path: Path) -> None:
    phases = {"pretrain_ep": 3, "pretrain_nc": 2} if config == "gaug_o_digits" else {"predictor_epochs": 5}
    short = words({"data.init_args.nodes": 300, "model.init_args.epochs": 4})
    short += words({f"model.init_args.{k}": v for k, v in phases.items()})
    found = summary("fit", config, tmp_path, *short, "--trainer.max_steps=9")
    assert found["steps"] == 9
    assert found["checkpoint"].endswith("best.ckpt")
    best = [*short, "--ckpt_path", found["checkpoint"]]
    tested = summary("test", config, tmp_path, *best)["final"]
    assert 0 < tested["test/micro_f1"] <= 1
    folder = next(run("predict", config, tmp_path, *best).rglob("scores.csv")).parent
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    test_rows = [r for r in rows if r["split"] == "test"]
    hits = sum(r["prediction"] == r["label"] for r in test_rows) / len(test_rows)
    assert hits == pytest.approx(tested["test/micro_f1"], abs=1e-6)
    probabilities = [sum(float(v) for k, v in r.items() if k.isdigit()) for r in rows]
    assert probabilities == pytest.approx([1.0] * 300, abs=1e-4)
    assert (folder / "graph.png").stat().st_size > 20_000
    with (folder / "edges.csv").open() as file:
        changes = [r["change"] for r in csv.DictReader(file)]
    if config == "gaug_m_digits":
        data = DigitsGraph(nodes=300)
        data.setup("fit")
        m = data.graph.edge_index.shape[1] // 2
        assert (changes.count("removed"), changes.count("added")) == (int(m * 0.4), int(m * 0.2))


def test_half_precision_keeps_the_sampler_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled: list[torch.dtype] = []
    normalised: list[torch.dtype] = []

    def sample(probabilities: Tensor, uniform: Tensor, temperature: float) -> Tensor:
        sampled.extend((probabilities.dtype, uniform.dtype))
        return relaxed_bernoulli(probabilities, uniform, temperature)

    def normalise(adjacency: Any) -> Any:
        out = symmetrically_normalised(adjacency)
        normalised.extend(a.weight.dtype if isinstance(a, EdgeList) else a.dtype for a in (adjacency, out))
        return out

    monkeypatch.setattr("zoo.gaug.edges.relaxed_bernoulli", sample)
    monkeypatch.setattr("zoo.gaug.network.symmetrically_normalised", normalise)
    # alpha 1: the given edges, in float32, would hide a product Z Z^T in half precision
    recorder = train(GAugO(**{**SMALL_O, "alpha": 1.0}), precision="bf16-mixed")
    assert sampled == [torch.float32] * 2 * 5  # the joint steps
    assert normalised
    assert set(normalised) == {torch.float32}
    assert all(np.isfinite(row["train/loss"]) for row in recorder.logged)
    assert recorder.moved(9, "predictor")
