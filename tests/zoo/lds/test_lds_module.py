"""The outer loop of LDS: what is re-initialised, stopped, kept, logged, refused and restored."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from processes import environment
from quiet import quiet_trainer
from torch_geometric.data import Data

import cli
import zoo
from datamodules import BlockModel, KarateClub, KNNGraph
from zoo.lds import LDS, module

KARATE = {"num_nodes": 34, "num_features": 34, "num_classes": 4}


def trained(steps: int, data: Any = None, precision: Any = "32-true", **settings: Any) -> LDS:
    """A module after so many outer updates on the damaged karate club (or other data)."""
    model = LDS(**{**KARATE, **settings})
    often = {"val_check_interval": 3, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    quiet_trainer(max_steps=steps, precision=precision, **often).fit(
        model, data or KarateClub(edges_retained=0.5, early_stopping=True)
    )
    return model


def theta_matrix(model: LDS) -> torch.Tensor:
    nodes = model.hparams["num_nodes"]
    matrix = torch.zeros(nodes, nodes)
    row, column = model._pairs()
    matrix[row, column] = model.theta.detach()
    return matrix


@pytest.mark.parametrize("candidates", [None, 200])
def test_an_edge_of_probability_zero_appears_after_one_outer_step(candidates: int | None) -> None:
    model = trained(1, num_candidates=candidates)
    initial = theta_matrix(trained(1, num_candidates=candidates, learn_graph=False))
    assert set(initial.unique().tolist()) == {0.0, 1.0}
    learned = theta_matrix(model)
    assert int(((initial == 0) & (learned > 0)).sum()) > 5
    assert int(((initial == 1) & (learned < 1)).sum()) > 0


def test_theta_stays_feasible() -> None:
    matrix = theta_matrix(trained(12, optimizer=lambda p: torch.optim.SGD(p, lr=50.0)))
    assert 0 <= float(matrix.min()) <= float(matrix.max()) <= 1
    assert float(matrix.tril().abs().sum()) == 0
    assert float((matrix == 0).float().mean()) > 0.5  # a step of 50 would leave the box everywhere


def test_eta_decays_per_outer_update() -> None:
    rates: list[float] = []
    original = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    with mock.patch.object(torch.optim.SGD, "step", step):
        trained(5)
    assert rates == pytest.approx([1, 0.999001, 0.998004, 0.997009, 0.996016], abs=1e-6)


def test_the_outer_step_is_theta_minus_eta_g() -> None:
    found: list[torch.Tensor] = []
    original = module.hypergradient

    def spy(*args: Any) -> Any:
        found.append(original(*args).leaf)
        return original(*args)

    with mock.patch.object(module, "hypergradient", spy):
        model = trained(1)
    initial = theta_matrix(trained(1, learn_graph=False))
    expected = (initial - (found[0] + found[0].T)).clamp(0, 1).triu(1)
    assert torch.allclose(theta_matrix(model), expected, atol=1e-6)
    with mock.patch.object(module, "hypergradient", spy):
        parity = trained(1, symmetric_grad=False)
    assert torch.allclose(theta_matrix(parity), (initial - found[-1]).clamp(0, 1).triu(1), atol=1e-6)


def test_weights_and_moments_start_anew_with_each_pass_and_only_then() -> None:
    model, restarts, numbers = LDS, [], []
    original, original_step = LDS._restart, module.Problem.step

    def restart(self: LDS) -> None:
        original(self)
        restarts.append(self.inner_state.clone())

    def step(self: Any, state: Any, number: int, *args: Any) -> Any:
        if len(args) == 2:  # forward, not the reverse pass
            numbers.append(number)
        return original_step(self, state, number, *args)

    with mock.patch.object(model, "_restart", restart), mock.patch.object(module.Problem, "step", step):
        trained(10, max_inner_steps=20, tau=5, inner_patience=1000)
    # 10 updates of 5 steps in passes of 20: the first start, then after updates 4 and 8
    assert (len(restarts), numbers) == (3, [*range(1, 21), *range(1, 21), *range(1, 11)])
    assert all(float(s[1:].abs().sum()) == 0 for s in restarts)
    assert not torch.equal(restarts[0][0], restarts[1][0])


def test_warm_start_keeps_the_weights() -> None:
    with mock.patch.object(LDS, "_restart", autospec=True, side_effect=LDS._restart) as restart:
        model = trained(10, max_inner_steps=20, inner_patience=1000, warm_start=True)
    assert (restart.call_count, model.progress.inner_step) == (1, 50)


def test_a_pass_that_ceases_to_fall_ends_inside_a_chunk_with_its_outer_update() -> None:
    # a rate of nothing never falls: the first loss is the best, then 7 in a row are not lower
    settings = {"learn_inner_lr": False, "inner_lr": 0.0, "dropout": 0.0, "learn_graph": False}
    counts: list[int] = []
    original = LDS._outer_update

    def update(self: LDS, problem: Any, states: list[Any], *args: Any) -> Any:
        counts.append(len(states))
        return original(self, problem, states, *args)

    with mock.patch.object(LDS, "_outer_update", update):
        model = trained(4, inner_patience=7, **settings)
    assert (counts, model.progress.outer_epoch) == ([5, 2, 5, 2], 2)


def test_early_stopping_counts_outer_epochs() -> None:
    settings = {"learn_inner_lr": False, "inner_lr": 0.0, "dropout": 0.0, "max_inner_steps": 5}
    with mock.patch.object(LDS, "_restart", lambda self: self.inner_state.zero_()):  # never better
        model = trained(50, es_patience=6, inner_patience=3, learn_graph=False, **settings)
    assert model.trainer.global_step == 6
    assert (model.progress.outer_epoch, model.progress.stale, model.progress.kept_epoch) == (6, 6, 0)


def test_max_outer_epochs_ends_the_training() -> None:
    assert trained(50, max_outer_epochs=3, max_inner_steps=10).progress.outer_epoch == 3


@pytest.mark.parametrize(("tiebreak", "kept"), [("strict", 0), ("loss", 2)])
def test_ties_go_to_the_first_or_to_the_least_loss(tiebreak: str, kept: int) -> None:
    model, data = LDS(**KARATE, es_tiebreak=tiebreak), KarateClub(early_stopping=True)
    data.setup("fit")
    model._start(data.graph)
    right = torch.nn.functional.one_hot(data.graph.y, 4).float()
    with mock.patch.object(LDS, "_scores") as scores:
        for epoch, scale in enumerate((1.0, 0.5, 3.0, 2.0)):  # all right, least loss at epoch 2
            model.progress.outer_epoch = epoch
            model.theta.data.fill_(epoch / 10)
            scores.return_value = scale * right
            model._stop_early(data.graph)
    assert (model.progress.kept_epoch, model.progress.stale) == (kept, 3)
    assert float(model.kept_theta[0]) == pytest.approx(kept / 10)


def test_test_and_validation_use_the_kept_model_and_prediction_needs_no_grad() -> None:
    model = trained(8)
    data = KarateClub(edges_retained=0.5, early_stopping=True)
    data.setup("fit")
    with torch.no_grad():
        model.inner_state.zero_()
        model.theta.zero_()
    with torch.inference_mode():
        scores = model.scores(data.graph)
    assert scores.shape == (34, 4)
    assert float(scores.abs().max()) > 0.1


def test_labels_of_test_nodes_change_nothing_but_the_test() -> None:
    class Liar(KarateClub):
        def read(self) -> Any:
            graph = super().read()
            graph.y = torch.where(graph.test_mask, (graph.y + 1) % 4, graph.y)
            return graph

    a = trained(6)
    b = trained(6, Liar(edges_retained=0.5, early_stopping=True))
    assert torch.equal(a.theta, b.theta)
    assert torch.equal(a.kept_theta, b.kept_theta)
    assert torch.equal(a.network.weights, b.network.weights)


def test_the_far_ho_convention_goes_back_one_step_less_after_the_first_chunk() -> None:
    lengths: list[int] = []
    original = module.hypergradient

    def spy(*args: Any) -> Any:
        lengths.append(args[-1])
        return original(*args)

    with mock.patch.object(module, "hypergradient", spy):
        trained(6, truncation="farho", max_inner_steps=15, inner_patience=1000)
        trained(2, truncation="tau")
    assert lengths == [5, 4, 4, 5, 4, 4, 5, 5]


def test_the_far_ho_convention_never_stores_the_start_of_a_later_chunk() -> None:
    # a rate of nothing on a fixed graph: patience ends the second chunk after two steps
    settings = {"freeze_graph": True, "learn_inner_lr": False, "inner_lr": 0.0, "dropout": 0.0}
    with mock.patch.object(module, "hypergradient", wraps=module.hypergradient) as spy:
        trained(2, truncation="farho", inner_patience=7, **settings)
    assert [(len(c.args[1]), c.args[-1]) for c in spy.call_args_list] == [(5, 5), (2, 1)]


def test_the_reverse_pass_meets_the_forward_draws_unless_asked_otherwise() -> None:
    for resample in (False, True):
        asked: list[tuple[int, ...]] = []
        original = LDS._draw

        def spy(self: LDS, problem: Any, index: int, *purpose: int, asked=asked, original=original) -> Any:
            asked.append((index, *purpose))
            return original(self, problem, index, *purpose)

        with mock.patch.object(LDS, "_draw", spy):
            trained(1, tau=2, resample_backward=resample)
        last = (1,) if resample else ()
        assert asked == [(0,), (1,), (1, *last), (0, *last)]


def test_without_sampling_theta_is_the_weight_of_the_edges() -> None:
    model = trained(3, sample=False)
    interior = model.theta[(model.theta > 0) & (model.theta < 1)]
    assert len(interior) > 5
    data = KarateClub(edges_retained=0.5, early_stopping=True)
    data.setup("fit")
    problem = model._problem(data.graph)
    leaf = model._graph(problem, model.theta.detach(), 0).matrix.to_dense()
    assert torch.equal(leaf.triu(1), theta_matrix(model))


def test_samples_are_equal_at_the_ends_and_differ_inside() -> None:
    model, data = LDS(**KARATE), KarateClub(early_stopping=True)
    data.setup("fit")
    model._start(data.graph)
    problem = model._problem(data.graph)
    draw = [model._graph(problem, model.theta.detach(), i).matrix.to_dense() for i in range(16)]
    assert all(torch.equal(leaf, draw[0]) for leaf in draw)
    half = torch.full_like(model.theta.detach(), 0.5)
    draw = [model._graph(problem, half, i).matrix.to_dense() for i in range(16)]
    assert not any(torch.equal(draw[0], leaf) for leaf in draw[1:])
    assert torch.stack(draw).sum(dim=(1, 2)).div(2 * 561).mean().item() == pytest.approx(0.5, abs=0.02)


def test_candidates_over_all_pairs_learn_what_dense_learns() -> None:
    dense, sparse = trained(6), trained(6, num_candidates=561)
    assert torch.allclose(dense.theta, sparse.theta, atol=1e-5)
    assert torch.allclose(dense.inner_lr_logit, sparse.inner_lr_logit, atol=1e-5)


def test_est_p_edge_is_added_to_every_initial_probability() -> None:
    data = KarateClub(edges_retained=0.5, early_stopping=True)
    data.setup("fit")
    model = LDS(**KARATE, est_p_edge=0.1)
    model._start(data.graph)
    assert model.theta.unique().tolist() == pytest.approx([0.1, 1.0])


def test_mean_symmetrised_graphs_give_their_weights_to_theta() -> None:
    data = KNNGraph("wine", knn_sym="mean")
    data.setup("fit")
    model = LDS()
    model._start(data.graph)
    assert model.theta.unique().tolist() == [0, 0.5, 1]


def test_the_learned_rate_moves_and_a_fixed_one_does_not() -> None:
    assert trained(4).inner_lr_logit.item() != pytest.approx(-0.417089, abs=1e-4)
    assert trained(4, learn_inner_lr=False).inner_lr_logit.item() == pytest.approx(-0.417089, abs=1e-6)


def test_a_frozen_graph_still_learns_the_inner_rate() -> None:
    model = trained(4, freeze_graph=True, edge_penalty=0.01)
    given = trained(4, learn_graph=False)
    assert torch.equal(model.theta, given.theta)
    assert abs(model.inner_lr_logit.item() + 0.417089) > 1e-4
    assert given.inner_lr_logit.item() == pytest.approx(-0.417089, abs=1e-6)
    # until theta first moves the two searches are one
    assert torch.equal(trained(1, freeze_graph=True).inner_lr_logit, trained(1).inner_lr_logit)


def test_an_edge_penalty_costs_edges() -> None:
    assert float(trained(5, edge_penalty=0.01).theta.sum()) < float(trained(5).theta.sum())


def test_autocast_does_not_touch_the_hypergradient() -> None:
    a, b = trained(3), trained(3, precision="bf16-mixed")
    assert torch.equal(a.theta, b.theta)


def test_statistics_tell_edges_from_new_ones_and_what_candidates_can_reach() -> None:
    data = BlockModel(nodes=200, edges_retained=0.5, early_stopping=True, val_nodes=60, test_nodes=60)
    data.setup("fit")
    graph = data.graph
    given = graph.edge_index.shape[1] // 2
    model = LDS(num_nodes=200, num_features=16, num_classes=4, num_candidates=2000)
    model._start(graph)
    found = {k: float(v) for k, v in model.graph_statistics(graph).items()}
    assert (found["expected_edges"], found["original_edges"], found["new_edges"]) == (given, given, 0)
    assert found["interior_share"] == 0
    same = (graph.y[graph.edge_index[0]] == graph.y[graph.edge_index[1]]).float().mean()
    assert found["intra_class_share"] == pytest.approx(float(same))
    codes = {(i, j) for i, j in model.candidates.T.tolist()}
    missing = {(i, j) for i, j in graph.true_edge_index.T.tolist() if i < j}
    missing -= {(i, j) for i, j in graph.edge_index.T.tolist()}
    assert found["missing_edges_reachable"] == pytest.approx(len(missing & codes) / len(missing))


def test_new_edges_have_class_shares_of_their_own() -> None:
    mask = torch.eye(4, dtype=torch.bool)
    masks = dict(zip(("train_mask", "val_mask", "es_mask", "test_mask"), mask, strict=True))
    y, edges = torch.tensor([0, 0, 1, 1]), torch.tensor([[0, 1], [1, 0]])
    graph = Data(x=torch.eye(4), y=y, edge_index=edges, **masks)
    model = LDS(num_nodes=4, num_features=4, num_classes=2)
    # pairs 01 (given), 02, 03, 12, 13, 23
    model.kept_theta.copy_(torch.tensor([0.9, 0.2, 0.3, 0.5, 0.0, 0.4]))
    found = {k: float(v) for k, v in model.graph_statistics(graph).items()}
    assert (found["new_edges"], found["intra_class_share"]) == (pytest.approx(1.4), pytest.approx(1.3 / 2.3))
    assert found["new_intra_class_share"] == pytest.approx(0.4 / 1.4)
    assert found["new_unlabelled_intra_class_share"] == pytest.approx(0.4 / 0.7)
    model.kept_theta[1:] = 0
    assert float(model.graph_statistics(graph)["new_intra_class_share"]) == 0


@pytest.mark.parametrize(("settings", "text"), [
    ({"max_inner_steps": 3}, "max_inner_steps must be at least tau = 5"),
    ({"truncation": "all"}, "truncation must be tau or farho, got 'all'"),
    ({"inner_lr": 0.1}, "inner_lr must lie in"),
    ({"freeze_graph": True, "learn_graph": False}, "exclude each other"),
])  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LDS(**settings)


def test_data_of_other_sizes_are_refused_naming_both_numbers_and_keys(capsys: Any, tmp_path: Path) -> None:
    flags = [f"--trainer.default_root_dir={tmp_path}", "--trainer.max_steps=1"]
    assert cli.main(["fit", "--config=lds_wine", "--data.init_args.name=cancer", *flags]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    for words in ("model.init_args.num_nodes is 178", "has 569", "data.class_path"):
        assert words in error
    assert cli.main(["fit", "--config=lds_karate", "--data.init_args.early_stopping=false", *flags]) == 1
    assert "data.init_args.early_stopping: true" in capsys.readouterr().err


def test_half_precision_weights_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = [f"--trainer.default_root_dir={tmp_path}", "--trainer.precision=bf16-true"]
    assert cli.main(["fit", "--config=lds_karate", *flags]) == 1
    assert "needs float32" in capsys.readouterr().err


def test_a_loss_scaler_is_refused() -> None:
    model = LDS(**KARATE)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    model._trainer = mock.Mock(world_size=1, precision=plugin.precision)
    with pytest.raises(ValueError, match=r"trainer\.precision is 16-mixed, .* needs float32; use 32-true"):
        model.setup("fit")


def test_more_than_one_device_is_refused() -> None:
    model = LDS(**KARATE)
    model._trainer = mock.Mock(world_size=2)
    with pytest.raises(ValueError, match=r"set trainer\.devices: 1 and .*; run seeds side by side"):
        model.setup("fit")


@pytest.mark.slow
def test_two_devices_are_refused_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(Path(cli.__file__).resolve()), "fit", "--config=lds_karate"]
    flags = ["--trainer.accelerator=cpu", "--trainer.devices=2", f"--trainer.default_root_dir={tmp_path}"]
    done = subprocess.run(
        [*command, *flags], env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("zoo: error")]
    assert len(lines) == 1
    assert "set trainer.devices: 1 and trainer.num_nodes: 1; run seeds side by side" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_saved_model_comes_back_whole(tmp_path: Path) -> None:
    model = trained(5, num_candidates=300)
    again = zoo.load(zoo.save(model, tmp_path / "lds.safetensors"))
    data = KarateClub(edges_retained=0.5, early_stopping=True)
    data.setup("fit")
    assert isinstance(again, LDS)
    assert torch.equal(again.scores(data.graph), model.eval().scores(data.graph))


def test_a_learned_graph_is_saved_without_pickles(tmp_path: Path) -> None:
    model = trained(5)
    with np.load(model.save_graph(tmp_path / "graph.npz"), allow_pickle=False) as content:
        assert (int(content["num_nodes"]), content["node_ids"].tolist()) == (34, list(range(34)))
        matrix = torch.zeros(34, 34)
        row, column = (content[k].astype(int) for k in ("row", "col"))
        matrix[row, column] = torch.from_numpy(content["probability"])
    expected = torch.zeros(34, 34)
    expected[tuple(model._pairs())] = model.kept_theta
    assert torch.equal(matrix, expected)


def test_predict_writes_scores_graph_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false"]
    assert cli.main(["fit", "--config=lds_karate", "--trainer.max_steps=5", *flags]) == 0
    assert cli.main(["predict", "--config=lds_karate", "--ckpt_path=last", *flags]) == 0
    output = capsys.readouterr().out
    (scores,) = tmp_path.rglob("scores.csv")
    for name in ("scores.csv", "graph.npz", "adjacency.png", "edge_probabilities.png"):
        assert (scores.parent / name).stat().st_size > 300
        assert f"predictions/{name}" in output
    lines = scores.read_text().splitlines()
    assert (lines[0], len(lines)) == ("name,split,label,prediction,score,0,1,2,3", 35)
    cells = lines[1].split(",")
    assert (cells[:2], sum(map(float, cells[5:]))) == (["0", "train"], pytest.approx(1, abs=1e-5))


def test_digits_are_raw_unless_standardized_and_constant_pixels_become_zero() -> None:
    raw, standard = KNNGraph("digits").read(), KNNGraph("digits", standardize=True).read()
    assert (raw.x.min(), raw.x.max()) == (0, 16)
    spread = raw.x.std(dim=0, correction=0)
    constant = spread == 0
    assert constant.sum() == 3  # three corners are never inked
    assert torch.equal(standard.x[:, constant], torch.zeros(1797, 3))
    expected = ((raw.x - raw.x.mean(dim=0)) / spread)[:, ~constant]
    torch.testing.assert_close(standard.x[:, ~constant], expected, atol=1e-4, rtol=1e-4)
    assert not torch.equal(standard.edge_index, raw.edge_index)  # neighbours are looked for afterwards
    torch.testing.assert_close(KNNGraph("wine").read().x.mean(dim=0), torch.zeros(13), atol=1e-5, rtol=0)
    assert KNNGraph("wine", standardize=False).read().x.max() == 1680  # proline
